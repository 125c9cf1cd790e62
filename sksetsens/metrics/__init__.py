"""Distances between solution sets, and scorers for cross-validation."""

from ._distance import distance_to_set, excess, excess_bounds, pompeiu_hausdorff
from ._scorers import (
    neg_lipschitz_modulus,
    neg_prediction_gap,
    neg_shift_norm,
    perturbed_score,
)

__all__ = [
    "distance_to_set",
    "excess",
    "excess_bounds",
    "neg_lipschitz_modulus",
    "neg_prediction_gap",
    "neg_shift_norm",
    "perturbed_score",
    "pompeiu_hausdorff",
]
