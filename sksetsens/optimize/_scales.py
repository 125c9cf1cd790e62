"""Scales of the weights where their curvatures lie many decades apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe, top_eigenvalue
from ..objective import Objective, PointProducts

__all__ = ["scaled_stationarity", "weight_scales"]

Array = NDArray[np.float64]

# Ratio of the diagonal's entries from which rank is judged on a unit diagonal: a column
# of data a thousandth of another. Less stays far above every default cut-off.
_DECADES_APART = 1e-6
# A diagonal entry below this share of the largest may be what cancellation left of
# larger terms; two computations then disagree about it.
_DOUBTFUL = 1e-10
# What they may disagree by, and the relative movement of the weights between them.
_AGREE = 1e-3
_MOVED = 1e-15
# |H_ij|^2 <= H_ii H_jj where H is positive semidefinite, up to its rounding.
_PSD_SLACK = 1e-3


def weight_scales(objective: Objective, weights: Array, H: Array) -> Array | None:
    """Diagonal S with ``S H S`` of nearly unit diagonal, where that matters.

    A column of data in other units scales the curvature of its weights by the square:
    a sum of squares over rows, which is accurate relative to itself however small it
    is beside the rest of H. An entry that is the rounding of larger ones is not.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    H : ndarray of shape (p, p)
        Hessian at or near the weights.

    Returns
    -------
    scales : ndarray of shape (p,) or None
        Powers of two. None where the diagonal spans less than six decades, where an
        entry is rounding, or where H is no positive semidefinite matrix.
    """
    diagonal = np.diag(H).copy()
    largest = float(diagonal.max(initial=0.0))
    dead = diagonal == 0.0
    if largest == 0.0 or dead.all():
        return None
    if diagonal[~dead].min() < 0.0 or H[dead].any():
        return None
    if diagonal[~dead].min() > _DECADES_APART * largest:
        return None
    # A dead weight has no scale of its own. With the longest one the rounding of its
    # unit vector stays small in the weights of small curvature.
    diagonal[dead] = diagonal[~dead].min()
    bound = (1.0 + _PSD_SLACK) * np.sqrt(diagonal)
    if (np.abs(H) > bound[:, None] * bound).any():
        return None
    doubtful = np.flatnonzero(~dead & (diagonal <= _DOUBTFUL * largest))
    if not _agrees(objective, weights, diagonal, doubtful):
        return None
    scales: Array = np.exp2(-np.round(0.5 * np.log2(diagonal)))
    return scales


def _agrees(
    objective: Objective, weights: Array, diagonal: Array, doubtful: NDArray[np.intp]
) -> bool:
    """Whether products at weights moved by rounding show the same diagonal."""
    moves = probe(weights.size, stream=7)
    products = PointProducts(objective, weights * (1.0 + _MOVED * moves))
    unit = np.zeros(weights.size)
    for i in doubtful:
        unit[i] = 1.0
        again = float(products.hessian(unit)[i])
        unit[i] = 0.0
        if not abs(again - diagonal[i]) <= _AGREE * diagonal[i]:
            return False
    return True


def scaled_stationarity(H: Array, scales: Array, gradient: Array, w: Array) -> float:
    """`stationarity` in the units in which H has a unit diagonal."""
    norm = top_eigenvalue(H * scales[:, None] * scales)
    length = 1.0 + float(np.linalg.norm(w / scales))
    return float(np.linalg.norm(gradient * scales)) / (norm * length)
