"""Whether the curvature holds without a row: what no step of low rank can see.

M, H less a row's Gauss-Newton term, is blind to directions that only the row's
residual, or the movement, makes soft.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe
from ..objective import Objective
from ._without_rows import ALONE

__all__ = ["softened"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

# Steps that tell the largest eigenvalue of a row's curvature; and the difference of
# weights, relative to 1 + |w|, that tells curvature.
_N_LANCZOS, _BEND = 6, 1e-5


def softened(
    objective: Objective,
    weights: Array,
    halves: tuple[Array, Array],
    rows: Rows,
    residuals: Callable[[Array], Array],
) -> Array:
    """By how much H without a row may be softer than H, (k,); inf of a saddle.

    The direction that the row's own curvature holds most, beside H, is that of the
    largest eigenvalue l of ``C'H_i C`` with ``H^-1 = C C'``: the row's leverage, and
    what its residual bends. There H without the row is ``1 - l`` of what it was; and at
    the new weights a difference of gradients tells, there and along the softest
    direction of H.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
        The solution.
    halves : (ndarray of shape (p, r), ndarray of shape (r,))
        V and d with ``H^+ = V diag(1 / d) V'``.
    rows : ndarray of int of shape (k,)
    residuals : callable
        R without each row at the new weights, moved by the rows of an array (k, p).

    Returns
    -------
    factors : ndarray of shape (k,)
    """
    V, d = halves
    if not (d > 0.0).all():
        return np.full(len(rows), np.inf)
    C = V / np.sqrt(d)
    largest, z = _softest(objective, weights, rows, C)
    soft = probe(C.shape[1])
    for _ in range(_N_LANCZOS):  # Towards the smallest eigenvalue of H.
        soft = (soft / np.linalg.norm(soft)) @ C.T @ C
    along = np.repeat((soft / np.linalg.norm(soft) @ C.T)[None], len(rows), axis=0)
    size = _BEND * (1.0 + float(np.linalg.norm(weights)))
    left = np.minimum(1.0 - largest, _bent(residuals, [z, along], size))
    return np.where(left > ALONE, 1.0 / np.maximum(left, ALONE), np.inf)


def _softest(
    objective: Objective, weights: Array, rows: Rows, C: Array
) -> tuple[Array, Array]:
    """Largest eigenvalues of ``C'H_i C``, and C times their vectors.

    By a few Lanczos steps, from the same random start for all.
    """
    u = np.repeat(probe(C.shape[1])[None], len(rows), axis=0)
    basis = [u / np.linalg.norm(u[0])]
    k = min(_N_LANCZOS, C.shape[1])
    T = np.zeros((len(rows), k, k))
    for j in range(k):
        u = basis[j]
        z = objective.row_curvature_products(weights, rows, u @ C.T) @ C
        T[:, j, j] = (u * z).sum(axis=1)
        for q in basis:
            z = z - (q * z).sum(axis=1, keepdims=True) * q
        beta = np.linalg.norm(z, axis=1)
        if j + 1 < k:
            T[:, j, j + 1] = T[:, j + 1, j] = beta
            basis.append(z / np.maximum(beta, np.finfo(float).tiny)[:, None])
    values, vectors = np.linalg.eigh(T)
    along = np.einsum("jkr,kj->kr", np.stack(basis), vectors[:, :, -1])
    return np.maximum(values[:, -1], 0.0), along @ C.T


def _bent(
    residuals: Callable[[Array], Array], directions: list[Array], size: float
) -> Array:
    """Least ``z'H z`` without each row at the new weights; 1 with it at the old."""
    here = residuals(np.zeros_like(directions[0]))
    found = np.full(len(here), np.inf)
    for z in directions:
        step = size / np.maximum(np.linalg.norm(z, axis=1), np.finfo(float).tiny)
        moved = residuals(step[:, None] * z) - here
        found = np.fmin(found, (moved * z).sum(axis=1) / step)
    return np.where(np.isfinite(found), found, 0.0)
