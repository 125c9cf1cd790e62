"""Whether solutions near one form a manifold: the rank of H along the set.

Steps along ker H and small perturbations of the data are corrected by chord steps; what
stays is the value of the reduced equation (Lyapunov-Schmidt), 0 on a manifold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import CONSISTENCY_TOL, probe
from ..objective import Objective
from ._graphical_derivative import GraphicalDerivative

__all__ = [
    "OBSTRUCTION_TOL",
    "ROUNDING",
    "directions",
    "felt",
    "obstruction",
    "off_manifold",
    "rank_can_change",
]

Array = NDArray[np.float64]

# Steps along ker H, relative to 1 + |w|, from which the set must be reached again, and
# perturbations of the data, relative to its root mean square, with the same purpose. A
# step that is merely too long (the set curves, or H is stiff) fails, and a shorter one
# is tried; where the rank changes, every size fails. What tells may be of third order
# in the step, and must stand out from rounding: 1e-4 is the last size that does.
_KERNEL_STEPS = (1e-2, 1e-3, 1e-4)
_DATA_STEPS = (1e-3, 1e-4)
# Residual at the start, over rounding, below which a short step shows nothing.
_RESOLVED = 100.0
_N_CHORD_STEPS = 30
# Where each step is an iterative solve.
_N_ITERATED_STEPS = 3
# On a manifold the distance left after the correction is far below the step taken;
# where the rank changes it is of the step's own size.
OBSTRUCTION_TOL = 1e-2
# |R| / (|H| (1 + |w|)) below this is rounding.
ROUNDING = 1e-14
# Weights so many times longer than the chord iteration's start are on their way out.
_DIVERGED = 1e6


def directions(gd: GraphicalDerivative, n: int) -> Array:
    v = probe(n, gd.weights.size)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def felt(gd: GraphicalDerivative) -> Array:
    """Weights whose length is a scale of the objective.

    In the units of a badly scaled column the part in ker H, which nothing holds, may be
    longer than all else by decades.
    """
    scales = gd.factor.scales
    if not isinstance(scales, np.ndarray):
        return gd.weights
    return scales * gd.factor.scaled.kernel.complement().project(gd.weights / scales)


def obstruction(gd: GraphicalDerivative) -> float:
    """How far from a manifold the solutions are, along ker H and as the data moves."""
    if not rank_can_change(gd):
        return 0.0
    return max(_along_kernel(gd), _along_data(gd))


def rank_can_change(gd: GraphicalDerivative) -> bool:
    """Whether H is singular, short of a Jacobian of full row rank at interpolation."""
    return not gd.has_full_row_rank and gd.kernel.dim > 0


def _along_kernel(gd: GraphicalDerivative) -> float:
    scale = 1.0 + gd.length(felt(gd))
    along = gd.factor.scaled.kernel.project(directions(gd, 2))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    along = along * gd.factor.scales
    found = np.inf
    for rho in _KERNEL_STEPS:
        starts = [gd.weights + rho * scale * z for z in along]
        if not all(_resolves(gd, gd.objective, start) for start in starts):
            # The set is straight that far, or an earlier size has told.
            return 0.0 if found == np.inf else found
        ratios = [off_manifold(gd, gd.objective, w, rho * scale) for w in starts]
        found = min(found, max(ratios))
        if found <= OBSTRUCTION_TOL:
            break
    return found


def _resolves(gd: GraphicalDerivative, objective: Objective, start: Array) -> bool:
    """Whether the residual at a start stands out from rounding and the solution's."""
    floor = _floor(gd, start) + 10.0 * gd.residual_norm(gd.objective, gd.weights)
    return gd.residual_norm(objective, start) > _RESOLVED * floor


def _floor(gd: GraphicalDerivative, w: Array) -> float:
    """Rounding of a gradient, in the units in which H was decomposed."""
    return ROUNDING * gd.units[1] * (1.0 + gd.length(w))


def _along_data(gd: GraphicalDerivative) -> float:
    """The same after a random perturbation of the data and its predicted shift.

    Only entries whose columns of B lie in range H move: the others have no shift, and
    one of them in the perturbation would hide what the rest does.
    """
    X = gd.objective.inputs
    # Columns in units of their own move each by its own size.
    axis = 0 if isinstance(gd.factor.scales, np.ndarray) else None
    spread = np.sqrt(np.mean(X**2, axis=axis))
    # Of entries without a derivative the residual is infinite.
    stays = gd.column_range_residuals > CONSISTENCY_TOL
    direction = np.where(stays.reshape(X.shape), 0.0, probe(*X.shape))
    found = np.inf
    for size in _DATA_STEPS:
        dX = size * spread * direction
        affine = gd(dX)
        moved = gd.length(affine.shift)
        if affine.is_empty or moved == 0.0:
            return 0.0  # No entry moves the solutions: nothing to judge here.
        objective = gd.objective.with_data(X + dX)
        start = gd.weights + affine.shift
        if not _resolves(gd, objective, start):
            return 0.0 if found == np.inf else found
        enough = gd.resolution(gd.residual_norm(objective, gd.weights))
        ratio = off_manifold(gd, objective, start, moved, enough=enough)
        found = min(found, ratio)
        if found <= OBSTRUCTION_TOL:
            break
    return found


def off_manifold(
    gd: GraphicalDerivative,
    objective: Objective,
    start: Array,
    length: float,
    *,
    enough: float = 0.0,
) -> float:
    """Distance to the solution set that stays after correcting, over ``length``.

    From a point ``length`` away from the solution the chord iteration
    ``w -= H^+ R(w)`` solves the range part of R = 0 (Lyapunov-Schmidt reduction). What
    stays is the reduced equation's value. It vanishes exactly where the zeros of R form
    a manifold with tangent space ker H, that is, where the rank is constant.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.
    objective : Objective
        On the data to solve for, the solution's or perturbed.
    start : ndarray of shape (n_params,)
    length : float
        Euclidean in the units in which H was decomposed, as all norms here.
    enough : float, default=0.0
        Gradient norm that counts as none, beside rounding: what iterative solves leave.

    Returns
    -------
    ratio : float
        Near 0 on a manifold; of order 1 and above where the rank changes; inf where
        the iteration diverges, so far from the solution.
    """
    w = start
    at_solution = gd.length_of_residual(gd.objective, gd.weights)
    for _ in range(_N_ITERATED_STEPS if gd.is_matrix_free else _N_CHORD_STEPS):
        roughly = max(enough, gd.resolution(0.0, gd.residual_norm(objective, w)))
        step = gd.newton_step(w, objective, enough=roughly)
        w = w + step
        if not gd.length(w) <= _DIVERGED * (1.0 + gd.length(start)):
            return np.inf
        norm = gd.length_of_residual(objective, w)
        if norm <= _floor(gd, w) + 10.0 * at_solution + enough:
            return 0.0
        if gd.length(step) <= 1e-14 * gd.length(w):
            break
    # Newton's step with the rank as it is here: new directions carry what is left.
    there = gd.at(objective, w, keep_rank=False)
    roughly = max(enough, gd.resolution(0.0, gd.residual_norm(objective, w)))
    step = there.newton_step(enough=roughly)
    away = gd.length(step)
    if length == 0.0:  # No shift is predicted, so that any distance is too far.
        return np.inf if away > 0.0 else 0.0
    return away / length
