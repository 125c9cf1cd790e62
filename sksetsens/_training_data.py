"""From what the user passes to ``fit`` to arrays that a net can be trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data
from skorch import NeuralNetBinaryClassifier

__all__ = ["TrainingData", "check_training_data", "encode_labels"]

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
            stacklevel=3,
        )
        y = y.ravel()
    targets = y if y.dtype.kind in "iu" and not is_regressor(net) else _real(y)
    return TrainingData(X, y.copy(), targets.copy(), None)


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


def _warn_of_integers(X: Any) -> None:
    dtypes: Any = getattr(X, "dtypes", getattr(X, "dtype", None))
    if any(_is_whole(dtype) for dtype in np.atleast_1d(dtypes)):
        warnings.warn(
            "The 'X' parameter of SolutionSetEstimator holds integers, which were "
            "converted to float64. Sensitivity moves every feature continuously: "
            "encode categories first, or pass X.astype(float) if they are quantities.",
            DataConversionWarning,
            stacklevel=4,
        )
