"""What every singular solver promises, and the record of one solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# |H v + b| / |b| above which b counts as outside range H. A right-hand side whose
# small components were cut off with rcond ~ 1e-13 leaves up to sqrt(rcond) ~ 5e-7;
# a perturbation that truly leaves the range leaves far more.
CONSISTENCY_TOL = 1e-6

# The spectrum must be empty for this factor on both sides of the cut-off.
DECADE = 10.0


class Reason(Enum):
    """How a solve ended; the value is its sentence, to be filled with numbers."""

    SOLVED = "solved"
    EMPTY = (
        "empty: the right-hand side leaves range H (relative residual {residual:.2g}), "
        "so that no first-order shift exists"
    )
    NO_GAP = (
        "depends on rcond: the spectrum has no gap at the cut-off {cutoff:.2g}; one "
        "decade of rcond changes the shift by {change:.2g} of its norm"
    )
    INACCURATE = "inaccurate: residual {residual:.2g}"
    ENDED = "the iterative solve ended at relative residual {unfinished}"
    STAGNATED = "the iterative solve stagnated at relative residual {unfinished}"

    def told(self, **numbers: float | str) -> str:
        """The sentence with its numbers."""
        return self.value.format(**numbers)


@dataclass(frozen=True)
class Solution:
    """One solve of ``H v = -b``: the shortest element and its evidence.

    Attributes
    ----------
    value : ndarray of shape (p,)
        ``-H^+ b``; NaN where the system has no solution.

    residual : float
        ``|H v + b| / |b|`` of the least-squares solution, Euclidean; 0 for b = 0.

    is_consistent : bool
        Whether b lies in range H up to ``CONSISTENCY_TOL``.

    cutoff_change : float
        Largest relative change of the value when the cut-off moves a decade up or
        down: what the choice of rcond decides.

    status : str
        One sentence.

    reason : Reason
        Which one.

    n_iter : int
        Products with H of an iterative solve; 0 for a factorisation.

    converged : bool
        Whether an iterative solve met its tolerance, or found that there is no
        solution.
    """

    value: Array
    residual: float
    is_consistent: bool
    cutoff_change: float
    status: str
    reason: Reason
    n_iter: int = 0
    converged: bool = True


class PseudoInverse(Protocol):
    """Factorised symmetric H: answers any number of right-hand sides.

    Attributes
    ----------
    eigenvalues : ndarray
        Eigenvalues of H that the factorisation sees, ascending.
    cutoff : float
        Eigenvalues of absolute value up to this count as zero.
    rank, kernel_dim : int
    is_rank_exact : bool
        Whether these are known; estimates of iterative solvers are not.
    gap : float
        Smallest kept over largest dropped absolute eigenvalue; the dropped one is
        taken at least as large as the rounding of H.
    inertia : tuple of (int, int, int)
        Numbers of negative, zero and positive eigenvalues.
    kernel : Subspace or ImplicitSubspace
    scales : ndarray of shape (p,) or 1.0
        Diagonal of S, where rank is judged on ``S H S``.
    scaled : PseudoInverse
        Of ``S H S``; itself where S is 1. Norms of ``S b`` and ``v / S`` compare
        entries that belong to columns of data in different units.
    """

    @property
    def eigenvalues(self) -> Array:
        """See above."""

    @property
    def cutoff(self) -> float:
        """See above."""

    @property
    def rank(self) -> int:
        """See above."""

    @property
    def kernel_dim(self) -> int:
        """See above."""

    @property
    def is_rank_exact(self) -> bool:
        """See above."""

    @property
    def gap(self) -> float:
        """See above."""

    @property
    def inertia(self) -> tuple[int, int, int]:
        """See above."""

    @property
    def kernel(self) -> Any:
        """A `Subspace`, or an `ImplicitSubspace`."""

    @property
    def scales(self) -> Array | float:
        """See above."""

    @property
    def scaled(self) -> PseudoInverse:
        """See above."""

    @property
    def has_clear_cutoff(self) -> bool:
        """Whether no eigenvalue lies within a decade of the cut-off."""

    def range_basis(self) -> tuple[Array, Array]:
        """Orthonormal eigenvectors of range H, (p, rank), and their eigenvalues."""

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute eigenvalue and its unit vector of shape (p,).

        0 and zeros where nothing is kept.
        """

    def apply(self, b: Array) -> Array:
        """``H^+ b`` for vectors in the last axis of b."""

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``H v = -b`` with its evidence."""


class InCommonUnits:
    """What inverses share that judge H as it is."""

    scales: Array | float = 1.0

    @property
    def scaled(self) -> Any:
        """Of ``S H S`` with S = 1."""
        return self


def gap_at(magnitudes: Array, cutoff: float, noise: float) -> float:
    """Smallest kept over largest dropped magnitude; inf for a zero matrix."""
    kept, dropped = magnitudes[magnitudes > cutoff], magnitudes[magnitudes <= cutoff]
    if kept.size == 0:
        return np.inf
    floor = max(dropped.max(initial=0.0), noise)
    return float(kept.min() / floor) if floor > 0 else np.inf


def cutoff_of_rank(magnitudes: Array, rank: int) -> float:
    """Largest cut-off that keeps at least ``rank`` magnitudes, short of ties."""
    dropped = np.sort(magnitudes)[::-1][rank:]
    return float(dropped[0]) if dropped.size else 0.0


def clear_at(magnitudes: Array, cutoff: float) -> bool:
    """Whether no magnitude lies within a decade of the cut-off on either side."""
    close = (magnitudes > cutoff / DECADE) & (magnitudes < cutoff * DECADE)
    return not bool(close.any())


def solution(
    value: Array,
    left: Array,
    b: Array,
    *,
    cutoff: float = 0.0,
    moved: Callable[[float], Array] | None = None,
) -> Solution:
    """Assemble a `Solution`, with NaN for a value that does not exist.

    Parameters
    ----------
    value : ndarray of shape (p,)
        Of the least-squares solution.
    left, b : ndarray
        ``H v + b`` and b, in any orthonormal coordinates.
    cutoff : float
        Eigenvalues up to this counted as zero.
    moved : callable, default=None
        Where the spectrum has no gap there: the value with the cut-off times a factor.
    """
    norm = float(np.linalg.norm(b))
    residual = float(np.linalg.norm(left)) / norm if norm > 0 else 0.0
    reason, change = Reason.SOLVED, 0.0
    if moved is not None:
        reason, change = Reason.NO_GAP, _cutoff_change(value, moved)
    if residual > CONSISTENCY_TOL:
        return empty(value, residual, change)
    status = reason.told(cutoff=cutoff, change=change)
    return Solution(value, residual, True, change, status, reason)


def empty(value: Array, residual: float, change: float = 0.0) -> Solution:
    """The record of a system without a solution."""
    status = Reason.EMPTY.told(residual=residual)
    nowhere = np.full_like(value, np.nan)
    return Solution(nowhere, residual, False, change, status, Reason.EMPTY)


def _cutoff_change(value: Array, moved: Callable[[float], Array]) -> float:
    """Relative change of the value as the cut-off moves a decade up or down."""
    others = [moved(DECADE), moved(1.0 / DECADE)]
    distance = max(float(np.linalg.norm(other - value)) for other in others)
    if distance == 0.0:
        return 0.0
    norm = float(np.linalg.norm(value))
    return distance / norm if norm > 0 else np.inf
