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

__all__ = ["Revival", "revival"]

Array = NDArray[np.float64]

# Directions of the incoming weights that are tried beside those of the rows, as many as
# so many multiplications allow; each then climbs.
_FEWEST, _MOST, _N_PRODUCTS = 1000, 30_000, 1e7
# Angles of the steps: narrow cones are not to be left again.
_ANGLES = np.geomspace(1.0, 0.01, 25)
# Weights up to this share of the longest are those of dead units.
_ZERO = 1e-10


@dataclass(frozen=True)
class Revival:
    """The direction along which dead units come to life most easily.

    Attributes
    ----------
    slope : float
        ``1 - sup / lambda``: negative where the loss falls. inf where there are no
        dead units.
    direction : ndarray of shape (n_params,)
        The unit vector of weights, 0 but at those of one dead unit.
    """

    slope: float
    direction: Array


def revival(objective: Objective, weights: Array, kinks: Kinks) -> Revival:
    """Look for a direction in which a dead unit lowers the loss.

    The units of one operation see the same inputs, and one of them is asked.

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
    found = Revival(np.inf, np.zeros_like(weights))
    if not kinks.n_dead_units:
        return found
    dead = np.flatnonzero(np.abs(weights) <= _ZERO * np.abs(weights).max(initial=0.0))
    live = weights.copy()
    live[dead] = 0.0
    ramps = _DeadRamps.of(objective, live, kinks, dead)
    for one in ramps:
        again = one.revival(len(weights))
        if again.slope < found.slope:
            found = again
    return found


@dataclass(frozen=True)
class _DeadRamps:
    """One dead unit: its inputs and forces as functions of its weights.

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

    @classmethod
    def of(
        cls, objective: Objective, live: Array, kinks: Kinks, dead: NDArray[np.int64]
    ) -> list[_DeadRamps]:
        """One unit of each operation that has dead ones."""
        places = _units(objective, live, kinks)
        inputs = {call: np.zeros((len(p), len(dead))) for call, p in places.items()}
        forces = {call: np.zeros((len(p), len(dead))) for call, p in places.items()}
        # A dead unit gives out nothing: all this is linear in its weights.
        held = objective.on_kinks(kinks)
        for j, weight in enumerate(dead):
            moved = live.copy()
            moved[weight] = 1.0
            ramps = held.ramps(moved)
            for call, place in places.items():
                inputs[call][:, j] = ramps.inputs[call].flat[place]
                forces[call][:, j] = ramps.forces[call].flat[place]
        curvature = _diagonal(held, live, dead)
        found = []
        for call in places:
            comes, goes = (np.any(a[call] != 0.0, axis=0) for a in (inputs, forces))
            if comes.any() and goes.any():
                unit = cls(
                    inputs[call][:, comes],
                    forces[call][:, goes],
                    dead[comes],
                    dead[goes],
                    curvature[comes],
                    curvature[goes],
                )
                found.append(unit)
        return found

    def revival(self, n_params: int) -> Revival:
        """By climbing from many directions at once."""
        direction = np.zeros(n_params)
        if min(self.decay_in.min(), self.decay_out.min()) <= 0.0:
            return Revival(np.inf, direction)  # Nothing holds it: its kernel says so.
        X, G = self.X / np.sqrt(self.decay_in), self.G / np.sqrt(self.decay_out)
        n_starts = int(np.clip(_N_PRODUCTS / X.size, _FEWEST, _MOST))
        starts = probe_generator(8).standard_normal((n_starts, X.shape[1]))
        u = np.concatenate([starts, X, -X])
        lengths = np.linalg.norm(u, axis=1)
        u = u[lengths > 0.0] / lengths[lengths > 0.0, None]
        best, at, along = -np.inf, u[0], np.zeros(G.shape[1])
        for angle in _ANGLES:
            z = u @ X.T
            v = np.maximum(z, 0.0) @ G
            sizes = np.linalg.norm(v, axis=1)
            top = int(sizes.argmax())
            if sizes[top] > best:
                best, at, along = float(sizes[top]), u[top], v[top]
            v /= np.where(sizes > 0.0, sizes, 1.0)[:, None]
            slopes = ((z > 0.0) * (v @ G.T)) @ X
            lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
            u = u + angle * slopes / np.maximum(lengths, 1e-300)
            u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300)
        if best > 0.0:
            direction[self.incoming] = at / np.sqrt(self.decay_in)
            direction[self.outgoing] = -along / best / np.sqrt(self.decay_out)
            direction /= np.linalg.norm(direction)
        return Revival(1.0 - best, direction)


def _units(
    objective: Objective, live: Array, kinks: Kinks
) -> dict[int, NDArray[np.int64]]:
    """Places of the ramps of one dead unit of each operation."""
    inputs = objective.on_kinks(kinks).ramps(live).inputs
    dead, found = kinks.dead_ramps, {}
    for call in dict.fromkeys(dead.calls.tolist()):
        t = inputs[call]
        mask = np.zeros(t.shape, dtype=bool)
        mask.flat[dead.places[dead.calls == call]] = True
        for axis in sorted({1, t.ndim - 1}):
            others = tuple(i for i in range(t.ndim) if i != axis)
            units = np.flatnonzero(mask.all(axis=others))
            if len(units):
                one = np.zeros_like(mask)
                one[(slice(None),) * axis + (units[0],)] = True
                found[call] = np.flatnonzero(one)
                break
    return found


def _diagonal(objective: Objective, w: Array, places: NDArray[np.int64]) -> Array:
    """Curvature of the penalty along dead weights: the loss itself has none there."""
    indicator = np.zeros_like(w)
    indicator[places] = 1.0
    found: Array = objective.hessian_product(w, indicator)[places]
    return found
