"""Lipschitz moduli by layer, row, feature or group, one marker per solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._compat import check_matplotlib_support
from .._validation import check_choice, check_count, unwrap
from ..moduli import lipschitz_modulus
from ._style import COLORS, GREY, MARKERS, drawing_axes, spans_decades

__all__ = ["LipschitzModulusDisplay"]

Array = NDArray[np.float64]

_LEVELS = ("layer", "sample", "feature", "group")
_PARTS = {"layer": "layers", "sample": "rows", "feature": "features", "group": "groups"}
_TITLES = {
    "layer": "All data moves, one layer answers",
    "sample": "One row moves",
    "feature": "One feature moves, in all rows",
    "group": "One group of rows moves",
}
_TOP_ROWS = 20
_LEGEND_MAX = 8
# Height of a row of the picture within which its solutions' markers are spread.
_SPREAD = 0.7
# Where arrows lie, in axes fractions.
_EDGE = 0.985


class LipschitzModulusDisplay:
    """How far the weights move per unit of perturbation, part by part.

    Parts are sorted, the most fragile on top. Infinite moduli are arrows at the right
    edge, and named; unknown ones (NaN) are named.

    Parameters
    ----------
    moduli : array-like of shape (n_solutions, n_parts)
        Euclidean movement of the weights per Frobenius norm of the perturbation.

    names : sequence of str of length n_parts

    level : {"layer", "sample", "feature", "group"}

    top_k : int, default=None
        Number of parts to draw; None for 20 rows, and for all of other parts. Infinite
        moduli of a solution that has finite ones are drawn beyond it.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    order_ : ndarray of int of shape (n_drawn,)
        The parts drawn, from the top.
    markers_ : list of matplotlib Line2D
        Finite moduli of each solution, one y per part in `order_`.
    arrows_ : list of matplotlib Line2D
        Infinite moduli of each solution, at the right edge (x in axes fractions).
    """

    def __init__(
        self,
        *,
        moduli: Any,
        names: Sequence[str],
        level: str,
        top_k: int | None = None,
    ) -> None:
        self.moduli = np.atleast_2d(np.asarray(moduli, dtype=np.float64))
        self.names, self.level, self.top_k = list(names), level, top_k

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        level: str = "feature",
        method: str = "coderivative",
        groups: Any = None,
        feature_names: Sequence[str] | None = None,
        top_k: int | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> LipschitzModulusDisplay:
        """Compute the moduli by `lipschitz_modulus` and draw them.

        Parameters
        ----------
        estimator : SolutionSetEstimator, Pipeline or search
            Fitted.

        level : {"layer", "sample", "feature", "group"}, default="feature"

        method, groups
            As in `lipschitz_modulus`.

        feature_names : sequence of str, default=None
            One per feature, for ``level="feature"``; None for those of the data that
            the estimator was fitted on.

        top_k : int, default=None
            As in the class.

        ax : matplotlib Axes, default=None
            None for a new figure.

        **plot_params
            Of `plot`.

        Returns
        -------
        display : LipschitzModulusDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_choice(cls.__name__, "level", level, _LEVELS)
        final, _ = unwrap(estimator, caller=cls.__name__)
        moduli = lipschitz_modulus(final, level=level, method=method, groups=groups)
        names = _names(final, level, groups, feature_names, moduli.shape[1])
        display = cls(moduli=moduli, names=names, level=level, top_k=top_k)
        return display.plot(ax, **plot_params)

    def plot(self, ax: Any = None, *, legend: bool = True) -> LipschitzModulusDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure, whose height follows the number of parts.

        legend : bool, default=True
            Names of the solutions.

        Returns
        -------
        display : LipschitzModulusDisplay
        """
        self._check()
        is_new = ax is None
        ax = drawing_axes(ax, self)
        self.order_ = self._order()
        drawn = self.moduli[:, self.order_]
        if is_new:
            height = 0.2 + 0.06 * min(len(drawn), _LEGEND_MAX)
            ax.figure.set_figheight(max(2.4, 1.4 + height * len(self.order_)))
        self._prepare(ax, drawn)
        self.markers_ = [self._draw(ax, i, v) for i, v in enumerate(drawn)]
        self.arrows_ = [self._draw_infinite(ax, i, v) for i, v in enumerate(drawn)]
        self._limit(ax, drawn)
        if legend and len(drawn) > 1:
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
            ax.legend(**place, fontsize="small", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _check(self) -> None:
        check_choice(type(self).__name__, "level", self.level, _LEVELS)
        if self.top_k is not None:
            check_count(type(self).__name__, "top_k", self.top_k, low=1)
        if len(self.names) != self.moduli.shape[1]:
            raise ValueError(
                "The 'names' parameter of LipschitzModulusDisplay must hold one name "
                f"per part, {self.moduli.shape[1]}. Got {len(self.names)} instead."
            )

    def _order(self) -> NDArray[np.int64]:
        """Parts from the most fragile on; unknown ones last."""
        known = np.where(np.isnan(self.moduli), -1.0, self.moduli)
        finite = np.where(np.isinf(known), -1.0, known)
        # Solutions that are infinite throughout rank nothing.
        ranking = ~np.all(np.isinf(self.moduli), axis=1)
        infinite = (np.isinf(known) & ranking[:, None]).any(axis=0)
        order = np.lexsort([-finite.max(axis=0), ~infinite])
        top = _TOP_ROWS if self.level == "sample" else len(order)
        top = top if self.top_k is None else self.top_k
        return order[: max(top, int(infinite.sum()))]

    def _prepare(self, ax: Any, drawn: Array) -> None:
        finite = np.where(np.isfinite(drawn), drawn, np.nan)
        if spans_decades(finite[finite > 0]):
            ax.set_xscale("log")
        ticks = [self._tick(part) for part in self.order_]
        ax.set_yticks(np.arange(len(ticks)), ticks, fontsize="small")
        ax.set_ylim(len(ticks) - 0.4, -0.6)
        ax.grid(axis="y", color="0.9", lw=0.8)
        ax.set_axisbelow(True)
        title = _TITLES[self.level]
        if len(ticks) < self.moduli.shape[1]:
            count = f"{len(ticks)} most fragile of {self.moduli.shape[1]}"
            title = f"{title} ({count} {_PARTS[self.level]})"
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel(
            "modulus (Euclidean movement of the weights\n"
            "per Frobenius norm of the perturbation)"
        )

    def _tick(self, part: int) -> str:
        values = self.moduli[:, part]
        notes = []
        if np.isinf(values).any():
            notes.append("$\\infty$")
        if np.isnan(values).any():
            notes.append("not known")
        if (values == 0).any():
            notes.append("0")
        return self.names[part] + (f" ({', '.join(notes)})" if notes else "")

    def _style(self, i: int, n_drawn: int) -> tuple[Array, dict[str, Any]]:
        """Heights of a solution's markers, and what tells them from the others'."""
        offset = _SPREAD * ((i + 0.5) / len(self.moduli) - 0.5)
        return np.arange(n_drawn, dtype=np.float64) + offset, {
            "color": COLORS[i % len(COLORS)],
            "ls": "none",
        }

    def _draw(self, ax: Any, i: int, values: Array) -> Any:
        y, style = self._style(i, len(values))
        return ax.plot(
            np.where(np.isfinite(values), values, np.nan),
            y,
            marker=MARKERS[i % len(MARKERS)],
            mfc=style["color"] if i % 2 == 0 else "white",
            ms=5.5,
            label=self._label(i),
            **style,
        )[0]

    def _draw_infinite(self, ax: Any, i: int, values: Array) -> Any:
        y, style = self._style(i, len(values))
        there = np.isinf(values)
        edge = ax.get_yaxis_transform()  # x in axes fractions, y in data
        x = np.full(int(there.sum()), _EDGE)
        return ax.plot(x, y[there], marker=">", ms=8, transform=edge, **style)[0]

    def _limit(self, ax: Any, drawn: Array) -> None:
        """A linear axis from zero, with room at the right edge for arrows."""
        finite = drawn[np.isfinite(drawn)]
        top = finite.max(initial=0.0)
        if np.isinf(drawn).any():
            ax.plot([], [], marker=">", ls="none", color=GREY, label="infinite")
        if not finite.size:
            ax.set_xticks([])
        elif ax.get_xscale() == "linear" and top > 0:
            ax.set_xlim(0.0, top * (1.2 if np.isinf(drawn).any() else 1.05))
        elif np.isinf(drawn).any() and top > 0:
            left, right = ax.get_xlim()
            ax.set_xlim(left, right * (right / left) ** 0.15)

    def _label(self, i: int) -> str | None:
        if i >= _LEGEND_MAX:
            more = len(self.moduli) - _LEGEND_MAX
            return f"... and {more} more" if i == _LEGEND_MAX else None
        return f"solution {i}"


def _names(
    final: Any, level: str, groups: Any, feature_names: Any, n_parts: int
) -> list[str]:
    if level == "layer":
        return list(final.layer_names_)
    if level == "group":
        return [str(label) for label in np.unique(groups)]
    if level == "sample":
        return [f"row {i}" for i in range(n_parts)]
    named = feature_names
    if named is None:
        named = getattr(final, "feature_names_in_", None)
    elif len(named) != n_parts:
        raise ValueError(
            "The 'feature_names' parameter of LipschitzModulusDisplay must name each "
            f"of the {n_parts} features. Got {len(named)} names instead."
        )
    if named is not None and len(named) == n_parts:
        return [str(name) for name in named]
    return [f"feature {j}" for j in range(n_parts)]
