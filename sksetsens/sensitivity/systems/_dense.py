"""H dense and exact, or Gauss-Newton, decomposed."""

from __future__ import annotations

from functools import partial
from typing import Self

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

__all__ = ["Dense", "gauss_newton"]

Array = NDArray[np.float64]

Factor = DefiniteInverse | SymmetricPseudoInverse | ScaledPseudoInverse

# Adjoints of B computed at once: more need memory, fewer need time.
_BLOCK = 64


class Dense(Primal):
    """H dense and exact (or Gauss-Newton), B through products."""

    name = "eigh"

    def __init__(
        self,
        point: Point,
        matrix: Array | None = None,
        factor: DefiniteInverse | None = None,
    ) -> None:
        if matrix is None:
            matrix = _curvature(point)
        found, self._noise = (
            _factorised(point, matrix) if factor is None else (factor, _noise(point))
        )
        super().__init__(point, found)
        self.nearby = None if factor is None else factor.nearby
        # A Cholesky factor has H beside it.
        is_packed = isinstance(found, DefiniteInverse)
        self._kept = np.empty((0, 0)) if is_packed else matrix
        self._rcond, self._point = point.solver.rcond, point

    @classmethod
    def if_definite(cls, point: Point) -> Self | None:
        """By a Cholesky factor alone; None where H is not definite beyond doubt.

        Nor where the weights' own scales would have to decide. It costs seconds, so
        that points close by are solved for iteratively, in the scales of this one.
        """
        matrix = _curvature(point)
        scales = point.scales
        if scales is None and point.solver.rcond is None:
            scales = weight_scales(point.objective, point.weights, matrix)
        if scales is not None:
            return None
        rcond, noise = point.solver.rcond, _noise(point)
        factor = DefiniteInverse.make(matrix, rcond=rcond, noise=noise)
        return None if factor is None else cls(point, matrix, factor)

    def _block(self, part: slice) -> Array:
        if isinstance(self.factor, DefiniteInverse):
            return self.factor.block(part)
        return self._kept[part, part]

    def _product(self, V: Array) -> Array:
        if isinstance(self.factor, DefiniteInverse):
            return self.factor.product(V)
        return np.asarray(self._kept @ V)

    @property
    def neglected(self) -> float:
        if self._point.solver.curvature == "hessian":
            return 0.0
        return relative_neglect(self._point, self._product, self.factor)

    def reduced_map(self) -> Array:
        basis, eigenvalues = self.factor.range_basis()
        rows = self._objective.cross_adjoints(self._w, basis.T)
        return rows / eigenvalues[:, None, None]

    def column_range_residuals(self) -> Array:
        if self.factor.kernel_dim == 0:
            return np.zeros(matrix_shape(self._objective))
        inside = self._squared_columns(self.factor.scaled.kernel.spanning_basis())
        range_basis = self.factor.scaled.range_basis()[0]
        everywhere = inside + self._squared_columns(range_basis)
        return range_residuals(np.sqrt(inside), np.sqrt(everywhere))

    def _squared_columns(self, basis: Array) -> Array:
        """``|Q'S b|^2`` for each column b of B, for orthonormal columns Q."""
        total = np.zeros(matrix_shape(self._objective))
        for start in range(0, basis.shape[1], _BLOCK):
            block = basis[:, start : start + _BLOCK].T * self.factor.scales
            total += (self._objective.cross_adjoints(self._w, block) ** 2).sum(axis=0)
        return total

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        units = np.zeros((part.stop - part.start, self._objective.n_params))
        units[:, part] = np.eye(len(units))
        # Scales and cut-off as of the whole H, which a layer of all weights is.
        block, factor = self._block(part), self.factor
        inverse: PseudoInverse
        if isinstance(factor, ScaledPseudoInverse):
            inverse = ScaledPseudoInverse(block, factor.scales[part], noise=self._noise)
        else:
            rcond, noise = self._rcond, self._noise
            inverse = SymmetricPseudoInverse(block, rcond=rcond, noise=noise)
        return inverse, self._objective.cross_adjoints(self._w, units)

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return operator((p, p), self._product, self._product)

    @property
    def target_range_residual(self) -> float:
        o, w = self._objective, self._w
        basis = self.factor.scaled.kernel.spanning_basis().T * self.factor.scales
        inside = [np.linalg.norm(o.target_adjoint(w, z)) for z in basis]
        if not np.any(inside):
            return 0.0
        # E|B'z|^2 = |B|_F^2 for z standard normal.
        z = probe(len(w)) * self.factor.scales
        everywhere = np.linalg.norm(o.target_adjoint(w, z))
        return float(np.linalg.norm(inside) / everywhere)


def _factorised(point: Point, matrix: Array) -> tuple[Factor, float]:
    """H, in the weights' own scales where they lie decades apart, and its noise.

    R is blind to weights of small scale. Where these are not stationary in their own
    scales, and H has a rank in those that is not seen in common ones, the form without
    a clear cut-off is returned: nothing tells whether they are free.
    """
    noise, scales = _noise(point), point.scales
    if scales is not None:
        scaled = ScaledPseudoInverse(matrix, scales, noise=noise, rank=point.rank)
        return scaled, noise
    if point.solver.rcond is None and point.rank is None:
        scales = weight_scales(point.objective, point.weights, matrix)
    plain = partial(symmetric_inverse, matrix, rcond=point.solver.rcond, noise=noise)
    if scales is None:
        return plain(rank=point.rank), noise
    gradient = point.objective.gradient(point.weights)
    left = scaled_stationarity(matrix, scales, gradient, point.weights)
    scaled_noise = STATIONARITY_NOISE * left
    scaled = ScaledPseudoInverse(matrix, scales, noise=scaled_noise)
    if scaled.has_clear_cutoff:
        return scaled, scaled_noise
    common, hidden = plain(), scaled.scaled.rank_without_noise
    return (scaled, scaled_noise) if hidden > common.rank else (common, noise)


def _noise(point: Point) -> float:
    return STATIONARITY_NOISE * point.stationarity


def _curvature(point: Point) -> Array:
    if point.solver.curvature == "ggn":
        return gauss_newton(point)
    return point.objective.hessian(point.weights)


def gauss_newton(point: Point) -> Array:
    """``J' Lambda J`` plus the penalty's Hessian, shape (p, p)."""
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
