"""Count inputs of piecewise smooth operators that sit on a kink."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .._compat import TorchDispatchMode

# Relative to the operator's root-mean-square input: a minimiser at a kink sits there
# to working precision only, a generic pre-activation is this near with odds 1e-4.
_NEAR = 1e-4


def _at_zero(*_: Any) -> tuple[float, ...]:
    return (0.0,)


def _at_three(*_: Any) -> tuple[float, ...]:
    return (-3.0, 3.0)


def _at_lambda(width: float = 0.5, *_: Any) -> tuple[float, ...]:
    return (-width, width)


def _at_threshold(threshold: float, *_: Any) -> tuple[float, ...]:
    return (threshold,)


def _at_bounds(low: Any = None, high: Any = None, *_: Any) -> tuple[float, ...]:
    return tuple(bound for bound in (low, high) if isinstance(bound, int | float))


def _at_hardtanh(low: float = -1.0, high: float = 1.0, *_: Any) -> tuple[float, ...]:
    return (low, high)


def _at_maximum(high: Any = None, *_: Any) -> tuple[float, ...]:
    return _at_bounds(high)


# ATen operator -> kinks of its first or second derivative, from the arguments after
# the input. ReLU6 is a hardtanh; SELU and CELU are elu's. ``abs`` is left out: smooth
# functions (softsign, log-cosh) are commonly written with it.
_KINKS: dict[str, Callable[..., tuple[float, ...]]] = {
    "relu": _at_zero,
    "leaky_relu": _at_zero,
    "_prelu_kernel": _at_zero,
    "rrelu_with_noise": _at_zero,
    "elu": _at_zero,
    "celu": _at_zero,
    "hardtanh": _at_hardtanh,
    "hardsigmoid": _at_three,
    "hardswish": _at_three,
    "hardshrink": _at_lambda,
    "softshrink": _at_lambda,
    "threshold": _at_threshold,
    "clamp": _at_bounds,
    "clamp_min": _at_bounds,
    "clamp_max": _at_maximum,
}


class KinkCounter(TorchDispatchMode):
    """While active, counts the inputs of piecewise smooth operators.

    It sees modules and functions alike, whether the net has ``nn.ReLU`` or calls
    ``F.relu``.

    Attributes
    ----------
    near, total : int
        Inputs within 1e-4 root mean squares of a kink, and all inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.near = 0
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kinks = _KINKS.get(func.overloadpacket.__name__.rstrip("_"))
        if kinks is not None:
            self._count(args[0], kinks(*args[1:]))
        return func(*args, **(kwargs or {}))

    def _count(self, inputs: torch.Tensor, kinks: tuple[float, ...]) -> None:
        a = inputs.detach()
        reach = _NEAR * a.square().mean().sqrt()
        near = torch.zeros_like(a, dtype=torch.bool)
        for kink in kinks:
            if math.isfinite(kink):
                near |= (a - kink).abs() <= reach
        self.near += int(near.sum())
        self.total += a.numel()
