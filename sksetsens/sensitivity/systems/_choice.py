"""Which form of the system applies, fits, and is exact enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..._validation import check_choice
from ._assembled_dual import AssembledDual
from ._dense import Dense
from ._dual import Dual
from ._held_outputs import SaturatedDual, is_saturated
from ._kinked import Kinked
from ._matrix_free import MatrixFree
from ._matrix_free_dual import MatrixFreeDual
from ._matrix_free_kinked import MatrixFreeKinked
from ._point import (
    DENSE_COPIES,
    Point,
    System,
    factorisation_budget,
    root,
    root_or_none,
)

__all__ = ["check_size", "choose_system"]

Array = NDArray[np.float64]

# Above this many weights "auto" no longer factorises the dense Hessian: minutes.
DENSE_MAX_PARAMS = 6000
# Up to as many it asks whether one Cholesky factor shows H to be definite, where H
# itself costs seconds, and each solution may keep its own.
DEFINITE_MAX_PARAMS, DEFINITE_SHARE = 10_000, 0.125
# Both where the weights are far from stationary: nothing is certified there, and
# seconds would be spent on it.
_NOT_STATIONARY, _UNCERTIFIED_MAX_PARAMS = 1e-9, 1000
# Arrays of kinks x weights: gradients, their orthonormal basis, and LAPACK's own.
_KINK_COPIES = 4
# Outputs over all rows up to which their Jacobian is decomposed: minutes above.
DUAL_MAX_EQUATIONS = 6000
# |H - A'A| relative to the smallest kept eigenvalue of A'A below which "auto" takes
# the dual: the shift then errs by no more than this factor in any direction.
DUAL_TOL = 1e-3


def check_size(point: Point) -> None:
    """Refuse a solver that cannot apply or fit, without factorising anything.

    Raises
    ------
    ValueError
        With the solver that would.
    """
    check_choice("GraphicalDerivative", "solver", point.solver.name, SOLVERS)
    point.objective.check_working_memory()
    if point.solver.name == "eigh":
        _check_dense_memory(point)
        return
    if point.solver.name == "dual" and not _holds_outputs(point):
        _refuse("dual", _why_no_dual(point) or _why_no_gram(point), "lsmr")
    if point.solver.name == "lsmr":
        _refuse("lsmr", _why_no_outputs(point), "minres")


def _refuse(solver: str, reason: str, other: str) -> None:
    if reason:
        raise ValueError(
            f"The 'solver' parameter must be 'auto', 'eigh' or {other!r} here, because "
            f"{reason}. Got {solver!r} instead."
        )


def choose_system(point: Point) -> System:
    """The system in the form that ``point.solver`` names, or that fits.

    Raises
    ------
    ValueError
        If the form does not apply or does not fit in memory.
    """
    check_size(point)
    if len(point.objective.kinks):
        return _on_kinks(point)
    if point.solver.name == "auto":
        return _choose(point)
    return _FORMS[point.solver.name](point)


def _on_kinks(point: Point) -> System:
    """The system on the tangent space of the kinks, dense unless asked or too large."""
    p, held = point.objective.n_params, len(point.objective.kinks)
    by_products = point.solver.name == "minres"
    by_products |= point.solver.name == "auto" and p > DENSE_MAX_PARAMS
    if by_products and held < p:
        _check_kink_memory(held, p)
        return MatrixFreeKinked(point)
    _check_dense_memory(point)
    return Kinked(point)


def _check_kink_memory(held: int, p: int) -> None:
    needed, available = 8 * held * p * _KINK_COPIES, factorisation_budget()
    if needed > available:
        raise ValueError(
            f"The gradients of {held} kinks in {p} weights need {needed / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are allowed, half of this machine's memory: use "
            "fewer rows, or a smooth activation (tanh, softplus)."
        )


def _dual(point: Point) -> System:
    """The dual, of a saturated net by the outputs that it holds."""
    if _holds_outputs(point):
        return SaturatedDual(point)
    return AssembledDual(point) if _why_no_jacobian(point) else Dual(point)


def _holds_outputs(point: Point) -> bool:
    if point.holds is not None:
        return point.holds
    if _why_no_outputs(point):
        return False
    early_stopped = point.solver.name == "dual" and point.objective.is_tilted
    return early_stopped or is_saturated(point.objective, point.weights)


_FORMS: dict[str, Callable[[Point], System]] = {
    "eigh": Dense,
    "dual": _dual,
    "minres": MatrixFree,
    "lsmr": MatrixFreeDual,
}
SOLVERS = ("auto", *_FORMS)


def _choose(point: Point) -> System:
    """The dual at interpolation, H otherwise; dense where a factorisation is quick."""
    largest = DENSE_MAX_PARAMS
    if point.stationarity > _NOT_STATIONARY:
        largest = _UNCERTIFIED_MAX_PARAMS
    large = point.objective.n_params > largest
    if not _why_no_dual(point) and _is_near_interpolation(point):
        fits = not _why_no_jacobian(point)
        if large and (not fits or point.objective.n_equations > DUAL_MAX_EQUATIONS):
            return MatrixFreeDual(point)
        if fits:
            dual = Dual(point)
            if large or dual.neglected <= DUAL_TOL:
                return dual
    if large:
        if _holds_outputs(point):
            return SaturatedDual(point)
        definite = Dense.if_definite(point) if _may_be_definite(point) else None
        return definite or MatrixFree(point)
    _check_dense_memory(point)
    return Dense(point)


def _may_be_definite(point: Point) -> bool:
    objective, p = point.objective, point.objective.n_params
    return (
        p <= DEFINITE_MAX_PARAMS
        and point.stationarity <= _NOT_STATIONARY
        and point.solver.curvature == "hessian"
        and objective.has_quick_hessian
        and objective.decays_everywhere
        and 8 * p * p <= DEFINITE_SHARE * factorisation_budget()
    )


def _why_no_dual(point: Point) -> str:
    objective = point.objective
    m, p = objective.n_equations, objective.n_params
    if objective.is_tilted:
        return "the weights are early-stopped (polish=False)"
    if m >= p:
        return f"there are no fewer outputs ({m}) than weights ({p})"
    return _why_no_outputs(point)


def _why_no_outputs(point: Point) -> str:
    """Why the objective is no function of outputs row by row, convex in them."""
    if point.objective.is_penalised(point.weights):
        return "the objective has a penalty on the weights"
    return _why_no_rows(point)


def _why_no_rows(point: Point) -> str:
    """Why H is no ``A'A`` with blocks of rows."""
    objective = point.objective
    if not objective.is_separable(point.weights):
        return "the criterion couples rows"
    blocks = objective.output_hessian(point.weights)
    if root_or_none(blocks) is None and not _is_rounding(blocks, point):
        return "the criterion is not convex in the outputs"
    return ""


