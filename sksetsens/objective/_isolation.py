"""What the threads of a process share, and who may change it when.

Three kinds of state belong to the process and not to a thread. A training draws from
the global generators from its beginning to its end, so that trainings take turns
(`TRAINING`). torch knows one level of forward differentiation (`DERIVATIVES`), and a
net's module has its parameters exchanged or gets hooks for the time of a call (the
`Turn` of each `NetFunction`): these are held for one evaluation. Nets with attention
need switches of the process, by which a training takes other kernels, with other last
bits (`ATTENTION`).

Locks are taken in this order: `TRAINING`, `DERIVATIVES`, a net's, `ATTENTION`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from threadpoolctl import OpenBLASController, ThreadpoolController

__all__ = [
    "ATTENTION",
    "DERIVATIVES",
    "TRAINING",
    "Turn",
    "global_states",
    "isolated",
    "kernels_kept",
    "single_threaded",
]

# Order in which a fork takes the locks of evaluations.
_RANK_OF_DERIVATIVES, _RANK_OF_NETS, _RANK_OF_SWITCHES = range(3)


class _Lock(contextlib.AbstractContextManager[None]):
    """A lock that its thread may take again."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Turn(_Lock):
    """A lock that is held for one evaluation at most.

    A fork waits for it, so that the new process gets no module with exchanged
    parameters and no level of differentiation that nobody leaves.

    Parameters
    ----------
    rank : int, default=1
        Place in the order in which locks are taken.
    """

    def __init__(self, rank: int = _RANK_OF_NETS) -> None:
        super().__init__()
        self.rank = rank
        _turns.add(self)


class _LongTurn(_Lock):
    """A lock that may be held for minutes, for which no fork waits."""

    def renew(self) -> None:
        """A new lock where another thread holds it, which a fork leaves behind."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()
# torch has one level of forward differentiation per process.
DERIVATIVES = Turn(_RANK_OF_DERIVATIVES)
# The global generators of Python, NumPy and torch.
TRAINING = _LongTurn()
# The kernels of attention: of a net with attention that trains, or is evaluated.
ATTENTION = _LongTurn()


class Shared:
    """A switch of the process that is set while any thread is inside.

    Parameters
    ----------
    setting : callable
        Returns the context manager that sets the switch and puts it back.
    """

    def __init__(
        self, setting: Callable[..., contextlib.AbstractContextManager[Any]]
    ) -> None:
        self._setting, self._turn = setting, Turn(_RANK_OF_SWITCHES)
        self._n_inside, self._set = 0, contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self, *args: Any) -> Iterator[None]:
        """Be inside; the arguments of the first thread count."""
        with self._turn:
            if not self._n_inside:
                self._set.enter_context(self._setting(*args))
            self._n_inside += 1
        try:
            yield
        finally:
            with self._turn:
                self._n_inside -= 1
                if not self._n_inside:
                    self._set.close()


_held: list[Turn] = []


def _before_fork() -> None:
    # DERIVATIVES comes first: of two threads that fork only one goes on.
    for turn in sorted(list(_turns), key=lambda turn: turn.rank):
        turn.__enter__()
        _held.append(turn)


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
    os.register_at_fork(after_in_child=TRAINING.renew)
    os.register_at_fork(after_in_child=ATTENTION.renew)


@functools.lru_cache(maxsize=1)
def _controller(n_modules: int) -> ThreadpoolController:
    """Thread pools of the libraries loaded by so many modules; a search costs 10 ms."""
    return ThreadpoolController()


def _on_one_thread(user_api: str) -> Any:
    # Selected first: a limit puts back whatever its controller holds.
    return _controller(len(sys.modules)).select(user_api=user_api).limit(limits=1)


def _free_blas() -> None:
    """Let any thread set BLAS's number: newer threadpoolctl lets the first one only.

    Here the last thread puts back what the first one has set.
    """
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)


@contextlib.contextmanager
def _blas_and_torch_on_one_thread(torch_threads: int) -> Iterator[None]:
    _free_blas()
    limit = _on_one_thread("blas")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _free_blas()
        limit.restore_original_limits()
        _free_blas()
        torch.set_num_threads(torch_threads)


_process_on_one_thread = Shared(_blas_and_torch_on_one_thread)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Run a block on one thread of BLAS, OpenMP and torch, on which bits depend.

    OpenMP's number belongs to the thread that sets it. BLAS's, and torch's for threads
    that begin, belong to the process: they are put back when the last thread leaves.
    """
    before = torch.get_num_threads()
    with _on_one_thread("openmp"), _process_on_one_thread(before):
        yield


def kernels_kept(attends: bool) -> contextlib.AbstractContextManager[Any]:
    """Keep evaluations in other threads from the kernels of a net that trains."""
    return ATTENTION if attends else contextlib.nullcontext()


def global_states() -> tuple[Any, ...]:
    """States of the generators that a module may draw from, to be compared."""
    on_gpu = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count() if on_gpu else 0)
    numpy_state: Any = np.random.get_state()
    return (
        random.getstate(),
        numpy_state[1].tobytes(),
        numpy_state[2],
        torch.get_rng_state().numpy().tobytes(),
        *(torch.cuda.get_rng_state(d).numpy().tobytes() for d in devices),
    )


@contextlib.contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Run a block with its own global random state; one thread at a time.

    skorch's ``fit`` and ``initialize`` draw from the global generators. Afterwards
    these are what they were.

    Parameters
    ----------
    seed : int, default=None
        Seed of the ``random``, NumPy and torch generators; None keeps their state.
    """
    with TRAINING:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        on_gpu = torch.cuda.is_initialized()
        devices = range(torch.cuda.device_count() if on_gpu else 0)
        with torch.random.fork_rng(devices):
            try:
                if seed is not None:
                    random.seed(seed)
                    np.random.seed(seed % 2**32)
                    torch.manual_seed(seed)
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)
