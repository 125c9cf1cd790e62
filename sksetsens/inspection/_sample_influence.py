"""Which rows of the training data help and harm, with the spread over solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._compat import check_matplotlib_support
from .._validation import check_count
from ..studies import SampleInfluence, sample_influence
from ._style import BLACK, BLUE, GREY, VERMILLION, drawing_axes

__all__ = ["SampleInfluenceDisplay"]

Array = NDArray[np.float64]


class SampleInfluenceDisplay:
    """The rows whose removal changes a value most, up and down.

    It is recommended to use `from_estimator` or `from_influence`.

    Parameters
    ----------
    values : ndarray of shape (n_solutions, n_removals)
        Value after the removal minus value before.

    trustworthy : ndarray of bool of shape (n_solutions, n_removals)

    names : list of str
        Of the removals.

    what : str
        What the value is.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer
        Mean over the solutions.
    points_ : matplotlib PathCollection
        Each solution's own value; hollow where it is not trusted.
    shown_ : ndarray of int
        Removals in the order in which they are drawn, from below.
    """

    def __init__(
        self,
        *,
        values: Array,
        trustworthy: NDArray[np.bool_],
        names: list[str],
        what: str,
    ) -> None:
        self.values, self.trustworthy = values, trustworthy
        self.names, self.what = names, what

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        of: str = "loss",
        samples: Any = None,
        groups: Any = None,
        method: str = "auto",
        output: int | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> SampleInfluenceDisplay:
        """Draw the rows that matter most for a point, or for a data set on average.

        Parameters
        ----------
        estimator : SolutionSetEstimator, Pipeline or search
            Fitted.

        X : array-like of shape (n_points, ...)
        y : array-like of shape (n_points,), default=None
            Points, over which values are averaged.

        of, samples, groups, method
            As in `sample_influence`.

        output : int, default=None
            Output of a prediction that has several: the class whose probability is
            meant.

        ax : matplotlib Axes, default=None

        **plot_params
            Of `plot`.

        Returns
        -------
        display : SampleInfluenceDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        found = sample_influence(
            estimator, X, y, of=of, samples=samples, groups=groups, method=method
        )
        what = "loss" if of == "loss" else "prediction"
        return cls.from_influence(found, what=what, output=output, ax=ax, **plot_params)

    @classmethod
    def from_influence(
        cls,
        influence: SampleInfluence,
        *,
        what: str = "value",
        output: int | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> SampleInfluenceDisplay:
        """Draw what `sample_influence` has found, averaged over its points.

        Parameters
        ----------
        influence : SampleInfluence
        what : str, default="value"
            What the value is, for the axis.
        output : int, default=None
            Output of a prediction that has several.
        ax : matplotlib Axes, default=None
        **plot_params
            Of `plot`.

        Returns
        -------
        display : SampleInfluenceDisplay

        Raises
        ------
        ValueError
            If a prediction has several outputs and none is chosen.
        """
        values = influence.values
        if values.ndim == 4:
            if output is None or not 0 <= output < values.shape[-1]:
                raise ValueError(
                    f"The 'output' parameter of {cls.__name__} must be an integer from "
                    f"0 to {values.shape[-1] - 1}: which of the outputs is meant. Got "
                    f"{output!r} instead."
                )
            values = values[..., output]
        if values.ndim == 3:
            values = values.mean(axis=1)
        names = [
            str(rows[0]) if len(rows) == 1 else f"{len(rows)} rows from {rows[0]}"
            for rows in influence.samples
        ]
        display = cls(
            values=values, trustworthy=influence.trustworthy, names=names, what=what
        )
        return display.plot(ax, **plot_params)

    def plot(self, ax: Any = None, *, n_shown: int = 10) -> SampleInfluenceDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        n_shown : int, default=10
            Rows in all: half of them those that raise the value most when they are left
            out, half those that lower it most.

        Returns
        -------
        display : SampleInfluenceDisplay
        """
        check_count(type(self).__name__, "n_shown", n_shown, low=1)
        ax = drawing_axes(ax, self)
        mean = self.values.mean(axis=0)
        order = np.argsort(np.where(np.isfinite(mean), mean, 0.0))
        half = min(len(order), n_shown) // 2
        rest = min(len(order), n_shown) - half
        self.shown_ = np.concatenate([order[:half], order[len(order) - rest :]])
        heights = np.arange(len(self.shown_))
        colors = np.where(mean[self.shown_] > 0.0, BLUE, VERMILLION)
        self.bars_ = ax.barh(heights, mean[self.shown_], color=colors, alpha=0.45)
        shown = self.values[:, self.shown_]
        sure = self.trustworthy[:, self.shown_]
        at = np.broadcast_to(heights, shown.shape)
        faces = np.where(sure.ravel(), BLACK, "none")
        self.points_ = ax.scatter(
            shown.ravel(), at.ravel(), s=14, facecolors=faces, edgecolors=BLACK
        )
        ax.axvline(0.0, color=GREY, linewidth=0.8)
        ax.set_yticks(heights, [self.names[i] for i in self.shown_])
        ax.set_xlabel(f"change of the {self.what} where the row is left out")
        ax.set_ylabel("row of the training data")
        n = len(self.values)
        told = f"bars: mean over {n} solutions; points: each of them"
        if not sure.all():
            told += " (hollow: not trusted)"
        ax.set_title(told, fontsize="small", loc="left")
        self.ax_, self.figure_ = ax, ax.figure
        return self
