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

from ..linalg import CONSISTENCY_TOL
from ._graphical_derivative import GraphicalDerivative

__all__ = ["Coderivative", "CoderivativeValue"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoderivativeValue:
    """The set ``{B'y : H y = -p}``: empty, or ``value + B' ker H``.

    Attributes
    ----------
    value : ndarray of the shape of X
        ``-B' H^+ p``; NaN where the set is empty.

    residual : float
        ``|P_ker p| / |p|``, Euclidean; 0 for p = 0.

    is_empty : bool
        Whether p leaves range H.

    status : str
        One sentence.
    """

    value: Array
    residual: float
    is_empty: bool
    status: str


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
        norm = float(np.linalg.norm(p))
        outside = float(np.linalg.norm(gd.kernel.project(p)))
        residual = outside / norm if norm > 0 else 0.0
        shape = gd.objective.input_shape
        if residual > CONSISTENCY_TOL:
            status = f"empty: p leaves range H (relative residual {residual:.2g})"
            return CoderivativeValue(np.full(shape, np.nan), residual, True, status)
        value = -gd.solution_operator.rmatvec(p).reshape(shape)
        return CoderivativeValue(value, residual, False, "solved")
