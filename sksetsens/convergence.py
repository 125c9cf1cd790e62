"""Whether the solution sets converge as the data does, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import check_positive
from ._continuation import continued
from ._objective import Objective
from ._question import Question, ask
from .derivatives import GraphicalDerivative
from .linalg import FarthestPoint, Subspace

__all__ = [
    "LipschitzInclusion",
    "SetConvergence",
    "lipschitz_inclusion",
    "set_convergence",
]

Array = NDArray[np.float64]

# Observed orders from this on are told as Lipschitz: an exact order 1 is observed with
# terms of second order, a square root as 0.5.
_LIPSCHITZ_ORDER = 0.9
# Orders up to this are told as no convergence.
_NO_ORDER = 0.1
# Off a degenerate point, which may stay stationary as a saddle.
_NUDGE = 1e-6


@dataclass(frozen=True)
class _Piece:
    """Affine piece of a set: base point and directions."""

    origin: Array
    directions: Subspace

    def excess(self, other: _Piece, center: Array, radius: float) -> float:
        """``e(self n U, other)``, U the ball around the centre; 0 where it misses."""
        nearest = self.origin + self.directions.project(center - self.origin)
        across = float(np.linalg.norm(center - nearest))
        if across > radius:
            return 0.0
        room = float(np.sqrt(radius**2 - across**2))
        farthest = FarthestPoint(self.directions, other.directions)
        return farthest(nearest - other.origin, room)[0]


@dataclass(frozen=True)
class SetConvergence:
    r"""Distances of the sets along a sequence of data that shrinks to the training X.

    Attributes
    ----------
    sizes : ndarray of shape (n_steps,)
        Frobenius norm of each perturbation.

    outer_excess : ndarray of shape (n_steps, n_solutions)
        :math:`e(S(x_k) \cap U, S(\bar x))`, Euclidean: what new solutions stick out. It
        vanishes where the outer limit of the sets lies in :math:`S(\bar x)`.

    inner_excess : ndarray of shape (n_steps, n_solutions)
        :math:`e(S(\bar x) \cap U, S(x_k))`: what old solutions are lost. It vanishes
        where the inner limit of the sets covers :math:`S(\bar x)`.

    distance : ndarray of shape (n_steps, n_solutions)
        The larger of both, the truncated Pompeiu-Hausdorff distance; NaN where
        retraining did not become stationary.

    order : ndarray of shape (n_solutions,)
        Slope of log distance against log size: 1 where the sets are Lipschitz, 1/2 at
        a degenerate point, 0 where they do not converge; inf for distances of zero.

    converges : ndarray of bool of shape (n_solutions,)

    radius : float
        Of the balls U around the solutions.

    status : ndarray of str of shape (n_solutions,)
    """

    sizes: Array
    outer_excess: Array
    inner_excess: Array
    distance: Array
    order: Array
    converges: NDArray[np.bool_]
    radius: float
    status: NDArray[np.str_]


def set_convergence(
    estimator: Any, X_sequence: Any, *, radius: float
) -> SetConvergence:
    r"""Whether :math:`h(S(x_k) \cap U, S(\bar x) \cap U)` vanishes, and how fast.

    Each solution is retrained on each data set of the sequence, from its weights.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_sequence : sequence of array-like of the shape of X
        Perturbed training data, each closer to the training data than the one before.

    radius : float
        Euclidean radius of the ball U around each solution. The pieces are affine: take
        it well below the distance over which the set bends.

    Returns
    -------
    convergence : SetConvergence

    Raises
    ------
    ValueError
        If the sequence has fewer than two members or does not shrink, or the radius
        is not positive.

    Notes
    -----
    At a solution that is not trustworthy the affine piece ``w + ker H`` may have
    nothing to do with the set (at a degenerate point H is 0 and the piece is all of
    space). There, sets count with the solutions alone: the distances are those of
    points, and bound the sets' from above.

    References
    ----------
    R. T. Rockafellar, R. J.-B. Wets, "Variational Analysis" (1998), Chapters 4 and 5.
    """
    check_positive("set_convergence", "radius", radius)
    questions = [ask(estimator, X, caller="set_convergence") for X in X_sequence]
    sizes = _shrinking([question.size for question in questions])
    final = questions[0].estimator
    trusted = final.solution_set_.trustworthy
    excesses = np.array(
        [
            [
                _both_excesses(gd, question, bool(ok), radius)
                for gd, ok in zip(question.derivatives, trusted, strict=True)
            ]
            for question in questions
        ]
    )
    distance = excesses.max(axis=2)
    order = np.array([_order(sizes, column) for column in distance.T])
    return SetConvergence(
        sizes,
        excesses[..., 0],
        excesses[..., 1],
        distance,
        order,
        order > _NO_ORDER,
        radius,
        np.array([_status(slope) for slope in order]),
    )


def _shrinking(sizes: list[float]) -> Array:
    found = np.array(sizes)
    if len(found) < 2 or (np.diff(found) >= 0).any() or found[-1] == 0.0:
        raise ValueError(
            "The 'X_sequence' parameter of set_convergence must hold at least two data "
            "sets, each closer to the training data than the one before and none equal "
            f"to it. Got distances {np.array2string(found, precision=3)} instead."
        )
    return found


def _both_excesses(
    gd: GraphicalDerivative, question: Question, trusted: bool, radius: float
) -> tuple[float, float]:
    moved = _retrained(gd, question, trusted)
    if moved is None:
        return np.nan, np.nan
    objective, w = moved
    new, old = _piece(gd.at(objective, w), trusted), _piece(gd, trusted)
    return (
        new.excess(old, gd.weights, radius),
        old.excess(new, gd.weights, radius),
    )


def _retrained(
    gd: GraphicalDerivative, question: Question, trusted: bool
) -> tuple[Objective, Array] | None:
    """The perturbed objective and its solution; None where it is not stationary."""
    objective = gd.objective.with_data(*question.data())
    nudge = 0.0 if trusted else _NUDGE
    polished = continued(gd, objective, tol=question.estimator.tol, nudge=nudge)
    return (objective, polished.weights) if polished.converged else None


def _piece(gd: GraphicalDerivative, trusted: bool) -> _Piece:
    point = Subspace(np.zeros((gd.weights.size, 0)))
    return _Piece(gd.weights, gd.kernel if trusted else point)


def _order(sizes: Array, distances: Array) -> float:
    """Least-squares slope in logarithms; inf where the distances are zero."""
    known = np.isfinite(distances)
    if known.sum() < 2:
        return np.nan
    if (distances[known] == 0.0).any():
        return np.inf
    return float(np.polyfit(np.log(sizes[known]), np.log(distances[known]), 1)[0])


def _status(order: float) -> str:
    if np.isnan(order):
        return "unknown: retraining became stationary at fewer than two members"
    if order >= _LIPSCHITZ_ORDER:
        return f"converges with order {order:.2f}: Lipschitz"
    if order > _NO_ORDER:
        return (
            f"converges with order {order:.2f} only: no Lipschitz bound holds (a "
            "degenerate point moves like a root of the perturbation)"
        )
    return f"does not converge: order {order:.2f}"


@dataclass(frozen=True)
class LipschitzInclusion:
    r"""The inclusion :math:`S(x') \cap U \subset S(x) + \kappa |x - x'| B`, in numbers.

    Attributes
    ----------
    excess : ndarray of shape (n_solutions,)
        :math:`e(S(x') \cap U, S(x))` of the retrained set, Euclidean; NaN where
        retraining did not become stationary.

    bound : ndarray of shape (n_solutions,)
        :math:`\kappa |x - x'|`, inf where no modulus is certified.

    slack : ndarray of shape (n_solutions,)
        ``bound - excess``.

    second_order : ndarray of shape (n_solutions,)
        Excess of the retrained set beyond the predicted one. The predicted set obeys
        the inclusion exactly, so that no slack is below minus this.

    holds : ndarray of bool of shape (n_solutions,)
        Whether the slack is at least 0.

    status : ndarray of str of shape (n_solutions,)
    """

    excess: Array
    bound: Array
    slack: Array
    second_order: Array
    holds: NDArray[np.bool_]
    status: NDArray[np.str_]


def lipschitz_inclusion(
    estimator: Any, X_perturbed: Any, y_perturbed: Any = None, *, radius: float
) -> LipschitzInclusion:
    """Check by retraining that the new set lies in the old one's neighbourhood.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_perturbed, y_perturbed
        As in `SolutionSetEstimator.sensitivity`.

    radius : float
        Euclidean radius of the ball U around each solution.

    Returns
    -------
    inclusion : LipschitzInclusion

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Definition of the Lipschitz-like property
    and Figure 2.
    """
    check_positive("lipschitz_inclusion", "radius", radius)
    question = ask(estimator, X_perturbed, y_perturbed, caller="lipschitz_inclusion")
    pairs = zip(
        question.derivatives, question.estimator.solution_set_.trustworthy, strict=True
    )
    table = [_inclusion(gd, question, bool(ok), radius) for gd, ok in pairs]
    excess, second_order = np.array(table).T
    bound = question.bounds
    with np.errstate(invalid="ignore"):
        slack = bound - excess
    holds = slack >= 0.0
    rows = zip(bound, slack, second_order, strict=True)
    status = np.array([_inclusion_status(*row) for row in rows])
    return LipschitzInclusion(excess, bound, slack, second_order, holds, status)


def _inclusion(
    gd: GraphicalDerivative, question: Question, trusted: bool, radius: float
) -> tuple[float, float]:
    moved = _retrained(gd, question, trusted)
    if moved is None:
        return np.nan, np.nan
    new = _piece(gd.at(*moved), trusted)
    affine = gd(question.dX, question.dy)
    excess = new.excess(_piece(gd, trusted), gd.weights, radius)
    if affine.is_empty:
        return excess, np.inf
    predicted = _Piece(gd.weights + affine.shift, _piece(gd, trusted).directions)
    return excess, new.excess(predicted, gd.weights, radius)


def _inclusion_status(bound: float, slack: float, second_order: float) -> str:
    if np.isnan(slack):
        return "unknown: retraining did not become stationary"
    if np.isinf(bound):
        return "no finite modulus is certified here: nothing to check"
    if slack >= 0.0:
        return f"holds with slack {slack:.2g}"
    return (
        f"exceeded by {-slack:.2g}, within the second-order term {second_order:.2g}: "
        "use a smaller perturbation or radius"
    )
