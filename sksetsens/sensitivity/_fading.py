"""Slopes that fade as weights grow and vanish nowhere: there is no finite minimiser.

A unit that saturates on all rows, and nothing holds its weights, leaves a gradient that
falls exponentially. It is soon below every tolerance, and so is its curvature: the
weights look stationary and the direction flat. A zero of R changes its sign nearby, and
rounding changes at random; a slope that fades stays what it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe
from ._graphical_derivative import GraphicalDerivative

__all__ = ["fading_slope"]

Array = NDArray[np.float64]

# |R| / (|H| (1 + |w|)) up to which R is small enough to ask what is left of it: above,
# the weights have stopped short of a solution, as far as was asked.
_ARRIVED = 1e-9
# Movements of weights and data, relative to 1 + |w_j| and |x_ij|, over which entries of
# R that vanish change by far more than themselves.
_NEARBY = 1e-5
# Movement of the weights within which R along ker H, where H v = 0, stays rounding.
_BESIDE = 1e-9
# A slope is left where no movement of several changes more than this share of it. Where
# a solution is one, they change all of it.
_STAYS = 0.1
_N_MOVEMENTS = 4


def fading_slope(gd: GraphicalDerivative) -> float:
    """Largest part of R that does not vanish at the solution; 0.0 where all does.

    Single entries tell of a unit that is saturated on all rows, the part in ker H of
    one that is a step between some, and holds one of them on its flank. The latter
    wants a factorisation.

    Parameters
    ----------
    gd : GraphicalDerivative
        Factorised at weights that met their tolerance.

    Returns
    -------
    slope : float
        In the units of R: the largest modulus of such an entry, or the Euclidean norm
        of the part in ker H, in the scales in which H was decomposed.
    """
    if gd.objective.is_tilted or gd.objective.decays_everywhere:
        return 0.0
    R = gd.smooth.gradient(gd.weights)
    scale = gd.hessian_norm * (1.0 + float(np.linalg.norm(gd.weights)))
    if float(np.linalg.norm(R)) > _ARRIVED * scale:
        return 0.0
    return max(_of_entries(gd, R), _along_kernel(gd, R))


def _moved(gd: GraphicalDerivative, stream: int, size: float) -> Array:
    w = gd.weights
    return w + size * (1.0 + np.abs(w)) * probe(w.size, stream=stream)


def _of_entries(gd: GraphicalDerivative, R: Array) -> float:
    is_free = gd.objective.decay.cpu().numpy() == 0.0
    left = np.where(is_free, np.abs(R), 0.0)
    X = gd.objective.inputs
    stays = gd.undifferentiable.entries.reshape(X.shape)
    for stream in range(1, _N_MOVEMENTS + 1):
        if not left.any():
            break
        direction = np.where(stays, 0.0, probe(*X.shape, stream=stream))
        there = gd.smooth.with_data(X * (1.0 + _NEARBY * direction))
        change = np.abs(there.gradient(_moved(gd, stream, _NEARBY)) - R)
        left[~(change < _STAYS * left)] = 0.0
    return float(left.max(initial=0.0))


def _along_kernel(gd: GraphicalDerivative, R: Array) -> float:
    if gd.is_matrix_free or gd.kernel.dim == 0:
        return 0.0
    scaled = gd.factor.scaled.kernel

    def along(gradient: Array) -> Array:
        projected: Array = scaled.project(gd.factor.scales * gradient)
        return projected

    here = along(R)
    slope = float(np.linalg.norm(here))
    for stream in range(1, _N_MOVEMENTS + 1):
        there = along(gd.smooth.gradient(_moved(gd, stream, _BESIDE)))
        if not float(np.linalg.norm(there - here)) < _STAYS * slope:
            return 0.0
    return slope
