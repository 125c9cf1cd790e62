"""Inverse of a positive definite matrix by its Cholesky factor, with its evidence."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

from ._norms import UNDERFLOWS, top_eigenvalue
from ._pseudoinverse import DECADE, InCommonUnits, Solution, solution
from ._subspace import Subspace
from ._symmetric import MIN_DIMENSION, SymmetricPseudoInverse

__all__ = ["DefiniteInverse", "symmetric_inverse"]

Array = NDArray[np.float64]

# Below this many rows the eigendecomposition costs milliseconds, and shows all.
_SMALL = 400


class DefiniteInverse(InCommonUnits):
    """``H^-1`` of a matrix that proved to be positive definite.

    The Cholesky factor costs a tenth of the eigendecomposition. That no eigenvalue lies
    near the cut-off is certified by the extreme eigenvalues, from Lanczos iterations
    with H and with its inverse; `make` gives None where it cannot be.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import DefiniteInverse
    >>> inverse = DefiniteInverse.make(np.diag(np.arange(1.0, 11.0)))
    >>> inverse.rank, inverse.inertia
    (10, (0, 0, 10))
    >>> inverse.apply(np.arange(1.0, 11.0)).round(12)
    array([1., 1., 1., 1., 1., 1., 1., 1., 1., 1.])
    >>> DefiniteInverse.make(np.diag(np.arange(10.0))) is None
    True
    """

    is_rank_exact = True

    def __init__(
        self, H: Array, factor: tuple[Array, bool], extremes: Array, cutoff: float
    ) -> None:
        self._H, self._factor = H, factor
        self.eigenvalues = extremes
        self.cutoff = cutoff
        self.rank, self.kernel_dim = len(H), 0
        self.gap = float(extremes[0] / (np.finfo(np.float64).eps * extremes[1]))
        self.inertia = (0, 0, len(H))
        self.kernel = Subspace(np.zeros((len(H), 0)))
        self.has_clear_cutoff = True

    @classmethod
    def make(
        cls, H: Array, *, rcond: float | None = None, noise: float = 0.0
    ) -> Self | None:
        """Factorise, or None where H is not definite beyond doubt.

        Parameters
        ----------
        H : ndarray of shape (p, p)
        rcond, noise
            As in `SymmetricPseudoInverse`.

        Returns
        -------
        inverse : DefiniteInverse or None
        """
        try:
            factor = scipy.linalg.cho_factor(H, lower=True)
        except np.linalg.LinAlgError:
            return None
        p = len(H)
        if not np.diag(H).min() > UNDERFLOWS:
            return None
        solve = LinearOperator(
            (p, p), lambda v: scipy.linalg.cho_solve(factor, v), dtype=np.float64
        )
        try:
            largest, inverse = top_eigenvalue(H), top_eigenvalue(solve)
        except ArpackNoConvergence:
            return None
        rounding = max(p, MIN_DIMENSION) * np.finfo(np.float64).eps
        cutoff = (rounding + noise if rcond is None else rcond) * largest
        if not 1.0 / inverse > 2.0 * DECADE * cutoff:
            return None
        return cls(H, factor, np.array([1.0 / inverse, largest]), cutoff)

    @cached_property
    def _spectrum(self) -> SymmetricPseudoInverse:
        """All eigenvalues and vectors, where they are asked for."""
        return SymmetricPseudoInverse(self._H, rank=self.rank)

    def range_basis(self) -> tuple[Array, Array]:
        """Eigenvectors, shape (p, p), and eigenvalues."""
        return self._spectrum.range_basis()

    def halves(self) -> tuple[Array, Array]:
        """V and d with ``H^-1 = V diag(1 / d) V'``: the Cholesky factor's inverse."""
        lower = np.tril(self._factor[0])
        inverse = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)
        return inverse.T, np.ones(len(lower))

    @cached_property
    def weakest(self) -> tuple[float, Array]:
        """Smallest eigenvalue and its unit vector of shape (p,)."""
        return self._spectrum.weakest

    def apply(self, b: Array) -> Array:
        """``H^-1 b`` for vectors in the last axis of b."""
        flat = b.reshape(-1, b.shape[-1])
        return scipy.linalg.cho_solve(self._factor, flat.T).T.reshape(b.shape)

    def solve(self, b: Array) -> Solution:
        """The solution of ``H v = -b``; its residual is that of the arithmetic."""
        value = -self.apply(b)
        return solution(value, self._H @ value + b, b)


def symmetric_inverse(
    H: Array,
    *,
    rcond: float | None = None,
    noise: float = 0.0,
    rank: int | None = None,
) -> SymmetricPseudoInverse | DefiniteInverse:
    """The cheapest exact factorisation that H allows.

    Parameters
    ----------
    H, rcond, noise, rank
        As in `SymmetricPseudoInverse`.

    Returns
    -------
    inverse : DefiniteInverse or SymmetricPseudoInverse
    """
    if len(H) >= _SMALL and rank in (None, len(H)):
        definite = DefiniteInverse.make(H, rcond=rcond, noise=noise)
        if definite is not None:
            return definite
    return SymmetricPseudoInverse(H, rcond=rcond, noise=noise, rank=rank)
