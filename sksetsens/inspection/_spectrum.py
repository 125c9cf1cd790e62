"""The eigenvalues of the Hessian at a solution, and where they count as zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._compat import check_matplotlib_support
from .._validation import unwrap
from ..sensitivity import GraphicalDerivative
from ._style import BLACK, BLUE, GREY, VERMILLION, check_solution, drawing_axes

__all__ = ["HessianSpectrumDisplay"]

Array = NDArray[np.float64]


class HessianSpectrumDisplay:
    """Absolute eigenvalues of H, largest first, with the cut-off that defines ker H.

    It is recommended to use `from_estimator` or `from_derivative`.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_eigenvalues,)
        In any order; Ritz values of a matrix-free solver.

    cutoff : float
        Eigenvalues of absolute value up to this count as zero.

    rank, kernel_dim : int

    gap : float
        Smallest kept over largest dropped absolute eigenvalue.

    are_ritz : bool, default=False
        Whether the values are Ritz values: a sample of the spectrum, with estimates of
        rank and dimension.

    title : str, default=""

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    positive_, negative_, dropped_ : matplotlib Line2D
        Rank in the order of absolute values against absolute value; dropped are those
        that count as zero, of either sign.
    below_ : matplotlib Line2D
        Those that are exactly zero, as arrows at the lower edge (y in axes fractions).
    cutoff_ : matplotlib Line2D or None
    """

    def __init__(
        self,
        *,
        eigenvalues: Array,
        cutoff: float,
        rank: int,
        kernel_dim: int,
        gap: float,
        are_ritz: bool = False,
        title: str = "",
    ) -> None:
        self.eigenvalues, self.cutoff = eigenvalues, cutoff
        self.rank, self.kernel_dim, self.gap = rank, kernel_dim, gap
        self.are_ritz, self.title = are_ritz, title

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, solution: int = 0, ax: Any = None, **plot_params: Any
    ) -> HessianSpectrumDisplay:
        """Draw the spectrum at one solution of a fitted estimator.

        Parameters
        ----------
        estimator : SolutionSetEstimator, Pipeline or search
            Fitted.

        solution : int, default=0

        ax : matplotlib Axes, default=None
            None for a new figure.

        **plot_params
            Of `plot`.

        Returns
        -------
        display : HessianSpectrumDisplay
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        final, _ = unwrap(estimator, caller=cls.__name__)
        check_is_fitted(final)
        derivatives = final.graphical_derivatives_
        i = check_solution(cls.__name__, solution, len(derivatives))
        return cls._of(derivatives[i], f"solution {i}").plot(ax, **plot_params)

    @classmethod
    def from_derivative(
        cls, derivative: GraphicalDerivative, *, ax: Any = None, **plot_params: Any
    ) -> HessianSpectrumDisplay:
        """Draw the spectrum of a graphical derivative's H.

        Parameters
        ----------
        derivative : GraphicalDerivative

        ax : matplotlib Axes, default=None

        **plot_params
            Of `plot`.

        Returns
        -------
        display : HessianSpectrumDisplay
        """
        return cls._of(derivative, "one solution").plot(ax, **plot_params)

    @classmethod
    def _of(cls, gd: GraphicalDerivative, where: str) -> HessianSpectrumDisplay:
        factor = gd.factor
        values = np.asarray(factor.eigenvalues)
        if not gd.is_matrix_free and len(values) < factor.rank:
            values = factor.range_basis()[1]  # A Cholesky factor knows the ends only.
        what = "Ritz values of H" if gd.is_matrix_free else "Spectrum of H"
        return cls(
            eigenvalues=values,
            cutoff=float(factor.cutoff),
            rank=int(factor.rank),
            kernel_dim=int(factor.kernel_dim),
            gap=float(factor.gap),
            are_ritz=gd.is_matrix_free,
            title=f"{what} at {where} ({gd.weights.size} weights, "
            f"solver {gd.solver_!r})",
        )

    def plot(self, ax: Any = None, *, legend: bool = True) -> HessianSpectrumDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        legend : bool, default=True
            With rank, kernel dimension and gap.

        Returns
        -------
        display : HessianSpectrumDisplay
        """
        ax = drawing_axes(ax, self)
        values = self.eigenvalues[np.argsort(-np.abs(self.eigenvalues), kind="stable")]
        sizes, index = np.abs(values), np.arange(1, len(values) + 1)
        kept = sizes > self.cutoff
        if sizes.any():
            ax.set_yscale("log")

        def draw(mask: NDArray[np.bool_], name: str, **style: Any) -> Any:
            label = f"{name}: {int(mask.sum())}" if mask.any() else None
            args = (index[mask], sizes[mask])
            return ax.plot(*args, ls="none", label=label, **style)[0]

        is_zero = sizes == 0.0
        solid = {"ms": 5, "mec": "none", "alpha": 0.9}
        self.positive_ = draw(
            kept & (values > 0), "positive", marker="o", color=BLUE, **solid
        )
        self.negative_ = draw(
            kept & (values < 0), "negative", marker="v", color=VERMILLION, ms=7
        )
        name = "counted as zero"
        self.dropped_ = draw(
            ~kept & ~is_zero, name, marker="s", color=GREY, mfc="none", ms=5
        )
        self.below_ = self._draw_zeros(ax, index[is_zero])
        self._draw_cutoff(ax)
        self._name(ax)
        if legend:
            ax.legend(fontsize="small", title=self._summary(), title_fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_zeros(self, ax: Any, index: Array) -> Any:
        """Exact zeros have no place on a logarithmic axis: arrows at its lower edge."""
        label = f"exactly zero: {len(index)}" if len(index) else None
        return ax.plot(
            index,
            np.full(len(index), 0.02),
            transform=ax.get_xaxis_transform(),
            ls="none",
            marker="$\\downarrow$",
            ms=8,
            color=GREY,
            label=label,
        )[0]

    def _draw_cutoff(self, ax: Any) -> None:
        self.cutoff_ = None
        if self.cutoff > 0.0:
            label = f"cut-off {self.cutoff:.1e}"
            self.cutoff_ = ax.axhline(self.cutoff, color=BLACK, ls="--", label=label)

    def _name(self, ax: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        what = "Ritz value" if self.are_ritz else "eigenvalue"
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(
            xlabel=f"{what}s in the order of their absolute values",
            ylabel=f"absolute {what} of H",
        )
        ax.set_title(self.title, fontsize="medium")

    def _summary(self) -> str:
        about = "about " if self.are_ritz else ""
        # Of a factor A with H = A'A, which has fewer rows than columns.
        unseen = self.rank + self.kernel_dim - len(self.eigenvalues)
        text = f"rank {about}{self.rank}, dim ker H {about}{self.kernel_dim}"
        text += f"\ngap {self.gap:.1e}"
        if unseen > 0 and not self.are_ritz:
            text += f"\n{unseen} more are exactly zero"
        if not self.cutoff > 0.0:
            text += "\ncut-off 0: none dropped"
        return text
