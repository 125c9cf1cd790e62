"""What a change of the training data is: its directions, its check, the change itself.

May import: sets, optimize, and what is below.
"""

from ._directions import PARAMETER_CONSTRAINTS
from ._perturbation import Perturbation, check_perturbation
from ._perturbed_data import check_inputs, check_points, perturb_data

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "Perturbation",
    "check_inputs",
    "check_perturbation",
    "check_points",
    "perturb_data",
]
