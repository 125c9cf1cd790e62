"""Modules of the problems with known answers; at module level, so they pickle."""

import torch
from torch import nn


class ToyNetwork(nn.Module):
    """The paper's two-weight network ``f(x) = w1 w2 x``.

    Both weights start from a standard normal distribution, so trainings land on both
    branches of the hyperbola of solutions, unless they are given.

    Parameters
    ----------
    start : tuple of (float, float), default=None
        Weights to start from. Training leaves a stationary point where it is.

    Attributes
    ----------
    w1, w2 : nn.Parameter of shape ()
        The weights, in this order.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import ToyNetwork
    >>> net = ToyNetwork()
    >>> _ = net.load_state_dict({"w1": torch.tensor(1.0), "w2": torch.tensor(2.0)})
    >>> net(torch.tensor([[1.0], [2.0]])).tolist()
    [[2.0], [4.0]]
    """

    def __init__(self, start: tuple[float, float] | None = None) -> None:
        super().__init__()
        w1, w2 = torch.randn(2) if start is None else torch.tensor(start)
        self.w1 = nn.Parameter(w1.clone())
        self.w2 = nn.Parameter(w2.clone())

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, 1) for `X` of shape (n_samples, 1)."""
        return self.w1 * self.w2 * X


class ShiftedProductNetwork(ToyNetwork):
    """The network ``f(x) = w1 w2 + x``, whose rank drops at ``w = (0, 0)``.

    Attributes
    ----------
    w1, w2 : nn.Parameter of shape ()
        The weights, in this order.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import ShiftedProductNetwork
    >>> net = ShiftedProductNetwork()
    >>> _ = net.load_state_dict({"w1": torch.tensor(1.0), "w2": torch.tensor(2.0)})
    >>> net(torch.tensor([[1.0], [2.0]])).tolist()
    [[3.0], [4.0]]
    """

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, 1) for `X` of shape (n_samples, 1)."""
        return self.w1 * self.w2 + X


class LinearNetwork(nn.Module):
    """Linear model ``f(x) = x w`` without intercept.

    Parameters
    ----------
    n_features : int, default=1
        Number of features.

    Attributes
    ----------
    linear : nn.Linear
        The layer that holds `w`, as ``linear.weight`` of shape (1, n_features).

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import LinearNetwork
    >>> net = LinearNetwork(n_features=2)
    >>> _ = net.load_state_dict({"linear.weight": torch.tensor([[3.0, 4.0]])})
    >>> net(torch.eye(2)).tolist()
    [[3.0], [4.0]]
    """

    def __init__(self, n_features: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, 1, bias=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, 1)."""
        return self.linear(X)
