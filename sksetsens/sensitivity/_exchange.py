"""A solution on kinks followed to other data, one exchange of kinks after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._breaks import first_break
from ._graphical_derivative import GraphicalDerivative

__all__ = ["across_breaks", "beyond_break"]

Array = NDArray[np.float64]

# Share of the way to a break by which a step goes beyond it, and share of the whole way
# where two breaks lie together.
_BEYOND, _AT_LEAST = 1e-4, 1e-7
_MAX_BREAKS = 200


def beyond_break(t: float) -> float:
    """A share of the perturbation just beyond a break at t."""
    return t * (1.0 + _BEYOND) + _AT_LEAST


def _moved_data(
    gd: GraphicalDerivative, dX: Any, dy: Any, t: float
) -> tuple[Array, NDArray[Any] | None]:
    """Data at the share t of a perturbation of those of a solution."""
    y = None if dy is None else gd.objective.targets + t * dy
    return gd.objective.inputs + t * dX, y


def across_breaks(
    gd: GraphicalDerivative, dX: Any, dy: Any = None, *, max_breaks: int | None = None
) -> tuple[GraphicalDerivative | None, int]:
    """The derivative at the solution that this one moves to, kinks exchanged.

    Each step goes to where the first kink joins or leaves, or to the end, and Newton on
    K solves for the kinks that hold there (a parametric active-set method).

    Parameters
    ----------
    gd : GraphicalDerivative
    dX, dy : ndarray
        The perturbation.
    max_breaks : int, default=None
        None for 200.

    Returns
    -------
    derivative : GraphicalDerivative or None
        None where the solution could not be followed: a concave kink ends its branch.
    n_breaks : int
    """
    here, t, n_breaks = gd, 0.0, 0
    limit = _MAX_BREAKS if max_breaks is None else max_breaks
    while n_breaks <= limit:
        shift = here(dX, dy).shift
        if not np.isfinite(shift).all():
            return None, n_breaks
        way = first_break(here, shift, dX, dy)
        step = beyond_break(way)
        arrives = step >= 1.0 - t
        step = 1.0 - t if arrives else step
        n_breaks += not arrives
        t = 1.0 if arrives else t + step
        objective = gd.objective.with_data(*_moved_data(gd, dX, dy, t))
        there = here.on_other_kinks(objective, here.weights + step * shift)
        if there is None:
            return None, n_breaks
        here = there
        if arrives:
            return here, n_breaks
    return None, n_breaks
