"""One solution brought to a stationary point of nearby data: warm retraining."""

from __future__ import annotations

import numpy as np

from ._objective import Objective
from ._stationarity import Polished, polish
from .derivatives import GraphicalDerivative

__all__ = ["continued"]


def continued(
    gd: GraphicalDerivative, objective: Objective, *, tol: float, nudge: float = 0.0
) -> Polished:
    """Second-order steps on another objective from the solution of ``gd``.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution on the old data; its factorisation is used where the solution
        is isolated.
    objective : Objective
        On the new data.
    tol : float
        Relative stationarity asked for.
    nudge : float, default=0.0
        Length, relative to 1 + |w|, of a movement within ker H before the first step:
        off a point that stays stationary without staying a minimum.

    Returns
    -------
    polished : Polished
    """
    start = gd.weights
    if nudge:
        along = gd.kernel.project(np.random.RandomState(0).standard_normal(start.size))
        length = float(np.linalg.norm(along))
        if length > 0.0:
            start = start + nudge * (1.0 + np.linalg.norm(start)) / length * along
    return polish(
        objective,
        start,
        tol=tol,
        warm=True,
        keep_index=gd.factor.inertia[0] > 0,
        nearby=gd.factor,
    )
