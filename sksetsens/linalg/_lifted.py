r"""Inverse of a matrix of low rank that is lifted by a multiple of one.

For :math:`P = A'A + \sigma I` with :math:`A A' = U \operatorname{diag}(s) U'`,

.. math::
    f(P) = f(\sigma) I + A' U \operatorname{diag}
    \Bigl(\frac{f(\sigma + s) - f(\sigma)}{s}\Bigr) U' A

for any function f, by one product with A and one with its adjoint (Woodbury's formula
where f is the inverse; N. J. Higham, "Functions of Matrices", 2008, Theorem 1.35).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["LiftedLowRank"]

Array = NDArray[np.float64]


class LiftedLowRank:
    """``P = A'A + lift I`` of which A is known by its products.

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
        self._push, self._pull = push, pull
        s, self._U = scipy.linalg.eigh(gram, driver="evd")
        self._s = np.clip(s, 0.0, None)

    @property
    def norm(self) -> float:
        """|A'A|_2."""
        return float(self._s[-1]) if self._s.size else 0.0

    def solve(self, v: Array) -> Array:
        """``P^-1 v`` for v of shape (n,)."""
        return self._less(v, 1.0 / (self.lift + self._s)) / self.lift

    def solve_root(self, v: Array) -> Array:
        """``P^(-1/2) v``, the symmetric root, for v of shape (n,)."""
        ratio = np.sqrt(1.0 + self._s / self.lift)
        shares = 1.0 / (ratio * (ratio + 1.0)) / self.lift
        return self._less(v, shares) / np.sqrt(self.lift)

    def _less(self, v: Array, shares: Array) -> Array:
        inner = self._U @ (shares * (self._U.T @ self._push(v)))
        return np.asarray(v - self._pull(inner))
