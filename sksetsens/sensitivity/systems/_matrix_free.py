"""H through its products alone: sizes at which no dense matrix fits."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import (
    CONSISTENCY_TOL,
    KrylovInverse,
    Lifted,
    PreconditionedInverse,
    PseudoInverse,
    Solution,
    SymmetricPseudoInverse,
    probe,
)
from ...objective import SINGLE_FROM, Movement, Objective, PointProducts
from ...optimize import lifted_gauss_newton
from ._point import (
    STATIONARITY_NOISE,
    Point,
    matrix_shape,
    operator,
    relative_neglect,
    root,
)
from ._primal import Primal

__all__ = ["ByProbes", "MatrixFree", "refuse_basis"]

Array = NDArray[np.float64]

# Relative rounding of a product with B, in terms of |B|_F.
_PRODUCT_ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
# Multiple of the solver's tolerance that the error of an earlier solve leaves.
_SOLVED_AGAIN = 10.0
# A layer's block of H that is built from products, one per weight.
_MAX_BLOCK = 3000
# Solves each by which rows and features that leave range H are told from the others.
_MAX_RESIDUAL_PROBES = 32


class ByProbes(Primal):
    """What systems share that know H by its products, and ranges by random vectors."""

    name = "minres"
    is_iterative = True
    _point: Point
    _product: Any

    def _by_products(self, point: Point) -> dict[str, Any]:
        """Take H of a point by products; returns the settings of its inverse."""
        products = PointProducts(point.objective, point.weights)
        self._point, self._product = point, products.hessian
        if point.solver.curvature == "ggn":
            self._product = _GaussNewton(point, products)
        rcond = point.solver.rcond
        if rcond is None:
            rcond = max(1e-10, STATIONARITY_NOISE * point.stationarity)
        return {"rcond": rcond, "settings": point.krylov}

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

    def _block(self, part: slice) -> Array:
        """H of some weights alone, one product each."""
        size = part.stop - part.start
        if size > _MAX_BLOCK:
            return refuse_basis(f"'minres' for {size} weights")
        unit, rows = np.zeros(self._objective.n_params), []
        for i in range(part.start, part.stop):
            unit[i] = 1.0
            rows.append(self._product(unit)[part])
            unit[i] = 0.0
        block = np.stack(rows)
        return 0.5 * (block + block.T)

    # Iterations for singular values end among vectors with B dx = 0, whose computed
    # products leave range H.

    @cached_property
    def _cross_rounding(self) -> float:
        """Rounding of ``B dx`` for a unit dx; E|Bz|^2 = |B|_F^2 for z normal."""
        B = self.B
        size = float(np.linalg.norm(B.matvec(probe(B.shape[1]))))
        return _PRODUCT_ROUNDING * size

    def _rounding_of(self, dx: Array) -> float:
        """Rounding of ``B dx``, which is not solved for."""
        return self._cross_rounding * float(np.linalg.norm(dx))

    def _error_of(self, v: Array) -> float:
        """Error, in ker H, of a vector that came from forward solves."""
        return _SOLVED_AGAIN * self._point.solver.tol * float(np.linalg.norm(v))

    # Range ----------------------------------------------------------------------------

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
        found = self.solve(Movement(dX.reshape(self._objective.input_shape)))
        return share_outside(found)

    @property
    def target_range_residual(self) -> float:
        if self.factor.kernel.dim == 0:
            return 0.0
        dy = probe(*self._objective.target_shape)
        still = np.zeros(self._objective.input_shape)
        return share_outside(self.solve(Movement(still, dy)))


class MatrixFree(ByProbes):
    """Exact H (or Gauss-Newton) by products; minimum residual solves."""

    def __init__(self, point: Point) -> None:
        settings = self._by_products(point)
        p = point.weights.size
        if point.solver.curvature == "ggn" or p < SINGLE_FROM:
            factor = KrylovInverse(self._product, p, **settings)
        else:
            o, w = point.objective, point.weights
            rough = PointProducts(o, w, single=True).hessian
            factor = PreconditionedInverse(
                self._product,
                p,
                near=partial(_near, point),
                rough=rough,
                **settings,
            )
        super().__init__(point, factor)

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        return -self.factor.apply(objective.gradient(weights), noise=enough)

    @property
    def solution_operator(self) -> LinearOperator:
        """``H^+ B``; what is rounding of ``B dx`` is not solved for."""
        B, factor = self.B, self.factor
        return operator(
            B.shape,
            lambda dx: factor.apply(B.matvec(dx), noise=self._rounding_of(dx)),
            lambda v: B.rmatvec(factor.apply(v, noise=self._error_of(v))),
        )

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        inverse = SymmetricPseudoInverse(
            self._block(part),
            rcond=self._point.solver.rcond,
            noise=STATIONARITY_NOISE * self._point.stationarity,
        )
        units = np.zeros((part.stop - part.start, self._objective.n_params))
        units[:, part] = np.eye(len(units))
        return inverse, self._objective.cross_adjoints(self._w, units)


def _near(point: Point) -> Lifted | None:
    return point.near or lifted_gauss_newton(point.objective, point.weights)


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
