"""Original, predicted and retrained solutions over the loss landscape in a plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._compat import check_matplotlib_support
from .._validation import check_count, check_positive, unwrap
from ..objective import Objective
from ..sets import PredictedSolutionSet, SolutionSet
from ._plane import Plane, choose_plane
from ._style import BLACK, BLUE, VERMILLION, check_solution, drawing_axes, spans_decades

__all__ = ["SolutionSetDisplay"]

Array = NDArray[np.float64]

_N_LEVELS = 12
# Decades of the landscape that its colours tell apart, from the highest value down.
_DECADES = 6
# Half-width of the picture over that of the points in it.
_MARGIN = 1.6
# Length of the drawn half of a local set over the picture's half-width: of one, or of
# several, which would hide each other.
_SEGMENT, _SEGMENTS = 0.45, 0.2
# Share of the grid below the lowest level of a logarithmic landscape. Valleys thinner
# than a cell are sampled anywhere between their floor and their sides.
_VALLEY = 0.03


class SolutionSetDisplay:
    """Solutions before and after a perturbation, over the loss that they moved into.

    The landscape is the training objective on the PERTURBED data in a plane of weight
    space. It is recommended to use `from_estimator` or `from_solution_sets`.

    Parameters
    ----------
    x, y : ndarray of shape (n_columns,) and (n_rows,)
        Coordinates of the grid.

    landscape : ndarray of shape (n_rows, n_columns)
        Objective on the perturbed data, penalty included (tilted where
        ``polish=False``).

    original, predicted : ndarray of shape (n_shown, 2)
        Coordinates of the solutions; NaN where the predicted set is empty.

    retrained : ndarray of shape (n_retrained, 2), default=None

    segments : ndarray of shape (n_segments, 2, 2), default=()
        End points of the pieces ``w + v0 + ker H`` within the plane: their drawn part.

    off_plane : dict of str to float, default=None
        Largest Euclidean distance from the plane of the solutions drawn, by the names
        "original", "predicted" and "retrained": markers are projections.

    axis_labels : tuple of (str, str), default=("", "")

    title : str, default=""

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    contours_ : matplotlib QuadContourSet
    colorbar_ : matplotlib Colorbar or None
    original_, predicted_, retrained_ : matplotlib PathCollection
        Markers; ``retrained_`` is None without retraining.
    segments_ : matplotlib LineCollection
        The local affine sets.
    shifts_ : matplotlib LineCollection
        From the original to the predicted solutions.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Figures 3 and 4.

    H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape
    of Neural Nets", NeurIPS 2018, arXiv 1712.09913.
    """

    def __init__(
        self,
        *,
        x: Array,
        y: Array,
        landscape: Array,
        original: Array,
        predicted: Array,
        retrained: Array | None = None,
        segments: Any = (),
        off_plane: dict[str, float] | None = None,
        axis_labels: tuple[str, str] = ("", ""),
        title: str = "",
    ) -> None:
        self.x, self.y, self.landscape = x, y, landscape
        self.original, self.predicted = original, predicted
        self.retrained, self.segments = retrained, segments
        self.off_plane = off_plane
        self.axis_labels, self.title = axis_labels, title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X_perturbed: Any = None,
        y_perturbed: Any = None,
        *,
        retrain: bool = True,
        n_corrections: int = 0,
        solution: int = 0,
        directions: Any = "auto",
        grid_resolution: int = 41,
        span: float | None = None,
        radius: float | None = None,
        random_state: Any = 0,
        ax: Any = None,
        **plot_params: Any,
    ) -> SolutionSetDisplay:
        """Predict, retrain and draw.

        Parameters
        ----------
        estimator : SolutionSetEstimator, Pipeline or search
            Fitted.

        X_perturbed, y_perturbed : array-like, default=None
            As in `SolutionSetEstimator.sensitivity`; None for what `perturb` makes.

        retrain : bool, default=True
            Whether to retrain, from the old weights, and draw that too.

        n_corrections : int, default=0
            As in `SolutionSetEstimator.sensitivity`.

        solution, directions, grid_resolution, span, radius, random_state
            As in `from_solution_sets`.

        ax : matplotlib Axes, default=None
            None for a new figure.

        **plot_params
            Of `plot`.

        Returns
        -------
        display : SolutionSetDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        final, X_perturbed = unwrap(estimator, X_perturbed, caller=cls.__name__)
        check_is_fitted(final)
        if X_perturbed is None:
            X_perturbed = final.perturb()
        changed = (X_perturbed, y_perturbed)
        predicted = final.sensitivity(*changed, n_corrections=n_corrections)
        retrained = final.retrain(*changed) if retrain else None
        return cls.from_solution_sets(
            predicted,
            retrained,
            solution=solution,
            directions=directions,
            grid_resolution=grid_resolution,
            span=span,
            radius=radius,
            random_state=random_state,
            ax=ax,
            **plot_params,
        )

    @classmethod
    def from_solution_sets(
        cls,
        predicted: PredictedSolutionSet,
        retrained: SolutionSet | None = None,
        *,
        solution: int = 0,
        directions: Any = "auto",
        grid_resolution: int = 41,
        span: float | None = None,
        radius: float | None = None,
        random_state: Any = 0,
        ax: Any = None,
        **plot_params: Any,
    ) -> SolutionSetDisplay:
        """Draw a predicted set, and a retrained one.

        Parameters
        ----------
        predicted : PredictedSolutionSet

        retrained : SolutionSet, default=None
            From a warm start: element i continues solution i.

        solution : int, default=0
            The solution that the plane goes through.

        directions : {"auto", "weights", "shift", "filter", "solutions"} or array-like \
                of shape (2, n_params), default="auto"
            What spans the plane. "weights": the axes, of a net of two weights, with all
            solutions. "shift": the shift and a direction of ker H, the one that
            retraining took if that is known; a random one where H is nonsingular.
            "filter": two random directions, filter-normalised (Li et al. 2018).
            "solutions": through three solutions. "auto" is "weights" or "shift", and
            "filter" where there is no shift.

        grid_resolution : int, default=41
            Points per axis: the objective is evaluated at its square.

        span : float, default=None
            Half-width of the picture, a Euclidean distance in weight space; None for
            one that shows all markers ("filter": the norm of the directions).

        radius : float, default=None
            Euclidean length to which the local sets are drawn to both sides; None for
            about half of the span.

        random_state : int, RandomState instance or None, default=0
            Draws random directions.

        ax : matplotlib Axes, default=None
            None for a new figure.

        **plot_params
            Of `plot`.

        Returns
        -------
        display : SolutionSetDisplay

        Raises
        ------
        ValueError
            If a parameter has no meaning, the directions span no plane, or the set was
            loaded without a net.
        """
        owner = cls.__name__
        if not isinstance(predicted, PredictedSolutionSet):
            raise ValueError(
                f"The 'predicted' parameter of {owner} must be a PredictedSolutionSet. "
                f"Got {type(predicted).__name__} instead."
            )
        i = check_solution(owner, solution, len(predicted))
        check_count(owner, "grid_resolution", grid_resolution, low=2)
        for name, value in (("span", span), ("radius", radius)):
            if value is not None:
                check_positive(owner, name, value)
        objective = predicted._objectives("be drawn")[i]
        rng = check_random_state(random_state)
        plane = choose_plane(predicted, retrained, directions, i, rng)
        sets = {"original": predicted.base, "predicted": predicted}
        if retrained is not None:
            sets["retrained"] = retrained
        weights = {name: _shown(s, plane.shown) for name, s in sets.items()}
        points = {name: plane.coordinates(w) for name, w in weights.items()}
        center, half = _frame(plane, np.concatenate(list(points.values())), span)
        x, y = center[:, None] + half * np.linspace(-1.0, 1.0, grid_resolution)
        share = _SEGMENT if len(plane.shown) == 1 else _SEGMENTS
        reach = share * half if radius is None else radius
        display = cls(
            x=x,
            y=y,
            landscape=_landscape(objective, plane, x, y),
            **points,
            segments=_segments(plane, predicted, points["predicted"], reach),
            off_plane={name: _farthest(plane, w) for name, w in weights.items()},
            axis_labels=plane.labels,
            title=plane.title,
        )
        return display.plot(ax, **plot_params)

    def plot(
        self,
        ax: Any = None,
        *,
        cmap: str = "Greys",
        colorbar: bool = True,
        legend: bool = True,
    ) -> SolutionSetDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        cmap : str or matplotlib Colormap, default="Greys"
            Of the landscape: dark is high.

        colorbar : bool, default=True

        legend : bool, default=True
            Below the axes.

        Returns
        -------
        display : SolutionSetDisplay
        """
        ax = drawing_axes(ax, self, figsize=(6.0, 5.6))
        self._draw_landscape(ax, cmap, colorbar)
        self._draw_lines(ax)
        self.original_ = self._draw_points(ax, "original", BLACK, "o")
        self.predicted_ = self._draw_points(ax, "predicted", BLUE, "D")
        self.retrained_ = None
        if self.retrained is not None:
            self.retrained_ = self._draw_points(ax, "retrained", VERMILLION, "s")
        ax.set(
            xlim=(self.x[0], self.x[-1]),
            ylim=(self.y[0], self.y[-1]),
            aspect="equal",
            xlabel=self.axis_labels[0],
            ylabel=self.axis_labels[1],
        )
        ax.set_title(self.title, fontsize="medium")
        if legend:
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
            ax.legend(**place, ncols=2, fontsize="small", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_landscape(self, ax: Any, cmap: Any, colorbar: bool) -> None:
        levels, norm = _levels(self.landscape)
        style = {"levels": levels, "norm": norm}
        grid = (self.x, self.y, np.ma.masked_invalid(self.landscape))
        is_log = spans_decades(levels)
        self.contours_ = ax.contourf(
            *grid, cmap=cmap, alpha=0.6, extend="min" if is_log else "neither", **style
        )
        # The lowest lines run along valleys thinner than a cell, in beads.
        lines = levels[2:] if is_log else levels
        ax.contour(*grid, levels=lines, colors="0.5", linewidths=0.4)
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = ax.figure.colorbar(
                self.contours_,
                # Inside the axes' own box, whose height follows the equal aspect.
                cax=ax.inset_axes((1.03, 0.0, 0.045, 1.0)),
                format="%.2g" if is_log else None,
                label="training objective\non the perturbed data",
            )

    def _draw_lines(self, ax: Any) -> None:
        from matplotlib.collections import LineCollection

        segments = np.reshape(self.segments, (-1, 2, 2))
        width = 2.5 if len(self.predicted) == 1 else 1.5
        self.segments_ = LineCollection(list(segments), colors=BLUE, linewidths=width)
        if len(segments):
            self.segments_.set_label("predicted set, $w + v_0 + \\ker H$")
        shifts = np.stack([self.original, self.predicted], axis=1)
        self.shifts_ = LineCollection(list(shifts), colors=BLUE, linewidths=1, ls=":")
        for lines in (self.segments_, self.shifts_):
            ax.add_collection(lines, autolim=False)

    def _draw_points(self, ax: Any, name: str, color: str, marker: str) -> Any:
        points = getattr(self, name)
        is_open = name == "retrained"
        off = (self.off_plane or {}).get(name, 0.0)
        # Rounding of a projection is no distance; anything that can be seen is.
        width = self.x[-1] - self.x[0]
        note = f" ({off:.2g} off the plane)" if off > 1e-6 * width else ""
        empty = int(np.isnan(points).any(axis=1).sum())
        note += f" ({empty} empty)" if empty else ""
        return ax.scatter(
            *points.T,
            s=70 if is_open else 34,
            marker=marker,
            facecolors="none" if is_open else color,
            edgecolors=color if is_open else "white",
            linewidths=1.8 if is_open else 0.6,
            zorder=4 if is_open else 3,
            label=name + note,
        )


def _shown(solutions: SolutionSet, shown: list[int]) -> Array:
    return solutions.weights[[i for i in shown if i < len(solutions)]]


def _farthest(plane: Plane, weights: Array) -> float:
    distances = plane.distance(weights)
    return float(np.max(distances[np.isfinite(distances)], initial=0.0))


def _frame(plane: Plane, points: Array, span: float | None) -> tuple[Array, float]:
    """Centre and half-width of the picture."""
    known = points[np.isfinite(points).all(axis=1)]
    low, high = known.min(axis=0), known.max(axis=0)
    # What has a width of its own is centred on its solution.
    center = np.zeros(2) if plane.reach else 0.5 * (low + high)
    half = max(_MARGIN * 0.5 * float((high - low).max()), plane.reach)
    return center, span if span is not None else half or 1.0


def _landscape(objective: Objective, plane: Plane, x: Array, y: Array) -> Array:
    def value(w: Array) -> float:
        # What a tilted solution is stationary for has a linear term.
        if objective.is_tilted:
            return objective.value_and_gradient(w)[0]
        return objective.loss(w)

    return np.array([[value(plane.point(np.array([u, v]))) for u in x] for v in y])


def _segments(
    plane: Plane, predicted: PredictedSolutionSet, points: Array, reach: float
) -> Array:
    """End points of each piece's drawn part; two crossing lines of a whole plane."""
    ends = [
        [point - reach * direction, point + reach * direction]
        for i, point in zip(plane.shown, points, strict=True)
        if not predicted.is_empty[i]
        for direction in plane.part_in(predicted.kernels[i])
    ]
    return np.reshape(ends, (-1, 2, 2))


def _levels(landscape: Array) -> tuple[Array, Any]:
    """Levels of the contours, and how values become shades."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    known = landscape[np.isfinite(landscape)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if spans_decades(known):
        floor = max(np.quantile(known, _VALLEY), high * 10.0**-_DECADES)
        return np.geomspace(floor, high, _N_LEVELS), LogNorm(floor, high)
    if low == high:
        high = low + max(abs(low), 1.0)
    levels = np.asarray(MaxNLocator(_N_LEVELS).tick_values(low, high))
    return levels, Normalize(levels[0], levels[-1])
