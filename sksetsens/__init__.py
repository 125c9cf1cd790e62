"""Set-valued sensitivity analysis of neural networks, as a scikit-learn estimator."""

from ._estimator import SolutionSetEstimator
from ._lipschitz_modulus import lipschitz_modulus
from ._sensitivity import sensitivity
from ._version import __version__
from .coderivative import Coderivative
from .criterion import MordukhovichCriterion, mordukhovich_criterion
from .derivatives import AffineSet, GraphicalDerivative
from .predicted_set import PredictedSolutionSet
from .solution_set import SolutionSet

__all__ = [
    "AffineSet",
    "Coderivative",
    "GraphicalDerivative",
    "MordukhovichCriterion",
    "PredictedSolutionSet",
    "SolutionSet",
    "SolutionSetEstimator",
    "__version__",
    "lipschitz_modulus",
    "mordukhovich_criterion",
    "sensitivity",
]
