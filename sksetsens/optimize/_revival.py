r"""Whether dead units stay dead, and where they go if not.

The weights of a dead unit are all 0, where the loss is not differentiable in them
alone: a unit with incoming weights u and outgoing weights a, both small, adds
:math:`\tfrac{\lambda}{2}(|u|^2 + |a|^2) + \langle g, a\,r(u'x)\rangle`, a function that
is positively homogeneous of degree 2. It stays dead where that is nowhere negative:
where :math:`\max_{|u| = 1} |\tfrac1n \sum_i g_i r(u'x_i)| \le \lambda`. Along the
weights of a unit that lives the two sides are equal: a dead unit may take a share of
its work, at the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe_generator
from ..objective import Kinks, Objective

__all__ = ["Revival", "revival"]

Array = NDArray[np.float64]

# Distance from the dead weights, relative to 1 + |w|, at which R is homogeneous to so
# many digits.
_STEP = 1e-4
_N_STARTS, _N_STEPS = 6, 60
# Weights up to this share of the longest are those of dead units.
_ZERO = 1e-10


@dataclass(frozen=True)
class Revival:
    """The direction along which dead units come to life most easily.

    Attributes
    ----------
    slope : float
        ``<u, R(w + h u)> / h`` relative to the largest ``|R(w + h u)| / h``: negative
        where the loss falls. inf where there are no dead units.
    direction : ndarray of shape (n_params,)
        The unit vector u, 0 but at dead weights.
    """

    slope: float
    direction: Array


def revival(objective: Objective, weights: Array, kinks: Kinks) -> Revival:
    """Look for a direction in which dead units lower the loss.

    By shifted power iterations on the homogeneous map ``u -> R(w + h u) / h`` of the
    dead weights, from random starts: what they miss, they miss.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
        A solution.
    kinks : Kinks
        Its kinks and dead units.

    Returns
    -------
    revival : Revival
    """
    direction = np.zeros_like(weights)
    dead = np.abs(weights) <= _ZERO * np.abs(weights).max(initial=0.0)
    if not (kinks.n_dead_units and dead.any()):
        return Revival(np.inf, direction)
    plain, live = objective.off_kinks(), np.where(dead, 0.0, weights)
    h = _STEP * (1.0 + float(np.linalg.norm(weights)))
    at_zero = plain.gradient(live)[dead]
    rng, largest, best = probe_generator(8), 0.0, (np.inf, direction[dead])
    for _ in range(_N_STARTS):
        u = rng.standard_normal(int(dead.sum()))
        u /= np.linalg.norm(u)
        shift = slope = 0.0
        for _ in range(_N_STEPS):
            moved = live.copy()
            moved[dead] = h * u
            R = (plain.gradient(moved)[dead] - at_zero) / h
            shift, slope = max(shift, float(np.linalg.norm(R))), float(u @ R)
            best = min(best, (slope, u), key=lambda found: found[0])
            u = shift * u - R
            norm = float(np.linalg.norm(u))
            if norm == 0.0:
                break
            u /= norm
        largest = max(largest, shift)
    direction[dead] = best[1]
    return Revival(best[0] / largest if largest else 0.0, direction)
