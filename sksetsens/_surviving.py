"""Jobs in parallel of which some may kill the process that they run in."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

__all__ = ["Died", "surviving"]


# What dask raises where a worker is lost; not imported, because dask is optional.
_DASK_DEATHS = {
    "KilledWorker",
    "FutureCancelledError",
    "CancelledError",
    "TimeoutError",
}
# A result whose worker died before it was fetched may never come; what is fetched are
# the arrays of one net.
_GATHER_SECONDS = 60


@dataclass(frozen=True)
class Died:
    """In the place of a result: every process that ran the job died, the last alone."""

    last: str


def surviving(
    function: Callable[..., Any],
    jobs: Mapping[int, tuple[Any, ...]],
    *,
    n_jobs: int | None,
    recovered: Callable[[int], Any],
) -> Iterator[tuple[int, Any, int]]:
    """Results of jobs as they arrive, through joblib's current backend.

    A dead worker takes along what its neighbours were at, and joblib all that was
    waiting. Both are run again: first together, those that were submitted last before
    the others, because the killer is among the first; then each alone, so that it can
    kill only itself.

    Parameters
    ----------
    function : callable
    jobs : mapping of int to tuple
        Arguments of each job.
    n_jobs : int or None
    recovered : callable
        Takes the key of a lost job; returns a result that it left behind, or None.

    Yields
    ------
    key : int
    result : object or Died
    n_tries : int
        How often the job was submitted.
    """
    tries = dict.fromkeys(jobs, 0)
    done: set[int] = set()
    for keys in ([*jobs], [*jobs][::-1], *([key] for key in jobs)):
        waiting = [key for key in keys if key not in done]
        lost = {key: recovered(key) for key in waiting if tries[key]}
        found = [(key, left) for key, left in lost.items() if left is not None]
        again = {key: jobs[key] for key in waiting if lost.get(key) is None}
        tries.update((key, tries[key] + 1) for key in again)
        for key, result in itertools.chain(found, _attempt(function, again, n_jobs)):
            if isinstance(result, Died) and (len(again) > 1 or tries[key] == 1):
                continue
            done.add(key)
            yield key, result, tries[key]


def _attempt(
    function: Callable[..., Any],
    jobs: Mapping[int, tuple[Any, ...]],
    n_jobs: int | None,
) -> Iterator[tuple[int, Any]]:
    """Results of one submission; `Died` with the keys that are known to have died."""
    if not jobs:
        return
    backend = get_active_backend()[0]
    if type(backend).__name__ == "DaskDistributedBackend" and n_jobs != 1:
        yield from _on_dask(function, jobs, backend.client)
        return
    # Jobs in one batch would be lost together.
    options = {"n_jobs": n_jobs, "batch_size": 1}
    try:
        parallel = Parallel(return_as="generator_unordered", **options)
    except ValueError:
        parallel = Parallel(**options)  # A backend that knows lists only.
    try:
        outcomes = parallel(delayed(_keyed)(key, function, *jobs[key]) for key in jobs)
        if isinstance(outcomes, list):
            yield from outcomes
            return
        with contextlib.closing(outcomes):
            yield from outcomes
    except BrokenExecutor as error:
        # Which one it was is known only where it was alone.
        yield next(iter(jobs)), _died(error)


def _on_dask(
    function: Callable[..., Any], jobs: Mapping[int, tuple[Any, ...]], client: Any
) -> Iterator[tuple[int, Any]]:
    """The same on a dask cluster, without joblib, which waits for the dead forever.

    The scheduler itself tries a job on several workers, and blames no other. Arguments
    are not scattered: what only a dead worker held would be lost.
    """
    from distributed import as_completed

    futures = {
        client.submit(function, *arguments, pure=False): key
        for key, arguments in jobs.items()
    }
    try:
        for future in as_completed(futures):
            try:
                result = future.result(timeout=_GATHER_SECONDS)
            except Exception as error:
                if type(error).__name__ not in _DASK_DEATHS:
                    raise
                result = _died(error)
            yield futures[future], result
    finally:
        client.cancel(list(futures))


def _died(error: BaseException) -> Died:
    lines = str(error).strip().splitlines() or [""]
    return Died(f"{type(error).__name__}: {lines[0]}")


def _keyed(key: int, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return key, function(*arguments)
