"""Tell the user's Ctrl-C from a callback that ends the training."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interrupts_get_through"]


@contextlib.contextmanager
def interrupts_get_through() -> Iterator[None]:
    """Raise KeyboardInterrupt after a block that swallowed a SIGINT.

    skorch ends a training quietly at any KeyboardInterrupt, because its EarlyStopping
    raises one. Half a training that the user stopped is no solution.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(previous):
        yield
        return
    received = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        previous(number, frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if received:
        raise KeyboardInterrupt
