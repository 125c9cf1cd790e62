"""Jobs in parallel of which some may kill the process that they run in."""

from __future__ import annotations

import contextlib
import itertools
import time
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
    "CommClosedError",
    "TimeoutError",
}
# A nanny starts a worker anew within seconds, of which most import torch.
_PATIENCE = 120.0
_POLL_SECONDS = 0.05
_ASK_SECONDS = 5.0


@dataclass(frozen=True)
class Died:
    """In the place of a result: every process that ran the job died, the last alone.

    Attributes
    ----------
    last : str
        What was raised in the end.
    cause : str
        Why the job cannot be tried again, if so.
    """

    last: str
    cause: str = ""


def surviving(
    function: Callable[..., Any],
    jobs: Mapping[int, tuple[Any, ...]],
    *,
    shared: tuple[Any, ...] = (),
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
    shared : tuple, default=()
        Arguments that come before them, the same ones for all: a cluster is sent them
        once.
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
        made = _attempt(function, shared, again, n_jobs)
        for key, result in itertools.chain(found, made):
            died = isinstance(result, Died) and not result.cause
            if died and (len(again) > 1 or tries[key] == 1):
                continue
            done.add(key)
            yield key, result, tries[key]


def _attempt(
    function: Callable[..., Any],
    shared: tuple[Any, ...],
    jobs: Mapping[int, tuple[Any, ...]],
    n_jobs: int | None,
) -> Iterator[tuple[int, Any]]:
    """Results of one submission; `Died` with the keys that are known to have died."""
    if not jobs:
        return
    backend = get_active_backend()[0]
    if type(backend).__name__ == "DaskDistributedBackend" and n_jobs != 1:
        # A job that starts jobs lends its place on the worker to them while it waits.
        with backend.retrieval_context():
            yield from _on_dask(function, shared, jobs, backend.client)
        return
    # Jobs in one batch would be lost together.
    options = {"n_jobs": n_jobs, "batch_size": 1}
    try:
        parallel = Parallel(return_as="generator_unordered", **options)
    except ValueError:
        parallel = Parallel(**options)  # A backend that knows lists only.
    try:
        outcomes = parallel(
            delayed(_keyed)(key, function, *shared, *jobs[key]) for key in jobs
        )
        if isinstance(outcomes, list):
            yield from outcomes
            return
        with contextlib.closing(outcomes):
            yield from outcomes
    except BrokenExecutor as error:
        # Which one it was is known only where it was alone.
        yield next(iter(jobs)), _died(error)


def _on_dask(
    function: Callable[..., Any],
    shared: tuple[Any, ...],
    jobs: Mapping[int, tuple[Any, ...]],
    client: Any,
) -> Iterator[tuple[int, Any]]:
    """The same on a dask cluster, without joblib, which waits for the dead forever.

    The scheduler tries a job that was on a dead worker again, up to
    ``distributed.scheduler.allowed-failures`` times, and blames for a death all that
    the worker had in hand, so that neighbours of a killer may be given up as well.
    A result lives on the worker that made it until it is fetched, and waiting for one
    whose worker died is waiting for its turn to be made again. So all are fetched as
    they are made, none waits for another, and what is fetched is released, lest the
    next death has it made again. What jobs share is sent as the result of a task,
    which workers pass on to each other: scattered data that only a dead worker held
    would be lost, and a result is made again.
    """
    from distributed import as_completed

    sent = [client.submit(_itself, value, pure=False) for value in shared]
    futures = {
        client.submit(function, *sent, *arguments, pure=False): key
        for key, arguments in jobs.items()
    }
    arrivals = as_completed(
        futures, loop=client.loop, with_results=True, raise_errors=False
    )
    watch = _Watch(client)
    try:
        while not arrivals.is_empty():
            for future, result in arrivals.next_batch(block=False):
                key = futures.pop(future)
                yield key, _dask_result(future, result)
                future.release()
            if futures and watch.is_vain():
                for key in futures.values():
                    yield key, Died("no worker", _NO_WORKER)
                return
            time.sleep(_POLL_SECONDS)
    finally:
        client.cancel(list(futures))


_NO_WORKER = (
    f"the dask cluster has had no worker for {_PATIENCE:.0f} seconds: let a nanny or "
    "the cluster's scheduler start dead workers anew"
)


class _Watch:
    """Whether a dask cluster has been without workers for too long."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._asked = self._alive = time.monotonic()

    def is_vain(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= _ASK_SECONDS:
            self._asked = now
            if _has_workers(self._client):
                self._alive = now
        return now - self._alive > _PATIENCE


def _has_workers(client: Any) -> bool:
    try:
        return bool(client.nthreads())
    except (OSError, ValueError):
        return False  # The scheduler does not answer.


def _dask_result(future: Any, result: Any) -> Any:
    """What was returned, or `Died`; what the job itself raised is raised."""
    error = result
    if future.status == "error":
        error = result[1]
    elif future.status == "finished" or not isinstance(result, BaseException):
        return result
    if type(error).__name__ in _DASK_DEATHS:
        return _died(error)
    raise error


def _died(error: BaseException) -> Died:
    lines = str(error).strip().splitlines() or [""]
    return Died(f"{type(error).__name__}: {lines[0]}")


def _itself(value: Any) -> Any:
    return value


def _keyed(key: int, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return key, function(*arguments)
