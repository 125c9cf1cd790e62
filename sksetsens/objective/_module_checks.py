"""Modules that have no derivatives in float64, with what to change."""

from __future__ import annotations

import os
import traceback
from typing import Any

import torch
from numpy.typing import NDArray

from ..exceptions import UnsupportedObjectiveError
from ._memory import is_out_of_memory
from ._objective import Objective
from ._operators import PLAIN

__all__ = [
    "check_one_tensor",
    "objective_in_float64",
]

_ANY_DTYPE = (
    "Leave the dtype to the net: no .float() and no torch.float32 in forward; for "
    "new tensors, X.new_zeros(...) or dtype=X.dtype."
)
# Folders of code that is not the user's, in a traceback.
_LIBRARIES = ("torch", "skorch", "sksetsens")


def objective_in_float64(
    net: Any, X: NDArray[Any], y: NDArray[Any], working_memory: float | None
) -> Objective:
    """The objective, of a module that computes in the dtype it is given."""
    try:
        # Which operators stand in the way is seen once the loss is one.
        objective = Objective(net, X, y, working_memory=working_memory, operators=PLAIN)
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


def check_one_tensor(outputs: Any) -> None:
    """Refuse modules that return several tensors, or none."""
    if isinstance(outputs, torch.Tensor):
        return
    raise UnsupportedObjectiveError(
        f"The module must return one tensor. Got {type(outputs).__name__} instead: "
        "return only what the criterion needs."
    )
