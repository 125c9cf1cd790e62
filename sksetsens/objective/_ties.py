"""How far maxima and minima are from a tie, at which they have a kink."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_BETWEEN_TWO = ("maximum", "minimum", "fmax", "fmin")
_ALONG_AXES = ("amax", "amin", "max", "min")
# With the number of axes that they pool over.
_POOLS = {
    "max_pool1d": 1,
    "max_pool2d": 2,
    "max_pool2d_with_indices": 2,
    "max_pool3d": 3,
    "max_pool3d_with_indices": 3,
}
_ADAPTIVE_POOLS = {"adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3}


def tie_gaps(name: str, args: Sequence[Any], result: Any) -> Tensor | None:
    """Distance of each maximum or minimum to the runner-up.

    Parameters
    ----------
    name : str
        Of an ATen operator.
    args : sequence
        Its positional arguments.
    result : Tensor or tuple
        What it returned.

    Returns
    -------
    gaps : Tensor or None
        Of the result's shape (signed where two tensors are compared); None for other
        operators, for a maximum over a whole tensor, and for adaptive pools whose
        windows differ in size.
    """
    values = result[0] if isinstance(result, tuple) else result
    two = len(args) > 1 and isinstance(args[1], Tensor)
    if name in _BETWEEN_TWO or (name in ("max", "min") and two):
        return args[0] - args[1]
    if name in _ALONG_AXES and len(args) > 1:
        return _gaps_along(args[0] if "max" in name else -args[0], args[1])
    if name in _POOLS:
        return _gaps_in_windows(_POOLS[name], values, *args)
    if name in _ADAPTIVE_POOLS:
        return _gaps_in_equal_windows(_ADAPTIVE_POOLS[name], args[0], values)
    return None


def _top_two(groups: Tensor) -> Tensor:
    """First less second of the last axis; infinite where there is no second."""
    if groups.shape[-1] < 2:
        return groups.new_full(groups.shape[:-1], math.inf)
    top = groups.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def _gaps_along(a: Tensor, axes: Any) -> Tensor:
    axes = [axes] if isinstance(axes, int) else list(axes) or list(range(a.ndim))
    last = list(range(-len(axes), 0))
    groups = a.movedim(axes, last).flatten(-len(axes))
    return _top_two(groups)


def _gaps_in_windows(
    n: int,
    values: Tensor,
    a: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    *_: Any,
) -> Tensor:
    """Gaps in windows over the last n axes."""
    kernel = _each(kernel, n)
    stride = _each(stride, n) if stride not in ((), [], None) else kernel
    padding, dilation = _each(padding, n), _each(dilation, n)
    first = a.ndim - n
    for i in range(n):
        axis = first + i
        span = (kernel[i] - 1) * dilation[i] + 1
        # Windows that end beyond the padding exist where ceil_mode asks for them.
        needed = (values.shape[axis] - 1) * stride[i] + span
        behind = max(0, needed - a.shape[axis] - padding[i])
        edge = [0, 0] * (a.ndim - 1 - axis) + [padding[i], behind]
        a = torch.nn.functional.pad(a, edge, value=-math.inf)
        a = a.unfold(axis, span, stride[i])[..., :: dilation[i]]
        a = a.narrow(axis, 0, values.shape[axis])
    return _top_two(a.flatten(-n))


def _gaps_in_equal_windows(n: int, a: Tensor, values: Tensor) -> Tensor | None:
    sizes = [(a.shape[axis], values.shape[axis]) for axis in range(-n, 0)]
    if any(size % out for size, out in sizes):
        return None
    return _gaps_in_windows(n, values, a, [size // out for size, out in sizes])


def _each(value: Any, n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values
