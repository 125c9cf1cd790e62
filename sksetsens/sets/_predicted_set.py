"""The answer to a perturbation: a set of solutions that was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation import check_choice, check_positive
from ..linalg import ImplicitSubspace, Subspace
from ..objective import Objective
from ._solution_set import SolutionSet, rows_for
from ._symmetries import Alignment

__all__ = ["PredictedSolutionSet", "PredictionChange"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PredictionChange:
    """First-order change of each solution's predictions.

    Attributes
    ----------
    value : ndarray of shape (n_solutions, n_points[, n_outputs])
        Change along the shift, in units of the prediction (probabilities of a
        classifier). NaN where the predicted set is empty.

    half_width : ndarray of the same shape
        By how much the change differs within the local set, to both sides; 0 without
        a radius, NaN where the set is empty or misses the ball.
    """

    value: Array
    half_width: Array

    @property
    def lower(self) -> Array:
        """Smallest change within the local set."""
        return self.value - self.half_width

    @property
    def upper(self) -> Array:
        """Largest change within the local set."""
        return self.value + self.half_width


class PredictedSolutionSet(SolutionSet):
    """The set of solutions predicted for perturbed data, without retraining.

    Its pieces are ``w_i + v0_i + ker H_i`` (arXiv 2412.11057, Theorem 1), or are
    empty. After corrections the kernels are those at the corrected weights.

    Attributes
    ----------
    weights : ndarray of shape (n_solutions, n_params)
        ``w + v0``, corrected where asked for; NaN where the predicted set is empty.

    base : SolutionSet
        The set it came from.

    shift : ndarray of shape (n_solutions, n_params)
        ``weights - base.weights``; v0, the shortest movement, without corrections.

    shift_norm : ndarray of shape (n_solutions,)
        Euclidean norm of the shift, the distance of the paper's Algorithm 1; inf
        where the predicted set is empty.

    is_empty : ndarray of bool of shape (n_solutions,)

    residual : ndarray of shape (n_solutions,)
        ``|H v0 + B dx| / |B dx|``.

    cutoff_change : ndarray of shape (n_solutions,)
        Relative change of v0 within one decade of rcond.

    losses, base_losses : ndarray of shape (n_solutions,)
        Objective on the perturbed data at the new and at the old weights.

    nonlinearity : ndarray of shape (n_solutions,)
        ``|R(x^p, weights)| / |R(x^p, w)|``: near 0 the first order holds, near 1 or
        above it does not.

    shift_error : ndarray of shape (n_solutions,)
        ``|H^+ R(x^p, weights)| / |shift|``: length of the next Newton correction
        relative to the shift, an estimate of the shift's relative error. H is that of
        the solution, or the one at these weights and data where that gives a longer
        step. It sees what `nonlinearity` does not: directions with little curvature,
        where a small residual is a long way. inf where the curvature is gone. From a
        half on it is the distance to the solution, over the shift, where a few steps
        reach it.

    solver_converged : ndarray of bool of shape (n_solutions,)
        Whether the iterative solve met its tolerance; True for factorisations.

    n_products : ndarray of int of shape (n_solutions,)
        Products of the iterative solve; 0 for factorisations.

    first_break : ndarray of shape (n_solutions,)
        Smallest share t of the perturbation at which a kink joins or leaves, to first
        order: from there on the solutions move differently. inf where none does.

    status : ndarray of str of shape (n_solutions,)
        One sentence each.
    """

    EVIDENCE = (
        *SolutionSet.EVIDENCE,
        "shift",
        "shift_norm",
        "is_empty",
        "residual",
        "cutoff_change",
        "base_losses",
        "nonlinearity",
        "shift_error",
        "solver_converged",
        "n_products",
        "first_break",
    )

    shift: Array
    shift_norm: Array
    is_empty: NDArray[np.bool_]
    residual: Array
    cutoff_change: Array
    base_losses: Array
    nonlinearity: Array
    shift_error: Array
    solver_converged: NDArray[np.bool_]
    n_products: NDArray[np.int64]
    first_break: Array

    def __init__(
        self,
        weights: Array,
        evidence: dict[str, NDArray[Any]],
        kernels: Sequence[Subspace | ImplicitSubspace],
        objectives: Sequence[Objective] | None,
        base: SolutionSet,
    ) -> None:
        super().__init__(weights, evidence, kernels, objectives)
        self.base = base

    def _take(self, positions: NDArray[np.int64]) -> Self:
        taken = super()._take(positions)
        taken.base = self.base._take(positions)
        return taken

    def _transformed(self, maps: Sequence[Alignment]) -> Self:
        moved = super()._transformed(maps)
        moved.base = self.base._transformed(maps)
        moved.shift = moved.weights - moved.base.weights
        return moved

    def _columns(self) -> tuple[tuple[str, ...], list[list[str]]]:
        numbers = zip(self.shift_norm, self.nonlinearity, self.kernel_dims, strict=True)
        heads = ("solution", "shift", "nonlinearity", "kernel dimension")
        return heads, [
            [str(i), "empty" if empty else f"{norm:.3g}", f"{error:.2g}", str(dim)]
            for i, (empty, (norm, error, dim)) in enumerate(
                zip(self.is_empty, numbers, strict=True)
            )
        ]

    def sample(
        self,
        n_samples: int,
        radius: float,
        random_state: Any = None,
        *,
        center: str = "solution",
    ) -> Array:
        """Points of the predicted set near each solution.

        Parameters
        ----------
        n_samples : int
            Points per solution.

        radius : float
            Euclidean radius of the ball.

        random_state : int, RandomState instance or None, default=None

        center : {"solution", "base"}, default="solution"
            Centre of the ball: the predicted solution, or the solution it came from
            (the paper's neighbourhood U of w_bar, whose intersection with the
            predicted set is smaller).

        Returns
        -------
        points : ndarray of shape (n_solutions, n_samples, n_params)
            NaN where the piece is empty or misses the ball.
        """
        check_choice("sample", "center", center, ("solution", "base"))
        points = super().sample(n_samples, radius, random_state)
        if center == "solution":
            return points
        pairs = zip(self.kernels, self.shift, strict=True)
        along = np.stack([kernel.project(v) for kernel, v in pairs])
        # Pythagoras: what the distance to the piece leaves of the radius.
        across = np.linalg.norm(self.shift - along, axis=1)
        room = np.sqrt(np.maximum(radius**2 - across**2, 0.0)) / radius
        room[across > radius] = np.nan
        nearest = self.weights - along
        offsets = points - self.weights[:, None, :]
        return nearest[:, None, :] + offsets * room[:, None, None]

    def prediction_change(
        self, X: ArrayLike, *, radius: float | None = None, center: str = "solution"
    ) -> PredictionChange:
        r"""How each solution's prediction changes to first order.

        Along the shift v0 and within the local set,
        :math:`D_w f(X) (v_0 + z)` with z in ker H.

        Parameters
        ----------
        X : array-like of shape (n_points, ...)
            Inputs of any number.

        radius : float, default=None
            Euclidean radius of the ball that limits the local set; None for the
            shift alone.

        center : {"solution", "base"}, default="solution"
            Centre of the ball, as in `sample`.

        Returns
        -------
        change : PredictionChange
        """
        objectives = self.base._objectives("predict")
        check_choice("prediction_change", "center", center, ("solution", "base"))
        if radius is not None:
            check_positive("prediction_change", "radius", radius)
        rows = rows_for(objectives[0], X, "prediction_change")
        parts = [
            self._prediction_change(objective, i, rows, radius, center)
            for i, objective in enumerate(objectives)
        ]
        value, half_width = (np.stack(part) for part in zip(*parts, strict=True))
        if value.shape[-1] == 1:
            value, half_width = value[..., 0], half_width[..., 0]
        return PredictionChange(value, half_width)

    def _prediction_change(
        self, objective: Objective, i: int, X: Array, radius: float | None, center: str
    ) -> tuple[Array, Array]:
        J = objective.prediction_jacobian(self.base.weights[i], X)
        value = J @ self.shift[i]
        if radius is None or self.is_empty[i]:
            return value, 0.0 * value
        room = radius
        if center == "base":
            along = self.kernels[i].project(self.shift[i])
            across = float(np.linalg.norm(self.shift[i] - along))
            value = J @ (self.shift[i] - along)
            room = np.sqrt(radius**2 - across**2) if across <= radius else np.nan
        # The largest J z over |z| <= room in ker H is room |P J'|.
        return value, room * np.linalg.norm(self.kernels[i].project(J), axis=-1)

    def relative_gaps(self, retrained: SolutionSet) -> Array:
        """Distance from each retrained solution to its piece, relative to the shift.

        Parameters
        ----------
        retrained : SolutionSet
            From a warm start: element i continues solution i.

        Returns
        -------
        gaps : ndarray of shape (n_solutions,)
            Euclidean distance over `shift_norm`. NaN where retraining did not become
            stationary, so that there is no truth to compare with; inf where the piece
            is empty.
        """
        # Each from its own piece only: of all pairs each would cost a solve.
        moved = self._cloud(retrained.weights) - self.weights
        pairs = zip(self.kernels, moved, strict=True)
        pieces = np.array([float(kernel.complement_norm(v)) for kernel, v in pairs])
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps: Array = np.where(pieces == 0.0, 0.0, pieces / self.shift_norm)
        gaps[~retrained.converged] = np.nan
        gaps[self.is_empty] = np.inf
        return gaps

    def _to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        return super()._to_arrays(prefix) | self.base._to_arrays(prefix + "base/")

    @classmethod
    def _from_arrays(
        cls, prefix: str, arrays: dict[str, NDArray[Any]], template: Objective | None
    ) -> Self:
        loaded = super()._from_arrays(prefix, arrays, template)
        loaded.base = SolutionSet._from_arrays(prefix + "base/", arrays, template)
        return loaded
