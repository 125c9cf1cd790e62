"""Where in the user's code a warning belongs."""

from __future__ import annotations

import sys

__all__ = ["user_stacklevel"]

_PACKAGE = __name__.partition(".")[0]


def user_stacklevel() -> int:
    """``stacklevel`` with which the caller's warning names code outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_own(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE
