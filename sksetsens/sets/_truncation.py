"""Excess of sets with affine pieces, cut at balls around given centres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import FarthestPoint, Subspace

__all__ = ["affine_pieces", "truncated_excess"]

Array = NDArray[np.float64]


def truncated_excess(
    C: Any, D: Any, radius: float, centers: Array
) -> tuple[float, float]:
    r"""Bounds of :math:`e(C \cap U, D)`, U the union of balls around the centres.

    A piece of C meets a ball of U in a ball of its own, whose farthest point from one
    piece of D is the solution of a trust-region problem (`FarthestPoint`). The
    distance to all of D is the minimum over its pieces: the smallest of these maxima
    bounds the excess from above, and the distances of the points found from below.
    Both agree where D has one piece, or C has points only.

    Parameters
    ----------
    C, D : ndarray of shape (n_points, p) or SolutionSet
        Of finite entries.
    radius : float
        Euclidean, of each ball.
    centers : ndarray of shape (n_centers, p)

    Returns
    -------
    lower, upper : float
        0 where C misses U.
    """
    targets = affine_pieces(D)
    lower = upper = 0.0
    for origin, directions in affine_pieces(C):
        balls = _cut(origin, directions, centers, radius)
        if not balls:
            continue
        solvers = [(o, FarthestPoint(directions, V)) for o, V in targets]
        for center, room in balls:
            found = [solve(center - o, room) for o, solve in solvers]
            upper = max(upper, min(distance for distance, _ in found))
            points = np.array([center + z for _, z in found])
            lower = max(lower, float(_nearest(points, targets).max()))
    return min(lower, upper), upper


def affine_pieces(value: Any) -> list[tuple[Array, Subspace]]:
    """Base points with the subspaces through them; points alone of an array."""
    if hasattr(value, "kernels"):
        return list(zip(value.weights, value.kernels, strict=True))
    return [(point, Subspace(np.zeros((point.size, 0)))) for point in value]


def _cut(
    origin: Array, directions: Subspace, centers: Array, radius: float
) -> list[tuple[Array, float]]:
    """Balls, by centre and radius, in which the piece meets those around centres."""
    found: list[tuple[Array, float]] = []
    for u in centers:
        nearest = origin + directions.project(u - origin)
        across = float(np.linalg.norm(u - nearest))
        if across <= radius:
            found.append((nearest, float(np.sqrt(radius**2 - across**2))))
    return found


def _nearest(points: Array, targets: list[tuple[Array, Subspace]]) -> Array:
    distances = [V.complement_norm(points - o) for o, V in targets]
    return np.min(distances, axis=0)
