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
from .linalg import CONSISTENCY_TOL, operator_norm

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
        Largest ``|P_ker b| / |b|`` over the columns b of B, estimated: the part of B
        outside range H.
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
    rows = np.ones(shape[0], dtype=bool) if rows is None else rows
    moving = _row_selector(rows, shape)
    leak = _leak(gd, gd.B @ moving)
    if leak > CONSISTENCY_TOL:
        return Modulus(np.inf, np.full(shape, np.nan), leak)
    value, direction = operator_norm(gd.solution_operator @ moving)
    return Modulus(value, moving.matvec(direction).reshape(shape), leak)


def _leak(gd: GraphicalDerivative, B: LinearOperator) -> float:
    """Largest ``|P_ker b| / |b|`` over the columns b of B, estimated.

    For z uniform on the unit sphere of a k-dimensional space, ``k E (b'z)^2`` is the
    squared norm of b's projection on it. Columns are judged one by one, so that a
    feature of small scale is not hidden by a large one. The dual's B lies in range H
    by construction.
    """
    kernel = gd.kernel
    if kernel.dim == 0 or gd.solver_ == "dual":
        return 0.0
    rng = np.random.RandomState(0)
    everywhere, inside = np.zeros(B.shape[1]), np.zeros(B.shape[1])
    for _ in range(4):
        z = rng.standard_normal(kernel.n_dims)
        in_kernel = kernel.project(z)
        for seen, v in ((everywhere, z), (inside, in_kernel)):
            np.maximum(seen, np.abs(B.rmatvec(v / np.linalg.norm(v))), out=seen)
    # Columns ten decades below the largest are rounding.
    real = everywhere > 1e-10 * everywhere.max()
    if not real.any():
        return 0.0
    ratios = inside[real] / everywhere[real]
    return float(ratios.max() * np.sqrt(kernel.dim / kernel.n_dims))


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
