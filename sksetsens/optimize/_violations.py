"""What is not as at a stationary point on kinks, and the exchange that mends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..objective import Kinks, Objective
from ._active_set import NO_FORCE, STILL, ActiveSet
from ._parting import parted

__all__ = ["Violations"]

Array = NDArray[np.float64]

# Inputs of ramps up to this share of the scale have no sign: rounding.
_NO_SIGN = 1e-11
# Gates this near 0 or 1 are neither inside nor outside.
_EDGE = 1e-9


@dataclass(frozen=True)
class Violations:
    """What is not as at a stationary point: the largest first, of both kinds.

    Attributes
    ----------
    gates : dict of int to bool
        Kinks whose gate is outside [0, 1], or that are concave, and the gate of the
        side to which they are left.
    sides : list of (int, int, bool)
        Operation and place of ramps that are on the other side than their gate says,
        and whether they are convex: those become kinks.
    parted : dict of int to float
        Fixed ramps that moved with kinks, as those of equal rows, and no longer do; and
        their inputs.
    revived : bool
        Whether the inputs of a dead unit are not 0.
    sizes : list of float
        Of the first two, in their order.
    """

    gates: dict[int, bool]
    sides: list[tuple[int, int, bool]]
    parted: dict[int, float]
    revived: bool
    sizes: list[float]

    def __bool__(self) -> bool:
        return bool(self.gates or self.sides or self.parted or self.revived)

    @classmethod
    def of(cls, objective: Objective, w: Array, active: ActiveSet) -> Self:
        kinks, scales = active.kinks, active.scales
        there = active.fixed(objective)
        ramps = there.ramps(w)
        forces = there.kink_forces(w, there.kink_jacobian(w))
        least = NO_FORCE * ramps.largest_force
        outside = np.abs(kinks.gates - np.clip(kinks.gates, 0.0, 1.0))
        leaving = np.flatnonzero((outside > _EDGE) | (forces < -least))
        gates = {int(k): bool(kinks.gates[k] > 0.5) for k in leaving}
        sizes = [float(max(outside[k], _EDGE)) for k in leaving]
        sides = []
        t = kinks.fixed.taken(ramps.inputs)
        small = np.array([_NO_SIGN * scales[int(c)] for c in kinks.fixed_calls])
        off = np.abs(t) > small
        dead = np.arange(len(t)) < kinks.n_dead_ramps
        apart = {int(k): float(t[k]) for k in np.flatnonzero(off & ~dead)}
        for call, t in ramps.inputs.items():
            signed = np.abs(t) > _NO_SIGN * scales[call]
            wrong = signed & ((t > 0.0) != active.pattern[call])
            wrong &= np.abs(ramps.forces[call]) > least
            on, fixed = kinks.of_call(call)
            wrong.flat[on], wrong.flat[fixed] = False, False
            for place in np.flatnonzero(wrong):
                convex = bool(ramps.forces[call].flat[place] > 0.0)
                sides.append((call, int(place), convex))
                sizes.append(float(abs(t.flat[place]) / scales[call]))
        return cls(gates, sides, apart, bool((off & dead).any()), sizes)

    def exchanged(
        self, objective: Objective, w: Array, active: ActiveSet, at_once: bool
    ) -> ActiveSet:
        """The active set with all of them mended, or the largest one."""
        if self.parted:
            # Until they are seen apart, no gate means anything.
            return parted(active, self.parted)
        items: list[Any] = [*self.gates.items(), *self.sides]
        if items and not at_once:
            items = [items[int(np.argmax(self.sizes))]]
        leaving = {item[0]: item[1] for item in items if len(item) == 2}
        crossing = [item for item in items if len(item) == 3]
        joining = [(call, place) for call, place, convex in crossing if convex]
        if joining:
            pivot = _pivot(objective, w, active, joining)
            if pivot is not None:
                joining, leaving = pivot
                crossing = [(*joining[0], True)]
        return _exchanged(active, leaving, crossing)


def _exchanged(
    active: ActiveSet,
    leaving: dict[int, bool],
    crossing: list[tuple[int, int, bool]],
) -> ActiveSet:
    """Without some kinks, open or shut; and with ramps crossed, kinks if convex."""
    kinks, led = active.kinks, active.kinks.led
    pattern = {call: mask.copy() for call, mask in active.pattern.items()}
    for k, opens in leaving.items():
        pattern[int(kinks.calls[k])].flat[kinks.places[k]] = opens
        for j in np.flatnonzero(led == k):
            mask = pattern[int(kinks.fixed_calls[j])]
            mask.flat[kinks.fixed_places[j]] = opens == kinks.follows[j]
    joined = [(c, p, float(pattern[c].flat[p])) for c, p, convex in crossing if convex]
    for call, place, _ in crossing:
        pattern[call].flat[place] ^= True
    kept = ~np.isin(np.arange(len(kinks)), list(leaving))
    calls, places, gates = np.array(joined, dtype=np.float64).reshape(-1, 3).T
    kinks = kinks.keep(kept).joined_by(
        calls.astype(np.int64), places.astype(np.int64), gates
    )
    return replace(active, kinks=kinks, pattern=pattern)


def _pivot(
    objective: Objective, w: Array, active: ActiveSet, joining: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], dict[int, bool]] | None:
    """The kink that makes room for one whose gradient depends on the others'.

    As at a vertex of a linear program: the gate of the new one moves inwards from 0 or
    1, those of the others balance its force, and the first to reach 0 or 1 leaves.
    """
    calls, places = np.array(joining, dtype=np.int64).T
    new = Kinks.at(calls, places, np.zeros(len(calls)))
    there, kinks = active.fixed(objective), active.kinks
    Z, Z_new = there.kink_jacobian(w), there.kink_jacobian(w, new)
    if not len(Z):
        return None
    C = np.linalg.lstsq(Z.T, Z_new.T, rcond=None)[0]
    apart = np.linalg.norm(Z_new - C.T @ Z, axis=1)
    (dependent,) = np.nonzero(apart <= STILL * np.linalg.norm(Z_new, axis=1))
    if not len(dependent):
        return None
    k = int(dependent[0])
    force = there.ramps(w).at(new)[1][k]
    inwards = -1.0 if active.pattern[int(calls[k])].flat[places[k]] else 1.0
    # A kink without a force leaves at once, if it has to balance anything.
    with np.errstate(divide="ignore", invalid="ignore"):
        ds = -inwards * force * C[:, k] / there.kink_forces(w, Z)
    room = np.where(ds > 0.0, 1.0 - kinks.gates, kinks.gates)
    steps = np.full(len(ds), np.inf)
    moves = np.abs(ds) > STILL
    steps[moves] = room[moves] / np.abs(ds[moves])
    first = int(steps.argmin())
    if not np.isfinite(steps[first]):
        return None
    return [joining[k]], {first: bool(ds[first] > 0.0)}
