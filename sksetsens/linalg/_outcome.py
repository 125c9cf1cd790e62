"""How far an iterative solve goes, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ._pseudoinverse import CONSISTENCY_TOL, Reason, Solution, empty

__all__ = ["KrylovSettings", "Outcome", "assemble"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class KrylovSettings:
    """How far an iterative solve goes.

    Attributes
    ----------
    tol : float
        Relative residual ``|H v + b| / |b|`` asked for.
    max_iter : int
        Products per solve.
    memory : float
        Bytes that a basis may take; longer ones are begun anew.
    """

    tol: float = 1e-8
    max_iter: int = 1000
    memory: float = 2.0**29

    def steps_that_fit(self, n: int) -> int:
        """Longest basis of vectors of length n."""
        return max(8, int(self.memory // (8 * n)))


@dataclass(frozen=True)
class Outcome:
    """Least-squares solution of ``H x = b`` and how it was reached.

    Attributes
    ----------
    value : ndarray of shape (n,)
        Shortest.
    residual : float
        ``|b - H x| / |b|`` by an exact product.
    is_least_squares : bool
        Whether the residual lies outside range H.
    n_iter : int
        Products.
    stop : {"converged", "least_squares", "stagnated", "max_iter"}
    """

    value: Array
    residual: float
    is_least_squares: bool
    n_iter: int
    stop: str

    @property
    def is_solved(self) -> bool:
        """Whether nothing is left to iterate for."""
        return self.stop in ("converged", "least_squares")


def assemble(outcome: Outcome, settings: KrylovSettings) -> Solution:
    """The record of an iterative solve.

    A residual that no iteration can shrink means that there is no solution; one that
    was only not reached means that the answer is not to be trusted.
    """
    if outcome.is_least_squares and outcome.residual > CONSISTENCY_TOL:
        return replace(empty(outcome.value, outcome.residual), n_iter=outcome.n_iter)
    converged = outcome.is_solved or outcome.residual <= settings.tol
    reason = Reason.SOLVED
    if not converged:
        stagnated = outcome.stop == "stagnated"
        reason = Reason.STAGNATED if stagnated else Reason.ENDED
    unfinished = (
        f"{outcome.residual:.2g} > {settings.tol:.2g} after {outcome.n_iter} "
        "products: raise solver_max_iter or solver_tol, add weight decay, or "
        "use solver='eigh' or 'dual' if the net is small enough"
    )
    return Solution(
        outcome.value,
        outcome.residual,
        True,
        0.0,
        reason.told(unfinished=unfinished),
        reason,
        n_iter=outcome.n_iter,
        converged=converged,
    )
