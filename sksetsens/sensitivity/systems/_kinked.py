r"""The system at a solution on kinks: the KKT form on their tangent space.

At strict kinks the solutions on nearby data keep them, and move with their gates by

.. math:: \begin{pmatrix} H_s & Z' \\ Z & 0 \end{pmatrix}
          \begin{pmatrix} v \\ \mu \end{pmatrix} =
          - \begin{pmatrix} B_s\,dx \\ D\,dx \end{pmatrix},
          \qquad \mu_k = \varphi_k\,ds_k,

with H and B at fixed gates, Z and D the gradients of the kinks' inputs in weights and
data, and their forces :math:`\varphi` (S. M. Robinson, "Strongly regular generalized
equations", 1980; A. Dontchev, R. Rockafellar, "Implicit Functions and Solution
Mappings" (2009), Section 2E). The shortest solution is
:math:`v_0 = -T B_s\,dx - (I - T H_s) Z^+ D\,dx` with
:math:`T = U (U'H_sU)^+ U'` on the tangent space ker Z = range U.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import Solution, TangentInverse, range_residuals
from ...objective import Kinks, Movement, Objective
from ._dense import gauss_newton
from ._point import STATIONARITY_NOISE, Point, matrix_shape, operator, relative_neglect
from ._primal import Primal

__all__ = ["Kinked", "OnKinks"]

Array = NDArray[np.float64]

# Gates at other weights are those that leave no residual along Z: by so many steps at
# most, until they change by less than the first, or by more than the second.
_N_GATE_STEPS, _STILL, _WILD = 10, 1e-13, 1e6
# Share of a gradient in the data by which two kinks that move together part.
_TWIN_TOL = 1e-9
# Step of differences, relative to what moves most.
_STEP = 1e-6
# Adjoints at once.
_BLOCK = 64


class OnKinks(Primal):
    """H on the tangent space of active kinks, whatever it is solved by.

    Parameters
    ----------
    point : Point
    factor : TangentInverse or KrylovTangentInverse
    Z : ndarray of shape (n_kinks, n_params)
        Gradients of the kinks' inputs.
    norm : float
        |H|_2.
    """

    factor: Any

    def __init__(self, point: Point, factor: Any, Z: Array, norm: float) -> None:
        super().__init__(point, factor)
        w = point.weights
        self._point, self._Z = point, Z
        self.forces = point.objective.kink_forces(w, Z)
        balanced = np.abs(self.forces) * np.linalg.norm(Z, axis=1)
        whole = 1.0 + float(np.linalg.norm(w))
        # Where only kinks hold the weights, as of absolute errors, H = 0.
        self._norm = max(norm, float(balanced.max(initial=0.0)) / whole)

    def curved(self, v: Array) -> Array:
        """H v for vectors in the last axis of v."""
        raise NotImplementedError

    def _block(self, part: slice) -> Array:
        """H of some weights alone."""
        raise NotImplementedError

    def _apply(self, b: Array, noise: float) -> Array:
        """T b, where b is known to within ``noise``."""
        found: Array = self.factor.apply(b)
        return found

    @property
    def kinks(self) -> Kinks:
        """Kinks with their gates at the solution."""
        return self._objective.kinks

    @property
    def neglected(self) -> float:
        if self._point.solver.curvature == "hessian":
            return 0.0
        return relative_neglect(self._point, self.curved, self.factor)

    # Right-hand sides -----------------------------------------------------------------

    def solve(self, movement: Movement) -> Solution:
        # Weights of the rows move no input of a ramp.
        moved = self._objective.kink_tangent(self._w, movement.dX, movement.dy)
        return self.factor.solve(self._pushed(movement), moved)

    def gate_tangent(self, shift: Array, movement: Movement) -> Array:
        """Movement ds of the gates with a shift of the weights, shape (n_kinks,)."""
        b = self._pushed(movement)
        found: Array = self.factor.multipliers(b + self.curved(shift))
        return -found / self.forces

    def force_tangent(self, shift: Array, movement: Movement, gates: Array) -> Array:
        """Movement of the forces with weights, data and gates, shape (n_kinks,).

        By central differences: a second derivative, for the place of a break alone.
        """
        o, kinks = self._objective, self.kinks
        size = float(np.linalg.norm(shift)) / (1.0 + float(np.linalg.norm(self._w)))
        size = max(size, float(np.abs(gates).max(initial=0.0)))
        size = max(size, movement.largest)
        h = _STEP / size if size > 0.0 else _STEP
        found = []
        for t in (h, -h):
            there = o.moved(movement, t).on_kinks(
                kinks.with_gates(kinks.gates + t * gates)
            )
            w = self._w + t * shift
            found.append(there.ramps(w).at(kinks)[1])
        tangent: Array = (found[0] - found[1]) / (2.0 * h)
        return tangent

    def _moved(self, lifted: Array, b: Array, noise: float = 0.0) -> Array:
        """``T b + (I - T H) l`` for vectors in the last axis."""
        return self._apply(b - self.curved(lifted), noise) + lifted

    @property
    def solution_operator(self) -> LinearOperator:
        o, w, B, lift = self._objective, self._w, self.B, self.factor.lift

        def forward(dx: Array) -> Array:
            lifted = lift(o.kink_tangent(w, dx.reshape(o.input_shape)))
            return self._moved(lifted, B.matvec(dx), self._rounding_of(dx))

        return operator(
            B.shape,
            forward,
            lambda v: self._adjoint(v, o.cross_adjoint, o.kink_adjoint),
        )

    def _rounding_of(self, dx: Array) -> float:
        """Rounding of a right-hand side, where solves are iterative."""
        return 0.0

    def _error_of(self, v: Array) -> float:
        """Error of a vector that came from forward solves, where these iterate."""
        return 0.0

    @property
    def target_operator(self) -> LinearOperator:
        o, w, lift = self._objective, self._w, self.factor.lift
        still = np.zeros(o.input_shape)

        def forward(dy: Array) -> Array:
            shaped = dy.reshape(o.target_shape)
            b = o.cross_product(w, still, shaped)
            return self._moved(lift(o.kink_tangent(w, None, shaped)), b)

        return operator(
            (o.n_params, int(np.prod(o.target_shape))),
            forward,
            lambda v: self._adjoint(v, o.target_adjoint, o.kink_target_adjoint),
        )

    def _adjoint(self, v: Array, of_R: Any, of_kinks: Any) -> Array:
        """The adjoint of `_moved` after either pair of derivatives."""
        Tv = self._apply(v, self._error_of(v))
        u = self.factor.multipliers(v - self.curved(Tv))
        found: Array = of_R(self._w, Tv) + of_kinks(self._w, u)
        return found.ravel()

    # Range ----------------------------------------------------------------------------

    @cached_property
    def _along(self) -> Array:
        """Twins' gradients in those of the kinks, (n_twins, n_kinks)."""
        found: Array = self.factor.multipliers(
            self._objective.kink_jacobian(self._w, self.kinks.twins)
        )
        return found

    @cached_property
    def parted_entries(self) -> NDArray[np.bool_]:
        """Entries of X along which kinks part that move with others in the weights.

        So do those of duplicated rows: which one is left decides how the solutions
        move, a derivative to one side.
        """
        o, w, twins = self._objective, self._w, self.kinks.twins
        if not len(twins):
            return np.zeros(matrix_shape(o), dtype=bool)
        D, own = o.kink_input_jacobian(w), o.kink_input_jacobian(w, twins)
        left = np.abs(own - np.einsum("kij,tk->tij", D, self._along))
        found: NDArray[np.bool_] = (left > _TWIN_TOL * np.abs(own).max()).any(axis=0)
        return found

    def parts_twins(self, movement: Movement) -> bool:
        """Whether such kinks part along a perturbation."""
        o, w, twins = self._objective, self._w, self.kinks.twins
        if not len(twins):
            return False
        moved = o.ramp_tangents(w, np.zeros_like(w), movement.dX, movement.dy)
        own, of_kinks = twins.taken(moved), self.kinks.taken(moved)
        size = max(float(np.abs(own).max()), float(np.abs(of_kinks).max()))
        apart = np.abs(own - self._along @ of_kinks)
        return bool((apart > _TWIN_TOL * size).any())

    @property
    def has_parted_twins(self) -> bool:
        """Whether the inputs of such kinks are not 0, as on other data."""
        twins, inputs = self.kinks.twins, self._objective.ramps(self._w).inputs
        sizes = [float(np.abs(inputs[int(call)]).max()) for call in twins.calls]
        apart = np.abs(twins.taken(inputs)) > _TWIN_TOL * np.array(sizes)
        return bool(apart.any())

    def restricted_map(self, part: slice) -> tuple[Array, Array]:
        o, w = self._objective, self._w
        H, Z = self._block(part), self._Z[:, part]
        noise = STATIONARITY_NOISE * self._point.stationarity
        factor = TangentInverse(H, Z, rcond=self._point.solver.rcond, noise=noise)
        units = np.zeros((len(H), o.n_params))
        units[:, part] = np.eye(len(H))
        B = o.cross_adjoints(w, units).reshape(len(H), -1)
        if factor.constraint_rank < len(Z):
            # So few weights hold the kinks in more than one way.
            return B, np.full(B.shape[1], np.inf)
        D = o.kink_input_jacobian(w).reshape(len(Z), -1)
        lifted = factor.lift(D.T)
        b = B.T - lifted @ H
        outside = np.linalg.norm(factor.kernel.project(b), axis=1)
        residuals = range_residuals(outside, np.linalg.norm(b, axis=1))
        return (factor.apply(b) + lifted).T, residuals

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return operator((p, p), self.curved, self.curved)

    # Residuals ------------------------------------------------------------------------

    def gated(self, objective: Objective, weights: Array) -> Objective:
        """The objective at the gates that fit other weights or data best.

        Those that leave least of R: it then has no part in range Z'.
        """
        kinks = self.kinks
        for _ in range(_N_GATE_STEPS):
            there = objective.on_kinks(kinks)
            moved = self.factor.multipliers(there.gradient(weights)) / self.forces
            kinks = kinks.with_gates(kinks.gates - moved)
            largest = float(np.abs(moved).max(initial=0.0))
            if not _STILL < largest < _WILD:
                break
        return objective.on_kinks(kinks)

    def _residual(self, objective: Objective, weights: Array) -> tuple[Array, Array]:
        """R on the tangent space, and ``Z^+ t`` of the kinks' inputs t."""
        there = self.gated(objective, weights)
        g, Q = there.gradient(weights), self.factor.normal_basis
        inputs = there.ramps(weights).at(self.kinks)[0]
        return g - Q @ (Q.T @ g), self.factor.lift(inputs)

    def length_of_residual(self, objective: Objective, weights: Array) -> float:
        R, off = self._residual(objective, weights)
        return float(np.hypot(np.linalg.norm(R), self._norm * np.linalg.norm(off)))

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        return self.length_of_residual(objective, weights)

    @property
    def residual_scale(self) -> float:
        return self._norm

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        R, off = self._residual(objective, weights)
        return -self._moved(off, R)


