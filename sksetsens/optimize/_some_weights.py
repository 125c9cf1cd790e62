"""An objective as a function of some of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective

__all__ = ["Function", "SomeWeights"]

Array = NDArray[np.float64]


class Function(Protocol):
    """What descent asks of an objective."""

    @property
    def n_params(self) -> int:
        """Number of variables."""

    def value_and_gradient(self, weights: Array) -> tuple[float, Array]:
        """Of shape (n_params,)."""

    def gradient(self, weights: Array) -> Array:
        """Of shape (n_params,)."""

    def hessian(self, weights: Array) -> Array:
        """Of shape (n_params, n_params)."""

    def hessian_norm(self, weights: Array) -> float:
        """|H|_2 to a few per cent."""

    def curvature_rows(self, weights: Array, most: int) -> Array | None:
        """Rows A with ``A'A`` near the loss's part of Gauss-Newton's matrix."""

    def penalty_product(self, weights: Array, v: Array) -> Array:
        """The penalty's Hessian times v."""

    def products(self, weights: Array) -> Callable[[Array], Array]:
        """``v -> H v`` at some weights."""


class SomeWeights:
    """The objective where some weights may move and the others stay.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    free : ndarray of bool of shape (p,)
        Which may move.
    """

    def __init__(
        self, objective: Objective, weights: Array, free: NDArray[np.bool_]
    ) -> None:
        self._objective, self._weights, self._free = objective, weights, free
        self.n_params = int(free.sum())

    def whole(self, u: Array) -> Array:
        """All weights, shape (p,), of the free ones."""
        w = self._weights.copy()
        w[self._free] = u
        return w

    def value_and_gradient(self, weights: Array) -> tuple[float, Array]:
        """See `Function`."""
        value, gradient = self._objective.value_and_gradient(self.whole(weights))
        return value, gradient[self._free]

    def gradient(self, weights: Array) -> Array:
        """See `Function`."""
        return self._objective.gradient(self.whole(weights))[self._free]

    def hessian(self, weights: Array) -> Array:
        """See `Function`."""
        H = self._objective.hessian(self.whole(weights))
        return H[np.ix_(self._free, self._free)]

    def hessian_norm(self, weights: Array) -> float:
        """See `Function`; of all weights."""
        return self._objective.hessian_norm(self.whole(weights))

    def curvature_rows(self, weights: Array, most: int) -> Array | None:
        """See `Function`."""
        A = self._objective.curvature_rows(self.whole(weights), most)
        return None if A is None else A[:, self._free]

    def penalty_product(self, weights: Array, v: Array) -> Array:
        """See `Function`."""
        moved = self._objective.penalty_product(self.whole(weights), self._along(v))
        return moved[self._free]

    def products(self, weights: Array) -> Callable[[Array], Array]:
        """See `Function`."""
        product = self._objective.products(self.whole(weights))
        return lambda v: product(self._along(v))[self._free]

    def _along(self, v: Array) -> Array:
        along = np.zeros(self._weights.size)
        along[self._free] = v
        return along
