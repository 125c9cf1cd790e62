r"""The inverse question: which change of the data moves the solution to a target.

A perturbation dx moves the solution set from w to ``w - H^+ B dx + ker H``. The set
reaches a target iff the part of the target's offset in range H is met,

.. math:: H^+ B\,dx = -P_{range\,H}(w_{target} - w),

which is ``B dx = -H (w_target - w)`` of arXiv 2412.11057, Section 6, solved for the
shortest dx on the entries that may move. What no dx meets is the unreachable part; it
is measured where it counts, as a distance of weights (or of predictions). For auditors:
the smaller dx is, the easier the model is to poison.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .._validation import check_count, selection, unwrap, user_stacklevel
from ..exceptions import IllPosedWarning
from ..objective import Movement
from ..optimize import continued
from ..perturbation import check_inputs
from ..sensitivity import HOLDS_TOL, GraphicalDerivative, reach
from ._goals import Goal, PredictionGoal, WeightGoal, shortest_perturbation

__all__ = ["TargetPerturbation", "target_perturbation"]

Array = NDArray[np.float64]

# Share of the target that a perturbation must reach to count as one.
_REACHED = 1e-8
# Distance to the target, relative to 1 + |w|, below which the set contains it.
_CONTAINED = 1e-12
# Unreachable share from which a partial answer is warned of.
_PARTIAL = 1e-2


@dataclass(frozen=True)
class TargetPerturbation:
    """The smallest perturbation towards a target, and what it achieves.

    Attributes
    ----------
    X_perturbed : ndarray of the shape of X
        The training data, moved.

    dX : ndarray of the shape of X
        The perturbation; 0 outside the rows and features that may move.

    size : float
        Its Frobenius norm.

    size_per_row : ndarray of shape (n_samples,)
        Euclidean norm of each row's perturbation.

    solution : int
        Index of the solution that is moved.

    requested : float
        Euclidean distance of the target from the old set (of weights), or norm of the
        change of predictions asked for.

    unreachable : float
        Share of the requested movement that no perturbation of these rows and features
        brings about to first order, in [0, 1].

    holds_to : float
        Share of the perturbation up to which the first order errs by 10 per cent or
        less; well below 1 the answer is a direction rather than a size.

    weights : ndarray of shape (n_params,)
        Weights after retraining on ``X_perturbed`` from the solution; NaN where the
        answer was not verified.

    error : float
        After retraining: distance of the target from the new local set, or norm of the
        change of predictions still missing, over ``requested``. NaN where not verified
        or where retraining did not become stationary.

    error_to_point : float
        The same from the retrained weights, not from the set through them; equal to
        ``error`` for predictions.

    status : str
        One sentence.
    """

    X_perturbed: Array
    dX: Array
    size: float
    size_per_row: Array
    solution: int
    requested: float
    unreachable: float
    holds_to: float
    weights: Array
    error: float
    error_to_point: float
    status: str


def target_perturbation(
    estimator: Any,
    target_weights: ArrayLike | None = None,
    *,
    X: ArrayLike | None = None,
    prediction_change: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    features: ArrayLike | None = None,
    solution: int | None = None,
    n_corrections: int = 0,
    verify: bool = True,
) -> TargetPerturbation:
    """Smallest data perturbation that moves a solution to a target.

    Either ``target_weights`` or ``X`` with ``prediction_change`` says what is wanted.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted. ``X`` passes through a pipeline's transformers; the perturbation that
        is returned is one of the transformed training data.

    target_weights : array-like of shape (n_params,), default=None
        Weights that the predicted set shall contain.

    X : array-like of shape (n_points, ...), default=None
        Inputs on which predictions shall change.

    prediction_change : array-like of shape (n_points,) or (n_points, n_outputs), \
            default=None
        Wanted change of the solution's own prediction (probabilities of a classifier).

    rows, features : array-like of int or of bool, default=None
        Rows and features (of flattened rows) of the training data that may move. To
        rank rows by their influence on the target, let all move and sort by
        ``size_per_row``.

    solution : int, default=None
        Index of the solution to move; None for the one nearest to the target weights,
        or for the first.

    n_corrections : int, default=0
        Times to retrain, measure what is missing, and correct the perturbation.

    verify : bool, default=True
        Whether to retrain on the answer from the solution.

    Returns
    -------
    answer : TargetPerturbation
        The smallest perturbation to first order; corrections reach the target better,
        and may leave a smaller one that does too.

    Raises
    ------
    ValueError
        If a target is missing, has another shape, is not finite, or is out of reach;
        if a row, feature or solution does not exist; or if the solution is not
        trustworthy.

    Warns
    -----
    IllPosedWarning
        If part of the target is out of reach.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Section 6. Model-targeted poisoning: F.
    Suya et al., ICML 2021, arXiv 2006.16469.
    """
    final, X = unwrap(estimator, X, caller="target_perturbation")
    check_is_fitted(final)
    wanted = _check_one_goal(target_weights, X, prediction_change)
    check_count("target_perturbation", "n_corrections", n_corrections, low=0)
    if wanted == "weights":
        target = _check_target(final, target_weights)
        index = _check_solution(final, solution, target)
        goal: Goal = WeightGoal(target)
    else:
        index = _check_solution(final, solution, None)
        goal = _prediction_goal(final, index, X, prediction_change)
    gd = final.graphical_derivatives_[index]
    n_samples = len(final.inputs_)
    moving = selection("rows", rows, n_samples)[:, None]
    n_features = int(np.prod(final.inputs_.shape[1:]))
    moving = moving & selection("features", features, n_features)
    return _solve(
        gd, goal, moving, index, int(n_corrections), verify or n_corrections > 0, final
    )


def _solve(
    gd: GraphicalDerivative,
    goal: Goal,
    moving: NDArray[np.bool_],
    index: int,
    n_corrections: int,
    verify: bool,
    final: Any,
) -> TargetPerturbation:
    requested = goal.missing(gd)[0]
    if requested <= _CONTAINED * (1.0 + float(np.linalg.norm(gd.weights))):
        return _nothing_to_do(gd, index, requested)
    dX, unreachable = shortest_perturbation(goal, gd, moving)
    if unreachable > 1.0 - _REACHED:
        raise ValueError(
            "The target of target_perturbation is out of reach: no perturbation of the "
            f"{int(moving.any(axis=1).sum())} rows and "
            f"{int(moving.any(axis=0).sum())} features that may move leads towards it "
            "to first order. Let more rows or features move, or take another target."
        )
    if unreachable > _PARTIAL:
        warnings.warn(
            f"{unreachable:.0%} of the target is out of reach of the rows and features "
            "that may move; the perturbation leads to the nearest point within reach.",
            IllPosedWarning,
            stacklevel=user_stacklevel(),
        )
    reached = _retrained(gd, dX, final.tol) if verify else None
    for _ in range(n_corrections):
        if reached is None:
            break
        further, _ = shortest_perturbation(goal, reached, moving)
        dX = dX + further
        reached = _retrained(gd, dX, final.tol)
    floor = 10.0 * float(np.linalg.norm(gd.objective.gradient(gd.weights)))
    holds_to = reach(gd, Movement(dX), tol=HOLDS_TOL, floor=floor)
    missing = (np.nan, np.nan) if reached is None else goal.missing(reached)
    error, to_point = (m / requested if requested else m for m in missing)
    return TargetPerturbation(
        gd.objective.inputs + dX,
        dX,
        float(np.linalg.norm(dX)),
        np.linalg.norm(dX.reshape(len(dX), -1), axis=1),
        index,
        requested,
        unreachable,
        holds_to,
        np.full(gd.weights.shape, np.nan) if reached is None else reached.weights,
        error,
        to_point,
        _status(unreachable, holds_to, error, verify),
    )


def _nothing_to_do(
    gd: GraphicalDerivative, index: int, requested: float
) -> TargetPerturbation:
    """The answer to a target that the set contains as it is."""
    still = np.zeros(gd.objective.input_shape)
    return TargetPerturbation(
        gd.objective.inputs,
        still,
        0.0,
        np.zeros(len(still)),
        index,
        requested,
        0.0,
        np.inf,
        gd.weights,
        0.0,
        0.0,
        "the set contains the target as it is",
    )


def _retrained(
    gd: GraphicalDerivative, dX: Array, tol: float
) -> GraphicalDerivative | None:
    """The derivative at the retrained weights; None where they are not stationary."""
    objective = gd.objective.with_data(gd.objective.inputs + dX)
    polished = continued(gd.weights, gd.factor, objective, tol=tol, active=gd.active)
    if not polished.converged:
        return None
    return gd.at(objective.on_kinks(polished.kinks), polished.weights)


def _status(unreachable: float, holds_to: float, error: float, verified: bool) -> str:
    told = [
        "to first order the target is within reach"
        if unreachable <= _PARTIAL
        else f"{unreachable:.0%} of the target is out of reach"
    ]
    if not verified:
        told.append("not verified by retraining")
    elif np.isnan(error):
        told.append("retraining on the perturbed data did not become stationary")
    else:
        told.append(f"retraining misses {error:.2g} of it")
    if holds_to < 1.0 and not error <= unreachable + _PARTIAL:
        told.append(
            f"the first order holds up to {holds_to:.2g} of the perturbation only: ask "
            "for a smaller change, or add corrections"
        )
    return "; ".join(told)


# Checks -----------------------------------------------------------------------------


def _check_one_goal(target_weights: Any, X: Any, prediction_change: Any) -> str:
    for_weights = target_weights is not None
    for_predictions = X is not None and prediction_change is not None
    if for_weights == for_predictions or (X is None) != (prediction_change is None):
        raise ValueError(
            "target_perturbation must be given either 'target_weights', or 'X' and "
            "'prediction_change'. Got "
            f"target_weights={'given' if for_weights else None}, "
            f"X={'given' if X is not None else None}, "
            f"prediction_change={'given' if prediction_change is not None else None} "
            "instead."
        )
    return "weights" if for_weights else "predictions"


def _check_target(final: Any, target_weights: Any) -> Array:
    target = _numbers("target_weights", target_weights)
    shape = final.solution_set_.weights.shape[1:]
    if target.shape != shape or not np.isfinite(target).all():
        raise ValueError(
            "The 'target_weights' parameter of target_perturbation must be a finite "
            f"array of shape {shape}. Got shape {target.shape} with "
            f"{int((~np.isfinite(target)).sum())} NaN or infinite entries instead."
        )
    return target


def _numbers(name: str, value: Any) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The {name!r} parameter of target_perturbation must hold real numbers. "
            f"Got {value!r} instead."
        ) from error


def _check_solution(final: Any, solution: Any, target: Array | None) -> int:
    solutions = final.solution_set_
    trusted = solutions.trustworthy
    if solution is None:
        far = np.zeros(len(solutions))
        if target is not None:
            far = solutions.piece_distances(target)[0]
        solution = int(np.argmin(np.where(trusted, far, np.inf)))
    is_index = isinstance(solution, Integral) and not isinstance(solution, bool)
    if not is_index or not -len(solutions) <= solution < len(solutions):
        raise ValueError(
            "The 'solution' parameter of target_perturbation must be an integer from "
            f"{-len(solutions)} to {len(solutions) - 1}. Got {solution!r} instead."
        )
    index = int(solution) % len(solutions)
    if not trusted[index]:
        raise ValueError(
            "The 'solution' parameter of target_perturbation must name a trustworthy "
            f"solution. Got {index} instead: {solutions.status[index]}."
        )
    return index


def _prediction_goal(
    final: Any, index: int, X: Any, prediction_change: Any
) -> PredictionGoal:
    points = check_inputs(final, X)
    gd = final.graphical_derivatives_[index]
    now = gd.objective.predictions(gd.weights, points)
    change = _numbers("prediction_change", prediction_change)
    shape = now.shape[:-1] if now.ndim > 1 and now.shape[-1] == 1 else now.shape
    if change.shape not in (shape, now.shape) or not np.isfinite(change).all():
        raise ValueError(
            "The 'prediction_change' parameter of target_perturbation must be a finite "
            f"array of shape {shape}, as the predictions on X. Got shape "
            f"{change.shape} with {int((~np.isfinite(change)).sum())} NaN or infinite "
            "entries instead."
        )
    return PredictionGoal(points, now + change.reshape(now.shape))
