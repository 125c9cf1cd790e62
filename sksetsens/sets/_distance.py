"""Distances between sets of solutions: of point clouds, and of their affine pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .._validation import check_positive, real_points
from ..linalg import FarthestPoint, Subspace
from ._symmetries import NetworkSymmetry

__all__ = [
    "affine_pieces",
    "distance_to_set",
    "excess",
    "excess_bounds",
    "pompeiu_hausdorff",
    "truncated_excess",
]

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


def _points(name: str, value: Any) -> Array:
    """Solutions of a set, or rows of an array."""
    points = real_points(name, value)
    if points.ndim == 1:
        points = points[None, :]
    if points.ndim != 2 or not len(points):
        raise ValueError(
            f"The {name!r} parameter must be a SolutionSet or a non-empty array of "
            f"shape (n_points, n_dims). Got shape {points.shape} instead."
        )
    return points


def distance_to_set(points: Any, C: Any, *, align: Any = False) -> Array:
    r"""Distance :math:`d(w, C) = \inf_{c \in C} |w - c|` of each point.

    Parameters
    ----------
    points : array-like of shape (n_points, n_dims) or SolutionSet
        Of a set, its solutions.

    C : array-like of shape (n_points_C, n_dims) or SolutionSet
        A set counts with its affine pieces, an array with its rows.

    align : bool or NetworkSymmetry, default=False
        Whether to take, for each point and each piece of C, the copy of the point that
        is nearest to the piece's solution among those that the net's symmetries give
        (`NetworkSymmetry.align`): the distance modulo symmetries, or with several
        hidden layers an upper bound. True reads the symmetries from a SolutionSet.

    Returns
    -------
    distances : ndarray of shape (n_points,)
        Euclidean.

    Raises
    ------
    ValueError
        If shapes differ, entries are not finite, or ``align=True`` meets a net whose
        symmetries are not known, or arrays alone.

    Examples
    --------
    >>> from sksetsens.metrics import distance_to_set
    >>> distance_to_set([[3.0, 4.0]], [[0.0, 0.0], [9.0, 9.0]])
    array([5.])
    """
    cloud = _finite("points", _points("points", points))
    symmetry = _symmetry(align, C, points)
    if symmetry is not None:
        return _aligned_distance(cloud, C, symmetry)
    if hasattr(C, "distance"):
        return C.distance(cloud)
    target = _finite("C", _points("C", C))
    if cloud.shape[1] != target.shape[1]:
        raise ValueError(
            f"The 'points' parameter must have {target.shape[1]} columns, as C has. "
            f"Got {cloud.shape[1]} instead."
        )
    return cdist(cloud, target).min(axis=1)


def _symmetry(align: Any, *sets: Any) -> NetworkSymmetry | None:
    """The symmetries asked for; read from the first set that knows its net."""
    if align is False or isinstance(align, NetworkSymmetry):
        return align or None
    if align is not True:
        raise ValueError(
            "The 'align' parameter must be a bool or a NetworkSymmetry. Got "
            f"{align!r} instead."
        )
    for value in sets:
        if getattr(value, "objectives", None) is not None:
            return value.symmetry
    raise ValueError(
        "The 'align' parameter must be a NetworkSymmetry where no SolutionSet with its "
        "net is given. Got True instead."
    )


def _aligned_distance(cloud: Array, C: Any, symmetry: NetworkSymmetry) -> Array:
    """Distance of each point's best copy to each piece, the smallest."""
    _finite("C", _points("C", C))
    pieces = affine_pieces(C if hasattr(C, "kernels") else _points("C", C))
    return np.array(
        [
            min(
                float(V.complement_norm(symmetry.align(w, origin).weights - origin))
                for origin, V in pieces
            )
            for w in cloud
        ]
    )


def _finite(name: str, points: Array) -> Array:
    if not np.isfinite(points).all():
        raise ValueError(
            f"The {name!r} parameter must be finite. Got "
            f"{int((~np.isfinite(points)).sum())} NaN or infinite entries; drop empty "
            "predicted sets with a mask first."
        )
    return points


