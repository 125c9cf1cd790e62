"""Whether the solution sets converge as the data does, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_positive
from ..perturbation import Perturbation, check_perturbation
from ..sensitivity import GraphicalDerivative
from ._local_sets import local_set, retrained_set

__all__ = ["SetConvergence", "set_convergence"]

Array = NDArray[np.float64]

# Observed orders from this on are told as Lipschitz: an exact order 1 is observed with
# terms of second order, a square root as 0.5.
_LIPSCHITZ_ORDER = 0.9
# Orders up to this are told as no convergence.
_NO_ORDER = 0.1
# Members at the end of the sequence whose slope is the order: the limit is theirs.
_TAIL = 3
# Distances below this share of 1 + |w| are what retraining leaves.
_RESOLVED = 1e-10


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
        Slope of log distance against log size over the last three members: 1 where the
        sets are Lipschitz, 1/2 at a degenerate point, 0 or less where they do not
        converge; inf for distances of zero.

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
    estimator: Any, X_sequence: Any, *, radius: float | None = None
) -> SetConvergence:
    r"""Whether :math:`h(S(x_k) \cap U, S(\bar x) \cap U)` vanishes, and how fast.

    Each solution is retrained on each data set of the sequence, from its weights.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_sequence : sequence of array-like of the shape of X
        Perturbed training data, each closer to the training data than the one before.

    radius : float, default=None
        Euclidean radius of the ball U around each solution; None for twice the largest
        predicted shift. The pieces are affine: take it well below the distance over
        which the set bends.

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
    space). There, sets count with the solutions alone: the distances are those of two
    points, one of each set.

    References
    ----------
    R. T. Rockafellar, R. J.-B. Wets, "Variational Analysis" (1998), Chapters 4 and 5.
    """
    if radius is not None:
        check_positive("set_convergence", "radius", radius)
    members = _members(X_sequence)
    perturbations = [
        check_perturbation(estimator, X, caller="set_convergence") for X in members
    ]
    sizes = _shrinking([perturbation.size for perturbation in perturbations])
    solutions = perturbations[0].estimator.solution_set_
    trusted = solutions.trustworthy
    if radius is None:
        radius = _automatic_radius(perturbations)
    table = np.array(
        [
            [
                _both_excesses(gd, perturbation, bool(ok), radius)
                for gd, ok in zip(perturbation.derivatives, trusted, strict=True)
            ]
            for perturbation in perturbations
        ]
    )
    outer, inner, dims = table[..., 0], table[..., 1], table[..., 2]
    distance = np.maximum(outer, inner)
    resolved = _RESOLVED * (1.0 + np.linalg.norm(solutions.weights, axis=1))
    order = np.array(
        [
            _order(sizes, column, floor)
            for column, floor in zip(distance.T, resolved, strict=True)
        ]
    )
    old_dims = np.where(trusted, solutions.kernel_dims, 0)
    changes = ((dims != old_dims) & (dims >= 0)).any(axis=0)
    return SetConvergence(
        sizes,
        outer,
        inner,
        distance,
        order,
        order > _NO_ORDER,
        float(radius),
        np.array([_status(k, c) for k, c in zip(order, changes, strict=True)]),
    )


def _members(X_sequence: Any) -> list[Any]:
    if not hasattr(X_sequence, "__len__") or isinstance(X_sequence, str):
        raise ValueError(
            "The 'X_sequence' parameter of set_convergence must be a sequence of "
            f"perturbed training data. Got {type(X_sequence).__name__} instead."
        )
    return list(X_sequence)


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
    gd: GraphicalDerivative, perturbation: Perturbation, trusted: bool, radius: float
) -> tuple[float, float, int]:
    """Outer and inner excess, and the dimension of the retrained piece."""
    new = retrained_set(gd, perturbation, trusted)
    if new is None:
        return np.nan, np.nan, -1
    old = local_set(gd, trusted)
    outer = new.excess(old, gd.weights, radius) or 0.0
    inner = old.excess(new, gd.weights, radius) or 0.0
    return outer, inner, new.directions.dim


def _automatic_radius(perturbations: list[Perturbation]) -> float:
    """Twice the largest predicted shift, which keeps every retrained set in sight."""
    shifts = [
        float(np.linalg.norm(affine.shift))
        for perturbation in perturbations
        for affine in (
            gd.along(perturbation.movement) for gd in perturbation.derivatives
        )
        if not affine.is_empty
    ]
    largest = max(shifts, default=0.0)
    lengths = np.linalg.norm(perturbations[0].estimator.solution_set_.weights, axis=1)
    return 2.0 * largest if largest > 0.0 else 0.1 * (1.0 + float(lengths.max()))


def _order(sizes: Array, distances: Array, resolved: float) -> float:
    """Slope in logarithms over the end of the sequence; inf where it is zero there."""
    known = np.flatnonzero(np.isfinite(distances))[-_TAIL:]
    if len(known) < 2:
        return np.nan
    if distances[known[-1]] <= resolved:
        return np.inf
    real = known[distances[known] > resolved]
    if len(real) < 2:
        return np.nan
    return float(np.polyfit(np.log(sizes[real]), np.log(distances[real]), 1)[0])


def _status(order: float, changes_dimension: bool) -> str:
    told = ""
    if changes_dimension:
        told = "; the dimension of the set changes with the perturbation"
    if np.isnan(order):
        return f"unknown: too few members could be retrained to stationarity{told}"
    if order >= _LIPSCHITZ_ORDER:
        return f"converges with order {order:.2f}: Lipschitz{told}"
    if order > _NO_ORDER:
        return (
            f"converges with order {order:.2f} only: no Lipschitz bound holds (a "
            f"degenerate point moves like a root of the perturbation){told}"
        )
    return f"does not converge: order {order:.2f}{told}"
