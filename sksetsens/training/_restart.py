"""One seeded training of a net, brought to a stationary point.

It returns NumPy arrays only: a net whose module class lives in ``__main__`` cannot be
pickled back by skorch, and the parent rebuilds it exactly from a state.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._layout import InputLayout
from ..objective import (
    Objective,
    Operators,
    Trained,
    bare_net,
    built,
    flattened,
    isolated,
    kernels_kept,
    plain_name,
    single_threaded,
    trained_by_weight,
)
from ..optimize import Polished, check_curvature, polish
from ._held_out import trained_rows_only
from ._interrupts import interrupts_get_through

__all__ = ["Restart", "RestartTask", "adopted", "load_state", "run_restart"]

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
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the rows; None for equal ones.
    split : callable, default=None
        skorch's ``train_split``, the same rows each time; None where all are trained
        on.
    mismatches : tuple of str
        Where what is trained is not the objective.
    layout : InputLayout, default=None
        What the columns of X are where the net takes several arrays, or codes.
    operators : Operators
        What is replaced in the net's code.
    objective : Objective, default=None
        On the analysis data, at any weights: what restarts in this process share. It
        does not travel to others, because skorch cannot send module classes of
        ``__main__``.
    working_memory : float, default=None
        Of the objectives that restarts elsewhere build, in MiB.
    """

    estimator: Any
    params: dict[str, Any]
    X: NDArray[Any]
    y: NDArray[Any]
    X_net: NDArray[Any]
    y_net: NDArray[Any]
    polish: bool
    tol: float
    sample_weight: NDArray[Any] | None = None
    objective: Objective | None = None
    working_memory: float | None = None
    split: Any = None
    mismatches: tuple[str, ...] = ()
    layout: InputLayout | None = None
    operators: Operators = Operators()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "objective": None}

    def writable(self) -> RestartTask:
        """The same with arrays of its own where they are read-only, as in workers."""
        names = ["X", "y", "X_net", "y_net"]
        names += [] if self.sample_weight is None else ["sample_weight"]
        arrays = {name: np.require(getattr(self, name), None, "W") for name in names}
        return replace(self, **arrays)

    def net(self) -> Any:
        """An initialised net, whose training weighs the rows."""
        net = bare_net(self.estimator, self.params)
        net.set_params(train_split=self.split)
        if self.sample_weight is not None:
            # The training sees these rows only, in this order.
            rows = getattr(self.split, "train_rows", slice(None))
            net = trained_by_weight(net, self.sample_weight[rows], self.y_net[rows])
        net = flattened(net, self.layout).initialize()
        return built(net, self.X_net, self.layout)

    @property
    def row_weights(self) -> NDArray[Any] | None:
        """Weights of the rows in the objective, 0 of those held out; None for ones."""
        return trained_rows_only(self.sample_weight, self.split, len(self.y))

    def on(
        self,
        X: NDArray[Any],
        y: NDArray[Any] | None,
        sample_weight: NDArray[Any] | None = None,
    ) -> RestartTask:
        """The same trainings on other data; None keeps targets, or weights."""
        y = self.y if y is None else y
        weights = self.sample_weight if sample_weight is None else sample_weight
        objective = self.objective and self.objective.with_data(X, y).weighted(
            trained_rows_only(weights, self.split, len(y))
        )
        return replace(
            self,
            X=X,
            y=y,
            X_net=X.astype(self.X_net.dtype),
            y_net=y.astype(self.y_net.dtype),
            sample_weight=weights,
            objective=objective,
        )


@dataclass(frozen=True)
class Restart:
    """Outcome of one restart.

    Attributes
    ----------
    seed : int
    duration : float
        Seconds that the training took, when it took place.
    state : dict of str to ndarray
        The module's at the solution.
    trainable : tuple of str
        Parameters that were trained: those not frozen when the training ended.
    history : list of dict
        skorch's.
    polished : Polished
    error, cause : str
        Traceback and last line of a failure.
    backend : str
        What trained it, with the reason if something else was asked for.
    cached : bool
        Whether it was read from a file.
    n_tries : int
        How often it was started.
    unsaved : str
        Why it could not be written to a file.
    """

    seed: int
    duration: float
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    trainable: tuple[str, ...] = ()
    history: list | None = None
    polished: Polished | None = None
    error: str = ""
    cause: str = ""
    backend: str = "joblib"
    cached: bool = False
    n_tries: int = 1
    unsaved: str = ""


def run_restart(
    task: RestartTask, seed: int, stacked: Trained | None = None
) -> Restart:
    """Train and polish from one seed; what it raises becomes its outcome.

    Parameters
    ----------
    task : RestartTask
    seed : int
    stacked : Trained, default=None
        A training that was done already, to be polished.

    Returns
    -------
    restart : Restart
    """
    start = time.perf_counter()
    task = task.writable()
    try:
        with single_threaded():
            restart = _restart(task, seed, stacked)
    except (Exception, SystemExit) as error:
        last = traceback.format_exception_only(error)[-1].strip()
        restart = Restart(seed, 0.0, error=traceback.format_exc(), cause=last)
    training = 0.0 if stacked is None else stacked.seconds
    return replace(restart, duration=time.perf_counter() - start + training)


