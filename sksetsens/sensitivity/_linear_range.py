"""How far the first order reaches along a perturbation, solution by solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_positive
from ..perturbation import Perturbation, check_perturbation
from ._breaks import first_break
from ._graphical_derivative import GraphicalDerivative
from ._reach import reach

__all__ = ["LinearRange", "linear_range"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearRange:
    """Where along one perturbation the first order holds.

    Attributes
    ----------
    fraction : ndarray of shape (n_solutions,)
        Largest share t of the perturbation at which the error of the first order stays
        within ``tol``, to 1 per cent, and no kink has joined or left; above 1 where it
        holds further than asked. 0 where the predicted set is empty, inf where no limit
        was found.

    size : ndarray of shape (n_solutions,)
        The same as a Frobenius norm of the perturbation of X, y and weights.

    size_per_row : ndarray of shape (n_solutions,)
        The same as the Euclidean length delta of each moving row, root mean square; 0
        where only targets or weights move.

    tol : float
        Error asked for.
    """

    fraction: Array
    size: Array
    size_per_row: Array
    tol: float


def _reach(
    gd: GraphicalDerivative, perturbation: Perturbation, tol: float, floor: float
) -> float:
    """Where the error exceeds ``tol``, or the first kink joins or leaves."""
    movement = perturbation.movement
    shift = gd.along(movement).shift
    found = reach(gd, movement, tol=tol, floor=floor, shift=shift)
    return min(found, first_break(gd, shift, movement))


def linear_range(
    estimator: Any,
    X_perturbed: Any = None,
    y_perturbed: Any = None,
    *,
    sample_weight: Any = None,
    tol: float = 0.1,
) -> LinearRange:
    r"""Largest perturbation along a direction that the first order describes.

    The error is the worse of `nonlinearity` and `shift_error` of a
    `PredictedSolutionSet`. It grows about in proportion to the size, so that half the
    range has half the error.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_perturbed, y_perturbed, sample_weight
        As in `SolutionSetEstimator.sensitivity`; their difference to the training data
        is the direction, its length the unit of ``fraction``.

    tol : float, default=0.1
        Relative error that counts as holding, in (0, 1].

    Returns
    -------
    linear_range : LinearRange

    Raises
    ------
    ValueError
        If ``tol`` is not in (0, 1], or nothing is perturbed.
    """
    check_positive("linear_range", "tol", tol, up_to=1.0)
    perturbation = check_perturbation(
        estimator, X_perturbed, y_perturbed, sample_weight, caller="linear_range"
    )
    if perturbation.size == 0.0:
        raise ValueError(
            "The 'X_perturbed' parameter of linear_range must differ from the training "
            "data, or y_perturbed or sample_weight. Got the training data: there is no "
            "direction to go."
        )
    pairs = zip(perturbation.derivatives, perturbation.floors, strict=True)
    fraction = np.array([_reach(gd, perturbation, tol, f) for gd, f in pairs])
    moving = np.any(perturbation.dX.reshape(len(perturbation.X), -1) != 0.0, axis=1)
    n_moving = int(np.count_nonzero(moving))
    size = fraction * perturbation.size
    per_row = np.zeros_like(fraction)
    if n_moving:
        per_row = fraction * np.linalg.norm(perturbation.dX) / np.sqrt(n_moving)
    return LinearRange(fraction, size, per_row, tol)
