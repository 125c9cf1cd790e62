r"""Inverse of a matrix of low rank that is lifted by a multiple of one, and its root.

For :math:`P = \sigma (I + B'B)` with :math:`I + B B' = L L'`, L lower triangular,

.. math::
    P^{-1} = \sigma^{-1} (I - B' (L L')^{-1} B) = R R', \qquad
    R = \sigma^{-1/2} (I - B' L^{-T} (I + L)^{-1} B),

by one product with B and one with its adjoint: Woodbury's formula, and the root by A.
Andrews, "A square root formulation of the Kalman covariance equations", AIAA J. 6,
1968, doi 10.2514/3.4671. Where the rows of B are at hand the eigenvectors of their
smaller Gram matrix give both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._norms import top_eigenvalue

__all__ = ["Lifted", "LiftedLowRank", "LiftedRows"]

Array = NDArray[np.float64]

# Eigenvalues below this share of the lift change nothing, and their vectors are noise.
_BESIDE_LIFT = 1e-3


class Lifted(Protocol):
    """``P = A'A + lift I``."""

    @property
    def lift(self) -> float:
        """No eigenvalue lies below."""

    @property
    def norm(self) -> float:
        """|A'A|_2."""

    def solve(self, v: Array) -> Array:
        """``P^-1 v``."""

    def root(self, z: Array) -> Array:
        """``R z`` with ``R R' = P^-1``."""

    def root_adjoint(self, v: Array) -> Array:
        """``R'v``."""


class LiftedLowRank:
    """``P = A'A + lift I`` of which ``A = sqrt(lift) B`` is known by its products.

    Parameters
    ----------
    gram : ndarray of shape (k, k)
        ``A A'``.
    push, pull : callable
        ``v -> A v`` and ``u -> A'u``.
    lift : float
        Positive.
    """

    def __init__(
        self,
        gram: Array,
        push: Callable[[Array], Array],
        pull: Callable[[Array], Array],
        lift: float,
    ) -> None:
        self.lift = lift
        self._gram, self._push, self._pull = gram, push, pull
        inner = gram / lift
        inner[np.diag_indices_from(inner)] += 1.0
        self._L = scipy.linalg.cholesky(inner, lower=True, overwrite_a=True)

    @cached_property
    def norm(self) -> float:
        """|A'A|_2."""
        return top_eigenvalue(self._gram) if self._gram.any() else 0.0

    def solve(self, v: Array) -> Array:
        """``P^-1 v`` for v of shape (n,)."""
        inner = self._triangular(self._triangular(self._push(v)), transposed=True)
        return (v - self._pull(inner) / self.lift) / self.lift

    def root(self, z: Array) -> Array:
        """``R z`` for z of shape (n,)."""
        inner = self._triangular(self._push(z), raised=True)
        return self._lowered(z, self._triangular(inner, transposed=True))

    def root_adjoint(self, v: Array) -> Array:
        """``R'v`` for v of shape (n,)."""
        inner = self._triangular(self._push(v))
        inner = self._triangular(inner, raised=True, transposed=True)
        return self._lowered(v, inner)

    def _lowered(self, v: Array, inner: Array) -> Array:
        return (v - self._pull(inner) / self.lift) / np.sqrt(self.lift)

    def _triangular(
        self, u: Array, *, raised: bool = False, transposed: bool = False
    ) -> Array:
        """``L^-1 u``, or ``(I + L)^-1 u``; of the transposed factor."""
        L = self._raised if raised else self._L
        found: Array = scipy.linalg.solve_triangular(
            L, u, lower=True, trans=int(transposed), check_finite=False
        )
        return found

    @cached_property
    def _raised(self) -> Array:
        L = self._L.copy()
        L[np.diag_indices_from(L)] += 1.0
        return L


class LiftedRows:
    """``P = A'A + lift I`` of rows A.

    Parameters
    ----------
    A : ndarray of shape (k, n)
    lift : float
        Positive.
    """

    def __init__(self, A: Array, lift: float) -> None:
        self.lift, self.rank = lift, min(A.shape)
        wide = A.shape[0] < A.shape[1]
        gram = A @ A.T if wide else A.T @ A
        eigenvalues, vectors = scipy.linalg.eigh(
            gram, driver="evd", overwrite_a=True, check_finite=False
        )
        self.norm = float(eigenvalues.max(initial=0.0))
        kept = eigenvalues > _BESIDE_LIFT * lift
        self._eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
        self._V = A.T @ vectors / np.sqrt(self._eigenvalues) if wide else vectors

    def with_lift(self, lift: float) -> Self:
        """The same of another lift, of no more than two decades less."""
        other = copy.copy(self)
        other.lift = lift
        return other

    def solve(self, v: Array) -> Array:
        """``P^-1 v`` for v of shape (n,)."""
        return self.root(self.root(v))

    def root(self, z: Array) -> Array:
        """``R z`` with the symmetric R, for z of shape (n,)."""
        along = (z @ self._V) * self._roots
        return np.asarray(z / np.sqrt(self.lift) + self._V @ along)

    root_adjoint = root

    @property
    def _roots(self) -> Array:
        lifted = self._eigenvalues + self.lift
        return 1.0 / np.sqrt(lifted) - 1.0 / np.sqrt(self.lift)
