"""Set-valued sensitivity analysis of neural networks, as a scikit-learn estimator."""

from ._estimator import SolutionSetEstimator
from ._sensitivity import sensitivity
from ._version import __version__
from .coderivative import Coderivative
from .derivatives import AffineSet, GraphicalDerivative
from .moduli import lipschitz_modulus
from .predicted_set import PredictedSolutionSet
from .solution_set import SolutionSet

__all__ = [
    "AffineSet",
    "Coderivative",
    "GraphicalDerivative",
    "PredictedSolutionSet",
    "SolutionSet",
    "SolutionSetEstimator",
    "__version__",
    "lipschitz_modulus",
    "sensitivity",
]
