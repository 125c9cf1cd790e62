"""Copies of one net: the transformations an objective allows, and the nearest ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective
from ._symmetries import Alignment, NetworkSymmetry

__all__ = ["nearest_copies", "objective_symmetry", "retilted"]

Array = NDArray[np.float64]

# Losses of two copies of one net differ by rounding: relative to themselves, and to the
# loss of weights that do not fit.
_SAME_LOSS = 1e-8
_ROUNDING = 1e-14
# Of the order of the weights that the copy is aligned to.
_SEED = 20241205


def objective_symmetry(objective: Objective, weights: Array) -> NetworkSymmetry:
    """Transformations of the weights that change neither outputs nor objective.

    Parameters
    ----------
    objective : Objective
        Its tilt, which belongs to one copy, is left out.
    weights : ndarray of shape (n_params,)

    Returns
    -------
    symmetry : NetworkSymmetry

    Raises
    ------
    ValueError
        If the module's symmetries are not known, or a penalty tells copies apart.
    """
    objective = objective.untilted()
    scalings = not objective.is_penalised(weights)
    symmetry = NetworkSymmetry.of(objective.module, scalings=scalings)
    # A penalty in get_loss may tell copies apart: compare with one of them. Where a net
    # interpolates its loss is rounding, on the scale of the loss of other weights.
    other = np.random.default_rng(_SEED).permutation(weights)
    rounding = _ROUNDING * abs(objective.loss(other))
    floor = rounding if np.isfinite(rounding) else 0.0
    for w, reference in ((weights, other), (other, weights)):
        copy = symmetry.align(w, reference).weights
        here, there = objective.loss(w), objective.loss(copy)
        if np.isclose(here, there, rtol=_SAME_LOSS, atol=floor, equal_nan=True):
            continue
        raise ValueError(
            "The symmetries of the net's outputs are none of its objective: the loss "
            f"{here:.6g} of a solution is {there:.6g} for a copy with other order, "
            "signs or scales of hidden units (a penalty in get_loss, or weight decay "
            "that differs within a layer). Pass a NetworkSymmetry that the objective "
            "has."
        )
    return symmetry


def nearest_copies(
    weights: Array,
    reference: Array,
    symmetry: NetworkSymmetry,
    partners: Sequence[int | None],
) -> list[Alignment]:
    """Alignment of each row of weights to one row of the reference.

    Parameters
    ----------
    weights, reference : ndarray of shape (n_solutions, n_params)
    symmetry : NetworkSymmetry
    partners : sequence of int or None
        Row of the reference that each row of weights goes to; None for the one that it
        comes nearest to.

    Returns
    -------
    alignments : list of Alignment
    """
    return [
        min(
            (symmetry.align(w, v) for v in _candidates(reference, partner)),
            key=lambda found: found.distance,
        )
        for w, partner in zip(weights, partners, strict=True)
    ]


def _candidates(reference: Array, partner: int | None) -> Array:
    return reference if partner is None else reference[partner : partner + 1]


def retilted(objective: Objective, weights: Array) -> Objective:
    """An early-stopped objective, tilted by the gradient at a copy of its weights."""
    if not objective.is_tilted:
        return objective
    plain = objective.untilted()
    return plain.tilted(plain.gradient(weights))
