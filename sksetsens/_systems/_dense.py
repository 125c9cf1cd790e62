"""H dense and exact, or Gauss-Newton, decomposed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .._objective import Objective
from ..linalg import (
    PseudoInverse,
    Solution,
    SymmetricPseudoInverse,
    symmetric_inverse,
)
from ._point import Point, matrix_shape, operator, relative_neglect, root

__all__ = ["Dense"]

Array = NDArray[np.float64]

# Weights off by a relative step s change null eigenvalues by about s |H| times the
# third derivative's scale; the cut-off lies two decades above.
_STATIONARITY_NOISE = 100.0
# Adjoints of B computed at once: more need memory, fewer need time.
_BLOCK = 64


class Dense:
    """H dense and exact (or Gauss-Newton), B through products."""

    name = "eigh"

    def __init__(self, point: Point) -> None:
        self._objective, self._w = point.objective, point.weights
        matrix = _gauss_newton(point) if point.curvature == "ggn" else None
        if matrix is None:
            matrix = point.objective.hessian(point.weights)
        noise = _STATIONARITY_NOISE * point.stationarity
        self.factor: PseudoInverse = symmetric_inverse(
            matrix, rcond=point.rcond, noise=noise, rank=point.rank
        )
        self._matrix, self._rcond = matrix, point.rcond
        self.neglected = 0.0
        if point.curvature == "ggn":
            self.neglected = relative_neglect(point, matrix.__matmul__, self.factor)

    def solve(self, dX: Any, dy: Any) -> Solution:
        return self.factor.solve(self._objective.cross_product(self._w, dX, dy))

    def newton_step(self, objective: Objective, weights: Array) -> Array:
        return -self.factor.apply(objective.gradient(weights))

    def reduced_map(self) -> Array:
        basis, eigenvalues = self.factor.range_basis()
        rows = self._objective.cross_adjoints(self._w, basis.T)
        return rows / eigenvalues[:, None, None]

    def column_leaks(self) -> Array:
        if self.factor.kernel_dim == 0:
            return np.zeros(matrix_shape(self._objective))
        inside = self._squared_columns(self.factor.kernel.spanning_basis())
        everywhere = inside + self._squared_columns(self.factor.range_basis()[0])
        # Columns ten decades below the largest are rounding.
        real = everywhere > (1e-10) ** 2 * everywhere.max()
        return np.sqrt(np.divide(inside, everywhere, out=0.0 * inside, where=real))

    def _squared_columns(self, basis: Array) -> Array:
        """``|Q'b|^2`` for each column b of B, for orthonormal columns Q."""
        total = np.zeros(matrix_shape(self._objective))
        for start in range(0, basis.shape[1], _BLOCK):
            block = basis[:, start : start + _BLOCK].T
            total += (self._objective.cross_adjoints(self._w, block) ** 2).sum(axis=0)
        return total

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        units = np.eye(self._objective.n_params)[part]
        inverse = SymmetricPseudoInverse(self._matrix[part, part], rcond=self._rcond)
        return inverse, self._objective.cross_adjoints(self._w, units)

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return operator((p, p), self._matrix.__matmul__, self._matrix.__matmul__)

    @property
    def B(self) -> LinearOperator:
        o = self._objective
        return operator(
            (o.n_params, int(np.prod(o.input_shape))),
            lambda dx: o.cross_product(self._w, dx),
            lambda v: o.cross_adjoint(self._w, v).ravel(),
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

    @property
    def target_leak(self) -> float:
        o, w = self._objective, self._w
        basis = self.factor.kernel.spanning_basis().T
        inside = [np.linalg.norm(o.target_adjoint(w, z)) for z in basis]
        if not np.any(inside):
            return 0.0
        probe = np.random.RandomState(0).standard_normal(len(w))
        # E|B'z|^2 = |B|_F^2 for z standard normal.
        everywhere = np.linalg.norm(o.target_adjoint(w, probe))
        return float(np.linalg.norm(inside) / everywhere)


def _gauss_newton(point: Point) -> Array:
    objective, w = point.objective, point.weights
    if not objective.is_separable(w):
        raise ValueError(
            "The 'curvature' parameter must be 'hessian' with a criterion that "
            "couples rows. Got 'ggn' instead."
        )
    A = root(objective.output_hessian(w)) @ objective.jacobian(w)
    A = A.reshape(-1, objective.n_params)
    penalty = objective.penalty_hessian(w)
    return A.T @ A if penalty is None else A.T @ A + penalty
