"""How far weights are from being stationary, on a scale that compares problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe
from ..objective import SINGLE_FROM, Objective, PointProducts

__all__ = ["STILL_SHRINKING", "Place", "runs_away", "stationarity"]

Array = NDArray[np.float64]

# A step that shrinks the residual by less makes no progress worth another one.
STILL_SHRINKING = 0.5

# Relative gradients above this are far from every tolerance: H is taken at its word.
_EXAMINED = 1e-4
# Newton lengths |R| / |H| within which R must change as H says. At a cone, where R
# turns and does not grow, it changes by 2 |R| at most, a fiftieth of that.
_NEWTON_LENGTHS = 100.0
# Share of what H says that R must change by. Between 1 and a fiftieth.
_FOLLOWS = 0.5
# Steps relative to 1 + |w|: the first stays above the rounding of w, the last one
# within the neighbourhood that a solution is judged by, and how they grow.
_FIRST_STEP, _LAST_STEP, _GROWTH = 1e-12, 1e-2, 100.0


def stationarity(
    objective: Objective,
    weights: Array,
    gradient_norm: float,
    hessian_norm: float | None = None,
) -> float:
    r"""Relative stationarity :math:`|R| / (|H|_2 (1 + |w|))`.

    The numerator over :math:`|H|_2` is the length of the Newton step along the
    stiffest direction, so that the ratio compares movements of the weights: it does
    not change with the loss's scale, the batch size or duplicated rows, and it does
    not fall when loss and Hessian vanish together (separable classes without a
    penalty), where the weights run to infinity. 0/0 counts as 0.

    Near the tip of a cone (the root of a mean square at interpolation) H explodes
    while R keeps its size. There R does not change as H says, and the slope that R has
    over a hundredth of the weights' length takes the place of :math:`|H|_2`.
    """
    if gradient_norm == 0.0:
        return 0.0
    length = 1.0 + float(np.linalg.norm(weights))
    norm = objective.hessian_norm(weights) if hessian_norm is None else hessian_norm
    if not (norm > 0.0 and np.isfinite(norm)):
        return np.inf
    relative = gradient_norm / (norm * length)
    if relative > _EXAMINED:
        return relative
    return relative / _share_followed(objective, weights, gradient_norm)


@dataclass(frozen=True)
class Place:
    """Norms of R and H at some weights, and how stationary they are."""

    gradient_norm: float
    hessian_norm: float
    relative: float

    @classmethod
    def of(cls, objective: Objective, w: Array) -> Self:
        R, H = float(np.linalg.norm(objective.gradient(w))), objective.hessian_norm(w)
        return cls(R, H, stationarity(objective, w, R, H))


def _share_followed(objective: Objective, w: Array, gradient_norm: float) -> float:
    """Slope of R over |H v| along a stiff direction v; 1 where R follows H."""
    single = objective.n_params >= SINGLE_FROM
    hessian = PointProducts(objective, w, single=single).hessian
    v = hessian(probe(w.size, stream=1))
    v = v / np.linalg.norm(v)
    expected = float(np.linalg.norm(hessian(v)))
    length = 1.0 + float(np.linalg.norm(w))
    last = _LAST_STEP * length
    h = max(_NEWTON_LENGTHS * gradient_norm / expected, _FIRST_STEP * length)
    share = 1.0
    while h < _GROWTH * last:
        h = min(h, last)
        change = objective.gradient(w + h * v) - objective.gradient(w - h * v)
        share = float(np.linalg.norm(change)) / (2.0 * h * expected)
        # Whatever is not finite is no evidence against H.
        if not share < _FOLLOWS:
            return 1.0
        h *= _GROWTH
    return max(share, np.finfo(float).tiny)


def runs_away(objective: Objective, w: Array) -> bool:
    """Whether scaling the weights up by half at least halves the loss.

    As on separable data without a penalty: there is no finite minimiser.
    """
    if objective.is_tilted or objective.decay.any():
        return False
    here, further = objective.loss(w), objective.loss(1.5 * w)
    return bool(further < 0.5 * here and here > np.finfo(float).eps)
