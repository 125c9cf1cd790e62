"""Scorers for cross-validation and searches: ``scorer(estimator, X, y)``.

Greater is better. Each takes a fitted `SolutionSetEstimator`, a pipeline that ends in
one, or a fitted search over either.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from .._compat import validate_parameter_constraints
from .._validation import check_count, prediction_scorer, unwrap, user_stacklevel
from ..exceptions import StationarityWarning
from ..perturbation import PARAMETER_CONSTRAINTS
from ._predicted_scores import PredictionScore, SetScore

__all__ = [
    "SensitivityScorer",
    "make_sensitivity_scorer",
    "neg_lipschitz_modulus",
    "neg_prediction_gap",
    "neg_removal_gap",
    "neg_shift_norm",
    "perturbed_score",
]


class SensitivityScorer:
    """A scorer of fitted solution sets; `make_sensitivity_scorer` makes them.

    Parameters
    ----------
    name : str
    function : callable
        ``function(estimator, X, y)`` of the estimator at the end of pipelines and
        searches, and of the data as it sees them; greater is better.
    doc : str, default=None
    takes_weight : bool, default=False
        Whether the function takes ``sample_weight``, too.
    """

    # Of `prediction_scorer`: no scorer of predictions.
    perturbs_data = True

    def __init__(
        self,
        name: str,
        function: Callable[..., float],
        doc: str | None = None,
        *,
        takes_weight: bool = False,
    ) -> None:
        self._function = function
        self._takes_weight = takes_weight
        self._request: bool | str | None = None
        self.__name__ = name
        self.__doc__ = doc

    def __call__(
        self,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
    ) -> float:
        """Score of a fitted estimator, greater is better.

        Parameters
        ----------
        estimator : SolutionSetEstimator, Pipeline or search
        X, y : array-like
            Held-out data, which scorers of the set itself do not read.
        sample_weight : array-like of shape (n_samples,), default=None
            For scores of predictions only.

        Returns
        -------
        score : float
        """
        final, X = unwrap(estimator, X, caller=self.__name__)
        if sample_weight is None:
            return float(self._function(final, X, y))
        if not self._takes_weight:
            raise TypeError(
                f"The 'sample_weight' parameter of {self.__name__} must be None: it "
                "scores the set of solutions, not predictions of rows. Got "
                f"{type(sample_weight).__name__} instead."
            )
        return float(self._function(final, X, y, sample_weight=sample_weight))

    def __repr__(self) -> str:
        return f"<scorer {self.__name__}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Those of this file are pickled by name, and are then the same object again.
        if globals().get(self.__name__) is self:
            return self.__name__
        return super().__reduce_ex__(protocol)

    # Metadata routing -----------------------------------------------------------------

    def set_score_request(
        self, *, sample_weight: bool | str | None
    ) -> SensitivityScorer:
        """Copy of the scorer that asks for ``sample_weight`` in metadata routing.

        A copy, since the scorers of `sksetsens.metrics` are shared by all their users.

        Parameters
        ----------
        sample_weight : bool, str or None
            As in scikit-learn's scorers: True to take it, False to ignore it, a name
            to take what is passed under that name, None to refuse it.

        Returns
        -------
        scorer : SensitivityScorer
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing: call "
                "sklearn.set_config(enable_metadata_routing=True) before."
            )
        if not self._takes_weight:
            raise TypeError(f"{self.__name__} scores no rows, and takes no metadata.")
        twin = SensitivityScorer(
            self.__name__, self._function, self.__doc__, takes_weight=True
        )
        twin._request = sample_weight
        return twin

    def get_metadata_routing(self) -> MetadataRequest:
        """What the scorer asks for in scikit-learn's metadata routing."""
        request = MetadataRequest(owner=self.__name__)
        if self._takes_weight:
            request.score.add_request(param="sample_weight", alias=self._request)
        return request

    def _accept_sample_weight(self) -> bool:
        # What scikit-learn asks of scorers in dicts while routing is not enabled.
        return self._takes_weight


