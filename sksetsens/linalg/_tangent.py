"""Pseudo-inverses of symmetric matrices on the kernel of linear constraints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._constraints import OnTangentSpace
from ._definite import symmetric_inverse
from ._krylov import KrylovInverse, Product
from ._outcome import KrylovSettings, Outcome
from ._probes import probe
from ._pseudoinverse import InCommonUnits, Solution
from ._subspace import Subspace

__all__ = ["KrylovTangentInverse", "TangentInverse"]

Array = NDArray[np.float64]


class TangentInverse(OnTangentSpace, InCommonUnits):
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
        self._H = H
        self.basis = self._constrain(Z, complete=True)
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
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute eigenvalue and its unit vector of shape (p,)."""
        value, vector = self.inner.weakest
        return value, self.basis @ vector

    def apply(self, b: Array) -> Array:
        """``T b`` for vectors in the last axis of b."""
        return self.inner.apply(b @ self.basis) @ self.basis.T

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


class KrylovTangentInverse(OnTangentSpace, KrylovInverse):
    """The same by products with H alone, for sizes at which no dense matrix fits.

    Krylov spaces of ``P H P`` with the orthogonal projector P onto ker Z stay in
    ker Z: rank, inertia, gap and kernel are those seen there, as `KrylovInverse` says.
    ker Z must have a dimension.

    Parameters
    ----------
    product : callable
        ``v -> H v`` for v of shape (p,), exact.

    Z : ndarray of shape (m, p)

    rcond, settings
        As in `KrylovInverse`.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import KrylovTangentInverse
    >>> H, Z = np.diag([1.0, 2.0, 4.0]), np.array([[0.0, 0.0, 1.0]])
    >>> inverse = KrylovTangentInverse(H.__matmul__, Z)
    >>> inverse.inertia, inverse.apply(np.array([1.0, 1.0, 1.0])).round(12).tolist()
    ((0, 0, 2), [1.0, 0.5, 0.0])
    """

    def __init__(
        self,
        product: Product,
        Z: Array,
        *,
        rcond: float | None = None,
        settings: KrylovSettings | None = None,
    ) -> None:
        self._constrain(Z)
        self._curved = product

        p = Z.shape[1]
        start = self.tangent_part(probe(p))
        image = self.tangent_part(product(start))
        across = float(np.linalg.norm(image) / np.linalg.norm(start))

        def on_tangents(v: Array) -> Array:
            # What rounding leaves across ker Z must not look like its null vectors.
            along = self.tangent_part(v)
            return self.tangent_part(product(along)) + across * (v - along)

        super().__init__(on_tangents, p, rcond=rcond, settings=settings)
        self._start, self._dim = start, p - self.constraint_rank

    def least_squares(
        self, b: Array, beside: Any = None, *, noise: float = 0.0
    ) -> Outcome:
        """See `KrylovInverse`; of the part of b in ker Z."""
        return super().least_squares(self.tangent_part(b), beside, noise=noise)

    def _null_part(self, v: Array) -> Array:
        return super()._null_part(self.tangent_part(v))

    def solve(self, b: Array, c: Array | None = None) -> Solution:
        """See `TangentInverse.solve`."""
        if c is None:
            return super().solve(b)
        lifted = self.lift(c)
        inner = super().solve(b - self._curved(lifted))
        return replace(inner, value=inner.value - lifted)
