"""skorch nets that learn the sizes of their module from the data at fit."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.utils import is_dataset
from torch import nn

from sksetsens.networks._dfcnn import DFCNN
from sksetsens.networks._resnet import ResNet
from sksetsens.networks._sizes import SizesFromData, check_labels


class DFCNNRegressor(SizesFromData, NeuralNetRegressor):
    """Regression with a :class:`DFCNN`, of sizes learned at fit.

    Parameters
    ----------
    module : nn.Module class, default=DFCNN
        Module; its constructor's `n_features` and `n_outputs`, where it has them, are
        taken from the data unless ``module__n_features`` or ``module__n_outputs`` is
        given.

    criterion : nn.Module class, default=nn.MSELoss
        Loss.

    optimizer : torch.optim.Optimizer class, default=torch.optim.Adam
        Optimizer.

    lr : float, default=0.01
        Learning rate.

    train_split : callable or None, default=None
        skorch's validation split. By default every row of `X` is trained on: the
        solution set belongs to exactly these rows.

    verbose : int, default=0
        skorch's verbosity.

    **kwargs : dict
        Everything else that :class:`skorch.NeuralNet` takes, such as `max_epochs` or
        ``module__hidden_widths``.

    Attributes
    ----------
    sizes_ : dict
        Sizes learned from the data.

    target_ndim_ : int or None
        Dimension of the `y` seen at fit; ``predict`` returns the same. None where `y`
        was part of a Dataset: ``predict`` then returns the outputs as they are.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sksetsens.networks import DFCNNRegressor
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 3.0, 6.0])
    >>> _ = torch.manual_seed(0)
    >>> net = DFCNNRegressor(
    ...     module__hidden_widths=(),
    ...     module__train_output=True,
    ...     lr=0.1,
    ...     max_epochs=300,
    ... )
    >>> net.fit(X, y).predict([[5.0]]).round(3)
    array([15.], dtype=float32)
    """

    def __init__(
        self,
        module: Any = DFCNN,
        *,
        criterion: Any = nn.MSELoss,
        optimizer: Any = torch.optim.Adam,
        lr: float = 0.01,
        train_split: Any = None,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            train_split=train_split,
            verbose=verbose,
            **kwargs,
        )

    def _learn_sizes(self, X: Any, y: Any) -> None:
        super()._learn_sizes(X, y)
        self.target_ndim_ = None if y is None else np.ndim(y)

    def get_loss(
        self, y_pred: torch.Tensor, y_true: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Loss, with `y_true` in the shape of the outputs.

        Torch's MSELoss would broadcast outputs (n, 1) against targets (n,).
        """
        if y_pred.shape != y_true.shape:
            if y_pred.numel() != y_true.numel():
                raise ValueError(
                    "The 'y' parameter of DFCNNRegressor.fit must have one entry per "
                    f"output of the module, shape {tuple(y_pred.shape)}. "
                    f"Got {tuple(y_true.shape)} instead."
                )
            y_true = y_true.reshape(y_pred.shape)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def predict(self, X: Any) -> NDArray[Any]:
        """Outputs of the module.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Inputs.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, in the dimension of the `y` seen at fit.
        """
        y = super().predict(X)
        target_ndim = getattr(self, "target_ndim_", None)
        if target_ndim == 1 and y.ndim == 2 and y.shape[1] == 1:
            return y[:, 0]
        return y[:, None] if target_ndim == 2 and y.ndim == 1 else y


class _LabelClassifier(SizesFromData, NeuralNetClassifier):
    """Labels are class indices, as skorch and torch expect."""

    def _target_dtype(self) -> torch.dtype:
        return torch.int64

    def check_data(self, X: Any, y: Any) -> None:
        """Check the labels, and keep them as `classes_`."""
        super().check_data(X, y)
        check_labels(self, y, getattr(self.module_, "n_outputs", None))


class DFCNNClassifier(_LabelClassifier):
    """Classification with a :class:`DFCNN`, of sizes learned at fit.

    Labels are the integers 0, ..., n_classes - 1, as skorch and torch expect.

    Parameters
    ----------
    module : nn.Module class, default=DFCNN
        Module that returns logits; its constructor's `n_features` and `n_outputs`,
        where it has them, are taken from the data unless ``module__n_features`` or
        ``module__n_outputs`` is given.

    criterion : nn.Module class, default=nn.CrossEntropyLoss
        Loss of the logits.

    optimizer : torch.optim.Optimizer class, default=torch.optim.Adam
        Optimizer.

    lr : float, default=0.01
        Learning rate.

    train_split : callable or None, default=None
        skorch's validation split. By default every row of `X` is trained on.

    classes : array-like of shape (n_classes,) or None, default=None
        All classes, where `y` may lack some.

    verbose : int, default=0
        skorch's verbosity.

    **kwargs : dict
        Everything else that :class:`skorch.NeuralNet` takes.

    Attributes
    ----------
    sizes_ : dict
        Sizes learned from the data.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sksetsens.networks import DFCNNClassifier
    >>> X, y = np.eye(3), np.arange(3)
    >>> _ = torch.manual_seed(0)
    >>> net = DFCNNClassifier(max_epochs=100).fit(X, y)
    >>> net.predict(X)
    array([0, 1, 2])
    """

    def __init__(
        self,
        module: Any = DFCNN,
        *,
        criterion: Any = nn.CrossEntropyLoss,
        optimizer: Any = torch.optim.Adam,
        lr: float = 0.01,
        train_split: Any = None,
        classes: Any = None,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            train_split=train_split,
            classes=classes,
            verbose=verbose,
            **kwargs,
        )


