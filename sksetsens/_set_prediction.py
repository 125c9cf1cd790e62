"""What a set of solutions predicts: means over its members, and their scores."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import accuracy_score, check_scoring, r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._validation import prediction_scorer
from .perturbation import check_inputs
from .sets import SolutionSet

__all__ = ["SetPredictionMixin"]


def _wraps(check: Any) -> Any:
    return available_if(lambda self: check(self.estimator))


class SetPredictionMixin:
    """Predictions and scores of a fitted `SolutionSetEstimator`.

    The estimator stores the solution set and, of a classifier, the classes; the wrapped
    net says whether it is one.
    """

    estimator: Any
    solution_set_: SolutionSet
    classes_: Any

    def predict(self, X):
        """Prediction of the set: mean over the solutions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Classifiers: the class of the largest mean probability.
        """
        check_is_fitted(self)
        return self._decide(self.solution_set_, check_inputs(self, X))

    @_wraps(is_classifier)
    def predict_proba(self, X):
        """Mean class probabilities over the solutions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.solution_set_.predict(check_inputs(self, X)).mean(axis=0)

    @_wraps(lambda net: is_classifier(net) or is_regressor(net))
    def score(self, X, y, sample_weight=None):
        """Accuracy (classifiers) or R2 (regressors) of the set's prediction.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        metric = accuracy_score if is_classifier(self.estimator) else r2_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def score_of(
        self, solutions: SolutionSet, X, y, *, scoring=None, sample_weight=None
    ) -> float:
        """Score on (X, y) of another set of the same net, for example a predicted one.

        Parameters
        ----------
        solutions : SolutionSet

        X, y : array-like
            Held-out data.

        scoring : str or callable, default=None
            scikit-learn's scorer; None for the estimator's own ``score``.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            NaN where a solution of the set is empty.
        """
        check_is_fitted(self)
        scoring = prediction_scorer("score_of", scoring)
        if np.isnan(solutions.weights).any():
            return float("nan")
        # As if it had been fitted; the other fitted arrays are shared.
        twin = copy.copy(self)
        twin.solution_set_ = solutions
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(check_scoring(twin, scoring)(twin, X, y, **weights))

    def _decide(self, solutions: SolutionSet, X):
        mean = solutions.predict(X).mean(axis=0)
        if not is_classifier(self.estimator):
            return mean
        threshold = getattr(self.estimator, "threshold", None)
        if threshold is not None:
            return self.classes_[(mean[:, 1] > threshold).astype(int)]
        return self.classes_[mean.argmax(axis=1)]
