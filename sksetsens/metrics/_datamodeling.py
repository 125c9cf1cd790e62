"""How well influences of rows predict what training on subsets gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._progress import bars, progress
from .._validation import check_count, check_positive, unwrap
from ..perturbation import check_points
from ..studies import sample_influence

__all__ = ["DatamodelingScore", "linear_datamodeling_score"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DatamodelingScore:
    """Agreement of added influences with losses after retraining on subsets.

    Attributes
    ----------
    score : float
        Mean of `scores`.

    scores : ndarray of shape (n_points,)
        Spearman's rank correlation over the subsets, point by point; NaN where the
        losses do not differ.

    predicted : ndarray of shape (n_subsets, n_points)
        Sum of the influences of the rows that are left out, mean over the solutions.

    retrained : ndarray of shape (n_subsets, n_points)
        Loss after retraining on the subset, mean over the solutions that became
        stationary.

    kept : ndarray of bool of shape (n_subsets, n_samples)
        Rows of each subset.
    """

    score: float
    scores: Array
    predicted: Array
    retrained: Array
    kept: NDArray[np.bool_]


def linear_datamodeling_score(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    n_subsets: int = 50,
    subset_fraction: float = 0.5,
    warm_start: bool = True,
    method: str = "auto",
    random_state: Any = None,
    verbose: int = 0,
) -> DatamodelingScore:
    """Linear datamodeling score of `sample_influence`.

    Training on random subsets of the rows gives other losses at held-out points; the
    score says how well the added influences of the rows left out order them.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X : array-like of shape (n_points, ...)
    y : array-like of shape (n_points,) or (n_points, n_outputs)
        Held-out points.

    n_subsets : int, default=50

    subset_fraction : float, default=0.5
        Share of the rows in each subset, in (0, 1).

    warm_start : bool, default=True
        As in `SolutionSetEstimator.retrain`: continue each solution, or train anew.

    method : str, default="auto"
        Of `sample_influence`.

    random_state : int, RandomState instance or None, default=None
        Draws the subsets.

    verbose : int, default=0
        A bar over the subsets at 1.

    Returns
    -------
    score : DatamodelingScore

    References
    ----------
    S. M. Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023, arXiv
    2303.14186, Definition 2.3.
    """
    caller = "linear_datamodeling_score"
    check_count(caller, "n_subsets", n_subsets, low=2)
    check_positive(caller, "subset_fraction", subset_fraction, up_to=1.0)
    final, X = unwrap(estimator, X, caller=caller)
    check_is_fitted(final)
    n = len(final.inputs_)
    size = round(subset_fraction * n)
    if not 0 < size < n:
        raise ValueError(
            f"The 'subset_fraction' parameter of {caller} must leave out a row and "
            f"leave one of {n}. Got {subset_fraction!r} instead."
        )
    if y is None:
        raise ValueError(
            f"The 'y' parameter of {caller} must hold the targets of X. Got None "
            "instead."
        )
    points, targets = check_points(final, X, y, caller=caller)
    influence = sample_influence(final, X, y, method=method, verbose=verbose)
    values = np.where(np.isfinite(influence.values), influence.values, 0.0).mean(axis=0)
    rng = check_random_state(random_state)
    kept = np.zeros((n_subsets, n), dtype=bool)
    for subset in kept:
        subset[rng.permutation(n)[:size]] = True
    with bars(verbose):
        retrained = np.stack(
            [
                _losses(final, subset, points, targets, warm_start)
                for subset in progress(kept, n_subsets, "subsets")
            ]
        )
    predicted = ~kept @ values.T
    pairs = zip(predicted.T, retrained.T, strict=True)
    scores = np.array([_rank_correlation(*pair) for pair in pairs])
    return DatamodelingScore(
        float(np.nanmean(scores)), scores, predicted, retrained, kept
    )


def _losses(
    final: Any, subset: NDArray[np.bool_], X: Array, y: Any, warm_start: bool
) -> Array:
    """Mean loss of the retrained solutions at each point."""
    weights = final.sample_weight_ * subset
    found = final.retrain(sample_weight=weights, warm_start=warm_start)
    chosen = found[found.converged] if found.converged.any() else found
    pairs = zip(chosen.objectives, chosen.weights, strict=True)
    mean: Array = np.mean([o.losses_of(w[None], X, y)[0] for o, w in pairs], axis=0)
    return mean


def _rank_correlation(one: Array, other: Array) -> float:
    if np.ptp(one) == 0.0 or np.ptp(other) == 0.0:
        return np.nan
    return float(spearmanr(one, other).statistic)
