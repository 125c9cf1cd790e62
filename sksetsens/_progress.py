"""Progress on standard error of what takes long; nothing where it is not asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["bars", "progress", "progress_bar"]

T = TypeVar("T")

# Up to this many steps a bar is drawn anew after each.
_FEW = 64
# Verbosity of what runs below a public call in this thread; workers are quiet.
_shown: ContextVar[int] = ContextVar("shown", default=0)


@contextlib.contextmanager
def bars(verbose: int) -> Iterator[None]:
    """Show the bars of long solves and of polishing inside, at ``verbose`` of 1 on."""
    token = _shown.set(int(verbose))
    try:
        yield
    finally:
        _shown.reset(token)


@contextlib.contextmanager
def progress_bar(
    total: int | None,
    description: str,
    verbose: int | None = None,
    *,
    done: int = 0,
) -> Iterator[Callable[[int], None]]:
    """A bar for loops that count for themselves.

    Parameters
    ----------
    total : int or None
        Steps in all; None where they are not known.
    description : str
    verbose : int, default=None
        Nothing is shown at 0; None for what `bars` says.
    done : int, default=0
        Steps that were taken before.

    Yields
    ------
    advance : callable
        Takes the number of steps that were taken since the last call.
    """
    if not (_shown.get() if verbose is None else verbose):
        yield lambda steps: None
        return
    # On standard error, tqdm's default; gone when the loop ends, however it ends.
    # Few steps are long ones: each is shown.
    pause = 0.0 if total is not None and total <= _FEW else 0.1
    settings = {"initial": done, "leave": False, "mininterval": pause}
    with tqdm(total=total, desc=description, **settings) as bar:
        yield lambda steps: bar.update(steps) and None


def progress(
    iterable: Iterable[T],
    total: int | None = None,
    description: str = "",
    verbose: int | None = None,
    *,
    done: int = 0,
) -> Iterator[T]:
    """The items of an iterable, with a bar that advances by each.

    Parameters
    ----------
    iterable : iterable
    total, description, verbose, done
        As in `progress_bar`.

    Yields
    ------
    item : object
    """
    with progress_bar(total, description, verbose, done=done) as advance:
        for item in iterable:
            yield item
            advance(1)
