r"""Coderivative of the set of first-order points at one solution.

.. math:: D^*F(x | w)(p) = \{B' y : H y = -p\}

(arXiv 2412.11057, Section 3). It is the adjoint of the graphical derivative, and the
Mordukhovich criterion reads on it: F has the Lipschitz-like property at (x, w) iff
:math:`D^*F(x | w)(0) = \{0\}`, that is, iff ker H lies in ker B'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..linalg import CONSISTENCY_TOL, outside_range
from ._graphical_derivative import GraphicalDerivative

__all__ = ["Coderivative", "CoderivativeValue"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoderivativeValue:
    """The set ``{B'y : H y = -p}``: empty, or ``value + B' ker H``.

    Attributes
    ----------
    value : ndarray of the shape of X
        ``-B' H^+ p``; NaN where the set is empty, and along entries of X that have no
        derivative.

    residual : float
        ``|P_ker p| / |p|``, Euclidean in the units of H; 0 for p = 0.

    is_empty : bool
        Whether p leaves range H.

    status : str
        One sentence.

    converged : bool
        Whether iterative solves met their tolerance.
    """

    value: Array
    residual: float
    is_empty: bool
    status: str
    converged: bool = True


class Coderivative:
    """The mapping ``p -> D*F(x | w)(p)`` at one solution.

    Parameters
    ----------
    derivative : GraphicalDerivative
        At the solution; its factorisation is shared.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Theorem 1. A. Dontchev, R. Rockafellar,
    "Implicit Functions and Solution Mappings" (2009), Section 4C.
    """

    def __init__(self, derivative: GraphicalDerivative) -> None:
        self.derivative = derivative

    def __call__(self, p: Array) -> CoderivativeValue:
        """Data perturbations that a functional p on the weights' movement sees.

        For a perturbation dX with a nonempty predicted set,
        ``<p, gd(dX).shift> = <cd(p).value, dX>``.

        Parameters
        ----------
        p : ndarray of shape (n_params,)

        Returns
        -------
        value : CoderivativeValue
        """
        gd = self.derivative
        p = np.asarray(p, dtype=np.float64)
        if p.shape != gd.weights.shape or not np.isfinite(p).all():
            raise ValueError(
                f"The 'p' parameter of Coderivative must be a finite array of shape "
                f"{gd.weights.shape}. Got shape {p.shape} instead."
            )
        unsolved = gd.n_unsolved
        outside, norm = (float(length) for length in outside_range(gd.factor, p))
        residual = outside / norm if norm > 0 else 0.0
        shape = gd.objective.input_shape
        if residual > CONSISTENCY_TOL and gd.n_unsolved == unsolved:
            status = f"empty: p leaves range H (relative residual {residual:.2g})"
            return CoderivativeValue(np.full(shape, np.nan), residual, True, status)
        value = -gd.solution_operator.rmatvec(p)
        status = "solved"
        unknown = gd.undifferentiable.entries.ravel()
        if unknown.any():
            value = np.where(unknown, np.nan, value)
            status += f"; NaN along {unknown.sum()} entries of X without a derivative"
        converged = gd.n_unsolved == unsolved
        if not converged:
            status = (
                "iterative solves ended before solver_tol: raise solver_max_iter or "
                "solver_tol, or use solver='eigh' or 'dual' if the net is small enough"
            )
        return CoderivativeValue(
            value.reshape(shape), residual, False, status, converged
        )
