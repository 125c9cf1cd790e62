"""Pseudo-inverse of a dense symmetric matrix by its eigendecomposition."""

from __future__ import annotations

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

Array = NDArray[np.float64]

# LAPACK's eigenvalues carry an error of a few eps |H|, and the matrix itself one of
# about eps |H| per accumulated term; 1000 eps keeps a decade clear above both.
MIN_DIMENSION = 1000


class SymmetricPseudoInverse(InCommonUnits):
    """``H^+`` of a symmetric, possibly singular and indefinite matrix.

    Parameters
    ----------
    H : ndarray of shape (p, p)
        Symmetric matrix.

    rcond : float, default=None
        Eigenvalues up to ``rcond * |H|_2`` in absolute value count as zero. None
        for ``max(p, 1000) * eps + noise``.

    noise : float, default=0.0
        Relative error of H itself, for example from weights that are not exactly
        stationary; widens the default cut-off only. Eigenvalues between rounding and
        the widened cut-off are neither zero nor not: they deny a clear cut-off.

    rank : int, default=None
        Keep this many eigenvalues, the largest in absolute value, whatever ``rcond``.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import SymmetricPseudoInverse
    >>> inverse = SymmetricPseudoInverse(np.array([[20.0, 10.0], [10.0, 5.0]]))
    >>> inverse.rank, inverse.kernel_dim, inverse.inertia
    (1, 1, (0, 1, 1))
    >>> inverse.solve(np.array([-4.0, -2.0])).value.round(6)
    array([0.16, 0.08])
    >>> inverse.solve(np.array([1.0, -2.0])).is_consistent
    False
    """

    is_rank_exact = True

    def __init__(
        self,
        H: Array,
        *,
        rcond: float | None = None,
        noise: float = 0.0,
        rank: int | None = None,
    ) -> None:
        p = H.shape[0]
        self.eigenvalues, self._vectors = scipy.linalg.eigh(H, driver="evd")
        magnitudes = np.abs(self.eigenvalues)
        scale = float(magnitudes.max(initial=0.0))
        eps = float(np.finfo(H.dtype).eps)
        rounding = max(p, MIN_DIMENSION) * eps
        self._unresolved_from = np.inf if rcond is not None else rounding * scale
        self.cutoff = (rounding + noise if rcond is None else rcond) * scale
        if rank is not None:
            self.cutoff = cutoff_of_rank(magnitudes, rank)
        self._kept = magnitudes > self.cutoff
        self.rank = int(self._kept.sum())
        self.kernel_dim = p - self.rank
        self.gap = gap_at(magnitudes, self.cutoff, eps * scale)
        self.inertia = (
            int((self._kept & (self.eigenvalues < 0)).sum()),
            self.kernel_dim,
            int((self._kept & (self.eigenvalues > 0)).sum()),
        )
        thin_kernel = self.kernel_dim <= self.rank
        columns = ~self._kept if thin_kernel else self._kept
        self.kernel = Subspace(self._vectors[:, columns], is_complement=not thin_kernel)

    @property
    def rank_without_noise(self) -> int:
        """Number of eigenvalues above the rounding of H, by the default cut-off."""
        return int((np.abs(self.eigenvalues) > self._unresolved_from).sum())

    @property
    def has_clear_cutoff(self) -> bool:
        """Whether no eigenvalue lies within a decade of the cut-off."""
        magnitudes = np.abs(self.eigenvalues)
        unresolved = (magnitudes > self._unresolved_from) & (magnitudes <= self.cutoff)
        return clear_at(magnitudes, self.cutoff) and not bool(unresolved.any())

    def range_basis(self) -> tuple[Array, Array]:
        """Eigenvectors of the kept eigenvalues, shape (p, rank), and those."""
        return self._vectors[:, self._kept], self.eigenvalues[self._kept]

    def halves(self) -> tuple[Array, Array]:
        """V and d with ``H^+ = V diag(1 / d) V'``: the kept part of the spectrum."""
        return self.range_basis()

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute eigenvalue and its unit vector of shape (p,)."""
        if self.rank == 0:
            return 0.0, np.zeros(len(self._vectors))
        vectors, eigenvalues = self.range_basis()
        least = int(np.abs(eigenvalues).argmin())
        return float(abs(eigenvalues[least])), vectors[:, least]

    def apply(self, b: Array, *, cutoff: float | None = None) -> Array:
        """``H^+ b`` for vectors in the last axis of b; a cut-off may replace ours."""
        kept = self._kept if cutoff is None else np.abs(self.eigenvalues) > cutoff
        vectors = self._vectors[:, kept]
        return ((b @ vectors) / self.eigenvalues[kept]) @ vectors.T

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``H v = -b`` with its evidence.

        Parameters
        ----------
        b : ndarray of shape (p,)

        Returns
        -------
        solution : Solution
        """
        value, outside = -self.apply(b), self.kernel.project(b)
        if self.has_clear_cutoff:
            return solution(value, outside, b)

        def moved(factor: float) -> Array:
            return -self.apply(b, cutoff=factor * self.cutoff)

        return solution(value, outside, b, cutoff=self.cutoff, moved=moved)
