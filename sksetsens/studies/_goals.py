"""What an inverse question asks for, and the shortest perturbation towards it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..sensitivity import GraphicalDerivative

__all__ = ["Goal", "PredictionGoal", "WeightGoal", "shortest_perturbation"]

Array = NDArray[np.float64]

# Singular values of the map from data to target below this share of the largest would
# need perturbations so large that they are no answer.
_RCOND = 1e-10


@dataclass(frozen=True)
class WeightGoal:
    """Weights to be reached by the set."""

    target: Array

    def gap(self, gd: GraphicalDerivative) -> Array:
        """What is missing, freed of what ker H gives for nothing."""
        return gd.kernel.complement().project(self.target - gd.weights)

    def rows(
        self, gd: GraphicalDerivative, moving: NDArray[np.bool_]
    ) -> tuple[Array, Array]:
        """Matrix from the moving entries to the movement, and what is missing."""
        basis, reduced = gd.range_map()
        return -reduced[:, moving], basis.T @ self.gap(gd)

    def missing(self, gd: GraphicalDerivative) -> tuple[float, float]:
        """Distance from the set and from its base point."""
        to_point = float(np.linalg.norm(self.target - gd.weights))
        return float(np.linalg.norm(self.gap(gd))), to_point


@dataclass(frozen=True)
class PredictionGoal:
    """Predictions to be reached on given rows."""

    X: Array
    target: Array

    def gap(self, gd: GraphicalDerivative) -> Array:
        """Change of predictions that is missing."""
        found = gd.objective.predictions(gd.weights, self.X)
        return self.target - found.reshape(self.target.shape)

    def rows(
        self, gd: GraphicalDerivative, moving: NDArray[np.bool_]
    ) -> tuple[Array, Array]:
        """Matrix from the moving entries to the predictions, and what is missing."""
        J = gd.objective.prediction_jacobian(gd.weights, self.X)
        J = J.reshape(-1, gd.weights.size)
        adjoints = (gd.solution_operator.rmatvec(g) for g in J)
        moved = [-adjoint.reshape(moving.shape)[moving] for adjoint in adjoints]
        return np.stack(moved), self.gap(gd).ravel()

    def missing(self, gd: GraphicalDerivative) -> tuple[float, float]:
        """Norm of the change that is missing, twice."""
        left = float(np.linalg.norm(self.gap(gd)))
        return left, left


Goal = WeightGoal | PredictionGoal


def shortest_perturbation(
    goal: Goal,
    gd: GraphicalDerivative,
    moving: NDArray[np.bool_],
) -> tuple[Array, float]:
    """Shortest least-squares perturbation, and the share that it leaves."""
    blocks, gap = goal.rows(gd, moving)
    norm = float(np.linalg.norm(gap))
    dX = np.zeros(gd.objective.input_shape)
    if norm == 0.0:
        return dX, 0.0
    entries = _minimum_norm(blocks, gap)
    dX.reshape(moving.shape)[moving] = entries
    return dX, float(np.linalg.norm(blocks @ entries - gap)) / norm


def _minimum_norm(matrix: Array, b: Array) -> Array:
    """Shortest least-squares solution; a wide matrix by its triangular factor."""
    if matrix.shape[1] <= matrix.shape[0]:
        return scipy.linalg.lstsq(matrix, b, cond=_RCOND)[0]
    q, r = scipy.linalg.qr(matrix.T, mode="economic")
    return q @ scipy.linalg.lstsq(r.T, b, cond=_RCOND)[0]
