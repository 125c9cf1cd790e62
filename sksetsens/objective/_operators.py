"""Operators of the user's code in a form that has all derivatives, in float64.

Some of torch's operators have no derivative along directions; some code names float32
where it means the dtype of its inputs. Both are looked for at the door, and replaced
where they stand in the way only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._compat import torch_weight_norm
from ..exceptions import UnsupportedObjectiveError

__all__ = ["PLAIN", "Operators", "OperatorsSeen"]

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


@dataclass(frozen=True)
class Operators:
    """What is replaced in a net's code.

    Attributes
    ----------
    decomposes : bool
        Whether operators without a derivative along directions are written in others.
    keeps_double : bool
        Whether conversions to float32 are left out.
    """

    decomposes: bool = False
    keeps_double: bool = False

    def replaced(self) -> Any:
        """Context in which they are."""
        if self.decomposes or self.keeps_double:
            return _Replaced(self)
        return contextlib.nullcontext()


PLAIN = Operators()


class _Replaced(TorchFunctionMode):
    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._operators.decomposes:
            other = _DECOMPOSED.get(func)
            if other is not None:
                return other(*args, **kwargs)
        if self._operators.keeps_double:
            return _in_double(func, args, kwargs)
        return func(*args, **kwargs)


class OperatorsSeen(TorchFunctionMode):
    """What stands in the way among all that is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = Operators()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        known = self.operators
        self.operators = Operators(
            known.decomposes or func in _DECOMPOSED,
            known.keeps_double or _is_single(found),
        )
        return found


# In float64 ---------------------------------------------------------------------------


def _in_double(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is Tensor.float:
        return args[0].double()
    if kwargs.get("dtype") is _SINGLE:
        kwargs["dtype"] = torch.float64
    if func in (Tensor.to, Tensor.type):
        args = (args[0], *(_doubled(a) for a in args[1:]))
        kwargs = {name: _doubled(a) for name, a in kwargs.items()}
    try:
        found = func(*args, **kwargs)
    except (RuntimeError, ValueError):
        # Where single and double meet, in whatever words torch says so.
        if not _has_single((args, kwargs)):
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
    if given is torch.FloatTensor:
        return torch.DoubleTensor
    if isinstance(given, str) and given in ("torch.FloatTensor", "torch.float32"):
        return torch.float64
    return _promoted(given)


def _promoted(given: Any) -> Any:
    if type(given) in (tuple, list):
        return type(given)(map(_promoted, given))
    return given.double() if _is_single(given) else given


def _is_single(given: Any) -> bool:
    return isinstance(given, Tensor) and given.dtype == _SINGLE


def _has_single(given: Any) -> bool:
    if isinstance(given, dict):
        given = tuple(given.values())
    if isinstance(given, tuple | list):
        return any(map(_has_single, given))
    return _is_single(given)


# In other operators -------------------------------------------------------------------


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    if dim == -1:
        return v * (g / v.norm())
    return v * (g / v.square().sum(dim=others, keepdim=True).sqrt())


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """By doubling: each pass adds the sum of as many entries before those summed."""
    found, reach = x.movedim(dim, -1), 1
    while reach < found.shape[-1]:
        head, tail = found[..., :reach], found[..., reach:]
        added = torch.logaddexp(tail, found[..., :-reach])
        found, reach = torch.cat([head, added], dim=-1), 2 * reach
    return found.movedim(-1, dim)


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
        raise UnsupportedObjectiveError(
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
