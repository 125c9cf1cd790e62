"""One solution brought to a stationary point of nearby data: warm retraining."""

from __future__ import annotations

from ._objective import Objective
from ._stationarity import Polished, polish
from .derivatives import GraphicalDerivative

__all__ = ["continued"]


def continued(gd: GraphicalDerivative, objective: Objective, *, tol: float) -> Polished:
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

    Returns
    -------
    polished : Polished
    """
    return polish(
        objective,
        gd.weights,
        tol=tol,
        warm=True,
        keep_index=gd.factor.inertia[0] > 0,
        nearby=gd.factor,
    )
