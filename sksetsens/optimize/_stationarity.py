"""How far weights are from being stationary, on a scale that compares problems."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective

__all__ = ["stationarity"]

Array = NDArray[np.float64]


def stationarity(objective: Objective, weights: Array, gradient_norm: float) -> float:
    r"""Relative stationarity :math:`|R| / (|H|_2 (1 + |w|))`.

    The numerator over :math:`|H|_2` is the length of the Newton step along the
    stiffest direction, so that the ratio compares movements of the weights: it does
    not change with the loss's scale, the batch size or duplicated rows, and it does
    not fall when loss and Hessian vanish together (separable classes without a
    penalty), where the weights run to infinity. 0/0 counts as 0.
    """
    if gradient_norm == 0.0:
        return 0.0
    scale = objective.hessian_norm(weights) * (1.0 + float(np.linalg.norm(weights)))
    return gradient_norm / scale if scale > 0 else np.inf
