"""L-BFGS on the full-batch objective, to the neighbourhood of a solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from ._some_weights import Function

__all__ = ["descended", "lbfgs"]

Array = NDArray[np.float64]


def lbfgs(
    objective: Function, w: Array, tol: float, max_iter: int
) -> tuple[Array, int]:
    """Descend until the gradient is below ``tol |H|_2 (1 + |w|)``.

    Parameters
    ----------
    objective : Objective or SomeWeights
    w : ndarray of shape (p,)
    tol : float
    max_iter : int

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    scale = objective.hessian_norm(w) * (1.0 + float(np.linalg.norm(w)))
    gtol = tol * scale / np.sqrt(w.size)
    return descended(objective.value_and_gradient, w, max_iter, gtol)


def descended(
    function: Callable[[Array], tuple[float, Array]],
    start: Array,
    max_iter: int,
    gtol: float = 0.0,
) -> tuple[Array, int]:
    """Where L-BFGS takes a function, or its start where that has no value; iterations.

    It ends where the largest entry of the gradient is ``gtol``, or nothing is gained.
    """
    result = scipy.optimize.minimize(
        function,
        start,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": max_iter,
            "maxfun": 2 * max_iter,
            "maxcor": 30,
            "ftol": 0.0,
            "gtol": gtol,
        },
    )
    return (result.x if np.isfinite(result.fun) else start), int(result.nit)
