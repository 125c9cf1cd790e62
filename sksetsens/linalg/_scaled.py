"""Pseudo-inverse of a symmetric matrix whose rows differ in scale by many decades."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from ._probes import probe
from ._pseudoinverse import Solution, solution
from ._subspace import Subspace
from ._symmetric import SymmetricPseudoInverse

__all__ = ["ScaledPseudoInverse"]

Array = NDArray[np.float64]

# Eigenvalues below this share of |H|_2 are read from the inverse, where they are the
# large ones; both know those in between to half the digits.
_HALF_THE_DIGITS = float(np.sqrt(np.finfo(np.float64).eps))
# Relative accuracy of the smallest eigenvalue where it is only told.
_TOL = 1e-3


class ScaledPseudoInverse:
    """``H^+`` where rank is judged on ``S H S`` with a diagonal S.

    Where a weight belongs to a column of data in other units, its curvature may lie
    below the rounding of ``|H|_2``, yet every digit of it is known: ``S H S`` has the
    condition that the problem has in better units. By Sylvester's law it has the
    inertia of H, and ``ker H = S ker(S H S)``. ``S (S H S)^+ S`` is a generalised
    inverse G of H, and ``H^+ = P G P`` with the orthogonal projector P on range H.
    Values, kernel and norms are Euclidean in the weights, as everywhere; whether b lies
    in range H is judged on ``S b``.

    Parameters
    ----------
    H : ndarray of shape (p, p)
        Symmetric matrix.

    scales : ndarray of shape (p,)
        Diagonal of S, positive; powers of two scale without rounding.

    noise, rank
        As in `SymmetricPseudoInverse`, of ``S H S``.

    References
    ----------
    A. van der Sluis, "Condition numbers and equilibration of matrices", Numerische
    Mathematik 14 (1969): the scaling to a unit diagonal is within a factor p of the
    best. A. J. Cox and N. J. Higham, "Stability of Householder QR factorization for
    weighted least squares problems" (1998): pivoting for rows of different scale.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import ScaledPseudoInverse, SymmetricPseudoInverse
    >>> H = np.diag([1.0, 2.0**-60])
    >>> SymmetricPseudoInverse(H).rank
    1
    >>> inverse = ScaledPseudoInverse(H, np.array([1.0, 2.0**30]))
    >>> inverse.rank, inverse.apply(np.array([1.0, 2.0**-60])).tolist()
    (2, [1.0, 1.0])
    """

    is_rank_exact = True

    def __init__(
        self,
        H: Array,
        scales: Array,
        *,
        noise: float = 0.0,
        rank: int | None = None,
    ) -> None:
        self._H, self.scales = H, scales
        scaled = H * scales[:, None] * scales
        self.scaled = SymmetricPseudoInverse(scaled, noise=noise, rank=rank)
        self.rank, self.kernel_dim = self.scaled.rank, self.scaled.kernel_dim
        self.gap, self.inertia = self.scaled.gap, self.scaled.inertia
        self.has_clear_cutoff = self.scaled.has_clear_cutoff

    @cached_property
    def kernel(self) -> Subspace:
        """ker H."""
        inside = self.scaled.kernel.spanning_basis() * self.scales[:, None]
        return Subspace(_orthonormal(inside))

    def apply(self, b: Array, *, cutoff: float | None = None) -> Array:
        """``H^+ b`` for vectors in the last axis of b.

        ``cutoff`` replaces the one on the eigenvalues of ``S H S``.
        """
        inside = self._in_range(b) * self.scales
        return self._in_range(self.scaled.apply(inside, cutoff=cutoff) * self.scales)

    def _in_range(self, v: Array) -> Array:
        return v - self.kernel.project(v) if self.kernel_dim else v

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``H v = -b`` with its evidence.

        Parameters
        ----------
        b : ndarray of shape (p,)

        Returns
        -------
        solution : Solution
        """
        # b lies in range H where S b lies in range S H S, and how nearly is told there.
        value, scaled = -self.apply(b), self.scales * b
        outside = self.scaled.kernel.project(scaled)
        if self.has_clear_cutoff:
            return solution(value, outside, scaled)

        def moved(factor: float) -> Array:
            return -self.apply(b, cutoff=factor * self.scaled.cutoff)

        return solution(value, outside, scaled, cutoff=self.cutoff, moved=moved)

    # Evidence in the units of H -------------------------------------------------------

    @cached_property
    def _range(self) -> tuple[Array, Array]:
        """Eigenvectors of H on its range, (p, rank), and eigenvalues, ascending.

        The large ones from H; the small ones, which are rounding there, from the
        inverse on what is orthogonal to those and to the kernel.
        """
        eigenvalues, vectors = scipy.linalg.eigh(self._H, driver="evd")
        sizes = np.abs(eigenvalues)
        large = sizes > _HALF_THE_DIGITS * sizes.max(initial=0.0)
        known = np.hstack([vectors[:, large], self.kernel.basis])
        left = np.linalg.qr(known, mode="complete")[0][:, known.shape[1] :]
        inverse = self.apply(left.T) @ left
        found, coordinates = np.linalg.eigh(0.5 * (inverse + inverse.T))
        values = np.concatenate([eigenvalues[large], 1.0 / found])
        order = np.argsort(values)
        basis = np.hstack([vectors[:, large], left @ coordinates])
        return basis[:, order], values[order]

    @cached_property
    def eigenvalues(self) -> Array:
        """Eigenvalues of H, ascending; those that count as zero are 0."""
        return np.sort(np.concatenate([self._range[1], np.zeros(self.kernel_dim)]))

    @cached_property
    def cutoff(self) -> float:
        """As far below the smallest kept eigenvalue of H as it is in ``S H S``.

        To three digits: it is told, and decides nothing.
        """
        kept = np.abs(self.scaled.range_basis()[1])
        if not kept.size:
            return self.scaled.cutoff
        p = len(self._H)
        inverse = LinearOperator((p, p), self.apply, dtype=np.float64)
        least = 1.0 / abs(eigsh(inverse, k=1, v0=probe(p), tol=_TOL)[0][0])
        return float(self.scaled.cutoff / kept.min() * least)

    def range_basis(self) -> tuple[Array, Array]:
        """Eigenvectors of the kept eigenvalues, shape (p, rank), and those."""
        return self._range

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute eigenvalue and its unit vector of shape (p,)."""
        if self.rank == 0:
            return 0.0, np.zeros(len(self._H))
        vectors, eigenvalues = self._range
        least = int(np.abs(eigenvalues).argmin())
        return float(abs(eigenvalues[least])), vectors[:, least]


def _orthonormal(columns: Array) -> Array:
    """Orthonormal basis of the columns' span, each row to its own accuracy."""
    largest = np.abs(columns).max(axis=1, initial=0.0)
    order = np.argsort(-largest, kind="stable")
    basis = np.empty_like(columns)
    basis[order] = scipy.linalg.qr(columns[order], mode="economic", pivoting=True)[0]
    return basis
