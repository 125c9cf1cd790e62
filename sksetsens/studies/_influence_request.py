"""What is asked of an influence: rows or groups that go, points and their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..objective import Objective
from ..perturbation import check_points
from ..sensitivity import GraphicalDerivative

__all__ = ["InfluencePoints", "points_asked", "removals"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class InfluencePoints:
    """Where values are asked for; X None for the rows themselves."""

    X: Any
    y: Any
    of: str

    def values(self, objective: Objective, many: Array, sets: list[Rows]) -> Array:
        """At each of many weights, (n_sets, n_points, ...)."""
        if self.X is None:
            rows = np.array([rows[0] for rows in sets])
            return objective.own_losses_of(many, rows)[:, None]
        if self.of == "loss":
            return objective.losses_of(many, self.X, self.y)
        return objective.predictions_of(many, self.X)

    def gradients(self, gd: GraphicalDerivative) -> Array:
        """Of the values in the weights at the solution, (n_points, ..., p)."""
        o = gd.objective.off_kinks()
        if self.of == "prediction":
            return o.prediction_jacobian(gd.weights, self.X)
        X, y = (o.inputs, o.targets) if self.X is None else (self.X, self.y)
        return o.loss_jacobian(gd.weights, X, y)


def removals(final: Any, samples: Any, groups: Any) -> list[Rows]:
    n = len(final.inputs_)
    if groups is not None:
        if samples is not None:
            raise ValueError(
                "The 'samples' parameter of sample_influence must be None with groups. "
                f"Got {samples!r} too."
            )
        if not len(groups):
            raise ValueError(
                "The 'groups' parameter of sample_influence must hold a group. Got "
                "none."
            )
        return [_group(final, k, group, n) for k, group in enumerate(groups)]
    rows = np.arange(n) if samples is None else _rows("samples", samples, n)
    if not len(rows):
        raise ValueError(
            "The 'samples' parameter of sample_influence must name a row. Got none."
        )
    return [_group(final, None, rows[k : k + 1], n) for k in range(len(rows))]


def _group(final: Any, number: int | None, group: Any, n: int) -> Rows:
    rows = np.unique(_rows("groups", group, n))
    if not len(rows):
        raise ValueError(
            "The 'groups' parameter of sample_influence must hold rows in each group. "
            f"Got an empty one, number {number}."
        )
    left = final.sample_weight_.copy()
    left[rows] = 0.0
    if not left.any():
        raise ValueError(
            "The 'groups' parameter of sample_influence must leave rows with a weight. "
            f"Got {'all of them' if number is None else f'all in number {number}'}."
        )
    return rows


def _rows(name: str, rows: Any, n: int) -> Rows:
    found = np.asarray(rows)
    if found.dtype == bool and found.shape == (n,):
        return np.flatnonzero(found)
    if not found.size:
        return np.zeros(0, dtype=np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"The {name!r} parameter of sample_influence must hold row numbers. Got "
            f"{rows!r} instead."
        )
    unknown = found[(found < 0) | (found >= n)]
    if len(unknown):
        raise ValueError(
            f"The {name!r} parameter of sample_influence must hold row numbers below "
            f"{n}. Got {unknown[0]} instead."
        )
    return found.astype(np.int64)


def points_asked(final: Any, X: Any, y: Any, of: str, groups: Any) -> InfluencePoints:
    if X is None:
        if of == "prediction" or groups is not None:
            raise ValueError(
                "The 'X' parameter of sample_influence must be given for groups and "
                "predictions. Got None, which asks for each row's own loss."
            )
        return InfluencePoints(None, None, of)
    if of == "prediction":
        return InfluencePoints(*check_points(final, X, caller="sample_influence"), of)
    if y is None:
        raise ValueError(
            "The 'y' parameter of sample_influence must be given for of='loss'. Got "
            "None; of='prediction' needs none."
        )
    return InfluencePoints(*check_points(final, X, y, caller="sample_influence"), of)
