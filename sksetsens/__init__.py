"""Set-valued sensitivity analysis of neural networks, as a scikit-learn estimator."""

from ._estimator import SolutionSetEstimator
from ._lipschitz_modulus import lipschitz_modulus
from ._sensitivity import sensitivity
from ._version import __version__
from .coderivative import Coderivative
from .convergence import SetConvergence, set_convergence
from .criterion import MordukhovichCriterion, mordukhovich_criterion
from .derivatives import AffineSet, GraphicalDerivative
from .inclusion import LipschitzInclusion, lipschitz_inclusion
from .inverse import TargetPerturbation, target_perturbation
from .linear_range import LinearRange, linear_range
from .path import SolutionPath, SolutionTrack, follow_path
from .predicted_set import PredictedSolutionSet, PredictionChange
from .sensitivity_curve import SensitivityCurve, sensitivity_curve
from .solution_set import SolutionSet
from .stability import StabilityReport, stability_report
from .symmetries import HiddenLayer, NetworkSymmetry

__all__ = [
    "AffineSet",
    "Coderivative",
    "GraphicalDerivative",
    "HiddenLayer",
    "LinearRange",
    "LipschitzInclusion",
    "MordukhovichCriterion",
    "NetworkSymmetry",
    "PredictedSolutionSet",
    "PredictionChange",
    "SensitivityCurve",
    "SetConvergence",
    "SolutionPath",
    "SolutionSet",
    "SolutionSetEstimator",
    "SolutionTrack",
    "StabilityReport",
    "TargetPerturbation",
    "__version__",
    "follow_path",
    "linear_range",
    "lipschitz_inclusion",
    "lipschitz_modulus",
    "mordukhovich_criterion",
    "sensitivity",
    "sensitivity_curve",
    "set_convergence",
    "stability_report",
    "target_perturbation",
]
