r"""Inverse of a matrix of low rank that is lifted by a multiple of one, and its root.

For :math:`P = \sigma (I + B'B)` with :math:`I + B B' = L L'`, L lower triangular,

.. math::
    P^{-1} = \sigma^{-1} (I - B' (L L')^{-1} B) = R R', \qquad
    R = \sigma^{-1/2} (I - B' L^{-T} (I + L)^{-1} B),

by one product with B and one with its adjoint: Woodbury's formula, and the root by A.
Andrews, "A square root formulation of the Kalman covariance equations", AIAA J. 6,
1968, doi 10.2514/3.4671.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._norms import top_eigenvalue

__all__ = ["LiftedLowRank"]

Array = NDArray[np.float64]


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
