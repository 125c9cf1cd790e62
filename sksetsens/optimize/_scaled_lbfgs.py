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

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..linalg import minimise_residual
from ..objective import Objective, PointProducts
from ._lbfgs import descended
from ._some_weights import Function
from ._stationarity import STILL_SHRINKING

__all__ = ["scaled_lbfgs", "steps_for_a_hessian"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

# Hessians at most; and steps between two of them: as many as one costs, about. One that
# is formed by rows costs half a gradient for each weight, by layers much less.
_MAX_HESSIANS = 12
_LEAST, _MOST, _MOST_BY_ROWS = 60, 400, 1200
# Share of |H| by which all eigenvalues are lifted, and of that where R is small: then
# small ones are known.
_LIFT, _LEAST_LIFT, _FAR = 1e-3, 1e-4, 1e-4
# Gain of Newton's step, relative to the loss, at which descent has arrived.
_GAIN = 1e-13
# Share of the loss that a block gains at least where another Hessian is worth it.
_SLOW = 1e-5
# Steps of Newton at the end, products of each, and what they leave of the gradient.
_LAST, _MAX_PRODUCTS, _FORCING = 5, 60, 1e-4


def steps_for_a_hessian(n_params: int, by_rows: bool) -> int:
    """How many steps of descent cost about as much as a Hessian does.

    Parameters
    ----------
    n_params : int
    by_rows : bool
        Whether it is formed by rows.

    Returns
    -------
    n_steps : int
    """
    return int(np.clip(n_params // 2, _LEAST, _MOST_BY_ROWS if by_rows else _MOST))


def scaled_lbfgs(
    objective: Function, w: Array, *, by_rows: bool = False
) -> tuple[Array, int]:
    """Descend until a step of Newton's would gain nothing, and take it by products.

    Parameters
    ----------
    objective : Objective or SomeWeights
    w : ndarray of shape (p,)
    by_rows : bool, default=False
        Whether Hessians are formed by rows, and are worth longer descents.

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    value, gradient = objective.value_and_gradient(w)
    steps = steps_for_a_hessian(w.size, by_rows)
    n_iter, S = 0, None
    for _ in range(_MAX_HESSIANS):
        if S is not None and _arrived(value, gradient, S):
            break
        H = objective.hessian(w)
        if not np.isfinite(H).all():
            break
        eigenvalues, V = scipy.linalg.eigh(H, driver="evd")
        sizes = np.abs(eigenvalues)
        scale = max(float(sizes.max()), np.finfo(float).tiny)
        norm = float(np.linalg.norm(gradient))
        relative = norm / (scale * (1.0 + float(np.linalg.norm(w))))
        lift = _LIFT * scale * min(1.0, max(relative / _FAR, _LEAST_LIFT))
        S = V / np.sqrt(sizes + lift)
        if _arrived(value, gradient, S):
            break
        found, n = _block(objective, w, S, steps)
        n_iter += n
        new_value, new_gradient = objective.value_and_gradient(found)
        lower = new_value < value - 1e-14 * abs(value)
        if not (lower or float(np.linalg.norm(new_gradient)) < norm):
            break
        slow = value - new_value < _SLOW * abs(value)
        w, value, gradient = found, new_value, new_gradient
        if slow and not _arrived(value, gradient, S):
            break
    if S is None or not isinstance(objective, Objective):
        return w, n_iter
    return _settled(objective, w, gradient, S), n_iter


def _arrived(value: float, gradient: Array, S: Array) -> bool:
    """Whether Newton's step would gain next to nothing: the gradient's own measure."""
    gain = float(np.sum((S.T @ gradient) ** 2))
    return gain <= _GAIN * max(abs(value), np.finfo(float).tiny)


def _settled(objective: Objective, w: Array, gradient: Array, S: Array) -> Array:
    """Newton to rounding, by products with H, which is near one in these scales."""
    b = -(S.T @ gradient)
    for _ in range(_LAST):
        norm, product = float(np.linalg.norm(b)), PointProducts(objective, w).hessian
        if not norm > 0.0:
            return w
        run = minimise_residual(
            b,
            partial(_in_scales, product, S),
            target=_FORCING * norm,
            max_steps=_MAX_PRODUCTS,
            null_tol=0.0,
            rcond=0.0,
        )
        if not run.space.ritz()[0].min() > 0.0:
            return w
        candidate = w + S @ run.value
        moved = -(S.T @ objective.gradient(candidate))
        if not np.linalg.norm(moved) < STILL_SHRINKING * norm:
            return w
        w, b = candidate, moved
    return w


def _in_scales(
    product: Callable[[Array], Array], S: Array, z: Array, _: float
) -> Array:
    return np.asarray(S.T @ product(S @ z))


def _block(
    objective: Function, start: Array, S: Array, steps: int
) -> tuple[Array, int]:
    """L-BFGS along z with ``w = start + S z``."""

    def scaled(z: Array) -> tuple[float, Array]:
        value, gradient = objective.value_and_gradient(start + S @ z)
        return value, S.T @ gradient

    z, n_iter = descended(scaled, np.zeros(S.shape[1]), steps)
    return start + S @ z, n_iter
