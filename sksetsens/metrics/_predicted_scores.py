"""What is scored of the set predicted for moved training data, or for fewer rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..perturbation import check_inputs

__all__ = ["PredictionScore", "SetScore"]


class _OfPredictedSet:
    """Predict the set for perturbed training data, and score it."""

    def __init__(
        self,
        perturbation: dict[str, Any],
        n_corrections: int,
        removed_fraction: float | None = None,
    ) -> None:
        self.perturbation = perturbation
        self.n_corrections = n_corrections
        self.removed_fraction = removed_fraction

    def predicted(self, estimator: Any) -> tuple[dict[str, Any], Any]:
        """The change of the data, and the set predicted for it."""
        if self.removed_fraction is not None:
            weights = estimator.sample_weight_ * ~self._removed(estimator)
            change = {"sample_weight": weights}
        else:
            # A shallow copy: the estimator keeps its parameters, fitted arrays are
            # shared.
            moved = copy.copy(estimator).set_params(**self.perturbation).perturb()
            change = {"X_perturbed": moved}
        predicted = estimator.sensitivity(**change, n_corrections=self.n_corrections)
        return change, predicted

    def _removed(self, estimator: Any) -> NDArray[np.bool_]:
        """Rows drawn from the seed of the estimator's perturbations."""
        n = len(estimator.inputs_)
        rng = np.random.RandomState(estimator._perturbation_seed % 2**32)
        chosen = np.zeros(n, dtype=bool)
        size = max(1, round((self.removed_fraction or 0.0) * n))
        chosen[rng.permutation(n)[:size]] = True
        return chosen


class PredictionScore(_OfPredictedSet):
    """Score on held-out rows of the predicted set's predictions."""

    def __init__(self, scoring: Any, *settings: Any) -> None:
        super().__init__(*settings)
        self.scoring = scoring

    def __call__(self, estimator: Any, X: Any, y: Any, **weights: Any) -> float:
        _, predicted = self.predicted(estimator)
        score: float = estimator.score_of(
            predicted, X, y, scoring=self.scoring, **weights
        )
        return score


class SetScore(_OfPredictedSet):
    """Function of the predicted set and, where asked for, of the retrained one."""

    def __init__(
        self,
        score_func: Callable[..., float],
        sign: int,
        retrain: bool,
        kwargs: dict[str, Any],
        *settings: Any,
    ) -> None:
        super().__init__(*settings)
        self.score_func, self.sign = score_func, sign
        self.retrain, self.kwargs = retrain, kwargs

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        change, predicted = self.predicted(estimator)
        sets = [predicted]
        if self.retrain:
            # Without a perturbation polishing would only move the last bits.
            moved = change.get("X_perturbed")
            still = moved is not None and np.array_equal(
                check_inputs(estimator, moved, may_be_nameless=True), estimator.inputs_
            )
            sets += [estimator.solution_set_ if still else estimator.retrain(**change)]
        return self.sign * self.score_func(*sets, **self.kwargs)
