"""The dual form: the outputs' Jacobian in the metric of the loss, decomposed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import GramPseudoInverse, PseudoInverse, gram_inverse
from ...objective import Objective, PointProducts
from ._point import Point, operator, relative_neglect, root
from ._row_form import RowForm

__all__ = ["Dual"]

Array = NDArray[np.float64]


class Dual(RowForm):
    """``H = A'A`` and ``B = A' S D`` with ``A = S J``, ``S'S = Lambda``."""

    name = "dual"

    def __init__(self, point: Point) -> None:
        self._objective, self._w = point.objective, point.weights
        self._S = root(point.objective.output_hessian(point.weights))
        J = point.objective.jacobian(point.weights)
        self._A = (self._S @ J).reshape(-1, point.objective.n_params)
        self._rcond, self._point = point.solver.rcond, point
        self._products = PointProducts(point.objective, point.weights)
        self.factor = gram_inverse(self._A, rcond=point.solver.rcond, rank=point.rank)

    @cached_property
    def neglected(self) -> float:
        return relative_neglect(
            self._point, lambda v: self._A.T @ (self._A @ v), self.factor
        )

    def _moved(self, dX: Any) -> Array:
        return self._S @ self._products.input_jacobian(dX)[..., None]

    def _moved_often(self, dX: Any) -> Array:
        """By D itself: one product costs less, and an operator norm takes many."""
        return self._SD @ np.reshape(dX, (self._SD.shape[0], self._SD.shape[2], 1))

    @cached_property
    def _SD(self) -> Array:
        return self._S @ self._objective.input_jacobian(self._w)

    def _whitened(self, r: Array) -> Array:
        """rho with ``S' rho = r`` per row, shape (n_samples, n_outputs, 1)."""
        return np.linalg.pinv(self._S.transpose(0, 2, 1)) @ r[..., None]

    def _unwhitened(self, rho: Array) -> Array:
        columns = rho.reshape(*self._SD.shape[:2], 1)
        moved: Array = (np.linalg.pinv(self._S) @ columns)[..., 0]
        return moved

    def reduced_map(self) -> Array:
        u, sigma = self.factor.left_basis()
        per_row = (u / sigma).reshape(*self._SD.shape[:2], -1)
        return np.einsum("icr,icd->rid", per_row, self._SD)

    @property
    def has_full_row_rank(self) -> bool:
        return self.factor.rank == self._objective.n_equations

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        A = self._A[:, part]
        per_row = A.reshape(*self._SD.shape[:2], -1)
        B = np.einsum("ick,icd->kid", per_row, self._SD)
        return GramPseudoInverse(A, rcond=self._rcond), B

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        r = self._whitened(objective.output_gradient(weights))
        return -self.factor.apply_factored(r.ravel())

    @property
    def H(self) -> LinearOperator:
        p, A = self._objective.n_params, self._A
        return operator((p, p), lambda v: A.T @ (A @ v), lambda v: A.T @ (A @ v))

    def _to_input(self, rho: Array) -> Array:
        columns = rho.reshape(self._SD.shape[0], 1, self._SD.shape[1])
        return (columns @ self._SD).ravel()

    @property
    def B(self) -> LinearOperator:
        return self._from_input(self._A.T.__matmul__, self._A.__matmul__)
