"""The Lipschitz-like inclusion between solution sets, checked by retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_positive
from ..perturbation import Perturbation, check_perturbation
from ..sensitivity import GraphicalDerivative
from ._local_sets import LocalSet, local_set, retrained_set

__all__ = ["LipschitzInclusion", "lipschitz_inclusion"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LipschitzInclusion:
    r"""The inclusion :math:`S(x') \cap U \subset S(x) + \kappa |x - x'| B`, in numbers.

    Attributes
    ----------
    excess : ndarray of shape (n_solutions,)
        :math:`e(S(x') \cap U, S(x))` of the retrained set, Euclidean; NaN where
        retraining did not become stationary, -inf where U misses the retrained set.

    bound : ndarray of shape (n_solutions,)
        :math:`\kappa |x - x'|`, inf where no modulus is certified.

    slack : ndarray of shape (n_solutions,)
        ``bound - excess``.

    second_order : ndarray of shape (n_solutions,)
        Excess of the retrained set beyond the predicted one. The predicted set obeys
        the inclusion exactly, so that no slack is below minus this.

    holds : ndarray of bool of shape (n_solutions,)
        Whether there is something to check (a finite bound, and a retrained set that
        meets U) and the slack is at least 0.

    status : ndarray of str of shape (n_solutions,)
    """

    excess: Array
    bound: Array
    slack: Array
    second_order: Array
    holds: NDArray[np.bool_]
    status: NDArray[np.str_]


def lipschitz_inclusion(
    estimator: Any, X_perturbed: Any, y_perturbed: Any = None, *, radius: float
) -> LipschitzInclusion:
    """Check by retraining that the new set lies in the old one's neighbourhood.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_perturbed, y_perturbed
        As in `SolutionSetEstimator.sensitivity`.

    radius : float
        Euclidean radius of the ball U around each solution.

    Returns
    -------
    inclusion : LipschitzInclusion

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Definition of the Lipschitz-like property
    and Figure 2.
    """
    check_positive("lipschitz_inclusion", "radius", radius)
    perturbation = check_perturbation(
        estimator, X_perturbed, y_perturbed, caller="lipschitz_inclusion"
    )
    pairs = zip(
        perturbation.derivatives,
        perturbation.estimator.solution_set_.trustworthy,
        strict=True,
    )
    table = [_inclusion(gd, perturbation, bool(ok), radius) for gd, ok in pairs]
    excess, second_order = np.array(table).T
    bound = perturbation.bounds
    with np.errstate(invalid="ignore"):
        slack = bound - excess
    holds = (slack >= 0.0) & np.isfinite(bound) & np.isfinite(excess)
    rows = zip(excess, bound, slack, second_order, strict=True)
    status = np.array([_inclusion_status(*row) for row in rows])
    return LipschitzInclusion(excess, bound, slack, second_order, holds, status)


def _inclusion(
    gd: GraphicalDerivative, perturbation: Perturbation, trusted: bool, radius: float
) -> tuple[float, float]:
    """Excess beyond the old and beyond the predicted set; NaN, or inf for none."""
    new, old = retrained_set(gd, perturbation, trusted), local_set(gd, trusted)
    if new is None:
        return np.nan, np.nan
    excess = new.excess(old, gd.weights, radius)
    if excess is None:
        return -np.inf, 0.0
    affine = gd.along(perturbation.movement)
    if affine.is_empty:
        return excess, np.inf
    predicted = LocalSet(gd.weights + affine.shift, old.directions)
    return excess, new.excess(predicted, gd.weights, radius) or 0.0


def _inclusion_status(
    excess: float, bound: float, slack: float, second_order: float
) -> str:
    if np.isnan(excess):
        return "unknown: retraining did not become stationary"
    if np.isinf(bound):
        return "no finite modulus is certified here: nothing to check"
    if excess == -np.inf:
        return "the ball misses the retrained set: nothing to check, take a larger one"
    if slack >= 0.0:
        return f"holds with slack {slack:.2g}"
    return (
        f"exceeded by {-slack:.2g}, within the second-order term {second_order:.2g}: "
        "use a smaller perturbation or radius"
    )
