"""Where to factorise, what a factorised system offers, and shared pieces."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import (
    KrylovSettings,
    Lifted,
    PseudoInverse,
    Solution,
    outside_range,
    probe,
    range_residuals,
)
from ...objective import Movement, Objective, PointProducts
from ._solver import Solver

__all__ = [
    "DENSE_COPIES",
    "STATIONARITY_NOISE",
    "Point",
    "System",
    "WithFactor",
    "ZeroOfR",
    "curvature_of_rows",
    "factorisation_budget",
    "matrix_shape",
    "operator",
    "relative_neglect",
    "root",
    "root_or_none",
]

Array = NDArray[np.float64]

# Dense work holds about this many p x p arrays at its peak (H, vectors, LAPACK's).
DENSE_COPIES = 4
# Weights off by a relative step s change null eigenvalues by about s |H| times the
# third derivative's scale; the cut-off lies two decades above.
STATIONARITY_NOISE = 100.0
# Share of the machine's memory for factorised matrices.
FACTORISATION_SHARE = 0.5
# Share of the working memory for a Krylov basis, beside the recorded graphs.
BASIS_SHARE = 0.5
_N_POWER_STEPS = 8
# Negative curvature of the criterion, relative to its largest, that is no rounding.
_CONCAVE = 1e-4


@dataclass(frozen=True)
class Point:
    """Where and how to factorise.

    Attributes
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
    solver : Solver
    stationarity : float
        Relative stationarity of the weights.
    rank : int or None
        Rank of H where it is known.
    anchor : HeldOutputs or None
        Outputs that corrections of a saturated net bring back.
    holds : bool or None
        Whether the dual holds outputs; None to decide by saturation.
    scales : ndarray of shape (n_params,) or None
        In which a dense H is decomposed; None to judge by its diagonal.
    near : Lifted or None
        A matrix near H whose inverse is known, for iterative solves.
    """

    objective: Objective
    weights: Array
    solver: Solver = Solver()
    stationarity: float = 0.0
    rank: int | None = None
    anchor: Any = None
    holds: bool | None = None
    scales: Array | None = None
    near: Lifted | None = None

    @property
    def krylov(self) -> KrylovSettings:
        """Tolerance, length and memory of iterative solves."""
        memory = BASIS_SHARE * self.objective.budget()
        return KrylovSettings(self.solver.tol, self.solver.max_iter, memory)


class System(Protocol):
    """Factorised H with the right-hand sides that belong to it.

    Attributes
    ----------
    name : str
    is_iterative : bool
        Whether solves are.
    anchor : HeldOutputs or None
        Outputs that corrections bring back, where they do not go by R.
    factor : PseudoInverse
    nearby : Lifted or None
        For iterative solves at points close by, which are then preferred.
    """

    name: str
    anchor: Any
    is_iterative: bool
    nearby: Lifted | None

    @property
    def note(self) -> str:
        """What the shift means where it is not a zero of R that moves."""

    @property
    def neglected(self) -> float:
        """See `GraphicalDerivative.neglected_curvature`."""

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

    def solve(self, movement: Movement) -> Solution:
        """Shortest solution of ``H v = -b``, b the movement of R with the data."""

    def on(self, objective: Objective) -> Self:
        """The same system of an objective that is equal here, and moves otherwise."""

    def reduced_map(self) -> Array:
        """``H^+ B`` in an orthonormal basis of range H: (rank, n_samples, n_inputs)."""

    def column_range_residuals(self) -> Array:
        """``|P_ker b| / |b|`` for each column b of B, (n_samples, n_inputs)."""

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        """H of some weights alone, and their rows of B, (k, n_samples, n_inputs)."""

    def restricted_map(self, part: slice) -> tuple[Array, Array]:
        """``H^+ B`` of some weights alone, (k, n), and columns' range residuals."""

    def movement_basis(self) -> Array:
        """Orthonormal basis of what `reduced_map` maps to, (n_params, rank)."""

    def length_of_residual(self, objective: Objective, weights: Array) -> float:
        """``|S R|``, or of a solution on kinks the norm of K."""

    @property
    def target_operator(self) -> LinearOperator:
        """``H^+`` times the derivative of R in real-valued targets."""

    @property
    def target_range_residual(self) -> float:
        """Share of that derivative outside range H, Frobenius norms."""

    def newton_step(
        self, objective: Objective, weights: Array, enough: float = 0.0
    ) -> Array:
        """``-H^+ R`` with the residual of ``objective`` at ``weights``.

        An iterative solve may end at a residual of norm ``enough``.
        """

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        """Norm of what ought to vanish: ``|S R|``, or the held outputs' movement."""

    @property
    def residual_scale(self) -> float:
        """Norm of its derivative in the weights."""

    @property
    def has_full_row_rank(self) -> bool:
        """Whether the equations that the solutions obey are independent."""


