"""Leave the random state and thread counts as they were found; one thread at a time."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

__all__ = ["ONE_AT_A_TIME", "isolated"]


class _Turn:
    """A lock that its thread may take again; no forked process inherits it taken."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """A new lock where another thread holds it, which a fork leaves behind."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


# Two locks, so that an evaluation (`predict` of another model, say) waits for one
# evaluation and not for a whole training. Who needs both takes them in this order.
#
# The generators and the numbers of threads, which all threads of a process share.
_ONE_RANDOM_STATE = _Turn()
# Torch's levels of forward differentiation, and nets whose parameters or hooks change
# for the time of a call. Nobody waits for another thread while holding it.
ONE_AT_A_TIME = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ONE_RANDOM_STATE.renew)
    os.register_at_fork(after_in_child=ONE_AT_A_TIME.renew)


@functools.lru_cache(maxsize=1)
def _controller(n_modules: int) -> ThreadpoolController:
    """Thread pools of the libraries loaded by so many modules; a search costs 10 ms."""
    return ThreadpoolController()


def _blas_threads(n_threads: int | None) -> contextlib.AbstractContextManager[Any]:
    if n_threads is None:
        return contextlib.nullcontext()
    return _controller(len(sys.modules)).limit(limits=n_threads)


@contextlib.contextmanager
def isolated(seed: int | None = None, n_threads: int | None = None) -> Iterator[None]:
    """Run a block with its own global random state and thread counts.

    skorch's ``fit`` and ``predict`` advance the global generators, and bits depend
    on how many threads BLAS and torch use. Inside the block both are what is asked
    for; afterwards both are what they were. One thread at a time is in such a block;
    evaluations of nets go on meanwhile in others, on as many threads as it asks for.

    Parameters
    ----------
    seed : int, default=None
        Seed of the ``random``, NumPy and torch generators; None keeps their state.

    n_threads : int, default=None
        Threads of torch and of BLAS; None keeps them.
    """
    with _ONE_RANDOM_STATE:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch_state, threads = torch.random.get_rng_state(), torch.get_num_threads()
        on_gpu = torch.cuda.is_initialized()
        cuda_states = torch.cuda.get_rng_state_all() if on_gpu else []
        try:
            with _blas_threads(n_threads):
                if seed is not None:
                    random.seed(seed)
                    np.random.seed(seed % 2**32)
                    torch.manual_seed(seed)
                if n_threads is not None:
                    torch.set_num_threads(n_threads)
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.random.set_rng_state(torch_state)
            for device, state in enumerate(cuda_states):
                torch.cuda.set_rng_state(state, device)
            torch.set_num_threads(threads)
