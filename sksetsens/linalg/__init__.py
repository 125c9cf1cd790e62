"""Singular linear systems: pseudo-inverses that report what they decided."""

from ._definite import DefiniteInverse, symmetric_inverse
from ._farthest import FarthestPoint
from ._gram import GramPseudoInverse
from ._norms import operator_norm
from ._pseudoinverse import CONSISTENCY_TOL, PseudoInverse, Solution
from ._subspace import Subspace
from ._symmetric import SymmetricPseudoInverse

__all__ = [
    "CONSISTENCY_TOL",
    "DefiniteInverse",
    "FarthestPoint",
    "GramPseudoInverse",
    "PseudoInverse",
    "Solution",
    "Subspace",
    "SymmetricPseudoInverse",
    "operator_norm",
    "symmetric_inverse",
]
