"""The linear system ``H v = -B dx`` at one point, in its dense and its dual form.

Both forms know H, B and ``H^+ B`` as operators, solve for a perturbation of the data,
and take Newton steps on R. "auto" chooses between them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ._objective import Objective
from .linalg import (
    GramPseudoInverse,
    PseudoInverse,
    Solution,
    SymmetricPseudoInverse,
)

__all__ = ["Point", "System", "check_size", "choose_system"]

Array = NDArray[np.float64]

# Above this many weights "auto" no longer factorises the dense Hessian: minutes.
DENSE_MAX_PARAMS = 6000
# |H - A'A| relative to the smallest kept eigenvalue of A'A below which "auto" takes
# the dual: the shift then errs by no more than this factor in any direction.
DUAL_TOL = 1e-3
# Weights off by a relative step s change null eigenvalues by about s |H| times the
# third derivative's scale; the cut-off lies two decades above.
_STATIONARITY_NOISE = 100.0
# Dense work holds about this many p x p arrays at its peak (H, vectors, LAPACK's).
_DENSE_COPIES = 4


@dataclass(frozen=True)
class Point:
    """Where and how to factorise.

    Attributes
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
    curvature : {"hessian", "ggn"}
    solver : {"auto", "eigh", "dual"}
    rcond : float or None
    stationarity : float
        Relative stationarity of the weights.
    rank : int or None
        Rank of H where it is known.
    """

    objective: Objective
    weights: Array
    curvature: str
    solver: str
    rcond: float | None
    stationarity: float
    rank: int | None = None


class System(Protocol):
    """Factorised H with the right-hand sides that belong to it.

    Attributes
    ----------
    name : str
    neglected : float
        Neglected curvature over the smallest kept eigenvalue.
    factor : PseudoInverse
    """

    name: str
    neglected: float

    @property
    def factor(self) -> PseudoInverse:
        """Rank, gap, inertia and kernel of H."""

    @property
    def H(self) -> LinearOperator:
        """Curvature."""

    @property
    def B(self) -> LinearOperator:
        """Cross derivative."""

    @property
    def solution_operator(self) -> LinearOperator:
        """``H^+ B``."""

    def solve(self, dX: Any, dy: Any) -> Solution:
        """Shortest solution of ``H v = -B dx``."""

    def reduced_map(self) -> Array:
        """``H^+ B`` in an orthonormal basis of range H: (rank, n_samples, n_inputs)."""

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        """H of some weights alone, and their rows of B, (k, n_samples, n_inputs)."""

    def newton_step(self, objective: Objective, weights: Array) -> Array:
        """``-H^+ R`` with the residual of ``objective`` at ``weights``."""


class _Dense:
    """H dense and exact (or Gauss-Newton), B through products."""

    name = "eigh"
    neglected = 0.0

    def __init__(self, point: Point) -> None:
        self._objective, self._w = point.objective, point.weights
        _check_dense_memory(point)
        matrix = _gauss_newton(point) if point.curvature == "ggn" else None
        if matrix is None:
            matrix = point.objective.hessian(point.weights)
        noise = _STATIONARITY_NOISE * point.stationarity
        self.factor = SymmetricPseudoInverse(
            matrix, rcond=point.rcond, noise=noise, rank=point.rank
        )
        self._matrix, self._rcond = matrix, point.rcond

    def solve(self, dX: Any, dy: Any) -> Solution:
        return self.factor.solve(self._objective.cross_product(self._w, dX, dy))

    def newton_step(self, objective: Objective, weights: Array) -> Array:
        return -self.factor.apply(objective.gradient(weights))

    def reduced_map(self) -> Array:
        basis, eigenvalues = self.factor.range_basis()
        rows = self._objective.cross_adjoints(self._w, basis.T)
        return rows / eigenvalues[:, None, None]

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        units = np.eye(self._objective.n_params)[part]
        inverse = SymmetricPseudoInverse(self._matrix[part, part], rcond=self._rcond)
        return inverse, self._objective.cross_adjoints(self._w, units)

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return _operator((p, p), self._matrix.__matmul__, self._matrix.__matmul__)

    @property
    def B(self) -> LinearOperator:
        o = self._objective
        return _operator(
            (o.n_params, int(np.prod(o.input_shape))),
            lambda dx: o.cross_product(self._w, dx),
            lambda v: o.cross_adjoint(self._w, v).ravel(),
        )

    @property
    def solution_operator(self) -> LinearOperator:
        B, apply = self.B, self.factor.apply
        return _operator(
            B.shape,
            lambda dx: apply(B.matvec(dx)),
            lambda v: B.rmatvec(apply(v)),
        )


class _Dual:
    """``H = A'A`` and ``B = A' S D`` with ``A = S J``, ``S'S = Lambda``."""

    name = "dual"

    def __init__(self, point: Point) -> None:
        self._objective, self._w = point.objective, point.weights
        self._S = _root(point.objective.output_hessian(point.weights))
        J = point.objective.jacobian(point.weights)
        self._A = (self._S @ J).reshape(-1, point.objective.n_params)
        self._SD = self._S @ point.objective.input_jacobian(point.weights)
        self._rcond = point.rcond
        self.factor = GramPseudoInverse(self._A, rcond=point.rcond, rank=point.rank)
        self.neglected = _relative_neglect(
            self._neglected_norm(point.curvature), self.factor
        )

    def _neglected_norm(self, curvature: str, n_iter: int = 8) -> float:
        """|H - A'A|_2 to within a small factor, by power iteration."""
        if curvature == "ggn":
            return 0.0
        v = _unit(np.random.RandomState(0).standard_normal(self._A.shape[1]))
        norm = 0.0
        for _ in range(n_iter):
            v = self._objective.hessian_product(self._w, v) - self._A.T @ (self._A @ v)
            norm = float(np.linalg.norm(v))
            if norm == 0.0:
                break
            v = v / norm
        return norm

    def _rho(self, dX: Any, dy: Any = None) -> Array:
        rows = np.reshape(dX, (self._SD.shape[0], self._SD.shape[2], 1))
        rho = self._SD @ rows
        if dy is not None:
            rho = rho + self._whitened(
                self._objective.output_target_product(self._w, dy)
            )
        return rho.ravel()

    def _whitened(self, r: Array) -> Array:
        """rho with ``S' rho = r`` per row, shape (n_samples, n_outputs, 1)."""
        return np.linalg.pinv(self._S.transpose(0, 2, 1)) @ r[..., None]

    def solve(self, dX: Any, dy: Any) -> Solution:
        return self.factor.solve_factored(self._rho(dX, dy))

    def reduced_map(self) -> Array:
        u, sigma = self.factor.left_basis()
        per_row = (u / sigma).reshape(*self._SD.shape[:2], -1)
        return np.einsum("icr,icd->rid", per_row, self._SD)

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        A = self._A[:, part]
        per_row = A.reshape(*self._SD.shape[:2], -1)
        B = np.einsum("ick,icd->kid", per_row, self._SD)
        return GramPseudoInverse(A, rcond=self._rcond), B

    def newton_step(self, objective: Objective, weights: Array) -> Array:
        r = self._whitened(objective.output_gradient(weights))
        return -self.factor.apply_factored(r.ravel())

    @property
    def H(self) -> LinearOperator:
        p, A = self._objective.n_params, self._A
        return _operator((p, p), lambda v: A.T @ (A @ v), lambda v: A.T @ (A @ v))

    def _to_input(self, rho: Array) -> Array:
        columns = rho.reshape(self._SD.shape[0], 1, self._SD.shape[1])
        return (columns @ self._SD).ravel()

    def _from_input(self, left: Any, left_adjoint: Any) -> LinearOperator:
        shape = (self._objective.n_params, int(np.prod(self._objective.input_shape)))
        return _operator(
            shape,
            lambda dx: left(self._rho(dx)),
            lambda v: self._to_input(left_adjoint(v)),
        )

    @property
    def B(self) -> LinearOperator:
        return self._from_input(self._A.T.__matmul__, self._A.__matmul__)

    @property
    def solution_operator(self) -> LinearOperator:
        factor = self.factor
        return self._from_input(factor.apply_factored, factor.apply_factored_adjoint)


