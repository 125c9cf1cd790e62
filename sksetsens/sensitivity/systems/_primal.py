"""What the forms with H in weight space share: right-hand sides through products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import PseudoInverse, Solution
from ...objective import Movement, Objective, PointProducts
from ._point import Point, ZeroOfR, operator

__all__ = ["Primal"]

Array = NDArray[np.float64]


class Primal(ZeroOfR):
    """``H v = -B dx`` with a pseudo-inverse of H, and B through products.

    Parameters
    ----------
    point : Point
    factor : PseudoInverse
    """

    def __init__(self, point: Point, factor: PseudoInverse) -> None:
        self._objective, self._w = point.objective, point.weights
        self.factor = factor
        self._products = PointProducts(point.objective, point.weights)

    def solve(self, movement: Movement) -> Solution:
        return self.factor.solve(self._pushed(movement))

    def _pushed(self, movement: Movement) -> Array:
        """Movement of R with the data."""
        if movement.dy is None and movement.ds is None:
            return self._products.cross(movement.dX)
        return self._objective.data_product(self._w, movement)

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        return -self.factor.apply(objective.gradient(weights))

    @property
    def B(self) -> LinearOperator:
        o = self._objective
        return operator(
            (o.n_params, int(np.prod(o.input_shape))),
            self._products.cross,
            lambda v: self._products.cross_adjoint(v).ravel(),
        )

    @property
    def solution_operator(self) -> LinearOperator:
        B, apply = self.B, self.factor.apply
        return operator(
            B.shape,
            lambda dx: apply(B.matvec(dx)),
            lambda v: B.rmatvec(apply(v)),
        )

    @property
    def target_operator(self) -> LinearOperator:
        o, w, apply = self._objective, self._w, self.factor.apply
        still = np.zeros(o.input_shape)
        return operator(
            (o.n_params, int(np.prod(o.target_shape))),
            lambda dy: apply(o.cross_product(w, still, dy)),
            lambda v: o.target_adjoint(w, apply(v)).ravel(),
        )
