"""Modules that have no derivatives in float64, with what to change."""

from __future__ import annotations

import os
import traceback
from typing import Any

import torch
from numpy.typing import NDArray

from .._layout import InputLayout
from ..exceptions import UnsupportedObjectiveError
from ._flat_net import flattened
from ._memory import is_out_of_memory
from ._module_copy import uncompiled
from ._objective import Objective

__all__ = [
    "built",
    "check_one_tensor",
    "net_inputs",
    "objective_in_float64",
]

_ANY_DTYPE = (
    "Leave the dtype to the net: no .float() and no torch.float32 in forward; for "
    "new tensors, X.new_zeros(...) or dtype=X.dtype."
)
# Folders of code that is not the user's, in a traceback.
_LIBRARIES = ("torch", "skorch", "sksetsens")


def built(
    net: Any, X: NDArray[Any] | None = None, layout: InputLayout | None = None
) -> Any:
    """An initialised net with all its weights, and of uncompiled layers.

    Compiled layers are exchanged for what they were made of, which shares their
    parameters; lazy ones get theirs from a pass of some rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised, and no user's own: its module is changed.
    X : ndarray of shape (n_samples, ...), default=None
        Rows, where layers may be lazy.
    layout : InputLayout, default=None
        Of their columns.

    Returns
    -------
    net : skorch.NeuralNet
    """
    module = uncompiled(net.module_)
    net.__dict__["module_"] = module
    lazy = any(map(torch.nn.parameter.is_lazy, module.parameters()))
    if lazy and X is not None:
        modes = [(m, m.training) for m in module.modules()]
        module.eval()
        with torch.no_grad():
            flat = flattened(net, layout)
            flat.infer(torch.as_tensor(X[:2], device=net.device).to(_dtype(module)))
        for m, training in modes:
            m.training = training
    return net


def objective_in_float64(
    net: Any, X: NDArray[Any], y: NDArray[Any], working_memory: float | None
) -> Objective:
    """The objective, of a module that computes in the dtype it is given."""
    try:
        objective = Objective(net, X, y, working_memory=working_memory)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, UnsupportedObjectiveError):
            raise
        raise UnsupportedObjectiveError(
            f"The module {type(net.module_).__name__} runs in the dtype of the net but "
            "not in float64, in which sensitivities are computed"
            f"{_users_line(error)}: {type(error).__name__} {_first_line(error)}. "
            f"{_ANY_DTYPE}"
        ) from error
    dtype = objective._forward(
        objective._tensor(objective.weights), objective._x[:1]
    ).dtype
    if dtype != torch.float64:
        raise UnsupportedObjectiveError(
            f"The module {type(net.module_).__name__} returns {dtype} for inputs and "
            "weights in float64, in which sensitivities are computed: all digits "
            f"beyond that are lost. {_ANY_DTYPE}"
        )
    return objective


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _users_line(error: BaseException) -> str:
    """Where in the user's code an error arose, as `` (file:line, code)``."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(f"{os.sep}{name}{os.sep}" in frame.filename for name in _LIBRARIES)
    ]
    if not own:
        return ""
    file = os.path.basename(own[-1].filename)
    return f" (line {own[-1].lineno} of {file}, {own[-1].line!r})"


def net_inputs(net: Any, X: NDArray[Any]) -> torch.Tensor:
    """Rows of X on the net's device, in its dtype."""
    return torch.as_tensor(X, device=net.device).to(_dtype(net.module_))


def _dtype(module: torch.nn.Module) -> torch.dtype:
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def check_one_tensor(outputs: Any) -> None:
    """Refuse modules that return several tensors, or none."""
    if isinstance(outputs, torch.Tensor):
        return
    raise UnsupportedObjectiveError(
        f"The module must return one tensor. Got {type(outputs).__name__} instead: "
        "return only what the criterion needs."
    )
