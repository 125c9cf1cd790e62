r"""The dual of saturated nets: the shortest shift that holds the outputs that matter.

Separable classes without a penalty have no finite minimiser: Lambda and with it H tend
to zero, and ``H^+`` means nothing. What stays well-posed is
:math:`v_0 = -J^+ D\,dx`, the shift that keeps every output where it was, since it does
not depend on Lambda. Of the outputs only those are held whose curvature is not far
below the average: a row that is saturated deeper may move without harm to the loss.
Rows whose data moves are held in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import (
    FullRowRankInverse,
    GramPseudoInverse,
    PseudoInverse,
    Solution,
    gram_inverse,
)
from ...objective import SINGLE_FROM, Movement, Objective, PointProducts
from ._point import (
    Point,
    WithFactor,
    curvature_of_rows,
    factorisation_budget,
    matrix_shape,
    operator,
)

__all__ = ["HeldOutputs", "SaturatedDual", "is_saturated"]

Array = NDArray[np.float64]

# Ratio of the largest to the smallest curvature of rows from which a net is saturated.
_SATURATED = 1e6
# Gradient over curvature of a saturated row: about 1 for softmax. Curvature of a row is
# known to this share of the largest.
_PROPORTIONAL, _TINY = 100.0, 1e-10
# Share of the rows' summed curvature below which no row sees a direction.
_UNSEEN = 1e-12
# Directions of the outputs with less than this share of the rows' mean curvature are
# free. A tenth of that costs twice the rows and gains nothing on ResNet-56.
_FREE_BELOW = 0.15
# Eigenvalues of ``A A'`` that count as zero where float32 rows are dependent.
_SINGLE_RCOND = 1e-7


@dataclass(frozen=True)
class HeldOutputs:
    """Outputs at a solution, and the directions in which each row's are held.

    Attributes
    ----------
    outputs : ndarray of shape (n_samples, n_outputs)
    inputs : ndarray of shape (n_samples, ...)
        Data at the solution.
    values, vectors : ndarray of shape (n_samples, n_outputs[, n_outputs])
        Eigenvalues of Lambda per row, and eigenvectors as columns.
    seen : ndarray of shape (k, n_outputs)
        Orthonormal directions that the loss sees in any row; of softmax all but the
        common shift.
    """

    outputs: Array
    inputs: Array
    values: Array
    vectors: Array
    seen: Array

    @classmethod
    def at(cls, objective: Objective, weights: Array) -> Self:
        """Those of a solution.

        Raises
        ------
        ValueError
            If the criterion is not convex in the outputs.
        """
        blocks = objective.output_hessian(weights)
        found = curvature_of_rows(blocks)
        if found is None:
            raise ValueError(
                "The 'solver' parameter must be 'auto' or 'eigh' with a criterion that "
                "is not convex in the outputs. Got 'dual' instead."
            )
        outputs = objective.outputs(weights).reshape(objective.n_samples, -1)
        return cls(outputs, objective.inputs, *found, seen_directions(*found))

    def functionals(self, moved: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
        """Rows and directions that are held, those of moved rows in full.

        Returns
        -------
        rows : ndarray of int of shape (k,), sorted
        directions : ndarray of shape (k, n_outputs)
        """
        held = (self.values >= self._least) & (self.values > 0.0)
        rows, which = np.nonzero(held & ~moved[:, None])
        directions = self.vectors[rows, :, which]
        full = np.repeat(np.flatnonzero(moved), len(self.seen))
        rows = np.concatenate([rows, full])
        directions = np.concatenate([directions, np.tile(self.seen, (moved.sum(), 1))])
        order = np.argsort(rows, kind="stable")
        return rows[order], directions[order]

    @property
    def _least(self) -> float:
        return _FREE_BELOW * float(self.values.sum(axis=1).mean())

    @property
    def free_share(self) -> float:
        """Share of the loss's curvature in the outputs that is left free."""
        free = self.values[self.values < self._least].sum()
        return float(free / max(self.values.sum(), np.finfo(float).tiny))

    def moved(self, objective: Objective) -> NDArray[np.bool_]:
        """Rows whose data is not what it was at the solution."""
        return _nonzero_rows(objective.inputs - self.inputs)


def seen_directions(values: Array, vectors: Array) -> Array:
    """Orthonormal rows that span the range of the sum of the rows' curvatures.

    Of their eigenvalues, rounding set to zero: in the sum of the blocks themselves that
    of saturated rows would count.
    """
    roots = (np.sqrt(values)[:, None, :] * vectors).transpose(0, 2, 1)
    flat = roots.reshape(-1, roots.shape[-1])
    seen, along = np.linalg.eigh(flat.T @ flat)
    return along[:, seen > _UNSEEN * seen[-1]].T


def is_saturated(objective: Objective, weights: Array) -> bool:
    """Whether curvatures of rows lie six decades apart, and gradients with them.

    Rows on a flat part of the criterion (an outlier of a robust loss) have no curvature
    either, but a gradient: they are not saturated.
    """
    largest = np.linalg.eigvalsh(objective.output_hessian(weights))[:, -1]
    top = float(largest.max())
    gradients = np.linalg.norm(objective.output_gradient(weights), axis=1)
    with_it = gradients <= _PROPORTIONAL * (np.maximum(largest, 0.0) + _TINY * top)
    apart = top > _SATURATED * max(float(largest.min()), 0.0)
    return bool(apart and with_it[largest * _SATURATED < top].all())


