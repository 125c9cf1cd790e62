"""Training data as users give it: rows, targets, weights of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_X_y, validate_data
from skorch import NeuralNetBinaryClassifier

from ._layout import InputLayout
from ._validation import dense, user_stacklevel
from .exceptions import StochasticObjectiveError

__all__ = [
    "TrainingData",
    "check_training_data",
    "check_weights",
    "encode_labels",
    "read_dataset",
    "warn_of_integers",
    "warn_of_lost_classes",
]

# In C order: torch takes other kernels, with other last bits, for other strides.
# A copy: what was learnt must not change when the user writes to their own array.
_AS_ROWS = {"dtype": np.float64, "allow_nd": True, "order": "C", "copy": True}


_Count = Callable[[NDArray[np.float64], InputLayout | None, str], int]


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
    is_column : bool
        Whether y was given as a column.
    layout : InputLayout or None
        What the columns of X are where several arrays were given.
    whole : str
        Dtype of X where it was given as integers or booleans; "" otherwise.
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    targets: NDArray[Any]
    classes: NDArray[Any] | None
    is_column: bool = False
    layout: InputLayout | None = None
    whole: str = ""

    @property
    def given(self) -> Any:
        """X as a net takes it."""
        return self.X if self.layout is None else self.layout.unpack(self.X)

    def as_codes(self) -> TrainingData:
        """The same where X holds codes, such as tokens."""
        layout = InputLayout.of_codes(self.X, self.whole)
        return replace(self, X=layout.pack(self.X), layout=layout)


def check_training_data(
    owner: Any, net: Any, X: Any, y: Any, *, n_classes: _Count | None = None
) -> TrainingData:
    """Check X and y for ``owner.fit``; sets its feature names.

    Parameters
    ----------
    owner : SolutionSetEstimator
    net : skorch.NeuralNet
        Its type says what y means.
    X, y : array-like
    n_classes : callable, default=None
        The number of a trained net's outputs, of rows, their layout, and their dtype
        where they are integers: its targets are class numbers. None where labels may be
        encoded in whatever order.
    """
    X = dense(X)
    if isinstance(X, torch.utils.data.Dataset):
        X, own = read_dataset(X)
        y = own if y is None else y
    layout = InputLayout.of(X) if isinstance(X, Mapping) else None
    whole = _whole_dtype(X) if layout is None else ""
    y_options: dict[str, Any] = {}
    if not is_classifier(net):
        y_options = {"multi_output": True, "y_numeric": is_regressor(net)}
    if layout is None:
        _refuse_categories(X)
        if getattr(y, "ndim", 0) > 2 and not is_classifier(net):
            X = validate_data(owner, X, **_AS_ROWS)
            y = check_array(y, ensure_2d=False, allow_nd=True, input_name="y")
            check_consistent_length(X, y)
        else:
            X, y = validate_data(owner, X, y, **_AS_ROWS, **y_options)
    else:
        X = layout.pack(X)
        # Names are those of the dict; y is checked as beside any rows.
        X, y = check_X_y(X, y, **_AS_ROWS, **y_options)
        owner.n_features_in_ = X.shape[1]
    n_known = None if n_classes is None else n_classes(X, layout, whole)
    found = _with_targets(net, X, y, n_known)
    return replace(found, layout=layout, whole=whole)


def _with_targets(
    net: Any, X: NDArray[np.float64], y: NDArray[Any], n_classes: int | None
) -> TrainingData:
    if is_classifier(net):
        return _labelled(net, X, y.copy(), n_classes)
    is_column = y.ndim == 2 and y.shape[1] == 1
    if is_column:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change "
            "the shape of y to (n_samples,), for example using ravel().",
            DataConversionWarning,
            stacklevel=user_stacklevel(),
        )
        y = y.ravel()
    targets = y if y.dtype.kind in "iu" and not is_regressor(net) else _real(y)
    return TrainingData(X, y.copy(), targets.copy(), None, is_column)


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


def _class_numbers(net: Any, y: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Labels of the outputs of a trained net, which was trained on their numbers."""
    given = getattr(net, "classes", None)
    if given is not None:
        unknown = np.setdiff1d(y, given)
        if not len(unknown):
            return np.array(given)
        numbers = y.dtype.kind in "iub" and np.asarray(given).dtype.kind not in "iub"
        if not numbers:
            raise ValueError(
                "The 'y' parameter of from_fitted must hold labels among the net's "
                f"classes, {list(given)}. Got {unknown.tolist()} too."
            )
    whole = y.dtype.kind in "iub" or (y.dtype.kind == "f" and (y == y.round()).all())
    if not whole or y.min() < 0 or y.max() >= n_classes:
        raise ValueError(
            "The 'y' parameter of from_fitted must hold the class numbers that the "
            f"nets were trained on, 0 to {n_classes - 1}. Got {np.unique(y)[:5]} and "
            "the like instead: encode them as for the training, or set the net's "
            "'classes' to the labels in the order of its outputs."
        )
    return np.arange(n_classes).astype(y.dtype)


