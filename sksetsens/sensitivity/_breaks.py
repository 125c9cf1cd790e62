"""Where along a perturbation the first kink joins or leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._graphical_derivative import GraphicalDerivative

__all__ = ["first_break"]

Array = NDArray[np.float64]

# Inputs of ramps up to this share of the root mean square of their operation's are 0,
# and forces up to this share of the largest are none: such a ramp has no side.
_NO_SIDE, _NO_FORCE = 1e-11, 1e-10


def first_break(gd: GraphicalDerivative, shift: Array, dX: Any, dy: Any) -> float:
    """Smallest share t of a perturbation at which a kink joins or leaves.

    To first order: gates ``s + t ds`` reach 0 or 1, or inputs of other ramps reach 0.

    Parameters
    ----------
    gd : GraphicalDerivative
    shift : ndarray of shape (n_params,)
        Movement of the weights.
    dX, dy
        The perturbation.

    Returns
    -------
    t : float
        inf where none does.
    """
    objective, w = gd.objective, gd.weights
    if not (objective.has_ramps and np.isfinite(shift).all()):
        return np.inf
    found = [_first_gate(gd, shift, dX, dy)]
    ramps = objective.ramps(w)
    tangents = objective.ramp_tangents(w, shift, dX, dy)
    largest = max(
        (float(np.abs(f).max(initial=0.0)) for f in ramps.forces.values()), default=0.0
    )
    for call, t in ramps.inputs.items():
        scale = float(np.sqrt(np.mean(t**2)))
        felt = np.abs(ramps.forces[call]) > _NO_FORCE * largest
        felt &= np.abs(t) > _NO_SIDE * scale
        for held in gd.kinks.of_call(call):
            felt.flat[held] = False
        sides = np.sign(t[felt])
        found.append(_first(sides * t[felt], sides * tangents[call][felt]))
    return min(found)


def _first_gate(gd: GraphicalDerivative, shift: Array, dX: Any, dy: Any) -> float:
    """Where a gate reaches 0 or 1, or a force 0.

    Gate times force is what moves linearly: ``s(t) = s + t mu / (f + t df)``.
    """
    gates, forces = gd.kinks.gates, gd.kink_forces
    if not len(gates):
        return np.inf
    moved = gd.gate_tangent(shift, dX, dy)
    df, mu = gd.force_tangent(shift, dX, dy, moved), forces * moved
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
