r"""Whether dead units stay dead, and where they go if not.

The weights of a dead unit are all 0, where the loss is not differentiable in them
alone: a unit with incoming weights u and outgoing weights a, both small, adds
:math:`\tfrac{\lambda}{2}(|u|^2 + |a|^2) + \sum_i r(u'x_i)\,g_i'a` to the loss at the
gates of the live kinks, a function that is positively homogeneous of degree 2. It stays
dead where that is nowhere negative: where
:math:`\sup_{|u| = 1} |\sum_i r(u'x_i)\,g_i| \le \lambda`. Along the weights of a unit
that lives the two sides are equal: a dead unit may take a share of its work, at the
same loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe_generator
from ..objective import Kinks, Objective

__all__ = ["Revival", "dead_weights", "revival"]

Array = NDArray[np.float64]

# Directions of the incoming weights that are tried beside those of the rows, as many as
# so many multiplications allow; each then climbs.
_FEWEST, _MOST, _N_PRODUCTS = 1000, 30_000, 1e7
# Where all of these for all ramps are too many, as over an image's places: how many of
# them at least, half of them directions of the ramps that are felt most.
_FEW = 400
# Angles of the steps: narrow cones are not to be left again.
_ANGLES = np.geomspace(1.0, 0.01, 25)
# Cosine of directions that are not the same.
_APART = 0.9
# Weights up to this share of the longest are those of dead units.
_ZERO = 1e-10


def dead_weights(weights: Array) -> NDArray[np.bool_]:
    """Which weights are 0 beside the longest: those of dead units."""
    found: NDArray[np.bool_] = np.abs(weights) <= _ZERO * np.abs(weights).max(
        initial=0.0
    )
    return found


@dataclass(frozen=True)
class Revival:
    """The directions along which dead units come to life most easily.

    Attributes
    ----------
    slope : float
        ``1 - sup / lambda``: negative where the loss falls. inf where there are no
        dead units.
    directions : ndarray of shape (n_directions, n_params)
        Unit vectors of weights, each 0 but at those of one dead unit, and of one unit
        each; the steepest first. Those of the first operation that has any along which
        the loss falls.
    """

    slope: float
    directions: Array


def revival(objective: Objective, weights: Array, kinks: Kinks) -> Revival:
    """Look for directions in which dead units lower the loss.

    The units of one operation see the same inputs: one of them is asked, and what is
    found is shared among them.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
        A solution.
    kinks : Kinks
        Its kinks and dead units.

    Returns
    -------
    revival : Revival
    """
    found = Revival(np.inf, np.zeros((0, weights.size)))
    if not kinks.n_dead_units:
        return found
    dead = np.flatnonzero(dead_weights(weights))
    live = weights.copy()
    live[dead] = 0.0
    for units in _dead_units(objective, live, kinks, dead):
        again = _of_units(units, weights.size)
        if again.slope < found.slope:
            found = again
    return found


@dataclass(frozen=True)
class _DeadUnit:
    """A dead unit: its inputs and forces as functions of its weights.

    Attributes
    ----------
    X : ndarray of shape (n_ramps, n_in)
        Inputs per unit of the incoming weights.
    G : ndarray of shape (n_ramps, n_out)
        Forces per unit of the outgoing weights.
    incoming, outgoing : ndarray of int
        Which weights those are.
    decay_in, decay_out : ndarray
        Curvature of the penalty along them.
    """

    X: Array
    G: Array
    incoming: NDArray[np.int64]
    outgoing: NDArray[np.int64]
    decay_in: Array
    decay_out: Array

    def is_like(self, other: _DeadUnit) -> bool:
        """Whether the two can change places."""
        return all(
            np.array_equal(one, same)
            for one, same in zip(
                (self.X, self.G, self.decay_in, self.decay_out),
                (other.X, other.G, other.decay_in, other.decay_out),
                strict=True,
            )
        )


def _dead_units(
    objective: Objective, live: Array, kinks: Kinks, dead: NDArray[np.int64]
) -> list[list[_DeadUnit]]:
    """Dead units of each operation that can change places with its first one."""
    places = _places(objective, live, kinks)
    inputs = [np.zeros((len(dead), p.size)) for _, p in places]
    forces = [np.zeros((len(dead), p.size)) for _, p in places]
    # A dead unit gives out nothing: all this is linear in its weights.
    held = objective.on_kinks(kinks)
    for j, weight in enumerate(dead):
        moved = live.copy()
        moved[weight] = 1.0
        ramps = held.ramps(moved)
        for k, (call, place) in enumerate(places):
            inputs[k][j] = ramps.inputs[call].ravel()[place.ravel()]
            forces[k][j] = ramps.forces[call].ravel()[place.ravel()]
    curvature = _diagonal(held, live, dead)
    found = []
    for k, (_, place) in enumerate(places):
        units: list[_DeadUnit] = []
        shape = (len(dead), *place.shape)
        for X, G in zip(
            inputs[k].reshape(shape).swapaxes(0, 1),
            forces[k].reshape(shape).swapaxes(0, 1),
            strict=True,
        ):
            comes, goes = np.any(X != 0.0, axis=1), np.any(G != 0.0, axis=1)
            if not (comes.any() and goes.any()):
                continue
            unit = _DeadUnit(
                X[comes].T.copy(),
                G[goes].T.copy(),
                dead[comes],
                dead[goes],
                curvature[comes],
                curvature[goes],
            )
            if not units or unit.is_like(units[0]):
                units.append(unit)
        if units:
            found.append(units)
    return found


def _of_units(units: list[_DeadUnit], n_params: int) -> Revival:
    """By climbing from many directions at once; maxima far apart, one for each unit."""
    one, nothing = units[0], np.zeros((0, n_params))
    if min(one.decay_in.min(), one.decay_out.min()) <= 0.0:
        return Revival(np.inf, nothing)  # Nothing holds it: its kernel says so.
    felt = one.G.any(axis=1)  # Rows of weight 0 are not there.
    X, G = one.X[felt], one.G[felt]
    X, G = X / np.sqrt(one.decay_in), G / np.sqrt(one.decay_out)
    tops, along, sizes = _climbed(X, G)
    order = np.argsort(-sizes)
    chosen: list[int] = []
    for i in order:
        if len(chosen) == len(units) or (chosen and not sizes[i] > 1.0):
            break
        if not chosen or np.max(tops[chosen] @ tops[i]) < _APART:
            chosen.append(int(i))
    directions = np.zeros((len(chosen), n_params))
    for direction, unit, i in zip(directions, units, chosen, strict=False):
        if sizes[i] > 0.0:
            direction[unit.incoming] = tops[i] / np.sqrt(one.decay_in)
            out = along[i] / sizes[i] / np.sqrt(one.decay_out)
            direction[unit.outgoing] = -out
            direction /= np.linalg.norm(direction)
    return Revival(1.0 - float(sizes[order[0]]), directions)


def _climbed(X: Array, G: Array) -> tuple[Array, Array, Array]:
    """Unit vectors u of large ``|sum_i r(u'x_i) g_i|``, those sums and their sizes."""
    u = _starts(X, G)
    lengths = np.linalg.norm(u, axis=1)
    u = u[lengths > 0.0] / lengths[lengths > 0.0, None]
    best = np.full(len(u), -np.inf)
    tops, along = u.copy(), np.zeros((len(u), G.shape[1]))
    for angle in _ANGLES:
        z = u @ X.T
        v = np.maximum(z, 0.0) @ G
        sizes = np.linalg.norm(v, axis=1)
        better = sizes > best
        best[better], tops[better], along[better] = sizes[better], u[better], v[better]
        v /= np.where(sizes > 0.0, sizes, 1.0)[:, None]
        slopes = ((z > 0.0) * (v @ G.T)) @ X
        lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
        u = u + angle * slopes / np.maximum(lengths, 1e-300)
        u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300)
    return tops, along, best