def _is_rounding(blocks: Array, point: Point) -> bool:
    """Whether no curvature is left to judge, as where a deep net begins saturated.

    p - p^2 of softmax is then a difference of ones, whose rounding counts in units of
    the curvature at zero weights, where no row is saturated.
    """
    unsaturated = point.objective.output_hessian(np.zeros_like(point.weights))
    scale = float(np.abs(unsaturated).max(initial=0.0))
    largest = float(np.abs(blocks).max(initial=0.0))
    return bool(largest <= np.finfo(np.float64).eps * scale)


def _why_no_jacobian(point: Point) -> str:
    m, p = point.objective.n_equations, point.objective.n_params
    needed = 8 * m * p * DENSE_COPIES
    if needed > factorisation_budget():
        return f"it needs {needed / 1e9:.1f} GB for the outputs' Jacobian"
    return ""


def _is_near_interpolation(point: Point) -> bool:
    """Whether moving by one Gauss-Newton step is below 1e-3 of the outputs' scale.

    A cheap screen before the factorisation: ``r' Lambda^+ r`` is the squared
    distance of the outputs to their targets in the loss's own metric.
    """
    objective, w = point.objective, point.weights
    r = objective.output_gradient(w)
    S = root(objective.output_hessian(w))
    outputs = objective.outputs(w).reshape(r.shape)
    distance = float(
        np.linalg.norm(np.linalg.pinv(S.transpose(0, 2, 1)) @ r[..., None])
    )
    return distance <= 1e-3 * float(np.linalg.norm(S @ outputs[..., None]))


def _why_no_gram(point: Point) -> str:
    needed = 8 * point.objective.n_equations**2 * DENSE_COPIES
    if needed > factorisation_budget():
        return f"it needs {needed / 1e9:.1f} GB for products of the outputs' gradients"
    return ""


def _check_dense_memory(point: Point) -> None:
    p = point.objective.n_params
    needed, available = 8 * p * p * DENSE_COPIES, factorisation_budget()
    if needed <= available:
        return
    remedy = "use solver='minres', which needs none"
    if not _why_no_dual(point):
        remedy += ", or solver='lsmr' if the net interpolates"
    raise ValueError(
        f"The dense Hessian of {p} weights needs {needed / 1e9:.1f} GB, "
        f"{available / 1e9:.1f} GB are allowed, half of this machine's memory "
        f"(solver='eigh'); {remedy}."
    )
