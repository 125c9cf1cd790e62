"""Many independently seeded trainings of one net, in parallel through joblib."""

from __future__ import annotations

import contextlib
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import Memory
from numpy.typing import NDArray
from sklearn.exceptions import FitFailedWarning
from skorch.history import History

from .._progress import progress_bar
from .._validation import user_stacklevel
from ..exceptions import AllRestartsFailedError
from ..objective import (
    Trained,
    initialised_net,
    isolated,
    single_threaded,
    train_together,
    why_not_together,
)
from ..optimize import Polished
from ._restart import Restart, RestartTask, load_state, run_restart
from ._restart_cache import RestartCache
from ._surviving import Died, surviving

__all__ = [
    "keep_successful",
    "rebuilt_net",
    "report",
    "run_restarts",
]


def run_restarts(
    task: RestartTask,
    seeds: Sequence[int],
    *,
    n_jobs: int | None,
    verbose: int,
    backend: str = "joblib",
    memory: str | os.PathLike[str] | Memory | None = None,
) -> list[Restart]:
    """Train once per seed; outcomes in the order of the seeds.

    Bits do not depend on n_jobs or joblib's backend: each restart seeds its own
    generators and runs on one thread.

    Parameters
    ----------
    task : RestartTask
    seeds : sequence of int
    n_jobs : int or None
    verbose : int
        Whether a bar shows how many are done.
    backend : {"auto", "joblib", "vectorized"}, default="joblib"
        "vectorized" trains all restarts as one stack where the net allows it, and
        polishes them through joblib.
    memory : str, path or joblib.Memory, default=None
        Where restarts are kept, each on its own as soon as it is done.

    Returns
    -------
    restarts : list of Restart
    """
    told, kind = "joblib", "joblib"
    if backend == "vectorized":
        reason = _why_not_together(task, seeds[0])
        told, kind = (f"joblib: {reason}", kind) if reason else (backend, backend)
    cache = RestartCache.of(memory, task, kind)
    done = _cached(cache, seeds)
    stacked: dict[int, Trained] = {}
    if kind == "vectorized" and len(done) < len(seeds):
        stacked, reason = _train_together(task, [s for s in seeds if s not in done])
        if reason:
            told = f"joblib: {reason}"
            cache = RestartCache.of(memory, task, "joblib")
            done = _cached(cache, seeds)
    jobs = {s: (s, stacked.get(s), cache) for s in seeds if s not in done}
    with (
        _interruption_told(cache, seeds),
        progress_bar(len(seeds), "restarts", verbose, done=len(done)) as advance,
    ):
        for restart in _arriving(task, jobs, cache, n_jobs):
            done[restart.seed] = restart
            advance(1)
    restarts = [replace(done[seed], backend=told) for seed in seeds]
    _tell_of_unsaved(restarts, memory)
    return restarts


def _cached(cache: RestartCache | None, seeds: Sequence[int]) -> dict[int, Restart]:
    if cache is None:
        return {}
    found = {seed: cache.load(seed) for seed in seeds}
    return {seed: restart for seed, restart in found.items() if restart is not None}


def _arriving(
    task: RestartTask,
    jobs: dict[int, tuple],
    cache: RestartCache | None,
    n_jobs: int | None,
) -> Iterator[Restart]:
    """Restarts as they are done; those whose processes died are failed ones."""

    def recovered(seed: int) -> Restart | None:
        if cache is None or not cache.holds(seed):
            return None
        return cache.load(seed)

    outcomes = surviving(
        _kept_restart, jobs, shared=(task,), n_jobs=n_jobs, recovered=recovered
    )
    for seed, restart, n_tries in outcomes:
        if isinstance(restart, Died):
            cause = restart.cause or (
                f"the worker process died in each of {n_tries} tries, the last one "
                "alone (out of memory, killed, or os._exit in the net)"
            )
            restart = Restart(seed, np.nan, error=restart.last, cause=cause)
        restart = replace(restart, cached=False, n_tries=n_tries)
        # A worker on another machine has written to its own disk.
        if cache is not None and not restart.unsaved and not cache.holds(seed):
            restart = cache.store(restart)
        yield restart


def _kept_restart(
    task: RestartTask, seed: int, stacked: Trained | None, cache: RestartCache | None
) -> Restart:
    """Run in a worker: one restart, on disk before it travels."""
    restart = run_restart(task, seed, stacked)
    return restart if cache is None else cache.store(restart)


