"""What users pass in: numbers, arrays, data, pipelines; and where warnings point."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data
from skorch import NeuralNetBinaryClassifier

from .exceptions import FittedNetWarning

__all__ = [
    "TrainingData",
    "check_choice",
    "check_count",
    "check_positive",
    "check_rows",
    "check_training_data",
    "check_wraps_a_set",
    "encode_labels",
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


def check_rows(
    X: ArrayLike, expected: tuple[int, ...], caller: str = "predict"
) -> NDArray[np.float64]:
    """X as finite float64 rows of the expected shape."""
    rows: NDArray[np.float64] = check_array(
        X, dtype=np.float64, allow_nd=True, input_name="X"
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
        "clone anew, as everywhere in scikit-learn. Pass sklearn.base.clone(net) to "
        "silence this.",
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


# Training data ------------------------------------------------------------------------

# In C order: torch takes other kernels, with other last bits, for other strides.
# A copy: what was learnt must not change when the user writes to their own array.
_AS_ROWS = {"dtype": np.float64, "allow_nd": True, "order": "C", "copy": True}


@dataclass(frozen=True)
class TrainingData:
    """Checked training data.

    Attributes
    ----------
    X : ndarray of shape (n_samples, ...), float64
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        As given, a column flattened.
    targets : ndarray
        ``y`` as numbers: labels encoded to int64 (float64 for a binary net).
    classes : ndarray of shape (n_classes,) or None
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    targets: NDArray[Any]
    classes: NDArray[Any] | None


def check_training_data(owner: Any, net: Any, X: Any, y: Any) -> TrainingData:
    """Check X and y for ``owner.fit``; sets its feature names.

    Parameters
    ----------
    owner : SolutionSetEstimator
    net : skorch.NeuralNet
        Its type says what y means.
    X, y : array-like
    """
    _warn_of_integers(X)
    if is_classifier(net):
        X, y = validate_data(owner, X, y, **_AS_ROWS)
        return _labelled(net, X, y.copy())
    X, y = validate_data(
        owner,
        X,
        y,
        **_AS_ROWS,
        multi_output=True,
        y_numeric=is_regressor(net),
    )
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change "
            "the shape of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=user_stacklevel(),
        )
        y = y.ravel()
    targets = y if y.dtype.kind in "iu" and not is_regressor(net) else _real(y)
    return TrainingData(X, y.copy(), targets.copy(), None)


# Weights beyond these overflow on the way to their mean's square.
_LIGHTEST, _HEAVIEST = 1e-100, 1e100


def check_weights(
    caller: str, name: str, sample_weight: Any, targets: NDArray[Any]
) -> NDArray[np.float64] | None:
    """Weights of the rows; None where they are all 1.

    Parameters
    ----------
    caller, name : str
        The function and its parameter, for errors.
    sample_weight : array-like of shape (n_samples,) or None
    targets : ndarray of shape (n_samples, ...)
        As the criterion sees them: whole numbers are classes.

    Raises
    ------
    ValueError
        If they are of another length, negative, not finite, or all 0.

    Warns
    -----
    UserWarning
        If a class is left without a row.
    """
    if sample_weight is None:
        return None
    n = len(targets)
    wanted = (
        f"The {name!r} parameter of {caller} must be one number per row, {n} in all"
    )
    given = np.asarray(sample_weight)
    if np.iscomplexobj(given):
        raise ValueError(f"{wanted}. Got complex ones instead.")
    try:
        weights = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{wanted}. Got {type(sample_weight).__name__} ({error})."
        ) from error
    if weights.shape != (n,):
        raise ValueError(f"{wanted}. Got shape {weights.shape} instead.")
    bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0.0))
    if len(bad):
        raise ValueError(
            f"The {name!r} parameter of {caller} must be finite and not negative. Got "
            f"{weights[bad[0]]} at row {bad[0]} instead; 0 leaves a row out."
        )
    if not weights.any():
        raise ValueError(
            f"The {name!r} parameter of {caller} must leave a row. Got zeros only."
        )
    positive = weights[weights > 0.0]
    if not (positive.min() >= _LIGHTEST and positive.max() <= _HEAVIEST):
        raise ValueError(
            f"The {name!r} parameter of {caller} must lie between {_LIGHTEST:g} and "
            f"{_HEAVIEST:g}, or be 0: divide them by their mean. Got weights from "
            f"{positive.min():g} to {positive.max():g}."
        )
    warn_of_lost_classes(name, weights, targets, targets)
    return None if (weights == 1.0).all() else weights