class DFCNNBinaryClassifier(SizesFromData, NeuralNetBinaryClassifier):
    """Binary classification with a :class:`DFCNN` of one output.

    Labels are 0 and 1.

    Parameters
    ----------
    module : nn.Module class, default=DFCNN
        Module that returns one logit; its constructor's `n_features` and `n_outputs`,
        where it has them, are taken from the data unless ``module__n_features`` or
        ``module__n_outputs`` is given.

    criterion : nn.Module class, default=nn.BCEWithLogitsLoss
        Loss of the logit.

    optimizer : torch.optim.Optimizer class, default=torch.optim.Adam
        Optimizer.

    lr : float, default=0.01
        Learning rate.

    train_split : callable or None, default=None
        skorch's validation split. By default every row of `X` is trained on.

    threshold : float, default=0.5
        Probability above which class 1 is predicted.

    verbose : int, default=0
        skorch's verbosity.

    **kwargs : dict
        Everything else that :class:`skorch.NeuralNet` takes.

    Attributes
    ----------
    sizes_ : dict
        Sizes learned from the data.

    classes_ : ndarray of shape (2,)
        Class labels.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sksetsens.networks import DFCNNBinaryClassifier
    >>> X, y = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> _ = torch.manual_seed(0)
    >>> net = DFCNNBinaryClassifier(max_epochs=100).fit(X, y)
    >>> net.predict(X).tolist()
    [0, 1]
    """

    def __init__(
        self,
        module: Any = DFCNN,
        *,
        criterion: Any = nn.BCEWithLogitsLoss,
        optimizer: Any = torch.optim.Adam,
        lr: float = 0.01,
        train_split: Any = None,
        threshold: float = 0.5,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            train_split=train_split,
            threshold=threshold,
            verbose=verbose,
            **kwargs,
        )

    def check_data(self, X: Any, y: Any) -> None:
        """Check that the labels are 0 and 1."""
        super().check_data(X, y)
        check_labels(self, None if is_dataset(X) else y, 2)


class ResNetClassifier(_LabelClassifier):
    """Classification of images with a :class:`ResNet`, of sizes learned at fit.

    Labels are the integers 0, ..., n_classes - 1, as skorch and torch expect.

    Parameters
    ----------
    module : nn.Module class, default=ResNet
        Module that returns logits; its constructor's `in_channels` and `n_outputs`,
        where it has them, are taken from the data unless ``module__in_channels`` or
        ``module__n_outputs`` is given.

    criterion : nn.Module class, default=nn.CrossEntropyLoss
        Loss of the logits.

    optimizer : torch.optim.Optimizer class, default=torch.optim.Adam
        Optimizer.

    lr : float, default=0.001
        Learning rate.

    train_split : callable or None, default=None
        skorch's validation split. By default every row of `X` is trained on.

    classes : array-like of shape (n_classes,) or None, default=None
        All classes, where `y` may lack some.

    verbose : int, default=0
        skorch's verbosity.

    **kwargs : dict
        Everything else that :class:`skorch.NeuralNet` takes, such as `max_epochs` or
        ``module__depth``.

    Attributes
    ----------
    sizes_ : dict
        Sizes learned from the data.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    Examples
    --------
    Squares and stripes:

    >>> import numpy as np
    >>> import torch
    >>> from sksetsens.networks import ResNetClassifier
    >>> X = np.zeros((2, 1, 8, 8))
    >>> X[0, :, 2:6, 2:6] = X[1, :, ::2] = 1.0
    >>> _ = torch.manual_seed(0)
    >>> net = ResNetClassifier(module__depth=8, module__width=4, max_epochs=40)
    >>> net.fit(X, np.array([0, 1])).predict(X)
    array([0, 1])
    """

    def __init__(
        self,
        module: Any = ResNet,
        *,
        criterion: Any = nn.CrossEntropyLoss,
        optimizer: Any = torch.optim.Adam,
        lr: float = 0.001,
        train_split: Any = None,
        classes: Any = None,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            train_split=train_split,
            classes=classes,
            verbose=verbose,
            **kwargs,
        )