def _operator(shape: tuple[int, int], forward: Any, adjoint: Any) -> LinearOperator:
    """Operator on vectors; SciPy passes columns of shape (n, 1) too."""
    return LinearOperator(
        shape,
        lambda v: forward(np.ravel(v)),
        lambda v: adjoint(np.ravel(v)),
        dtype=np.float64,
    )


def check_size(point: Point) -> None:
    """Refuse a solver that cannot apply or fit, without factorising anything.

    Raises
    ------
    ValueError
        With the solver that would.
    """
    if point.solver == "eigh":
        _check_dense_memory(point)
        return
    reason = _why_no_dual(point)
    if point.solver == "dual" and reason:
        raise ValueError(
            "The 'solver' parameter must be 'auto' or 'eigh' here, because "
            f"{reason}. Got 'dual' instead."
        )
    if point.solver == "auto" and reason and _is_too_large(point):
        raise ValueError(
            "The 'solver' parameter must name a solver that fits a net of "
            f"{point.objective.n_params} weights: the dense Hessian is limited to "
            f"{DENSE_MAX_PARAMS} weights under 'auto', and 'dual' does not apply "
            f"because {reason}. Got 'auto' instead. Use a smaller net, or "
            "solver='eigh' with enough memory and patience."
        )


def choose_system(point: Point) -> System:
    """The system in the form that ``point.solver`` names, or that fits.

    Raises
    ------
    ValueError
        If the form does not apply or does not fit in memory.
    """
    check_size(point)
    if point.solver == "dual":
        return _Dual(point)
    if point.solver == "auto" and not _why_no_dual(point):
        if _is_too_large(point):
            return _Dual(point)
        if _is_near_interpolation(point):
            dual = _Dual(point)
            if dual.neglected <= DUAL_TOL:
                return dual
    return _Dense(point)


