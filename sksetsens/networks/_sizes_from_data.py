"""What the nets share: sizes learned at fit, data in the module's dtype."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from sksetsens.networks._sizes import as_array, missing_sizes


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
