"""Pseudo-inverse of a symmetric matrix on the kernel of linear constraints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._definite import symmetric_inverse
from ._pseudoinverse import InCommonUnits, Solution
from ._subspace import Subspace

__all__ = ["TangentInverse", "independent_rows"]

Array = NDArray[np.float64]

# Rows of Z count as dependent where one is within this share of its length of the span
# of others.
_DEPENDENT = 1e-9


class TangentInverse(InCommonUnits):
    r"""Solves ``H v + Z'mu = -b, Z v = -c`` for symmetric H and independent rows of Z.

    With an orthonormal basis U of ker Z and :math:`T = U (U'HU)^+ U'` the shortest
    solution is :math:`v = -T b - (I - T H) Z^+ c`; all are ``v + U ker(U'HU)``. Rank,
    kernel, gap and inertia are those of ``U'HU``, the matrix on the tangent space, and
    `apply` is T (Nocedal and Wright, "Numerical Optimization" (2006), Section 16.2).

    Parameters
    ----------
    H : ndarray of shape (p, p)
        Symmetric.

    Z : ndarray of shape (m, p)
        Constraints; of dependent rows the first ones in the order of a pivoted QR
        decomposition are kept.

    rcond, noise, rank
        As in `SymmetricPseudoInverse`, of ``U'HU``.

    Attributes
    ----------
    constraint_rank : int
        Number of independent rows of Z.

    independent : ndarray of int of shape (constraint_rank,)
        Which they are, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import TangentInverse
    >>> inverse = TangentInverse(np.diag([1.0, 2.0, 4.0]), np.array([[0.0, 0.0, 1.0]]))
    >>> inverse.inertia, inverse.apply(np.array([1.0, 1.0, 1.0])).tolist()
    ((0, 0, 2), [1.0, 0.5, 0.0])
    >>> inverse.lift(np.array([3.0])).tolist()
    [0.0, 0.0, 3.0]
    """

    is_rank_exact = True

    def __init__(
        self,
        H: Array,
        Z: Array,
        *,
        rcond: float | None = None,
        noise: float = 0.0,
        rank: int | None = None,
    ) -> None:
        self._H, self._n_constraints = H, len(Z)
        self.independent = independent_rows(Z)
        self.constraint_rank = n = len(self.independent)
        Q, R = np.linalg.qr(Z[self.independent].T, mode="complete")
        self._Q, self._R, self.basis = Q[:, :n], R[:n], Q[:, n:]
        reduced = self.basis.T @ H @ self.basis
        inner = symmetric_inverse(
            0.5 * (reduced + reduced.T), rcond=rcond, noise=noise, rank=rank
        )
        self.inner = inner
        self.eigenvalues, self.cutoff = inner.eigenvalues, inner.cutoff
        self.rank, self.kernel_dim = inner.rank, inner.kernel_dim
        self.gap, self.inertia = inner.gap, inner.inertia
        self.has_clear_cutoff = inner.has_clear_cutoff
        self.kernel = Subspace(self.basis @ inner.kernel.spanning_basis())

    def range_basis(self) -> tuple[Array, Array]:
        """Eigenvectors of ``U'HU`` that are kept, in R^p, and their eigenvalues."""
        vectors, eigenvalues = self.inner.range_basis()
        return self.basis @ vectors, eigenvalues

    @property
    def normal_basis(self) -> Array:
        """Orthonormal basis of range Z', shape (p, constraint_rank)."""
        return self._Q

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute eigenvalue and its unit vector of shape (p,)."""
        value, vector = self.inner.weakest
        return value, self.basis @ vector

    def apply(self, b: Array) -> Array:
        """``T b`` for vectors in the last axis of b."""
        return self.inner.apply(b @ self.basis) @ self.basis.T

    def lift(self, c: Array) -> Array:
        """``Z^+ c`` for vectors in the last axis of c, of shape (..., m)."""
        inside = c[..., self.independent]
        solved = scipy.linalg.solve_triangular(self._R, inside.T, trans="T")
        return solved.T @ self._Q.T

    def multipliers(self, b: Array) -> Array:
        """``(Z^+)'b`` for vectors in the last axis of b; 0 for dependent rows."""
        found = np.zeros((*b.shape[:-1], self._n_constraints))
        solved = scipy.linalg.solve_triangular(self._R, (b @ self._Q).T)
        found[..., self.independent] = solved.T
        return found

    def solve(self, b: Array, c: Array | None = None) -> Solution:
        """Shortest solution of ``H v + Z'mu = -b, Z v = -c`` with its evidence.

        Parameters
        ----------
        b : ndarray of shape (p,)
        c : ndarray of shape (m,), default=None
            None for zeros.

        Returns
        -------
        solution : Solution
            Consistent where ``b - H Z^+ c`` lies in the range of the tangent matrix.
        """
        lifted = np.zeros_like(b) if c is None else self.lift(c)
        inside = (b - self._H @ lifted) @ self.basis
        inner = self.inner.solve(inside)
        return replace(inner, value=self.basis @ inner.value - lifted)


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
