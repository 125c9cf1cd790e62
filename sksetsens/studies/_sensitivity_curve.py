"""What a perturbation does as its size grows, cross-validated, training once a fold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from .._compat import safe_indexing
from .._validation import check_count, check_wraps_a_set, prediction_scorer, unwrap
from ..perturbation import Perturbation, check_inputs
from ..sensitivity import predict_set
from ..sets import PredictedSolutionSet, SolutionSet

__all__ = ["SensitivityCurve", "sensitivity_curve"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SensitivityCurve:
    """Prediction, its evidence and the truth, by size of the perturbation and fold.

    All arrays but the first, and those of the unperturbed set, are of shape (n_sizes,
    n_folds); those of retraining are None unless it was asked for.

    Attributes
    ----------
    param_range : ndarray of shape (n_sizes,)
        Values of ``perturbation_size``, the Euclidean length by which each perturbed
        row moves.

    perturbation_norms : ndarray
        Frobenius norm of the perturbation of the training data.

    losses, base_losses : ndarray
        Objective on the perturbed training data, mean over the solutions: at the
        predicted and at the old weights. NaN where a predicted set is empty.

    scores : ndarray
        Score of the predicted set on the fold's held-out data; NaN where a piece is
        empty, or where the estimator has no score and ``scoring`` is None.

    base_scores : ndarray of shape (n_folds,)
        Score of the unperturbed set.

    shift_norms : ndarray
        Euclidean length of the predicted shift, mean over the solutions; inf where a
        predicted set is empty.

    nonlinearity, shift_errors : ndarray
        As in `PredictedSolutionSet`, the worst over the solutions; inf where a
        predicted set is empty.

    trustworthy : ndarray
        Share of the solutions whose prediction may be trusted.

    retrained_losses, retrained_scores, retrained_shift_norms : ndarray or None
        The same of the warm-retrained set.

    gaps : ndarray or None
        Distance from the retrained weights to their predicted piece, relative to the
        shift, the largest over the solutions. NaN where one did not become stationary.
    """

    param_range: Array
    perturbation_norms: Array
    losses: Array
    base_losses: Array
    scores: Array
    base_scores: Array
    shift_norms: Array
    nonlinearity: Array
    shift_errors: Array
    trustworthy: Array
    retrained_losses: Array | None = None
    retrained_scores: Array | None = None
    retrained_shift_norms: Array | None = None
    gaps: Array | None = None

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return self.losses.shape[1]

    @property
    def first_order_fails(self) -> NDArray[np.bool_]:
        """Where a prediction cannot be trusted at some solution, (n_sizes, n_folds)."""
        return ~(self.trustworthy >= 1.0)


def sensitivity_curve(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    param_range: ArrayLike,
    groups: Any = None,
    cv: Any = None,
    scoring: Any = None,
    retrain: bool = False,
    n_corrections: int = 0,
    n_jobs: int | None = None,
) -> SensitivityCurve:
    """Predicted effect of a perturbation of the training data against its size.

    Each fold trains once. Then only ``perturbation_size`` changes, in the directions
    that ``perturbation`` and ``perturbed_fraction`` choose; nothing is trained per
    size, unless the truth is asked for.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Cloned and fitted on each fold's training rows. A pipeline's data is perturbed
        as its last step sees it, after the transformers.

    X : array-like of shape (n_samples, ...)

    y : array-like of shape (n_samples,) or (n_samples, n_outputs)

    param_range : array-like of shape (n_sizes,)
        Sizes, each non-negative.

    groups : array-like of shape (n_samples,), default=None
        For splitters that need them.

    cv : int, splitter, iterable or "prefit", default=None
        As in scikit-learn's ``validation_curve``. With "prefit" the estimator is fitted
        already and is left as it is; X and y are held-out data, the only fold.

    scoring : str or callable, default=None
        Scorer of predictions on held-out data; None for the estimator's own.

    retrain : bool, default=False
        Whether to retrain at each size, from the old weights: the truth.

    n_corrections : int, default=0
        As in `SolutionSetEstimator.sensitivity`.

    n_jobs : int, default=None
        Folds at once.

    Returns
    -------
    curve : SensitivityCurve
        It tells what `sensitivity` would warn of; no size warns.

    Raises
    ------
    ValueError
        If a parameter has no meaning.
    TypeError
        If no `SolutionSetEstimator` is at the end of the estimator.

    Examples
    --------
    The paper's toy network, moved by ``dx = -size * x`` at w = (1, 2), whose predicted
    shift is ``0.4 |dx|``:

    >>> import numpy as np
    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator, sensitivity_curve
    >>> from sksetsens.datasets import make_toy_network
    >>> toy = make_toy_network()
    >>> net = NeuralNetRegressor(
    ...     toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=1
    ... )
    >>> def shrink(estimator, X, y, rng):
    ...     return -X / np.linalg.norm(X, axis=1, keepdims=True)
    >>> model = SolutionSetEstimator(net, n_restarts=1, perturbation=shrink)
    >>> curve = sensitivity_curve(
    ...     model.fit(toy.X, toy.y), toy.X, toy.y, param_range=[0.0, 0.1], cv="prefit"
    ... )
    >>> curve.perturbation_norms.round(4).ravel()
    array([0.    , 0.1414])
    >>> (curve.shift_norms[1] / curve.perturbation_norms[1]).round(4)
    array([0.3795])
    """
    check_wraps_a_set(estimator, caller="sensitivity_curve")
    sizes = _check_sizes(param_range)
    scoring = prediction_scorer("sensitivity_curve", scoring)
    check_count("sensitivity_curve", "n_corrections", n_corrections, low=0)
    settings = (sizes, scoring, retrain, n_corrections)
    if isinstance(cv, str) and cv == "prefit":
        folds = [_follow(estimator, X, y, *settings)]
    else:
        X, y, groups = indexable(X, y, groups)
        splits = check_cv(cv, y, classifier=is_classifier(estimator))
        folds = Parallel(n_jobs=n_jobs)(
            delayed(_fit_and_follow)(clone(estimator), X, y, train, test, *settings)
            for train, test in splits.split(X, y, groups)
        )
    return _assembled(sizes, folds)


def _check_sizes(param_range: ArrayLike) -> Array:
    try:
        sizes = np.asarray(param_range, dtype=np.float64)
    except (TypeError, ValueError):
        sizes = np.empty(0)
    good = sizes.ndim == 1 and sizes.size > 0 and not isinstance(param_range, Real)
    if not (good and np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise ValueError(
            "The 'param_range' parameter of sensitivity_curve must be a list of "
            f"non-negative sizes, at least one. Got {param_range!r} instead."
        )
    return sizes


def _fit_and_follow(
    estimator: Any,
    X: Any,
    y: Any,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    *settings: Any,
) -> dict[str, Any]:
    estimator.fit(safe_indexing(X, train), safe_indexing(y, train))
    return _follow(estimator, safe_indexing(X, test), safe_indexing(y, test), *settings)


def _follow(
    estimator: Any,
    X: Any,
    y: Any,
    sizes: Array,
    scoring: Any,
    retrain: bool,
    n_corrections: int,
) -> dict[str, Any]:
    """One fold's column of each array."""
    final, X = unwrap(estimator, X, caller="sensitivity_curve")
    check_is_fitted(final)

    def score(solutions: SolutionSet) -> float:
        if scoring is None and not hasattr(final, "score"):
            return np.nan
        return float(final.score_of(solutions, X, y, scoring=scoring))

    rows = []
    for size in sizes:
        # The given estimator keeps its size; fitted arrays are shared.
        sized = copy.copy(final).set_params(perturbation_size=float(size))
        given = sized.perturb()
        X_new = check_inputs(final, given, may_be_nameless=True)
        perturbation = Perturbation(final, final.inputs_, X_new, final.targets_)
        predicted = predict_set(perturbation, n_corrections=n_corrections, warn=False)
        row = _evidence(predicted) | {"perturbation_norms": perturbation.size}
        row["scores"] = score(predicted)
        if retrain:
            still = np.array_equal(X_new, final.inputs_)
            row |= _truth(final, given, still, predicted, score)
        rows.append(row)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return columns | {"base_scores": score(final.solution_set_)}