class Kinked(OnKinks):
    """The same with dense H."""

    name = "eigh"
    factor: TangentInverse

    def __init__(self, point: Point) -> None:
        objective, w = point.objective, point.weights
        ggn = point.solver.curvature == "ggn"
        self._matrix = gauss_newton(point) if ggn else objective.hessian(w)
        Z = objective.kink_jacobian(w)
        factor = TangentInverse(
            self._matrix,
            Z,
            rcond=point.solver.rcond,
            noise=STATIONARITY_NOISE * point.stationarity,
            rank=point.rank,
        )
        super().__init__(point, factor, Z, float(np.linalg.norm(self._matrix, 2)))

    def curved(self, v: Array) -> Array:
        return v @ self._matrix

    def _block(self, part: slice) -> Array:
        return self._matrix[part, part]

    def movement_basis(self) -> Array:
        return np.hstack([self.factor.range_basis()[0], self.factor.normal_basis])

    def reduced_map(self) -> Array:
        basis, eigenvalues = self.factor.range_basis()
        o, w, Q = self._objective, self._w, self.factor.normal_basis
        D = o.kink_input_jacobian(w)
        shape = D.shape[1:]
        normal = Q.T @ self.factor.lift(D.reshape(len(D), -1).T).T
        rows = o.cross_adjoints(w, basis.T).reshape(basis.shape[1], normal.shape[1])
        tangent = (rows - (self.curved(basis.T) @ Q) @ normal) / eigenvalues[:, None]
        return np.concatenate([tangent, normal]).reshape(-1, *shape)

    def column_range_residuals(self) -> Array:
        if self.factor.kernel_dim == 0:
            return np.zeros(matrix_shape(self._objective))
        inside = self._squared_columns(self.factor.kernel.spanning_basis())
        everywhere = inside + self._squared_columns(self.factor.range_basis()[0])
        return range_residuals(np.sqrt(inside), np.sqrt(everywhere))

    def _squared_columns(self, basis: Array) -> Array:
        """``|q'(b - H Z^+ d)|^2`` summed over tangent vectors q, for each column."""
        o, w = self._objective, self._w
        total = np.zeros(matrix_shape(o))
        D = o.kink_input_jacobian(w)
        along = self.factor.multipliers(self.curved(basis.T))
        for start in range(0, basis.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            rows = o.cross_adjoints(w, basis[:, part].T)
            rows = rows - np.einsum("kij,qk->qij", D, along[part])
            total += (rows**2).sum(axis=0)
        return total

    @property
    def target_range_residual(self) -> float:
        basis = self.factor.kernel.spanning_basis().T
        if not len(basis):
            return 0.0
        inside = [np.linalg.norm(self._target_row(z)) for z in basis]
        if not np.any(inside):
            return 0.0
        around = [
            np.linalg.norm(self._target_row(z)) for z in self.factor.range_basis()[0].T
        ]
        return float(np.linalg.norm(inside) / np.linalg.norm([*inside, *around]))

    def _target_row(self, z: Array) -> Array:
        o, w = self._objective, self._w
        u = self.factor.multipliers(self.curved(z))
        found: Array = o.target_adjoint(w, z) - o.kink_target_adjoint(w, u)
        return found
