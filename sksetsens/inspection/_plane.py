"""Planes of weight space, in which solutions and their landscape are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective
from ..sets import PredictedSolutionSet, SolutionSet

__all__ = ["DIRECTIONS", "Plane", "choose_plane", "filter_directions"]

Array = NDArray[np.float64]

DIRECTIONS = ("auto", "weights", "shift", "filter", "solutions")

# Squared cosine of the angle to ker H above which a direction of the plane lies in it;
# kernels from iterative solves are known to 1e-8 and a little more.
_IN_KERNEL = 1.0 - 1e-6
# Share of a direction that must be left beside the first one to span a plane with it.
_INDEPENDENT = 1e-6
_DISTANCE = "Euclidean distance in weight space"


@dataclass(frozen=True)
class Plane:
    """A plane of weight space in orthonormal coordinates.

    Attributes
    ----------
    origin : ndarray of shape (n_params,)
    basis : ndarray of shape (2, n_params)
        Orthonormal rows, so that coordinates are Euclidean distances.
    directions : ndarray of shape (2, n_params)
        What spans it, before orthonormalisation.
    shown : list of int
        Solutions that belong in its picture.
    labels : tuple of (str, str)
        Of its axes.
    title : str
    reach : float
        Half-width that its picture has by itself; 0 where the points drawn decide.
    """

    origin: Array
    basis: Array
    directions: Array
    shown: list[int]
    labels: tuple[str, str]
    title: str
    reach: float = 0.0

    def coordinates(self, points: Array) -> Array:
        """Coordinates of the projections of points, shape (..., 2)."""
        return (points - self.origin) @ self.basis.T

    def distance(self, points: Array) -> Array:
        """Euclidean distance of points from the plane."""
        across = points - self.origin - self.coordinates(points) @ self.basis
        return np.linalg.norm(across, axis=-1)

    def point(self, coordinates: Array) -> Array:
        """Weights at coordinates in the last axis."""
        return self.origin + coordinates @ self.basis

    def part_in(self, kernel: Any) -> Array:
        """Orthonormal directions of the plane within a subspace, shape (k, 2)."""
        cosines, vectors = np.linalg.eigh(self.basis @ kernel.project(self.basis).T)
        return vectors.T[cosines > _IN_KERNEL]


def choose_plane(
    predicted: PredictedSolutionSet,
    retrained: SolutionSet | None,
    directions: Any,
    i: int,
    rng: np.random.RandomState,
) -> Plane:
    """The plane that ``directions`` asks for, through solution i.

    Parameters
    ----------
    predicted : PredictedSolutionSet
    retrained : SolutionSet or None
    directions : {"auto", "weights", "shift", "filter", "solutions"} or array-like
    i : int
    rng : RandomState

    Returns
    -------
    plane : Plane

    Raises
    ------
    ValueError
        If the directions do not exist or span no plane.
    """
    n_params = predicted.weights.shape[1]
    if n_params < 2:
        raise ValueError(
            "SolutionSetDisplay draws planes, and needs a net of at least 2 weights. "
            "Got 1 weight."
        )
    if not isinstance(directions, str):
        return _given(predicted, directions, i)
    if directions not in DIRECTIONS:
        raise ValueError(
            f"The 'directions' parameter of SolutionSetDisplay must be one of "
            f"{DIRECTIONS}, or an array of shape (2, {n_params}). Got {directions!r} "
            "instead."
        )
    if directions == "auto":
        directions = "weights" if n_params == 2 else "shift"
        has_shift = bool(np.any(predicted.shift[i])) and not predicted.is_empty[i]
        if directions == "shift" and not has_shift:
            directions = "filter"
    makers = {
        "weights": lambda: _all_weights(predicted),
        "shift": lambda: _along_shift(predicted, retrained, i, rng),
        "filter": lambda: _random(predicted, i, rng),
        "solutions": lambda: _through_solutions(predicted, i),
    }
    return makers[directions]()


def filter_directions(
    objective: Objective, weights: Array, n: int, rng: np.random.RandomState
) -> Array:
    """Random directions with the norms of the weights, filter by filter.

    A filter is what makes one output channel, or one unit. Biases, the parameters of
    normalisation layers and other vectors do not move.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
    n : int
    rng : RandomState

    Returns
    -------
    directions : ndarray of shape (n, n_params)

    References
    ----------
    H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape
    of Neural Nets", NeurIPS 2018, arXiv 1712.09913, Section 4.
    """
    shapes = {name: p.shape for name, p in objective.module.named_parameters()}
    directions = np.zeros((n, weights.size))
    for name, part in objective.parameter_slices.items():
        shape = shapes.get(name, ())
        if len(shape) < 2:
            continue
        filters = weights[part].reshape(shape[0], -1)
        drawn = rng.standard_normal((n, *filters.shape))
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
        drawn *= np.linalg.norm(filters, axis=1)[:, None]
        directions[:, part] = drawn.reshape(n, -1)
    if not directions.any(axis=1).all():
        raise ValueError(
            "The 'directions' parameter of SolutionSetDisplay must not be 'filter' for "
            "a net without weight matrices or filters that differ from zero. Use "
            "'shift', 'solutions' or an array of two directions."
        )
    return directions


def _orthonormal(directions: Array) -> Array:
    """Gram-Schmidt on two directions.

    Raises
    ------
    ValueError
        If they are parallel, or one is zero.
    """
    first, second = directions
    lengths = np.linalg.norm(directions, axis=1)
    if lengths.all() and np.isfinite(directions).all():
        e1 = first / lengths[0]
        across = second - (second @ e1) * e1
        # Twice: cancellation leaves a part along the first.
        across = across - (across @ e1) * e1
        if np.linalg.norm(across) > _INDEPENDENT * lengths[1]:
            return np.stack([e1, across / np.linalg.norm(across)])
    raise ValueError(
        "The 'directions' parameter of SolutionSetDisplay must span a plane: two "
        f"finite directions that are not parallel. Got norms {lengths.tolist()}."
    )


def _all_weights(predicted: PredictedSolutionSet) -> Plane:
    n_params = predicted.weights.shape[1]
    if n_params != 2:
        raise ValueError(
            "The 'directions' parameter of SolutionSetDisplay must not be 'weights' "
            f"for a net of {n_params} weights: only two fill a plane. Use 'shift'."
        )
    names = [
        name if part.stop - part.start == 1 else f"{name}[{k}]"
        for name, part in predicted._objectives("be drawn")[0].parameter_slices.items()
        for k in range(part.stop - part.start)
    ]
    return Plane(
        np.zeros(2),
        np.eye(2),
        np.eye(2),
        list(range(len(predicted))),
        (f"weight {names[0]}", f"weight {names[1]}"),
        "Solutions in the plane of the two weights",
    )


def _along_shift(
    predicted: PredictedSolutionSet,
    retrained: SolutionSet | None,
    i: int,
    rng: np.random.RandomState,
) -> Plane:
    shift = predicted.shift[i]
    if predicted.is_empty[i] or not shift.any():
        raise ValueError(
            "The 'directions' parameter of SolutionSetDisplay must not be 'shift' "
            f"where solution {i} has none (an empty predicted set, or no movement). "
            "Use 'filter' or 'solutions'."
        )
    second = _along_kernel(predicted, retrained, i, rng)
    name = "along ker H"
    if second is None:
        objective, w = predicted._objectives("be drawn")[i], predicted.base.weights[i]
        second = filter_directions(objective, w, 1, rng)[0]
        name = "along a random direction"
    directions = np.stack([shift, second])
    return Plane(
        predicted.base.weights[i],
        _orthonormal(directions),
        directions,
        [i],
        (f"along the shift ({_DISTANCE})", f"{name}\n({_DISTANCE})"),
        f"Plane through solution {i}:\nits shift and "
        + ("a direction of ker H" if name == "along ker H" else "a random direction"),
    )


def _along_kernel(
    predicted: PredictedSolutionSet,
    retrained: SolutionSet | None,
    i: int,
    rng: np.random.RandomState,
) -> Array | None:
    """A direction of ker H, where retraining went if known; None without a kernel."""
    kernel, shift = predicted.kernels[i], predicted.shift[i]
    if not kernel.dim:
        return None
    seeds = [rng.standard_normal(shift.size)]
    if retrained is not None and len(retrained) == len(predicted):
        seeds.insert(0, retrained.weights[i] - predicted.weights[i])
    for seed in seeds:
        along = kernel.project(seed)
        across = along - (along @ shift) / (shift @ shift) * shift
        # What is left of a seed that lies across ker H is rounding.
        if np.linalg.norm(across) > _INDEPENDENT * np.linalg.norm(seed):
            return along
    return None


def _random(
    predicted: PredictedSolutionSet, i: int, rng: np.random.RandomState
) -> Plane:
    objective, w = predicted._objectives("be drawn")[i], predicted.base.weights[i]
    directions = filter_directions(objective, w, 2, rng)
    return Plane(
        w,
        _orthonormal(directions),
        directions,
        [i],
        (f"first direction ({_DISTANCE})", f"second direction\n({_DISTANCE})"),
        f"Plane through solution {i}:\ntwo random filter-normalised directions",
        reach=float(np.linalg.norm(directions, axis=1).max()),
    )


def _through_solutions(predicted: PredictedSolutionSet, i: int) -> Plane:
    weights, n = predicted.base.weights, len(predicted)
    if n < 3:
        raise ValueError(
            "The 'directions' parameter of SolutionSetDisplay must not be 'solutions' "
            f"with fewer than three of them. Got {n}: raise n_restarts, or use 'shift'."
        )
    shown = [(i + k) % n for k in range(3)]
    directions = weights[shown[1:]] - weights[i]
    return Plane(
        weights[i],
        _orthonormal(directions),
        directions,
        shown,
        (f"towards solution {shown[1]} ({_DISTANCE})", f"across\n({_DISTANCE})"),
        f"Plane through solutions {shown[0]}, {shown[1]} and {shown[2]}",
    )


def _given(predicted: PredictedSolutionSet, directions: Any, i: int) -> Plane:
    try:
        given = np.asarray(directions, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.empty(0)
    expected = (2, predicted.weights.shape[1])
    if given.shape != expected:
        raise ValueError(
            f"The 'directions' parameter of SolutionSetDisplay must be one of "
            f"{DIRECTIONS}, or an array of shape {expected}. Got {directions!r} "
            "instead."
        )
    return Plane(
        predicted.base.weights[i],
        _orthonormal(given),
        given,
        [i],
        (f"first direction ({_DISTANCE})", f"second direction\n({_DISTANCE})"),
        f"Plane through solution {i}:\ngiven directions",
    )
