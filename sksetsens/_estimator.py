"""The scikit-learn face: a skorch net trained into a set of solutions."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.metrics import accuracy_score, check_scoring, r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet, NeuralNetBinaryClassifier
from torch.nn import Module

from ._compat import Interval, StrOptions, get_tags, validate_parameter_constraints
from ._layout import InputLayout
from ._progress import bars
from ._training_data import TrainingData, check_training_data, check_weights
from ._validation import check_count, prediction_scorer, warn_of_fitted_net
from .moduli import KeptModuli
from .objective import flattened, memory_explained, output_shape, takes_codes
from .perturbation import (
    PARAMETER_CONSTRAINTS,
    check_inputs,
    check_perturbation,
    perturb_data,
)
from .sensitivity import GraphicalDerivative, Linearisation, predict_set, warn_of
from .sensitivity.systems import Solver
from .sets import PredictedSolutionSet, SolutionSet
from .studies import StabilityReport, stability_report
from .training import (
    Restart,
    RestartTask,
    check_fitted_nets,
    continue_solutions,
    draw_seeds,
    keep_successful,
    linearise_restarts,
    perturbation_seed,
    prepare,
    prepare_fitted,
    rebuilt_net,
    report,
    rows_of_split,
    run_restarts,
    seed_sequence,
    warn_of_mismatches,
)

__all__ = ["SolutionSetEstimator"]

Array = NDArray[np.float64]


def _wraps(check: Callable[[Any], bool]) -> Any:
    """Available where the wrapped net passes a check."""
    return available_if(lambda self: check(self.estimator))


class SolutionSetEstimator(MetaEstimatorMixin, BaseEstimator):
    r"""A neural network's set of solutions, and how it moves when the data moves.

    ``fit`` trains the net from several random starts and brings each to a stationary
    point of its full-batch objective. `sensitivity` then predicts, without
    retraining, where the whole set lies for perturbed training data, by the
    graphical derivative ``{v : H v + B dx = 0}``: the affine set ``v0 + ker H``, or
    empty. `lipschitz_modulus_` bounds the movement for any small perturbation.

    Whether this is a classifier or a regressor follows from the wrapped net.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Unfitted net with a module class; see `from_fitted` for trained ones. A
        ``train_split`` that always holds out the same rows is kept, and the others make
        the objective; a default one whose score no callback reads is overridden by None
        (all rows do). Its ``compile`` is overridden by False (there are no derivatives
        of compiled modules), its ``verbose`` by 0 unless ``verbose`` is 2 or more.
        Dropout and the like are trained with, and off in the objective; decoupled
        weight decay (AdamW) is its quadratic penalty. Module arguments ``n_features``
        and ``n_outputs`` that are left open are learnt from the data. The weights are
        the parameters that are trainable when its training ends; those that the module
        or a callback has frozen by then (skorch's ``Freezer``) stay as they are.

    n_restarts : int, default=8
        Number of independently seeded trainings.

    polish : bool, default=True
        Whether to follow skorch's training by full-batch second-order steps until the
        weights are stationary. If False, weights stay as trained, and `sensitivity`
        and `retrain` refer to the objective tilted by the gradient that was left.

    tol : float, default=1e-10
        Stationarity asked for: ``|R| <= tol * |H|_2 * (1 + |w|)`` with the gradient R
        and Hessian H of the objective. Independent of the loss's scale, of the batch
        size and of duplicated rows.

    curvature : {"hessian", "ggn"}, default="hessian"
        Exact Hessian, or the Gauss-Newton matrix (positive semi-definite).

    solver : {"auto", "eigh", "dual", "minres", "lsmr"}, default="auto"
        "eigh" decomposes the dense Hessian (p x p), "dual" the outputs' Jacobian
        (n*c x p), which is what matters at interpolation. "minres" and "lsmr" are
        their matrix-free forms for nets of any size: iterations by products with H, or
        with the Jacobian. "auto" chooses per solution, matrix-free above 6000 weights,
        or 10,000 where a Cholesky factor of H shows it to be definite.

    rcond : float, default=None
        Eigenvalues of H up to ``rcond * |H|_2`` in absolute value count as zero, which
        defines ker H. None for rounding level plus a hundred times the
        relative stationarity reached. The matrix-free solvers tell no eigenvalue
        below 1e-10 from zero.

    solver_tol : float, default=1e-8
        Relative residual ``|H v + B dx| / |B dx|`` at which iterative solves end.

    solver_max_iter : int, default=1000
        Products per iterative solve. One that ends before its tolerance is marked in
        ``status``, with a warning.

    working_memory : float, default=None
        MiB for activations, blocks of tangents, recorded graphs and Krylov bases; None
        for scikit-learn's setting of that name, 1024. Rows pass through the module in
        batches that fit; results depend on it by rounding only.

    perturbation : {"gradient", "random", "worst_case"} or callable, default="gradient"
        Directions used by `perturb`: along the gradient of the loss in each row,
        uniform on the sphere, the direction that attains the modulus, or
        ``f(estimator, X, y, rng) -> array`` of the shape of X.

    perturbation_size : float, default=0.1
        Euclidean length delta by which each perturbed row moves ("worst_case": root
        mean square over the rows, so that ``|dx| = delta * sqrt(|K|)`` always).

    perturbed_fraction : float or int, default=1.0
        Share (float in (0, 1]) or number (int) of rows that move, drawn at random.

    restart_backend : {"auto", "joblib", "vectorized"}, default="auto"
        "joblib": one skorch fit per restart through joblib's current backend.
        "vectorized": one stack in this process, many times faster for small nets
        and equal up to rounding; nets that do not allow it (with callbacks, say)
        train through joblib, with the reason in `restart_report_`. "auto" is "joblib",
        whose bits do not depend on the number of restarts.

    memory : str, path or joblib.Memory, default=None
        Folder that keeps each restart as soon as it is done: a search over parameters
        that do not affect training (``perturbation*``, ``solver``, ``rcond``) trains
        once per fold, and a killed fit goes on where it stopped. Restarts are told
        apart by net and its code, data, seed, ``polish``, ``tol`` and versions.

    n_jobs : int, default=None
        Restarts trained at once; results do not depend on it.

    random_state : int, RandomState instance or None, default=None
        Seeds restarts and perturbations. Global states are neither used nor changed.

    verbose : int, default=0
        A bar for the restarts on standard error; from 2 on, skorch's output too.

    Attributes
    ----------
    solution_set_ : SolutionSet
        One solution per successful restart.

    graphical_derivatives_ : list of GraphicalDerivative
        H, B and their factorisation at each solution.

    estimators_ : list of skorch.NeuralNet
        Fitted nets in their own dtype, in the order of the solution set.

    lipschitz_modulus_ : float
        Largest of `lipschitz_moduli_`.

    lipschitz_moduli_ : ndarray of shape (n_solutions,)
        ``|H^+ B|_2`` at each solution: Euclidean movement of the weights per Frobenius
        norm of the perturbation of X. inf where it cannot be certified.

    sample_lipschitz_moduli_ : ndarray of shape (n_solutions, n_samples)
    feature_lipschitz_moduli_ : ndarray of shape (n_solutions, n_features)
        The same for perturbations of one row, or of one feature in all rows.

    layer_lipschitz_moduli_ : ndarray of shape (n_solutions, n_layers)
        The same where one tensor of `layer_names_` alone may move.

    layer_names_ : list of str

    restart_report_ : dict of str to ndarray
        One entry per restart, failed ones included: seed, status, loss, gradient norm
        before and after polishing (tilted where ``polish=False``, beside the untilted
        one), iterations, method, backend, whether it was cached, number of tries
        (several where worker processes died), duration in seconds.

    X_train_ : ndarray of shape (n_samples, ...), float64, or dict of arrays
    y_train_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)

    sample_weight_ : ndarray of shape (n_samples,)
        Weights of the rows; ones where none were given, 0 for those held out.

    train_rows_ : ndarray of int
        Positions of the rows that are trained on: all, or those that the net's own
        ``train_split`` leaves.

    classes_ : ndarray of shape (n_classes,)
        Classifiers only; in the order of the net's ``classes`` where they are given.

    n_features_in_ : int

    feature_names_in_ : ndarray of shape (n_features,)

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057.

    Examples
    --------
    The network ``f = w1 w2 x`` on two points has the hyperbola ``w1 w2 = 2`` as its
    solution set, wherever the restarts land:

    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator
    >>> from sksetsens.datasets import make_toy_network
    >>> toy = make_toy_network()
    >>> net = NeuralNetRegressor(toy.module, train_split=None, lr=0.01, max_epochs=5)
    >>> model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    >>> w = model.fit(toy.X, toy.y).solution_set_.weights
    >>> (w[:, 0] * w[:, 1]).round(6)
    array([2., 2.])
    >>> model.solution_set_.kernel_dims
    array([1, 1])
    >>> model.sensitivity(toy.X_perturbed).is_empty
    array([False, False])
    """

    _required_parameters = ["estimator"]

    solution_set_: SolutionSet
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    _nets: list[NeuralNet]

    _parameter_constraints = {
        "estimator": [NeuralNet],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
        "polish": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "curvature": [StrOptions({"hessian", "ggn"})],
        "solver": [StrOptions({"auto", "eigh", "dual", "minres", "lsmr"})],
        "rcond": [Interval(Real, 0, 1, closed="left"), None],
        "solver_tol": [Interval(Real, 0, 1, closed="neither")],
        "solver_max_iter": [Interval(Integral, 1, None, closed="left")],
        "working_memory": [Interval(Real, 0, None, closed="neither"), None],
        **PARAMETER_CONSTRAINTS,
        "restart_backend": [StrOptions({"auto", "joblib", "vectorized"})],
        "memory": [str, os.PathLike, Memory, None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator: NeuralNet,
        *,
        n_restarts: int = 8,
        polish: bool = True,
        tol: float = 1e-10,
        curvature: str = "hessian",
        solver: str = "auto",
        rcond: float | None = None,
        solver_tol: float = 1e-8,
        solver_max_iter: int = 1000,
        working_memory: float | None = None,
        perturbation: str | Callable[..., Any] = "gradient",
        perturbation_size: float = 0.1,
        perturbed_fraction: float | int = 1.0,
        restart_backend: str = "auto",
        memory: str | os.PathLike[str] | Memory | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.n_restarts = n_restarts
        self.polish = polish
        self.tol = tol
        self.curvature = curvature
        self.solver = solver
        self.rcond = rcond
        self.solver_tol = solver_tol
        self.solver_max_iter = solver_max_iter
        self.working_memory = working_memory
        self.perturbation = perturbation
        self.perturbation_size = perturbation_size
        self.perturbed_fraction = perturbed_fraction
        self.restart_backend = restart_backend
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # Training -------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train the set of solutions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or dict of these
            Real-valued, finite; more than two dimensions for images and the like. A
            dict holds the arguments of the module's forward. Integer arrays of a dict,
            and of a net that takes no others, are codes (tokens, categories): inputs
            without a derivative. A torch Dataset of pairs stands for X and y, which
            then is None.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels of any type for classifiers, real numbers otherwise.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights s of the rows: the data term is ``sum_i s_i l_i / sum_i s_i``, class
            weights multiplied in. 0 is a row that is not there, 2 one that is there
            twice. A criterion that adds rows up is weighted without the division.

        Returns
        -------
        self : SolutionSetEstimator

        Raises
        ------
        UnsupportedObjectiveError
            If the net's objective is random in eval mode, depends on the batch size (a
            summed criterion with weight decay, trained in batches), is not twice
            differentiable, wraps a module instance, or does not weigh rows by
            ``sample_weight`` or a split.
        AllRestartsFailedError
            If no restart ends with finite weights.

        Warns
        -----
        FittedNetWarning
            If the net is fitted already: its weights are not used.
        ObjectiveMismatchWarning
            If what is trained is not the objective: dropout, decoupled weight decay.
        StationarityWarning
            If solutions do not become stationary.
        IllPosedWarning
            If first-order sensitivity cannot be trusted at some solutions.
        FitFailedWarning
            If some restarts failed; the others are kept.
        """
        self._check_parameters()
        # What fails on the way leaves the model as it was: names and numbers of
        # features are learnt by a copy, and all is stored at the end.
        learner = copy.copy(self)
        data = check_training_data(learner, self.estimator, X, y)
        weights = check_weights("fit", "sample_weight", sample_weight, data.targets)
        warn_of_fitted_net(self.estimator)
        with memory_explained("fit"), bars(self.verbose):
            self._check_perturbed_fraction(len(data.X))
            root = seed_sequence(self.random_state)
            seeds = draw_seeds(root, self.n_restarts)
            objective, task = prepare(
                self.estimator,
                data,
                seeds[0],
                polish=bool(self.polish),
                tol=self.tol,
                quiet=self.verbose < 2,
                working_memory=self.working_memory,
                solver=self._solver(),
                sample_weight=weights,
            )
            warn_of_mismatches(task)
            restarts = self._run_restarts(task, seeds)
            kept = keep_successful(restarts)
            linearisation = linearise_restarts(task, objective, kept, self._solver())
            warn_of(linearisation.diagnoses)
        return self._become(
            learner, data, task, restarts, linearisation, seeds, perturbation_seed(root)
        )

    @classmethod
    def from_fitted(
        cls,
        nets: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        polish: bool = False,
        **params: Any,
    ) -> Self:
        """The set of nets that are trained already: an estimator without a training.

        Parameters
        ----------
        nets : skorch.NeuralNet, Pipeline that ends in one, or list of these
            Fitted, or initialised and loaded: one net, an ensemble, checkpoints of one
            training. Of one architecture and objective. They are read, never changed.

        X : array-like of shape (n_samples, ...)
            What they were trained on. It passes through the transformers of pipelines,
            and what is returned refers to transformed data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets as in training: class numbers for classifiers, or labels among the
            net's ``classes``.

        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`.

        polish : bool, default=False
            If False, weights are those of the nets to the last bit, and all answers
            refer to the objective tilted by the gradient that their training left. If
            True, full-batch second-order steps continue from them.

        **params
            Further parameters of the estimator, such as ``solver`` and ``tol``.

        Returns
        -------
        estimator : SolutionSetEstimator
            Fitted; ``fit`` would train anew.

        Raises
        ------
        ValueError
            If a net is not fitted, or they differ in architecture or objective, or
            labels are none of their classes.
        UnsupportedObjectiveError
            As in `fit`; if X has another width than in training.

        Warns
        -----
        ObjectiveMismatchWarning, StationarityWarning, IllPosedWarning
            As in `fit`.

        Examples
        --------
        The mean of three numbers, by a net that somebody else has trained:

        >>> import numpy as np
        >>> from skorch import NeuralNetRegressor
        >>> from torch import nn
        >>> from sksetsens import SolutionSetEstimator
        >>> net = NeuralNetRegressor(
        ...     nn.Linear, module__in_features=1, module__out_features=1,
        ...     module__bias=False, train_split=None, lr=0.1, max_epochs=100, verbose=0)
        >>> X, y = np.ones((3, 1), "f4"), np.array([[0.0], [3.0], [6.0]], "f4")
        >>> model = SolutionSetEstimator.from_fitted(net.fit(X, y), X, y[:, 0])
        >>> bool(model.solution_set_.weights[0, 0] == net.module_.weight.item())
        True
        >>> model.sensitivity(y_perturbed=[0.0, 3.0, 9.0]).shift.round(6)
        array([[1.]])
        """
        fitted, X = check_fitted_nets(nets, X)
        if "n_restarts" in params:
            raise ValueError(
                "The 'n_restarts' parameter of from_fitted must not be given: it is "
                f"the number of nets, {len(fitted)}. Got {params['n_restarts']!r}."
            )
        own = {"n_restarts": len(fitted), "polish": polish, **params}
        model = cls(clone(fitted[0]), **own)
        model._check_parameters()
        data = check_training_data(
            model, fitted[0], X, y, n_classes=_n_classes(fitted[0])
        )
        weights = check_weights(
            "from_fitted", "sample_weight", sample_weight, data.targets
        )
        with memory_explained("from_fitted"), bars(model.verbose):
            model._check_perturbed_fraction(len(data.X))
            root = seed_sequence(model.random_state)
            objective, task, restarts = prepare_fitted(
                fitted,
                data,
                polish=bool(polish),
                tol=model.tol,
                working_memory=model.working_memory,
                solver=model._solver(),
                sample_weight=weights,
            )
            warn_of_mismatches(task)
            linearisation = linearise_restarts(
                task, objective, restarts, model._solver()
            )
            warn_of(linearisation.diagnoses)
        seeds = draw_seeds(root, model.n_restarts)
        return model._become(
            model, data, task, restarts, linearisation, seeds, perturbation_seed(root)
        )

    def _become(
        self,
        learner: Self,
        data: TrainingData,
        task: RestartTask,
        restarts: list[Restart],
        linearisation: Linearisation,
        seeds: list[int],
        seed_of_perturbations: int,
    ) -> Self:
        """Take over all that a fit has made; what is None is not there."""
        n_samples = len(data.X)
        weights = task.row_weights
        fitted: dict[str, Any] = {
            "X_train_": task.X if task.layout is None else task.layout.unpack(task.X),
            "y_train_": data.y,
            "sample_weight_": np.ones(n_samples) if weights is None else weights,
            "train_rows_": rows_of_split(task.split, n_samples),
            "classes_": data.classes,
            "n_features_in_": learner.n_features_in_,
            "feature_names_in_": getattr(learner, "feature_names_in_", None),
            "restart_report_": report(restarts),
            "solution_set_": linearisation.solution_set,
            "_seeds": seeds,
            "_perturbation_seed": seed_of_perturbations,
            "_task": task,
            "_kept": [restart for restart in restarts if not restart.error],
            "_nets": [],
            "_linearisation": linearisation,
            "_moduli": KeptModuli(linearisation),
        }
        for name, value in fitted.items():
            if value is not None:
                setattr(self, name, value)
            elif hasattr(self, name):
                delattr(self, name)
        return self

    def _run_restarts(self, task: RestartTask, seeds: list[int]) -> list[Restart]:
        return run_restarts(
            task,
            seeds,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
            backend=self.restart_backend,
            memory=self.memory,
        )

    def _solver(self) -> Solver:
        """What the parameters say about linear systems, as one value."""
        options = (self.curvature, self.rcond, self.solver_tol, self.solver_max_iter)
        return Solver(self.solver, *options)

    def _check_parameters(self) -> None:
        _refuse_unwrapped(self.estimator)
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )

    def _check_perturbed_fraction(self, n_samples: int) -> None:
        fraction = self.perturbed_fraction
        too_many = isinstance(fraction, Integral) and fraction > n_samples
        if isinstance(fraction, bool) or too_many:
            raise ValueError(
                "The 'perturbed_fraction' parameter of SolutionSetEstimator must be at "
                f"most the number of rows, {n_samples}. Got {fraction!r} instead."
            )

    @property
    def inputs_(self) -> Array:
        """Training inputs as the objective sees them, several arrays side by side."""
        check_is_fitted(self)
        return self._task.X

    @property
    def targets_(self) -> NDArray[Any]:
        """Training targets as the criterion sees them, encoded, shaped as outputs."""
        check_is_fitted(self)
        return self._task.y

    @property
    def estimators_(self) -> list[NeuralNet]:
        """Fitted nets, built at first access and again after unpickling."""
        check_is_fitted(self)
        if not self._nets:
            self._nets = [rebuilt_net(self._task, restart) for restart in self._kept]
        return self._nets

    def __getstate__(self) -> dict[str, Any]:
        # skorch sends fitted nets by plain pickle, which other processes cannot read
        # if the module's class lives in __main__.
        state = super().__getstate__()
        return {**state, "_nets": []} if "_nets" in state else state

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """What a notebook shows: scikit-learn's diagram, and the set below it."""
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle and hasattr(self, "solution_set_"):
            bundle["text/html"] += self.solution_set_._repr_html_()
        return bundle

    # Predictions of the set -----------------------------------------------------------

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Prediction of the set: mean over the solutions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Classifiers: the class of the largest mean probability.
        """
        check_is_fitted(self)
        return self._decide(self.solution_set_, check_inputs(self, X))

    @_wraps(is_classifier)
    def predict_proba(self, X: ArrayLike) -> Array:
        """Mean class probabilities over the solutions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.solution_set_.predict(check_inputs(self, X)).mean(axis=0)

    @_wraps(lambda net: is_classifier(net) or is_regressor(net))
    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy (classifiers) or R2 (regressors) of the set's prediction.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        metric = accuracy_score if is_classifier(self.estimator) else r2_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def score_of(
        self,
        solutions: SolutionSet,
        X: ArrayLike,
        y: ArrayLike,
        *,
        scoring: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Score on (X, y) of another set of the same net, for example a predicted one.

        Parameters
        ----------
        solutions : SolutionSet

        X, y : array-like
            Held-out data.

        scoring : str or callable, default=None
            scikit-learn's scorer; None for the estimator's own ``score``.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            NaN where a solution of the set is empty.
        """
        check_is_fitted(self)
        scoring = prediction_scorer("score_of", scoring)
        if np.isnan(solutions.weights).any():
            return float("nan")
        # As if it had been fitted; the other fitted arrays are shared.
        twin = copy.copy(self)
        twin.solution_set_ = solutions
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(check_scoring(twin, scoring)(twin, X, y, **weights))

    def _decide(self, solutions: SolutionSet, X: Array) -> NDArray[Any]:
        mean = solutions.predict(X).mean(axis=0)
        if not is_classifier(self.estimator):
            return mean
        threshold = getattr(self.estimator, "threshold", None)
        if threshold is not None:
            return self.classes_[(mean[:, 1] > threshold).astype(int)]
        return self.classes_[mean.argmax(axis=1)]

    # Perturbed data -------------------------------------------------------------------

    def perturb(self, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Any:
        """Perturbed data by `perturbation`, `perturbation_size`, `perturbed_fraction`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), default=None
            Data to perturb; None for the training data.

        y : array-like of shape (n_samples,), default=None
            Its targets, needed for "gradient" and callables.

        Returns
        -------
        X_perturbed : ndarray of the shape of X, float64
            The same at every call: drawn from a seed fixed at fit. At the end of a
            pipeline these are transformed data, for this estimator's `sensitivity`.
        """
        check_is_fitted(self)
        self._check_parameters()
        found = perturb_data(self, X, y)
        layout = self._task.layout
        return found if layout is None else layout.unpack(found)

    def sensitivity(
        self,
        X_perturbed: ArrayLike | None = None,
        y_perturbed: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        n_corrections: int = 0,
    ) -> PredictedSolutionSet:
        """Predict the set of solutions on perturbed training data, not retraining.

        Parameters
        ----------
        X_perturbed : array-like of the shape of the training X, default=None
            Rows that differ from the training data are the perturbed ones. None where
            X stays.

        y_perturbed : array-like of the shape of the training y, default=None
            Perturbed targets of a regressor, other labels of a classifier: the way
            from one label to another moves the row's weight between the two.

        sample_weight : array-like of shape (n_samples,), default=None
            New weights of the training rows: 0 removes one, 2 counts it twice. A whole
            row is a large step: see `nonlinearity`, and `sample_influence` for rows one
            by one.

        n_corrections : int, default=0
            Newton (Gauss-Newton in the dual) steps on the residual of the perturbed
            problem after the first-order prediction. With at least one, the affine
            pieces are those at the corrected weights.

        Returns
        -------
        predicted : PredictedSolutionSet

        Raises
        ------
        ValueError
            If a shape differs, an entry is not finite, a label was never seen, weights
            are negative or all 0, or none of the three is given.

        Warns
        -----
        NonlinearityWarning
            If the perturbation is outside the range of the first order.
        IllPosedWarning
            If the predicted set is empty, or the rank of H changes.
        DataConversionWarning
            If the dtype of ``X_perturbed`` cannot hold the training data.
        """
        perturbation = check_perturbation(
            self, X_perturbed, y_perturbed, sample_weight, caller="sensitivity"
        )
        check_count("sensitivity", "n_corrections", n_corrections, low=0)
        with memory_explained("sensitivity"), bars(self.verbose):
            return predict_set(perturbation, n_corrections=n_corrections, warn=True)

    def stability_report(
        self,
        X_perturbed: ArrayLike | None = None,
        y_perturbed: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        tol: float = 0.1,
    ) -> StabilityReport:
        """How far each solution moves, at worst too, and whether that may be trusted.

        Parameters
        ----------
        X_perturbed, y_perturbed, sample_weight
            As in `sensitivity`.

        tol : float, default=0.1
            Error of the first order that ``holds_to`` refers to, in (0, 1].

        Returns
        -------
        report : StabilityReport
            Shown as a short table, in notebooks as HTML.
        """
        return stability_report(
            self, X_perturbed, y_perturbed, sample_weight=sample_weight, tol=tol
        )

    def retrain(
        self,
        X_perturbed: ArrayLike | None = None,
        y_perturbed: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        warm_start: bool = True,
        align: bool = False,
    ) -> SolutionSet:
        """Solutions on perturbed data by training: the truth to compare with.

        Parameters
        ----------
        X_perturbed, y_perturbed, sample_weight
            As in `sensitivity`.

        warm_start : bool, default=True
            Whether to continue each solution by second-order steps from its weights
            (element i continues solution i), or to train anew from the same seeds. A
            cold start may end in another minimum, or in a copy with hidden units
            permuted: then only sets can be compared.

        align : bool, default=False
            Whether to return, of a cold start, the copies of the solutions (hidden
            units reordered) nearest to the old ones, seed by seed, so that weights can
            be compared (see `SolutionSet.aligned_to`).

        Returns
        -------
        retrained : SolutionSet
            Solutions that are not stationary are marked in ``status``, not dropped.
        """
        perturbation = check_perturbation(
            self, X_perturbed, y_perturbed, sample_weight, caller="retrain"
        )
        if warm_start:
            with memory_explained("retrain"), bars(self.verbose):
                return continue_solutions(
                    perturbation, self._task.tol, self._solver()
                ).solution_set
        task = self._task.on(
            perturbation.X_perturbed, perturbation.targets, perturbation.sample_weight
        )
        if align:
            _ = self.solution_set_.symmetry  # refuses unknown ones before any training
        with memory_explained("retrain"), bars(self.verbose):
            restarts = self._run_restarts(task, self._seeds)
            kept = keep_successful(restarts)
            old = self._linearisation.derivatives[0].objective
            objective = old.with_data(task.X, task.y).untilted()
            objective = objective.weighted(task.row_weights)
            retrained = linearise_restarts(
                task, objective, kept, self._solver()
            ).solution_set
        if not align:
            return retrained
        position = {restart.seed: i for i, restart in enumerate(self._kept)}
        partners = [position.get(restart.seed, -1) for restart in kept]
        return retrained.aligned_to(self.solution_set_, pairwise=partners)

    # Derivatives and moduli -----------------------------------------------------------

    @property
    def graphical_derivatives_(self) -> list[GraphicalDerivative]:
        """Graphical derivative at each solution, a list of `GraphicalDerivative`."""
        check_is_fitted(self)
        return self._linearisation.derivatives

    @property
    def lipschitz_moduli_(self) -> Array:
        """Lipschitz modulus at each solution, computed at first access."""
        return self._moduli_table("dataset")[:, 0]

    @property
    def lipschitz_modulus_(self) -> float:
        """Largest Lipschitz modulus over the solutions."""
        return float(self.lipschitz_moduli_.max())

    @property
    def sample_lipschitz_moduli_(self) -> Array:
        """Modulus of each row's perturbations, shape (n_solutions, n_samples)."""
        return self._moduli_table("sample")

    @property
    def feature_lipschitz_moduli_(self) -> Array | dict[str, Array]:
        """Modulus of each feature's perturbations, shape (n_solutions, n_features).

        A dict of these where X is one; NaN for codes, along which nothing moves.
        """
        table, layout = self._moduli_table("feature"), self._task.layout
        if layout is None:
            return table
        table = np.where(layout.is_real, table, np.nan)
        parts = [table[:, columns] for columns in layout.slices]
        return dict(zip(layout.names, parts, strict=True)) if layout.names else table

    @property
    def layer_lipschitz_moduli_(self) -> Array:
        """Modulus of each parameter tensor moving alone, (n_solutions, n_layers)."""
        return self._moduli_table("layer")

    @property
    def layer_names_(self) -> list[str]:
        """Names of the parameter tensors, in the order of the weights."""
        check_is_fitted(self)
        return list(self._linearisation.derivatives[0].objective.parameter_slices)

    def _moduli_table(self, level: str) -> Array:
        check_is_fitted(self)
        found = np.stack([parts.values for parts in self._moduli.by_part(level)])
        layout = self._task.layout
        # Codes alone have no derivative, and no modulus: not one of 0.
        return found if layout is None or layout.is_real.any() else found * np.nan

    # scikit-learn ---------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "solution_set_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = inner.classifier_tags
        if isinstance(self.estimator, NeuralNetBinaryClassifier):
            tags.classifier_tags.multi_class = False
        tags.regressor_tags = inner.regressor_tags
        tags.target_tags.required = True
        tags.target_tags.multi_output = is_regressor(self.estimator)
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        tags.non_deterministic = False
        return tags


def _n_classes(net: NeuralNet) -> Callable[..., int] | None:
    """Of a trained classifier, by its outputs; None of other nets."""
    if not is_classifier(net):
        return None

    def counted(X: Array, layout: InputLayout | None, whole: str) -> int:
        if isinstance(net, NeuralNetBinaryClassifier):
            return 2
        if whole and takes_codes(net, X, whole):
            layout = InputLayout.of_codes(X, whole)
        shape = output_shape(flattened(net, layout), X)
        return shape[0] if shape else 1

    return counted


def _refuse_unwrapped(estimator: Any) -> None:
    """Say how to make a net of a torch module, or of a class."""
    kind = estimator if isinstance(estimator, type) else type(estimator)
    name = kind.__name__
    if issubclass(kind, Module):
        remedy = f"wrap its class: NeuralNetRegressor({name}), NeuralNetClassifier(...)"
    elif isinstance(estimator, type) and issubclass(kind, NeuralNet):
        remedy = f"call it: {name}()"
    else:
        return
    raise ValueError(
        "The 'estimator' parameter of SolutionSetEstimator must be a skorch net. Got "
        f"{name} instead; {remedy}."
    )
