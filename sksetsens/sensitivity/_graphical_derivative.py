r"""Graphical derivative of the set of first-order points at one solution.

With :math:`R(x, w) = \nabla_w L`, :math:`H = \nabla_w R` and :math:`B = \nabla_x R`,
the mapping :math:`F(x) = \{w : R(x, w) = 0\}` has the graphical derivative
(Wang, Wang and Ban, AAAI 2025, arXiv 2412.11057, Theorem 1)

.. math:: DF(x | w)(dx) = \{v : H v + B\,dx = 0\}

which is empty, or the affine set :math:`v_0 + \ker H` with
:math:`v_0 = -H^+ B\,dx`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ..linalg import CONSISTENCY_TOL, PseudoInverse, Subspace, probe
from ..objective import Kinks, Movement, Objective
from ..optimize import MAX_ON_KINKS, ActiveSet, stationary_on_kinks
from ._affine_set import AffineSet
from ._undifferentiable import Undifferentiable, undifferentiable
from .systems import OnKinks, Point, Solver, choose_system

__all__ = ["GraphicalDerivative"]

Array = NDArray[np.float64]

# Movement, relative to 1 + |w|, within which solutions on other kinks may lie where the
# first order moves less.
_NEAR = 1e-4
# Share of a residual that iterative solves leave where they estimate an error.
_ESTIMATE = 1e-4


class GraphicalDerivative:
    r"""The mapping ``dX -> DF(x | w)(dX)`` at one solution, factorised once.

    Parameters
    ----------
    objective : Objective
        Training objective on the data ``x``.

    weights : ndarray of shape (n_params,)
        The solution ``w``.

    curvature : {"hessian", "ggn"}, default="hessian"
        Exact Hessian, or the Gauss-Newton matrix ``J' Lambda J`` plus the penalty's
        Hessian.

    solver : {"auto", "eigh", "dual", "minres", "lsmr"} or Solver, default="auto"
        Form of the system; a `Solver` brings along what is said of it below.
        "eigh" decomposes the dense p x p matrix. "dual" decomposes ``S J`` with
        ``S'S = Lambda``, which has one row per output and belongs to interpolation,
        where the rest of the Hessian vanishes. "minres" and "lsmr" are their
        matrix-free forms: minimum residual solves by products with H, and least
        squares by products with ``S J``. "auto" takes the dual where what it neglects
        is below 1e-3 of the smallest kept eigenvalue, and the matrix-free forms above
        6000 weights; up to 10,000 where one Cholesky factor shows H to be definite.

    rcond : float, default=None
        Eigenvalues up to ``rcond * |H|_2`` count as zero; None for rounding plus a
        hundred times the relative stationarity of the weights.

    stationarity : float, default=0.0
        Relative stationarity of the weights: how well ``R = 0`` is met, which bounds
        how well H at the solution is known.

    rank : int, default=None
        Rank of H where it is known; None to judge it by ``rcond``. The matrix-free
        forms do without it.

    solver_tol : float, default=1e-8
        Relative residual of iterative solves.

    solver_max_iter : int, default=1000
        Products of H, or of ``S J`` and its adjoint, per iterative solve.

    Attributes
    ----------
    factor : PseudoInverse
        Rank, gap, inertia and kernel.

    solver_ : {"eigh", "dual", "minres", "lsmr"}

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Theorem 1.
    """

    def __init__(
        self,
        objective: Objective,
        weights: Array,
        *,
        solver: str | Solver = "auto",
        curvature: str = "hessian",
        rcond: float | None = None,
        solver_tol: float = 1e-8,
        solver_max_iter: int = 1000,
        stationarity: float = 0.0,
        rank: int | None = None,
    ) -> None:
        if not isinstance(solver, Solver):
            solver = Solver(solver, curvature, rcond, solver_tol, solver_max_iter)
        w = np.asarray(weights, dtype=np.float64)
        self._factorise(Point(objective, w, solver, stationarity, rank))

    def _factorise(self, point: Point) -> None:
        self.objective, self.weights = point.objective, point.weights
        self.solver, self.stationarity = point.solver, point.stationarity
        self._system = choose_system(point)
        self._near = point.near or self._system.nearby
        self.solver_ = self._system.name
        self.factor: PseudoInverse = self._system.factor

    @cached_property
    def neglected_curvature(self) -> float:
        """Curvature that the form leaves out, over the smallest kept eigenvalue.

        ``|H - A'A|_2`` for the dual forms, ``|H - G|_2`` for Gauss-Newton; 0 for the
        exact Hessian.
        """
        return self._system.neglected

    @property
    def note(self) -> str:
        """What a shift means where it is not that of a zero of R; "" otherwise."""
        return self._system.note

    @property
    def has_full_row_rank(self) -> bool:
        """Whether the equations that the solutions obey are independent here."""
        return self._system.has_full_row_rank

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        """Norm of what vanishes at a solution on the data of ``objective``.

        ``|S R|`` in the `units` of H, or for a saturated net the norm of its held
        outputs' movement.
        """
        return self._system.residual_norm(objective, weights)

    def length_of_residual(self, objective: Objective, weights: Array) -> float:
        """``|S R|`` in the `units` of H; at kinks, of their system K."""
        return self._system.length_of_residual(objective, weights)

    @property
    def residual_scale(self) -> float:
        """Norm of the derivative in the weights of what `residual_norm` measures."""
        return self._system.residual_scale

    def length(self, v: Array) -> float:
        """``|v / S|`` of a movement of the weights in the `units` of H."""
        return float(np.linalg.norm(v / self.factor.scales))

    @property
    def n_unsolved(self) -> int:
        """Iterative solves so far that ended before their tolerance."""
        return getattr(self.factor, "n_unsolved", 0)

    @property
    def is_matrix_free(self) -> bool:
        """Whether solves are iterative, and rank and kernel not factorised."""
        return self._system.is_iterative

    def at(
        self,
        objective: Objective,
        weights: Array,
        *,
        keep_rank: bool = True,
        stationarity: float = 0.0,
    ) -> GraphicalDerivative:
        """The same kind of derivative at a point close by.

        Parameters
        ----------
        objective : Objective
            On the same kinks, whose gates are then those that fit, or on others.
        weights : ndarray of shape (n_params,)
        keep_rank : bool, default=True
            Whether to keep the rank found here. Off the solution set the null
            eigenvalues of H are of the residual's size; the rank of the set is the
            solution's, wherever they fall.
        stationarity : float, default=0.0
            Relative stationarity of the weights, for the cut-off of an unknown rank.

        Returns
        -------
        derivative : GraphicalDerivative
        """
        if objective.kinks is not self.kinks:
            keep_rank = False
        elif isinstance(self._system, OnKinks):
            objective = self._system.gated(objective, weights)
        factor, scales = self.factor, self.factor.scales
        known = self.is_matrix_free or self._near is not None
        rank = factor.rank if keep_rank and not known else None
        # Once factorised is enough for points close by.
        name = self.solver_ if self._near is None else "minres"
        there = GraphicalDerivative.__new__(GraphicalDerivative)
        there._factorise(
            Point(
                objective,
                np.asarray(weights, dtype=np.float64),
                replace(self.solver, name=name),
                stationarity,
                rank,
                self._system.anchor if keep_rank else None,
                self._system.anchor is not None,
                scales if isinstance(scales, np.ndarray) else None,
                self._near,
            )
        )
        return there

    def on_other_kinks(
        self, objective: Objective, weights: Array
    ) -> GraphicalDerivative | None:
        """The derivative at the solution next to weights, on whatever kinks it sits.

        Parameters
        ----------
        objective : Objective
            On nearby data.
        weights : ndarray of shape (n_params,)
            What is predicted of its solution.

        Returns
        -------
        derivative : GraphicalDerivative or None
            None where the net has no kinks, or no such solution was found.
        """
        plain = objective.off_kinks()
        if not self.can_exchange or self.active is None:
            return None
        near = float(np.linalg.norm(weights - self.weights))
        near = max(near, _NEAR * (1.0 + float(np.linalg.norm(weights))))
        found = stationary_on_kinks(plain, weights, self.active, near)
        if found is None:
            return None
        at, kinks = found
        return GraphicalDerivative(plain.on_kinks(kinks), at, solver=self.solver)

    def __call__(
        self,
        dX: NDArray[Any],
        dy: NDArray[Any] | None = None,
        ds: NDArray[Any] | None = None,
    ) -> AffineSet:
        """Solutions' first-order movement when the data moves by ``dX``.

        Parameters
        ----------
        dX : ndarray of the shape of X
            Perturbation of the inputs.

        dy : ndarray of the shape of y, default=None
            Perturbation of real-valued targets.

        ds : ndarray of shape (n_samples,), default=None
            Perturbation of the rows' weights.

        Returns
        -------
        affine_set : AffineSet
        """
        return self.along(Movement(dX, dy, ds))

    def along(self, movement: Movement) -> AffineSet:
        """The same for a movement of the data."""
        solved = self._system.solve(movement)
        return AffineSet(
            solved.value,
            self.factor,
            solved.residual,
            not solved.is_consistent,
            solved.cutoff_change,
            solved.status,
            solved.reason,
            solved.n_iter,
            solved.converged,
        )

    @property
    def kernel(self) -> Subspace:
        """ker H, the directions in which the solution set extends."""
        return self.factor.kernel

    @property
    def hessian_norm(self) -> float:
        """``|H|_2``."""
        return float(np.abs(self.factor.eigenvalues).max(initial=0.0))

    @property
    def units(self) -> tuple[Array | float, float]:
        """Scales S in which H was decomposed, 1.0 for none; ``|S H S|_2``.

        Norms of steps and residuals compare weights that belong to columns of data in
        different units only in these.
        """
        eigenvalues = self.factor.scaled.eigenvalues
        return self.factor.scales, float(np.abs(eigenvalues).max(initial=0.0))

    @property
    def kinks(self) -> Kinks:
        """Kinks on which the solution sits, with their gates, and its dead units."""
        return self.objective.kinks

    @property
    def strictness(self) -> float:
        """Smallest distance of a kink's gate to 0 and 1; 0 of a concave kink.

        inf where there are no kinks.
        """
        if not isinstance(self._system, OnKinks):
            return np.inf
        gates, forces = self.kinks.gates, self._system.forces
        inside = np.where(forces > 0.0, np.minimum(gates, 1.0 - gates), 0.0)
        return float(inside.min(initial=np.inf))

    def on(self, objective: Objective) -> GraphicalDerivative:
        """The same derivative of an objective that is equal at the solution.

        It knows of further labels, say, along whose weights it may move.
        """
        other = copy.copy(self)
        other.objective, other._system = objective, self._system.on(objective)
        return other

    def parts_twins(self, movement: Movement) -> bool:
        """Whether kinks that move together in the weights part with the data."""
        if not isinstance(self._system, OnKinks):
            return False
        return self._system.parts_twins(movement)

    @property
    def has_parted_twins(self) -> bool:
        """Whether such kinks have come apart, as on other data than the solution's."""
        if not isinstance(self._system, OnKinks):
            return False
        return self._system.has_parted_twins

    def gate_tangent(self, shift: Array, movement: Movement) -> Array:
        """Movement of the kinks' gates with weights and data, shape (n_kinks,)."""
        if not isinstance(self._system, OnKinks):
            return np.zeros(0)
        return self._system.gate_tangent(shift, movement)

    @property
    def kink_forces(self) -> Array:
        """Derivatives of the loss along the kinks' values, shape (n_kinks,)."""
        if not isinstance(self._system, OnKinks):
            return np.zeros(0)
        return self._system.forces

    def force_tangent(self, shift: Array, movement: Movement, gates: Array) -> Array:
        """Movement of the kinks' forces with weights, data and gates, (n_kinks,)."""
        if not isinstance(self._system, OnKinks):
            return np.zeros(0)
        return self._system.force_tangent(shift, movement, gates)

    @property
    def can_exchange(self) -> bool:
        """Whether kinks of this net are solved for: not where it interpolates."""
        if self.objective.is_tilted or self.solver_ not in ("eigh", "minres"):
            return False
        if self.objective.n_params > MAX_ON_KINKS:
            return False
        return self.active is not None

    @cached_property
    def active(self) -> ActiveSet | None:
        """Kinks and gates of all ramps at the solution.

        None of a net that has none, or more than the working memory holds.
        """
        if not (self.objective.has_ramps and self.objective.fits_ramps):
            return None
        return ActiveSet.at(self.objective, self.weights)

    @property
    def smooth(self) -> Objective:
        """The objective with all gates held as they are at the solution."""
        return self._fixed if self.kinks.holds else self.objective

    @cached_property
    def _fixed(self) -> Objective:
        return (
            self.objective if self.active is None else self.active.fixed(self.objective)
        )

    @property
    def H(self) -> LinearOperator:
        """Curvature as a linear operator, shape (n_params, n_params)."""
        return self._system.H

    def curved(self, v: Array) -> Array:
        """H v for vectors in the last axis of v."""
        if isinstance(self._system, OnKinks):
            return self._system.curved(v)
        flat = v.reshape(-1, v.shape[-1])
        return np.stack([self.H.matvec(one) for one in flat]).reshape(v.shape)

    @property
    def B(self) -> LinearOperator:
        """Cross derivative as a linear operator, shape (n_params, X.size).

        Its input is a perturbation of X, flattened row by row.
        """
        return self._system.B

    @property
    def solution_operator(self) -> LinearOperator:
        """``H^+ B`` as a linear operator, shape (n_params, X.size)."""
        return self._system.solution_operator

    def reduced_map(self) -> Array:
        """``H^+ B`` in an orthonormal basis of range H.

        Norms of its columns, and of groups of columns, are those of ``H^+ B``.

        Returns
        -------
        reduced_map : ndarray of shape (rank, n_samples, n_inputs)
        """
        return self._system.reduced_map()

    def range_map(self) -> tuple[Array, Array]:
        """Orthonormal basis of range H with ``H^+ B`` in it.

        Returns
        -------
        basis : ndarray of shape (n_params, rank)
        reduced_map : ndarray of shape (rank, n_samples, n_inputs)
        """
        return self._system.movement_basis(), self.reduced_map()

    @cached_property
    def weight_modulus(self) -> float:
        """Most that the solution moves per Euclidean norm of the weights' movement.

        Largest singular value of ``H^+`` times R's derivative in the targets' weights;
        inf where that is not solved for exactly.
        """
        if self.is_matrix_free or isinstance(self._system, OnKinks) or self.note:
            return np.inf
        columns = self.objective.weight_jacobian(self.weights)
        outside = self.kernel.project(columns)
        if np.linalg.norm(outside) > CONSISTENCY_TOL * np.linalg.norm(columns):
            return np.inf
        return float(np.linalg.norm(self.factor.apply(columns), 2))

    @property
    def target_operator(self) -> LinearOperator:
        """Shift per movement of real-valued targets, up to sign: (n_params, y.size)."""
        return self._system.target_operator

    @property
    def target_range_residual(self) -> float:
        """Share of the derivative of R in the targets outside range H.

        inf where kinks that move together part as targets do.
        """
        still = np.zeros(self.objective.input_shape)
        movement = Movement(still, probe(*self.objective.target_shape))
        if self.parts_twins(movement):
            return np.inf
        return self._system.target_range_residual

    @cached_property
    def column_range_residuals(self) -> Array:
        """Share of each column b of B outside range H, ``|P_ker b| / |b|``.

        Shape (n_samples, n_inputs); 0 for columns that are rounding beside the largest,
        inf for entries of X along which no derivative exists.
        """
        residuals = self._system.column_range_residuals()
        return np.where(self.undifferentiable.entries, np.inf, residuals)

    @cached_property
    def undifferentiable(self) -> Undifferentiable:
        """Entries of X along which the outputs have no derivative."""
        found = undifferentiable(self.objective, self.weights)
        if isinstance(self._system, OnKinks):
            found = replace(found, twins=self._system.parted_entries)
        return found

    def restricted_map(self, part: slice) -> tuple[Array, Array]:
        """Movement per perturbation of X where some of the weights alone may move.

        Parameters
        ----------
        part : slice
            Of the flat weights, k of them.

        Returns
        -------
        moved : ndarray of shape (k, n_samples * n_inputs)
            ``H^+ B`` of the problem in these weights.
        residuals : ndarray of shape (n_samples * n_inputs,)
            Share of each column outside the range of its H.
        """
        return self._system.restricted_map(part)

    def newton_step(
        self,
        weights: Array | None = None,
        objective: Objective | None = None,
        *,
        enough: float = 0.0,
    ) -> Array:
        """``-H^+ R`` with H^+ from here and R of another objective or point.

        Parameters
        ----------
        weights : ndarray of shape (n_params,), default=None
            None for this point.

        objective : Objective, default=None
            None for this objective.

        enough : float, default=0.0
            Norm of the residual at which an iterative solve may end; factorisations
            are exact.

        Returns
        -------
        step : ndarray of shape (n_params,)
        """
        return self._system.newton_step(
            self.objective if objective is None else objective,
            self.weights if weights is None else weights,
            enough,
        )

    def resolution(self, residual: float, estimated_from: float = 0.0) -> float:
        """What solves leave of a residual of this norm; 0 for factorisations.

        The answer to a perturbation with ``|B dx| = residual`` is known to this much;
        evidence about it need not be known better. An error that is estimated from a
        residual of its own is known to a few per cent from less.
        """
        if not self.is_matrix_free:
            return 0.0
        return max(self.solver.tol * residual, _ESTIMATE * estimated_from)
