"""Where along a perturbation kinks join or leave, and the way across."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..objective import Movement
from ._graphical_derivative import GraphicalDerivative

__all__ = ["across_breaks", "beyond_break", "first_break"]

Array = NDArray[np.float64]

# Inputs of ramps up to this share of the root mean square of their operation's are 0,
# and forces up to this share of the largest are none: such a ramp has no side.
_NO_SIDE, _NO_FORCE = 1e-11, 1e-10

# Share of the way to a break by which a step goes beyond it, and share of the whole way
# where two breaks lie together.
_BEYOND, _AT_LEAST = 1e-4, 1e-7
_MAX_BREAKS = 200


def first_break(gd: GraphicalDerivative, shift: Array, movement: Movement) -> float:
    """Smallest share t of a perturbation at which a kink joins or leaves.

    To first order: gates ``s + t ds`` reach 0 or 1, or inputs of other ramps reach 0.

    Parameters
    ----------
    gd : GraphicalDerivative
    shift : ndarray of shape (n_params,)
        Movement of the weights.
    movement : Movement
        Of the data.

    Returns
    -------
    t : float
        inf where none does; 0 where kinks of equal rows part; NaN where the ramps do
        not fit the working memory.
    """
    objective, w = gd.objective, gd.weights
    if not (objective.has_ramps and np.isfinite(shift).all()):
        return np.inf
    if not objective.fits_ramps:
        return np.nan
    if gd.parts_twins(movement):
        return 0.0
    found = [_first_gate(gd, shift, movement)]
    ramps = objective.ramps(w)
    tangents = objective.ramp_tangents(w, shift, movement.dX, movement.dy)
    for call, t in ramps.inputs.items():
        scale = float(np.sqrt(np.mean(t**2)))
        felt = np.abs(ramps.forces[call]) > _NO_FORCE * ramps.largest_force
        felt &= np.abs(t) > _NO_SIDE * scale
        for held in gd.kinks.of_call(call):
            felt.flat[held] = False
        sides = np.sign(t[felt])
        found.append(_first(sides * t[felt], sides * tangents[call][felt]))
    return min(found)


def _first_gate(gd: GraphicalDerivative, shift: Array, movement: Movement) -> float:
    """Where a gate reaches 0 or 1, or a force 0.

    Gate times force is what moves linearly: ``s(t) = s + t mu / (f + t df)``.
    """
    gates, forces = gd.kinks.gates, gd.kink_forces
    if not len(gates):
        return np.inf
    moved = gd.gate_tangent(shift, movement)
    df, mu = gd.force_tangent(shift, movement, moved), forces * moved
    return min(
        _first(gates * forces, gates * df + mu),
        _first((1.0 - gates) * forces, (1.0 - gates) * df - mu),
        _first(forces, df),
    )


def _first(distance: Array, speed: Array) -> float:
    """Smallest t at which ``distance + t speed`` falls to 0."""
    falling = speed < 0.0
    times = distance[falling] / -speed[falling]
    return float(times.min(initial=np.inf))


def beyond_break(t: float) -> float:
    """A share of the perturbation just beyond a break at t."""
    return t * (1.0 + _BEYOND) + _AT_LEAST


def across_breaks(
    gd: GraphicalDerivative, movement: Movement, *, max_breaks: int | None = None
) -> GraphicalDerivative | None:
    """The derivative at the solution that this one moves to, kinks exchanged.

    Each step goes to where the first kink joins or leaves, or to the end, and Newton on
    K solves for the kinks that hold there (a parametric active-set method).

    Parameters
    ----------
    gd : GraphicalDerivative
    movement : Movement
        Of the data.
    max_breaks : int, default=None
        None for 200.

    Returns
    -------
    derivative : GraphicalDerivative or None
        None where the solution could not be followed: a concave kink ends its branch.
    """
    here, t, n_breaks = gd, 0.0, 0
    limit = _MAX_BREAKS if max_breaks is None else max_breaks
    while n_breaks <= limit:
        shift = here.along(movement).shift
        if not np.isfinite(shift).all():
            return None
        way = first_break(here, shift, movement)
        step = beyond_break(way)
        arrives = step >= 1.0 - t
        step = 1.0 - t if arrives else step
        n_breaks += not arrives
        t = 1.0 if arrives else t + step
        objective = gd.objective.moved(movement, t)
        there = here.on_other_kinks(objective, here.weights + step * shift)
        if there is None:
            return None
        here = there
        if arrives:
            return here
    return None
