"""Set-valued sensitivity analysis of neural networks, as a scikit-learn estimator."""

from ._estimator import SolutionSetEstimator
from ._sensitivity import sensitivity
from ._version import __version__
from .derivatives import AffineSet, GraphicalDerivative
from .predicted_set import PredictedSolutionSet
from .solution_set import SolutionSet

__all__ = [
    "AffineSet",
    "GraphicalDerivative",
    "PredictedSolutionSet",
    "SolutionSet",
    "SolutionSetEstimator",
    "__version__",
    "sensitivity",
]
