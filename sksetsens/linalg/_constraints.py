"""Linear constraints ``Z v = c`` by a QR decomposition of Z'."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["OnTangentSpace", "independent_rows"]

Array = NDArray[np.float64]

# Rows of Z count as dependent where one is within this share of its length of the span
# of others.
_DEPENDENT = 1e-9


class OnTangentSpace:
    """What inverses on ker Z share: the parts of vectors along and across it.

    Attributes
    ----------
    constraint_rank : int
        Number of independent rows of Z.
    independent : ndarray of int of shape (constraint_rank,)
        Which they are, ascending.
    normal_basis : ndarray of shape (p, constraint_rank)
        Orthonormal, of range Z'.
    """

    constraint_rank: int
    independent: NDArray[np.int64]
    normal_basis: Array

    def _constrain(self, Z: Array, *, complete: bool = False) -> Array:
        """Decompose Z; returns the orthonormal basis of ker Z where asked for."""
        self._n_constraints = len(Z)
        self.independent = independent_rows(Z)
        self.constraint_rank = n = len(self.independent)
        columns = Z[self.independent].T
        if complete:
            Q, R = np.linalg.qr(columns, mode="complete")
        else:
            Q, R = np.linalg.qr(columns)
        self.normal_basis, self._R = Q[:, :n], R[:n]
        return Q[:, n:]

    def tangent_part(self, v: Array) -> Array:
        """Orthogonal projection onto ker Z of vectors in the last axis of v."""
        return v - (v @ self.normal_basis) @ self.normal_basis.T

    def lift(self, c: Array) -> Array:
        """``Z^+ c`` for vectors in the last axis of c, of shape (..., m)."""
        inside = c[..., self.independent]
        solved = scipy.linalg.solve_triangular(self._R, inside.T, trans="T")
        return solved.T @ self.normal_basis.T

    def multipliers(self, b: Array) -> Array:
        """``(Z^+)'b`` for vectors in the last axis of b; 0 for dependent rows."""
        found = np.zeros((*b.shape[:-1], self._n_constraints))
        solved = scipy.linalg.solve_triangular(self._R, (b @ self.normal_basis).T)
        found[..., self.independent] = solved.T
        return found


def independent_rows(Z: Array, weights: Array | None = None) -> NDArray[np.int64]:
    """Rows of Z of which each adds to the span of the others, ascending.

    Judged on rows of unit length, by a pivoted QR decomposition; of several choices,
    rows of large weight are preferred.
    """
    if not len(Z):
        return np.zeros(0, dtype=np.int64)
    lengths = np.linalg.norm(Z, axis=1)
    scales = np.where(lengths > 0.0, 1.0 / np.where(lengths > 0.0, lengths, 1.0), 1.0)
    least = 1.0
    if weights is not None:
        scales, least = scales * weights, float(weights.min())
    R, order = scipy.linalg.qr((Z * scales[:, None]).T, mode="r", pivoting=True)
    sizes = np.abs(np.diag(R))
    return np.sort(order[: int((sizes > _DEPENDENT * least).sum())])
