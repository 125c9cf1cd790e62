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

from ._in_scales import DenseScales, descended_in_scales, gain, settled
from ._some_weights import Function

__all__ = ["scaled_lbfgs"]

Array = NDArray[np.float64]

# Hessians at most; and steps between two of them: half a Hessian's price, which is half
# a gradient for each weight where it is formed by rows, and less by layers.
_MAX_HESSIANS = 12
_LEAST, _MOST = 60, 400
# Share of |H| by which all eigenvalues are lifted, and of that where R is small: then
# small ones are known.
_LIFT, _LEAST_LIFT, _FAR = 1e-3, 1e-4, 1e-4
# Gain of Newton's step, relative to the loss, at which descent has arrived.
_GAIN = 1e-13
# Share of the loss that one of so many blocks gains at least where another Hessian is
# worth it.
_SLOW, _PATIENCE = 1e-5, 2


def scaled_lbfgs(objective: Function, w: Array) -> tuple[Array, int]:
    """Descend until a step of Newton's would gain nothing, and take it by products.

    Parameters
    ----------
    objective : Objective or SomeWeights
    w : ndarray of shape (p,)

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    value, gradient = objective.value_and_gradient(w)
    steps = int(np.clip(w.size // 2, _LEAST, _MOST))
    n_iter, scales, stalled = 0, None, 0
    for _ in range(_MAX_HESSIANS):
        if scales is not None and gain(value, gradient, scales) <= _GAIN:
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
        scales = DenseScales(V / np.sqrt(sizes + lift))
        if gain(value, gradient, scales) <= _GAIN:
            break
        found, n = descended_in_scales(objective, w, scales, steps)
        n_iter += n
        new_value, new_gradient = objective.value_and_gradient(found)
        lower = new_value < value - 1e-14 * abs(value)
        if not (lower or float(np.linalg.norm(new_gradient)) < norm):
            break
        slow = value - new_value < _SLOW * abs(value)
        stalled = stalled + 1 if slow else 0
        w, value, gradient = found, new_value, new_gradient
        if stalled == _PATIENCE and gain(value, gradient, scales) > _GAIN:
            break
    if scales is None:
        return w, n_iter
    return settled(objective, w, gradient, scales), n_iter
