"""L-BFGS that starts each step from a given approximation of the inverse Hessian.

Nocedal and Wright, "Numerical Optimization" (2nd ed., 2006), Algorithms 7.4 and 7.5
with ``H_k^0`` a preconditioner, which SciPy's L-BFGS-B does not take. The line search
is SciPy's.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

__all__ = ["preconditioned_lbfgs"]

Array = NDArray[np.float64]

_MEMORY = 30
# Curvature along a step, relative to its length, from which it is no rounding.
_CURVED = 1e-10


def preconditioned_lbfgs(
    function: Callable[[Array], tuple[float, Array]],
    w: Array,
    inverse: Callable[[Array], Array],
    max_iter: int,
) -> tuple[Array, int]:
    """Descend until as many steps are taken, or none falls.

    Parameters
    ----------
    function : callable
        Value and gradient.
    w : ndarray of shape (p,)
        Start.
    inverse : callable
        The positive definite preconditioner times a vector.
    max_iter : int

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    evaluated = _Remembered(function)
    value, gradient = evaluated(w)
    pairs: deque[tuple[Array, Array, float]] = deque(maxlen=_MEMORY)
    for n_iter in range(max_iter):
        direction = -_two_loops(gradient, pairs, inverse)
        if not float(gradient @ direction) < 0.0:
            return w, n_iter
        step = _wolfe(evaluated, w, direction, value, gradient)
        if step is None:
            return w, n_iter
        moved = w + step * direction
        new_value, new_gradient = evaluated(moved)
        if not np.isfinite(new_value):
            return w, n_iter
        s, y = moved - w, new_gradient - gradient
        if s @ y > _CURVED * np.linalg.norm(s) * np.linalg.norm(y):
            pairs.append((s, y, 1.0 / float(s @ y)))
        w, value, gradient = moved, new_value, new_gradient
    return w, max_iter


def _two_loops(
    gradient: Array,
    pairs: deque[tuple[Array, Array, float]],
    inverse: Callable[[Array], Array],
) -> Array:
    q, shares = gradient.copy(), []
    for s, y, rho in reversed(pairs):
        shares.append(rho * float(s @ q))
        q -= shares[-1] * y
    r = inverse(q)
    for (s, y, rho), share in zip(pairs, reversed(shares), strict=True):
        r += (share - rho * float(y @ r)) * s
    return r


def _wolfe(
    evaluated: _Remembered, w: Array, direction: Array, value: float, gradient: Array
) -> float | None:
    """Length of a step that falls, a whole one first; None where none is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = scipy.optimize.line_search(
            lambda at: evaluated(at)[0],
            lambda at: evaluated(at)[1],
            w,
            direction,
            gradient,
            value,
        )
    return None if found[0] is None else float(found[0])


class _Remembered:
    """A function with the last points it was asked at."""

    def __init__(self, function: Callable[[Array], tuple[float, Array]]) -> None:
        self._function = function
        self._known: deque[tuple[Array, tuple[float, Array]]] = deque(maxlen=4)

    def __call__(self, at: Array) -> tuple[float, Array]:
        for where, found in self._known:
            if np.array_equal(where, at):
                return found
        found = self._function(at)
        self._known.append((at.copy(), found))
        return found
