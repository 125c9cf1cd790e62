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
Section 12.6). Either step may overshoot. Where one, or what is left of the curvature,
would cost an answer its trust, steps are taken: they end at a solution, whose distance
is the error, or they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..objective import Objective, PointProducts
from ._graphical_derivative import GraphicalDerivative

__all__ = ["FAR", "GOES_ON", "SecondLook", "second_look"]

Array = NDArray[np.float64]

# Products with the new curvature: by a factorisation, and where each application of
# H^+ is a solve of its own.
_MOST, _MOST_ITERATIVE = 8, 1
# Part of the step that may be missing, in the norm of H.
_ENOUGH = 0.03
# Steps over the distance moved below which nothing can end.
_SHORT = 1e-3
# Curvature that must remain after the next step, with a margin for what was not seen,
# and steps over the distance moved, short of which the steps are taken.
GOES_ON, FAR = 0.55, 0.5
_TINY = float(np.finfo(np.float64).tiny)
# How many are taken; each over the distance moved, at most, and shorter where R does
# not fall; the last one over all of them.
_STEPS, _LONGEST, _SHORTER, _SETTLED = 8, 0.25, 4, 0.05


@dataclass(frozen=True)
class SecondLook:
    """What the curvature at predicted weights says of the next step.

    Attributes
    ----------
    step : ndarray of shape (n_params,) or None
        The step, as far as it was seen, or the way to the solution where the steps
        were taken; None where curvature is zero or negative, so that there is no
        minimum to step to.
    remaining : float
        Curvature along the softest direction after the step, over that before it; 1
        for steps too short to matter, and where they ended at a solution.
    is_measured : bool
        Whether they did.
    """

    step: Array | None
    remaining: float = 1.0
    is_measured: bool = False


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
    if not float(r @ step) > 0.0:
        return None
    seen = _krylov(gd, objective, weights, r, step)
    look, moved = _look(gd, objective, weights, seen), gd.length(weights - gd.weights)
    steps = (step, look.step)
    far = any(v is None or not gd.length(v) < FAR * moved for v in steps)
    if (far or look.remaining < GOES_ON) and not gd.is_matrix_free:
        way = _way_to_solution(gd, objective, weights, seen.newton_step, step)
        if way is not None:
            return SecondLook(way, is_measured=True)
    return look


def _look(
    gd: GraphicalDerivative, objective: Objective, weights: Array, seen: _Krylov
) -> SecondLook:
    found = seen.newton_step
    if found is None:
        return SecondLook(None)
    if gd.length(found) <= _SHORT * gd.length(weights - gd.weights):
        return SecondLook(found)
    values, vectors = np.linalg.eigh(seen.small)
    softest = vectors[:, 0] @ seen.basis
    after = objective.hessian_product(weights + found, softest)
    return SecondLook(found, float(softest @ after) / float(values[0]))


def _way_to_solution(
    gd: GraphicalDerivative,
    objective: Objective,
    weights: Array,
    newton: Array | None,
    chord: Array,
) -> Array | None:
    """Sum of Newton's steps if they end at a minimum; None if they do not."""
    way, size = np.zeros_like(weights), np.inf
    longest = _LONGEST * gd.length(weights - gd.weights)
    for _ in range(_STEPS):
        step = chord if newton is None else newton
        step = step * min(1.0, longest / max(gd.length(step), _TINY))
        for _ in range(_SHORTER):
            r = -objective.gradient(weights + way + step)
            chord = gd.factor.apply(r)
            left = float(r @ chord)
            if left < size:
                break
            step = 0.25 * step
        else:
            return None
        way, size = way + step, left
        newton = _krylov(gd, objective, weights + way, r, chord).newton_step
        if newton is not None and gd.length(newton) <= _SETTLED * gd.length(way):
            return way + newton
    return None


@dataclass(frozen=True)
class _Krylov:
    """``H_1`` on a basis that is orthonormal in the inner product of H."""

    basis: Array  # rows
    small: Array
    length: float  # of the chord step, in the norm of H

    @property
    def is_definite(self) -> bool:
        """Whether it is positive on the basis."""
        return bool(np.linalg.eigvalsh(self.small)[0] > 0.0)

    @property
    def coefficients(self) -> Array:
        """Of Newton's step in the basis."""
        first = self.length * np.eye(len(self.small))[0]
        return np.asarray(scipy.linalg.solve(self.small, first, assume_a="sym"))

    @property
    def newton_step(self) -> Array | None:
        """``-H_1^-1 R`` on the basis; None without positive curvature."""
        return self.coefficients @ self.basis if self.is_definite else None


def _krylov(
    gd: GraphicalDerivative, objective: Objective, weights: Array, r: Array, step: Array
) -> _Krylov:
    """Preconditioned Lanczos from ``step = H^+ r``, until Newton's step is known."""
    product = PointProducts(objective, weights).hessian
    most = _MOST_ITERATIVE if gd.is_matrix_free else _MOST
    length = float(np.sqrt(max(float(r @ step), _TINY)))
    basis, duals, small = [step / length], [r / length], np.zeros((0, 0))
    while True:
        image = product(basis[-1])
        column = np.array([float(one @ image) for one in basis])
        small = np.pad(small, ((0, 1), (0, 1)))
        small[-1], small[:, -1] = column, column
        found = _Krylov(np.stack(basis), small, length)
        if len(basis) >= most or not found.is_definite:
            return found
        rest = image - column @ np.stack(duals)
        solved = gd.factor.apply(rest)
        size = float(rest @ solved)
        y = found.coefficients
        if not size > 0.0 or np.sqrt(size) * abs(y[-1]) <= _ENOUGH * np.linalg.norm(y):
            return found
        duals.append(rest / np.sqrt(size))
        basis.append(solved / np.sqrt(size))
