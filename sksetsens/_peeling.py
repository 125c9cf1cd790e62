"""From a pipeline or a fitted search to the estimator at its end."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

__all__ = ["check_wraps_a_set", "peel"]


def peel(estimator: Any, X: Any = None, *, caller: str) -> tuple[Any, Any]:
    """The estimator at the end of searches and pipelines, and X as it sees it.

    Parameters
    ----------
    estimator : estimator
        A `SolutionSetEstimator`, a fitted Pipeline that ends in one, or a fitted
        search (with ``best_estimator_``) over either.

    X : array-like, default=None
        Data, sent through the transformers on the way; None stays None.

    caller : str
        Name of the function asked, for the error.

    Returns
    -------
    estimator, X : tuple

    Raises
    ------
    TypeError
        If no `SolutionSetEstimator` is at the end.
    NotFittedError
        If a search is not fitted.
    """
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            if X is not None and len(estimator.steps) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator.steps[-1][1]
        elif _is_set(estimator):
            return estimator, X
        else:
            check_wraps_a_set(estimator, caller=caller)
            raise NotFittedError(
                f"The 'estimator' parameter of {caller} must be fitted. This "
                f"{type(estimator).__name__} is not fitted yet."
            )


def check_wraps_a_set(estimator: Any, *, caller: str) -> None:
    """Raise unless a `SolutionSetEstimator` is at the end of unfitted wrappers, too."""
    while not _is_set(estimator):
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, BaseEstimator) and hasattr(estimator, "estimator"):
            if getattr(estimator, "refit", True) is False:
                raise ValueError(
                    f"The 'estimator' parameter of {caller} must not be a search with "
                    f"refit=False, which keeps no estimator. Got {estimator!r} instead."
                )
            estimator = estimator.estimator
        else:
            raise _no_set(estimator, caller)


def _is_set(estimator: Any) -> bool:
    return hasattr(estimator, "sensitivity") and not isinstance(estimator, type)


def _no_set(estimator: Any, caller: str) -> TypeError:
    return TypeError(
        f"The 'estimator' parameter of {caller} must end in a SolutionSetEstimator. "
        f"Got {type(estimator).__name__} instead."
    )
