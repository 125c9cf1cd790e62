"""Any skorch net as one that takes one array of real rows and returns one tensor.

What it does not take itself is unpacked on the way in, what it returns in several
tensors is put side by side on the way out; ``get_loss`` sees both as the user's code
made them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from .._layout import InputLayout
from ..exceptions import UnsupportedObjectiveError

__all__ = ["flat_class", "flattened", "users_class", "with_one_output"]


def flattened(net: Any, layout: InputLayout | None) -> Any:
    """The net on flat rows; itself where these are what it takes.

    It shares what the net has, initialised or not.
    """
    if layout is None:
        return net
    twin: Any = object.__new__(flat_class(users_class(net)))
    twin.__dict__.update(net.__dict__)
    twin.__dict__["_input_layout"] = layout
    return twin


def with_one_output(net: Any, outputs: Any, n_rows: int) -> Any:
    """The net, with one tensor for a tuple like ``outputs`` of some rows.

    Raises
    ------
    UnsupportedObjectiveError
        If they are no tensors of one row for each row.
    """
    if isinstance(outputs, torch.Tensor):
        return net
    parts = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    for k, part in enumerate(parts):
        if isinstance(part, torch.Tensor) and part.ndim and len(part) == n_rows:
            continue
        told = type(part).__name__
        if isinstance(part, torch.Tensor):
            told = f"a tensor of shape {tuple(part.shape)}"
        raise UnsupportedObjectiveError(
            "The module must return a tensor, or a tuple of tensors whose first axis "
            f"is the rows. Got {told} at position {k} instead: return only what the "
            "criterion needs."
        )
    twin: Any = object.__new__(flat_class(users_class(net)))
    twin.__dict__.update(net.__dict__)
    twin.__dict__["_several"] = _Several(
        type(outputs),
        tuple(tuple(part.shape[1:]) for part in parts),
        tuple(None if part.is_floating_point() else part.dtype for part in parts),
    )
    return twin


@dataclass(frozen=True)
class _Several:
    """What a module returns beside one tensor: a tuple, named or not, or a list.

    Attributes
    ----------
    kind : type
    shapes : tuple of tuple of int
        Of one row of each part.
    dtypes : tuple of torch.dtype or None
        Of parts that are no real numbers.
    """

    kind: type
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype | None, ...]

    def split(self, outputs: torch.Tensor) -> Any:
        """The parts of what was laid side by side."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = []
        for part, shape, dtype in zip(
            torch.split(outputs, sizes, dim=1), self.shapes, self.dtypes, strict=True
        ):
            whole = part.reshape(len(outputs), *shape)
            parts.append(whole if dtype is None else whole.detach().round().to(dtype))
        is_named = hasattr(self.kind, "_fields")
        return self.kind(*parts) if is_named else self.kind(parts)


def users_class(net: Any) -> Any:
    """The class that a net has without being made flat."""
    kind = type(net)
    return kind.__mro__[2] if issubclass(kind, _Flat) else kind


@cache
def flat_class(kind: Any) -> Any:
    """Subclass of a net's class whose instances are flat."""
    if issubclass(kind, _Flat):
        return kind
    return type(kind.__name__, (_Flat, kind), {"__module__": kind.__module__})


class _Flat:
    """Overrides of skorch's methods that see inputs and outputs."""

    _input_layout: InputLayout | None = None
    _several: _Several | None = None

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Outputs of flat rows, as the user's module returns them."""
        found: Any = super().infer(self._unpacked(x), **fit_params)  # type: ignore[misc]
        return found

    def one_output(self, x: Any) -> Any:
        """Outputs of flat rows, as one tensor."""
        found = self.infer(x)
        if self._several is None:
            return found
        dtype = next(part.dtype for part in found if part.is_floating_point())
        parts = [part.reshape(len(part), -1).to(dtype) for part in found]
        return torch.cat(parts, dim=1)

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, **kwargs: Any) -> Any:
        """The net's own loss of outputs and inputs as its module has them."""
        outputs = self.several_outputs(y_pred)
        own: Any = super()
        return own.get_loss(outputs, y_true, X=self._unpacked(X), **kwargs)

    def several_outputs(self, outputs: Any) -> Any:
        """The tuple that a tensor of all outputs stands for."""
        if self._several is None or not isinstance(outputs, torch.Tensor):
            return outputs
        return self._several.split(outputs)

    def _unpacked(self, x: Any) -> Any:
        if self._input_layout is None or not isinstance(x, torch.Tensor):
            return x
        return self._input_layout.unpack(x)