def _restart(task: RestartTask, seed: int, stacked: Trained | None) -> Restart:
    # Polishing draws nothing: restarts in other threads train meanwhile.
    with isolated(seed):
        if stacked is None:
            net = task.net()
            before = _state(net.module_)
            # A net whose training weighs the rows knows nothing of all of them.
            plain = None if task.sample_weight is not None else net
            with kernels_kept(_objective(task, plain).attends):
                _train(net, task)
            state, history = _state(net.module_), list(net.history)
            # Callbacks may have frozen weights on the way, which are none to move then.
            trainable = _trainable(net.module_)
            objective = _objective(task, plain).with_trainable(trainable)
        else:
            before, state, history = stacked.start, stacked.state, stacked.history
            objective = _objective(task, None)
    start = objective.with_state(before)
    trained = start.with_state(state)
    _check_convergence(start, trained)
    return _ended(task, trained, history, seed, start)


def adopted(task: RestartTask, net: Any, number: int) -> Restart:
    """A net that is trained already as the outcome of a restart.

    Parameters
    ----------
    task : RestartTask
        With its objective.
    net : skorch.NeuralNet
        Fitted.
    number : int
        In place of a seed.

    Returns
    -------
    restart : Restart
    """
    start = time.perf_counter()
    with isolated(number), single_threaded():
        objective = _objective(task, net).with_trainable(_trainable(net.module_))
        trained = objective.with_state(_state(net.module_))
        restart = _ended(task, trained, list(net.history), number)
    seconds = time.perf_counter() - start
    return replace(restart, duration=seconds, backend="from_fitted")


def _ended(
    task: RestartTask,
    trained: Objective,
    history: list,
    seed: int,
    start: Objective | None = None,
) -> Restart:
    """The restart whose training ended at the weights of an objective."""
    if task.polish:
        curvature = 0.0 if start is None else _curvature_scale(start)
        point = polish(
            trained, trained.weights, tol=task.tol, initial_curvature=curvature
        )
    else:
        point = as_trained(trained)
        check_curvature(trained, point.weights)
    return Restart(
        seed,
        0.0,
        state=trained.state(point.weights),
        trainable=trained.trainable,
        history=history,
        polished=point,
    )


def _objective(task: RestartTask, net: Any) -> Objective:
    """The task's objective, or one built of an initialised net."""
    if task.objective is not None:
        return task.objective
    if net is None:
        net = flattened(bare_net(task.estimator, task.params), task.layout)
        net = built(net.initialize(), task.X_net, task.layout)
    memory = task.working_memory
    objective = Objective(
        net, task.X, task.y, working_memory=memory, operators=task.operators
    )
    return objective.weighted(task.row_weights)


def _trainable(module: torch.nn.Module) -> tuple[str, ...]:
    named = module.named_parameters()
    return tuple(plain_name(name) for name, p in named if p.requires_grad)


def _state(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers as arrays, those outside ``state_dict`` included."""
    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {
        plain_name(name): t.detach().cpu().numpy().copy() for name, t in tensors.items()
    }


def _curvature_scale(start: Objective) -> float:
    """|H|_2 of a net that is not saturated: at the start, or at a hundredth of it."""
    return max(start.hessian_norm(c * start.weights) for c in (1.0, 0.01))


def _train(net: Any, task: RestartTask) -> None:
    try:
        with interrupts_get_through():
            net.partial_fit(task.X_net, task.y_net)
    except KeyError as error:
        if "valid_" not in str(error):
            raise
        raise ValueError(
            f"A callback of the net looks for a validation score ({error}), and there "
            "is none: train_split is None, and all rows make the objective. Let the "
            "callback monitor 'train_loss' instead, or give the net a split, for "
            "example train_split=ValidSplit(0.2, random_state=0)."
        ) from error


def as_trained(objective: Objective) -> Polished:
    """The trained weights as they are: stationary for their tilted objective."""
    w = objective.weights
    loss, gradient = objective.value_and_gradient(w)
    norm = float(np.linalg.norm(gradient))
    return Polished(
        w,
        loss,
        0.0,
        norm,
        0.0,
        0,
        "none",
        True,
        f"early-stopped (gradient norm {norm:.2g} at a loss of {loss:.2g}): answers "
        "refer to the objective tilted by the gradient left",
    )


def _check_convergence(start: Objective, trained: Objective) -> None:
    if not np.isfinite(trained.weights).all():
        raise FloatingPointError(
            "training diverged: the weights are NaN or infinite; lower the learning "
            "rate (estimator__lr)"
        )
    before, after = start.loss(start.weights), trained.loss(trained.weights)
    if np.isfinite(before) and after <= before:
        return
    references = [before, start.loss(np.zeros_like(start.weights))]
    # Normalised weights have no loss at zero; a loss of 0 is no scale.
    scale = max([r for r in references if np.isfinite(r)], default=np.inf)
    if not np.isfinite(after) or after > _DIVERGED * max(scale, 1e-300):
        raise FloatingPointError(
            f"training diverged: the loss went from {before:.3g} to {after:.3g}; "
            "lower the learning rate (estimator__lr)"
        )


def load_state(net: Any, state: dict[str, NDArray[Any]]) -> None:
    """Give a net's module the values of arrays, in its own dtypes."""
    net.module_.load_state_dict(
        {
            name: torch.as_tensor(state[name]).to(tensor.dtype)
            for name, tensor in net.module_.state_dict().items()
        }
    )
    for name, buffer in net.module_.named_buffers():
        if name in state:  # Those that are not persistent, too.
            buffer.copy_(torch.as_tensor(state[name]))
