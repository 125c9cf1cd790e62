"""Lipschitz moduli by level, the Mordukhovich criterion, closed and empirical forms.

May import: sensitivity, perturbation, and what is below.
"""

from ._criterion import MordukhovichCriterion, mordukhovich_criterion
from ._kept_moduli import KeptModuli
from ._lipschitz_modulus import lipschitz_modulus
from ._modulus import Modulus, modulus
from ._parts import (
    PartModuli,
    dataset_modulus,
    feature_moduli,
    group_moduli,
    layer_moduli,
    sample_moduli,
    target_modulus,
)

__all__ = [
    "KeptModuli",
    "Modulus",
    "MordukhovichCriterion",
    "PartModuli",
    "dataset_modulus",
    "feature_moduli",
    "group_moduli",
    "layer_moduli",
    "lipschitz_modulus",
    "modulus",
    "mordukhovich_criterion",
    "sample_moduli",
    "target_modulus",
]
