"""How far along a direction the first order reaches from one solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..objective import Movement, Objective
from ._graphical_derivative import GraphicalDerivative
from ._second_look import GOES_ON, second_look

__all__ = ["HOLDS_TOL", "FirstOrderError", "first_order_error", "reach"]

Array = NDArray[np.float64]

# Error up to which the first order counts as holding.
HOLDS_TOL = 0.1

# |R| / (|H| (1 + |w|)) below this is rounding.
_ROUNDING = 1e-15
# The range is found to this relative precision.
_PRECISION = 0.01
_MAX_STEPS = 40
# Multiples of the perturbation asked about beyond which the range counts as unlimited,
# and below which it counts as none.
_FARTHEST, _NEAREST = 1e6, 1e-9
# First size that is tried, and by how much sizes grow: the error may cross the
# tolerance more than once (another branch), and the first crossing counts.
_FIRST, _GROWTH = 0.1, 4.0


@dataclass(frozen=True)
class FirstOrderError:
    """What a prediction leaves undone, measured by the perturbed residual R.

    Attributes
    ----------
    nonlinearity : float
        ``|R(x^p, predicted)| / |R(x^p, w)|``, Euclidean in the units in which H was
        decomposed, as all below.

    shift_error : float
        ``|H^+ R(x^p, predicted)|`` over the distance moved; where the curvature at the
        predicted weights was looked at, and gives a longer step, that step's length;
        and the distance to the solution where steps were taken to it.

    residual : float
        ``|R(x^p, predicted)|``.

    is_rounding : bool
        Whether there was nothing to predict: the perturbed residual at w is rounding.

    remaining : float
        As in `SecondLook`.
    """

    nonlinearity: float
    shift_error: float
    residual: float
    is_rounding: bool
    remaining: float = 1.0

    @property
    def may_end(self) -> bool:
        """Whether the branch of solutions may end on the way."""
        return self.remaining < GOES_ON

    @property
    def worse(self) -> float:
        """Larger of nonlinearity and shift error."""
        return float(np.fmax(self.nonlinearity, self.shift_error))


def first_order_error(
    gd: GraphicalDerivative,
    objective: Objective,
    weights: Array,
    *,
    floor: float = 0.0,
    corrected: GraphicalDerivative | None = None,
    least_shift: float = 0.0,
    before: float | None = None,
    looks: bool = False,
) -> FirstOrderError:
    """Error of predicted weights on the perturbed data.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.
    objective : Objective
        On the perturbed data.
    weights : ndarray of shape (n_params,)
        Predicted, ``w + v0`` or corrected.
    floor : float, default=0.0
        Residuals of the perturbed problem up to this are rounding: no error.
    corrected : GraphicalDerivative, default=None
        What takes the next Newton step; None for ``gd``.
    least_shift : float, default=0.0
        Length that the shift error refers to at least.
    before : float, default=None
        Residual norm on the perturbed data at the solution, where it is known.
    looks : bool, default=False
        Whether to look at the curvature at the predicted weights, too: some products.

    Returns
    -------
    error : FirstOrderError
    """
    if before is None:
        before = gd.residual_norm(objective, gd.weights)
    changed = corrected is not None and corrected.kinks is not gd.kinks
    after = (corrected if corrected and changed else gd).residual_norm(
        objective, weights
    )
    moved = gd.length(weights - gd.weights)
    length = 1.0 + gd.length(gd.weights)
    if before <= max(floor, _ROUNDING * gd.residual_scale * length):
        return FirstOrderError(0.0, 0.0, after, True)
    enough = gd.resolution(before, after)
    taker = corrected or gd
    step = taker.newton_step(weights, objective, enough=enough)
    # A shift of 0 that leaves a Newton step has missed all of the movement.
    moved = max(moved, least_shift, np.finfo(float).tiny)
    missed, remaining = gd.length(step), 1.0
    look = second_look(taker, objective, weights, step) if looks else None
    if look is not None:
        seen = np.inf if look.step is None else gd.length(look.step)
        missed = seen if look.is_measured else max(missed, seen)
        remaining = look.remaining
    return FirstOrderError(after / before, missed / moved, after, False, remaining)


def reach(
    gd: GraphicalDerivative,
    movement: Movement,
    *,
    tol: float,
    floor: float = 0.0,
    precision: float = _PRECISION,
    farthest: float = _FARTHEST,
    least_shift: float = 0.0,
    shift: Array | None = None,
) -> float:
    """Largest t at which the first order holds along ``t`` times a movement.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.
    movement : Movement
        Direction, of any length.
    tol : float
        Error (the worse of nonlinearity and shift error) that still counts as holding.
    floor : float, default=0.0
        As in `first_order_error`.
    precision : float, default=0.01
        Relative precision of t, from below.
    farthest : float, default=1e6
        Largest t that is asked about.
    least_shift : float, default=0.0
        Where positive, the shift error alone counts, as in `first_order_error`: a
        movement that passes through 0 then has no large error.
    shift : ndarray of shape (n_params,), default=None
        The predicted shift where it is known; NaN of an empty set.

    Returns
    -------
    t : float
        0 where the predicted set is empty, inf where the error stays below ``tol`` up
        to ``farthest``.
    """
    if shift is None:
        shift = gd.along(movement).shift
    if not np.isfinite(shift).all():
        return 0.0
    objective = gd.objective

    def error(t: float) -> float:
        found = first_order_error(
            gd,
            objective.moved(movement, t),
            gd.weights + t * shift,
            floor=floor,
            least_shift=least_shift,
            looks=True,
        )
        worse = found.shift_error if least_shift else found.worse
        return worse if np.isfinite(worse) and not found.may_end else np.inf

    return _first_crossing(error, tol, precision, farthest)


def _first_crossing(error: Any, tol: float, precision: float, farthest: float) -> float:
    """First t with ``error(t) = tol``, for an error about in proportion to t."""
    inside, outside, t = 0.0, np.inf, min(_FIRST, farthest)
    for _ in range(_MAX_STEPS):
        e = error(t)
        if e <= tol:
            inside = t
        else:
            outside = t
        if inside >= farthest:
            return np.inf
        if outside < np.inf and outside - inside <= precision * outside:
            break
        if outside <= _NEAREST:
            break
        # What proportionality says, kept away from the bracket's ends.
        guess = t * tol / e if e > 0 else np.inf
        if outside == np.inf:
            grown = float(np.clip(guess, 1.5 * inside, _GROWTH * inside))
            t = min(grown, farthest)
        elif inside and outside < 1.5 * inside:
            t = 0.5 * (inside + outside)
        else:
            low = inside + 0.1 * (outside - inside) if inside else 0.01 * outside
            t = float(np.clip(guess, low, inside + 0.9 * (outside - inside)))
    return inside