def excess(
    C: Any,
    D: Any,
    *,
    radius: float | None = None,
    center: Any = None,
    align: Any = False,
) -> float:
    r"""Excess :math:`e(C, D) = \sup_{c \in C} d(c, D)` of C beyond D.

    Parameters
    ----------
    C, D : array-like of shape (n_points, n_dims) or SolutionSet
        D counts with its affine pieces. C counts with its solutions, or, where a
        radius is given, with its affine pieces too.

    radius : float, default=None
        Cut C at U, the balls of this Euclidean radius around the centres: the
        truncated excess :math:`e(C \cap U, D)`. Unbounded pieces that are not quite
        parallel, as those of curved sets, are infinitely far apart without it.

    center : array-like of shape (n_dims,) or (n_centers, n_dims), or SolutionSet, \
            default=None
        Centres of U; None for the solutions of C.

    align : bool or NetworkSymmetry, default=False
        As in `distance_to_set`; not with a radius (see `SolutionSet.aligned_to`).

    Returns
    -------
    excess : float
        Euclidean. With a radius, exact where D has one piece, or C is an array;
        otherwise an upper bound (see `excess_bounds`). 0 where C misses U.

    References
    ----------
    R. T. Rockafellar, R. J.-B. Wets, "Variational Analysis" (1998), Section 4.C.

    Examples
    --------
    >>> from sksetsens.metrics import excess
    >>> excess([[0.0], [1.0]], [[0.0]]), excess([[0.0]], [[0.0], [1.0]])
    (1.0, 0.0)
    """
    if radius is None:
        _refuse_center(center)
        return float(distance_to_set(C, D, align=align).max())
    if align is not False:
        raise ValueError(
            "The 'align' parameter must be False with a radius: align the solutions "
            "first, by C.aligned_to(D). Got both instead."
        )
    return excess_bounds(C, D, radius=radius, center=center)[1]


def excess_bounds(
    C: Any, D: Any, *, radius: float, center: Any = None
) -> tuple[float, float]:
    r"""Lower and upper bound of the truncated excess :math:`e(C \cap U, D)`.

    Parameters
    ----------
    C, D, radius, center
        As in `excess`.

    Returns
    -------
    lower, upper : float
        Euclidean. They agree where D has one piece, or C is an array.

    Examples
    --------
    >>> from sksetsens.metrics import excess_bounds
    >>> excess_bounds([[0.0], [5.0]], [[-1.0]], radius=1.0, center=[0.0])
    (1.0, 1.0)
    """
    check_positive("excess", "radius", radius)
    _finite("C", _points("C", C))
    _finite("D", _points("D", D))
    centers = _points("C", C) if center is None else _points("center", center)
    _finite("center", centers)
    n_dims = _points("C", C).shape[1]
    for name, points in (("D", _points("D", D)), ("center", centers)):
        if points.shape[1] != n_dims:
            raise ValueError(
                f"The {name!r} parameter must have {n_dims} columns, as C has. Got "
                f"{points.shape[1]} instead."
            )
    if hasattr(C, "kernels") or hasattr(D, "kernels"):
        whole = C if hasattr(C, "kernels") else _points("C", C)
        other = D if hasattr(D, "kernels") else _points("D", D)
        return truncated_excess(whole, other, float(radius), centers)
    cloud = _points("C", C)
    inside = cdist(cloud, centers).min(axis=1) <= radius
    found = float(distance_to_set(cloud[inside], D).max()) if inside.any() else 0.0
    return found, found


def _refuse_center(center: Any) -> None:
    if center is not None:
        raise ValueError(
            "The 'center' parameter must be given with a radius, and only then."
        )


def pompeiu_hausdorff(
    C: Any,
    D: Any,
    *,
    radius: float | None = None,
    center: Any = None,
    align: Any = False,
) -> float:
    r"""Pompeiu-Hausdorff distance :math:`\max(e(C, D), e(D, C))`.

    Parameters
    ----------
    C, D : array-like of shape (n_points, n_dims) or SolutionSet
        See `excess`.

    radius : float, default=None
        Cut the set that sticks out at U, the balls of this Euclidean radius around the
        centres: :math:`\max(e(C \cap U, D), e(D \cap U, C))`, the truncated distance
        of Rockafellar and Wets.

    center : array-like of shape (n_dims,) or (n_centers, n_dims), or SolutionSet, \
            default=None
        Centres of U; None for the solutions of both sets.

    align : bool or NetworkSymmetry, default=False
        As in `distance_to_set`; not with a radius (see `SolutionSet.aligned_to`).

    Returns
    -------
    distance : float
        Euclidean; with a radius as exact as `excess`.

    References
    ----------
    R. T. Rockafellar, R. J.-B. Wets, "Variational Analysis" (1998), Section 4.C.

    Examples
    --------
    >>> from sksetsens.metrics import pompeiu_hausdorff
    >>> pompeiu_hausdorff([[0.0], [1.0]], [[0.0]])
    1.0
    """
    first, second = _points("C", C), _points("D", D)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The 'D' parameter must have {first.shape[1]} columns, as C has. Got "
            f"{second.shape[1]} instead."
        )
    if radius is not None and center is None:
        center = np.concatenate([first, second])
    symmetry = _symmetry(align, C, D)
    options = {"radius": radius, "center": center, "align": symmetry or False}
    return max(excess(C, D, **options), excess(D, C, **options))