def make_sensitivity_scorer(
    score_func: Callable[..., float] | None = None,
    *,
    scoring: Any = None,
    greater_is_better: bool = True,
    retrain: bool = False,
    n_corrections: int = 0,
    perturbation: Any = None,
    perturbation_size: float | None = None,
    perturbed_fraction: float | None = None,
    removed_fraction: float | None = None,
    **kwargs: Any,
) -> SensitivityScorer:
    """Make a scorer of the set of solutions predicted for perturbed training data.

    The fitted estimator perturbs its training data and predicts where its solutions
    go; what is scored is either that set, by ``score_func``, or the set's predictions
    for held-out rows, by ``scoring``. Several sizes in one dict of scorers cost one
    training.

    Parameters
    ----------
    score_func : callable, default=None
        ``score_func(predicted, **kwargs)`` of a `PredictedSolutionSet`, or
        ``score_func(predicted, retrained, **kwargs)`` with ``retrain``.

    scoring : str or scorer, default=None
        Instead of ``score_func``: one of scikit-learn's scorers, by name or as a
        callable ``(estimator, X, y)``, for the predictions of the predicted set.
        Without both, the estimator's own ``score``.

    greater_is_better : bool, default=True
        False for a ``score_func`` that is a loss or a distance: its sign is flipped.

    retrain : bool, default=False
        Whether ``score_func`` also gets the warm-retrained set, element i of which
        continues solution i. The unperturbed set where no row moves.

    n_corrections : int, default=0
        As in `SolutionSetEstimator.sensitivity`.

    perturbation, perturbation_size, perturbed_fraction : default=None
        As in `SolutionSetEstimator`, to perturb in another way than the estimator is
        set to; None for the estimator's own.

    removed_fraction : float, default=None
        Instead of a perturbation: share of the training rows, drawn at random and one
        at least, that are left out, in (0, 1).

    **kwargs
        Further arguments of ``score_func``.

    Returns
    -------
    scorer : SensitivityScorer
        Callable ``(estimator, X, y)``. NaN where ``scoring`` has no prediction to
        score, since a predicted piece is empty.

    Raises
    ------
    ValueError
        If both ``score_func`` and ``scoring`` are given, or a parameter has no meaning.

    Examples
    --------
    At w = (1, 2) the paper's toy network moves by 0.4 per unit of ``dx = -x``, to first
    order:

    >>> import numpy as np
    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator
    >>> from sksetsens.datasets import make_toy_network
    >>> from sksetsens.metrics import make_sensitivity_scorer
    >>> toy = make_toy_network()
    >>> net = NeuralNetRegressor(
    ...     toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=1
    ... )
    >>> model = SolutionSetEstimator(net, n_restarts=1).fit(toy.X, toy.y)
    >>> def shift_per_size(predicted, size):
    ...     return float(predicted.shift_norm.max()) / size
    >>> scorers = [
    ...     make_sensitivity_scorer(
    ...         shift_per_size,
    ...         greater_is_better=False,
    ...         perturbation="worst_case",
    ...         perturbation_size=size,
    ...         size=size * np.sqrt(2),
    ...     )
    ...     for size in (0.001, 0.1)
    ... ]
    >>> [round(scorer(model), 4) for scorer in scorers]
    [-0.4, -0.4]
    >>> -round(model.lipschitz_modulus_, 4)
    -0.4
    """
    changes = {
        "perturbation": perturbation,
        "perturbation_size": perturbation_size,
        "perturbed_fraction": perturbed_fraction,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    caller = "make_sensitivity_scorer"
    validate_parameter_constraints(
        PARAMETER_CONSTRAINTS
        | {"retrain": ["boolean"], "greater_is_better": ["boolean"]},
        changes | {"retrain": retrain, "greater_is_better": greater_is_better},
        caller_name=caller,
    )
    check_count(caller, "n_corrections", n_corrections, low=0)
    if removed_fraction is not None:
        _check_removed(caller, removed_fraction, changes)
    settings = (changes, n_corrections, removed_fraction)
    if score_func is None:
        _refuse_without_function(retrain, greater_is_better, kwargs)
        scorer = prediction_scorer(caller, scoring)
        name = "perturbed_score" if scoring is None else f"perturbed {scoring}"
        return SensitivityScorer(
            name,
            PredictionScore(scorer, *settings),
            takes_weight=_takes_weight(scorer),
        )
    if scoring is not None or not callable(score_func):
        raise ValueError(
            f"The 'score_func' parameter of {caller} must be a function of a predicted "
            f"set, and None with 'scoring'. Got {score_func!r} and scoring={scoring!r} "
            "instead."
        )
    sign = 1 if greater_is_better else -1
    name = getattr(score_func, "__name__", repr(score_func))
    return SensitivityScorer(
        name, SetScore(score_func, sign, retrain, kwargs, *settings)
    )


def _check_removed(caller: str, fraction: Any, changes: dict[str, Any]) -> None:
    if not isinstance(fraction, Real) or not 0.0 < float(fraction) < 1.0:
        raise ValueError(
            f"The 'removed_fraction' parameter of {caller} must be a float in (0, 1). "
            f"Got {fraction!r} instead."
        )
    if changes:
        raise ValueError(
            f"The 'removed_fraction' parameter of {caller} must be None with "
            f"{sorted(changes)}: rows are left out or perturbed. Got {fraction!r} too."
        )


def _takes_weight(scorer: Any) -> bool:
    """Whether a scorer takes ``sample_weight``, which estimators' own scores do."""
    if scorer is None:
        return True
    accepts = getattr(scorer, "_accept_sample_weight", None)
    if accepts is not None:
        return bool(accepts())
    return "sample_weight" in inspect.signature(scorer).parameters


def _refuse_without_function(
    retrain: bool, greater_is_better: bool, kwargs: dict[str, Any]
) -> None:
    given = dict(kwargs)
    if retrain:
        given["retrain"] = retrain
    if not greater_is_better:
        given["greater_is_better"] = greater_is_better
    if given:
        raise ValueError(
            "These parameters of make_sensitivity_scorer must be left out without a "
            f"'score_func': {sorted(given)}. Got {given!r} instead."
        )


# --- The scorers of this package ------------------------------------------------------


def _largest_shift(predicted: Any) -> float:
    return float(predicted.shift_norm.max())


def _largest_gap(predicted: Any, retrained: Any) -> float:
    gaps = predicted.relative_gaps(retrained)
    unknown = int(np.isnan(gaps).sum())
    if unknown:
        warnings.warn(
            f"neg_prediction_gap is NaN: {unknown} of {len(gaps)} retrained solutions "
            "did not become stationary, so that there is no truth to compare with. Add "
            "weight decay, loosen tol, or perturb less.",
            StationarityWarning,
            stacklevel=user_stacklevel(),
        )
    return float(np.max(gaps))


def _minus_modulus(estimator: Any, X: Any, y: Any) -> float:
    return -float(estimator.lipschitz_modulus_)


neg_lipschitz_modulus = SensitivityScorer(
    "neg_lipschitz_modulus",
    _minus_modulus,
    "Minus the Lipschitz modulus ``|H^+ B|_2``, the largest over the solutions.",
)
neg_shift_norm = SensitivityScorer(
    "neg_shift_norm",
    SetScore(_largest_shift, -1, False, {}, {}, 0),
    "Minus the Euclidean norm of the predicted shift under the estimator's own "
    "perturbation, the largest over the solutions (arXiv 2412.11057, Algorithm 1).",
)
perturbed_score = SensitivityScorer(
    "perturbed_score",
    PredictionScore(None, {}, 0),
    "Score on held-out (X, y) of the set predicted for perturbed training data: what "
    "the perturbation would cost, without retraining.",
    takes_weight=True,
)
neg_prediction_gap = SensitivityScorer(
    "neg_prediction_gap",
    SetScore(_largest_gap, -1, True, {}, {}, 0),
    "Minus the distance from the warm-retrained weights to their predicted piece, "
    "relative to the shift; the largest over the solutions. NaN, with a warning, where "
    "retraining did not become stationary.",
)
neg_removal_gap = SensitivityScorer(
    "neg_removal_gap",
    SetScore(_largest_gap, -1, True, {}, {}, 0, 0.01),
    "The same as neg_prediction_gap where 1 per cent of the training rows, one at "
    "least, are left out.",
)
