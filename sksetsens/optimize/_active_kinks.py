r"""Newton's method on the active kinks, with exchange of those that were guessed wrong.

At a minimiser of a net with ramps some ramps sit on their kink. With their gates s as
unknowns and all other gates fixed, :math:`K(w, s) = (\nabla_w L_s, t_A)` is smooth and
has as many equations as unknowns (partial smoothness: A. S. Lewis, "Active sets,
nonsmoothness, and sensitivity", 2002; Newton on the identified manifold: G. Bareilles,
F. Iutzeler, J. Malick, arXiv 2106.04350). Its zero is a solution where the gates lie
between 0 and 1 and all other ramps are on the side that their gates say; a kink that
violates this is exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..linalg import TangentInverse, independent_rows
from ..objective import Kinks, Objective, Ramps

__all__ = [
    "ActiveSet",
    "KinkSolution",
    "identified",
    "newton_on_kinks",
    "ramp_scales",
]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Gates of the smoothed net between these belong to kinks: off a kink they are within
# (epsilon / t)^2 / 4 of 0 or 1.
_ON_KINK = 2e-3
# A unit whose inputs all are below this share of its operation's scale is dead.
_DEAD = 1e-3
# Forces up to this share of the largest are those of units that die: their outgoing
# weights are still as large as epsilon lets them be.
_LIGHT = 0.2
# Inputs of ramps up to this share of the scale have no sign: rounding.
_NO_SIGN = 1e-11
# Forces up to this share of the largest are none.
_NO_FORCE = 1e-10
# Gates this near 0 or 1 are neither inside nor outside.
_EDGE = 1e-9
# Steps at most; the share of the last one that a step may be, and up to which the same
# factorisation serves again.
_MAX_STEPS, _CONTRACTION, _CHORD = 30, 0.5, 0.1
# Relative steps (of weights and gates) that have converged, and that are rounding.
_CONVERGED, _ARRIVED = 1e-9, 1e-15
# Share of the scale by which inputs differ of kinks that depend on others by chance.
_TWIN = 1e-10
# Times the first movement within which exchanges must end.
_REACH = 4.0
# Gradients of a kink's input below this share of the largest are none.
_STILL = 1e-10
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class ActiveSet:
    """Kinks that are solved for, and the gates of all other ramps.

    Attributes
    ----------
    kinks : Kinks
    pattern : dict of int to ndarray of bool
        Of each operation, in the shape of its inputs.
    scales : dict of int to float
        Root mean square of each operation's inputs.
    """

    kinks: Kinks
    pattern: dict[int, Mask]
    scales: dict[int, float]

    @classmethod
    def at(cls, objective: Objective, weights: Array) -> Self:
        """Of an objective with its kinks held, at its solution."""
        ramps = objective.ramps(weights)
        pattern = {call: t > 0.0 for call, t in ramps.inputs.items()}
        return cls(objective.kinks, pattern, ramp_scales(ramps))

    def fixed(self, objective: Objective) -> Objective:
        """The objective with all gates held: smooth."""
        return objective.on_kinks(self.kinks, self.pattern)

    @property
    def signature(self) -> bytes:
        """What tells two active sets apart."""
        parts = [self.kinks.calls.tobytes(), self.kinks.places.tobytes()]
        return b"".join(parts + [p.tobytes() for p in self.pattern.values()])


@dataclass(frozen=True)
class KinkSolution:
    """Where Newton on K ended.

    Attributes
    ----------
    weights : ndarray of shape (p,)
    active : ActiveSet
    residual : float
        Largest of the last step, of the weights relative to ``1 + |w|`` or of a gate,
        and of R relative to what it is made of.
    largest_force : float
        Largest gradient in the weights that a kink balances.
    off_kinks : float
        Distance to where the kinks' inputs are 0, relative to ``1 + |w|``.
    is_consistent : bool
        Whether gates and signs are those of a stationary point.
    is_minimum : bool
        Whether no curvature is negative on the tangent space.
    n_iter : int
    """

    weights: Array
    active: ActiveSet
    residual: float
    largest_force: float
    off_kinks: float
    is_consistent: bool
    is_minimum: bool
    n_iter: int

    @property
    def kinks(self) -> Kinks:
        """Kinks with their gates, and dead units."""
        return self.active.kinks

    @property
    def is_minimum_on_kinks(self) -> bool:
        """Whether it is what was looked for."""
        return self.is_consistent and self.is_minimum

    def after(self, n_iter: int) -> KinkSolution:
        """The same after another number of iterations in all."""
        return replace(self, n_iter=n_iter)


def ramp_scales(ramps: Ramps) -> dict[int, float]:
    """Root mean square of the inputs of each operation, 1 for zeros."""
    return {
        call: float(np.sqrt(np.mean(t**2))) or 1.0 for call, t in ramps.inputs.items()
    }


def identified(
    smoothed: Objective, weights: Array, eps: float, scales: dict[int, float]
) -> ActiveSet:
    """Active kinks and dead units, told by the gates of a smoothed net.

    Parameters
    ----------
    smoothed : Objective
        ``objective.smoothed(eps, scales)``.
    weights : ndarray of shape (p,)
        Its minimiser.
    eps : float
    scales : dict of int to float

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
    return ActiveSet(kinks, pattern, scales)


