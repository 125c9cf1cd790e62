"""Distances between sets of weights: point clouds and sets with affine pieces.

Definitions follow Rockafellar and Wets, "Variational Analysis", Chapter 4; all norms
are Euclidean. Distances between independently trained nets are raw distances of
weights: copies that differ by a permutation of hidden units are far apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ["distance_to_set", "excess", "pompeiu_hausdorff"]

Array = NDArray[np.float64]


def _points(name: str, value: Any) -> Array:
    """Solutions of a set, or rows of an array."""
    points = np.asarray(getattr(value, "weights", value), dtype=np.float64)
    if points.ndim == 1:
        points = points[None, :]
    if points.ndim != 2 or not len(points):
        raise ValueError(
            f"The {name!r} parameter must be a SolutionSet or a non-empty array of "
            f"shape (n_points, n_dims). Got shape {points.shape} instead."
        )
    return points


def distance_to_set(points: Any, C: Any) -> Array:
    r"""Distance :math:`d(w, C) = \inf_{c \in C} |w - c|` of each point.

    Parameters
    ----------
    points : array-like of shape (n_points, n_dims) or SolutionSet
        Of a set, its solutions.

    C : array-like of shape (n_points_C, n_dims) or SolutionSet
        A set counts with its affine pieces, an array with its rows.

    Returns
    -------
    distances : ndarray of shape (n_points,)
        Euclidean.

    Examples
    --------
    >>> from sksetsens.metrics import distance_to_set
    >>> distance_to_set([[3.0, 4.0]], [[0.0, 0.0], [9.0, 9.0]])
    array([5.])
    """
    cloud = _finite("points", _points("points", points))
    if hasattr(C, "distance"):
        return C.distance(cloud)
    target = _finite("C", _points("C", C))
    if cloud.shape[1] != target.shape[1]:
        raise ValueError(
            f"The 'points' parameter must have {target.shape[1]} columns, as C has. "
            f"Got {cloud.shape[1]} instead."
        )
    return cdist(cloud, target).min(axis=1)


def _finite(name: str, points: Array) -> Array:
    if not np.isfinite(points).all():
        raise ValueError(
            f"The {name!r} parameter must be finite. Got "
            f"{int((~np.isfinite(points)).sum())} NaN or infinite entries; drop empty "
            "predicted sets with a mask first."
        )
    return points


def excess(C: Any, D: Any) -> float:
    r"""Excess :math:`e(C, D) = \sup_{c \in C} d(c, D)` of C beyond D.

    Parameters
    ----------
    C, D : array-like of shape (n_points, n_dims) or SolutionSet
        D counts with its affine pieces, C with its solutions: the pieces of two
        curved sets are never quite parallel, and unbounded ones are infinitely far
        apart.

    Returns
    -------
    excess : float
        Euclidean.

    Examples
    --------
    >>> from sksetsens.metrics import excess
    >>> excess([[0.0], [1.0]], [[0.0]]), excess([[0.0]], [[0.0], [1.0]])
    (1.0, 0.0)
    """
    return float(distance_to_set(C, D).max())


def pompeiu_hausdorff(C: Any, D: Any) -> float:
    r"""Pompeiu-Hausdorff distance :math:`\max(e(C, D), e(D, C))`.

    Parameters
    ----------
    C, D : array-like of shape (n_points, n_dims) or SolutionSet
        See `excess`.

    Returns
    -------
    distance : float
        Euclidean.

    Examples
    --------
    >>> from sksetsens.metrics import pompeiu_hausdorff
    >>> pompeiu_hausdorff([[0.0], [1.0]], [[0.0]])
    1.0
    """
    return max(excess(C, D), excess(D, C))
