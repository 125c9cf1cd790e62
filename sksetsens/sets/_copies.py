"""Copies of one net: the transformations an objective allows, and the nearest ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..objective import Objective
from ._symmetries import Alignment, NetworkSymmetry

__all__ = ["nearest_copies", "objective_symmetry", "partners_of", "retilted"]

Array = NDArray[np.float64]

# Outputs of two copies of one net, and their losses at the same outputs, differ by
# rounding: relative to the largest output, and to the loss.
_SAME = 1e-8


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
    # A penalty in get_loss may tell copies apart: compare with one of them. Both losses
    # are taken at the same outputs: those of a net that interpolates leave a loss that
    # is rounding alone.
    other = np.random.RandomState(0).permutation(weights)
    copy = symmetry.align(weights, other).weights
    outputs, moved = objective.outputs(weights), objective.outputs(copy)
    here = objective.loss_at_outputs(outputs, weights)
    there = objective.loss_at_outputs(outputs, copy)
    same_outputs = np.abs(moved - outputs).max() <= _SAME * np.abs(outputs).max()
    if not (same_outputs and np.isclose(here, there, rtol=_SAME, atol=0.0)):
        raise ValueError(
            "The symmetries of the net's outputs are none of its objective: the loss "
            f"{here:.6g} of a solution is {there:.6g} for a copy with other order, "
            "signs or scales of hidden units (a penalty in get_loss, or weight decay "
            "that differs within a layer). Pass a NetworkSymmetry that the objective "
            "has."
        )
    return symmetry


def partners_of(
    n_solutions: int, n_reference: int, pairwise: bool | ArrayLike
) -> NDArray[np.intp]:
    """Row of the reference that each solution goes to, -1 for the nearest one.

    Raises
    ------
    ValueError
        If pairs are asked for that do not exist.
    """
    if isinstance(pairwise, bool | np.bool_):
        if pairwise and n_solutions != n_reference:
            raise ValueError(
                "The 'pairwise' parameter of aligned_to must be False for sets of "
                f"{n_solutions} and {n_reference} solutions. Got True instead."
            )
        return np.arange(n_solutions) if pairwise else np.full(n_solutions, -1)
    partners: NDArray[Any] = np.asarray(pairwise)
    whole = partners.dtype.kind in "iu" and partners.shape == (n_solutions,)
    if not whole or np.any((partners < -1) | (partners >= n_reference)):
        raise ValueError(
            "The 'pairwise' parameter of aligned_to must be a bool or hold "
            f"{n_solutions} integers from -1 to {n_reference - 1}. Got {pairwise!r} "
            "instead."
        )
    return partners


def nearest_copies(
    weights: Array,
    reference: Array,
    symmetry: NetworkSymmetry,
    partners: NDArray[np.intp],
) -> list[Alignment]:
    """Alignment of each row of weights to one row of the reference.

    Parameters
    ----------
    weights, reference : ndarray of shape (n_solutions, n_params)
    symmetry : NetworkSymmetry
    partners : ndarray of int of shape (n_solutions,)
        Row of the reference that each row goes to; -1 for the one that it comes nearest
        to.

    Returns
    -------
    alignments : list of Alignment
    """
    return [
        min(
            (symmetry.align(w, v) for v in (reference if k < 0 else reference[[k]])),
            key=lambda found: found.distance,
        )
        for w, k in zip(weights, partners, strict=True)
    ]


def retilted(objective: Objective, weights: Array) -> Objective:
    """An early-stopped objective, tilted by the gradient at a copy of its weights."""
    if not objective.is_tilted:
        return objective
    plain = objective.untilted()
    return plain.tilted(plain.gradient(weights))
