"""skorch's training with weights of the rows: batches come with those of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from .._compat import skeleton_net
from ..exceptions import UnsupportedObjectiveError
from ._row_weights import mean_weight, weighted_net

__all__ = ["check_weighted_training", "trained_by_weight"]


def check_weighted_training(net: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Refuse a net whose batches cannot come with weights, before it trains.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    X, y : ndarray
        In the net's dtype.
    """
    iterator = net.get_iterator(net.get_dataset(X, y), training=True)
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


def trained_by_weight(
    net: Any, sample_weight: NDArray[Any], targets: NDArray[Any]
) -> Any:
    """The same net, of a class whose training weighs the rows.

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
    """Overrides of skorch's methods that read batches and evaluate the loss."""

    _row_weights: torch.Tensor
    _row_targets: torch.Tensor
    # Of the batch that is trained on, over the mean of all.
    _batch_weights: torch.Tensor | None = None

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches, of whose rows' weights the net is told."""
        make: Any = super().get_iterator  # type: ignore[misc]
        if not training:
            return make(dataset, training)
        net: Any = self
        mean = mean_weight(net.criterion_, self._row_weights, self._row_targets)
        iterator = make(_WithWeights(dataset, self._row_weights / mean), training)
        return _TellingWeights(iterator, self)

    def get_loss(
        self,
        y_pred: Any,
        y_true: Any,
        *args: Any,
        training: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The net's own loss, its criterion weighing the rows."""
        kwargs["training"] = training
        if not training or self._batch_weights is None:
            return super().get_loss(y_pred, y_true, *args, **kwargs)  # type: ignore[misc]
        net: Any = self
        twin = skeleton_net(net, net.module_, net.criterion_)
        first = y_pred[0] if isinstance(y_pred, tuple | list) else y_pred
        weighted_net(net, twin, self._batch_weights.to(first), 1.0)
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


class _TellingWeights:
    """A loader's batches, of whose weights a net is told first.

    The net's loop takes one batch after the other, and so nothing that a batch goes
    through on its way to the loss can lose them.
    """

    def __init__(self, loader: Any, net: _WeightedTraining) -> None:
        loader.collate_fn = _Collate(loader.collate_fn)
        self._loader, self._net = loader, net

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch, weights in self._loader:
            self._net._batch_weights = weights
            yield batch
        self._net._batch_weights = None

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


class _Collate:
    """Batches of the items alone, beside their weights."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, items: list[tuple[Any, Any]]) -> tuple[Any, torch.Tensor]:
        pairs, weights = zip(*items, strict=True)
        return self._collate(list(pairs)), torch.stack(weights)
