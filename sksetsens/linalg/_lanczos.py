r"""Lanczos process with a stored basis, reorthogonalised: what Krylov solvers build on.

For symmetric H and a start b it makes orthonormal columns V with
:math:`H V_k = V_{k+1} \underline{T}_k`, T tridiagonal (Golub and Van Loan, "Matrix
Computations", 4th ed., Section 10.1). Full reorthogonalisation costs vector products
only, and spares the products with H that lost orthogonality would repeat: near a
minimum of a neural network these are two fifths of all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["Lanczos"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

# A new direction shorter than this share of |H| is rounding: the space is invariant.
_INVARIANT = 1e-13
# A vector that loses more of its length than this to orthogonalisation is
# orthogonalised again (Daniel, Gragg, Kaufman and Stewart 1976).
_AGAIN = 0.7


class Lanczos:
    """Krylov space of a symmetric operator, grown step by step.

    Parameters
    ----------
    start : ndarray of shape (n,)
        First direction, of any positive length.

    beside : ndarray of shape (n, k), default=None
        Orthonormal columns, of an invariant subspace, to which the basis stays
        orthogonal.

    scale : float, default=0.0
        What is known of |H|_2, from below.

    Attributes
    ----------
    n_steps : int
        Products made.

    scale : float
        Largest column norm of T so far or what was known, at most |H|_2.

    is_invariant : bool
        Whether H maps the space into itself: no further step is possible.
    """

    def __init__(
        self, start: Array, *, beside: Array | None = None, scale: float = 0.0
    ) -> None:
        self._beside = beside
        first = start / np.linalg.norm(start)
        if beside is not None:
            first = self._orthogonalised(first, np.empty((0, len(start))))
            first = first / np.linalg.norm(first)
        self._rows = np.empty((16, len(start)))
        self._rows[0] = first
        self._alpha: list[float] = []
        self._beta: list[float] = []
        self.n_steps = 0
        self.scale = scale
        self.is_invariant = False

    @property
    def newest(self) -> Array:
        """The basis vector that the next product is taken with."""
        return self._rows[self.n_steps]

    @property
    def basis(self) -> Array:
        """Orthonormal rows that span the space, shape (n_steps, n)."""
        return self._rows[: self.n_steps]

    @property
    def last_alpha(self) -> float:
        """``v' H v`` of the vector before `newest`."""
        return self._alpha[-1]

    @property
    def last_beta(self) -> float:
        """Length of the part of ``H V_k`` outside the space."""
        return self._beta[-1] if self._beta else 0.0

    def extend(self, image: Array) -> None:
        """Grow the space by one, given the product of H with `newest`."""
        k, v = self.n_steps, self.newest
        alpha = float(image @ v)
        rest = image - alpha * v
        if k:
            rest -= self._beta[-1] * self._rows[k - 1]
        rest = self._orthogonalised(rest, self._rows[: k + 1])
        beta = float(np.linalg.norm(rest))
        self._alpha.append(alpha)
        self._beta.append(beta)
        self.n_steps = k + 1
        before = self._beta[-2] if k else 0.0
        self.scale = max(self.scale, float(np.linalg.norm([before, alpha, beta])))
        limit = _INVARIANT * max(self.scale, np.finfo(float).tiny)
        self.is_invariant = beta <= limit or self.n_steps >= self._n_free
        if self.is_invariant:
            return
        if self.n_steps == len(self._rows):
            more = min(len(self._rows), 64)
            self._rows = np.concatenate([self._rows, np.empty((more, len(v)))])
        self._rows[self.n_steps] = rest / beta

    @property
    def _n_free(self) -> int:
        beside = 0 if self._beside is None else self._beside.shape[1]
        return self._rows.shape[1] - beside

    def _orthogonalised(self, v: Array, rows: Array) -> Array:
        for _ in range(2):
            before = float(np.linalg.norm(v))
            v = v - (rows @ v) @ rows
            if self._beside is not None:
                v = v - self._beside @ (self._beside.T @ v)
            if float(np.linalg.norm(v)) > _AGAIN * before:
                break
        return v

    def tridiagonal(self) -> Array:
        r"""The matrix :math:`\underline{T}_k`, shape (n_steps + 1, n_steps)."""
        k = self.n_steps
        T = np.zeros((k + 1, k))
        T[np.arange(k), np.arange(k)] = self._alpha
        T[np.arange(1, k + 1), np.arange(k)] = self._beta
        T[np.arange(k - 1), np.arange(1, k)] = self._beta[:-1]
        return T

    def ritz(self) -> tuple[Array, Array, Array]:
        """Eigenvalues of T ascending, its eigenvectors, and residual norms of pairs.

        ``|H u - theta u|`` of the Ritz vector u to each Ritz value theta.
        """
        if self.n_steps == 0:
            return np.zeros(0), np.zeros((0, 0)), np.zeros(0)
        values, vectors = scipy.linalg.eigh_tridiagonal(self._alpha, self._beta[:-1])
        return values, vectors, self.last_beta * np.abs(vectors[-1])
