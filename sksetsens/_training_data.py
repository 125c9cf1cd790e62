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

__all__ = ["TrainingData", "check_training_data"]

# In C order: torch takes other kernels, with other last bits, for other strides.
_AS_ROWS = {"dtype": np.float64, "allow_nd": True, "order": "C"}


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
        return _labelled(net, X, y)
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
    return TrainingData(X, y, targets, None)


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
    encoder = LabelEncoder().fit(y)
    classes = encoder.classes_
    if len(classes) < 2:
        raise ValueError(
            "The 'y' parameter of SolutionSetEstimator must hold at least two classes. "
            f"Got only one class, {classes[0]!r}, instead. Classifier can't train when "
            "only one class is present."
        )
    binary = isinstance(net, NeuralNetBinaryClassifier)
    if binary and len(classes) > 2:
        raise ValueError(
            "Only binary classification is supported by NeuralNetBinaryClassifier. "
            f"The type of the target is {type_of_target(y)}, with {len(classes)} "
            "classes. Use NeuralNetClassifier."
        )
    encoded = encoder.transform(y)
    return TrainingData(X, y, _real(encoded) if binary else encoded, classes)


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
