"""Distances between solution sets, and scorers for cross-validation."""

from ..sets import distance_to_set, excess, excess_bounds, pompeiu_hausdorff
from ._scorers import (
    SensitivityScorer,
    make_sensitivity_scorer,
    neg_lipschitz_modulus,
    neg_prediction_gap,
    neg_shift_norm,
    perturbed_score,
)

__all__ = [
    "SensitivityScorer",
    "distance_to_set",
    "excess",
    "excess_bounds",
    "make_sensitivity_scorer",
    "neg_lipschitz_modulus",
    "neg_prediction_gap",
    "neg_shift_norm",
    "perturbed_score",
    "pompeiu_hausdorff",
]
