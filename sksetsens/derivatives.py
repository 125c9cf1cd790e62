r"""Graphical derivative of the set of first-order points at one solution.

With :math:`R(x, w) = \nabla_w L`, :math:`H = \nabla_w R` and :math:`B = \nabla_x R`,
the mapping :math:`F(x) = \{w : R(x, w) = 0\}` has the graphical derivative
(Wang, Wang and Ban, AAAI 2025, arXiv 2412.11057, Theorem 1)

.. math:: DF(x | w)(dx) = \{v : H v + B\,dx = 0\}

which is empty, or the affine set :math:`v_0 + \ker H` with
:math:`v_0 = -H^+ B\,dx`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ._objective import Objective
from .linalg import GramPseudoInverse, PseudoInverse, Subspace, SymmetricPseudoInverse

__all__ = ["AffineSet", "GraphicalDerivative"]

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
class AffineSet:
    """The set ``{v : H v + B dx = 0}``: empty, or ``shift + ker H``.

    Attributes
    ----------
    shift : ndarray of shape (n_params,)
        Shortest element ``v0 = -H^+ B dx``; NaN where the set is empty.

    kernel : Subspace
        ker H; ``kernel.project`` is the orthogonal projector on it.

    residual : float
        ``|H v0 + B dx| / |B dx|``, Euclidean; 0 for ``B dx = 0``.

    is_empty : bool
        Whether ``B dx`` leaves range H.

    cutoff_change : float
        Relative change of the shift within one decade of rcond.

    status : str
        One sentence.
    """

    shift: Array
    kernel: Subspace
    residual: float
    is_empty: bool
    cutoff_change: float
    status: str


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

    solver : {"auto", "eigh", "dual"}, default="auto"
        "eigh" decomposes the dense p x p matrix. "dual" decomposes ``S J`` with
        ``S'S = Lambda``, which has one row per output and belongs to interpolation,
        where the rest of the Hessian vanishes. "auto" takes the dual where that rest
        is below `DUAL_TOL` of the smallest kept eigenvalue.

    rcond : float, default=None
        Eigenvalues up to ``rcond * |H|_2`` count as zero; None for rounding plus a
        hundred times the relative stationarity of the weights.

    stationarity : float, default=0.0
        Relative stationarity of the weights: how well ``R = 0`` is met, which bounds
        how well H at the solution is known.

    Attributes
    ----------
    factor : PseudoInverse
        Rank, gap, inertia and kernel.

    solver_ : {"eigh", "dual"}

    neglected_curvature : float
        ``|H - A'A|_2`` over the smallest kept eigenvalue, where the dual is used; 0
        for the dense solver.

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
        curvature: str = "hessian",
        solver: str = "auto",
        rcond: float | None = None,
        stationarity: float = 0.0,
    ) -> None:
        self.objective = objective
        self.weights = np.asarray(weights, dtype=np.float64)
        self.curvature, self.solver, self.rcond = curvature, solver, rcond
        self.stationarity = stationarity
        self._system = _choose(self)
        self.solver_ = self._system.name
        self.factor: PseudoInverse = self._system.factor
        self.neglected_curvature = self._system.neglected

    def at(self, objective: Objective, weights: Array) -> GraphicalDerivative:
        """The same kind of derivative at another point, factorised anew."""
        return GraphicalDerivative(
            objective,
            weights,
            curvature=self.curvature,
            solver=self.solver_,
            rcond=self.rcond,
        )

    def __call__(self, dX: NDArray[Any], dy: NDArray[Any] | None = None) -> AffineSet:
        """Solutions' first-order movement when the data moves by ``dX``.

        Parameters
        ----------
        dX : ndarray of the shape of X
            Perturbation of the inputs.

        dy : ndarray of the shape of y, default=None
            Perturbation of real-valued targets.

        Returns
        -------
        affine_set : AffineSet
        """
        solved = self._system.solve(dX, dy)
        return AffineSet(
            solved.value,
            self.kernel,
            solved.residual,
            not solved.is_consistent,
            solved.cutoff_change,
            solved.status,
        )

    @property
    def kernel(self) -> Subspace:
        """ker H, the directions in which the solution set extends."""
        return self.factor.kernel

    @property
    def hessian_norm(self) -> float:
        """|H|_2."""
        return float(np.abs(self.factor.eigenvalues).max(initial=0.0))

    @property
    def H(self) -> LinearOperator:
        """Curvature as a linear operator, shape (n_params, n_params)."""
        return self._system.H

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

    @property
    def kernel_cross_norm(self) -> float:
        """Upper estimate of ``|P_ker B| / |B|``, 0 where range B lies in range H."""
        return self._system.kernel_cross_norm()

    def newton_step(self, weights: Array | None = None) -> Array:
        """``-H^+ R`` with R at ``weights`` (default: here) and H^+ from here."""
        return self._system.newton_step(self.weights if weights is None else weights)


# The two forms of the linear system ------------------------------------------------


class _Dense:
    """H dense and exact (or Gauss-Newton), B through products."""

    name = "eigh"
    neglected = 0.0

    def __init__(self, gd: GraphicalDerivative) -> None:
        self._objective, self._w = gd.objective, gd.weights
        _check_dense_memory(gd.objective)
        matrix = _gauss_newton(gd) if gd.curvature == "ggn" else None
        if matrix is None:
            matrix = gd.objective.hessian(gd.weights)
        noise = _STATIONARITY_NOISE * gd.stationarity
        self.factor = SymmetricPseudoInverse(matrix, rcond=gd.rcond, noise=noise)
        self._matrix_apply = matrix.__matmul__

    def solve(self, dX: Any, dy: Any) -> Any:
        return self.factor.solve(self._objective.cross_product(self._w, dX, dy))

    def newton_step(self, weights: Array) -> Array:
        return -self.factor.apply(self._objective.gradient(weights))

    @property
    def H(self) -> LinearOperator:
        p = self._objective.n_params
        return LinearOperator(
            (p, p), self._matrix_apply, self._matrix_apply, dtype=np.float64
        )

    @property
    def B(self) -> LinearOperator:
        o = self._objective
        return LinearOperator(
            (o.n_params, int(np.prod(o.input_shape))),
            lambda dx: o.cross_product(self._w, dx),
            lambda v: o.cross_adjoint(self._w, np.ravel(v)).ravel(),
            dtype=np.float64,
        )

    @property
    def solution_operator(self) -> LinearOperator:
        B, apply = self.B, self.factor.apply
        return LinearOperator(
            B.shape,
            lambda dx: apply(B.matvec(dx)),
            lambda v: B.rmatvec(apply(np.ravel(v))),
            dtype=np.float64,
        )

    def kernel_cross_norm(self) -> float:
        """Largest ``|B'z| / |B|`` over random unit z in ker H, times sqrt(dim).

        A random unit vector of a k-dimensional kernel sees the norm of ``P_ker B``
        reduced by about sqrt(k).
        """
        kernel = self.factor.kernel
        if kernel.dim == 0:
            return 0.0
        rng = np.random.RandomState(0)
        B = self.B
        scale = max(
            float(np.linalg.norm(B.rmatvec(_unit(rng.standard_normal(B.shape[0])))))
            for _ in range(3)
        ) * np.sqrt(B.shape[0])
        if scale == 0.0:
            return 0.0
        z = [_unit(kernel.project(rng.standard_normal(B.shape[0]))) for _ in range(3)]
        leak = max(float(np.linalg.norm(B.rmatvec(v))) for v in z)
        return leak * np.sqrt(kernel.dim) / scale


class _Dual:
    """``H = A'A`` and ``B = A' S D`` with ``A = S J``, ``S'S = Lambda``."""

    name = "dual"

    def __init__(self, gd: GraphicalDerivative) -> None:
        self._objective, self._w = gd.objective, gd.weights
        self._S = _root(gd.objective.output_hessian(gd.weights))
        J = gd.objective.jacobian(gd.weights)
        self._A = (self._S @ J).reshape(-1, gd.objective.n_params)
        self._SD = self._S @ gd.objective.input_jacobian(gd.weights)
        self.factor = GramPseudoInverse(self._A, rcond=gd.rcond)
        self.neglected = _relative_neglect(
            self._neglected_norm(gd.curvature), self.factor
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

    def solve(self, dX: Any, dy: Any) -> Any:
        return self.factor.solve_factored(self._rho(dX, dy))

    def newton_step(self, weights: Array) -> Array:
        r = self._whitened(self._objective.output_gradient(weights))
        return -self.factor.apply_factored(r.ravel())

    @property
    def H(self) -> LinearOperator:
        p, A = self._objective.n_params, self._A
        return LinearOperator(
            (p, p),
            lambda v: A.T @ (A @ v),
            lambda v: A.T @ (A @ v),
            dtype=np.float64,
        )

    def _to_input(self, rho: Array) -> Array:
        columns = rho.reshape(self._SD.shape[0], 1, self._SD.shape[1])
        return (columns @ self._SD).ravel()

    def _operator(self, left: Any, left_adjoint: Any) -> LinearOperator:
        shape = (self._objective.n_params, int(np.prod(self._objective.input_shape)))
        return LinearOperator(
            shape,
            lambda dx: left(self._rho(dx)),
            lambda v: self._to_input(left_adjoint(np.ravel(v))),
            dtype=np.float64,
        )

    @property
    def B(self) -> LinearOperator:
        return self._operator(self._A.T.__matmul__, self._A.__matmul__)

    @property
    def solution_operator(self) -> LinearOperator:
        factor = self.factor
        return self._operator(factor.apply_factored, factor.apply_factored_adjoint)

    def kernel_cross_norm(self) -> float:
        """Zero: range B lies in range A' by construction."""
        return 0.0


def _choose(gd: GraphicalDerivative) -> _Dense | _Dual:
    if gd.solver == "eigh":
        return _Dense(gd)
    reason = _why_no_dual(gd)
    if gd.solver == "dual":
        if reason:
            raise ValueError(
                f"The 'solver' parameter must be 'auto' or 'eigh' here, because "
                f"{reason}. Got 'dual' instead."
            )
        return _Dual(gd)
    too_large = gd.objective.n_params > DENSE_MAX_PARAMS
    if not reason and (too_large or _is_near_interpolation(gd)):
        dual = _Dual(gd)
        if too_large or dual.neglected <= DUAL_TOL:
            return dual
    if too_large:
        raise ValueError(
            f"The 'solver' parameter must name a solver that fits a net of "
            f"{gd.objective.n_params} weights: the dense Hessian is limited to "
            f"{DENSE_MAX_PARAMS} weights under 'auto', and 'dual' does not apply "
            f"because {reason}. Got 'auto' instead. Use a smaller net, or "
            "solver='eigh' with enough memory and patience."
        )
    return _Dense(gd)


def _why_no_dual(gd: GraphicalDerivative) -> str:
    objective = gd.objective
    m, p = objective.n_samples * objective.n_outputs, objective.n_params
    if objective.is_tilted:
        return "the weights are early-stopped (polish=False)"
    if objective.is_penalised(gd.weights):
        return "the objective has a penalty on the weights"
    if m >= p:
        return f"there are no fewer outputs ({m}) than weights ({p})"
    if not objective.is_separable(gd.weights):
        return "the criterion couples rows"
    if _root_or_none(objective.output_hessian(gd.weights)) is None:
        return "the criterion is not convex in the outputs"
    needed = 8 * m * p * _DENSE_COPIES
    if needed > available_bytes():
        return f"it needs {needed / 1e9:.1f} GB for the outputs' Jacobian"
    return ""


def _is_near_interpolation(gd: GraphicalDerivative) -> bool:
    """Whether moving by one Gauss-Newton step is below 1e-3 of the outputs' scale.

    A cheap screen before the factorisation: ``r' Lambda^+ r`` is the squared
    distance of the outputs to their targets in the loss's own metric.
    """
    objective, w = gd.objective, gd.weights
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


def _gauss_newton(gd: GraphicalDerivative) -> Array:
    objective, w = gd.objective, gd.weights
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


def _check_dense_memory(objective: Objective) -> None:
    p = objective.n_params
    needed, available = 8 * p * p * _DENSE_COPIES, available_bytes()
    if needed <= available:
        return
    m = objective.n_samples * objective.n_outputs
    dual = (
        f"solver='dual' needs {8 * m * p * _DENSE_COPIES / 1e9:.1f} GB and applies at "
        "interpolation without weight decay"
        if m < p
        else "use a net with fewer weights"
    )
    raise ValueError(
        f"The dense Hessian of {p} weights needs {needed / 1e9:.1f} GB, "
        f"{available / 1e9:.1f} GB are free (solver='eigh'); {dual}."
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
