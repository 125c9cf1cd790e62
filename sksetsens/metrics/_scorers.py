"""Scorers for cross-validation and searches: ``scorer(estimator, X, y)``.

Greater is better. Each takes a fitted `SolutionSetEstimator`, a pipeline that ends in
one, or a fitted search over either. What they measure refers to the data the
estimator was fitted on; only `perturbed_score` reads X and y.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._peeling import peel
from ..exceptions import StationarityWarning

__all__ = [
    "neg_lipschitz_modulus",
    "neg_prediction_gap",
    "neg_shift_norm",
    "perturbed_score",
]


class _SensitivityScorer:
    """A named function of a fitted estimator as a scorer."""

    def __init__(self, name: str, function: Any, doc: str) -> None:
        self._function = function
        self.__name__ = name
        self.__doc__ = doc

    def __call__(self, estimator: Any, X: Any = None, y: Any = None) -> float:
        final, X = peel(estimator, X, caller=self.__name__)
        return float(self._function(final, X, y))

    def __repr__(self) -> str:
        return f"<scorer {self.__name__}>"

    def __reduce__(self) -> tuple:
        return (_named, (self.__name__,))


def _named(name: str) -> _SensitivityScorer:
    return globals()[name]


def _neg_lipschitz_modulus(estimator: Any, X: Any, y: Any) -> float:
    return -estimator.lipschitz_modulus_


def _neg_shift_norm(estimator: Any, X: Any, y: Any) -> float:
    return -estimator.sensitivity(estimator.perturb()).shift_norm.max()


def _perturbed_score(estimator: Any, X: Any, y: Any) -> float:
    return estimator.score_of(estimator.sensitivity(estimator.perturb()), X, y)


def _neg_prediction_gap(estimator: Any, X: Any, y: Any) -> float:
    X_perturbed = estimator.perturb()
    if np.array_equal(X_perturbed, estimator.X_train_):
        return 0.0  # Otherwise what polishing leaves, relative to a shift of zero.
    predicted = estimator.sensitivity(X_perturbed)
    gaps = predicted.relative_gaps(estimator.retrain(X_perturbed))
    unknown = int(np.isnan(gaps).sum())
    if unknown:
        warnings.warn(
            f"neg_prediction_gap is NaN: {unknown} of {len(gaps)} retrained solutions "
            "did not become stationary, so that there is no truth to compare with. Add "
            "weight decay, loosen tol, or perturb less.",
            StationarityWarning,
            stacklevel=3,
        )
    return -float(np.max(gaps))


neg_lipschitz_modulus = _SensitivityScorer(
    "neg_lipschitz_modulus",
    _neg_lipschitz_modulus,
    "Minus the Lipschitz modulus ``|H^+ B|_2``, the largest over the solutions.",
)
neg_shift_norm = _SensitivityScorer(
    "neg_shift_norm",
    _neg_shift_norm,
    "Minus the Euclidean norm of the predicted shift under the estimator's own "
    "perturbation, the largest over the solutions (arXiv 2412.11057, Algorithm 1).",
)
perturbed_score = _SensitivityScorer(
    "perturbed_score",
    _perturbed_score,
    "Score on held-out (X, y) of the set predicted for perturbed training data: what "
    "the perturbation would cost, without retraining.",
)
neg_prediction_gap = _SensitivityScorer(
    "neg_prediction_gap",
    _neg_prediction_gap,
    "Minus the distance from the warm-retrained weights to their predicted piece, "
    "relative to the shift; the largest over the solutions. NaN, with a warning, where "
    "retraining did not become stationary.",
)
