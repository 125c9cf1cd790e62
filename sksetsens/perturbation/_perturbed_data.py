"""Perturbed training data, given by the user or made by the estimator's parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from torch.utils.data import Dataset

from .._compat import check_feature_names, check_n_features
from .._training_data import (
    check_weights,
    encode_labels,
    read_dataset,
    warn_of_lost_classes,
)
from .._validation import dense, user_stacklevel
from ._directions import (
    called_directions,
    choose_rows,
    gradient_directions,
    perturbed,
    random_directions,
)

__all__ = [
    "PerturbedData",
    "check_inputs",
    "check_perturbed_data",
    "check_points",
    "perturb_data",
]

Array = NDArray[np.float64]


def check_inputs(
    estimator: Any, X: Any, name: str = "X", *, may_be_nameless: bool = False
) -> Array:
    """Data for a fitted estimator as float64, checked like any X.

    ``name`` is what errors call it. A bare array warns of missing feature names unless
    it ``may_be_nameless``. Several arrays come side by side.
    """
    if isinstance(X, Dataset):
        X = read_dataset(X)[0]
    layout = estimator._task.layout
    if layout is not None:
        return layout.pack(X, name)
    if not may_be_nameless or hasattr(X, "columns"):
        check_feature_names(estimator, X, reset=False)
    checked = check_array(
        dense(X),
        dtype=np.float64,
        allow_nd=True,
        order="C",
        estimator=estimator,
        input_name=name,
    )
    check_n_features(estimator, checked, reset=False)
    return checked


@dataclass(frozen=True)
class PerturbedData:
    """Perturbed training data, checked.

    Attributes
    ----------
    X : ndarray of the shape of the training X
    y : ndarray or None
        Real-valued targets as the criterion sees them; None where they stay.
    labels : ndarray of int of shape (n_samples,) or None
        Class numbers as the criterion sees them; None where none changes.
    sample_weight : ndarray of shape (n_samples,) or None
        New weights of the rows; None where they stay.
    """

    X: Array
    y: Array | None
    labels: NDArray[Any] | None
    sample_weight: Array | None


def check_perturbed_data(
    estimator: Any, X_perturbed: Any, y_perturbed: Any, sample_weight: Any, caller: str
) -> PerturbedData:
    """Checked perturbed data.

    Parameters
    ----------
    estimator : SolutionSetEstimator
        Fitted.
    X_perturbed, y_perturbed, sample_weight : array-like or None
        As passed to ``sensitivity`` or ``retrain``.
    caller : str
        For errors.

    Returns
    -------
    data : PerturbedData
    """
    X = estimator.inputs_
    if X_perturbed is None and y_perturbed is None and sample_weight is None:
        raise ValueError(
            f"The 'X_perturbed' parameter of {caller} must be given, or y_perturbed, "
            "or sample_weight. Got None for all three: nothing changes."
        )
    if X_perturbed is not None:
        X = _check_inputs(estimator, X_perturbed)
    y = labels = weights = None
    if y_perturbed is not None:
        y, labels = _check_targets(estimator, np.asarray(y_perturbed))
    if sample_weight is not None:
        targets = estimator.targets_ if labels is None else labels
        weights = check_weights(caller, "sample_weight", sample_weight, targets)
        weights = np.ones(len(X)) if weights is None else weights
        # Rows that are held out stay so.
        trained = np.zeros(len(X))
        trained[estimator.train_rows_] = 1.0
        weights = weights * trained
        if not weights.any():
            raise ValueError(
                f"The 'sample_weight' parameter of {caller} must leave a row that is "
                "trained on (see train_rows_). Got zeros only."
            )
    elif labels is not None:
        warn_of_lost_classes(
            "y_perturbed", estimator.sample_weight_, labels, estimator.targets_
        )
    return PerturbedData(X, y, labels, weights)


def _check_inputs(estimator: Any, X_perturbed: Any) -> Array:
    X_train = estimator.inputs_
    if isinstance(X_perturbed, Dataset):
        X_perturbed = read_dataset(X_perturbed)[0]
    X_perturbed = dense(X_perturbed)
    layout = estimator._task.layout
    if layout is None and np.ndim(X_perturbed) == 0:
        raise ValueError(
            "The 'X_perturbed' parameter must be data of the shape of the training X, "
            f"{X_train.shape}. Got {X_perturbed!r} instead: for a perturbation of some "
            "size, set 'perturbation_size' and pass what perturb() returns."
        )
    if layout is None:
        _check_dtypes(X_train, X_perturbed)
    # What `perturb` or a changed copy of `X_train_` is has no names to check.
    X_perturbed = check_inputs(
        estimator, X_perturbed, "X_perturbed", may_be_nameless=True
    )
    if X_perturbed.shape != X_train.shape:
        raise ValueError(
            "The 'X_perturbed' parameter must have the shape of the training X, "
            f"{X_train.shape}. Got {X_perturbed.shape} instead: pass all training "
            "rows, the unperturbed ones unchanged; sample_weight leaves rows out."
        )
    return X_perturbed


def _check_targets(
    estimator: Any, y_perturbed: NDArray[Any]
) -> tuple[Array | None, NDArray[Any] | None]:
    """Real-valued targets, or labels, where they change."""
    y_train, targets = estimator.y_train_, estimator.targets_
    if y_train.ndim == 1 and y_perturbed.shape == (len(y_train), 1):
        y_perturbed = y_perturbed[:, 0]  # fit takes a column, too.
    if y_perturbed.shape != y_train.shape:
        raise ValueError(
            "The 'y_perturbed' parameter must have the shape of the training y, "
            f"{y_train.shape}. Got {y_perturbed.shape} instead."
        )
    if is_classifier(estimator):
        unknown = np.setdiff1d(y_perturbed, estimator.classes_)
        if len(unknown):
            raise ValueError(
                "The 'y_perturbed' parameter must hold classes seen at fit, "
                f"{estimator.classes_.tolist()}. Got {unknown.tolist()} too."
            )
        encoded = encode_labels(y_perturbed, estimator.classes_).astype(targets.dtype)
        encoded = encoded.reshape(targets.shape)
        if np.array_equal(encoded, targets):
            return None, None
        # The loss of a binary net is a function of a real target.
        is_real = targets.dtype.kind == "f"
        return (encoded, None) if is_real else (None, encoded)
    y_perturbed = _real("y_perturbed", y_perturbed)
    bad = int((~np.isfinite(y_perturbed)).sum())
    if bad:
        raise ValueError(
            f"The 'y_perturbed' parameter must be finite. Got {bad} NaN or infinite "
            "entries instead."
        )
    return y_perturbed.reshape(targets.shape), None


def _real(name: str, y: NDArray[Any]) -> Array:
    if y.dtype.kind not in "biufO":
        raise ValueError(
            f"The {name!r} parameter must hold real numbers. Got dtype {y.dtype} "
            "instead."
        )
    return y.astype(np.float64)


def _check_dtypes(X_train: Array, X_perturbed: Any) -> None:
    """Refuse text; warn where the type alone moves rows of the training X."""
    columns = _by_dtype(X_train, X_perturbed)
    text = sorted({str(dtype) for dtype, _ in columns if _is_text(dtype, X_perturbed)})
    if text:
        raise ValueError(
            "The 'X_perturbed' parameter must hold real numbers. Got text (dtype "
            f"{', '.join(text)}) instead: pass X_perturbed.astype(float) if it means "
            "numbers."
        )
    coarse = sorted({str(d) for d, part in columns if not _holds(d, part)})
    if coarse:
        warnings.warn(
            f"The 'X_perturbed' parameter has dtype {', '.join(coarse)} and the "
            "training X has more digits: rounding counts as a perturbation of every "
            "row. Pass float64, converted before the data is perturbed.",
            DataConversionWarning,
            stacklevel=user_stacklevel(),
        )


def _by_dtype(X_train: Array, X_perturbed: Any) -> list[tuple[Any, Array]]:
    """Each dtype of X_perturbed with the part of the training X it stands for."""
    dtypes = getattr(X_perturbed, "dtypes", None)
    if dtypes is None:
        return [(np.asarray(X_perturbed).dtype, X_train)]
    # Extension types of pandas (Int64, Float32) name the NumPy one they hold.
    plain = [getattr(dtype, "numpy_dtype", dtype) for dtype in np.atleast_1d(dtypes)]
    return list(zip(plain, X_train.T, strict=False))


def _is_text(dtype: Any, X_perturbed: Any) -> bool:
    kind = getattr(dtype, "kind", "O")
    if kind != "O":
        return kind in "US"
    return any(isinstance(entry, str | bytes) for entry in np.ravel(X_perturbed))


def _holds(dtype: Any, values: Array) -> bool:
    """Whether the dtype represents the values exactly; other types are let through."""
    if getattr(dtype, "kind", "O") not in "biuf":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(values.astype(dtype).astype(np.float64), values))


def perturb_data(estimator: Any, X: Any, y: Any) -> Array:
    """Perturbed data by the estimator's ``perturbation*`` parameters.

    Parameters
    ----------
    estimator : SolutionSetEstimator
        Fitted.
    X, y : array-like or None
        None for the training data.

    Returns
    -------
    X_perturbed : ndarray of the shape of X
    """
    if X is None and y is not None:
        raise ValueError(
            "The 'X' parameter of perturb must be given with y. Got None instead."
        )
    rng = np.random.RandomState(estimator._perturbation_seed % 2**32)
    X_new = estimator.inputs_ if X is None else check_inputs(estimator, X)
    layout = estimator._task.layout
    rows = choose_rows(estimator.perturbed_fraction, len(X_new), rng)
    kind, size = estimator.perturbation, estimator.perturbation_size
    if callable(kind):
        y_new = estimator.y_train_ if X is None else y
        given: Any = X_new if layout is None else layout.unpack(X_new)
        directions = called_directions(kind, estimator, given, y_new, rng)
        if layout is not None and isinstance(directions, Mapping):
            directions = layout.pack({**given, **directions}, "perturbation")
    elif kind == "worst_case":
        return _worst_case(estimator, X, rows)
    elif kind == "random":
        directions = random_directions(X_new.shape, rng)
    else:
        solutions = estimator.solution_set_
        objectives = solutions.objectives
        if X is not None:
            targets = _encode(estimator, X_new, y)
            objectives = [o.with_data(X_new, targets) for o in objectives]
        directions = gradient_directions(objectives, solutions.weights)
    if layout is not None and not layout.is_real.any():
        raise ValueError(
            "The 'X' parameter of perturb must hold real numbers. Got integer codes "
            "alone, which do not move: change rows' weights or labels instead."
        )
    if layout is not None:
        directions = directions * layout.is_real
    return perturbed(X_new, directions, rows, size)


def check_points(
    estimator: Any, X: Any, y: Any = None, *, caller: str
) -> tuple[Array, NDArray[Any] | None]:
    """Other data than the training data, and its targets as the criterion sees them.

    Parameters
    ----------
    estimator : SolutionSetEstimator
        Fitted.
    X, y : array-like
        y None for points without targets.
    caller : str
        For errors.
    """
    X = check_inputs(estimator, X)
    return X, None if y is None else _encode(estimator, X, y, caller)


def _encode(estimator: Any, X: Array, y: Any, caller: str = "perturb") -> NDArray[Any]:
    """Targets of other data, encoded and shaped as at fit."""
    if y is None:
        raise ValueError(
            "The 'y' parameter of perturb must be given with X for "
            "perturbation='gradient'. Got None instead."
        )
    y = column_or_1d(y) if np.ndim(estimator.y_train_) == 1 else np.asarray(y)
    check_consistent_length(X, y)
    if is_classifier(estimator):
        unknown = np.setdiff1d(y, estimator.classes_)
        if len(unknown):
            raise ValueError(
                f"The 'y' parameter of {caller} must hold classes seen at fit. Got "
                f"{unknown.tolist()} too."
            )
        y = encode_labels(y, estimator.classes_)
    else:
        y = _real("y", y)
        if not np.isfinite(y).all():
            raise ValueError(f"The 'y' parameter of {caller} must be finite.")
    targets = estimator.targets_
    return y.astype(targets.dtype).reshape(len(X), *targets.shape[1:])


def _worst_case(estimator: Any, X: Any, rows: NDArray[np.bool_]) -> Array:
    if X is not None:
        raise ValueError(
            "The 'X' parameter of perturb must be None for "
            "perturbation='worst_case', which refers to the training data."
        )
    worst = estimator._moduli.worst(rows)
    if worst is None:
        raise ValueError(
            "The 'perturbation' parameter must not be 'worst_case' where no solution "
            "is trustworthy (see solution_set_.status): there is no modulus to attain."
        )
    if not np.isfinite(worst.value):
        raise ValueError(
            "The 'perturbation' parameter must not be 'worst_case' where the "
            "Lipschitz modulus is infinite: no direction attains it. Add weight "
            "decay, or perturb rows and features that keep it finite."
        )
    size = estimator.perturbation_size * np.sqrt(rows.sum())
    return estimator.inputs_ + size * worst.direction
