r"""Minimum residual iteration on a stored basis, for singular and indefinite H.

The iterates are MINRES's (Paige and Saunders 1975): for k products they minimise
:math:`|b - H x|` over the Krylov space of b, whatever the signs of the eigenvalues. For
b in range H the limit is the shortest solution. For others the residual tends to the
part of b outside range H, and :math:`|H r|` to zero, which is how such systems are told
from slow ones (Choi, Paige and Saunders, "MINRES-QLP", 2011, arXiv 1003.4042); lifting
then makes the least-squares solution the shortest one (Liu, Milzarek and Roosta 2022,
arXiv 2202.11788).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ._lanczos import Lanczos

__all__ = ["ResidualNorms", "Run", "minimise_residual"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]


class ResidualNorms:
    """Norms of the residual and of its image, from T alone (Givens rotations)."""

    def __init__(self, start: float) -> None:
        self.residual = start
        self.previous = start
        self.image = np.inf
        self._cos, self._sin, self._bar = -1.0, 0.0, 0.0

    def advance(self, alpha: float, beta: float) -> None:
        """One more column of T; `image` then belongs to `previous`."""
        gamma_bar = self._sin * self._bar - self._cos * alpha
        self._bar = -self._cos * beta
        self.image = self.residual * float(np.hypot(gamma_bar, self._bar))
        gamma = float(np.hypot(gamma_bar, beta))
        self._cos, self._sin = (gamma_bar / gamma, beta / gamma) if gamma else (1.0, 0)
        self.previous, self.residual = self.residual, self._sin * self.residual


@dataclass(frozen=True)
class Run:
    """One pass of the iteration.

    Attributes
    ----------
    value : ndarray of shape (n,)
        Minimises the residual over the space; eigenvalues under the cut-off left out.
    dropped : float
        Norm of what the cut-off left out of the right-hand side.
    is_least_squares : bool
        Whether the residual is outside range H: no iteration can shrink it.
    space : Lanczos
    """

    value: Array
    dropped: float
    is_least_squares: bool
    space: Lanczos


def minimise_residual(
    b: Array,
    product: Callable[[Array, float], Array],
    *,
    target: float,
    max_steps: int,
    null_tol: float,
    rcond: float,
    scale: float = 0.0,
    beside: Array | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Run:
    """Minimise ``|b - H x|`` over growing Krylov spaces of b.

    Parameters
    ----------
    b : ndarray of shape (n,)
        Not zero.
    product : callable
        ``H v``, given v and the residual norm at which the iteration stands: the
        smaller that is, the larger an error of the product may be (inexact Krylov
        methods; Simoncini and Szyld 2003).
    target : float
        Residual norm to stop at.
    max_steps : int
    null_tol : float
        ``|H r| / (|H| |r|)`` up to which r lies outside range H.
    rcond : float
        Ritz values up to ``rcond * |H|`` count as zero.
    scale : float, default=0.0
        What is known of |H|_2, from below.
    beside : ndarray of shape (n, k), default=None
        As in `Lanczos`.
    on_step : callable
        Called after each step.

    Returns
    -------
    run : Run
    """
    space = Lanczos(b, beside=beside, scale=scale)
    norms = ResidualNorms(float(np.linalg.norm(b)))
    start, is_least_squares = norms.residual, False
    while norms.residual > target and space.n_steps < max_steps:
        space.extend(product(space.newest, norms.residual))
        norms.advance(space.last_alpha, space.last_beta)
        on_step()
        is_least_squares = norms.image <= null_tol * space.scale * norms.previous
        if is_least_squares or space.is_invariant:
            break
    y, dropped = _coefficients(space, start, rcond)
    return Run(y @ space.basis, dropped, is_least_squares, space)


def _coefficients(space: Lanczos, start: float, rcond: float) -> tuple[Array, float]:
    """Solution in the basis: of least squares, short of Ritz values that are zero."""
    theta, vectors, _ = space.ritz()
    small = np.abs(theta) <= rcond * space.scale
    along = start * vectors[0]
    if small.any():
        kept = ~small
        y = vectors[:, kept] @ (along[kept] / theta[kept])
        return y, float(np.linalg.norm(along[small]))
    first = np.zeros(space.n_steps + 1)
    first[0] = start
    return scipy.linalg.lstsq(space.tridiagonal(), first)[0], 0.0
