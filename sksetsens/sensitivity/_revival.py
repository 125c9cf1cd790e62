r"""Whether dead units stay dead.

The weights of a dead unit are all 0, where the loss is not differentiable in them
alone: a unit with incoming weights u and outgoing weights a, both small, adds
:math:`\tfrac{\lambda}{2}(|u|^2 + |a|^2) + \langle g, a\,r(u'x)\rangle`, a function that
is positively homogeneous of degree 2. It stays dead where that is positive in all
directions: where :math:`\max_{|u| = 1} |\tfrac1n \sum_i g_i r(u'x_i)| < \lambda`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe_generator
from ._graphical_derivative import GraphicalDerivative

__all__ = ["revival_slope"]

Array = NDArray[np.float64]

# Distance from the dead weights at which R is homogeneous to so many digits.
_STEP = 1e-4
_N_STARTS, _N_STEPS = 4, 60
# Weights up to this share of the longest are those of dead units.
_ZERO = 1e-10


def revival_slope(gd: GraphicalDerivative) -> float:
    """Smallest curvature of the loss at dead units, relative to the largest.

    Parameters
    ----------
    gd : GraphicalDerivative

    Returns
    -------
    slope : float
        Negative where a dead unit lowers the loss as it revives; inf without any.
        From random starts: what it misses, it misses.

    Notes
    -----
    ``u -> R(w + h u) / h`` on the dead weights is a homogeneous map; its lowest
    direction is found by shifted power iterations.
    """
    w = gd.weights
    if not gd.kinks.n_dead_units:
        return np.inf
    dead = np.abs(w) <= _ZERO * np.abs(w).max()
    objective = gd.objective.off_kinks()
    h = _STEP * (1.0 + float(np.linalg.norm(w)))
    at_zero = objective.gradient(w)[dead]
    rng, slopes, largest = probe_generator(8), [], 0.0

    def residual(u: Array) -> Array:
        moved = w.copy()
        moved[dead] += h * u
        found: Array = (objective.gradient(moved)[dead] - at_zero) / h
        return found

    for _ in range(_N_STARTS):
        u = rng.standard_normal(int(dead.sum()))
        u /= np.linalg.norm(u)
        shift = slope = 0.0
        for _ in range(_N_STEPS):
            R = residual(u)
            shift, slope = max(shift, float(np.linalg.norm(R))), float(u @ R)
            u = shift * u - R
            norm = float(np.linalg.norm(u))
            if norm == 0.0:
                break
            u /= norm
        slopes.append(slope)
        largest = max(largest, shift)
    return min(slopes) / largest if largest else 0.0
