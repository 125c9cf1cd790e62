"""Many independently seeded trainings of one net, in parallel through joblib.

Workers return NumPy arrays only: a net whose module class lives in ``__main__``
cannot be pickled back by skorch, and the parent rebuilds it exactly from a state.
"""

from __future__ import annotations

import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import FitFailedWarning
from skorch.history import History

from ._isolation import isolated
from ._objective import (
    Objective,
    Trained,
    bare_net,
    initialised_net,
    train_together,
    why_not_together,
)
from ._stationarity import Polished, polish, stationarity
from .exceptions import AllRestartsFailedError

__all__ = [
    "Restart",
    "RestartTask",
    "draw_seeds",
    "keep_successful",
    "rebuilt_net",
    "report",
    "run_restarts",
]

# Threads share torch's generator and thread count: one restart at a time there.
_ONE_AT_A_TIME = threading.Lock()

# A classifier that blew up has a finite loss (1e12 was seen). No training that works
# ends with a hundred times the loss of its start, or of the net with zero weights: the
# second is the data's own scale where the start happens to be near a solution.
_DIVERGED = 100.0


@dataclass(frozen=True)
class RestartTask:
    """What every restart shares.

    Attributes
    ----------
    estimator : skorch.NeuralNet
        Unfitted.
    params : dict
        Set on its clone: sizes learnt from the data, verbosity.
    X, y : ndarray
        Analysis data, float64 X.
    X_net, y_net : ndarray
        The same in the net's dtype, as skorch trains on them.
    polish : bool
    tol : float
    working_memory : float, default=None
        Of the objectives, in MiB.
    """

    estimator: Any
    params: dict[str, Any]
    X: NDArray[Any]
    y: NDArray[Any]
    X_net: NDArray[Any]
    y_net: NDArray[Any]
    polish: bool
    tol: float
    working_memory: float | None = None

    def on(self, X: NDArray[Any], y: NDArray[Any] | None) -> RestartTask:
        """The same trainings on other data; y None keeps the targets."""
        y = self.y if y is None else y
        return replace(
            self,
            X=X,
            y=y,
            X_net=X.astype(self.X_net.dtype),
            y_net=y.astype(self.y_net.dtype),
        )


@dataclass(frozen=True)
class Restart:
    """Outcome of one restart; ``error`` holds the traceback of a failed one."""

    seed: int
    duration: float
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    history: list | None = None
    polished: Polished | None = None
    error: str = ""
    cause: str = ""
    backend: str = "joblib"


def draw_seeds(random_state: Any, n_seeds: int) -> list[int]:
    """Independent seeds, all drawn before any work begins.

    None takes fresh entropy from the system and leaves NumPy's global state alone.
    """
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31 - 1))
    children = np.random.SeedSequence(random_state).spawn(n_seeds)
    return [int(child.generate_state(1)[0]) for child in children]


def run_restarts(
    task: RestartTask,
    seeds: Sequence[int],
    *,
    n_jobs: int | None,
    verbose: int,
    backend: str = "joblib",
) -> list[Restart]:
    """Train once per seed; outcomes in the order of the seeds.

    Bits do not depend on n_jobs or joblib's backend: each restart seeds its own
    generators and runs on one thread. The backend "vectorized" trains all restarts as
    one stack where the net allows it, and polishes them through joblib.
    """
    trained: list[Trained | None] = [None] * len(seeds)
    told = "joblib"
    if backend == "vectorized":
        trained, told = _train_together(task, seeds)
    parallel = Parallel(n_jobs=n_jobs, verbose=verbose)
    restarts = parallel(
        delayed(_guarded_restart)(task, seed, stacked)
        for seed, stacked in zip(seeds, trained, strict=True)
    )
    return [replace(restart, backend=told) for restart in restarts]


def _train_together(
    task: RestartTask, seeds: Sequence[int]
) -> tuple[list[Trained | None], str]:
    """Trainings as one stack; None each, and why, where the net does not allow it."""
    nothing: list[Trained | None] = [None] * len(seeds)
    with _ONE_AT_A_TIME, isolated(seeds[0], n_threads=1):
        reason = why_not_together(bare_net(task.estimator, task.params).initialize())
        if reason:
            return nothing, f"joblib: {reason}"
        try:
            found = train_together(
                task.estimator, task.params, task.X_net, task.y_net, seeds
            )
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            return nothing, f"joblib: the nets cannot be stacked ({last[:200]})"
    return [*found], "vectorized"


