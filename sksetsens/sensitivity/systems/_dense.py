"""H dense and exact, or Gauss-Newton, decomposed."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import (
    DefiniteInverse,
    PseudoInverse,
    ScaledPseudoInverse,
    SymmetricPseudoInverse,
    probe,
    range_residuals,
    symmetric_inverse,
)
from ...optimize import scaled_stationarity, weight_scales
from ._point import (
    STATIONARITY_NOISE,
    Point,
    matrix_shape,
    operator,
    relative_neglect,
    root,
)
from ._primal import Primal

__all__ = ["Dense"]

Array = NDArray[np.float64]

Factor = DefiniteInverse | SymmetricPseudoInverse | ScaledPseudoInverse

# Adjoints of B computed at once: more need memory, fewer need time.
_BLOCK = 64


class Dense(Primal):
    """H dense and exact (or Gauss-Newton), B through products."""

    name = "eigh"

    def __init__(self, point: Point) -> None:
        matrix = _gauss_newton(point) if point.solver.curvature == "ggn" else None
        if matrix is None:
            matrix = point.objective.hessian(point.weights)
        super().__init__(point, _factorised(point, matrix))
        self._matrix, self._rcond, self._point = matrix, point.solver.rcond, point

    @property
    def neglected(self) -> float:
        if self._point.solver.curvature == "hessian":
            return 0.0
        return relative_neglect(self._point, self._matrix.__matmul__, self.factor)

    def reduced_map(self) -> Array:
        basis, eigenvalues = self.factor.range_basis()
        rows = self._objective.cross_adjoints(self._w, basis.T)
        return rows / eigenvalues[:, None, None]

    def column_range_residuals(self) -> Array:
        if self.factor.kernel_dim == 0:
            return np.zeros(matrix_shape(self._objective))
        inside = self._squared_columns(self.factor.kernel.spanning_basis())
        everywhere = inside + self._squared_columns(self.factor.range_basis()[0])
        return range_residuals(np.sqrt(inside), np.sqrt(everywhere))

    def _squared_columns(self, basis: Array) -> Array:
        """``|Q'b|^2`` for each column b of B, for orthonormal columns Q."""
        total = np.zeros(matrix_shape(self._objective))
        for start in range(0, basis.shape[1], _BLOCK):
            block = basis[:, start : start + _BLOCK].T
            total += (self._objective.cross_adjoints(self._w, block) ** 2).sum(axis=0)
        return total

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        units = np.eye(self._objective.n_params)[part]
        # The same cut-off as of the whole H, which a layer of all weights is.
        inverse = SymmetricPseudoInverse(
            self._matrix[part, part],
            rcond=self._rcond,
            noise=STATIONARITY_NOISE * self._point.stationarity,
        )
        return inverse, self._objective.cross_adjoints(self._w, units)

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return operator((p, p), self._matrix.__matmul__, self._matrix.__matmul__)

    @property
    def target_range_residual(self) -> float:
        o, w = self._objective, self._w
        basis = self.factor.kernel.spanning_basis().T
        inside = [np.linalg.norm(o.target_adjoint(w, z)) for z in basis]
        if not np.any(inside):
            return 0.0
        # E|B'z|^2 = |B|_F^2 for z standard normal.
        everywhere = np.linalg.norm(o.target_adjoint(w, probe(len(w))))
        return float(np.linalg.norm(inside) / everywhere)


def _factorised(point: Point, matrix: Array) -> Factor:
    """H, in the weights' own scales where they lie decades apart.

    R is blind to weights of small scale. Where these are not stationary in their own
    scales, and H has a rank in those that is not seen in common ones, the form without
    a clear cut-off is returned: nothing tells whether they are free.
    """
    noise = STATIONARITY_NOISE * point.stationarity
    scales = point.scales
    if scales is not None:
        return ScaledPseudoInverse(matrix, scales, noise=noise, rank=point.rank)
    if point.solver.rcond is None and point.rank is None:
        scales = weight_scales(point.objective, point.weights, matrix)
    plain = partial(symmetric_inverse, matrix, rcond=point.solver.rcond, noise=noise)
    if scales is None:
        return plain(rank=point.rank)
    gradient = point.objective.gradient(point.weights)
    left = scaled_stationarity(matrix, scales, gradient, point.weights)
    scaled = ScaledPseudoInverse(matrix, scales, noise=STATIONARITY_NOISE * left)
    if scaled.has_clear_cutoff:
        return scaled
    common, hidden = plain(), ScaledPseudoInverse(matrix, scales)
    return scaled if hidden.rank > common.rank else common


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
