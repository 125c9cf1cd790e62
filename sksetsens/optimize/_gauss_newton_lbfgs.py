"""L-BFGS in the scales of Gauss-Newton's matrix.

Of large nets of linear layers a few hundred outputs hold most of what curves the loss.
Their gradients make a preconditioner that costs some ten gradients, and one and a half
for each product, with which L-BFGS takes a fifth of its steps. Of any other net the
rows of the outputs' Jacobian cost as little, and are kept: in their scales an encoder
layer becomes stationary by gradients alone, without Hessians of a thousand each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import Lifted, LiftedLowRank, LiftedRows, probe
from ..objective import Objective, gauss_newton_factor
from ._in_scales import descended_in_scales, gain, settled, without_stiff_part
from ._preconditioned_lbfgs import preconditioned_lbfgs
from ._some_weights import Function

__all__ = ["gauss_newton_lbfgs", "lifted_gauss_newton", "row_scaled_lbfgs"]

Array = NDArray[np.float64]

# Matrices at most, and steps with each.
_MAX_BLOCKS, _STEPS = 12, 200
# Directions of the outputs at most, and their lift: at least a share of the largest
# curvature; and in descent, where L-BFGS finds what is softer by itself, so many times
# the penalty's: with three of them half of all steps were too long.
_DIRECTIONS, _ABOVE_ROUNDING, _ABOVE_PENALTY = 1000, 1e-6, 30.0
# Relative fall of the loss over a block that is not worth another one.
_SLOW = 1e-10
# Rows at most for each weight, of nets of up to so many weights; of larger ones as many
# as directions. Matrices of rows, and steps with each; fewer where there are fewer rows
# than weights, and a matrix costs a few gradients.
_ROWS, _EVEN = 2, 3000
_MAX_MATRICES, _FEW_STEPS, _FEWER_STEPS = 60, 100, 50
# Gain at which their descent has arrived; and where neither the loss falls by so much
# nor the gain to such a share of the least, twice, it does not.
_ARRIVED, _FALLS, _SHRINKS, _PATIENCE = 1e-8, 1e-5, 0.3, 2


def gauss_newton_lbfgs(
    objective: Objective, w: Array, gain: float = 1e-11
) -> tuple[Array, int]:
    """Descend to the neighbourhood of a minimum.

    Parameters
    ----------
    objective : Objective
    w : ndarray of shape (p,)
    gain : float, default=1e-11
        What a preconditioned step gains, relative to the loss, where it ends.

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
        0 where Gauss-Newton's matrix has no such form.
    """
    n_iter = 0
    for _ in range(_MAX_BLOCKS):
        P = lifted_gauss_newton(objective, w, _ABOVE_PENALTY)
        if P is None:
            break
        value, gradient = objective.value_and_gradient(w)
        if float(gradient @ P.solve(gradient)) <= gain * abs(value):
            break
        w, steps = preconditioned_lbfgs(
            objective.value_and_gradient, w, P.solve, _STEPS
        )
        n_iter += steps
        if value - objective.loss(w) < _SLOW * abs(value):
            break
    return w, n_iter


def row_scaled_lbfgs(
    function: Function, w: Array, enough: float = 0.0
) -> tuple[Array, int] | None:
    """Descend in the scales of rows until nothing is gained, and settle.

    Parameters
    ----------
    function : Objective or SomeWeights
    w : ndarray of shape (p,)
    enough : float, default=0.0
        ``|R|`` at which it ends.

    Returns
    -------
    (w, n_iter) : ndarray of shape (p,), int
        Or None where Gauss-Newton's matrix has no rows.
    """
    n_iter, least, stalled = 0, np.inf, 0
    for _ in range(_MAX_MATRICES):
        fresh = _lifted_rows(function, w, _ABOVE_PENALTY)
        if fresh is None:
            return (w, n_iter) if n_iter else None
        P = fresh
        value, gradient = function.value_and_gradient(w)
        gained = gain(value, gradient, P)
        if gained <= _ARRIVED or stalled == _PATIENCE:
            break
        most = _FEWER_STEPS if P.rank < w.size else _FEW_STEPS
        found, steps = descended_in_scales(function, w, P, most)
        fall = value - function.value_and_gradient(found)[0]
        if not fall > 0.0:
            break
        w, n_iter = found, n_iter + steps
        slow = fall < _FALLS * abs(value) and gained > _SHRINKS * least
        stalled = stalled + 1 if slow else 0
        least = min(least, gained)
    stiff, near = (P.with_lift(P.lift * _ABOVE_PENALTY**k) for k in (1, -1))
    w, gradient = without_stiff_part(function, w, stiff)
    return settled(function, w, gradient, near, enough), n_iter


def lifted_gauss_newton(
    objective: Objective, w: Array, above_penalty: float = 1.0
) -> Lifted | None:
    """``J' Lambda J`` by its stiffest directions, and the penalty; None without both.

    From what goes through linear layers, or else from rows of the outputs' Jacobian.

    Parameters
    ----------
    objective : Objective
    w : ndarray of shape (p,)
    above_penalty : float, default=1.0
        Lift, as a multiple of the penalty's curvature.
    """
    factor = gauss_newton_factor(objective, w, _DIRECTIONS)
    if factor is None:
        # Without a penalty the rest is anything, and rows of it no measure.
        held = objective.is_penalised(w)
        return _lifted_rows(objective, w, above_penalty) if held else None
    largest = float(np.diag(factor.gram).max(initial=0.0))
    lift = _lift(objective, w, largest, above_penalty)
    if not lift > 0.0:
        return None
    return LiftedLowRank(factor.gram, factor.push, factor.pull, lift)


def _lifted_rows(
    function: Function, w: Array, above_penalty: float
) -> LiftedRows | None:
    most = _DIRECTIONS if w.size > _EVEN else _ROWS * w.size
    A = function.curvature_rows(w, most)
    if A is None:
        return None
    largest = float(np.einsum("ij,ij->i", A, A).max(initial=0.0))
    lift = _lift(function, w, largest, above_penalty)
    return LiftedRows(A, lift) if lift > 0.0 else None


def _lift(function: Function, w: Array, largest: float, above_penalty: float) -> float:
    z = probe(w.size)
    z /= np.linalg.norm(z)
    penalty = float(z @ function.penalty_product(w, z))
    return max(above_penalty * penalty, _ABOVE_ROUNDING * largest)
