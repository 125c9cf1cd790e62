"""The system at a solution on kinks by products with H: no dense matrix fits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...linalg import KrylovTangentInverse
from ._kinked import OnKinks
from ._matrix_free import ByProbes, refuse_basis
from ._point import Point

__all__ = ["MatrixFreeKinked"]

Array = NDArray[np.float64]


class MatrixFreeKinked(ByProbes, OnKinks):
    """Minimum residual solves on the tangent space of the kinks."""

    factor: KrylovTangentInverse

    def __init__(self, point: Point) -> None:
        settings = self._by_products(point)
        objective, w = point.objective, point.weights
        Z = objective.kink_jacobian(w)
        factor = KrylovTangentInverse(self._product, Z, **settings)
        norm = objective.hessian_norm(w)
        OnKinks.__init__(self, point, factor, Z, norm)

    def curved(self, v: Array) -> Array:
        flat = v.reshape(-1, v.shape[-1])
        return np.stack([self._product(row) for row in flat]).reshape(v.shape)

    def _apply(self, b: Array, noise: float) -> Array:
        return self.factor.apply(b, noise=noise)

    def movement_basis(self) -> Array:
        return refuse_basis("'minres'")
