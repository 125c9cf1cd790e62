"""Which ramps sit on their kink: told by a smoothed net, freed of dependent ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..linalg import independent_rows, probe
from ..objective import Kinks, Objective, Ramps

__all__ = ["NO_FORCE", "STILL", "ActiveSet", "identified", "independent", "ramp_scales"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Gates of the smoothed net between these belong to kinks: off a kink they are within
# (epsilon / t)^2 / 4 of 0 or 1.
_ON_KINK = 2e-3
# A unit whose inputs all are below this share of its operation's scale is dead.
_DEAD = 1e-3
# Share of its operation's scale that a unit's is taken to have at least.
_LEAST = 1e-4
# Forces up to this share of the largest are those of units that die: their outgoing
# weights are still as large as epsilon lets them be.
_LIGHT = 0.2
# Forces up to this share of the largest are none; so are gradients of kinks' inputs.
NO_FORCE, STILL = 1e-10, 1e-10
# Share of the scale by which inputs differ of kinks that depend on others by chance.
_TWIN = 1e-10


@dataclass(frozen=True)
class ActiveSet:
    """Kinks that are solved for, and the gates of all other ramps.

    Attributes
    ----------
    kinks : Kinks
    pattern : dict of int to ndarray of bool
        Of each operation, in the shape of its inputs.
    scales : dict of int to ndarray of shape ()
        Root mean square of each operation's inputs.
    """

    kinks: Kinks
    pattern: dict[int, Mask]
    scales: dict[int, Array]

    @classmethod
    def at(cls, objective: Objective, weights: Array) -> Self:
        """Of an objective with its kinks held, at its solution."""
        ramps = objective.ramps(weights)
        pattern = {call: t > 0.0 for call, t in ramps.inputs.items()}
        return cls(objective.kinks, pattern, ramp_scales(ramps))

    @classmethod
    def of_zero(cls, objective: Objective, weights: Array) -> Self:
        """Of a net whose every unit is dead."""
        scales = ramp_scales(objective.ramps(weights))
        found = identified(
            objective.smoothed(_ON_KINK, scales), weights, _ON_KINK, scales
        )
        return cls(found.kinks, found.pattern, found.scales)

    def fixed(self, objective: Objective) -> Objective:
        """The objective with all gates held: smooth."""
        return objective.on_kinks(self.kinks, self.pattern)

    @property
    def signature(self) -> bytes:
        """What tells two active sets apart."""
        parts = [self.kinks.calls.tobytes(), self.kinks.places.tobytes()]
        return b"".join(parts + [p.tobytes() for p in self.pattern.values()])


def ramp_scales(ramps: Ramps, *, by_unit: bool = False) -> dict[int, Array]:
    """Root mean square of the inputs of each operation, 1 for zeros.

    Of each unit over the rows instead, but a small share of the operation's at least:
    a dead unit has none of its own.
    """
    found = {}
    for call, t in ramps.inputs.items():
        squares = ramps.mean_square(call)
        whole = np.sqrt(np.mean(squares))
        found[call] = whole = np.where(whole > 0.0, whole, 1.0)
        if by_unit and t.ndim > 1:
            found[call] = np.maximum(np.sqrt(squares)[None], _LEAST * whole)
    return found


def identified(
    smoothed: Objective, weights: Array, eps: float, scales: dict[int, Array]
) -> ActiveSet:
    """Active kinks and dead units, told by the gates of a smoothed net.

    Parameters
    ----------
    smoothed : Objective
        ``objective.smoothed(eps, scales)``.
    weights : ndarray of shape (p,)
        Its minimiser.
    eps : float
    scales : dict of int to ndarray

    Returns
    -------
    active : ActiveSet
    """
    ramps = smoothed.ramps(weights)
    kinks, pattern, n_dead = Kinks.none(), {}, 0
    heaviest = _heaviest(ramps, scales)
    for call, t in ramps.inputs.items():
        gate = 0.5 * (1.0 + t / np.hypot(t, eps * scales[call]))
        light = np.abs(ramps.forces[call]) <= _LIGHT * heaviest
        dead, n_units = _dead_units(t, scales[call], light)
        if call < 0:  # Errors and penalties are no units.
            dead, n_units = np.zeros(t.shape, dtype=bool), 0
        near = (gate > _ON_KINK) & (gate < 1.0 - _ON_KINK) | dead
        places = np.flatnonzero(near)
        kinks = kinks.joined_by(np.full(len(places), call), places, gate.flat[places])
        kept = kinks.calls != call
        kept[~kept] = ~dead.flat[kinks.places[~kept]]
        kinks = kinks.fixing(kept, np.zeros(int((~kept).sum())))
        pattern[call], n_dead = t > 0.0, n_dead + n_units
    n_ramps = len(kinks.fixed_calls)
    kinks = replace(kinks, n_dead_units=n_dead, n_dead_ramps=n_ramps)
    return _moving(smoothed, weights, ActiveSet(kinks, pattern, ramp_scales(ramps)))


def _moving(objective: Objective, weights: Array, active: ActiveSet) -> ActiveSet:
    """Without kinks that no weight moves, by one random movement of all weights.

    There may be thousands: maxima over units that are off tie everywhere.
    """
    held = active.fixed(objective)
    tangents = active.kinks.taken(held.ramp_tangents(weights, probe(weights.size)))
    moves = np.abs(tangents) > STILL * np.abs(tangents).max(initial=0.0)
    return replace(active, kinks=active.kinks.keep(moves))


def _heaviest(ramps: Ramps, scales: dict[int, Array]) -> float:
    """Largest force of units that are not 0 in all rows; inf where all are."""
    forces = [
        np.abs(f)[~_dead_units(t, scales[call], np.ones(t.shape, dtype=bool))[0]]
        for (call, t), f in zip(
            ramps.inputs.items(), ramps.forces.values(), strict=True
        )
    ]
    sizes = [float(f.max()) for f in forces if f.size]
    return max(sizes, default=np.inf)


def _dead_units(t: Array, scale: Array, light: Mask) -> tuple[Mask, int]:
    """Ramps of units whose inputs are 0 in all rows, and how many units those are.

    Without forces, too: a maximum of two units that coincide is not dead.
    """
    dead, count = np.zeros(t.shape, dtype=bool), 0
    small = light & (np.abs(t) <= _DEAD * scale)
    for axis in sorted({1, t.ndim - 1}) if t.ndim > 1 else ():
        others = tuple(i for i in range(t.ndim) if i != axis)
        units = small.all(axis=others)
        if units.any():
            shape = [1] * t.ndim
            shape[axis] = t.shape[axis]
            dead |= units.reshape(shape)
            count = max(count, int(units.sum()))
    return dead, count


def independent(objective: Objective, weights: Array, active: ActiveSet) -> ActiveSet:
    """Without kinks that nothing feels or moves; those that move with others follow.

    A maximum over units that are off ties whatever the weights; one over a unit on its
    kink and units that are off has the same kink again.
    """
    while len(active.kinks):
        ramps = active.fixed(objective).ramps(weights)
        felt = np.abs(ramps.at(active.kinks)[1]) > NO_FORCE * ramps.largest_force
        active = replace(active, kinks=active.kinks.keep(felt))
        Z = active.fixed(objective).kink_jacobian(weights)
        lengths: Array = np.linalg.norm(Z, axis=1)
        moves = lengths > STILL * lengths.max(initial=0.0)
        # Whatever the gates of the others are, nothing depends on them.
        active, Z = replace(active, kinks=active.kinks.keep(moves)), Z[moves]
        kinks = active.kinks
        central = np.clip(1.0 - np.abs(2.0 * kinks.gates - 1.0), 0.1, 1.0)
        kept = np.isin(np.arange(len(Z)), independent_rows(Z, central))
        if kept.all():
            break
        C = np.linalg.lstsq(Z[kept].T, Z[~kept].T, rcond=None)[0]
        rest = kinks.keep(~kept)
        held = kinks.keep(kept)
        t, of_held = rest.taken(ramps.inputs), held.taken(ramps.inputs)
        scales = np.array([active.scales[int(call)] for call in rest.calls])
        by_chance = np.abs(t - C.T @ of_held) > _TWIN * scales
        if not by_chance.any():
            leader = np.abs(C).argmax(axis=0)
            multiple = C[leader, np.arange(len(leader))]
            alone = np.abs(C).sum(axis=0) <= (1.0 + STILL) * np.abs(multiple)
            leaders = np.stack([held.calls[leader], held.places[leader]], axis=1)
            leaders[~alone] = -1
            gates = np.clip(rest.gates, 0.0, 1.0)
            fixed = kinks.fixing(kept, gates, leaders, multiple > 0.0)
            return replace(active, kinks=fixed)
        # More kinks than weights can hold: the least central are none.
        kept[np.flatnonzero(~kept)[~by_chance]] = True
        active = replace(
            active, kinks=kinks.keep(kept), pattern=_opened(active, rest, by_chance)
        )
    return active


def _opened(active: ActiveSet, kinks: Kinks, chosen: Mask) -> dict[int, Mask]:
    """The pattern with the gates of some kinks rounded."""
    pattern = {call: mask.copy() for call, mask in active.pattern.items()}
    for k in np.flatnonzero(chosen):
        pattern[int(kinks.calls[k])].flat[kinks.places[k]] = kinks.gates[k] > 0.5
    return pattern
