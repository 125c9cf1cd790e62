"""A skorch net with data as the functions R, H, B, J and D on flat weights.

The one room that knows ``torch.func`` and skorch's loss; above it everything speaks of
NumPy arrays. May import: networks, _validation, _compat, exceptions.
"""

from ._checks import check_objective
from ._decay import weight_decay
from ._flat_net import flattened
from ._freezing import rehearse_freezing
from ._gates import Kinks
from ._gauss_newton import GaussNewtonFactor, gauss_newton_factor
from ._isolation import isolated, kernels_kept, single_threaded
from ._kink_functions import Ramps
from ._memory import memory_explained
from ._mismatch import mismatches
from ._module_copy import plain_name, refuse_unusual_embeddings, uncompiled
from ._movement import Movement
from ._net_building import bare_net, built, initialised_net
from ._objective import SINGLE_FROM, Objective
from ._operators import Operators
from ._products import PointProducts
from ._stacked import Trained, train_together, why_not_together
from ._targets import output_shape, shape_targets, takes_codes
from ._weight_checks import check_sample_weight
from ._weighted_training import check_weighted_training, trained_by_weight

__all__ = [
    "SINGLE_FROM",
    "GaussNewtonFactor",
    "Kinks",
    "Movement",
    "Objective",
    "Operators",
    "PointProducts",
    "Ramps",
    "Trained",
    "bare_net",
    "built",
    "check_objective",
    "check_sample_weight",
    "check_weighted_training",
    "flattened",
    "gauss_newton_factor",
    "initialised_net",
    "isolated",
    "kernels_kept",
    "memory_explained",
    "mismatches",
    "output_shape",
    "plain_name",
    "refuse_unusual_embeddings",
    "rehearse_freezing",
    "shape_targets",
    "single_threaded",
    "takes_codes",
    "train_together",
    "trained_by_weight",
    "uncompiled",
    "weight_decay",
    "why_not_together",
]
