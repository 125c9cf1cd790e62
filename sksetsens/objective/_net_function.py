"""A skorch net with exchangeable weights, and directional derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .._compat import skeleton_net, tree_map
from ._flat_net import flat_class, users_class
from ._isolation import ATTENTION, DERIVATIVES, Turn
from ._module_copy import copied
from ._operators import Operators
from ._ramps import Gating, RampMode
from ._row_weights import unreduced_net, weighted_net

Tensor = torch.Tensor

# In what torch says where an operator has no forward derivative, or one that writes
# into the zeros that stand for none.
_NO_FORWARD = ("forward AD", "ZeroTensor")
_ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}


class NetFunction(torch.nn.Module):
    """What skorch evaluates while training, with the net's parameters exchangeable.

    ``functional_call`` swaps the parameters of ``module`` in place for the call, so
    a ``get_loss`` that reads ``self.module_.parameters()`` (skorch's documented way
    to add an L1 penalty) sees the swapped values and is differentiated correctly.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.module = net.module_
        self.net = net
        # Held while the module's parameters are exchanged, or hooks are in it.
        self.turn = Turn()
        # Whether attention may be evaluated; `note_attention` looks.
        self.attends = True
        # What stands in the way of derivatives in float64; `check_objective` looks.
        self.operators = Operators()

    def around(self, net: Any) -> NetFunction:
        """The same evaluation of another copy of the net."""
        other = NetFunction(net)
        other.operators = self.operators
        return other

    def __getstate__(self) -> dict[str, Any]:
        """State with the net taken apart.

        skorch sends torch's parts by plain pickle, which other processes cannot read if
        the module's class lives in ``__main__``: here it is told that there are none.
        The module is a copy, since another thread may be exchanging its parameters.
        """
        kept = ("criterion_", "cuda_dependent_attributes_")
        parts = vars(self.net)
        shell: Any = object.__new__(users_class(self.net))
        shell.__dict__.update({k: v for k, v in parts.items() if k != "module_"})
        shell.__dict__.pop("criterion_", None)
        shell.__dict__["cuda_dependent_attributes_"] = []
        with self.turn:
            modules = {"module": copied(self.module)}
        rest = {name: parts[name] for name in kept if name in parts}
        net = (users_class(self.net), shell.__getstate__(), rest)
        state = {**super().__getstate__(), "_modules": modules, "net": net}
        del state["turn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the net together again, around the same module."""
        kind, parts, rest = state["net"]
        net = object.__new__(kind)
        net.__setstate__(parts)
        net.__dict__.update(rest)
        if parts.keys() & {"_input_layout", "_several"}:
            net.__class__ = flat_class(kind)
        super().__setstate__({**state, "net": net, "turn": Turn()})
        net.__dict__["module_"] = self.module

    def forward(
        self,
        task: str,
        *args: Tensor,
        gating: Gating | None = None,
        rows: Any = None,
        sample_weight: Tensor | None = None,
        whole: float | None = None,
    ) -> Tensor:
        """``outputs`` of x, ``loss`` of (outputs, x, y), or ``value`` of (x, y).

        ``losses`` of (outputs, x, y) are the rows' own, without penalties.

        Ramps are evaluated by a gating where there is one; ``rows`` are then those of
        all the data that x holds. The criterion weighs rows by ``sample_weight``, see
        `weighted_net`.
        """
        plain = _plain_attention() if self.attends else contextlib.nullcontext()
        with plain, self.operators.replaced():
            if task == "outputs":
                with _gated(gating, rows, in_loss=False):
                    return _outputs_of(self.net, args[0])
            if task == "value":
                args = (_outputs_of(self.net, args[0]), *args)
            outputs, x, y = args
            net = self.net
            if task == "losses":
                parts = []
                for zeros in (False, True):
                    twin = skeleton_net(net, self.module, net.criterion_)
                    unreduced_net(net, twin, zeros=zeros)
                    parts.append(twin.get_loss(outputs, y, X=x, training=True))
                return parts[0] - parts[1]
            if sample_weight is not None:
                twin = skeleton_net(net, self.module, net.criterion_)
                net = weighted_net(net, twin, sample_weight, whole)
            with _gated(gating, rows, in_loss=True):
                return net.get_loss(outputs, y, X=x, training=True)

    def called_with(
        self, values: Mapping[str, Tensor], *args: Any, **how: Any
    ) -> Tensor:
        """`forward` with other parameters and buffers, by the first of their names.

        Tensors that sit in several modules are exchanged in each, but once in a module
        that has several names: torch's own tying exchanges it once per name, and puts
        back what it had put in.
        """
        slots: dict[int, list[str]] = {}
        for prefix, module in self.named_modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        full = f"{prefix}.{name}" if prefix else name
                        slots.setdefault(id(tensor), []).append(full)
        everywhere = {
            name: values[names[0]]
            for names in slots.values()
            if names[0] in values
            for name in names
        }
        found: Tensor = functional_call(self, everywhere, args, how, tie_weights=False)
        return found

    def note_attention(self, x: Tensor) -> None:
        """Look whether the module evaluates attention on a few rows.

        Only nets with attention wait for each other's training.
        """
        with torch.no_grad(), _AttentionSeen() as seen:
            self("outputs", x)
        # Scripts keep their operators to themselves.
        scripted = any(isinstance(m, torch.jit.ScriptModule) for m in self.modules())
        self.attends = seen.any or scripted


def _outputs_of(net: Any, x: Tensor) -> Tensor:
    """As one tensor."""
    found: Tensor = getattr(net, "one_output", net.infer)(x)
    return found


class _AttentionSeen(TorchFunctionMode):
    """Whether attention is called inside."""

    any = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.any |= getattr(func, "__name__", "") in _ATTENTION
        return func(*args, **(kwargs or {}))


def _gated(gating: Gating | None, rows: Any, *, in_loss: bool) -> Any:
    if gating is None:
        return contextlib.nullcontext()
    return RampMode(gating, rows, in_loss)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention in elementary operators: fused kernels have no forward derivative.

    The switches are the process's, and a net in training takes other kernels by them.
    """
    with ATTENTION, _switched_to_operators():
        yield


@contextlib.contextmanager
def _switched_to_operators() -> Iterator[None]:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def push(
    function: Callable[..., Any],
    primals: tuple[Tensor, ...],
    tangents: tuple[Tensor | None, ...],
) -> tuple[Any, Any]:
    """Value and directional derivative along those tangents that are not None.

    The targets (last primal) always get a tangent where they are real-valued: torch
    cannot push MSELoss's backward forward with a symbolic zero for its target. Nor can
    it for its input: callers let the outputs, or what they come from, move by zeros.
    """
    if tangents[-1] is None and primals[-1].is_floating_point() and len(primals) > 2:
        tangents = (*tangents[:-1], torch.zeros_like(primals[-1]))
    active = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def restricted(*moving: Tensor) -> Any:
        arguments = list(primals)
        for i, value in zip(active, moving, strict=True):
            arguments[i] = value
        return function(*arguments)

    at = tuple(primals[i] for i in active)
    along = tuple(tangents[i] for i in active)
    with DERIVATIVES:
        return pushed(restricted, at, along)


def pushed(
    function: Callable[..., Any], at: tuple[Tensor, ...], along: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The same where all arguments move, in turn already.

    By two reverse passes where an operator has no forward derivative: that of the
    adjoint, which is linear.
    """
    try:
        value, derivative, *_ = jvp(function, at, along)
        return value, derivative
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _NO_FORWARD):
            raise
    value, pull, *_ = vjp(function, *at)
    return value, vjp(pull, tree_map(torch.zeros_like, value))[1](along)[0]


def map_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``function`` of each row, stacked: all at once, or one by one.

    One by one where an operator has no batching rule (GRU, control flow that depends
    on the data).
    """
    try:
        return vmap(function)(rows)
    except RuntimeError:
        return torch.stack([function(row) for row in rows])