def _starts(X: Array, G: Array) -> Array:
    """Random directions, and those of the ramps' inputs."""
    n_ramps, n_starts = len(X), int(np.clip(_N_PRODUCTS / X.size, _FEWEST, _MOST))
    if (n_starts + 2 * n_ramps) * n_ramps > _N_PRODUCTS:
        n_starts = max(_FEW, int(_N_PRODUCTS / n_ramps)) // 2
        sizes = np.linalg.norm(X, axis=1) * np.linalg.norm(G, axis=1)
        X = X[np.argsort(-sizes, kind="stable")[: n_starts // 2]]
    random = probe_generator(8).standard_normal((n_starts, X.shape[1]))
    return np.concatenate([random, X, -X])


def _places(
    objective: Objective, live: Array, kinks: Kinks
) -> list[tuple[int, NDArray[np.int64]]]:
    """Each operation with dead units, and the places of their ramps, (units, ramps)."""
    inputs = objective.on_kinks(kinks).ramps(live).inputs
    dead, found = kinks.dead_ramps, []
    for call in dict.fromkeys(dead.calls.tolist()):
        t = inputs[call]
        mask = np.zeros(t.shape, dtype=bool)
        mask.flat[dead.places[dead.calls == call]] = True
        for axis in sorted({1, t.ndim - 1}):
            others = tuple(i for i in range(t.ndim) if i != axis)
            units = np.flatnonzero(mask.all(axis=others))
            if len(units):
                numbers = np.moveaxis(np.arange(t.size).reshape(t.shape), axis, 0)
                found.append((call, numbers[units].reshape(len(units), -1)))
                break
    return found


def _diagonal(objective: Objective, w: Array, places: NDArray[np.int64]) -> Array:
    """Curvature of the penalty along dead weights: the loss itself has none there."""
    indicator = np.zeros_like(w)
    indicator[places] = 1.0
    found: Array = objective.hessian_product(w, indicator)[places]
    return found