def keep_successful(restarts: Sequence[Restart], stacklevel: int) -> list[Restart]:
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
            f"{failed[0].cause}\n\nIts traceback:\n{failed[0].error}"
        )
    if failed:
        causes = Counter(r.cause for r in failed).most_common()
        told = "\n".join(f"- {count} x {cause}" for cause, count in causes)
        warnings.warn(
            f"{len(failed)} of {len(restarts)} restarts failed and are left out of "
            f"the solution set (see restart_report_):\n{told}",
            FitFailedWarning,
            stacklevel=stacklevel + 1,
        )
    return [r for r in restarts if not r.error]


def _guarded_restart(
    task: RestartTask, seed: int, stacked: Trained | None = None
) -> Restart:
    start = time.perf_counter()
    with _ONE_AT_A_TIME, isolated(seed, n_threads=1):
        try:
            restart = _restart(task, seed, stacked)
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            restart = Restart(seed, 0.0, error=traceback.format_exc(), cause=last)
    training = 0.0 if stacked is None else stacked.seconds
    return replace(restart, duration=time.perf_counter() - start + training)


def _restart(task: RestartTask, seed: int, stacked: Trained | None) -> Restart:
    net = bare_net(task.estimator, task.params).initialize()
    memory = task.working_memory
    start = Objective(net, task.X, task.y, working_memory=memory)
    if stacked is None:
        _train(net, task)
    else:
        load_state(net, stacked.state)
    trained = Objective(net, task.X, task.y, working_memory=memory)
    _check_convergence(start, trained)
    if task.polish:
        point = polish(
            trained,
            trained.weights,
            tol=task.tol,
            initial_curvature=_curvature_scale(start),
        )
    else:
        point = as_trained(trained)
    return Restart(
        seed,
        0.0,
        state=trained.state(point.weights),
        history=list(net.history) if stacked is None else stacked.history,
        polished=point,
    )


def _curvature_scale(start: Objective) -> float:
    """|H|_2 of a net that is not saturated: at the start, or at a hundredth of it."""
    return max(start.hessian_norm(c * start.weights) for c in (1.0, 0.01))


def _train(net: Any, task: RestartTask) -> None:
    try:
        net.partial_fit(task.X_net, task.y_net)
    except KeyError as error:
        if "valid_" not in str(error):
            raise
        raise ValueError(
            f"A callback of the net looks for a validation score ({error}), and there "
            "is none: train_split is overridden by None, because all rows make the "
            "objective. Let the callback monitor 'train_loss' instead."
        ) from error


def as_trained(objective: Objective) -> Polished:
    """The trained weights as they are: stationary for their tilted objective."""
    w = objective.weights
    norm = float(np.linalg.norm(objective.gradient(w)))
    relative = stationarity(objective, w, norm)
    return Polished(
        w,
        objective.loss(w),
        0.0,
        norm,
        0.0,
        0,
        "none",
        True,
        f"early-stopped (relative gradient {relative:.2g}): answers refer to the "
        "objective tilted by the gradient left",
    )


def _check_convergence(start: Objective, trained: Objective) -> None:
    if not np.isfinite(trained.weights).all():
        raise FloatingPointError(
            "training diverged: the weights are NaN or infinite; lower the learning "
            "rate (estimator__lr)"
        )
    before, after = start.loss(start.weights), trained.loss(trained.weights)
    references = [before, start.loss(np.zeros_like(start.weights))]
    # Normalised weights have no loss at zero; a loss of 0 is no scale.
    scale = max([r for r in references if np.isfinite(r)], default=np.inf)
    if not np.isfinite(after) or after > _DIVERGED * max(scale, 1e-300):
        raise FloatingPointError(
            f"training diverged: the loss went from {before:.3g} to {after:.3g}; "
            "lower the learning rate (estimator__lr)"
        )


def rebuilt_net(task: RestartTask, restart: Restart) -> Any:
    """The fitted skorch net of a restart, in its own dtype."""
    net = initialised_net(task.estimator, task.params, restart.seed)
    with isolated(restart.seed):
        net.check_data(task.X_net, task.y_net)
    load_state(net, restart.state)
    net.history_ = History()
    net.history_.extend(restart.history)
    return net


def load_state(net: Any, state: dict[str, NDArray[Any]]) -> None:
    """Give a net's module the values of arrays, in its own dtypes."""
    net.module_.load_state_dict(
        {
            name: torch.as_tensor(state[name]).to(tensor.dtype)
            for name, tensor in net.module_.state_dict().items()
        }
    )


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
        "duration": np.array([r.duration for r in restarts]),
        "error": np.array([r.error for r in restarts]),
    }
