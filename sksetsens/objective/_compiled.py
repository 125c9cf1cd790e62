"""Compiled modules as what they were made of, which shares their parameters."""

from __future__ import annotations

from typing import Any, cast

import torch

from .._compat import is_compiled

__all__ = ["plain_name", "uncompiled"]

_INSIDE = "_orig_mod."


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
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
    return cast(torch.nn.Module, found)


def plain_name(name: str) -> str:
    """A parameter's name in the module that was not compiled."""
    return name.replace(_INSIDE, "")