def _is_too_large(point: Point) -> bool:
    return point.objective.n_params > DENSE_MAX_PARAMS


def _why_no_dual(point: Point) -> str:
    objective = point.objective
    m, p = objective.n_equations, objective.n_params
    if objective.is_tilted:
        return "the weights are early-stopped (polish=False)"
    if objective.is_penalised(point.weights):
        return "the objective has a penalty on the weights"
    if m >= p:
        return f"there are no fewer outputs ({m}) than weights ({p})"
    if not objective.is_separable(point.weights):
        return "the criterion couples rows"
    if _root_or_none(objective.output_hessian(point.weights)) is None:
        return "the criterion is not convex in the outputs"
    needed = 8 * m * p * _DENSE_COPIES
    if needed > available_bytes():
        return f"it needs {needed / 1e9:.1f} GB for the outputs' Jacobian"
    return ""


def _is_near_interpolation(point: Point) -> bool:
    """Whether moving by one Gauss-Newton step is below 1e-3 of the outputs' scale.

    A cheap screen before the factorisation: ``r' Lambda^+ r`` is the squared
    distance of the outputs to their targets in the loss's own metric.
    """
    objective, w = point.objective, point.weights
    r = objective.output_gradient(w)
    S = _root(objective.output_hessian(w))
    outputs = objective.outputs(w).reshape(r.shape)
    distance = float(
        np.linalg.norm(np.linalg.pinv(S.transpose(0, 2, 1)) @ r[..., None])
    )
    return distance <= 1e-3 * float(np.linalg.norm(S @ outputs[..., None]))


def _root_or_none(blocks: Array) -> Array | None:
    """S with ``S'S = Lambda`` per row, or None where Lambda is indefinite."""
    eigenvalues, vectors = np.linalg.eigh(blocks)
    largest = np.abs(eigenvalues).max(axis=1, keepdims=True)
    # Rounding of exact zeros (softmax ignores a common shift) must stay zero: its
    # square root would reappear as a singular value of 1e-8.
    rounding = 10 * blocks.shape[-1] * np.finfo(np.float64).eps * largest
    if (eigenvalues < -rounding).any():
        return None
    kept = np.where(eigenvalues > rounding, eigenvalues, 0.0)
    return np.sqrt(kept)[..., None] * vectors.transpose(0, 2, 1)


def _root(blocks: Array) -> Array:
    root = _root_or_none(blocks)
    if root is None:
        raise ValueError(
            "The 'curvature' parameter must be 'hessian' with a criterion that is not "
            "convex in the outputs. Got 'ggn' instead."
        )
    return root


def _gauss_newton(point: Point) -> Array:
    objective, w = point.objective, point.weights
    if not objective.is_separable(w):
        raise ValueError(
            "The 'curvature' parameter must be 'hessian' with a criterion that "
            "couples rows. Got 'ggn' instead."
        )
    A = _root(objective.output_hessian(w)) @ objective.jacobian(w)
    A = A.reshape(-1, objective.n_params)
    penalty = objective.penalty_hessian(w)
    return A.T @ A if penalty is None else A.T @ A + penalty


def _relative_neglect(norm: float, factor: GramPseudoInverse) -> float:
    kept = factor.eigenvalues[factor.eigenvalues > factor.cutoff]
    if norm == 0.0:
        return 0.0
    return norm / float(kept.min()) if kept.size else np.inf


def _check_dense_memory(point: Point) -> None:
    p = point.objective.n_params
    needed, available = 8 * p * p * _DENSE_COPIES, available_bytes()
    if needed <= available:
        return
    needed_by_dual = 8 * point.objective.n_equations * p * _DENSE_COPIES
    remedy = (
        "use a net with fewer weights"
        if _why_no_dual(point)
        else f"solver='dual' needs {needed_by_dual / 1e9:.1f} GB and applies where the "
        "net interpolates"
    )
    raise ValueError(
        f"The dense Hessian of {p} weights needs {needed / 1e9:.1f} GB, "
        f"{available / 1e9:.1f} GB are free (solver='eigh'); {remedy}."
    )


def available_bytes() -> float:
    """Free physical memory, or infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _unit(v: Array) -> Array:
    norm = float(np.linalg.norm(v))
    return v / norm if norm > 0 else v