@contextlib.contextmanager
def _interruption_told(
    cache: RestartCache | None, seeds: Sequence[int]
) -> Iterator[None]:
    """Say in a KeyboardInterrupt what is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if cache is None:
            note = (
                "No restart is kept. With the 'memory' parameter of "
                "SolutionSetEstimator set to a path, those that are done would be."
            )
        else:
            kept = sum(cache.holds(seed) for seed in seeds)
            note = (
                f"{kept} of {len(seeds)} restarts are kept in {cache.folder}: fit "
                "again with the same memory to train only the others."
            )
        interrupt.add_note(note)
        raise


def _tell_of_unsaved(restarts: Sequence[Restart], memory: Any) -> None:
    unsaved = [r.unsaved for r in restarts if r.unsaved]
    if unsaved:
        warnings.warn(
            f"{len(unsaved)} of {len(restarts)} restarts could not be written to "
            f"memory={memory!r} and are trained again by the next fit ({unsaved[0]}). "
            "Set the 'memory' parameter of SolutionSetEstimator to a folder that can "
            "be written to, with space left.",
            UserWarning,
            stacklevel=user_stacklevel(),
        )


def _why_not_together(task: RestartTask, seed: int) -> str:
    if task.layout is not None:
        return "the net takes several arrays, or codes"
    with isolated(seed), single_threaded():
        return why_not_together(task.net())


def _train_together(
    task: RestartTask, seeds: Sequence[int]
) -> tuple[dict[int, Trained], str]:
    """Trainings as one stack by seed; or none, and why the nets cannot be stacked."""
    with isolated(seeds[0]), single_threaded():
        try:
            found = train_together(
                task.estimator,
                task.params,
                task.X_net,
                task.y_net,
                seeds,
                task.sample_weight,
            )
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            return {}, f"the nets cannot be stacked ({last[:200]})"
    return dict(zip(seeds, found, strict=True)), ""


def keep_successful(restarts: Sequence[Restart]) -> list[Restart]:
    """The restarts that ended with weights; a grouped warning names the others.

    Raises
    ------
    AllRestartsFailedError
        If none is left.
    """
    failed = [r for r in restarts if r.error]
    if len(failed) == len(restarts):
        raise AllRestartsFailedError(
            f"All {len(restarts)} restarts failed, the first one with "
            f"{failed[0].cause}\n\nIts traceback:\n{failed[0].error}",
            report(restarts),
        )
    if failed:
        causes = Counter(r.cause for r in failed).most_common()
        told = "\n".join(f"- {count} x {cause}" for cause, count in causes)
        warnings.warn(
            f"{len(failed)} of {len(restarts)} restarts failed and are left out of "
            f"the solution set (see restart_report_):\n{told}",
            FitFailedWarning,
            stacklevel=user_stacklevel(),
        )
    return [r for r in restarts if not r.error]


def rebuilt_net(task: RestartTask, restart: Restart) -> Any:
    """The fitted skorch net of a restart, in its own dtype."""
    net = initialised_net(
        task.estimator,
        task.params,
        restart.seed,
        layout=task.layout,
        X=task.X_net,
        may_be_instance=True,
    )
    with isolated(restart.seed):
        net.check_data(task.X_net, task.y_net)
    load_state(net, restart.state)
    for name, parameter in net.module_.named_parameters():
        parameter.requires_grad_(name in restart.trainable)
    net.history_ = History()
    net.history_.extend(restart.history)
    return net


def _untilted_norm(point: Polished | None) -> float:
    """|R| of the objective itself; unpolished weights answer for a tilted one."""
    if point is None:
        return np.nan
    tilted = point.method == "none"
    return point.initial_gradient_norm if tilted else point.gradient_norm


def report(restarts: Sequence[Restart]) -> dict[str, NDArray[Any]]:
    """What happened to each restart, as arrays of one entry per restart."""
    points = [r.polished for r in restarts]

    def column(name: str, missing: Any) -> NDArray[Any]:
        return np.array([missing if p is None else getattr(p, name) for p in points])

    return {
        "seed": np.array([r.seed for r in restarts]),
        "status": np.array(
            [
                f"failed: {r.cause}" if r.polished is None else r.polished.status
                for r in restarts
            ]
        ),
        "loss": column("loss", np.nan),
        "initial_gradient_norm": column("initial_gradient_norm", np.nan),
        "gradient_norm": column("gradient_norm", np.nan),
        "untilted_gradient_norm": np.array([_untilted_norm(p) for p in points]),
        "stationarity": column("stationarity", np.nan),
        "converged": column("converged", False),
        "n_iter": column("n_iter", 0),
        "method": column("method", ""),
        "backend": np.array([r.backend for r in restarts]),
        "cached": np.array([r.cached for r in restarts]),
        "n_tries": np.array([r.n_tries for r in restarts]),
        "duration": np.array([r.duration for r in restarts]),
        "error": np.array([r.error for r in restarts]),
    }
