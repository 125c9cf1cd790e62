"""The hidden layers of a multilayer perceptron, read from its torch module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..networks import DFCNN

__all__ = ["HiddenLayer", "hidden_layers"]

Indices = NDArray[np.intp]

# In evaluation mode, by exact type: a subclass may compute something else.
_LINEAR = {nn.Identity, nn.Flatten, nn.Dropout, nn.AlphaDropout}
_HOMOGENEOUS = {nn.ReLU, nn.LeakyReLU, nn.RReLU} | _LINEAR
_ODD = {nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink} | _LINEAR
_OTHER = {nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.ELU, nn.SELU}
_OTHER |= {nn.CELU, nn.Mish, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh}
_KNOWN = _HOMOGENEOUS | _ODD | _OTHER


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """Places in the flat weights of the units of a hidden layer.

    Parameters
    ----------
    incoming, outgoing : ndarray of int of shape (n_units, n_in) and (n_units, n_out)
        Each unit's incoming weights, its bias included, and outgoing weights.

    is_odd, is_homogeneous : bool, default=False
        Whether the activation satisfies ``s(-z) = -s(z)``, and ``s(c z) = c s(z)``
        for all c > 0.
    """

    incoming: Indices
    outgoing: Indices
    is_odd: bool = False
    is_homogeneous: bool = False


def hidden_layers(module: Any) -> tuple[int, tuple[HiddenLayer, ...]]:
    """Length of the flat weights, and the layers whose units may be exchanged.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    n_params : int
    layers : tuple of HiddenLayer
        Short of those beside frozen weights.

    Raises
    ------
    ValueError
        If the module may compute something else than its layers in order.
    """
    where, n_params = _places(module)
    chain = _chain(module)
    linear = [i for i, leaf in enumerate(chain) if type(leaf) is nn.Linear]
    pairs = zip(linear[:-1], linear[1:], strict=True)
    layers = [_hidden_layer(chain[i : j + 1], where) for i, j in pairs]
    return n_params, tuple(layer for layer in layers if layer is not None)


def _unknown(found: str) -> ValueError:
    return ValueError(
        "The 'module' parameter of NetworkSymmetry.of must be a module of known "
        "symmetries: a DFCNN, or a torch.nn.Sequential of Linear layers that share no "
        "parameters and, between them, elementwise activations of torch.nn. Got "
        f"{found} instead. State other symmetries by hand, as "
        "NetworkSymmetry(n_params, (HiddenLayer(incoming, outgoing), ...))."
    )


def _places(module: Any) -> tuple[dict[int, Indices], int]:
    """Where each trained parameter lies in the flat weights, by its id; their size."""
    if not isinstance(module, nn.Module):
        raise _unknown(repr(module))
    ids = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
    if len(set(ids)) < len(ids):
        raise _unknown("shared parameters")
    for part in module.modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            raise _unknown(f"{type(part).__name__} with a hook or a forward of its own")
    where, end = {}, 0
    for p in module.parameters():
        if p.requires_grad:
            where[id(p)] = end + np.arange(p.numel()).reshape(p.shape)
            end += p.numel()
    return where, end


def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    names = ("__call__", "__iter__", "forward")
    return isinstance(module, base) and all(
        getattr(type(module), name, None) is getattr(base, name, None) for name in names
    )


def _chain(module: Any) -> list[nn.Module]:
    """Leaves in the order of evaluation.

    The fixed output weights of a DFCNN are a function of its last ``nn.Linear`` like
    any other that follows: the units before them stay in place.
    """
    if _computes_as(module, DFCNN):
        pairs = zip(module.hidden, module.activations, strict=True)
        chain = [leaf for pair in pairs for leaf in pair]
        chain += [module.output] if module.train_output else []
    else:
        chain = list(_leaves(module))
    for leaf in chain:
        unclear = leaf is module or next(leaf.parameters(), None) is not None
        if unclear and type(leaf) is not nn.Linear:
            raise _unknown(type(leaf).__name__)
    return chain


def _leaves(module: Any) -> Iterator[nn.Module]:
    if _computes_as(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _hidden_layer(segment: list[Any], where: dict[int, Indices]) -> HiddenLayer | None:
    """The layer from one ``nn.Linear`` to the next, None if some weights are frozen."""
    before, *between, after = segment
    for leaf in between:
        if type(leaf) not in _KNOWN:
            raise _unknown(f"{type(leaf).__name__} between Linear layers")
    if before.out_features != after.in_features:
        raise _unknown(f"{before} followed by {after}")
    parts = [
        before.weight,
        after.weight,
        *([] if before.bias is None else [before.bias]),
    ]
    if any(id(part) not in where for part in parts):
        return None
    weight, outgoing, *bias = [where[id(part)] for part in parts]
    return HiddenLayer(
        np.column_stack([weight, *bias]),
        outgoing.T,
        is_odd=all(map(_is_odd, between)),
        is_homogeneous=all(type(leaf) in _HOMOGENEOUS for leaf in between),
    )


def _is_odd(leaf: Any) -> bool:
    symmetric = type(leaf) is nn.Hardtanh and leaf.min_val == -leaf.max_val
    return symmetric or type(leaf) in _ODD
