"""L-BFGS from Gauss-Newton's matrix: large nets of linear layers.

A few hundred outputs hold most of what curves the loss of a trained net. Their
gradients make a preconditioner that costs some ten gradients, and one and a half for
each product, with which L-BFGS takes a fifth of its steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import LiftedLowRank, probe
from ..objective import Objective, gauss_newton_factor
from ._preconditioned_lbfgs import preconditioned_lbfgs

__all__ = ["gauss_newton_lbfgs", "lifted_gauss_newton"]

Array = NDArray[np.float64]

# Matrices at most, and steps with each.
_MAX_BLOCKS, _STEPS = 12, 200
# Directions of the outputs at most, and their lift: at least a share of the largest
# curvature; and in descent, where L-BFGS finds what is softer by itself, so many times
# the penalty's: with three of them half of all steps were too long.
_DIRECTIONS, _ABOVE_ROUNDING, _ABOVE_PENALTY = 1000, 1e-6, 30.0
# Relative fall of the loss over a block that is not worth another one.
_SLOW = 1e-10


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


def lifted_gauss_newton(
    objective: Objective, w: Array, above_penalty: float = 1.0
) -> LiftedLowRank | None:
    """``J' Lambda J`` by its stiffest directions, and the penalty; None without both.

    Parameters
    ----------
    objective : Objective
    w : ndarray of shape (p,)
    above_penalty : float, default=1.0
        Lift, as a multiple of the penalty's curvature.
    """
    factor = gauss_newton_factor(objective, w, _DIRECTIONS)
    if factor is None:
        return None
    z = probe(w.size)
    z /= np.linalg.norm(z)
    penalty = float(z @ objective.penalty_product(w, z))
    largest = float(np.diag(factor.gram).max(initial=0.0))
    lift = max(above_penalty * penalty, _ABOVE_ROUNDING * largest)
    if not lift > 0.0:
        return None
    return LiftedLowRank(factor.gram, factor.push, factor.pull, lift)
