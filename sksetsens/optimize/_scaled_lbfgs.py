r"""L-BFGS in the scales of the curvature, between a few dense Hessians.

With :math:`H = V \operatorname{diag}(\lambda) V'` at some weights and
:math:`w = w_0 + V (|\lambda| + \sigma)^{-1/2} z` the curvature along z is about one in
all directions. L-BFGS then takes tens of steps through valleys in which it takes
thousands along w, and Newton's method, in a ball that curved valleys keep small, a
Hessian for each. The scaling is that of Y. Dauphin et al., "Identifying and attacking
the saddle point problem", NeurIPS 2014, arXiv 1406.2572, by which negative curvature is
left as fast as positive curvature is descended.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._lbfgs import descended
from ._some_weights import Function

__all__ = ["scaled_lbfgs"]

Array = NDArray[np.float64]

# Hessians at most; and steps between two of them: as many as one costs, about.
_MAX_HESSIANS = 12
_LEAST, _MOST = 60, 400
# Share of |H| by which all eigenvalues are lifted, and of that where R is small: then
# small ones are known.
_LIFT, _LEAST_LIFT, _FAR = 1e-3, 1e-4, 1e-4


def scaled_lbfgs(
    objective: Function, w: Array, tol: float, *, enough: float = 0.0
) -> tuple[Array, int]:
    """Descend until the gradient is below ``tol |H|_2 (1 + |w|)``, or gains nothing.

    Parameters
    ----------
    objective : Objective or SomeWeights
    w : ndarray of shape (p,)
    tol : float
    enough : float, default=0.0
        Norm of the gradient at which it ends, too.

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    value, gradient = objective.value_and_gradient(w)
    steps = int(np.clip(w.size // 2, _LEAST, _MOST))
    n_iter = 0
    for _ in range(_MAX_HESSIANS):
        H = objective.hessian(w)
        norm = float(np.linalg.norm(gradient))
        if not np.isfinite(H).all() or norm <= enough:
            break
        eigenvalues, V = scipy.linalg.eigh(H, driver="evd")
        sizes = np.abs(eigenvalues)
        scale = max(float(sizes.max()), np.finfo(float).tiny)
        relative = norm / (scale * (1.0 + float(np.linalg.norm(w))))
        if relative <= tol:
            break
        lift = _LIFT * scale * min(1.0, max(relative / _FAR, _LEAST_LIFT))
        found, n = _block(objective, w, V / np.sqrt(sizes + lift), steps)
        n_iter += n
        new_value, new_gradient = objective.value_and_gradient(found)
        lower = new_value < value - 1e-14 * abs(value)
        if not (lower or float(np.linalg.norm(new_gradient)) < norm):
            break
        w, value, gradient = found, new_value, new_gradient
    return w, n_iter


def _block(
    objective: Function, start: Array, S: Array, steps: int
) -> tuple[Array, int]:
    """L-BFGS along z with ``w = start + S z``."""

    def scaled(z: Array) -> tuple[float, Array]:
        value, gradient = objective.value_and_gradient(start + S @ z)
        return value, S.T @ gradient

    z, n_iter = descended(scaled, np.zeros(S.shape[1]), steps)
    return start + S @ z, n_iter