class SaturatedDual(WithFactor):
    """``A v = -Q D dx`` with A the gradients of the held combinations Q of outputs."""

    name = "dual"
    is_iterative = False

    def __init__(self, point: Point) -> None:
        self._objective, self._w, self._point = point.objective, point.weights, point
        self.anchor = point.anchor or HeldOutputs.at(point.objective, point.weights)
        single = point.weights.size >= SINGLE_FROM
        self._products = PointProducts(point.objective, point.weights, single=single)
        self._exact = PointProducts(point.objective, point.weights)
        self._moved = self.anchor.moved(point.objective)
        # The rows moved last beyond those at the solution, with what holds them.
        self._extended: Any = (np.zeros(0, dtype=bool), None, None, None)
        self._rows: NDArray[np.int64]
        self._Q: Array
        self._rows, self._Q = self.anchor.functionals(self._moved)
        self._A = self._gradients(self._rows, self._Q)
        self.factor: PseudoInverse = self._factorised(self._A)

    def _gradients(self, rows: NDArray[np.int64], Q: Array) -> NDArray[np.floating]:
        size = 4 if self._w.size >= SINGLE_FROM else 8
        needed = 2.0 * size * len(rows) * self._w.size
        available = factorisation_budget()
        if needed > available:
            raise ValueError(
                f"The 'solver' parameter must be 'lsmr' here: 'dual' needs "
                f"{needed / 1e9:.1f} GB for the gradients of {len(rows)} outputs of a "
                f"net of {self._w.size} weights, {available / 1e9:.1f} GB are allowed. "
                "Got 'dual' instead; or move fewer rows."
            )
        return self._products.row_gradients(rows, Q)

    def _factorised(self, A: NDArray[np.floating]) -> PseudoInverse:
        if A.dtype == np.float64:
            return gram_inverse(A.astype(np.float64), rcond=self._point.solver.rcond)
        independent = FullRowRankInverse.make(A)
        if independent is not None:
            return independent
        rcond = max(self._point.solver.rcond or 0.0, _SINGLE_RCOND)
        return GramPseudoInverse(A.astype(np.float64), rcond=rcond)

    # Solves ---------------------------------------------------------------------------

    def solve(self, movement: Movement) -> Solution:
        # Whatever rows weigh, their outputs are held: weights move nothing.
        if movement.dy is not None and np.any(movement.dy):
            raise ValueError(
                "The 'y_perturbed' parameter must be None for a saturated net, whose "
                "outputs are held where they are. Got targets instead."
            )
        dX = np.reshape(movement.dX, self._objective.input_shape)
        factor, rows, Q = self._holding(_nonzero_rows(dX))
        moved = self._exact.input_jacobian(dX)
        return factor.solve_factored((Q * moved[rows]).sum(axis=1))

    def _holding(
        self, moved: NDArray[np.bool_]
    ) -> tuple[Any, NDArray[np.int64], Array]:
        """The factorisation in which the moved rows are held in full."""
        if not (moved & ~self._moved).any():
            return self.factor, self._rows, self._Q
        if not np.array_equal(self._extended[0], moved):
            self._extended = (moved, *self._extend(moved))
        _, factor, rows, Q = self._extended
        return factor, rows, Q

    def _extend(self, moved: NDArray[np.bool_]) -> tuple[Any, NDArray[np.int64], Array]:
        rows, Q = self.anchor.functionals(moved | self._moved)
        known = ~moved[self._rows]
        new = moved[rows]
        A = np.empty((len(rows), self._w.size), self._A.dtype)
        A[~new] = self._A[known]
        A[new] = self._gradients(rows[new], Q[new])
        return self._factorised(A), rows, Q

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        factor, rows, Q = self._holding(self.anchor.moved(objective))
        left = self._left(objective, weights)
        return -factor.apply_factored((Q * left[rows]).sum(axis=1))

    def _left(self, objective: Objective, weights: Array) -> Array:
        outputs = objective.outputs(weights).reshape(self.anchor.outputs.shape)
        return outputs - self.anchor.outputs

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        rows, Q = self.anchor.functionals(self.anchor.moved(objective))
        left = self._left(objective, weights)
        return float(np.linalg.norm((Q * left[rows]).sum(axis=1)))

    @property
    def residual_scale(self) -> float:
        return float(np.sqrt(self.factor.eigenvalues[-1]))

    @property
    def has_full_row_rank(self) -> bool:
        return self.factor.rank == len(self._rows)

    # What it is, and is not -----------------------------------------------------------

    @property
    def note(self) -> str:
        return (
            f"saturated: the shift holds {len(self._rows)} combinations of outputs "
            f"where they were and leaves {self.anchor.free_share:.1%} of the loss's "
            "curvature free"
        )

    # Of H itself, which tends to zero, nothing is answered.
    neglected = np.inf
    target_range_residual = 0.0

    @property
    def H(self) -> LinearOperator:
        p, product = self._objective.n_params, self._products.hessian
        return operator((p, p), product, product)

    def column_range_residuals(self) -> Array:
        return np.zeros(matrix_shape(self._objective))

    def _refuse(self, what: str) -> Any:
        raise ValueError(
            f"The 'solver' parameter must be 'lsmr' for {what} of a saturated net: "
            "with 'dual' only the rows that move are held in full. Got 'dual' instead."
        )

    @property
    def B(self) -> LinearOperator:
        return self._refuse("B")

    @property
    def solution_operator(self) -> LinearOperator:
        return self._refuse("moduli")

    @property
    def target_operator(self) -> LinearOperator:
        return self._refuse("movements of targets")

    def reduced_map(self) -> Array:
        return self._refuse("moduli by part")

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        return self._refuse("moduli by layer")


def _nonzero_rows(dX: Array) -> NDArray[np.bool_]:
    return np.any(dX.reshape(len(dX), -1) != 0.0, axis=1)
