"""A fitted estimator with a perturbation of its training data, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._validation import unwrap
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
        None where targets stay.
    """

    estimator: Any
    X: Array
    X_perturbed: Array
    y: NDArray[Any]
    y_perturbed: Array | None

    @property
    def dX(self) -> Array:
        """Perturbation of X."""
        return self.X_perturbed - self.X

    @property
    def dy(self) -> Array | None:
        """Perturbation of y; None where targets stay."""
        return None if self.y_perturbed is None else self.y_perturbed - self.y

    @property
    def derivatives(self) -> list[Any]:
        """The graphical derivatives at the solutions."""
        return self.estimator.graphical_derivatives_

    @property
    def floors(self) -> Array:
        """Norm of R per solution up to which a perturbed residual is rounding."""
        left = [gd.residual_norm(gd.objective, gd.weights) for gd in self.derivatives]
        return 10.0 * np.where(self.estimator.solution_set_.converged, left, 0.0)

    @property
    def size(self) -> float:
        """Frobenius norm of (dX, dy)."""
        dy = 0.0 if self.dy is None else float(np.linalg.norm(self.dy))
        return float(np.hypot(np.linalg.norm(self.dX), dy))

    @property
    def bounds(self) -> Array:
        """Worst movement per solution, ``kappa_X |dX| + kappa_y |dy|``."""
        total = self._bound("dataset", self.dX)
        return total if self.dy is None else total + self._bound("target", self.dy)

    def _bound(self, level: str, movement: Array) -> Array:
        size = float(np.linalg.norm(movement))
        moduli = [parts.values[0] for parts in self.estimator._moduli.by_part(level)]
        return np.array(moduli) * size if size else np.zeros(len(moduli))

    def data(self, t: float = 1.0) -> tuple[Array, NDArray[Any]]:
        """Data at the share t of the perturbation."""
        y = self.y if self.y_perturbed is None else self.y_perturbed
        if t == 1.0:
            return self.X_perturbed, y
        return self.X + t * self.dX, self.y if self.dy is None else self.y + t * self.dy


def check_perturbation(
    estimator: Any, X_perturbed: Any, y_perturbed: Any = None, *, caller: str
) -> Perturbation:
    """Check what a public function is asked.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.
    X_perturbed, y_perturbed : array-like
        As in `SolutionSetEstimator.sensitivity`.
    caller : str
        Name of the function, for errors.

    Returns
    -------
    perturbation : Perturbation
    """
    final, X_perturbed = unwrap(estimator, X_perturbed, caller=caller)
    check_is_fitted(final)
    X_new, targets = check_perturbed_data(final, X_perturbed, y_perturbed)
    return Perturbation(final, final.X_train_, X_new, final.targets_, targets)
