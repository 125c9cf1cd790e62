"""Pictures of solution sets, curves, moduli and spectra; matplotlib is optional."""

from sksetsens.inspection._moduli import LipschitzModulusDisplay
from sksetsens.inspection._sample_influence import SampleInfluenceDisplay
from sksetsens.inspection._sensitivity_curve import SensitivityCurveDisplay
from sksetsens.inspection._solution_sets import SolutionSetDisplay
from sksetsens.inspection._spectrum import HessianSpectrumDisplay

__all__ = [
    "HessianSpectrumDisplay",
    "LipschitzModulusDisplay",
    "SampleInfluenceDisplay",
    "SensitivityCurveDisplay",
    "SolutionSetDisplay",
]
