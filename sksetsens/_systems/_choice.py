"""Which form of the system applies, fits, and is exact enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._dense import Dense
from ._dual import Dual
from ._point import DENSE_COPIES, Point, System, available_bytes, root, root_or_none

__all__ = ["check_size", "choose_system"]

Array = NDArray[np.float64]

# Above this many weights "auto" no longer factorises the dense Hessian: minutes.
DENSE_MAX_PARAMS = 6000
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
    if point.solver == "eigh":
        _check_dense_memory(point)
        return
    reason = _why_no_dual(point)
    if point.solver == "dual" and reason:
        raise ValueError(
            "The 'solver' parameter must be 'auto' or 'eigh' here, because "
            f"{reason}. Got 'dual' instead."
        )
    if point.solver == "auto" and reason and _is_too_large(point):
        raise ValueError(
            "The 'solver' parameter must name a solver that fits a net of "
            f"{point.objective.n_params} weights: the dense Hessian is limited to "
            f"{DENSE_MAX_PARAMS} weights under 'auto', and 'dual' does not apply "
            f"because {reason}. Got 'auto' instead. Use a smaller net, or "
            "solver='eigh' with enough memory and patience."
        )


def choose_system(point: Point) -> System:
    """The system in the form that ``point.solver`` names, or that fits.

    Raises
    ------
    ValueError
        If the form does not apply or does not fit in memory.
    """
    check_size(point)
    if point.solver == "dual":
        return Dual(point)
    if point.solver == "auto" and not _why_no_dual(point):
        if _is_too_large(point):
            return Dual(point)
        if _is_near_interpolation(point):
            dual = Dual(point)
            if dual.neglected <= DUAL_TOL:
                return dual
    _check_dense_memory(point)
    return Dense(point)


def _is_too_large(point: Point) -> bool:
    return point.objective.n_params > DENSE_MAX_PARAMS


def _why_no_dual(point: Point) -> str:
    objective = point.objective
    m, p = objective.n_equations, objective.n_params
    if objective.is_tilted:
        return "the weights are early-stopped (polish=False)"
    if objective.is_penalised(point.weights):
        return "the objective has a penalty on the weights"
    if m >= p:
        return f"there are no fewer outputs ({m}) than weights ({p})"
    if not objective.is_separable(point.weights):
        return "the criterion couples rows"
    if root_or_none(objective.output_hessian(point.weights)) is None:
        return "the criterion is not convex in the outputs"
    needed = 8 * m * p * DENSE_COPIES
    if needed > available_bytes():
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


def _check_dense_memory(point: Point) -> None:
    p = point.objective.n_params
    needed, available = 8 * p * p * DENSE_COPIES, available_bytes()
    if needed <= available:
        return
    needed_by_dual = 8 * point.objective.n_equations * p * DENSE_COPIES
    remedy = (
        "use a net with fewer weights"
        if _why_no_dual(point)
        else f"solver='dual' needs {needed_by_dual / 1e9:.1f} GB and applies where the "
        "net interpolates"
    )
    raise ValueError(
        f"The dense Hessian of {p} weights needs {needed / 1e9:.1f} GB, "
        f"{available / 1e9:.1f} GB are free (solver='eigh'); {remedy}."
    )
