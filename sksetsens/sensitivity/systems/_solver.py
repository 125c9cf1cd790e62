"""What users choose about the linear system: one value, handed on as a whole."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Solver"]


@dataclass(frozen=True)
class Solver:
    """How ``H v = -B dx`` is solved.

    Attributes
    ----------
    name : {"auto", "eigh", "dual", "minres", "lsmr"}
        Form of the system.
    curvature : {"hessian", "ggn"}
        Exact Hessian, or the Gauss-Newton matrix.
    rcond : float or None
        Eigenvalues up to ``rcond * |H|_2`` count as zero; None for rounding plus a
        hundred times the relative stationarity of the weights.
    tol : float
        Relative residual of iterative solves.
    max_iter : int
        Products per iterative solve.
    """

    name: str = "auto"
    curvature: str = "hessian"
    rcond: float | None = None
    tol: float = 1e-8
    max_iter: int = 1000
