"""The one place that touches private names of other libraries."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    Options,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._tags import get_tags
from sklearn.utils.validation import _check_feature_names as check_feature_names
from sklearn.utils.validation import _check_n_features as check_n_features
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = [
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "Options",
    "RealNotInt",
    "StrOptions",
    "TorchDispatchMode",
    "check_feature_names",
    "check_matplotlib_support",
    "check_n_features",
    "get_tags",
    "is_compiled",
    "predict_nonlinearity",
    "safe_indexing",
    "skeleton_net",
    "torch_weight_norm",
    "tree_map",
    "validate_parameter_constraints",
]


# What torch.nn.utils.weight_norm and its parametrization evaluate.
torch_weight_norm = torch._weight_norm


def predict_nonlinearity(net: Any) -> Any:
    """Callable that skorch applies to the module's outputs in ``predict_proba``."""
    nonlinearity = net._get_predict_nonlinearity()
    several = getattr(net, "several_outputs", None)
    if several is None:
        return nonlinearity

    def of_the_first(outputs: Any) -> Any:
        parts = several(outputs)
        # As in skorch, the first of several outputs is the prediction.
        first = parts[0] if isinstance(parts, tuple | list) else parts
        return nonlinearity(first)

    return of_the_first


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether ``torch.compile`` wrapped a module; known without importing dynamo."""
    return hasattr(module, "_orig_mod")


def skeleton_net(net: Any, module: torch.nn.Module, criterion: Any) -> Any:
    """Twin of an initialised skorch net that evaluates other torch components.

    The twin shares the user's settings and methods (``infer``, ``get_loss``), so
    overrides in subclasses are respected. It is built without ``copy.copy``, which
    would go through skorch's ``__getstate__`` and pickle the module.
    """
    twin = object.__new__(type(net))
    twin.__dict__.update(net.__dict__)
    for name in ("optimizer_", "callbacks_", "history_"):
        twin.__dict__.pop(name, None)
    twin.__dict__.update(module_=module, criterion_=criterion)
    return twin