def _heaviest(ramps: Ramps, scales: dict[int, float]) -> float:
    """Largest force of units that are not 0 in all rows; inf where all are."""
    forces = [
        np.abs(f)[~_dead_units(t, scales[call], np.ones(t.shape, dtype=bool))[0]]
        for (call, t), f in zip(
            ramps.inputs.items(), ramps.forces.values(), strict=True
        )
    ]
    sizes = [float(f.max()) for f in forces if f.size]
    return max(sizes, default=np.inf)


def _dead_units(t: Array, scale: float, light: Mask) -> tuple[Mask, int]:
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


def newton_on_kinks(
    objective: Objective,
    weights: Array,
    active: ActiveSet,
    *,
    max_rounds: int = 20,
    near: float = 0.0,
) -> KinkSolution:
    """Newton on K from a guess of the active kinks, exchanged until they are right.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    active : ActiveSet
    max_rounds : int, default=20
        Exchanges at most.
    near : float, default=0.0
        Length that the movement may have, a few times over; the first movement
        where that is longer.

    Returns
    -------
    solution : KinkSolution
        Of the last round.
    """
    start, reach = weights, np.inf
    seen: set[bytes] = set()
    n_iter, at_once, rounds = 0, True, 0
    while True:
        active = _independent(objective, weights, active)
        found = _newton(objective, weights, active)
        n_iter, rounds = n_iter + found.n_iter, rounds + 1
        violations = _Violations.of(objective, found.weights, found.active)
        moved = float(np.linalg.norm(found.weights - start))
        if rounds == 1:
            reach = _REACH * max(moved, near)
        # Further away lie other minima.
        arrived = found.residual <= _CONVERGED and moved <= reach
        consistent = arrived and not violations
        if consistent or not arrived or rounds > max_rounds:
            return replace(found, is_consistent=consistent, n_iter=n_iter)
        active = violations.exchanged(objective, found.weights, found.active, at_once)
        if active.signature in seen:
            if not at_once:
                return replace(found, n_iter=n_iter)
            at_once, seen = False, set()
        seen.add(active.signature)
        weights = found.weights


def _newton(objective: Objective, w: Array, active: ActiveSet) -> KinkSolution:
    """The zero of K with this active set, wherever gates and signs end."""
    kinks, last, n_iter, off = active.kinks, np.inf, 0, np.inf
    factor, forces, is_minimum, largest, curvature = None, np.zeros(0), True, 0.0, 0.0
    while n_iter < _MAX_STEPS:
        n_iter += 1
        gated = objective.on_kinks(kinks, active.pattern)
        g, t = gated.gradient(w), gated.ramps(w).at(kinks)[0]
        fresh = factor is None
        if factor is None:
            H = gated.hessian(w)
            if not (np.isfinite(H).all() and np.isfinite(g).all()):
                is_minimum, last = False, np.inf
                break
            Z, curvature = gated.kink_jacobian(w), float(np.linalg.norm(H))
            factor, phi = TangentInverse(H, Z), gated.kink_forces(w, Z)
            forces = np.where(phi == 0.0, np.inf, phi)
            is_minimum = factor.inertia[0] == 0
            balanced = np.abs(phi) * np.linalg.norm(Z, axis=1)
            largest = float(balanced.max(initial=0.0))
        lifted = factor.lift(t)
        v = -factor.apply(g - H @ lifted) - lifted
        ds = -factor.multipliers(g + H @ v) / forces
        whole = 1.0 + float(np.linalg.norm(w))
        length = float(np.linalg.norm(v)) / whole
        off = float(np.linalg.norm(lifted)) / whole
        size = max(length, float(np.abs(ds).max(initial=0.0)))
        if not size < _CONTRACTION * last:
            if fresh or last <= _CONVERGED:
                break
            factor = None
            continue
        w, kinks = w + v, kinks.with_gates(kinks.gates + ds)
        if size <= _ARRIVED:
            last = size
            break
        if not size <= _CHORD * last:
            factor = None
        last = size
    there = replace(active, kinks=kinks)
    # Along the kernel no step is taken, whatever R is there.
    left = float(np.linalg.norm(there.fixed(objective).gradient(w)))
    scale = max(curvature * (1.0 + float(np.linalg.norm(w))), largest, _TINY)
    last = max(last, left / scale)
    return KinkSolution(w, there, last, largest, off, False, is_minimum, n_iter)


