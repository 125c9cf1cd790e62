"""From trained weights to stationary ones: one polishing loop, exchangeable steps.

Trust-region Newton, Levenberg-Marquardt, L-BFGS, warm starts; knows objectives by R and
H only. May import: objective, linalg, and what is below.
"""

from ._active_set import ActiveSet
from ._gauss_newton_lbfgs import lifted_gauss_newton
from ._kinks import stationary_on_kinks
from ._polish import MAX_ON_KINKS, Polished, check_curvature, polish, stationarity
from ._revival import revival
from ._scales import scaled_stationarity, weight_scales
from ._warm_start import continued

__all__ = [
    "MAX_ON_KINKS",
    "ActiveSet",
    "Polished",
    "check_curvature",
    "continued",
    "lifted_gauss_newton",
    "polish",
    "revival",
    "scaled_stationarity",
    "stationarity",
    "stationary_on_kinks",
    "weight_scales",
]