def warn_of_lost_classes(
    name: str,
    weights: NDArray[np.float64],
    targets: NDArray[Any],
    before: NDArray[Any],
) -> None:
    """Say which of the classes in ``before`` have no row of positive weight."""
    if targets.dtype.kind not in "iu" or targets.ndim != 1:
        return
    lost = np.setdiff1d(before, targets[weights > 0.0])
    if len(lost):
        warnings.warn(
            f"The {name!r} parameter leaves no row of {len(lost)} of "
            f"{len(np.unique(before))} classes (number {lost[0]} in classes_): "
            "nothing but a penalty holds their outputs. Keep a row of each class.",
            UserWarning,
            stacklevel=user_stacklevel(),
        )


def _real(y: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The 'y' parameter of SolutionSetEstimator must hold real numbers unless "
            f"the net is a classifier. Got dtype {y.dtype} instead ({error})."
        ) from error


def _labelled(net: Any, X: NDArray[np.float64], y: NDArray[Any]) -> TrainingData:
    check_classification_targets(y)
    present = LabelEncoder().fit(y).classes_
    if len(present) < 2:
        raise ValueError(
            "The 'y' parameter of SolutionSetEstimator must hold at least two classes. "
            f"Got only one class, {present[0]!r}, instead. Classifier can't train when "
            "only one class is present."
        )
    classes = _given_classes(net, present)
    binary = isinstance(net, NeuralNetBinaryClassifier)
    if binary and len(classes) > 2:
        raise ValueError(
            "Only binary classification is supported by NeuralNetBinaryClassifier. "
            f"The type of the target is {type_of_target(y)}, with {len(classes)} "
            "classes. Use NeuralNetClassifier."
        )
    encoded = encode_labels(y, classes)
    return TrainingData(X, y, _real(encoded) if binary else encoded, classes)


def _given_classes(net: Any, present: NDArray[Any]) -> NDArray[Any]:
    """The net's ``classes`` in the user's order, or those in y where it has none."""
    given = getattr(net, "classes", None)
    if given is None:
        return present
    classes = np.array(given)
    if classes.ndim != 1 or len(np.unique(classes)) < len(classes):
        raise ValueError(
            "The 'classes' parameter of the net must be a list of distinct labels. Got "
            f"{given!r} instead."
        )
    unknown = sorted(set(present.tolist()) - set(classes.tolist()))
    if unknown:
        raise ValueError(
            "The 'y' parameter of SolutionSetEstimator must hold labels among the "
            f"net's classes, {classes.tolist()}. Got {unknown} too."
        )
    return classes


def encode_labels(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Position of each label in ``classes``, which need not be sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens._validation import encode_labels
    >>> encode_labels(np.array(["low", "high"]), np.array(["low", "mid", "high"]))
    array([0, 2])
    """
    order = np.argsort(classes)
    return order[np.searchsorted(classes, y, sorter=order)]


def _is_whole(dtype: Any) -> bool:
    """Whether a dtype of NumPy, pandas or torch holds integers or booleans."""
    if isinstance(dtype, torch.dtype):
        return not (dtype.is_floating_point or dtype.is_complex)
    return getattr(dtype, "kind", "O") in "iub"


def _warn_of_integers(X: Any) -> None:
    dtypes: Any = getattr(X, "dtypes", getattr(X, "dtype", None))
    if any(_is_whole(dtype) for dtype in np.atleast_1d(dtypes)):
        warnings.warn(
            "The 'X' parameter of SolutionSetEstimator holds integers, which were "
            "converted to float64. Sensitivity moves every feature continuously: "
            "encode categories first, or pass X.astype(float) if they are quantities.",
            DataConversionWarning,
            stacklevel=user_stacklevel(),
        )
