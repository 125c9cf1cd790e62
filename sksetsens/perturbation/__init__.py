"""What a change of the training data is: its directions, its check, the change itself.

May import: sets, optimize, and what is below.
"""

from ._directions import PARAMETER_CONSTRAINTS
from ._perturbed_data import check_inputs, perturb_data
from ._question import Question, ask

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "Question",
    "ask",
    "check_inputs",
    "perturb_data",
]
