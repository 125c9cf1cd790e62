"""Count inputs of piecewise smooth operators that sit on a kink."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .._compat import TorchDispatchMode
from ._ties import tie_gaps

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


# Losses with corners of their second derivative, at errors of -beta and beta, which is
# the argument after the reduction.
_CORNERS = ("smooth_l1_loss", "huber_loss")


class KinkCounter(TorchDispatchMode):
    """While active, counts the inputs of piecewise smooth operators.

    It sees modules and functions alike, whether the net has ``nn.ReLU`` or calls
    ``F.relu``.

    Attributes
    ----------
    near, total : int
        Inputs within 1e-4 root mean squares of a kink, and all that could be; maxima
        count in total alone, see `ties_broken_by`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.near = 0
        self.total = 0
        # Of each operator that takes maxima: where it ties nearly, and exactly.
        self._ties: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        kinks = _KINKS.get(name)
        if kinks is not None:
            self._count(args[0], kinks(*args[1:]))
        if name in _CORNERS:
            corner = next((a for a in args[3:] if a is not None), 1.0)
            self._count(args[0] - args[1], (-corner, corner))
        result = func(*args, **(kwargs or {}))
        gaps = tie_gaps(name, args, result)
        if gaps is not None and gaps.is_floating_point():
            self._note_ties(gaps)
        return result

    @property
    def has_ties(self) -> bool:
        """Whether any maximum was taken of values that nearly tie."""
        return any(bool(near.any()) for near, _ in self._ties)

    def ties_broken_by(self, elsewhere: KinkCounter) -> int:
        """Ties that are none in another run, of the same net nearby.

        Equal values that stay equal, zeros of units that are off for example, make
        no kink.
        """
        pairs = zip(self._ties, elsewhere._ties, strict=False)
        return sum(int((near & ~exact).sum()) for (near, _), (_, exact) in pairs)

    def _note_ties(self, gaps: torch.Tensor) -> None:
        gaps = gaps.detach().abs()
        known = gaps[gaps.isfinite()]
        reach = _NEAR * known.square().mean().sqrt() if known.numel() else 0.0
        self._ties.append((gaps <= reach, gaps == 0))
        self.total += gaps.numel()

    def _count(self, inputs: torch.Tensor, kinks: tuple[float, ...]) -> None:
        a = inputs.detach()
        reach = _NEAR * a.square().mean().sqrt()
        near = torch.zeros_like(a, dtype=torch.bool)
        for kink in kinks:
            if math.isfinite(kink):
                near |= (a - kink).abs() <= reach
        self.near += int(near.sum())
        self.total += a.numel()
