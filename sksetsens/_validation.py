"""What users pass in: numbers, arrays, pipelines; and where warnings point."""

from __future__ import annotations

import sys
import warnings
from numbers import Integral, Real
from types import FrameType
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from .exceptions import FittedNetWarning

__all__ = [
    "check_choice",
    "check_count",
    "check_positive",
    "check_rows",
    "check_wraps_a_set",
    "dense",
    "prediction_scorer",
    "real_points",
    "selection",
    "unwrap",
    "user_stacklevel",
    "warn_of_fitted_net",
]

# Numbers and arrays -------------------------------------------------------------------


def check_count(owner: str, name: str, value: Any, *, low: int) -> None:
    """Raise unless `value` is an integer of at least `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be an integer of at least {low}. "
            f"Got {value!r} instead."
        )


def check_positive(
    owner: str,
    name: str,
    value: Any,
    *,
    below: float = np.inf,
    up_to: float | None = None,
) -> None:
    """Raise unless `value` is a number strictly between 0 and `below`.

    With ``up_to`` the upper end belongs to the interval.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and 0 < float(value) < below and (up_to is None or value <= up_to):
        return
    wanted = "a positive number" if np.isinf(below) else f"a number in (0, {below})"
    if up_to is not None:
        wanted = f"a number in (0, {up_to}]"
    raise ValueError(
        f"The '{name}' parameter of {owner} must be {wanted}. Got {value!r} instead."
    )


def check_choice(owner: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the strings known."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be one of {known}. Got {value!r} "
            "instead."
        )


def real_points(name: str, value: Any) -> NDArray[np.float64]:
    """Points as float64; of a set, its solutions.

    Raises
    ------
    ValueError
        If these are no real numbers.
    """
    try:
        points = np.asarray(getattr(value, "weights", value))
        if points.dtype.kind == "c":
            raise TypeError("complex numbers")
        return points.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The {name!r} parameter must be a SolutionSet or an array of real "
            f"numbers. Got {value!r} instead."
        ) from error


def dense(X: Any) -> Any:
    """An array of a sparse matrix; anything else as it is."""
    return X.toarray() if scipy.sparse.issparse(X) else X


def check_rows(
    X: ArrayLike, expected: tuple[int, ...], caller: str = "predict"
) -> NDArray[np.float64]:
    """X as finite float64 rows of the expected shape."""
    rows: NDArray[np.float64] = check_array(
        dense(X), dtype=np.float64, allow_nd=True, input_name="X"
    )
    if rows.shape[1:] != expected:
        raise ValueError(
            f"The 'X' parameter of {caller} must have rows of shape {expected}, as in "
            f"training. Got {rows.shape[1:]} instead."
        )
    return rows


def selection(name: str, chosen: ArrayLike | None, size: int) -> NDArray[np.bool_]:
    """Mask of the chosen positions, given as integers, as a mask, or None for all.

    Raises
    ------
    ValueError
        If a position does not exist or none is chosen.
    """
    mask = np.zeros(size, dtype=bool)
    if chosen is None:
        return ~mask
    given: NDArray[Any] = np.atleast_1d(np.asarray(chosen))
    if given.dtype == bool and given.shape == (size,):
        mask = given.copy()
    elif given.dtype.kind in "iu" and given.ndim == 1 and _exist(given, size):
        mask[given] = True
    else:
        raise ValueError(
            f"The {name!r} parameter must hold integers from {-size} to {size - 1}, or "
            f"be a mask of shape ({size},). Got {chosen!r} instead."
        )
    if not mask.any():
        raise ValueError(f"The {name!r} parameter must choose at least one. Got none.")
    return mask


def _exist(positions: NDArray[Any], size: int) -> bool:
    return bool(np.all((-size <= positions) & (positions < size)))


# Where a warning points ---------------------------------------------------------------

_PACKAGE = __name__.partition(".")[0]
# Between the user and the package: pipelines, searches, loops in parallel, threads.
_CARRIERS = {_PACKAGE, "sklearn", "joblib", "skorch", *sys.stdlib_module_names}


def user_stacklevel() -> int:
    """``stacklevel`` with which the caller's warning names the user's line.

    That is the first frame outside the package and what carries its calls. Where there
    is none, as in a worker, it is the first frame outside the package.
    """
    frame: FrameType | None = sys._getframe(1)
    level, outside = 0, 0
    while frame is not None:
        level += 1
        top = frame.f_globals.get("__name__", "").partition(".")[0]
        if not outside and top != _PACKAGE:
            outside = level
        if top not in _CARRIERS:
            return level
        frame = frame.f_back
    return outside or level


def warn_of_fitted_net(net: Any) -> None:
    """Say that the weights of an initialised net are not used."""
    if not getattr(net, "initialized_", False):
        return
    warnings.warn(
        f"The 'estimator' parameter of SolutionSetEstimator is a {type(net).__name__} "
        "that is initialised or fitted already. Its weights are not used: fit trains a "
        "clone anew, as everywhere in scikit-learn. SolutionSetEstimator.from_fitted("
        "net, X, y) keeps them; pass sklearn.base.clone(net) to silence this.",
        FittedNetWarning,
        stacklevel=user_stacklevel(),
    )


# Pipelines and searches, unwrapped ----------------------------------------------------


def unwrap(estimator: Any, X: Any = None, *, caller: str) -> tuple[Any, Any]:
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


# Scorers of predictions ---------------------------------------------------------------


def prediction_scorer(caller: str, scoring: Any) -> Any:
    """The scorer of predictions that ``scoring`` names or is; None for None.

    Raises
    ------
    ValueError
        If it is none, or scores sets: those perturb the data themselves, and know
        nothing of another set.
    """
    if getattr(scoring, "perturbs_data", False):
        raise ValueError(
            f"The 'scoring' parameter of {caller} must score predictions. Got "
            f"{scoring!r} instead, which perturbs the data itself."
        )
    if scoring is None or callable(scoring):
        return scoring
    if not isinstance(scoring, str):
        raise ValueError(
            f"The 'scoring' parameter of {caller} must be the name of one scorer, a "
            f"callable or None. Got {scoring!r} instead."
        )
    return get_scorer(scoring)
