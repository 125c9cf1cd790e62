"""Modules of the problems with known answers; at module level, so they pickle."""

import math
from collections.abc import Sequence

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


class ProductNetwork(nn.Module):
    """The network that multiplies x by m scalar weights, one after the other.

    Parameters
    ----------
    n_factors : int, default=3
        Number m of weights; ignored where `start` says it.

    start : sequence of float, default=None
        Weights to start from; drawn from a standard normal distribution if not given.
        Training leaves a stationary point where it is.

    Attributes
    ----------
    factors : nn.ParameterList
        The weights, each of shape ().

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import ProductNetwork
    >>> net = ProductNetwork(start=(1.0, 2.0, 3.0))
    >>> net(torch.tensor([[1.0], [2.0]])).tolist()
    [[6.0], [12.0]]
    """

    def __init__(
        self, n_factors: int = 3, start: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        weights = torch.randn(n_factors) if start is None else _flat(start)
        self.factors = nn.ParameterList(nn.Parameter(w.clone()) for w in weights)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, 1) for `X` of shape (n_samples, 1)."""
        # A plain product: torch.prod has a derivative of its own where weights are 0.
        return math.prod(self.factors) * X


class MatrixFactorisation(nn.Module):
    """The network ``f(x) = x W1 W2`` with a layer of `rank` hidden units.

    Parameters
    ----------
    n_features, n_outputs : int, default=1
        Number of inputs and of outputs per sample.

    rank : int, default=1
        Number of columns of W1 and of rows of W2; ignored where `start` says it.

    start : sequence of float, default=None
        Weights to start from: the entries of W1, then of W2, both row by row. Drawn
        from a standard normal distribution if not given. Training leaves a stationary
        point where it is.

    Attributes
    ----------
    W1 : nn.Parameter of shape (n_features, rank)
        The first factor.

    W2 : nn.Parameter of shape (rank, n_outputs)
        The second factor.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import MatrixFactorisation
    >>> net = MatrixFactorisation(2, 2, start=(1.0, 2.0, 3.0, 4.0))
    >>> net(torch.eye(2)).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """

    def __init__(
        self,
        n_features: int = 1,
        n_outputs: int = 1,
        rank: int = 1,
        start: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        per_unit = n_features + n_outputs
        flat = torch.randn(rank * per_unit) if start is None else _flat(start)
        if len(flat) % per_unit:
            raise ValueError(
                "The 'start' parameter of MatrixFactorisation must hold a multiple of "
                f"n_features + n_outputs = {per_unit} weights. Got {len(flat)} instead."
            )
        rank = len(flat) // per_unit
        W1, W2 = flat.split([n_features * rank, rank * n_outputs])
        self.W1 = nn.Parameter(W1.reshape(n_features, rank).clone())
        self.W2 = nn.Parameter(W2.reshape(rank, n_outputs).clone())

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, n_outputs)."""
        return X @ self.W1 @ self.W2


class FoldNetwork(nn.Module):
    """One weight with the two outputs ``(w^2 - 1, sqrt(coupling) (w - x))``.

    Fitted to targets 0 by squared loss, the first output makes a double well in w, and
    the second tilts it towards the data's mean.

    Parameters
    ----------
    coupling : float, default=0.5
        Strength of the tilt; below 2 there are two wells for some data.

    start : float, default=None
        Weight to start from; drawn from a standard normal distribution if not given.
        Training leaves a stationary point where it is.

    Attributes
    ----------
    w : nn.Parameter of shape ()
        The weight.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.datasets import FoldNetwork
    >>> net = FoldNetwork(coupling=0.25, start=-2.0)
    >>> net(torch.tensor([[0.0], [2.0]])).tolist()
    [[3.0, -1.0], [3.0, -2.0]]
    """

    def __init__(self, coupling: float = 0.5, start: float | None = None) -> None:
        super().__init__()
        self.coupling = coupling
        w = torch.randn(()) if start is None else torch.tensor(float(start))
        self.w = nn.Parameter(w)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n_samples, 2) for `X` of shape (n_samples, 1)."""
        well = (self.w**2 - 1).expand(X.shape)
        return torch.cat([well, math.sqrt(self.coupling) * (self.w - X)], dim=1)


def _flat(start: Sequence[float]) -> torch.Tensor:
    return torch.as_tensor(start, dtype=torch.get_default_dtype()).flatten()
