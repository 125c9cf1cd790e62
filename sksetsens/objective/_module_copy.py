"""Copies of a user's module that can be differentiated, beside which it stays."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._compat import is_compiled
from ..exceptions import UnsupportedObjectiveError

__all__ = ["copied", "plain_name", "refuse_unusual_embeddings", "uncompiled"]

_INSIDE = "_orig_mod."


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module, of uncompiled layers with dense gradients.

    Rows of embeddings that stand for padding are 0 in it, as in training.
    """
    # What old-style weight_norm computes before each call has a graph, and cannot be
    # copied with it.
    computed = {
        id(value): value.detach().clone()
        for m in module.modules()
        for value in vars(m).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    found = uncompiled(copy.deepcopy(module, dict(computed)))
    for m in found.modules():
        if isinstance(m, nn.Embedding | nn.EmbeddingBag):
            m.sparse = False
        if type(m) is nn.Embedding and m.padding_idx is not None:
            m.__class__ = _PaddedEmbedding
    return found


class _PaddedEmbedding(nn.Embedding):
    """An embedding whose row of padding is 0, to derivatives of all kinds.

    torch leaves that row out of the reverse derivative only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the weights, and 0 where the input is padding."""
        rows = functional.embedding(input, self.weight)
        is_padding = torch.eq(input, self.padding_idx or 0)[..., None]
        return torch.where(is_padding, torch.zeros_like(rows), rows)


def refuse_unusual_embeddings(module: nn.Module) -> None:
    """Refuse embeddings that are no functions of their weights, before any call.

    Calls with ``max_norm`` write into them. Rows of padding that are not 0, or weights
    elsewhere too, training moves by decay alone, or there: the gradient of no
    objective.
    """
    own = [p for m in module.modules() for p in m._parameters.values()]
    for name, m in module.named_modules():
        if not isinstance(m, nn.Embedding) or m.padding_idx is None:
            continue
        tied = sum(p is m.weight for p in own) > 1
        if tied or bool(m.weight[m.padding_idx].detach().any()):
            found = "is shared with another layer" if tied else "is not 0"
            raise UnsupportedObjectiveError(
                f"The layer {name!r} (Embedding) has padding_idx={m.padding_idx}, "
                f"whose row {found}: what training does to it is the gradient of no "
                "objective. Set the row to 0, as torch does, or leave padding_idx out."
            )
    for name, m in module.named_modules():
        if getattr(m, "max_norm", None) is not None:
            raise UnsupportedObjectiveError(
                f"The layer {name!r} ({type(m).__name__}) has max_norm={m.max_norm}: "
                "its calls write into its weights, which have no derivative then. Use "
                "weight decay instead."
            )


def uncompiled(module: nn.Module) -> nn.Module:
    """What a module was before ``torch.compile``, in all its layers; changed in place.

    A module that is compiled as a whole is left as it is, and what it was returned.
    """
    found: Any = module
    if is_compiled(module):
        found = module._orig_mod
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if is_compiled(child):
                setattr(parent, name, child._orig_mod)
    return cast(nn.Module, found)


def plain_name(name: str) -> str:
    """A parameter's name in the module that was not compiled."""
    return name.replace(_INSIDE, "")
