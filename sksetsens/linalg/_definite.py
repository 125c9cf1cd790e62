"""Inverse of a positive definite matrix by its Cholesky factor, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.blas import dsymm, dsymv
from scipy.linalg.lapack import dpotrf
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from ._norms import UNDERFLOWS, top_eigenvalue
from ._probes import probe
from ._pseudoinverse import DECADE, InCommonUnits, Solution, solution
from ._subspace import Subspace
from ._symmetric import MIN_DIMENSION, SymmetricPseudoInverse

__all__ = ["DefiniteInverse", "FactorisedNearby", "symmetric_inverse"]

Array = NDArray[np.float64]

# Below this many rows the eigendecomposition costs milliseconds, and shows all.
_SMALL = 400
# The smallest eigenvalue is known from above, to three digits.
_BELOW = 0.99
# Relative accuracy of the largest eigenvalue of the inverse, with its vector.
_WEAKEST_TOL = 1e-8


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
        self, packed: Array, diagonal: Array, extremes: Array, cutoff: float
    ) -> None:
        # The lower triangle is the factor's, the one above the diagonal that of H.
        self._packed, self._diagonal = packed, diagonal
        self.eigenvalues = extremes
        self.cutoff = cutoff
        self.rank, self.kernel_dim = len(packed), 0
        self.gap = float(extremes[0] / (np.finfo(np.float64).eps * extremes[1]))
        self.inertia = (0, 0, len(packed))
        self.kernel = Subspace(np.zeros((len(packed), 0)))
        self.has_clear_cutoff = True

    @classmethod
    def make(
        cls, H: Array, *, rcond: float | None = None, noise: float = 0.0
    ) -> Self | None:
        """Factorise, or None where H is not definite beyond doubt.

        Parameters
        ----------
        H : ndarray of shape (p, p)
            Symmetric; not kept.
        rcond, noise
            As in `SymmetricPseudoInverse`.

        Returns
        -------
        inverse : DefiniteInverse or None
        """
        packed, info = dpotrf(H, lower=1, clean=0)
        if info != 0 or not np.diag(H).min() > UNDERFLOWS:
            return None
        p = len(H)
        solve = LinearOperator((p, p), partial(_solved, packed), dtype=np.float64)
        try:
            largest, inverse = top_eigenvalue(H), top_eigenvalue(solve)
        except ArpackNoConvergence:
            return None
        rounding = max(p, MIN_DIMENSION) * np.finfo(np.float64).eps
        cutoff = (rounding + noise if rcond is None else rcond) * largest
        if not 1.0 / inverse > 2.0 * DECADE * cutoff:
            return None
        extremes = np.array([1.0 / inverse, largest])
        return cls(packed, np.diag(H).copy(), extremes, cutoff)

    @property
    def matrix(self) -> Array:
        """H, made anew, shape (p, p)."""
        return self.block(slice(None))

    def block(self, part: slice) -> Array:
        """Rows and columns of H that belong to some weights, made anew."""
        H = np.triu(self._packed[part, part], 1)
        H += H.T
        H[np.diag_indices_from(H)] = self._diagonal[part]
        return H

    def product(self, V: Array) -> Array:
        """``H V`` for V of shape (p,) or (p, k)."""
        packed = self._packed
        correction = self._diagonal - np.diag(packed)
        if V.ndim == 1:
            along: Array = dsymv(1.0, packed, V, lower=0)
            return along + correction * V
        many: Array = dsymm(1.0, packed, V, lower=0)
        return many + correction[:, None] * V

    @property
    def nearby(self) -> FactorisedNearby:
        """For solves with a matrix close to H."""
        least, largest = self.eigenvalues
        return FactorisedNearby(self._packed, _BELOW * least, largest)

    @cached_property
    def _spectrum(self) -> SymmetricPseudoInverse:
        """All eigenvalues and vectors, where they are asked for."""
        return SymmetricPseudoInverse(self.matrix, rank=self.rank)

    def range_basis(self) -> tuple[Array, Array]:
        """Eigenvectors, shape (p, p), and eigenvalues."""
        return self._spectrum.range_basis()

    def halves(self) -> tuple[Array, Array]:
        """V and d with ``H^-1 = V diag(1 / d) V'``: the Cholesky factor's inverse."""
        lower = np.tril(self._packed)
        inverse = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)
        return inverse.T, np.ones(len(lower))

    @cached_property
    def weakest(self) -> tuple[float, Array]:
        """Smallest eigenvalue and its unit vector of shape (p,)."""
        p = self.rank
        if p < _SMALL:
            return self._spectrum.weakest
        solve = LinearOperator((p, p), partial(_solved, self._packed), dtype=np.float64)
        try:
            values, vectors = eigsh(solve, k=1, v0=probe(p), tol=_WEAKEST_TOL)
        except ArpackNoConvergence:
            return self._spectrum.weakest
        return 1.0 / float(values[0]), vectors[:, 0]

    def apply(self, b: Array) -> Array:
        """``H^-1 b`` for vectors in the last axis of b."""
        flat = b.reshape(-1, b.shape[-1])
        return _solved(self._packed, flat.T).T.reshape(b.shape)

    def solve(self, b: Array) -> Solution:
        """The solution of ``H v = -b``; its residual is that of the arithmetic."""
        value = -self.apply(b)
        return solution(value, self.product(value) + b, b)


def _solved(packed: Array, b: Array) -> Array:
    found: Array = scipy.linalg.cho_solve((packed, True), b, check_finite=False)
    return found


@dataclass(frozen=True)
class FactorisedNearby:
    """``P = L L'`` of a matrix that proved to be definite, as a `Lifted` one.

    Attributes
    ----------
    packed : ndarray of shape (p, p)
        L in its lower triangle.
    lift : float
        Below all eigenvalues.
    norm : float
        With the lift, the largest one.
    """

    packed: Array
    lift: float
    norm: float

    def solve(self, v: Array) -> Array:
        """``P^-1 v`` for v of shape (p,)."""
        return _solved(self.packed, v)

    def root(self, z: Array) -> Array:
        """``R z = L'^-1 z``."""
        return self._triangular(z, transposed=True)

    def root_adjoint(self, v: Array) -> Array:
        """``R'v = L^-1 v``."""
        return self._triangular(v, transposed=False)

    def _triangular(self, v: Array, transposed: bool) -> Array:
        found: Array = scipy.linalg.solve_triangular(
            self.packed, v, lower=True, trans=int(transposed), check_finite=False
        )
        return found


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
