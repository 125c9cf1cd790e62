r"""Lipschitz modulus of the solution set: how far it can move at worst.

By the Mordukhovich criterion the mapping F has the Lipschitz-like (Aubin) property at
``(x, w)`` iff :math:`\operatorname{range} B \subset \operatorname{range} H`, and its
modulus is then :math:`\kappa = |H^+ B|_2` (Dontchev and Rockafellar 2009, Theorem
4B.2; arXiv 2412.11057, Section 3). All norms are Euclidean: weights against the
Frobenius norm of the perturbation of X.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .derivatives import GraphicalDerivative
from .linalg import operator_norm
from .linalg._pseudoinverse import CONSISTENCY_TOL

__all__ = ["Modulus", "modulus"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Modulus:
    """Lipschitz modulus at one solution.

    Attributes
    ----------
    value : float
        ``|H^+ B|_2``; inf where the Lipschitz-like property fails.

    direction : ndarray of the shape of X
        Perturbation of Frobenius norm 1 that attains it; NaN where it is infinite.

    leak : float
        ``|P_ker B|_F / |B|_F``, estimated: the part of B outside range H.
    """

    value: float
    direction: Array
    leak: float


def modulus(gd: GraphicalDerivative, rows: NDArray[np.bool_] | None = None) -> Modulus:
    """Modulus over the whole data set, or over perturbations of some rows.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.

    rows : ndarray of bool of shape (n_samples,), default=None
        Rows that may move; None for all.

    Returns
    -------
    modulus : Modulus
    """
    shape = gd.objective.input_shape
    if rows is None:
        leak = gd.kernel_cross_norm
        if leak > CONSISTENCY_TOL:
            return Modulus(np.inf, np.full(shape, np.nan), leak)
    else:
        leak = np.nan
    operator = gd.solution_operator
    if rows is not None:
        operator = operator @ _row_selector(rows, shape)
    value, direction = operator_norm(operator)
    full = np.zeros(shape)
    if rows is None:
        full = direction.reshape(shape)
    else:
        full[rows] = direction.reshape(-1, *shape[1:])
    return Modulus(value, full, leak)


def _row_selector(rows: NDArray[np.bool_], shape: tuple[int, ...]) -> LinearOperator:
    def scatter(moving: Array) -> Array:
        full = np.zeros(shape)
        full[rows] = np.reshape(moving, (-1, *shape[1:]))
        return full.ravel()

    def gather(full: Array) -> Array:
        return np.reshape(full, shape)[rows].ravel()

    n_moving = int(rows.sum()) * int(np.prod(shape[1:]))
    return LinearOperator(
        (int(np.prod(shape)), n_moving), scatter, gather, dtype=np.float64
    )
