"""Sizes of a module that follow from the data, and nets that learn them at fit."""

import inspect
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.utils import is_dataset, to_numpy
from torch import nn


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """Arrays and tensors in a torch dtype; anything else (None, Dataset) unchanged."""
    if isinstance(values, torch.Tensor):
        return values.to(dtype)
    if isinstance(values, (list, tuple)) or hasattr(values, "__array__"):
        return np.asarray(values, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    return values


# What the mixin stands before.
if TYPE_CHECKING:
    from skorch import NeuralNet as _Net
else:
    _Net = object


class SizesFromData(_Net):
    """Learn the module's sizes at fit; hand skorch data in the module's dtype.

    The sizes live in the learned attribute `sizes_`, never in a parameter, so that
    ``get_params`` and ``clone`` see what the user wrote.
    """

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Learn the sizes from the data, build the module and train it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        **fit_params : dict
            Passed on to skorch.

        Returns
        -------
        self : object
            The fitted net.
        """
        if not (self.warm_start and self.initialized_):
            self._learn_sizes(X, y)
        return super().fit(X, y, **fit_params)

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> Self:
        """Train further; the first call learns the sizes as ``fit`` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        classes : array-like, default=None
            Ignored, as in skorch; use the constructor's `classes`.

        **fit_params : dict
            Passed on to skorch.

        Returns
        -------
        self : object
            The fitted net.
        """
        if not self.initialized_:
            self._learn_sizes(X, y)
        return super().partial_fit(X, y, classes=classes, **fit_params)

    def _learn_sizes(self, X: Any, y: Any) -> None:
        self.sizes_ = missing_sizes(self, X, y)

    def initialize_module(self) -> Self:
        """Build the module from the user's parameters and the learned sizes."""
        # The user's parameters last: they win over sizes learned earlier.
        kwargs = {**getattr(self, "sizes_", {}), **self.get_params_for("module")}
        self.module_ = self.initialized_instance(self.module, kwargs)
        return self

    def _module_dtype(self) -> torch.dtype:
        dtypes = (p.dtype for p in self.module_.parameters() if p.is_floating_point())
        return next(dtypes, torch.get_default_dtype())

    def _target_dtype(self) -> torch.dtype:
        return self._module_dtype()

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Dataset of `X` and `y`, cast to the dtype of the module's weights."""
        X, y = _cast(X, self._module_dtype()), _cast(y, self._target_dtype())
        return super().get_dataset(X, y)


def check_labels(net: Any, y: Any, n_classes: int | None) -> None:
    """Class labels are used as indices: they must be 0, ..., n_classes - 1."""
    if y is None or n_classes is None:
        return
    labels = np.unique(as_array(y))
    if not np.isin(labels, np.arange(n_classes)).all():
        name = type(net).__name__
        raise ValueError(
            f"The 'y' parameter of {name}.fit must hold integer labels from 0 to "
            f"{n_classes - 1}, one per output of the module. Got {labels!r} instead. "
            "Encode labels with sklearn.preprocessing.LabelEncoder; if y lacks some of "
            "the classes, name all of them in the 'classes' parameter."
        )


def data_sizes(net: Any, X: Any, y: Any) -> dict[str, int]:
    """Sizes that the data ask of the module of a skorch net.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net; its type says what `y` means.

    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        Inputs.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.

    Returns
    -------
    sizes : dict
        "n_features", the number of entries per sample; for images, that is four
        dimensions, "in_channels", the second of them; and "n_outputs": the number of
        classes for a classifier, 1 for a binary classifier, otherwise the number of
        columns of `y`. A size that cannot be read (of a torch Dataset, say) is left
        out.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.networks import DFCNNClassifier, DFCNNRegressor, data_sizes
    >>> X = np.zeros((3, 8, 8))
    >>> data_sizes(DFCNNRegressor(), X, np.zeros((3, 2)))
    {'n_features': 64, 'n_outputs': 2}
    >>> data_sizes(DFCNNClassifier(), X, np.array([0, 2, 1]))
    {'n_features': 64, 'n_outputs': 3}
    >>> data_sizes(DFCNNRegressor(), np.zeros((5, 3, 8, 8)), np.zeros(5))
    {'n_features': 192, 'in_channels': 3, 'n_outputs': 1}
    """
    sizes = {}
    shape: tuple[int, ...] = () if is_dataset(X) else np.shape(X)
    if len(shape) > 1:
        sizes["n_features"] = math.prod(shape[1:])
    if len(shape) == 4:
        sizes["in_channels"] = shape[1]
    n_outputs = _n_outputs(net, y)
    if n_outputs is not None:
        sizes["n_outputs"] = n_outputs
    return sizes


def _n_outputs(net: Any, y: Any) -> int | None:
    if isinstance(net, NeuralNetBinaryClassifier):
        return 1
    if isinstance(net, NeuralNetClassifier):
        classes = y if net.classes is None else net.classes
        return None if classes is None else len(np.unique(as_array(classes)))
    if y is None:
        return None
    shape = np.shape(y)
    return shape[1] if len(shape) > 1 else 1


def missing_sizes(net: Any, X: Any, y: Any) -> dict[str, int]:
    """The part of :func:`data_sizes` that the module takes and the user left open.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net. Sizes given as ``module__n_features``, ``module__in_channels`` or
        ``module__n_outputs`` are the user's and are respected.

    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        Inputs.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.

    Returns
    -------
    sizes : dict
        Sizes to hand to the constructor of ``net.module``; empty for a module that
        is an instance already.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.networks import DFCNNRegressor, missing_sizes
    >>> X, y = np.zeros((3, 5)), np.zeros(3)
    >>> missing_sizes(DFCNNRegressor(module__n_outputs=1), X, y)
    {'n_features': 5}
    """
    if isinstance(net.module, nn.Module):
        return {}
    accepted = set(inspect.signature(net.module).parameters)
    open_names = accepted - set(net.get_params_for("module"))
    sizes = data_sizes(net, X, y)
    return {name: size for name, size in sizes.items() if name in open_names}


def as_array(values: Any) -> NDArray[Any]:
    """NumPy array of an array-like or of a tensor on any device."""
    return to_numpy(values) if isinstance(values, torch.Tensor) else np.asarray(values)
