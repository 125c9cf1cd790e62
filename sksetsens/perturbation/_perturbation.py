"""A fitted estimator with a perturbation of its training data, checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._validation import unwrap
from ..objective import Movement, Objective, check_sample_weight
from ._perturbed_data import check_perturbed_data

__all__ = ["Perturbation", "check_perturbation"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Perturbation:
    """A fitted estimator, its training data, and where that data moves.

    Attributes
    ----------
    estimator : SolutionSetEstimator
        At the end of what was given.
    X, X_perturbed : ndarray of shape (n_samples, ...)
    y : ndarray
        Targets as the criterion sees them.
    y_perturbed : ndarray of the shape of y or None
        None where targets stay, and for classes, which go the way of weights.
    labels : ndarray of int of shape (n_samples,) or None
        Classes as the criterion sees them; None where none changes.
    sample_weight : ndarray of shape (n_samples,) or None
        New weights of the rows; None where they stay.
    """

    estimator: Any
    X: Array
    X_perturbed: Array
    y: NDArray[Any]
    y_perturbed: Array | None = None
    labels: NDArray[Any] | None = None
    sample_weight: Array | None = None

    @property
    def dX(self) -> Array:
        """Perturbation of X."""
        return self.X_perturbed - self.X

    @property
    def dy(self) -> Array | None:
        """Perturbation of y; None where targets stay."""
        return None if self.y_perturbed is None else self.y_perturbed - self.y

    @property
    def relabelled(self) -> NDArray[np.int64]:
        """Rows whose class changes."""
        if self.labels is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.labels != self.y)

    @property
    def weights(self) -> tuple[Array, Array]:
        """Weights of the targets before and after: new labels begin with 0."""
        before = self.estimator.sample_weight_
        after = before if self.sample_weight is None else self.sample_weight
        rows = self.relabelled
        new = after[rows]
        after = after.copy()
        after[rows] = 0.0
        nothing = np.zeros(len(rows))
        return np.concatenate([before, nothing]), np.concatenate([after, new])

    @property
    def removes(self) -> bool:
        """Whether rows, or labels, lose all their weight."""
        before, after = self.weights
        return bool(((before > 0.0) & (after == 0.0)).any())

    @cached_property
    def movement(self) -> Movement:
        """The perturbation as a direction."""
        ds = None
        if self.labels is not None or self.sample_weight is not None:
            before, after = self.weights
            ds = after - before
        return Movement(self.dX, self.dy, ds)

    @cached_property
    def derivatives(self) -> list[Any]:
        """The graphical derivatives at the solutions, which know of the new labels."""
        found = self.estimator.graphical_derivatives_
        rows = self.relabelled
        if self.labels is None:
            return found
        new = self.labels[rows]
        return [gd.on(gd.objective.with_labels(rows, new)) for gd in found]

    @property
    def floors(self) -> Array:
        """Norm of R per solution up to which a perturbed residual is rounding."""
        left = [gd.residual_norm(gd.objective, gd.weights) for gd in self.derivatives]
        return 10.0 * np.where(self.estimator.solution_set_.converged, left, 0.0)

    @property
    def size(self) -> float:
        """Frobenius norm of the movement of X, y, and weights."""
        parts = (self.movement.dX, self.movement.dy, self.movement.ds)
        norms = [np.linalg.norm(part) for part in parts if part is not None]
        return float(np.linalg.norm(norms))

    @property
    def bounds(self) -> Array:
        """Worst movement per solution, ``kappa_X |dX| + kappa_y |dy| + kappa_s |ds|``.

        The last of all changes of weights of that length.
        """
        total = self._bound("dataset", self.dX)
        if self.dy is not None:
            total = total + self._bound("target", self.dy)
        if self.movement.ds is not None:
            size = float(np.linalg.norm(self.movement.ds))
            moduli = [gd.weight_modulus for gd in self.derivatives]
            total = total + size * np.array(moduli)
        return total

    def _bound(self, level: str, movement: Array) -> Array:
        size = float(np.linalg.norm(movement))
        moduli = [parts.values[0] for parts in self.estimator._moduli.by_part(level)]
        return np.array(moduli) * size if size else np.zeros(len(moduli))

    def objective(self, objective: Objective, t: float = 1.0) -> Objective:
        """The objective of one of the derivatives at the share t of the perturbation.

        Parameters
        ----------
        objective : Objective
            On the data of any share: what it is replaced by is absolute.
        t : float, default=1.0
        """
        X, y = self.X_perturbed, self.y_perturbed
        if t != 1.0:
            X = self.X + t * self.dX
            y = None if self.dy is None else self.y + t * self.dy
        moved = objective.with_data(X, y)
        ds = self.movement.ds
        if ds is None:
            return moved
        before, after = self.weights
        return moved.weighted(after if t == 1.0 else before + t * ds)

    @property
    def targets(self) -> NDArray[Any] | None:
        """New targets as the criterion sees them; None where they stay."""
        return self.y_perturbed if self.labels is None else self.labels


def check_perturbation(
    estimator: Any,
    X_perturbed: Any,
    y_perturbed: Any = None,
    sample_weight: Any = None,
    *,
    caller: str,
) -> Perturbation:
    """Check what a public function is asked.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.
    X_perturbed, y_perturbed, sample_weight : array-like or None
        As in `SolutionSetEstimator.sensitivity`.
    caller : str
        Name of the function, for errors.

    Returns
    -------
    perturbation : Perturbation
    """
    final, X_perturbed = unwrap(estimator, X_perturbed, caller=caller)
    check_is_fitted(final)
    data = check_perturbed_data(final, X_perturbed, y_perturbed, sample_weight, caller)
    found = Perturbation(
        final,
        final.inputs_,
        data.X,
        final.targets_,
        data.y,
        data.labels,
        data.sample_weight,
    )
    if caller != "retrain":
        _refuse_other_codes(final, found, caller)
    weighs = data.labels is not None or data.sample_weight is not None
    if weighs and np.all(final.sample_weight_ == 1.0):
        check_sample_weight(final.graphical_derivatives_[0].objective)
    return found


def _refuse_other_codes(final: Any, perturbation: Perturbation, caller: str) -> None:
    layout = final._task.layout
    if layout is None:
        return
    moved = (perturbation.dX[:, ~layout.is_real] != 0.0).any(axis=1)
    if moved.any():
        raise ValueError(
            f"The 'X_perturbed' parameter of {caller} must leave integer codes as they "
            f"are: no derivative leads from one to another. Got others in "
            f"{int(moved.sum())} rows, the first {int(np.flatnonzero(moved)[0])}. Use "
            "retrain for them, or sample_weight to leave rows out."
        )
