"""The dual form through products with the outputs' Jacobian: least squares at scale."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import GramOperatorInverse, GramPseudoInverse, PseudoInverse
from ...objective import SINGLE_FROM, Objective, PointProducts
from ._held_outputs import HeldOutputs, is_saturated
from ._matrix_free import refuse_basis
from ._point import Point, curvature_of_rows, operator, relative_neglect
from ._row_form import RowForm

__all__ = ["MatrixFreeDual"]

Array = NDArray[np.float64]


class MatrixFreeDual(RowForm):
    """``A v = -S D dx`` in least squares, ``A = S J``, by products with J.

    S is the root of Lambda, or, where rows are saturated, the projector on the range of
    its sum: what the loss ignores of the outputs (a common shift of logits) is free,
    all else is kept in place. Both have the same shortest solution wherever the outputs
    can be kept exactly (A of full row rank), since then ``v0 = -J^+ D dx`` does not
    depend on Lambda.

    Corrections bring the outputs of saturated or early-stopped nets back to where they
    were at the solution, instead of to a zero of R that lies at infinity.
    """

    name = "lsmr"
    is_iterative = True

    def __init__(self, point: Point) -> None:
        self._objective, self._w, self._point = point.objective, point.weights, point
        self.anchor = point.anchor
        saturated = is_saturated(point.objective, point.weights)
        if self.anchor is None and (saturated or point.objective.is_tilted):
            self.anchor = HeldOutputs.at(point.objective, point.weights)
        self._S = _metric(point, self.anchor if saturated else None)
        self._products = PointProducts(point.objective, point.weights)
        gram, rough = self._gram_products(point)
        self.factor = GramOperatorInverse(
            partial(self._forward, self._products),
            partial(self._backward, self._products),
            (self._S.shape[0] * self._S.shape[1], point.weights.size),
            rcond=point.solver.rcond,
            settings=point.krylov,
            gram=gram,
            rough=rough,
        )

    def _gram_products(self, point: Point) -> tuple[Any, Any]:
        """``u -> A A'u`` where it is not by A and its adjoint, and in float32."""
        if point.weights.size < SINGLE_FROM:
            return None, None
        single = PointProducts(point.objective, point.weights, single=True)
        return None, partial(self._there_and_back, single)

    def _there_and_back(self, products: PointProducts, u: Array) -> Array:
        return self._forward(products, self._backward(products, u))

    def _forward(self, products: PointProducts, v: Array) -> Array:
        moved = np.einsum("ikc,ic->ik", self._S, products.jacobian(v))
        return np.asarray(moved.ravel(), dtype=np.float64)

    def _backward(self, products: PointProducts, u: Array) -> Array:
        rows = u.reshape(*self._S.shape[:2], 1)
        return products.jacobian_adjoint((self._S.transpose(0, 2, 1) @ rows)[..., 0])

    def _moved(self, dX: Any) -> Array:
        return self._S @ self._products.input_jacobian(dX)[..., None]

    def _whitened(self, r: Array) -> Array:
        """``S Lambda^+ r`` per row: the movement of outputs that r asks for."""
        return self._S @ (self._inverse_curvature @ r[..., None])

    @property
    def _inverse_curvature(self) -> Array:
        curvature = self._objective.output_hessian(self._w)
        return np.asarray(np.linalg.pinv(curvature, hermitian=True), dtype=np.float64)

    def _unwhitened(self, rho: Array) -> Array:
        rows = rho.reshape(*self._S.shape[:2], 1)
        moved = self._inverse_curvature @ (self._S.transpose(0, 2, 1) @ rows)
        return moved[..., 0]

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        if self.anchor is None:
            rho = self._whitened(objective.output_gradient(weights))
        else:
            rho = self._left(objective, weights)
        return -self.factor.apply_factored(rho.ravel())

    def _left(self, objective: Objective, weights: Array) -> Array:
        outputs = objective.outputs(weights).reshape(self.anchor.outputs.shape)
        return self._S @ (outputs - self.anchor.outputs)[..., None]

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        if self.anchor is None:
            return super().residual_norm(objective, weights)
        return float(np.linalg.norm(self._left(objective, weights)))

    @property
    def residual_scale(self) -> float:
        largest = super().residual_scale
        return largest if self.anchor is None else float(np.sqrt(largest))

    @property
    def note(self) -> str:
        return "" if self.anchor is None else "the shift holds the outputs"

    @property
    def neglected(self) -> float:
        """Neglected curvature over the smallest kept Ritz value; all, if held."""
        if self.anchor is not None:
            return np.inf
        return relative_neglect(self._point, self.H.matvec, self.factor)

    def reduced_map(self) -> Array:
        return refuse_basis("'lsmr'")

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        J = self._objective.jacobian(self._w)[..., part]
        A = (self._S @ J).reshape(-1, part.stop - part.start)
        SD = self._S @ self._objective.input_jacobian(self._w)
        B = np.einsum("ick,icd->kid", A.reshape(*SD.shape[:2], -1), SD)
        return GramPseudoInverse(A, rcond=self._point.solver.rcond), B

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params

        def product(v: Array) -> Array:
            return self._backward(self._products, self._forward(self._products, v))

        return operator((p, p), product, product)

    def _to_input(self, rho: Array) -> Array:
        rows = rho.reshape(*self._S.shape[:2], 1)
        moved = (self._S.transpose(0, 2, 1) @ rows)[..., 0]
        return self._products.input_jacobian_adjoint(moved).ravel()

    @property
    def B(self) -> LinearOperator:
        return self._from_input(
            lambda u: self._backward(self._products, u),
            lambda v: self._forward(self._products, v),
        )


def _metric(point: Point, held: HeldOutputs | None) -> Array:
    """S per row, (n_samples, k, n_outputs); the same for all rows of a saturated net.

    Raises
    ------
    ValueError
        If the criterion is not convex in the outputs.
    """
    if held is not None:
        return np.broadcast_to(held.seen, (len(held.outputs), *held.seen.shape))
    found = curvature_of_rows(point.objective.output_hessian(point.weights))
    if found is None:
        raise ValueError(
            "The 'solver' parameter must be 'eigh' or 'minres' with a criterion that "
            "is not convex in the outputs. Got 'lsmr' instead."
        )
    eigenvalues, vectors = found
    k = int((eigenvalues > 0.0).sum(axis=1).max(initial=1))
    kept, rows = eigenvalues[:, -k:], vectors.transpose(0, 2, 1)[:, -k:]
    return np.sqrt(kept)[..., None] * rows
