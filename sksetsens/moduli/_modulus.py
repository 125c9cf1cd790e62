r"""Lipschitz modulus of the solution set: how far it can move at worst.

By the Mordukhovich criterion the mapping F has the Lipschitz-like (Aubin) property at
``(x, w)`` iff :math:`\operatorname{range} B \subset \operatorname{range} H`, and its
modulus is then :math:`\kappa = |H^+ B|_2` (Dontchev and Rockafellar 2009, Theorem
4B.2; arXiv 2412.11057, Section 3). All norms are Euclidean: weights against the
Frobenius norm of the perturbation of X.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from .._validation import user_stacklevel
from ..exceptions import SolverWarning
from ..linalg import CONSISTENCY_TOL, operator_norm
from ..sensitivity import GraphicalDerivative

__all__ = ["Modulus", "certified_norm", "modulus"]

Array = NDArray[np.float64]


# Relative accuracy where every product is an iterative solve.
_ITERATED = 1e-4


@dataclass(frozen=True)
class Modulus:
    """Lipschitz modulus at one solution.

    Attributes
    ----------
    value : float
        ``|H^+ B|_2``; inf where the Lipschitz-like property fails.

    direction : ndarray of the shape of X
        Perturbation of Frobenius norm 1 that attains it; NaN where it is infinite.

    range_residual : float
        Largest ``|P_ker b| / |b|`` over the columns b of B: the part of B outside
        range H.
    """

    value: float
    direction: Array
    range_residual: float


def modulus(
    gd: GraphicalDerivative,
    rows: NDArray[np.bool_] | None = None,
) -> Modulus:
    """Modulus over the whole data set, or over perturbations of some rows.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.

    rows : ndarray of bool of shape (n_samples,), default=None
        Rows that may move; None for all.

    Returns
    -------
    modulus : Modulus
    """
    shape = gd.objective.input_shape
    rows = np.ones(shape[0], dtype=bool) if rows is None else rows
    residual = float(np.max(gd.column_range_residuals[rows], initial=0.0))
    if residual > CONSISTENCY_TOL:
        return Modulus(np.inf, np.full(shape, np.nan), residual)
    moving = _row_selector(rows, shape)
    value, direction = certified_norm(gd, gd.solution_operator @ moving, residual)
    if not np.isfinite(value):
        return Modulus(np.inf, np.full(shape, np.nan), residual)
    return Modulus(value, moving.matvec(direction).reshape(shape), residual)


def certified_norm(
    gd: GraphicalDerivative, operator: LinearOperator, residual: float
) -> tuple[float, Array]:
    """Spectral norm of an operator made of solves, and the direction that attains it.

    Parameters
    ----------
    gd : GraphicalDerivative
        Whose solves they are.
    operator : LinearOperator of shape (n_params, n)
        ``H^+`` times some columns.
    residual : float
        Range residual of these columns; NaN where solves ended too early to tell.

    Returns
    -------
    norm : float
        inf where the columns leave range H, or where solves end before their tolerance.
    direction : ndarray of shape (n,)
        NaN for an infinite norm.

    Warns
    -----
    SolverWarning
        If solves end before their tolerance.
    """
    nothing = np.inf, np.full(operator.shape[1], np.nan)
    if residual > CONSISTENCY_TOL:
        return nothing
    if not gd.is_matrix_free:
        return operator_norm(operator)
    before = gd.n_unsolved
    found = nothing if np.isnan(residual) else operator_norm(operator, tol=_ITERATED)
    if np.isnan(residual) or gd.n_unsolved > before:
        _warn_of_unsolved()
        return nothing
    return found


def _warn_of_unsolved() -> None:
    warnings.warn(
        "The Lipschitz modulus is not certified and given as inf: iterative solves for "
        "it ended before solver_tol. Raise solver_max_iter or solver_tol, add weight "
        "decay, or use solver='eigh' or 'dual' if the net is small enough.",
        SolverWarning,
        stacklevel=user_stacklevel(),
    )


def _row_selector(rows: NDArray[np.bool_], shape: tuple[int, ...]) -> LinearOperator:
    def scatter(moving: Array) -> Array:
        full = np.zeros(shape)
        full[rows] = np.reshape(moving, (-1, *shape[1:]))
        return full.ravel()

    def gather(full: Array) -> Array:
        return np.reshape(full, shape)[rows].ravel()

    n_moving = int(rows.sum()) * int(np.prod(shape[1:]))
    return LinearOperator(
        (int(np.prod(shape)), n_moving), scatter, gather, dtype=np.float64
    )
