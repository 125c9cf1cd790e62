"""Pseudo-inverse of ``H = A'A`` for a factor A that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ._implicit import ImplicitSubspace
from ._krylov import KrylovInverse
from ._outcome import KrylovSettings, Outcome, assemble
from ._pseudoinverse import InCommonUnits, Solution, solution

__all__ = ["GramOperatorInverse"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]


class GramOperatorInverse(InCommonUnits):
    """``(A'A)^+`` through minimum residual solves with the short matrix ``A A'``.

    With y from ``A A' y = rho`` the vector ``A'y`` is ``A^+ rho``: the iterates are
    those of LSQR (Paige and Saunders 1982), with the basis in the space of outputs,
    where it is short enough to be kept and reorthogonalised.

    Parameters
    ----------
    factor, adjoint : callable
        ``v -> A v`` for v of shape (p,), and ``u -> A'u`` for u of shape (m,).
    shape : tuple of (int, int)
        (m, p).
    rcond : float, default=None
        Eigenvalues of ``A A'`` up to ``rcond * |A|_2^2`` count as zero.
    settings : KrylovSettings, default=None
    gram : callable, default=None
        ``u -> A A'u`` where it is not by A and its adjoint.
    rough : callable, default=None
        The same in float32.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import GramOperatorInverse
    >>> A = np.array([[3.0, 0.0, 4.0]])
    >>> inverse = GramOperatorInverse(A.__matmul__, A.T.__matmul__, (1, 3))
    >>> inverse.rank, inverse.kernel_dim
    (1, 2)
    >>> inverse.solve_factored(np.array([5.0])).value
    array([-0.6,  0. , -0.8])
    """

    def __init__(
        self,
        factor: Product,
        adjoint: Product,
        shape: tuple[int, int],
        *,
        rcond: float | None = None,
        settings: KrylovSettings | None = None,
        gram: Product | None = None,
        rough: Product | None = None,
    ) -> None:
        self._A, self._adjoint, self._p = factor, adjoint, shape[1]
        self._gram = KrylovInverse(
            gram or self._there_and_back,
            shape[0],
            rcond=rcond,
            settings=settings,
            rough=rough,
        )

    def _there_and_back(self, u: Array) -> Array:
        return self._A(self._adjoint(u))

    # Solves ---------------------------------------------------------------------------

    def solve_factored(self, rho: Array) -> Solution:
        """Shortest least-squares solution of ``A v = -rho``; residual over ``|rho|``.

        It solves ``A'A v = -A'rho`` whatever the part of rho outside range A, which
        says how far the outputs cannot follow, not that there is no solution.
        """
        outcome = self._gram.solved(-rho)
        within = replace(outcome, is_least_squares=False)
        if outcome.is_least_squares:
            within = replace(within, stop="converged")
        told = assemble(within, self._gram.settings)
        return replace(told, value=self._adjoint(outcome.value))

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``A'A v = -b`` for any b of shape (p,)."""
        before, unsolved = self._gram.n_products, self.n_unsolved
        half = self.apply_factored_adjoint(b)
        value = -self.apply_factored(half)
        found = solution(value, b - self._adjoint(half), b)
        n_iter = self._gram.n_products - before
        if self.n_unsolved == unsolved:
            return replace(found, n_iter=n_iter)
        ended = Outcome(value, found.residual, False, n_iter, "max_iter")
        return assemble(ended, self._gram.settings)

    def apply_factored(self, rho: Array) -> Array:
        """``A^+ rho`` for vectors in the last axis."""
        return _rows(self._adjoint, self._gram.apply(rho))

    def apply_factored_adjoint(self, v: Array) -> Array:
        """``(A^+)' v`` for vectors of length p in the last axis."""
        return self._gram.apply(_rows(self._A, v))

    def apply(self, b: Array) -> Array:
        """``(A'A)^+ b`` for vectors of length p in the last axis."""
        return self.apply_factored(self.apply_factored_adjoint(b))

    @property
    def n_unsolved(self) -> int:
        """Solves so far that ended before their tolerance."""
        return self._gram.n_unsolved

    # Evidence -------------------------------------------------------------------------

    @property
    def eigenvalues(self) -> Array:
        """Ritz values of ``A A'``."""
        return self._gram.eigenvalues

    @property
    def cutoff(self) -> float:
        """Eigenvalues up to this count as zero."""
        return self._gram.cutoff

    @property
    def rank(self) -> int:
        """m where A has full row rank, otherwise an estimate."""
        return self._gram.rank

    @property
    def is_rank_exact(self) -> bool:
        """As in `KrylovInverse`."""
        return self._gram.is_rank_exact

    @property
    def kernel_dim(self) -> int:
        """p less the rank."""
        return self._p - self.rank

    @property
    def inertia(self) -> tuple[int, int, int]:
        """No negative eigenvalues, zero and positive ones."""
        return 0, self.kernel_dim, self.rank

    @property
    def gap(self) -> float:
        """As in `KrylovInverse`."""
        return self._gram.gap

    @property
    def has_clear_cutoff(self) -> bool:
        """As in `KrylovInverse`."""
        return self._gram.has_clear_cutoff

    @cached_property
    def kernel(self) -> ImplicitSubspace:
        """ker A, by the projector ``v - A^+ A v``."""
        return ImplicitSubspace(self._p, self._find_dim, self._null_part)

    def _find_dim(self) -> int:
        """0 only where A has as many independent rows as columns."""
        known = self.kernel_dim == 0 and self._gram.kernel.dim == 0
        return 0 if known else max(1, self.kernel_dim)

    def _null_part(self, v: Array) -> Array:
        return v - self.apply_factored(_rows(self._A, v))

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept Ritz value and its vector of shape (p,)."""
        value, u = self._gram.weakest
        v = self._adjoint(u)
        return value, v / max(float(np.linalg.norm(v)), np.finfo(float).tiny)

    def range_basis(self) -> tuple[Array, Array]:
        """Not available, as in `KrylovInverse`."""
        return self._gram.range_basis()


def _rows(function: Product, rows: Array) -> Array:
    flat = rows.reshape(-1, rows.shape[-1])
    images = np.stack([function(row) for row in flat])
    return images.reshape(*rows.shape[:-1], images.shape[-1])
