"""Where to factorise, what a factorised system offers, and shared pieces."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .._objective import Objective
from ..linalg import PseudoInverse, Solution

__all__ = [
    "DENSE_COPIES",
    "Point",
    "System",
    "available_bytes",
    "matrix_shape",
    "operator",
    "relative_neglect",
    "root",
    "root_or_none",
]

Array = NDArray[np.float64]

# Dense work holds about this many p x p arrays at its peak (H, vectors, LAPACK's).
DENSE_COPIES = 4
_N_POWER_STEPS = 8


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

    def column_leaks(self) -> Array:
        """``|P_ker b| / |b|`` for each column b of B, (n_samples, n_inputs)."""

    def restricted(self, part: slice) -> tuple[PseudoInverse, Array]:
        """H of some weights alone, and their rows of B, (k, n_samples, n_inputs)."""

    @property
    def target_operator(self) -> LinearOperator:
        """``H^+`` times the derivative of R in real-valued targets."""

    @property
    def target_leak(self) -> float:
        """Share of that derivative outside range H, Frobenius norms."""

    def newton_step(self, objective: Objective, weights: Array) -> Array:
        """``-H^+ R`` with the residual of ``objective`` at ``weights``."""


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
    eigenvalues, vectors = np.linalg.eigh(blocks)
    largest = np.abs(eigenvalues).max(axis=1, keepdims=True)
    # Rounding of exact zeros (softmax ignores a common shift) must stay zero: its
    # square root would reappear as a singular value of 1e-8.
    rounding = 10 * blocks.shape[-1] * np.finfo(np.float64).eps * largest
    if (eigenvalues < -rounding).any():
        return None
    kept = np.where(eigenvalues > rounding, eigenvalues, 0.0)
    return np.sqrt(kept)[..., None] * vectors.transpose(0, 2, 1)


def root(blocks: Array) -> Array:
    root = root_or_none(blocks)
    if root is None:
        raise ValueError(
            "The 'curvature' parameter must be 'hessian' with a criterion that is not "
            "convex in the outputs. Got 'ggn' instead."
        )
    return root


def available_bytes() -> float:
    """Free physical memory, or infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def relative_neglect(
    point: Point, product: Callable[[Array], Array], factor: PseudoInverse
) -> float:
    """|H - G|_2 over the smallest kept eigenvalue of G, which stands for H.

    To within a small factor, by power iteration; ``product`` is v -> G v.
    """
    v = np.random.RandomState(0).standard_normal(point.weights.size)
    norm = 0.0
    for _ in range(_N_POWER_STEPS):
        v = v / np.linalg.norm(v)
        v = point.objective.hessian_product(point.weights, v) - product(v)
        norm = float(np.linalg.norm(v))
        if norm == 0.0:
            return 0.0
    smallest = factor.weakest[0]
    return norm / smallest if smallest > 0.0 else np.inf
