"""Graphical derivative and coderivative, the systems behind them, and their evidence.

Diagnosis of a solution, the predicted set, the range of the first order. May import:
perturbation, sets, optimize, and what is below.
"""

from ._affine_set import AffineSet
from ._breaks import beyond_break, first_break
from ._coderivative import Coderivative
from ._diagnosis import Diagnosis, Finding, diagnose
from ._graphical_derivative import GraphicalDerivative
from ._linear_range import LinearRange, linear_range
from ._linearise import Linearisation, collect, linearise, warn_of
from ._prediction import predict_set
from ._reach import HOLDS_TOL, reach
from ._sensitivity import sensitivity

__all__ = [
    "HOLDS_TOL",
    "AffineSet",
    "Coderivative",
    "Diagnosis",
    "Finding",
    "GraphicalDerivative",
    "LinearRange",
    "Linearisation",
    "beyond_break",
    "collect",
    "diagnose",
    "first_break",
    "linear_range",
    "linearise",
    "predict_set",
    "reach",
    "sensitivity",
    "warn_of",
]