class WithFactor:
    """What all systems share."""

    nearby: Lifted | None = None
    _objective: Objective
    factor: Any
    restricted: Callable[[slice], tuple[PseudoInverse, Array]]

    def restricted_map(self, part: slice) -> tuple[Array, Array]:
        factor, B = self.restricted(part)
        flat = B.reshape(len(B), -1)
        residuals = range_residuals(*outside_range(factor, flat.T))
        return factor.apply(flat.T).T, residuals

    def on(self, objective: Objective) -> Self:
        other = copy.copy(self)
        other._objective = objective
        return other

    def movement_basis(self) -> Array:
        basis: Array = self.factor.range_basis()[0]
        return basis

    def length_of_residual(self, objective: Objective, weights: Array) -> float:
        return float(np.linalg.norm(self.factor.scales * objective.gradient(weights)))


class ZeroOfR(WithFactor):
    """What systems share whose solutions are zeros of R."""

    anchor: Any = None
    is_iterative = False

    @property
    def note(self) -> str:
        return ""

    def residual_norm(self, objective: Objective, weights: Array) -> float:
        return self.length_of_residual(objective, weights)

    @property
    def residual_scale(self) -> float:
        return float(np.abs(self.factor.scaled.eigenvalues).max(initial=0.0))

    @property
    def has_full_row_rank(self) -> bool:
        return False


def operator(shape: tuple[int, int], forward: Any, adjoint: Any) -> LinearOperator:
    """Operator on vectors; SciPy passes columns of shape (n, 1) too."""
    return LinearOperator(
        shape,
        lambda v: forward(np.ravel(v)),
        lambda v: adjoint(np.ravel(v)),
        dtype=np.float64,
    )


def matrix_shape(objective: Objective) -> tuple[int, int]:
    """Rows of the data and entries of each."""
    return objective.n_samples, int(np.prod(objective.input_shape[1:]))


def root_or_none(blocks: Array) -> Array | None:
    """S with ``S'S = Lambda`` per row, or None where Lambda is indefinite."""
    found = curvature_of_rows(blocks)
    if found is None:
        return None
    eigenvalues, vectors = found
    return np.sqrt(eigenvalues)[..., None] * vectors.transpose(0, 2, 1)


def curvature_of_rows(blocks: Array) -> tuple[Array, Array] | None:
    """Eigenvalues, rounding set to zero, and vectors of Lambda; None if indefinite."""
    eigenvalues, vectors = np.linalg.eigh(blocks)
    largest = float(np.abs(eigenvalues).max(initial=0.0))
    negative = -float(eigenvalues.min(initial=0.0))
    if negative > _CONCAVE * largest:
        return None
    # Rounding of exact zeros (softmax ignores a common shift) must stay zero: its
    # square root would reappear as a singular value of 1e-8. Where all rows are
    # saturated it exceeds that of the largest: p - p^2 cancels. Negative ones show it.
    rounding = 10 * blocks.shape[-1] * np.finfo(np.float64).eps * largest
    rounding = max(rounding, 2.0 * negative)
    return np.where(eigenvalues > rounding, eigenvalues, 0.0), vectors


def root(blocks: Array) -> Array:
    root = root_or_none(blocks)
    if root is None:
        raise ValueError(
            "The 'curvature' parameter must be 'hessian' with a criterion that is not "
            "convex in the outputs. Got 'ggn' instead."
        )
    return root


def factorisation_budget() -> float:
    """Bytes that factorised matrices may take: half of the machine's memory.

    Of all of it, not of what is free at the moment: the same call chooses the same
    solver whatever else runs. Infinite where the system does not tell.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
    return FACTORISATION_SHARE * float(total)


def relative_neglect(
    point: Point, product: Callable[[Array], Array], factor: PseudoInverse
) -> float:
    """|H - G|_2 over the smallest kept eigenvalue of G, which stands for H.

    To within a small factor, by power iteration; ``product`` is v -> G v.
    """
    v = probe(point.weights.size)
    norm, exact = 0.0, PointProducts(point.objective, point.weights)
    for _ in range(_N_POWER_STEPS):
        v = v / np.linalg.norm(v)
        v = exact.hessian(v) - product(v)
        norm = float(np.linalg.norm(v))
        if norm == 0.0:
            return 0.0
    smallest = factor.weakest[0]
    return norm / smallest if smallest > 0.0 else np.inf
