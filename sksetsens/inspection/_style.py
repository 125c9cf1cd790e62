"""Colours, markers and axes that all displays share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._compat import check_matplotlib_support

__all__ = [
    "BLACK",
    "BLUE",
    "COLORS",
    "GREEN",
    "GREY",
    "MARKERS",
    "ORANGE",
    "VERMILLION",
    "check_solution",
    "drawing_axes",
    "spans_decades",
]

# Okabe and Ito (2008), told apart with any colour vision; markers, line styles and
# hatches say the same in black and white.
BLACK, BLUE, VERMILLION = "#000000", "#0072B2", "#D55E00"
GREEN, ORANGE, PURPLE, SKY = "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY = "0.45"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

# Ratio of largest to smallest from which an axis is logarithmic.
_DECADES = 50.0


def drawing_axes(ax: Any, display: Any, **figure: Any) -> Any:
    """The axes given, or those of a new figure, with its settings.

    Raises
    ------
    ImportError
        If matplotlib is not installed, with how to install it.
    """
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(layout="constrained", **figure)
    return ax


def spans_decades(*values: ArrayLike | None) -> bool:
    """Whether the finite values are all positive and differ by orders of magnitude."""
    known = [np.ravel(v) for v in values if v is not None]
    joined = np.concatenate([v[np.isfinite(v)] for v in known])
    if not joined.size or joined.min() <= 0.0:
        return False
    return bool(joined.max() > _DECADES * joined.min())


def check_solution(owner: str, solution: Any, n_solutions: int) -> int:
    """A position as an integer, or an error that names the range."""
    is_integer = isinstance(solution, (int, np.integer))
    if not is_integer or isinstance(solution, bool) or not 0 <= solution < n_solutions:
        raise ValueError(
            f"The 'solution' parameter of {owner} must be an integer from 0 to "
            f"{n_solutions - 1}. Got {solution!r} instead."
        )
    return int(solution)
