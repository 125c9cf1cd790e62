"""Beyond one prediction: path, convergence, inclusion, report, inverse, curve.

May import: moduli, training, and what is below.
"""

from ._convergence import SetConvergence, set_convergence
from ._inclusion import LipschitzInclusion, lipschitz_inclusion
from ._path import SolutionPath, follow_path
from ._sample_influence import SampleInfluence, sample_influence
from ._sensitivity_curve import SensitivityCurve, sensitivity_curve
from ._stability_report import StabilityReport, stability_report
from ._target_perturbation import TargetPerturbation, target_perturbation
from ._walk import SolutionTrack

__all__ = [
    "LipschitzInclusion",
    "SampleInfluence",
    "SensitivityCurve",
    "SetConvergence",
    "SolutionPath",
    "SolutionTrack",
    "StabilityReport",
    "TargetPerturbation",
    "follow_path",
    "lipschitz_inclusion",
    "sample_influence",
    "sensitivity_curve",
    "set_convergence",
    "stability_report",
    "target_perturbation",
]
