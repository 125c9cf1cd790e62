"""Loss, score, shift or gap against the size of the perturbation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._compat import check_matplotlib_support
from .._validation import check_choice
from ..studies import SensitivityCurve, sensitivity_curve
from ._style import BLACK, BLUE, VERMILLION, drawing_axes, spans_decades

__all__ = ["SensitivityCurveDisplay"]

Array = NDArray[np.float64]

_Y_LABELS = {
    "shift": "movement of the weights\n(Euclidean norm, mean over solutions)",
    "loss": "training objective on the perturbed data\n(mean over solutions)",
    "score": "score on held-out data",
    "gap": "distance of the retrained weights\nto the predicted set / shift (worst)",
}
# The curve's array per quantity and line.
_LINES = {
    "shift": {"predicted": "shift_norms", "retrained": "retrained_shift_norms"},
    "loss": {
        "old weights": "base_losses",
        "predicted": "losses",
        "retrained": "retrained_losses",
    },
    "score": {"predicted": "scores", "retrained": "retrained_scores"},
    "gap": {"retrained": "gaps"},
}
_STYLES: dict[str, dict[str, Any]] = {
    "old weights": {"color": BLACK, "marker": "^", "ls": ":"},
    "predicted": {"color": BLUE, "marker": "o", "ls": "-"},
    "retrained": {"color": VERMILLION, "marker": "s", "ls": "--", "mfc": "none"},
}
# Ratio of sizes from which their axis is logarithmic.
_LOG_SIZES = 5.0


class SensitivityCurveDisplay:
    """What a perturbation does as its size grows: predicted, and retrained.

    It is recommended to use `from_estimator` or `from_curve`.

    Parameters
    ----------
    curve : SensitivityCurve

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        Means over the folds, by "predicted", "retrained", "old weights".
    spreads_ : dict of str to matplotlib PolyCollection
        From the smallest to the largest over the folds; none with a single fold.
    shaded_ : list of matplotlib Polygon
        Where the first order does not hold in at least one fold.
    """

    def __init__(self, *, curve: SensitivityCurve) -> None:
        self.curve = curve

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        param_range: Any,
        groups: Any = None,
        cv: Any = None,
        scoring: Any = None,
        retrain: bool = True,
        n_corrections: int = 0,
        n_jobs: int | None = None,
        ax: Any = None,
        **plot_params: Any,
    ) -> SensitivityCurveDisplay:
        """Compute the curve by `sensitivity_curve` and draw it.

        Parameters
        ----------
        estimator, X, y, param_range, groups, cv, scoring, n_corrections, n_jobs
            As in `sensitivity_curve`.

        retrain : bool, default=True
            Whether to draw the truth too.

        ax : matplotlib Axes, default=None
            None for a new figure.

        **plot_params
            Of `plot`.

        Returns
        -------
        display : SensitivityCurveDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        curve = sensitivity_curve(
            estimator,
            X,
            y,
            param_range=param_range,
            groups=groups,
            cv=cv,
            scoring=scoring,
            retrain=retrain,
            n_corrections=n_corrections,
            n_jobs=n_jobs,
        )
        return cls.from_curve(curve, ax=ax, **plot_params)

    @classmethod
    def from_curve(
        cls, curve: SensitivityCurve, *, ax: Any = None, **plot_params: Any
    ) -> SensitivityCurveDisplay:
        """Draw a curve that is known.

        Parameters
        ----------
        curve : SensitivityCurve

        ax : matplotlib Axes, default=None

        **plot_params
            Of `plot`.

        Returns
        -------
        display : SensitivityCurveDisplay
        """
        return cls(curve=curve).plot(ax, **plot_params)

    def plot(
        self,
        ax: Any = None,
        *,
        quantity: str = "shift",
        score_name: str | None = None,
        legend: bool = True,
    ) -> SensitivityCurveDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        quantity : {"shift", "loss", "score", "gap"}, default="shift"
            How far the weights move; the objective on the perturbed training data; the
            score on held-out data; the gap of retrained solutions to the predicted set,
            for a curve with retraining.

        score_name : str, default=None
            Of the axis of "score".

        legend : bool, default=True

        Returns
        -------
        display : SensitivityCurveDisplay

        Raises
        ------
        ValueError
            If the curve does not hold the quantity.
        """
        check_choice(type(self).__name__, "quantity", quantity, tuple(_LINES))
        arrays = self._arrays(quantity)
        ax = drawing_axes(ax, self)
        self._scale(ax, quantity, arrays)
        self.lines_: dict[str, Any] = {}
        self.spreads_: dict[str, Any] = {}
        for name, values in arrays.items():
            self._draw(ax, name, values)
        if quantity == "score":
            base = self.curve.base_scores.mean()
            ax.axhline(base, color=BLACK, ls=":", lw=1, label="unperturbed")
        self._shade(ax)
        y_label = _Y_LABELS[quantity]
        if quantity == "score" and score_name is not None:
            y_label = score_name
        ax.set(xlabel="perturbation size per row (Euclidean norm)", ylabel=y_label)
        if legend:
            n_folds = self.curve.n_folds
            title = f"mean and range of {n_folds} folds" if n_folds > 1 else None
            ax.legend(fontsize="small", title=title, title_fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _arrays(self, quantity: str) -> dict[str, Array]:
        found = {
            name: getattr(self.curve, field) for name, field in _LINES[quantity].items()
        }
        known = {
            name: values
            for name, values in found.items()
            if values is not None and np.isfinite(values).any()
        }
        if not known:
            raise ValueError(
                "The 'quantity' parameter of SensitivityCurveDisplay must be one that "
                f"the curve holds. Got {quantity!r} instead: 'gap' needs retrain=True, "
                "'score' an estimator or a scorer that scores."
            )
        return known

    def _scale(self, ax: Any, quantity: str, arrays: dict[str, Array]) -> None:
        sizes = self.curve.param_range
        positive = sizes[sizes > 0]
        if positive.size and sizes.max() > _LOG_SIZES * positive.min():
            if positive.size == sizes.size:
                ax.set_xscale("log")
            else:
                ax.set_xscale("symlog", linthresh=positive.min())
        moving = [values[sizes > 0] for values in arrays.values()]
        if quantity != "score" and spans_decades(*moving):
            ax.set_yscale("log")

    def _draw(self, ax: Any, name: str, values: Array) -> None:
        sizes, style = self.curve.param_range, _STYLES[name]
        order = np.argsort(sizes)
        sizes, values = sizes[order], values[order]
        if self.curve.n_folds > 1:
            color = style["color"]
            self.spreads_[name] = ax.fill_between(
                sizes,
                values.min(axis=1),
                values.max(axis=1),
                facecolor=(color, 0.12),
                edgecolor=(color, 0.6),
                ls=style["ls"],
                lw=0.8,
            )
        (self.lines_[name],) = ax.plot(
            sizes, values.mean(axis=1), label=name, ms=6, **style
        )

    def _shade(self, ax: Any) -> None:
        """Hatch the sizes at which the first order fails, up to their neighbours."""
        self.shaded_: list[Any] = []
        order = np.argsort(self.curve.param_range)
        sizes = self.curve.param_range[order]
        fails = np.any(self.curve.first_order_fails, axis=1)[order]
        edges = _edges(sizes, ax.get_xscale() == "log")
        runs = np.flatnonzero(np.diff(np.concatenate([[False], fails, [False]])))
        limits = ax.get_xlim()
        label = "first order does not hold"
        if self.curve.n_folds > 1:
            label += " (in some fold)"
        for first, end in runs.reshape(-1, 2):
            self.shaded_.append(
                ax.axvspan(
                    limits[0] if first == 0 else edges[first - 1],
                    limits[1] if end == len(sizes) else edges[end - 1],
                    facecolor="0.93",
                    edgecolor="0.75",
                    hatch="//",
                    lw=0,
                    zorder=0,
                    label=None if self.shaded_ else label,
                )
            )
        ax.set_xlim(limits)


def _edges(sizes: Array, is_log: bool) -> Array:
    """Midpoints between neighbouring sizes, on the scale of their axis."""
    if is_log:
        return np.sqrt(sizes[1:] * sizes[:-1])
    return 0.5 * (sizes[1:] + sizes[:-1])
