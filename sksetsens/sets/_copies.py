"""Copies of one net: the transformations an objective allows, and the nearest ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective
from ._symmetries import Alignment, NetworkSymmetry

__all__ = ["nearest_copies", "objective_symmetry", "retilted"]

Array = NDArray[np.float64]

# Losses of two copies of one net differ by rounding.
_SAME_LOSS = 1e-8


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
    # A penalty in get_loss may tell copies apart: compare with one of them.
    other = np.random.RandomState(0).permutation(weights)
    copy = symmetry.align(weights, other).weights
    here, there = objective.loss(weights), objective.loss(copy)
    if not np.isclose(here, there, rtol=_SAME_LOSS, atol=0.0):
        raise ValueError(
            "The symmetries of the net's outputs are none of its objective: the loss "
            f"{here:.6g} of a solution is {there:.6g} for a copy with other order, "
            "signs or scales of hidden units (a penalty in get_loss, or weight decay "
            "that differs within a layer). Pass a NetworkSymmetry that the objective "
            "has."
        )
    return symmetry


def nearest_copies(
    weights: Array, reference: Array, symmetry: NetworkSymmetry, *, pairwise: bool
) -> list[Alignment]:
    """Alignment of each row of weights to one row of the reference.

    Parameters
    ----------
    weights, reference : ndarray of shape (n_solutions, n_params)
    symmetry : NetworkSymmetry
    pairwise : bool
        Whether row i goes to row i, instead of to the one that it comes nearest to.

    Returns
    -------
    alignments : list of Alignment
    """
    if pairwise:
        pairs = zip(weights, reference, strict=True)
        return [symmetry.align(w, v) for w, v in pairs]
    return [
        min((symmetry.align(w, v) for v in reference), key=lambda found: found.distance)
        for w in weights
    ]


def retilted(objective: Objective, weights: Array) -> Objective:
    """An early-stopped objective, tilted by the gradient at a copy of its weights."""
    if not objective.is_tilted:
        return objective
    plain = objective.untilted()
    return plain.tilted(plain.gradient(weights))
