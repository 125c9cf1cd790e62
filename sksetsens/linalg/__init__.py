"""Singular linear systems: pseudo-inverses that report what they decided."""

from ._gram import GramPseudoInverse
from ._norms import operator_norm
from ._pseudoinverse import PseudoInverse, Solution
from ._subspace import Subspace
from ._symmetric import SymmetricPseudoInverse

__all__ = [
    "GramPseudoInverse",
    "PseudoInverse",
    "Solution",
    "Subspace",
    "SymmetricPseudoInverse",
    "operator_norm",
]
