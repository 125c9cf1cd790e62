"""How a net with batch normalisation is trained to a minimiser of its objective."""

import math
from numbers import Integral, Real
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback

# One-cycle schedule, as torch's OneCycleLR has it by default: the rate rises from a
# 25th of its peak during the first three tenths of the steps.
_START, _RISE = 1 / 25, 0.3


class TrainAndSettle(Callback):
    """Train a :class:`ResNet`, then settle it with frozen statistics.

    A callback of skorch for stochastic gradient descent. For `n_epochs` the net is
    trained in the usual form; then its statistics of batch normalisation are frozen,
    and it is trained further in the form in which its objective evaluates it, until
    its mean loss is small. The learning rate runs through one cycle [1]_ per stage, up
    to the net's `lr` and then down to zero, so that every stage ends in a minimum and
    not in the noise around it.

    Parameters
    ----------
    n_epochs : int, default=20
        Epochs with moving statistics.

    settling_epochs : int, default=60
        Epochs of each stage with frozen statistics. The net's `max_epochs` bounds the
        number of stages: ``n_epochs + k * settling_epochs`` allows for k of them.

    settling_rate : float, default=0.2
        Peak of the learning rate in the first of them, as a share of the net's `lr`.
        It doubles from stage to stage: the gradients of classes that are separated
        vanish as fast as the loss.

    loss_goal : float, default=2e-4
        Mean training loss at which a stage is the last one.

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-Convergence: Very Fast Training of Neural
       Networks Using Large Learning Rates", :arxiv:`1708.07120`.

    Examples
    --------
    Squares and stripes:

    >>> import numpy as np
    >>> import torch
    >>> from sksetsens.networks import ResNetClassifier, TrainAndSettle
    >>> X = np.zeros((2, 1, 8, 8))
    >>> X[0, :, 2:6, 2:6] = X[1, :, ::2] = 1.0
    >>> _ = torch.manual_seed(0)
    >>> net = ResNetClassifier(
    ...     module__depth=8,
    ...     module__width=4,
    ...     optimizer=torch.optim.SGD,
    ...     lr=0.1,
    ...     max_epochs=50,
    ...     callbacks=[TrainAndSettle(10, 20, loss_goal=0.1)],
    ... )
    >>> net = net.fit(X, np.array([0, 1]))
    >>> net.module_.frozen_statistics, bool(net.history[-1, "train_loss"] <= 0.1)
    (True, True)
    """

    def __init__(
        self,
        n_epochs: int = 20,
        settling_epochs: int = 60,
        *,
        settling_rate: float = 0.2,
        loss_goal: float = 2e-4,
    ) -> None:
        self.n_epochs = n_epochs
        self.settling_epochs = settling_epochs
        self.settling_rate = settling_rate
        self.loss_goal = loss_goal

    def on_train_begin(self, net: NeuralNet, *args: Any, **kwargs: Any) -> None:
        """Check the parameters and the module.

        Parameters
        ----------
        net : skorch.NeuralNet
        *args, **kwargs
            Unused.
        """
        for name in ("n_epochs", "settling_epochs"):
            _check(name, getattr(self, name), Integral, 1, "a positive integer")
        for name in ("settling_rate", "loss_goal"):
            _check(name, getattr(self, name), Real, 0, "a number that is at least 0")
        if not hasattr(net.module_, "freeze_statistics"):
            raise TypeError(
                "TrainAndSettle needs a module with a method 'freeze_statistics', such "
                f"as ResNet. Got {type(net.module_).__name__} instead."
            )

    def on_epoch_begin(
        self, net: NeuralNet, dataset_train: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Freeze the statistics where their time is over.

        Parameters
        ----------
        net : skorch.NeuralNet
        dataset_train : Dataset
            What the epoch trains on.
        *args, **kwargs
            Unused.
        """
        self.n_batches_ = len(net.get_iterator(dataset_train, training=True))
        net.module_.freeze_statistics(self._stage(net)[0] > 0)

    def on_batch_begin(
        self, net: NeuralNet, *args: Any, training: bool = False, **kwargs: Any
    ) -> None:
        """Set the learning rate.

        Parameters
        ----------
        net : skorch.NeuralNet
        training : bool
            Whether the batch is trained on.
        *args, **kwargs
            Unused.
        """
        if not training:
            return
        stage, epoch, length = self._stage(net)
        batch = len(net.history[-1]["batches"]) - 1
        peak = net.lr * (self.settling_rate * 2 ** (stage - 1) if stage else 1.0)
        rate = peak * _one_cycle((epoch + batch / self.n_batches_) / length)
        for group in net.optimizer_.param_groups:
            group["lr"] = rate

    def on_epoch_end(self, net: NeuralNet, *args: Any, **kwargs: Any) -> None:
        """End the training after a stage of settling that reached its goal.

        Parameters
        ----------
        net : skorch.NeuralNet
        *args, **kwargs
            Unused.
        """
        stage, epoch, length = self._stage(net)
        is_last_epoch = stage > 0 and epoch == length - 1
        if is_last_epoch and net.history[-1, "train_loss"] <= self.loss_goal:
            # How callbacks of skorch end a training.
            raise KeyboardInterrupt

    def _stage(self, net: NeuralNet) -> tuple[int, int, int]:
        """The stage of the current epoch, its place in it, and the stage's length."""
        epoch = len(net.history) - 1
        if epoch < self.n_epochs:
            return 0, epoch, self.n_epochs
        stage, place = divmod(epoch - self.n_epochs, self.settling_epochs)
        return stage + 1, place, self.settling_epochs


def _one_cycle(share: float) -> float:
    """Learning rate after a share of the steps, relative to its peak."""
    if share < _RISE:
        return _START + (1 - _START) * (1 - math.cos(math.pi * share / _RISE)) / 2
    return (1 + math.cos(math.pi * (share - _RISE) / (1 - _RISE))) / 2


def _check(name: str, value: Any, kind: Any, low: float, told: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or not value >= low:
        raise ValueError(
            f"The '{name}' parameter of TrainAndSettle must be {told}. "
            f"Got {value!r} instead."
        )
