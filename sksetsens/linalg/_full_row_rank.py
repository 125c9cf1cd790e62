"""Pseudo-inverse of ``H = A'A`` by a Cholesky factor, where A has full row rank."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.lapack import dpocon
from scipy.sparse.linalg import LinearOperator, eigsh

from ._gram import GramPseudoInverse
from ._implicit import ImplicitSubspace
from ._probes import probe
from ._pseudoinverse import InCommonUnits, Reason, Solution, solution

__all__ = ["FullRowRankInverse", "gram_inverse"]

Array = NDArray[np.float64]

# Reciprocal condition of ``A A'``, in the 1-norm as LAPACK estimates it, above which
# its smallest eigenvalue cannot be rounding: that is m eps, about 1e-13, and the
# estimate is good to a factor of ten.
_CERTAIN = 1e-11
# The same for rows in float32.
_CERTAIN_SINGLE = 1e-6
# Residual from which the arithmetic has failed.
_INACCURATE = 1e-3
# Entries of A from which a basis of its kernel's complement is not formed: 160 MB.
_LARGE = 2 * 10**7
# Relative accuracy of the smallest eigenvalue, well below what is compared with it.
_EIGENVALUE_TOL = 1e-8
# Below this many rows the singular values cost milliseconds, and show all.
_SMALL = 64


class FullRowRankInverse(InCommonUnits):
    """``(A'A)^+`` for A of shape (m, p) whose m rows proved to be independent.

    ``A^+ rho = A' (A A')^-1 rho`` by Cholesky, and once more for what that leaves: the
    corrected seminormal equations (Bjorck 1987), as accurate as a QR factorisation at a
    fifth of the singular values' cost. Those come when they are asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import FullRowRankInverse
    >>> inverse = FullRowRankInverse.make(np.array([[3.0, 0.0, 4.0]]))
    >>> inverse.rank, inverse.kernel_dim
    (1, 2)
    >>> inverse.solve_factored(np.array([5.0])).value
    array([-0.6, -0. , -0.8])
    >>> FullRowRankInverse.make(np.ones((2, 3))) is None
    True
    """

    is_rank_exact = True

    has_clear_cutoff = True

    def __init__(
        self, A: NDArray[np.floating], gram: Array, factor: tuple[Array, bool]
    ) -> None:
        self._A, self._gram, self._factor = A, gram, factor
        self.rank, p = A.shape
        self.kernel_dim = p - self.rank
        self.inertia = (0, self.kernel_dim, self.rank)

    @classmethod
    def make(cls, A: NDArray[np.floating]) -> Self | None:
        """Factorise, or None where the rows are not independent beyond doubt.

        Parameters
        ----------
        A : ndarray of shape (m, p)
            In float32 it is kept so, to save memory; all else is float64.

        Returns
        -------
        inverse : FullRowRankInverse or None
        """
        gram = (A @ A.T).astype(np.float64)
        try:
            lower, is_lower = scipy.linalg.cho_factor(gram, lower=True)
        except np.linalg.LinAlgError:
            return None
        reciprocal, _ = dpocon(lower, np.abs(gram).sum(axis=0).max(), uplo="L")
        certain = _CERTAIN if A.dtype == np.float64 else _CERTAIN_SINGLE
        return cls(A, gram, (lower, is_lower)) if reciprocal > certain else None

    # Solves ---------------------------------------------------------------------------

    def _gram_inverse(self, rho: Array) -> Array:
        flat = rho.reshape(-1, rho.shape[-1])
        return scipy.linalg.cho_solve(self._factor, flat.T).T.reshape(rho.shape)

    def _pull(self, u: Array) -> Array:
        """``A'u`` in the last axis, without another copy of A in float64."""
        return (u.astype(self._A.dtype, copy=False) @ self._A).astype(np.float64)

    def _push(self, v: Array) -> Array:
        """``A v`` in the last axis."""
        return (v.astype(self._A.dtype, copy=False) @ self._A.T).astype(np.float64)

    def apply_factored(self, rho: Array) -> Array:
        """``A^+ rho``, that is ``(A'A)^+ (A' rho)``, in the last axis of rho."""
        v = self._pull(self._gram_inverse(rho))
        return v + self._pull(self._gram_inverse(rho - self._push(v)))

    def apply_factored_adjoint(self, v: Array) -> Array:
        """``(A^+)' v`` for vectors of length p in the last axis of v."""
        u = self._gram_inverse(self._push(v))
        return u + self._gram_inverse(self._push(v - self._pull(u)))

    def apply(self, b: Array) -> Array:
        """``(A'A)^+ b`` for vectors of length p in the last axis of b."""
        return self.apply_factored(self.apply_factored_adjoint(b))

    def solve_factored(self, rho: Array) -> Solution:
        """Shortest solution of ``A'A v = -A' rho``, with the arithmetic's residual."""
        value = -self.apply_factored(rho)
        norm = float(np.linalg.norm(self._pull(rho)))
        left = float(np.linalg.norm(self._pull(self._push(value) + rho)))
        residual = left / norm if norm else 0.0
        # With independent rows there is a solution for every rho.
        accurate = residual <= _INACCURATE
        reason = Reason.SOLVED if accurate else Reason.INACCURATE
        status = reason.told(residual=residual)
        return Solution(value, residual, True, 0.0, status, reason, converged=accurate)

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``A'A v = -b`` for any b of shape (p,)."""
        inside = self._pull(self.apply_factored_adjoint(b))
        return solution(-self.apply(b), b - inside, b)

    # Evidence, from the singular values ----------------------------------------------

    @cached_property
    def _decomposed(self) -> GramPseudoInverse:
        return GramPseudoInverse(self._A.astype(np.float64), rank=self.rank)

    @cached_property
    def eigenvalues(self) -> Array:
        """Nonzero eigenvalues of A'A, ascending."""
        return np.asarray(np.linalg.eigvalsh(self._gram), dtype=np.float64)

    @property
    def cutoff(self) -> float:
        """Eigenvalues of A'A up to this count as zero: rounding of A."""
        return float(np.finfo(self._A.dtype).eps ** 2 * self.eigenvalues[-1])

    @property
    def gap(self) -> float:
        """Smallest kept eigenvalue over rounding."""
        return float(self.eigenvalues[0] / self.cutoff)

    @cached_property
    def kernel(self) -> Any:
        """ker A, a `Subspace`; an `ImplicitSubspace` where a basis would be large."""
        if self._A.size < _LARGE:
            return self._decomposed.kernel
        return ImplicitSubspace(self._A.shape[1], self._find_dim, self._null_part)

    def _find_dim(self) -> int:
        return self.kernel_dim

    def _null_part(self, v: Array) -> Array:
        return v - self.apply_factored(self._push(v))

    @cached_property
    def weakest(self) -> tuple[float, Array]:
        """Smallest eigenvalue of A'A on its range and its unit vector.

        By Lanczos iteration with the inverse, which costs a few triangular solves.
        """
        m = self.rank
        inverse = LinearOperator((m, m), self._gram_inverse, dtype=np.float64)
        if m == 1:  # Lanczos iterations want two rows at least.
            u = np.ones(1)
            largest = float(self._gram_inverse(u)[0])
        else:
            values, vectors = eigsh(inverse, k=1, v0=probe(m), tol=_EIGENVALUE_TOL)
            largest, u = float(values[0]), vectors[:, 0]
        v = self._pull(u)
        return float(1.0 / largest), v / np.linalg.norm(v)

    def left_basis(self) -> tuple[Array, Array]:
        """As of `GramPseudoInverse`."""
        return self._decomposed.left_basis()

    def range_basis(self) -> tuple[Array, Array]:
        """As of `GramPseudoInverse`."""
        return self._decomposed.range_basis()


def gram_inverse(
    A: Array, *, rcond: float | None = None, rank: int | None = None
) -> GramPseudoInverse | FullRowRankInverse:
    """The cheapest exact factorisation that A allows.

    Parameters
    ----------
    A, rcond, rank
        As in `GramPseudoInverse`.

    Returns
    -------
    inverse : FullRowRankInverse or GramPseudoInverse
    """
    certain = rcond is None or rcond < _CERTAIN
    if len(A) >= _SMALL and certain and rank in (None, len(A)):
        independent = FullRowRankInverse.make(A)
        if independent is not None:
            return independent
    return GramPseudoInverse(A, rcond=rcond, rank=rank)
