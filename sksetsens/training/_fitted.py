"""Nets that are trained already: what makes several of them one set."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch.nn.parameter import is_lazy

from ..objective import refuse_unusual_embeddings, weight_decay
from ._fingerprint import UnstableValueError, fingerprint

__all__ = ["check_fitted_nets"]

_PLAIN = (bool, int, float, complex, str, tuple, type(None))


def check_fitted_nets(nets: Any, X: Any) -> tuple[list[Any], Any]:
    """The nets as a list, and X as they see it.

    Parameters
    ----------
    nets : skorch.NeuralNet, Pipeline that ends in one, or sequence of these
        Fitted.
    X : array-like
        Sent through the transformers of pipelines.

    Returns
    -------
    nets, X : tuple

    Raises
    ------
    ValueError
        If one is no fitted net, or they are of different architectures or objectives.
    """
    given = list(nets) if isinstance(nets, list | tuple) else [nets]
    if not given:
        raise ValueError(
            "The 'nets' parameter of from_fitted must hold a fitted net. Got none."
        )
    found, seen = [], None
    for number, net in enumerate(given):
        x = X
        if isinstance(net, Pipeline):
            x = net[:-1].transform(X) if len(net.steps) > 1 else X
            net = net.steps[-1][1]
        _check_fitted(net, number)
        if seen is None:
            seen = x
        elif x is not seen and not np.array_equal(np.asarray(seen), np.asarray(x)):
            raise ValueError(
                "The 'nets' parameter of from_fitted must hold pipelines whose "
                f"transformers agree on X. Got others in number {number}: transform X "
                "once, and pass the nets alone."
            )
        found.append(net)
    for number, net in enumerate(found[1:], start=1):
        _check_alike(found[0], net, number)
    return found, seen


def _check_fitted(net: Any, number: int) -> None:
    if not isinstance(net, NeuralNet):
        raise ValueError(
            "The 'nets' parameter of from_fitted must hold fitted skorch nets. Got "
            f"{type(net).__name__} in number {number} instead."
        )
    if not getattr(net, "initialized_", False):
        raise NotFittedError(
            "The 'nets' parameter of from_fitted must hold fitted nets. Number "
            f"{number}, a {type(net).__name__}, is not initialised: call its fit, or "
            "its initialize and load_params."
        )
    refuse_unusual_embeddings(net.module_)
    for name, p in net.module_.named_parameters():
        if not is_lazy(p) and not bool(p.isfinite().all()):
            raise ValueError(
                "The 'nets' parameter of from_fitted must hold finite weights. Got NaN "
                f"or infinite ones in {name!r} of number {number}: its training "
                "diverged."
            )


def _check_alike(first: Any, net: Any, number: int) -> None:
    """Raise unless two nets have weights, criterion and penalty in common."""
    for what, look in (
        ("class", type),
        ("module", lambda n: type(n.module_)),
        ("weights", _shapes),
        ("layers", lambda n: _attributes(n.module_)),
        ("criterion", _criterion),
        ("weight_decay", weight_decay),
        ("train_split", lambda n: _digest(n.train_split)),
        ("parameters", _own_parameters),
    ):
        one, other = look(first), look(net)
        if one != other:
            raise ValueError(
                "The 'nets' parameter of from_fitted must hold nets of one "
                f"architecture and objective. Number {number} differs from the first "
                f"in its {what}: {_short(other)} instead of {_short(one)}. Make one "
                "estimator of each kind."
            )


def _shapes(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in net.module_.named_parameters()}


def _criterion(net: Any) -> Any:
    """What tells criteria apart: classes, attributes, weights of classes."""
    criterion = net.criterion_
    if not isinstance(criterion, torch.nn.Module):
        return _digest(criterion)
    tensors = dict(criterion.named_buffers()) | dict(criterion.named_parameters())
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    return _attributes(criterion), digests


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Classes of a module's layers, with the plain values that they hold."""
    of_torch = {*vars(torch.nn.Module()), "training"}
    return {
        f"{name}: {type(m).__name__}": {
            key: value
            for key, value in vars(m).items()
            if key not in of_torch and isinstance(value, _PLAIN)
        }
        for name, m in module.named_modules()
    }


def _own_parameters(net: Any) -> dict[str, str]:
    """Of a user's own class of nets, which its get_loss may read."""
    classes = (NeuralNet, NeuralNetClassifier, NeuralNetBinaryClassifier)
    known = {n for c in classes for n in inspect.signature(c).parameters}
    own = {
        name: value
        for name, value in net.get_params(deep=False).items()
        if name not in known and "__" not in name and not name.startswith("_")
    }
    return {name: _digest(value) for name, value in own.items()}


def _digest(value: Any) -> str:
    try:
        return fingerprint(value)
    except UnstableValueError:
        return str(value)


def _short(value: Any) -> str:
    told = str(value)
    return told if len(told) <= 200 else f"{told[:200]}..."
