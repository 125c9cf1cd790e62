"""Affine pieces of solution sets near one solution, on old and on perturbed data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..linalg import FarthestPoint, Subspace
from ..optimize import continued
from ..perturbation import Perturbation
from ..sensitivity import GraphicalDerivative

__all__ = ["LocalSet", "local_set", "retrained_set"]

Array = NDArray[np.float64]

# Off a degenerate point, which may stay stationary as a saddle.
_NUDGE = 1e-6


@dataclass(frozen=True)
class LocalSet:
    """Affine piece of a set: base point and directions."""

    origin: Array
    directions: Subspace

    def excess(self, other: LocalSet, center: Array, radius: float) -> float | None:
        """``e(self n U, other)``, U the ball around the centre; None if it misses."""
        nearest = self.origin + self.directions.project(center - self.origin)
        across = float(np.linalg.norm(center - nearest))
        if across > radius:
            return None
        room = float(np.sqrt(radius**2 - across**2))
        farthest = FarthestPoint(self.directions, other.directions)
        return farthest(nearest - other.origin, room)[0]


def local_set(gd: GraphicalDerivative, trusted: bool) -> LocalSet:
    """The piece ``w + ker H``, or where it is not trusted the solution alone."""
    point = Subspace(np.zeros((gd.weights.size, 0)))
    return LocalSet(gd.weights, gd.kernel if trusted else point)


def retrained_set(
    gd: GraphicalDerivative, perturbation: Perturbation, trusted: bool
) -> LocalSet | None:
    """The piece on the perturbed data, with the rank that H has there.

    None where retraining did not become stationary.
    """
    objective = perturbation.objective(gd.objective)
    nudge = 0.0 if trusted else _NUDGE
    polished = continued(
        gd.weights,
        gd.factor,
        objective,
        tol=perturbation.estimator.tol,
        nudge=nudge,
        active=gd.active,
    )
    if not polished.converged:
        return None
    there = gd.at(
        objective.on_kinks(polished.kinks),
        polished.weights,
        keep_rank=False,
        stationarity=polished.stationarity,
    )
    return local_set(there, trusted)
