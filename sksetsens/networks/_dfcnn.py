"""The deep fully connected network of the paper."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

# Modules, not functions: hooks on them see the pre-activations.
_ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}

# Any constant serves; it is fixed so that all constructions share one `a`.
_OUTPUT_SEED = 2412_11057


class DFCNN(nn.Module):
    """Deep fully connected network ``f = a' x^(H)``.

    By default exactly the network of [1]_, Section "DFCNN": hidden layers
    ``x^(h) = relu(W^(h) x^(h-1))``, no biases, and an output vector ``a`` that is not
    trained. With ``bias=True, train_output=True`` it is an ordinary multilayer
    perceptron.

    Parameters
    ----------
    n_features : int, default=1
        Number of inputs per sample.

    n_outputs : int, default=1
        Number of outputs per sample.

    hidden_widths : sequence of int, default=(50, 50)
        Width of each hidden layer. It may be empty only with ``train_output=True``:
        the network is then a linear model.

    activation : {"relu", "tanh", "softplus", "sigmoid", "gelu", "silu", "identity"} \
            or nn.Module class, default="relu"
        Activation after each hidden layer. A class is called without arguments.

    bias : bool, default=False
        Whether the layers have biases.

    train_output : bool, default=False
        Whether the output layer is trained. If not, it is the buffer `a`.

    squeeze_output : bool, default=False
        Whether a single output is returned with shape (n_samples,).

    Attributes
    ----------
    hidden : nn.ModuleList
        The hidden ``nn.Linear`` layers, ``W^(1)`` to ``W^(H)``.

    activations : nn.ModuleList
        The activation that follows each of them.

    a : torch.Tensor of shape (n_outputs, hidden_widths[-1])
        The fixed output weights; only with ``train_output=False``.

    output : nn.Linear
        The trained output layer; only with ``train_output=True``.

    Notes
    -----
    The fixed `a` is part of the objective, so all restarts of one training must share
    it. It is drawn from a normal distribution with standard deviation ``1 /
    sqrt(hidden_widths[-1])`` by a generator of its own with a constant seed: equal
    shapes have an equal `a`, and torch's global random state is neither read nor
    advanced.

    The bias-free ReLU form starts from He's initialisation, which keeps the variance
    of the layers; every other form starts from torch's default for ``nn.Linear``.

    References
    ----------
    .. [1] X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
       Networks", AAAI 2025, :arxiv:`2412.11057`.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.networks import DFCNN
    >>> net = DFCNN(n_features=2, hidden_widths=(3, 3))
    >>> [name for name, _ in net.named_parameters()]
    ['hidden.0.weight', 'hidden.1.weight']

    Without biases, relu makes the network positively homogeneous:

    >>> x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    >>> torch.allclose(net(4 * x), 4 * net(x))
    True
    """

    a: torch.Tensor

    def __init__(
        self,
        *,
        n_features: int = 1,
        n_outputs: int = 1,
        hidden_widths: Sequence[int] = (50, 50),
        activation: str | type[nn.Module] = "relu",
        bias: bool = False,
        train_output: bool = False,
        squeeze_output: bool = False,
    ) -> None:
        super().__init__()
        self.n_features = _check_size("n_features", n_features)
        self.n_outputs = _check_size("n_outputs", n_outputs)
        self.hidden_widths = _check_widths(hidden_widths, train_output)
        self.activation = activation
        self.bias = bias
        self.train_output = train_output
        self.squeeze_output = squeeze_output

        make_activation = _activation_class(activation)
        widths = (self.n_features, *self.hidden_widths)
        layers = [
            nn.Linear(before, after, bias=bias)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.hidden = nn.ModuleList(layers)
        self.activations = nn.ModuleList(make_activation() for _ in self.hidden)
        if train_output:
            self.output = nn.Linear(widths[-1], self.n_outputs, bias=bias)
        else:
            self.register_buffer("a", _fixed_output(self.n_outputs, widths[-1]))
        if make_activation is nn.ReLU and not bias:
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of the network.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features) or (n_samples, ...)
            Inputs; with more than two dimensions, each row is flattened.

        Returns
        -------
        outputs : torch.Tensor of shape (n_samples, n_outputs) or (n_samples,)
            The latter with one output and ``squeeze_output=True``.
        """
        if X.ndim > 2:
            X = X.flatten(start_dim=1)
        for layer, activation in zip(self.hidden, self.activations, strict=True):
            X = activation(layer(X))
        outputs = (
            self.output(X) if self.train_output else nn.functional.linear(X, self.a)
        )
        if self.squeeze_output and self.n_outputs == 1:
            return outputs.squeeze(-1)
        return outputs


def _fixed_output(n_outputs: int, width: int) -> torch.Tensor:
    """Output weights (n_outputs, width) that depend on nothing but the shape."""
    generator = torch.Generator(device="cpu").manual_seed(_OUTPUT_SEED)
    # In float64 first: torch draws other numbers for other dtypes.
    weights = torch.randn(
        n_outputs, width, generator=generator, dtype=torch.float64, device="cpu"
    )
    return (weights / math.sqrt(width)).to(torch.get_default_dtype())


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
    )


def _check_size(name: str, value: Any) -> int:
    if not _is_size(value):
        raise ValueError(
            f"The '{name}' parameter of DFCNN must be a positive integer. "
            f"Got {value!r} instead."
        )
    return int(value)


def _check_widths(hidden_widths: Any, train_output: bool) -> tuple[int, ...]:
    try:
        text = isinstance(hidden_widths, str | bytes)
        widths = (None,) if text else tuple(hidden_widths)
    except TypeError:
        widths = (None,)  # not a sequence: fails the check below
    if not all(map(_is_size, widths)) or not (widths or train_output):
        raise ValueError(
            "The 'hidden_widths' parameter of DFCNN must be a sequence of positive "
            "integers, non-empty unless train_output=True. "
            f"Got {hidden_widths!r} instead."
        )
    return tuple(int(width) for width in widths)


def _activation_class(activation: str | type[nn.Module]) -> type[nn.Module]:
    if isinstance(activation, str) and activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation]
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return activation
    raise ValueError(
        "The 'activation' parameter of DFCNN must be a torch.nn.Module class or one "
        f"of {sorted(_ACTIVATIONS)}. Got {activation!r} instead."
    )
