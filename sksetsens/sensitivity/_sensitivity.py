"""Function form of the sensitivity question, for pipelines and searches too."""

from __future__ import annotations

from typing import Any

from .._validation import unwrap
from ..sets import PredictedSolutionSet

__all__ = ["sensitivity"]


def sensitivity(
    estimator: Any,
    X_perturbed: Any = None,
    y_perturbed: Any = None,
    *,
    sample_weight: Any = None,
    n_corrections: int = 0,
) -> PredictedSolutionSet:
    """Predicted solution set of a fitted estimator, pipeline or search.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted. ``X_perturbed`` passes through a pipeline's transformers as fitted on
        the unperturbed data.

    X_perturbed, y_perturbed, sample_weight, n_corrections
        As in `SolutionSetEstimator.sensitivity`.

    Returns
    -------
    predicted : PredictedSolutionSet
    """
    final, X_perturbed = unwrap(estimator, X_perturbed, caller="sensitivity")
    return final.sensitivity(
        X_perturbed,
        y_perturbed,
        sample_weight=sample_weight,
        n_corrections=n_corrections,
    )
