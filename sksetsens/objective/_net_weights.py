"""A skorch net's module, criterion and penalty at flat weights, without any data."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from .._compat import skeleton_net
from .._layout import InputLayout
from ._criteria import analysed_criterion
from ._decay import weight_decay
from ._flat_net import with_one_output
from ._module_copy import copied, plain_name
from ._net_function import NetFunction
from ._operators import Operators

__all__ = ["NetWeights", "Weights", "as_tensor"]

Array = NDArray[np.float64]
Tensor = torch.Tensor
# All in one vector, or those of each parameter.
Weights = Tensor | tuple[Tensor, ...]
# Rows that show what a module returns: more than one, which other axes may be.
_SHOWN = 3


class NetWeights:
    """A copy of a net whose trainable parameters are flat weights w.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised. It is read, never changed.
    X : ndarray of shape (n_samples, ...)
        A row of which shows what the module returns.
    dtype : torch.dtype
    operators : Operators
        As in `Objective`.
    """

    def __init__(
        self,
        net: Any,
        X: NDArray[Any],
        *,
        dtype: torch.dtype,
        operators: Operators,
    ) -> None:
        module = copied(net.module_).to(dtype).eval()
        criterion = analysed_criterion(net.criterion_, dtype)
        self._device, self._dtype = torch.device(net.device), dtype
        plain = skeleton_net(net, module, criterion)
        outputs, found = _some_rows(plain, self._tensor(X[:_SHOWN]), operators)
        n_rows = len(X[:_SHOWN])
        self._core = NetFunction(with_one_output(plain, outputs, n_rows))
        self._core.operators = found
        self._decays = {plain_name(n): d for n, d in weight_decay(net).items()}
        self._split_parameters()

    def _split_parameters(self) -> None:
        """Take the trainable parameters as weights w and all others as constants."""
        named = dict(self._core.named_parameters())
        trainable = {name: p for name, p in named.items() if p.requires_grad}
        self._shapes = {name: p.shape for name, p in trainable.items()}
        self._sizes = [p.numel() for p in trainable.values()]
        self.n_params = sum(self._sizes)
        self._constants = {
            name: tensor.detach()
            for name, tensor in [*self._core.named_buffers(), *named.items()]
            if name not in trainable
        }
        self.weights = self._numpy(
            torch.cat([p.detach().reshape(-1) for p in trainable.values()])
        )
        decays = [self._decays[name.removeprefix("module.")] for name in self._shapes]
        sizes = torch.as_tensor(self._sizes)
        each = torch.tensor(decays, dtype=self._dtype).repeat_interleave(sizes)
        self.decay = each.to(self._device)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the parameters that make up the weights, in their order."""
        return tuple(name.removeprefix("module.") for name in self._shapes)

    def with_state(self, state: dict[str, NDArray[Any]]) -> Self:
        """The same objective with the weights and buffers of ``state``.

        Parameters
        ----------
        state : dict of str to ndarray
            The module's ``state_dict`` as NumPy arrays. Buffers that it leaves out
            (the non-persistent ones) stay as they are.
        """
        other = copy.copy(self)
        other._constants = {
            name: torch.tensor(
                state.get(name.removeprefix("module."), tensor.cpu().numpy()),
                device=self._device,
                dtype=tensor.dtype,
            )
            for name, tensor in self._constants.items()
        }
        other.weights = np.concatenate(
            [
                np.asarray(state[name.removeprefix("module.")], np.float64).ravel()
                for name in self._shapes
            ]
        )
        return other

    def state(self, weights: Array) -> dict[str, NDArray[Any]]:
        """The module's ``state_dict`` at ``weights``, as NumPy arrays.

        Shared tensors appear under each of their names, as in ``state_dict``.
        """
        values = {**self._unflatten(self._tensor(weights)), **self._constants}
        module = self.module
        names = {id(t): n for n, t in _named_tensors(module, remove_duplicate=True)}
        return {
            name: values[f"module.{names[id(tensor)]}"].detach().cpu().numpy().copy()
            for name, tensor in _named_tensors(module, remove_duplicate=False)
        }

    @property
    def parameter_slices(self) -> dict[str, slice]:
        """Where each parameter of the module lies in the flat weights."""
        ends = np.cumsum(self._sizes)
        return {
            name.removeprefix("module."): slice(int(end - size), int(end))
            for name, size, end in zip(self._shapes, self._sizes, ends, strict=True)
        }

    @property
    def decays_everywhere(self) -> bool:
        """Whether every weight has a quadratic penalty."""
        return bool((self.decay > 0.0).all())

    @property
    def criterion(self) -> Any:
        """The criterion, in the analysis dtype."""
        return self._core.net.criterion_

    @property
    def module(self) -> torch.nn.Module:
        """Copy of the net's module, in the analysis dtype."""
        with self._core.turn:  # Meanwhile another thread may exchange its parameters.
            return copied(self._core.module)

    @property
    def layout(self) -> InputLayout | None:
        """What the columns of X are where the net takes several arrays, or codes."""
        found: InputLayout | None = getattr(self._core.net, "_input_layout", None)
        return found

    @property
    def has_several_outputs(self) -> bool:
        """Whether the module returns a tuple, whose tensors are side by side here."""
        return getattr(self._core.net, "_several", None) is not None

    @property
    def operators(self) -> Operators:
        """What is replaced in the net's code."""
        return self._core.operators

    @property
    def attends(self) -> bool:
        """Whether the module evaluates attention, whose kernels the process chooses."""
        return self._core.attends

    def _tensor(self, array: Any) -> Tensor:
        # A copy: callers may write to theirs, and BLAS sums in another order for
        # arrays that begin elsewhere in a cache line.
        return as_tensor(array).to(self._device, self._dtype, copy=True)

    def _numpy(self, tensor: Tensor) -> Array:
        return tensor.detach().cpu().numpy(force=True).astype(np.float64)

    def _unflatten(self, w: Weights) -> dict[str, Tensor]:
        pieces = torch.split(w, self._sizes) if isinstance(w, Tensor) else w
        return {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }


def _some_rows(net: Any, x: Tensor, operators: Operators) -> tuple[Any, Operators]:
    """Outputs of some rows, in double where the net's code names float32."""
    double = replace(operators, keeps_double=True)
    with torch.no_grad():
        try:
            with operators.replaced():
                found = net.infer(x)
        except Exception:  # Of whatever kind the user's code raises.
            with double.replaced():
                return net.infer(x), double
        first = found[0] if isinstance(found, tuple | list) else found
        if getattr(first, "dtype", x.dtype) != x.dtype == torch.float64:
            with double.replaced():
                return net.infer(x), double
    return found, operators


def _named_tensors(
    module: torch.nn.Module, *, remove_duplicate: bool
) -> list[tuple[str, Tensor]]:
    return [
        *module.named_parameters(remove_duplicate=remove_duplicate),
        *module.named_buffers(remove_duplicate=remove_duplicate),
    ]


def as_tensor(array: Any) -> Tensor:
    """Tensor to be copied; torch warns of arrays that are read-only, as in workers."""
    read_only = isinstance(array, np.ndarray) and not array.flags.writeable
    # torch knows no array that is read backwards, as X[::-1] is.
    backwards = any(stride < 0 for stride in getattr(array, "strides", ()))
    return torch.as_tensor(array.copy() if read_only or backwards else array)
