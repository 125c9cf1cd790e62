"""H through its products alone: sizes at which no dense matrix fits."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import (
    CONSISTENCY_TOL,
    KrylovInverse,
    PseudoInverse,
    Solution,
    SymmetricPseudoInverse,
    probe,
)
from ...objective import SINGLE_FROM, Objective, PointProducts
from ._point import (
    STATIONARITY_NOISE,
    Point,
    matrix_shape,
    operator,
    relative_neglect,
    root,
)
from ._primal import Primal

__all__ = ["MatrixFree", "refuse_basis"]

Array = NDArray[np.float64]

# Relative rounding of a product with B, in terms of |B|_F.
_PRODUCT_ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
# Multiple of the solver's tolerance that the error of an earlier solve leaves.
_SOLVED_AGAIN = 10.0
# A layer's block of H that is built from products, one per weight.
_MAX_BLOCK = 3000
# Solves each by which rows and features that leave range H are told from the others.
_MAX_RESIDUAL_PROBES = 32


class MatrixFree(Primal):
    """Exact H (or Gauss-Newton) by products; minimum residual solves."""

    name = "minres"
    is_iterative = True

    def __init__(self, point: Point) -> None:
        products = PointProducts(point.objective, point.weights)
        exact: Any = products.hessian
        rough: Any = None
        if point.solver.curvature == "ggn":
            exact = _GaussNewton(point, products)
        elif point.weights.size >= SINGLE_FROM:
            rough = PointProducts(point.objective, point.weights, single=True).hessian
        rcond = point.solver.rcond
        if rcond is None:
            rcond = max(1e-10, STATIONARITY_NOISE * point.stationarity)
        factor = KrylovInverse(
            exact, point.weights.size, rcond=rcond, settings=point.krylov, rough=rough
        )
        super().__init__(point, factor)
        self._product, self._rcond, self._point = exact, point.solver.rcond, point

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        return -self.factor.apply(objective.gradient(weights), noise=enough)

    @property
    def neglected(self) -> float:
        """Neglected curvature over the smallest kept Ritz value."""
        if self._point.solver.curvature == "hessian":
            return 0.0
        return relative_neglect(self._point, self._product, self.factor)

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return operator((p, p), self._product, self._product)

    @cached_property
    def _cross_rounding(self) -> float:
        """Rounding of ``B dx`` for a unit dx; E|Bz|^2 = |B|_F^2 for z normal."""
        B = self.B
        size = float(np.linalg.norm(B.matvec(probe(B.shape[1]))))
        return _PRODUCT_ROUNDING * size

    @property
    def solution_operator(self) -> LinearOperator:
        """``H^+ B``; what is rounding of ``B dx`` is not solved for.

        Iterations for singular values end among vectors with ``B dx = 0``, whose
        computed products leave range H.
        """
        B, factor, rounding = self.B, self.factor, self._cross_rounding

        def forward(dx: Array) -> Array:
            noise = rounding * float(np.linalg.norm(dx))
            value: Array = factor.apply(B.matvec(dx), noise=noise)
            return value

        def adjoint(v: Array) -> Array:
            # Iterations hand back what forward solves gave, with their error in ker H.
            noise = _SOLVED_AGAIN * self._point.solver.tol * float(np.linalg.norm(v))
            return B.rmatvec(factor.apply(v, noise=noise))

        return operator(B.shape, forward, adjoint)

    def reduced_map(self) -> Array:
        return refuse_basis("'minres'")

    def column_range_residuals(self) -> Array:
        # A random combination of columns lies in range H with probability 0 unless all
        # of them do: its residual stands for each.
        shape = matrix_shape(self._objective)
        if self.factor.kernel.dim == 0:
            return np.zeros(shape)
        dX = probe(*shape)
        residuals = np.full(shape, self._residual_of(dX))
        if not residuals.max(initial=0.0) > CONSISTENCY_TOL:
            return residuals
        # Some do: an entry can leave range H only where its row and its feature do.
        return np.minimum(self._residuals_along(dX, 0), self._residuals_along(dX, 1))

    def _residuals_along(self, dX: Array, axis: int) -> Array:
        """Residual of each row (0) or feature (1), of neighbours together if many."""
        residuals = np.zeros(dX.shape)
        n = dX.shape[axis]
        for group in np.array_split(np.arange(n), min(n, _MAX_RESIDUAL_PROBES)):
            part = (group,) if axis == 0 else (slice(None), group)
            alone = np.zeros(dX.shape)
            alone[part] = dX[part]
            residuals[part] = self._residual_of(alone)
        return residuals

    def _residual_of(self, dX: Array) -> float:
        found = self.solve(dX.reshape(self._objective.input_shape), None)
        return share_outside(found)

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        size = part.stop - part.start
        if size > _MAX_BLOCK:
            return refuse_basis(f"'minres' for {size} weights")
        units = np.zeros((size, self._objective.n_params))
        units[:, part] = np.eye(size)
        block = np.stack([self._product(unit)[part] for unit in units])
        inverse = SymmetricPseudoInverse(
            0.5 * (block + block.T),
            rcond=self._rcond,
            noise=STATIONARITY_NOISE * self._point.stationarity,
        )
        return inverse, self._objective.cross_adjoints(self._w, units)

    @property
    def target_range_residual(self) -> float:
        if self.factor.kernel.dim == 0:
            return 0.0
        dy = probe(*self._objective.target_shape)
        still = np.zeros(self._objective.input_shape)
        return share_outside(self.solve(still, dy))


class _GaussNewton:
    """``v -> J' Lambda J v`` plus the penalty's part."""

    def __init__(self, point: Point, products: PointProducts) -> None:
        self._products, self._objective, self._w = (
            products,
            point.objective,
            point.weights,
        )
        S = root(point.objective.output_hessian(point.weights))
        self._curvature = S.transpose(0, 2, 1) @ S

    def __call__(self, v: Array) -> Array:
        moved = self._products.jacobian(v)[..., None]
        pulled = self._products.jacobian_adjoint((self._curvature @ moved)[..., 0])
        return pulled + self._objective.penalty_product(self._w, v)


def share_outside(found: Solution) -> float:
    """What a probe says about its column's part outside range H; NaN if nothing."""
    if not found.is_consistent:
        return found.residual
    return 0.0 if found.converged else np.nan


def refuse_basis(solver: str) -> Any:
    """Refuse what needs a factorisation.

    Raises
    ------
    ValueError
    """
    raise ValueError(
        "The 'solver' parameter must be 'eigh' or 'dual' for moduli by row, feature or "
        "group, criteria by column and targets: they need a factorisation. Got "
        f"{solver} instead."
    )