def _evidence(predicted: PredictedSolutionSet) -> dict[str, float]:
    empty = predicted.is_empty
    worst = [predicted.nonlinearity, predicted.shift_error]
    nonlinearity, shift_error = (np.where(empty, np.inf, e).max() for e in worst)
    return {
        "losses": predicted.losses.mean(),
        "base_losses": predicted.base_losses.mean(),
        "shift_norms": predicted.shift_norm.mean(),
        "nonlinearity": nonlinearity,
        "shift_errors": shift_error,
        "trustworthy": predicted.trustworthy.mean(),
    }


def _truth(
    final: Any,
    X_new: Any,
    still: bool,
    predicted: PredictedSolutionSet,
    score: Callable[[SolutionSet], float],
) -> dict[str, float]:
    # Without a perturbation polishing would only move the last bits.
    retrained = final.solution_set_ if still else final.retrain(X_new)
    moved = np.linalg.norm(retrained.weights - final.solution_set_.weights, axis=1)
    return {
        "retrained_losses": retrained.losses.mean(),
        "retrained_scores": score(retrained),
        "retrained_shift_norms": moved.mean(),
        "gaps": predicted.relative_gaps(retrained).max(),
    }


def _assembled(sizes: Array, folds: Iterable[dict[str, Any]]) -> SensitivityCurve:
    folds = list(folds)
    arrays = {
        name: np.stack([np.asarray(fold[name]) for fold in folds], axis=-1)
        for name in folds[0]
    }
    return SensitivityCurve(sizes, **arrays)
