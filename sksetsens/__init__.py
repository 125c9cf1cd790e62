"""Set-valued sensitivity analysis of neural networks, as a scikit-learn estimator."""

from ._estimator import SolutionSetEstimator
from ._version import __version__
from .moduli import MordukhovichCriterion, lipschitz_modulus, mordukhovich_criterion
from .sensitivity import (
    AffineSet,
    Coderivative,
    GraphicalDerivative,
    LinearRange,
    linear_range,
    sensitivity,
)
from .sets import (
    HiddenLayer,
    NetworkSymmetry,
    PredictedSolutionSet,
    PredictionChange,
    SolutionSet,
)
from .studies import (
    LipschitzInclusion,
    SampleInfluence,
    SensitivityCurve,
    SetConvergence,
    SolutionPath,
    SolutionTrack,
    StabilityReport,
    TargetPerturbation,
    follow_path,
    lipschitz_inclusion,
    sample_influence,
    sensitivity_curve,
    set_convergence,
    stability_report,
    target_perturbation,
)

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
    "SampleInfluence",
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
    "sample_influence",
    "sensitivity",
    "sensitivity_curve",
    "set_convergence",
    "stability_report",
    "target_perturbation",
]
