"""The residual network for small images, as used on CIFAR-10."""

from numbers import Integral
from typing import Any, Self

import torch
from torch import nn

# Modules, not functions: hooks on them see the pre-activations.
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


class ResNet(nn.Module):
    """Residual network for small images, in the CIFAR-10 form.

    The network of [1]_, Section 4.2: a 3 x 3 convolution, three stages of ``(depth - 2)
    / 6`` residual blocks with `width`, ``2 * width`` and ``4 * width`` channels, each
    later stage on half the resolution, a global average and a linear layer. The
    shortcuts have no parameters (option A): where a stage begins they take every
    second pixel and fill the new channels with zeros. ``ResNet(depth=56)`` on colour
    images has 853,018 weights, on grey ones 852,730.

    Parameters
    ----------
    depth : int, default=20
        Number of layers with weights, ``6 k + 2`` for k >= 1 blocks per stage.

    in_channels : int, default=3
        Number of channels of the images.

    n_outputs : int, default=10
        Number of outputs per sample.

    width : int, default=16
        Number of channels in the first stage.

    activation : {"relu", "tanh", "softplus"}, default="relu"
        Activation. The smooth ones have no kinks, at which derivatives of first order
        would fail.

    Attributes
    ----------
    stem : nn.Sequential
        The first convolution with its normalisation and activation.

    blocks : nn.Sequential
        All residual blocks.

    output : nn.Linear
        The last layer.

    frozen_statistics : bool
        Whether batch normalisation keeps its running statistics also in training; see
        `freeze_statistics`.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image
       Recognition", CVPR 2016, :arxiv:`1512.03385`.

    Examples
    --------
    >>> import torch
    >>> from sksetsens.networks import ResNet
    >>> net = ResNet(depth=56)
    >>> sum(weight.numel() for weight in net.parameters())
    853018
    >>> ResNet(depth=8)(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        depth: int = 20,
        in_channels: int = 3,
        n_outputs: int = 10,
        width: int = 16,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.depth = _check_depth(depth)
        self.in_channels = _check_size("in_channels", in_channels)
        self.n_outputs = _check_size("n_outputs", n_outputs)
        self.width = _check_size("width", width)
        self.activation = activation
        self.frozen_statistics = False

        make_activation = _activation_class(activation)
        self.stem = nn.Sequential(
            _convolution(self.in_channels, self.width),
            nn.BatchNorm2d(self.width),
            make_activation(),
        )
        self.blocks = nn.Sequential(*self._make_blocks(make_activation))
        self.output = nn.Linear(4 * self.width, self.n_outputs)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.output.bias)

    def _make_blocks(self, make_activation: type[nn.Module]) -> list["_Block"]:
        blocks, before = [], self.width
        for stage in range(3):
            after = self.width * 2**stage
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage and not index else 1
                blocks.append(_Block(before, after, stride, make_activation))
                before = after
        return blocks

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of the network.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, in_channels, height, width)
            Images of any size.

        Returns
        -------
        outputs : torch.Tensor of shape (n_samples, n_outputs)
            Outputs, for a classifier the logits.
        """
        if X.ndim != 4 or X.shape[1] != self.in_channels:
            raise ValueError(
                "The 'X' parameter of ResNet.forward must have shape (n_samples, "
                f"{self.in_channels}, height, width). Got shape {tuple(X.shape)} "
                "instead. Reshape the images, or set 'in_channels'."
            )
        return self.output(self.blocks(self.stem(X)).mean(dim=(2, 3)))

    def freeze_statistics(self, frozen: bool = True) -> Self:
        """Train with the running statistics of batch normalisation held fixed.

        The objective of a network with batch normalisation is that of its evaluation
        mode. Its minimisers are reached by training in the same form, once training in
        the usual form has settled the statistics; scales and offsets stay trainable.

        Parameters
        ----------
        frozen : bool, default=True
            Whether to hold them fixed, or to update them in training again.

        Returns
        -------
        self : ResNet
            The network.
        """
        self.frozen_statistics = bool(frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, leaving frozen statistics frozen.

        Parameters
        ----------
        mode : bool, default=True
            Whether to train or to evaluate.

        Returns
        -------
        self : ResNet
            The network.
        """
        super().train(mode)
        for module in self.modules():
            if self.frozen_statistics and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class _Block(nn.Module):
    """``activation(x + F(x))``, with two normalised convolutions in F."""

    def __init__(
        self, before: int, after: int, stride: int, make_activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = after - before
        self.residual = nn.Sequential(
            _convolution(before, after, stride),
            nn.BatchNorm2d(after),
            make_activation(),
            _convolution(after, after),
            nn.BatchNorm2d(after),
        )
        self.activation = make_activation()

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        shortcut = X
        if self.stride > 1:
            shortcut = X[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            padding = (0, 0, 0, 0, 0, self.new_channels)
            shortcut = nn.functional.pad(shortcut, padding)
        return self.activation(shortcut + self.residual(X))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the normalisation that follows has one.
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_size(name: str, value: Any) -> int:
    if not _is_integer(value) or value < 1:
        raise ValueError(
            f"The '{name}' parameter of ResNet must be a positive integer. "
            f"Got {value!r} instead."
        )
    return int(value)


def _check_depth(depth: Any) -> int:
    if not _is_integer(depth) or depth < 8 or depth % 6 != 2:
        raise ValueError(
            "The 'depth' parameter of ResNet must be 6 k + 2 with k >= 1 blocks per "
            f"stage, such as 8, 20, 32 or 56. Got {depth!r} instead."
        )
    return int(depth)


def _activation_class(activation: Any) -> type[nn.Module]:
    if isinstance(activation, str) and activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation]
    raise ValueError(
        "The 'activation' parameter of ResNet must be one of "
        f"{sorted(_ACTIVATIONS)}. Got {activation!r} instead."
    )