def _independent(objective: Objective, weights: Array, active: ActiveSet) -> ActiveSet:
    """Without kinks that nothing feels or moves; those that move with others follow.

    A maximum over units that are off ties whatever the weights; one over a unit on its
    kink and units that are off has the same kink again.
    """
    while len(active.kinks):
        ramps = active.fixed(objective).ramps(weights)
        felt = np.abs(ramps.at(active.kinks)[1]) > _NO_FORCE * _largest(ramps)
        active = replace(active, kinks=active.kinks.keep(felt))
        Z = active.fixed(objective).kink_jacobian(weights)
        lengths: Array = np.linalg.norm(Z, axis=1)
        moves = lengths > _STILL * lengths.max(initial=0.0)
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
            alone = np.abs(C).sum(axis=0) <= (1.0 + _STILL) * np.abs(multiple)
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


def _largest(ramps: Ramps) -> float:
    """Largest force."""
    sizes = [float(np.abs(f).max(initial=0.0)) for f in ramps.forces.values()]
    return max(sizes, default=0.0)


def _opened(active: ActiveSet, kinks: Kinks, chosen: Mask) -> dict[int, Mask]:
    """The pattern with the gates of some kinks rounded."""
    pattern = {call: mask.copy() for call, mask in active.pattern.items()}
    for k in np.flatnonzero(chosen):
        pattern[int(kinks.calls[k])].flat[kinks.places[k]] = kinks.gates[k] > 0.5
    return pattern


@dataclass(frozen=True)
class _Violations:
    """What is not as at a stationary point: the largest first, of both kinds.

    Attributes
    ----------
    gates : dict of int to bool
        Kinks whose gate is outside [0, 1], or that are concave, and the gate of the
        side to which they are left.
    sides : list of (int, int, bool)
        Operation and place of ramps that are on the other side than their gate says,
        and whether they are convex: those become kinks.
    revived : bool
        Whether the inputs of a fixed ramp are not 0, as of a unit that is not dead.
    sizes : list of float
        Of the first two, in their order.
    """

    gates: dict[int, bool]
    sides: list[tuple[int, int, bool]]
    revived: bool
    sizes: list[float]

    def __bool__(self) -> bool:
        return bool(self.gates or self.sides or self.revived)

    @classmethod
    def of(cls, objective: Objective, w: Array, active: ActiveSet) -> Self:
        kinks, scales = active.kinks, active.scales
        there = active.fixed(objective)
        ramps = there.ramps(w)
        forces = there.kink_forces(w, there.kink_jacobian(w))
        least = _NO_FORCE * _largest(ramps)
        outside = np.abs(kinks.gates - np.clip(kinks.gates, 0.0, 1.0))
        leaving = np.flatnonzero((outside > _EDGE) | (forces < -least))
        gates = {int(k): bool(kinks.gates[k] > 0.5) for k in leaving}
        sizes = [float(max(outside[k], _EDGE)) for k in leaving]
        sides, revived = [], False
        for call, t in ramps.inputs.items():
            signed = np.abs(t) > _NO_SIGN * scales[call]
            wrong = signed & ((t > 0.0) != active.pattern[call])
            wrong &= np.abs(ramps.forces[call]) > least
            on, fixed = kinks.of_call(call)
            revived |= bool(signed.flat[fixed].any())
            wrong.flat[on], wrong.flat[fixed] = False, False
            for place in np.flatnonzero(wrong):
                convex = bool(ramps.forces[call].flat[place] > 0.0)
                sides.append((call, int(place), convex))
                sizes.append(float(abs(t.flat[place]) / scales[call]))
        return cls(gates, sides, revived, sizes)

    def exchanged(
        self, objective: Objective, w: Array, active: ActiveSet, at_once: bool
    ) -> ActiveSet:
        """The active set with all of them mended, or the largest one."""
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
    (dependent,) = np.nonzero(apart <= _STILL * np.linalg.norm(Z_new, axis=1))
    if not len(dependent):
        return None
    k = int(dependent[0])
    force = there.ramps(w).at(new)[1][k]
    inwards = -1.0 if active.pattern[int(calls[k])].flat[places[k]] else 1.0
    ds = -inwards * force * C[:, k] / there.kink_forces(w, Z)
    room = np.where(ds > 0.0, 1.0 - kinks.gates, kinks.gates)
    steps = np.full(len(ds), np.inf)
    moves = np.abs(ds) > _STILL
    steps[moves] = room[moves] / np.abs(ds[moves])
    first = int(steps.argmin())
    if not np.isfinite(steps[first]):
        return None
    return [joining[k]], {first: bool(ds[first] > 0.0)}
