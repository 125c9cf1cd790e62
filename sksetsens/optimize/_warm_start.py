"""One solution brought to a stationary point of nearby data: warm retraining."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import PseudoInverse, probe
from ..objective import Objective
from ._active_set import ActiveSet
from ._polish import Polished, polish

__all__ = ["continued"]

Array = NDArray[np.float64]


def continued(
    start: Array,
    factor: PseudoInverse,
    objective: Objective,
    *,
    tol: float,
    nudge: float = 0.0,
    active: ActiveSet | None = None,
) -> Polished:
    """Second-order steps on another objective from a solution.

    Parameters
    ----------
    start : ndarray of shape (n_params,)
        The solution on the old data.
    factor : PseudoInverse
        Of H there; its factorisation is used where the solution is isolated.
    objective : Objective
        On the new data.
    tol : float
        Relative stationarity asked for.
    nudge : float, default=0.0
        Length, relative to 1 + |w|, of a movement within ker H before the first step:
        off a point that stays stationary without staying a minimum.
    active : ActiveSet, default=None
        Kinks and gates of the solution on the old data.

    Returns
    -------
    polished : Polished
    """
    if nudge:
        along = factor.kernel.project(probe(start.size))
        length = float(np.linalg.norm(along))
        if length > 0.0:
            start = start + nudge * (1.0 + np.linalg.norm(start)) / length * along
    return polish(
        objective,
        start,
        tol=tol,
        warm=True,
        keep_index=factor.inertia[0] > 0,
        nearby=factor,
        active=active,
    )
