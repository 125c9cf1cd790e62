r"""The next Newton step with the curvature that predicted weights have, not the old.

What a prediction leaves undone, :math:`R_1`, is measured by a step with the H of the
solution, :math:`-H^+ R_1`. It is blind to curvature that has gone on the way: where the
only row that bent a direction is removed, or where the branch of solutions nears its
end. A few steps of conjugate gradients on the curvature :math:`H_1` at the predicted
weights and data, preconditioned by :math:`H^+`, see it, since :math:`H^+ H_1` is near 1
but in the directions that matter.

The branch ends where Newton's steps stop shrinking: along a direction whose curvature
falls to :math:`\kappa` times itself over the next step, a scalar quadratic has a zero
for :math:`\kappa \ge 1/2` only (Kantorovich's condition: J. M. Ortega and W. C.
Rheinboldt, "Iterative Solution of Nonlinear Equations in Several Variables", 1970,
Section 12.6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..objective import Objective, PointProducts
from ._graphical_derivative import GraphicalDerivative

__all__ = ["SecondLook", "second_look"]

Array = NDArray[np.float64]

# Products with the new curvature: by a factorisation, and where each application of
# H^+ is a solve of its own.
_MOST, _MOST_ITERATIVE = 8, 1
# Part of the step that may be missing, in the norm of H.
_ENOUGH = 0.03
# Steps over the distance moved below which nothing can end.
_SHORT = 1e-3


@dataclass(frozen=True)
class SecondLook:
    """What the curvature at predicted weights says of the next step.

    Attributes
    ----------
    step : ndarray of shape (n_params,) or None
        The step, as far as it was seen; None where curvature is zero or negative, so
        that there is no minimum to step to.
    remaining : float
        Curvature along the softest direction after the step, over that before it; 1
        for steps too short to matter.
    """

    step: Array | None
    remaining: float = 1.0


def second_look(
    gd: GraphicalDerivative, objective: Objective, weights: Array, step: Array
) -> SecondLook | None:
    """Look at the curvature of the perturbed problem at predicted weights.

    Parameters
    ----------
    gd : GraphicalDerivative
        What the step was taken with.
    objective : Objective
        On the perturbed data.
    weights : ndarray of shape (n_params,)
        Predicted.
    step : ndarray of shape (n_params,)
        ``-H^+ R`` there.

    Returns
    -------
    look : SecondLook or None
        None of forms that do not solve with H, of saddles, and of kinks.
    """
    if gd.solver_ not in ("eigh", "minres") or gd.solver.curvature != "hessian":
        return None
    if gd.kinks.holds or gd.factor.inertia[0]:
        return None
    r = -objective.gradient(weights)
    size = float(r @ step)
    if not size > 0.0:
        return None
    products = PointProducts(objective, weights).hessian
    most = _MOST_ITERATIVE if gd.is_matrix_free else _MOST
    seen = _krylov(gd, products, r / np.sqrt(size), step / np.sqrt(size), most)
    values, vectors = np.linalg.eigh(seen.small)
    if not values[0] > 0.0:
        return SecondLook(None)
    found = np.sqrt(size) * (seen.first_solved @ seen.basis)
    if gd.length(found) <= _SHORT * gd.length(weights - gd.weights):
        return SecondLook(found)
    softest = vectors[:, 0] @ seen.basis
    after = objective.hessian_product(weights + found, softest)
    return SecondLook(found, float(softest @ after) / float(values[0]))


@dataclass(frozen=True)
class _Krylov:
    """``H_1`` on a basis that is orthonormal in the inner product of H."""

    basis: Array  # rows
    small: Array

    @property
    def first_solved(self) -> Array:
        """Solution for the first basis vector, in the basis."""
        first = np.eye(len(self.small))[0]
        return np.asarray(scipy.linalg.solve(self.small, first, assume_a="sym"))


def _krylov(
    gd: GraphicalDerivative,
    product: Callable[[Array], Array],
    v: Array,
    q: Array,
    most: int,
) -> _Krylov:
    """Preconditioned Lanczos from q = H^+ v, until the step is known."""
    basis, duals = [q], [v]
    small = np.zeros((0, 0))
    while True:
        image = product(basis[-1])
        column = np.array([float(one @ image) for one in basis])
        grown = np.zeros((len(basis), len(basis)))
        grown[:-1, :-1] = small
        grown[-1], grown[:, -1] = column, column
        small = grown
        found = _Krylov(np.stack(basis), small)
        if len(basis) >= most or not np.linalg.eigvalsh(small)[0] > 0.0:
            return found
        rest = image - column @ np.stack(duals)
        solved = gd.factor.apply(rest)
        size = float(rest @ solved)
        y = found.first_solved
        if not size > 0.0 or np.sqrt(size) * abs(y[-1]) <= _ENOUGH * np.linalg.norm(y):
            return found
        duals.append(rest / np.sqrt(size))
        basis.append(solved / np.sqrt(size))
