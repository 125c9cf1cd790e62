"""skorch's training with weights of the rows: batches carry those of their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._compat import skeleton_net
from ..exceptions import UnsupportedObjectiveError
from ._row_weights import mean_weight, weighted_net

__all__ = ["trained_by_weight"]

_NAME = "sample_weight"


def trained_by_weight(
    net: Any, sample_weight: NDArray[Any], targets: NDArray[Any]
) -> Any:
    """The same net, of a class whose training weighs the rows.

    Batches stay pairs of X and y, as callbacks know them: the tensor y has its rows'
    weights as an attribute.

    Parameters
    ----------
    net : skorch.NeuralNet
        Not initialised.
    sample_weight, targets : ndarray of shape (n_samples,), (n_samples, ...)
        Of the rows that it will be given.

    Returns
    -------
    net : skorch.NeuralNet
    """
    numbers = torch.as_tensor(sample_weight), torch.as_tensor(targets)
    own = dict(zip(("_row_weights", "_row_targets"), numbers, strict=True))
    kind = type(net).__name__
    weighted = type(f"Weighted{kind}", (_WeightedTraining, type(net)), own)
    return weighted(**net.get_params(deep=False))


class _WeightedTraining:
    """Overrides of skorch's methods that read data and evaluate the loss."""

    _row_weights: torch.Tensor
    _row_targets: torch.Tensor

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """The data set, each of whose items knows its weight."""
        dataset = super().get_dataset(X, y)  # type: ignore[misc]
        return _WithWeights(dataset, self._row_weights)

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches whose targets know their rows' weights."""
        iterator = super().get_iterator(dataset, training)  # type: ignore[misc]
        if not isinstance(iterator, torch.utils.data.DataLoader):
            raise UnsupportedObjectiveError(
                "The 'iterator_train' of the net must be a torch DataLoader with "
                f"sample_weight. Got {type(iterator).__name__} instead."
            )
        if iterator.num_workers:
            raise UnsupportedObjectiveError(
                "The 'iterator_train__num_workers' of the net must be 0 with "
                f"sample_weight. Got {iterator.num_workers} instead."
            )
        iterator.collate_fn = _Collate(iterator.collate_fn)
        return iterator

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """The net's own loss, its criterion weighing the rows."""
        weights = getattr(y_true, _NAME).to(y_pred.device, y_pred.dtype)
        net: Any = self
        twin = skeleton_net(net, net.module_, net.criterion_)
        whole = mean_weight(net.criterion_, self._row_weights, self._row_targets)
        weighted_net(net, twin, weights, whole)
        own: Any = super(_WeightedTraining, twin)
        return own.get_loss(y_pred, y_true, *args, **kwargs)


class _WithWeights(torch.utils.data.Dataset):
    """Another data set with a weight for each item."""

    def __init__(self, dataset: Any, weights: torch.Tensor) -> None:
        self.dataset, self.weights = dataset, weights

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> tuple[Any, Any]:
        return self.dataset[i], self.weights[i]

    def __getattr__(self, name: str) -> Any:
        # Callbacks look for X and y in skorch's own data set.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class _Collate:
    """Batches of the items alone, with the weights attached to the targets."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, items: list[tuple[Any, Any]]) -> Any:
        pairs, weights = zip(*items, strict=True)
        batch = self._collate(list(pairs))
        setattr(batch[1], _NAME, torch.as_tensor(np.array(weights)))
        return batch
