"""Pseudo-inverse of ``H = A'A`` from the short, wide factor A: the dual form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._pseudoinverse import (
    InCommonUnits,
    Solution,
    clear_at,
    cutoff_of_rank,
    gap_at,
    solution,
)
from ._subspace import Subspace
from ._symmetric import MIN_DIMENSION

Array = NDArray[np.float64]


class GramPseudoInverse(InCommonUnits):
    """``(A'A)^+`` for A of shape (m, p), without forming the p x p matrix.

    The cut-off acts on eigenvalues of ``A'A`` as in the dense form, but A's singular
    values are known to relative precision eps, so that it may lie as low as eps^2:
    directions that a dense Hessian loses in rounding are told apart here.

    Parameters
    ----------
    A : ndarray of shape (m, p)
        Factor with ``H = A'A``.

    rcond : float, default=None
        Eigenvalues of ``A'A`` up to ``rcond * |A|_2^2`` count as zero. None for
        ``(max(m, p, 1000) * eps)^2``.

    rank : int, default=None
        Keep this many eigenvalues, the largest, whatever ``rcond``.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import GramPseudoInverse
    >>> inverse = GramPseudoInverse(np.array([[3.0, 0.0, 4.0]]))
    >>> inverse.rank, inverse.kernel_dim
    (1, 2)
    >>> inverse.solve_factored(np.array([5.0])).value
    array([-0.6, -0. , -0.8])
    """

    is_rank_exact = True

    def __init__(
        self, A: Array, *, rcond: float | None = None, rank: int | None = None
    ) -> None:
        m, p = A.shape
        self._u, self._sigma, self._vt = scipy.linalg.svd(A, full_matrices=False)
        scale = float(self._sigma.max(initial=0.0))
        eps = float(np.finfo(A.dtype).eps)
        if rcond is None:
            rcond = (max(m, p, MIN_DIMENSION) * eps) ** 2
        self.cutoff = rcond * scale**2
        if rank is not None:
            self.cutoff = cutoff_of_rank(self._sigma**2, rank)
        self._kept = self._sigma > np.sqrt(self.cutoff)
        self.rank = int(self._kept.sum())
        self.kernel_dim = p - self.rank
        self.gap = gap_at(self._sigma**2, self.cutoff, (eps * scale) ** 2)
        self.inertia = (0, self.kernel_dim, self.rank)
        self.eigenvalues = self._sigma[::-1] ** 2
        self.kernel = Subspace(self._vt[self._kept].T, is_complement=True)

    @property
    def has_clear_cutoff(self) -> bool:
        """Whether no eigenvalue lies within a decade of the cut-off."""
        return clear_at(self._sigma**2, self.cutoff)

    def left_basis(self) -> tuple[Array, Array]:
        """Kept left singular vectors of A, shape (m, rank), and singular values."""
        return self._u[:, self._kept], self._sigma[self._kept]

    def range_basis(self) -> tuple[Array, Array]:
        """Kept right singular vectors of A, (p, rank), and eigenvalues of A'A."""
        _, sigma, vt = self._part(None)
        return vt.T, sigma**2

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept eigenvalue of A'A and its unit vector of shape (p,)."""
        if self.rank == 0:
            return 0.0, np.zeros(self._vt.shape[1])
        _, sigma, vt = self._part(None)
        least = int(sigma.argmin())
        return float(sigma[least] ** 2), vt[least]

    def _part(self, cutoff: float | None) -> tuple[Array, Array, Array]:
        kept = self._kept if cutoff is None else self._sigma > np.sqrt(cutoff)
        return self._u[:, kept], self._sigma[kept], self._vt[kept]

    def apply(self, b: Array, *, cutoff: float | None = None) -> Array:
        """``(A'A)^+ b`` for vectors of length p in the last axis of b."""
        _, sigma, vt = self._part(cutoff)
        return ((b @ vt.T) / sigma**2) @ vt

    def apply_factored(self, rho: Array, *, cutoff: float | None = None) -> Array:
        """``A^+ rho``, that is ``(A'A)^+ (A' rho)``, in the last axis of rho."""
        u, sigma, vt = self._part(cutoff)
        return ((rho @ u) / sigma) @ vt

    def apply_factored_adjoint(self, v: Array) -> Array:
        """``(A^+)' v`` for vectors of length p in the last axis of v."""
        u, sigma, vt = self._part(None)
        return ((v @ vt.T) / sigma) @ u.T

    def solve_factored(self, rho: Array) -> Solution:
        """Shortest solution of ``A'A v = -A' rho`` with its evidence.

        The right-hand side lies in range A' by construction; its residual is what
        singular values under the cut-off take away.
        """
        coefficients = self._sigma * (rho @ self._u)

        def value(cutoff: float) -> Array:
            return -self.apply_factored(rho, cutoff=cutoff)

        return self._solution(value, coefficients[~self._kept], coefficients)

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``A'A v = -b`` for any b of shape (p,)."""

        def value(cutoff: float) -> Array:
            return -self.apply(b, cutoff=cutoff)

        return self._solution(value, self.kernel.project(b), b)

    def _solution(
        self, value: Callable[[float], Array], outside: Array, b: Array
    ) -> Solution:
        found = value(self.cutoff)
        if self.has_clear_cutoff:
            return solution(found, outside, b)

        def moved(factor: float) -> Array:
            return value(factor * self.cutoff)

        return solution(found, outside, b, cutoff=self.cutoff, moved=moved)
