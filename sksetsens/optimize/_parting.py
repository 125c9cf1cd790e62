"""Kinks that equal rows hold together, where the rows come apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..objective import Kinks
from ._active_set import ActiveSet

__all__ = ["parted"]

Array = NDArray[np.float64]


def parted(active: ActiveSet, inputs: dict[int, float]) -> ActiveSet:
    """With fixed ramps that no longer move with their kink on sides of their own.

    Parameters
    ----------
    active : ActiveSet
    inputs : dict of int to float
        Inputs of those ramps where the kink's is 0, by their number among the fixed.

    Returns
    -------
    active : ActiveSet
    """
    kinks, led = active.kinks, active.kinks.led
    pattern = {call: mask.copy() for call, mask in active.pattern.items()}
    still = np.ones(len(led), dtype=bool)
    still[list(inputs)] = False
    left, staying = np.ones(len(kinks), dtype=bool), [Kinks.none()]
    for j, t in inputs.items():
        pattern[int(kinks.fixed_calls[j])].flat[kinks.fixed_places[j]] = t > 0.0
    for k in np.unique(led[~still & (led >= 0)]):
        mates = np.flatnonzero(led == k)
        if still[mates].any() or not kinks.follows[mates].all():
            continue
        group = Kinks.at(
            np.concatenate([kinks.calls[[k]], kinks.fixed_calls[mates]]),
            np.concatenate([kinks.places[[k]], kinks.fixed_places[mates]]),
            np.concatenate([kinks.gates[[k]], kinks.fixed_gates[mates]]),
        )
        stays, gates = _shared_out(group.gates, [0.0, *(inputs[int(j)] for j in mates)])
        for call, place, gate in zip(group.calls, group.places, gates, strict=True):
            pattern[int(call)].flat[place] = gate == 1.0
        left[k] = False
        one = np.arange(len(group)) == stays
        staying.append(Kinks.at(group.calls[one], group.places[one], gates[one]))
    kinks = kinks.fixing_only(still).keep(left)
    for one in staying:
        kinks = kinks.joined_by(one.calls, one.places, one.gates)
    return replace(active, kinks=kinks, pattern=pattern)


def _shared_out(gates: Array, inputs: list[float]) -> tuple[int, Array]:
    """Which of several ramps stays on its kink, and gates of the same sum.

    The upper ones open and the lower ones shut: what is left over is that one's.
    """
    total = float(gates.sum())
    order = np.argsort(-np.asarray(inputs))
    n_open = int(np.clip(np.floor(total), 0, len(order) - 1))
    found = np.zeros(len(order))
    found[order[:n_open]] = 1.0
    stays = int(order[n_open])
    found[stays] = total - n_open
    return stays, found