def _labelled(
    net: Any, X: NDArray[np.float64], y: NDArray[Any], n_classes: int | None
) -> TrainingData:
    check_classification_targets(y)
    present = LabelEncoder().fit(y).classes_
    if len(present) < 2:
        raise ValueError(
            "The 'y' parameter of SolutionSetEstimator must hold at least two classes. "
            f"Got only one class, {present[0]!r}, instead. Classifier can't train when "
            "only one class is present."
        )
    if n_classes is None:
        classes = _given_classes(net, present)
    else:
        classes = _class_numbers(net, y, n_classes)
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
    >>> from sksetsens._training_data import encode_labels
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


def _whole_dtype(X: Any) -> str:
    """Name of an integer or boolean dtype; int64 of several in a table."""
    dtypes: Any = getattr(X, "dtypes", getattr(X, "dtype", None))
    found = {str(dtype) for dtype in np.atleast_1d(dtypes) if _is_whole(dtype)}
    if not found:
        return ""
    only = found.pop().removeprefix("torch.").lower()
    return only if not found and hasattr(torch, only) else "int64"


def warn_of_integers() -> None:
    """Say that integers were taken as real numbers."""
    warnings.warn(
        "The 'X' parameter of SolutionSetEstimator holds integers, which were "
        "converted to float64. Sensitivity moves every feature continuously: "
        "encode categories first, or pass X.astype(float) if they are quantities.",
        DataConversionWarning,
        stacklevel=user_stacklevel(),
    )


def _refuse_categories(X: Any) -> None:
    """Say how to encode the columns of a table that hold no numbers."""
    dtypes = getattr(X, "dtypes", None)
    if dtypes is not None and hasattr(dtypes, "items"):
        found = [
            str(name)
            for name, dtype in dtypes.items()
            if str(dtype) in ("category", "string", "str")
            or getattr(dtype, "kind", "") in "USMm"
            or (getattr(dtype, "kind", "") == "O" and _holds_text(X[name]))
        ]
    elif isinstance(X, np.ndarray) and X.dtype.kind in "OUS" and X.ndim == 2:
        found = [str(j) for j in range(X.shape[1]) if _holds_text(X[:, j])]
    else:
        return
    if found:
        raise ValueError(
            "The 'X' parameter of SolutionSetEstimator must hold real numbers. Got "
            f"categories, text or dates in the columns {found} instead: encode them in "
            "a Pipeline (OneHotEncoder), or pass a dict of arrays with integer codes "
            "to a net with embeddings."
        )


def _holds_text(column: Any) -> bool:
    """Whether a string in it is no number."""
    for value in column:
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return True
    return False


_READ_TWICE = 32


def read_dataset(dataset: Any) -> tuple[Any, Any]:
    """X and y of a torch Dataset of pairs.

    Raises
    ------
    ValueError
        If it has no length, or no pairs.
    StochasticObjectiveError
        If it returns other rows when it is read again.
    """
    X, y = _read(dataset, len(dataset))
    again, _ = _read(dataset, min(len(dataset), _READ_TWICE))
    first = {"": X} if not isinstance(X, Mapping) else X
    second = {"": again} if not isinstance(X, Mapping) else again
    for name, part in second.items():
        if not np.array_equal(first[name][: len(part)], part):
            raise StochasticObjectiveError(
                "The 'X' parameter must be a Dataset that returns the same rows each "
                f"time. Got {type(dataset).__name__}, which returns others when it is "
                "read again: with random augmentation the solution set is random. "
                "Augment the data once, with a seed."
            )
    return X, y


def _read(dataset: Any, n: int) -> tuple[Any, Any]:
    try:
        pairs = [dataset[i] for i in range(n)]
        rows, targets = zip(*pairs, strict=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The 'X' parameter of SolutionSetEstimator must be a Dataset of a length, "
            f"and of pairs (X, y), where y is None. Got {type(dataset).__name__} "
            f"({error})."
        ) from error
    if isinstance(rows[0], Mapping):
        X: Any = {k: np.stack([np.asarray(r[k]) for r in rows]) for k in rows[0]}
    else:
        X = np.stack([np.asarray(row) for row in rows])
    return X, np.stack([np.asarray(target) for target in targets])
