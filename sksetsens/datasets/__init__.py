"""Problems with known solution set, rank and Lipschitz modulus, and real images."""

from sksetsens.datasets._fold import make_fold
from sksetsens.datasets._images import load_cifar10, load_digits_images
from sksetsens.datasets._linear import (
    make_dead_feature,
    make_isolated_minimum,
    make_underdetermined_linear,
)
from sksetsens.datasets._modules import (
    FoldNetwork,
    LinearNetwork,
    MatrixFactorisation,
    ProductNetwork,
    ShiftedProductNetwork,
    ToyNetwork,
)
from sksetsens.datasets._problems import (
    make_degenerate_product,
    make_saddle,
    make_toy_network,
)
from sksetsens.datasets._products import make_matrix_factorisation, make_product

__all__ = [
    "FoldNetwork",
    "LinearNetwork",
    "MatrixFactorisation",
    "ProductNetwork",
    "ShiftedProductNetwork",
    "ToyNetwork",
    "load_cifar10",
    "load_digits_images",
    "make_dead_feature",
    "make_degenerate_product",
    "make_fold",
    "make_isolated_minimum",
    "make_matrix_factorisation",
    "make_product",
    "make_saddle",
    "make_toy_network",
    "make_underdetermined_linear",
]
