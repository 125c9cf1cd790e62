"""Problems with known solution set, rank and Lipschitz modulus."""

from sksetsens.datasets._linear import (
    make_dead_feature,
    make_isolated_minimum,
    make_underdetermined_linear,
)
from sksetsens.datasets._modules import (
    LinearNetwork,
    ShiftedProductNetwork,
    ToyNetwork,
)
from sksetsens.datasets._problems import (
    make_degenerate_product,
    make_saddle,
    make_toy_network,
)

__all__ = [
    "LinearNetwork",
    "ShiftedProductNetwork",
    "ToyNetwork",
    "make_dead_feature",
    "make_degenerate_product",
    "make_isolated_minimum",
    "make_saddle",
    "make_toy_network",
    "make_underdetermined_linear",
]
