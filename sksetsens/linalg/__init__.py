"""Singular linear systems: pseudo-inverses that report what they decided."""

from ._constraints import independent_rows
from ._definite import DefiniteInverse, symmetric_inverse
from ._farthest import FarthestPoint
from ._full_row_rank import FullRowRankInverse, gram_inverse
from ._gram import GramPseudoInverse
from ._gram_operator import GramOperatorInverse
from ._implicit import ImplicitSubspace
from ._krylov import KrylovInverse
from ._lanczos import Lanczos
from ._lifted import Lifted, LiftedLowRank, LiftedRows
from ._minimum_residual import ResidualNorms, minimise_residual
from ._norms import operator_norm, top_eigenvalue
from ._outcome import KrylovSettings
from ._preconditioned import PreconditionedInverse
from ._probes import probe, probe_generator
from ._pseudoinverse import CONSISTENCY_TOL, PseudoInverse, Reason, Solution
from ._range_residual import outside_range, range_residuals
from ._scaled import ScaledPseudoInverse
from ._subspace import Subspace
from ._symmetric import SymmetricPseudoInverse
from ._tangent import KrylovTangentInverse, TangentInverse

__all__ = [
    "CONSISTENCY_TOL",
    "DefiniteInverse",
    "FarthestPoint",
    "FullRowRankInverse",
    "GramOperatorInverse",
    "GramPseudoInverse",
    "ImplicitSubspace",
    "KrylovInverse",
    "KrylovSettings",
    "KrylovTangentInverse",
    "Lanczos",
    "Lifted",
    "LiftedLowRank",
    "LiftedRows",
    "PreconditionedInverse",
    "PseudoInverse",
    "Reason",
    "ResidualNorms",
    "ScaledPseudoInverse",
    "Solution",
    "Subspace",
    "SymmetricPseudoInverse",
    "TangentInverse",
    "gram_inverse",
    "independent_rows",
    "minimise_residual",
    "operator_norm",
    "outside_range",
    "probe",
    "probe_generator",
    "range_residuals",
    "symmetric_inverse",
    "top_eigenvalue",
]
