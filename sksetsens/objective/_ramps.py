r"""Piecewise-linear operations as ramps, so that one kind of kink stands for all.

The ramp is :math:`r(t) = \max(t, 0) = g\,t` with the gate g = [t > 0]. ReLU is a ramp;
``|z| = 2 r(z) - z``; ``clamp(z, a, b) = a + r(z - a) - r(z - b)``; the maximum of two
numbers is ``b + r(a - b)``, and that of many a tournament. While a `RampMode` is
active, every such operation is evaluated in this form, wherever it is called, and its
ramps are handed to a gating, which reads, holds or smooths their gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Gating", "RampMode"]

Tensor = torch.Tensor
Ramp = Callable[[Tensor], Tensor]


class Gating(Protocol):
    """What evaluates ramps."""

    def ramp(self, call: int, rows: slice | None, t: Tensor) -> Tensor:
        """The ramps of one operation, in the shape of their inputs t.

        Parameters
        ----------
        call : int
            Number of the operation: from 0 in forward, below 0 in ``get_loss``.
        rows : slice or None
            Rows of the data that are evaluated; None for all.
        t : Tensor
        """


class RampMode(TorchFunctionMode):
    """While active, evaluates piecewise-linear operations by the ramps of a gating.

    Parameters
    ----------
    gating : Gating
    rows : slice or None
        Rows of the data that are evaluated; None for all.
    in_loss : bool
        Whether it is ``get_loss`` that is evaluated.
    """

    def __init__(self, gating: Gating, rows: slice | None, in_loss: bool) -> None:
        super().__init__()
        self._gating, self._rows, self._in_loss = gating, rows, in_loss
        self._n_calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given, kwargs = args, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        operation = _OPERATIONS.get(name.strip("_"))
        if operation is None or not _is_real(args):
            return func(*args, **kwargs)
        in_place = name.endswith("_") and not name.startswith("__")
        taken = len(args)
        if operation.inplace_at:
            in_place |= bool(kwargs.get("inplace", False))
            in_place |= any(args[operation.inplace_at :])
            taken = operation.inplace_at
        if in_place:  # What a gate multiplies must stay what it was.
            args = (args[0].clone(), *args[1:])
        options = {key: value for key, value in kwargs.items() if key != "inplace"}
        found = operation.evaluate(self._ramp, *args[:taken], **options)
        if found is NotImplemented:
            return func(*given, **kwargs)
        return given[0].copy_(found) if in_place else found

    def _ramp(self, t: Tensor) -> Tensor:
        number = self._n_calls
        self._n_calls += 1
        return self._gating.ramp(~number if self._in_loss else number, self._rows, t)


def _is_real(args: Any) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()


# Activations --------------------------------------------------------------------------


def _relu(ramp: Ramp, z: Tensor) -> Tensor:
    return ramp(z)


def _leaky_relu(ramp: Ramp, z: Tensor, negative_slope: float = 0.01) -> Tensor:
    return negative_slope * z + (1.0 - negative_slope) * ramp(z)


def _prelu(ramp: Ramp, z: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (z.ndim - 2))
    return weight * z + (1.0 - weight) * ramp(z)


def _rrelu(
    ramp: Ramp,
    z: Tensor,
    lower: float = 1.0 / 8.0,
    upper: float = 1.0 / 3.0,
    training: bool = False,
) -> Any:
    return NotImplemented if training else _leaky_relu(ramp, z, 0.5 * (lower + upper))


def _hardtanh(
    ramp: Ramp, z: Tensor, min_val: float = -1.0, max_val: float = 1.0
) -> Tensor:
    return min_val + ramp(z - min_val) - ramp(z - max_val)


def _relu6(ramp: Ramp, z: Tensor) -> Tensor:
    return _hardtanh(ramp, z, 0.0, 6.0)


def _hardsigmoid(ramp: Ramp, z: Tensor) -> Tensor:
    return (ramp(z + 3.0) - ramp(z - 3.0)) / 6.0


def _hardswish(ramp: Ramp, z: Tensor) -> Tensor:
    return z * _hardsigmoid(ramp, z)


def _softshrink(ramp: Ramp, z: Tensor, lambd: float = 0.5) -> Tensor:
    return ramp(z - lambd) - ramp(-z - lambd)


def _threshold(ramp: Ramp, z: Tensor, threshold: float, value: float) -> Any:
    # A jump has no gate.
    return threshold + ramp(z - threshold) if value == threshold else NotImplemented


def _selu(ramp: Ramp, z: Tensor) -> Tensor:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    positive = ramp(z)
    return scale * (positive + alpha * torch.expm1(z - positive))


def _abs(ramp: Ramp, z: Tensor) -> Tensor:
    return 2.0 * ramp(z) - z


def _clamp(ramp: Ramp, z: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if min is not None:
        z = min + ramp(z - min)
    return z if max is None else z - ramp(z - max)


def _clamp_max(ramp: Ramp, z: Tensor, max: Any) -> Tensor:
    return z - ramp(z - max)


# Maxima -------------------------------------------------------------------------------


def _maximum(ramp: Ramp, a: Tensor, b: Tensor) -> Any:
    return NotImplemented if a.dtype != b.dtype else b + ramp(a - b)


def _minimum(ramp: Ramp, a: Tensor, b: Tensor) -> Any:
    return NotImplemented if a.dtype != b.dtype else a - ramp(a - b)


class _Reduced(NamedTuple):
    values: Tensor
    indices: Tensor


def _max(ramp: Ramp, a: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _extreme(_maximum, _amax, torch.argmax, ramp, a, dim, keepdim)


def _min(ramp: Ramp, a: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    return _extreme(_minimum, _amin, torch.argmin, ramp, a, dim, keepdim)


def _extreme(
    of_two: Any, along: Any, where: Any, ramp: Ramp, a: Tensor, dim: Any, keepdim: bool
) -> Any:
    if isinstance(dim, Tensor):
        return of_two(ramp, a, dim)
    if dim is None:
        return along(ramp, a)
    indices = where(a.detach(), dim, keepdim)
    return _Reduced(along(ramp, a, dim, keepdim), indices)


def _amax(ramp: Ramp, a: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    axes = [dim] if isinstance(dim, int) else list(dim) or list(range(a.ndim))
    groups = a.movedim(axes, list(range(-len(axes), 0)))
    found = _winner(ramp, groups.flatten(-len(axes)))
    for axis in sorted(axis % a.ndim for axis in axes) if keepdim else ():
        found = found.unsqueeze(axis)
    return found


def _amin(ramp: Ramp, a: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return -_amax(ramp, -a, dim, keepdim)


def _winner(ramp: Ramp, groups: Tensor) -> Tensor:
    """Maximum over the last axis, by a tournament of pairs."""
    while groups.shape[-1] > 1:
        half = groups.shape[-1] // 2
        one, other, left = groups.split([half, half, groups.shape[-1] % 2], dim=-1)
        groups = torch.cat([other + ramp(one - other), left], dim=-1)
    return groups[..., 0]


def _pool(n: int) -> Callable[..., Any]:
    def pooled(
        ramp: Ramp,
        a: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices:
            return NotImplemented
        sizes = tuple(a.shape[-n:])
        kernel = _each(kernel_size, n)
        strides = kernel if stride in (None, (), []) else _each(stride, n)
        options = kernel, strides, _each(padding, n), _each(dilation, n), ceil_mode
        return _over_windows(ramp, a, *_windows(sizes, *options))

    return pooled


def _adaptive_pool(n: int) -> Callable[..., Any]:
    def pooled(
        ramp: Ramp, a: Tensor, output_size: Any, return_indices: bool = False
    ) -> Any:
        if return_indices:
            return NotImplemented
        sizes, wanted = a.shape[-n:], _each(output_size, n)
        pairs = [
            (size, size if out is None else out)
            for size, out in zip(sizes, wanted, strict=True)
        ]
        if any(size % out for size, out in pairs):
            return NotImplemented
        kernel = tuple(size // out for size, out in pairs)
        zeros, ones = (0,) * n, (1,) * n
        windows = _windows(tuple(sizes), kernel, kernel, zeros, ones, False)
        return _over_windows(ramp, a, *windows)

    return pooled


def _over_windows(
    ramp: Ramp, a: Tensor, table: Tensor, shape: tuple[int, ...]
) -> Tensor:
    flat = a.flatten(-len(shape))
    windows = flat[..., table.to(a.device)]
    return _winner(ramp, windows).unflatten(-1, shape)


@lru_cache(maxsize=64)
def _windows(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> tuple[Tensor, tuple[int, ...]]:
    """Positions in the flattened axes of each window's entries, and how many windows.

    Padding repeats an entry of the same window, with which it ties for ever.
    """
    axes, shape = [], []
    for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        span = size + 2 * p - d * (k - 1) - 1
        count = (math.ceil(span / s) if ceil_mode else span // s) + 1
        if ceil_mode and (count - 1) * s >= size + p:
            count -= 1
        first = torch.arange(count)[:, None] * s - p
        entries = first + torch.arange(k)[None, :] * d
        axes.append(torch.where((entries >= 0) & (entries < size), entries, -1))
        shape.append(count)
    table = torch.zeros((1, 1), dtype=torch.long)
    for entries, size in zip(axes, sizes, strict=True):
        inside = (table[:, None, :, None] >= 0) & (entries[None, :, None, :] >= 0)
        joined = table[:, None, :, None] * size + entries[None, :, None, :]
        joined = torch.where(inside, joined, -1)
        table = joined.reshape(len(table) * len(entries), -1)
    table = torch.where(table >= 0, table, table.max(dim=1, keepdim=True).values)
    return table, tuple(shape)


def _each(value: Any, n: int) -> tuple[Any, ...]:
    values = (value,) if isinstance(value, int) or value is None else tuple(value)
    return values * n if len(values) == 1 else values


# Losses and penalties -----------------------------------------------------------------


def _l1_loss(
    ramp: Ramp,
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    if size_average is not None or reduce is not None or weight is not None:
        return NotImplemented
    errors = _abs(ramp, input - target)
    return {"none": errors, "sum": errors.sum(), "mean": errors.mean()}[reduction]


def _norm(
    ramp: Ramp, a: Tensor, p: Any = "fro", dim: Any = None, **options: Any
) -> Any:
    """``|a|_1`` over all entries, as penalties have it."""
    if p != 1 or dim is not None or any(options.values()):
        return NotImplemented
    return _abs(ramp, a).sum()


def _vector_norm(
    ramp: Ramp, a: Tensor, ord: Any = 2, dim: Any = None, **options: Any
) -> Any:
    return _norm(ramp, a, ord, dim, **options)


class _Operation(NamedTuple):
    evaluate: Callable[..., Any]
    # Position of the argument ``inplace``; 0 where there is none.
    inplace_at: int = 0


# By the name under which torch calls it, as a function or as a method; a trailing
# underscore means in place.
_OPERATIONS = {
    "relu": _Operation(_relu, 1),
    "relu6": _Operation(_relu6, 1),
    "leaky_relu": _Operation(_leaky_relu, 2),
    "prelu": _Operation(_prelu),
    "rrelu": _Operation(_rrelu, 4),
    "hardtanh": _Operation(_hardtanh, 3),
    "hardsigmoid": _Operation(_hardsigmoid, 1),
    "hardswish": _Operation(_hardswish, 1),
    "softshrink": _Operation(_softshrink),
    "threshold": _Operation(_threshold, 3),
    "selu": _Operation(_selu, 1),
    "abs": _Operation(_abs),
    "absolute": _Operation(_abs),
    "clamp": _Operation(_clamp),
    "clip": _Operation(_clamp),
    "clamp_min": _Operation(_clamp),
    "clamp_max": _Operation(_clamp_max),
    "maximum": _Operation(_maximum),
    "minimum": _Operation(_minimum),
    "fmax": _Operation(_maximum),
    "fmin": _Operation(_minimum),
    "max": _Operation(_max),
    "min": _Operation(_min),
    "amax": _Operation(_amax),
    "amin": _Operation(_amin),
    "max_pool1d": _Operation(_pool(1)),
    "max_pool2d": _Operation(_pool(2)),
    "max_pool3d": _Operation(_pool(3)),
    "adaptive_max_pool1d": _Operation(_adaptive_pool(1)),
    "adaptive_max_pool2d": _Operation(_adaptive_pool(2)),
    "adaptive_max_pool3d": _Operation(_adaptive_pool(3)),
    "l1_loss": _Operation(_l1_loss),
    "norm": _Operation(_norm),
    "linalg_vector_norm": _Operation(_vector_norm),
}
