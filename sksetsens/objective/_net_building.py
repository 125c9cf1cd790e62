"""Nets built from a user's: initialised, seeded, with all their weights."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from sklearn.base import clone

from .._layout import InputLayout
from ..exceptions import UnsupportedObjectiveError
from ._flat_net import flattened
from ._isolation import isolated
from ._memory import is_out_of_memory
from ._module_copy import refuse_unusual_embeddings, uncompiled

__all__ = ["bare_net", "built", "initialised_net", "net_inputs"]


def initialised_net(
    estimator: Any,
    params: dict[str, Any],
    seed: int,
    *,
    layout: InputLayout | None = None,
    X: NDArray[Any] | None = None,
    may_be_instance: bool = False,
) -> Any:
    """Clone of a skorch net with ``params`` set, built and seeded by ``seed``.

    See `bare_net` for what is overridden. Global random state is left as found. A
    module instance may do for a net whose weights are loaded afterwards. Lazy layers
    get their sizes from X, whose columns a layout explains.

    Raises
    ------
    UnsupportedObjectiveError
        If ``estimator.module`` is an instance: every restart would begin at the
        same weights.
    ValueError
        If skorch cannot build the net.
    """
    if isinstance(estimator.module, torch.nn.Module) and not may_be_instance:
        name = type(estimator.module).__name__
        raise UnsupportedObjectiveError(
            "The 'estimator' parameter must wrap a module class. Got an instance of "
            f"{name} instead, with which every restart begins at the same weights. "
            f"Pass module={name} and its arguments as module__<name>=<value>."
        )
    _check_device(estimator.device)
    with isolated(seed):
        try:
            net = built(bare_net(estimator, params).initialize(), X, layout)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"The net {type(estimator).__name__} cannot be initialised "
                f"({type(error).__name__}: {error}). Check the parameters of its "
                "module, criterion, optimizer and callbacks."
            ) from error
    refuse_unusual_embeddings(net.module_)
    return net


def _check_device(device: Any) -> None:
    """Refuse a device on which no tensor can be made."""
    if device is None:
        return
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnsupportedObjectiveError(
            "The 'device' parameter of the estimator must name a device of this "
            f"machine. Got {device!r} instead ({str(error).splitlines()[0]}). Use "
            "estimator__device='cpu'."
        ) from error


def bare_net(estimator: Any, params: dict[str, Any]) -> Any:
    """Unbuilt clone with ``params`` set that trains on all rows and on its own.

    Uncompiled: compiled modules have no forward derivatives, and others' names.
    """
    own = {"train_split": None, "warm_start": False, "compile": False}
    return clone(estimator).set_params(**own, **params)


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


def net_inputs(net: Any, X: NDArray[Any]) -> torch.Tensor:
    """Rows of X on the net's device, in its dtype."""
    return torch.as_tensor(X, device=net.device).to(_dtype(net.module_))


def _dtype(module: torch.nn.Module) -> torch.dtype:
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())
