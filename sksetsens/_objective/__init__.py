"""A skorch net with data as the functions R, H, B, J and D on flat weights.

This package alone knows ``torch.func`` and skorch's loss. Everything above it
speaks of NumPy arrays: flat weights, residuals, Hessians and cross derivatives.
"""

from ._admission import admit, bare_net, initialised_net, shape_targets
from ._objective import SINGLE_FROM, Objective
from ._products import PointProducts
from ._together import Trained, train_together, why_not_together

__all__ = [
    "SINGLE_FROM",
    "Objective",
    "PointProducts",
    "Trained",
    "admit",
    "bare_net",
    "initialised_net",
    "shape_targets",
    "train_together",
    "why_not_together",
]
