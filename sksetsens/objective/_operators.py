"""Operators of the user's code in a form that has all derivatives, in float64.

Some of torch's operators have no derivative along directions; some code names float32
where it means the dtype of its inputs. Both are looked for at the door, and replaced
where they stand in the way only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._compat import torch_weight_norm

__all__ = ["OperatorsSeen", "Replaced"]

Tensor = torch.Tensor

_FACTORIES = {
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.tensor,
    torch.zeros,
}
_SINGLE = torch.float32


class Replaced(TorchFunctionMode):
    """Operators inside are replaced.

    Parameters
    ----------
    decomposes : bool
        Whether those without a derivative along directions are written in others.
    keeps_double : bool
        Whether conversions to float32 are left out.
    """

    def __init__(self, *, decomposes: bool, keeps_double: bool) -> None:
        super().__init__()
        self._decomposes, self._keeps_double = decomposes, keeps_double

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._decomposes:
            other = _DECOMPOSED.get(func)
            if other is not None:
                return other(*args, **kwargs)
        if self._keeps_double:
            return _in_double(func, args, kwargs)
        return func(*args, **kwargs)


class OperatorsSeen(TorchFunctionMode):
    """Whether an operator that can be written in others is called inside."""

    any = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.any |= func in _DECOMPOSED
        return func(*args, **(kwargs or {}))


# In float64 ---------------------------------------------------------------------------


def _in_double(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is Tensor.float and args[0].dtype == torch.float64:
        return args[0]
    if func in (Tensor.to, Tensor.type) and args[0].dtype == torch.float64:
        args = (args[0], *(_doubled(a) for a in args[1:]))
        kwargs = {name: _doubled(a) for name, a in kwargs.items()}
    try:
        found = func(*args, **kwargs)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        return func(
            *map(_promoted, args), **{k: _promoted(v) for k, v in kwargs.items()}
        )
    if func in _FACTORIES and found.dtype == _SINGLE:
        return func(*args, **{**kwargs, "dtype": torch.float64})
    return found


def _doubled(given: Any) -> Any:
    """A dtype, or a tensor whose dtype is meant."""
    if given is _SINGLE:
        return torch.float64
    if isinstance(given, str) and given in ("torch.FloatTensor", "torch.float32"):
        return torch.float64
    return _promoted(given)


def _promoted(given: Any) -> Any:
    if isinstance(given, Tensor) and given.dtype == _SINGLE:
        return given.double()
    return given


# In other operators -------------------------------------------------------------------


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    if dim == -1:
        return v * (g / v.norm())
    return v * (g / v.square().sum(dim=others, keepdim=True).sqrt())


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    largest = x.detach().amax(dim=dim, keepdim=True)
    return (x - largest).exp().cumsum(dim).log() + largest


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    if offsets is not None or max_norm is not None or input.ndim != 2:
        raise NotImplementedError(
            "EmbeddingBag has second derivatives for bags of equal length, without "
            "max_norm."
        )
    rows = functional.embedding(input, weight)
    counted = torch.ones_like(input, dtype=weight.dtype)
    if padding_idx is not None:
        counted = (input != padding_idx % len(weight)).to(weight.dtype)
    if mode == "max":
        low = rows.masked_fill(counted[..., None] == 0.0, -torch.inf)
        return low.amax(dim=1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    total = (rows * counted[..., None]).sum(dim=1)
    if mode == "sum":
        return total
    return total / counted.sum(dim=1, keepdim=True).clamp(min=1.0)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    gaps = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    return torch.linalg.vector_norm(gaps, ord=p, dim=-1)


_DECOMPOSED: dict[Any, Callable[..., Any]] = {
    torch_weight_norm: _weight_norm,
    torch.cdist: _cdist,
    torch.logcumsumexp: _logcumsumexp,
    Tensor.logcumsumexp: _logcumsumexp,
    functional.embedding_bag: _embedding_bag,
}
