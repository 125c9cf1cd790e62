"""Distances between solution sets, and scorers for cross-validation."""

from ..sets import distance_to_set, excess, excess_bounds, pompeiu_hausdorff
from ._datamodeling import DatamodelingScore, linear_datamodeling_score
from ._scorers import (
    SensitivityScorer,
    make_sensitivity_scorer,
    neg_lipschitz_modulus,
    neg_prediction_gap,
    neg_removal_gap,
    neg_shift_norm,
    perturbed_score,
)

__all__ = [
    "DatamodelingScore",
    "SensitivityScorer",
    "distance_to_set",
    "excess",
    "excess_bounds",
    "linear_datamodeling_score",
    "make_sensitivity_scorer",
    "neg_lipschitz_modulus",
    "neg_prediction_gap",
    "neg_removal_gap",
    "neg_shift_norm",
    "perturbed_score",
    "pompeiu_hausdorff",
]
