"""The steps of ``fit`` and ``retrain``: prepare, restart, linearise; or continue."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from .._training_data import TrainingData, warn_of_integers
from .._validation import user_stacklevel
from ..exceptions import (
    IllPosedWarning,
    ObjectiveMismatchWarning,
    UnsupportedObjectiveError,
)
from ..networks import missing_sizes
from ..objective import (
    Movement,
    Objective,
    check_objective,
    check_sample_weight,
    check_weighted_training,
    flattened,
    initialised_net,
    mismatches,
    rehearse_freezing,
    shape_targets,
    takes_codes,
)
from ..optimize import continued
from ..perturbation import Perturbation
from ..sensitivity import GraphicalDerivative, Linearisation, linearise
from ..sensitivity.systems import Point, Solver, check_size
from ..sets import SolutionSet
from ._held_out import fixed_split
from ._restart import Restart, RestartTask, adopted

__all__ = [
    "continue_solutions",
    "linearise_restarts",
    "prepare",
    "prepare_fitted",
    "warn_of_mismatches",
]

# Distances below this share of the weights' norm are what polishing leaves.
_SAME = 1e-6


def warn_of_mismatches(task: RestartTask) -> None:
    """Say where what is trained is not the objective that is analysed."""
    if not task.mismatches:
        return
    remedy = (
        "Polishing minimises what is analysed, from the trained weights."
        if task.polish
        else "What is analysed is tilted so that the trained weights solve it."
    )
    warnings.warn(
        "The net trains on something else than is analysed, where "
        f"{'; '.join(task.mismatches)}. {remedy}",
        ObjectiveMismatchWarning,
        stacklevel=user_stacklevel(),
    )


def prepare(
    net: Any,
    data: TrainingData,
    seed: int,
    *,
    polish: bool,
    tol: float,
    quiet: bool,
    solver: Solver,
    working_memory: float | None = None,
    sample_weight: NDArray[Any] | None = None,
) -> tuple[Objective, RestartTask]:
    """Refuse what cannot be analysed, before any training.

    Parameters
    ----------
    net : skorch.NeuralNet
        Unfitted.
    data : TrainingData
    seed : int
        Of the weights at which the objective is examined.
    polish, tol
        As in `RestartTask`.
    quiet : bool
        Whether to silence skorch.
    solver : Solver
        Whose size is checked.
    working_memory : float, default=None
        As in `Objective`.
    sample_weight : ndarray of shape (n_samples,), default=None

    Returns
    -------
    objective : Objective
        On the analysis data.
    task : RestartTask
    """
    sizes = missing_sizes(net, data.X, data.targets)
    params: dict[str, Any] = {f"module__{name}": size for name, size in sizes.items()}
    if quiet:
        params["verbose"] = 0
    trial = initialised_net(net, params, seed, layout=data.layout, X=data.X)
    rehearse_freezing(trial)
    data = _with_layout(trial, data)
    options = _Options(polish, tol, solver, working_memory, sample_weight)
    return _examined(net, trial, params, data, options)


def _with_layout(net: Any, data: TrainingData) -> TrainingData:
    """The data, told to be codes where integers were given to a net that takes them."""
    if data.whole:
        if takes_codes(net, data.X, data.whole):
            return data.as_codes()
        warn_of_integers()
    return data


@dataclass(frozen=True)
class _Options:
    """Of `prepare` and `prepare_fitted`."""

    polish: bool
    tol: float
    solver: Solver
    working_memory: float | None
    sample_weight: NDArray[Any] | None


def prepare_fitted(
    nets: Sequence[Any],
    data: TrainingData,
    *,
    polish: bool,
    tol: float,
    solver: Solver,
    working_memory: float | None = None,
    sample_weight: NDArray[Any] | None = None,
) -> tuple[Objective, RestartTask, list[Restart]]:
    """The same for nets that are trained already, which become the restarts.

    Parameters
    ----------
    nets : sequence of skorch.NeuralNet
        Fitted, of one architecture. They are read, never changed.
    data : TrainingData
        That they were trained on.
    polish, tol, solver, working_memory, sample_weight
        As in `prepare`.

    Returns
    -------
    objective, task
        As in `prepare`.
    restarts : list of Restart
        One per net, numbered instead of seeded.
    """
    options = _Options(polish, tol, solver, working_memory, sample_weight)
    data = _with_layout(nets[0], data)
    objective, task = _examined(nets[0], nets[0], {}, data, options, is_fitted=True)
    restarts = [adopted(task, net, number) for number, net in enumerate(nets)]
    return objective, task, restarts


def _examined(
    net: Any,
    trial: Any,
    params: dict[str, Any],
    data: TrainingData,
    options: _Options,
    *,
    is_fitted: bool = False,
) -> tuple[Objective, RestartTask]:
    """The objective of an initialised net, and the task of its restarts."""
    weights, layout = options.sample_weight, data.layout
    trial = flattened(trial, layout)
    dtype = next(iter(trial.module_.parameters())).detach().cpu().numpy().dtype
    X_net = data.X.astype(dtype)
    targets = shape_targets(trial, X_net, data.targets, is_column=data.is_column)
    y_net = targets.astype(dtype) if targets.dtype.kind == "f" else targets
    split = fixed_split(net, trial, X_net, y_net, always=is_fitted)
    objective = check_objective(trial, X_net, y_net, options.working_memory)
    objective = objective.with_data(data.X, targets)
    if weights is not None and not is_fitted:
        check_weighted_training(trial, X_net, y_net)
    task = RestartTask(
        clone(net),  # What is set on the user's net later must not reach the task.
        params,
        data.X,
        targets,
        X_net,
        y_net,
        options.polish,
        options.tol,
        weights,
        working_memory=options.working_memory,
        split=split,
        mismatches=mismatches(trial, X_net),
        layout=layout,
        operators=objective.operators,
    )
    if task.row_weights is not None:
        objective = _weighted(objective, task)
    check_size(Point(objective, objective.weights, options.solver))
    return objective, replace(task, objective=objective)


def _weighted(objective: Objective, task: RestartTask) -> Objective:
    """With the weights of the rows, where those leave something to train."""
    try:
        check_sample_weight(objective)
    except UnsupportedObjectiveError as error:
        if task.sample_weight is not None:
            raise
        raise UnsupportedObjectiveError(
            "The net's train_split holds rows out, and its loss cannot leave them out: "
            f"{error} Pass train_split=None and the rows to train on."
        ) from error
    weights = task.row_weights
    if weights is None or not weights.any():
        raise ValueError(
            "The 'sample_weight' parameter of fit must leave a row that is trained on. "
            "Got zeros in all rows that the net's train_split does not hold out."
        )
    objective = objective.weighted(weights)
    if not np.isfinite(objective.loss(objective.weights)):
        raise ValueError(
            "The 'sample_weight' parameter of fit must leave rows that the criterion "
            "counts (no labels of its ignore_index, no rows held out only). Got a loss "
            f"of {objective.loss(objective.weights)} with these weights."
        )
    return objective


def linearise_restarts(
    task: RestartTask, objective: Objective, restarts: Sequence[Restart], solver: Solver
) -> Linearisation:
    """Factorise the objective at the solution of each restart.

    Parameters
    ----------
    task : RestartTask
    objective : Objective
        On the task's data.
    restarts : sequence of Restart
        Successful ones.
    solver : Solver

    Returns
    -------
    linearisation : Linearisation

    Raises
    ------
    UnsupportedObjectiveError
        If the restarts trained different parameters of the module.
    """
    trainable = _one_choice_of_weights(restarts)
    objective = objective.with_trainable(trainable)
    polished = [r.polished for r in restarts if r.polished is not None]
    objectives = [
        objective.with_state(restart.state).on_kinks(point.kinks)
        for restart, point in zip(restarts, polished, strict=True)
    ]
    if not task.polish:
        objectives = [
            o.tilted(o.gradient(point.weights))
            for o, point in zip(objectives, polished, strict=True)
        ]
    return linearise(objectives, polished, solver, note=_note(task))


def _note(task: RestartTask) -> str:
    """What the status of each solution says beside what was found."""
    if not task.mismatches:
        return ""
    return f"; not what was trained: {'; '.join(task.mismatches)}"


def _one_choice_of_weights(restarts: Sequence[Restart]) -> tuple[str, ...]:
    """Names of the trained parameters, which must be the same ones everywhere."""
    found = sorted({restart.trainable for restart in restarts})
    if len(found) > 1:
        raise UnsupportedObjectiveError(
            "The restarts end with different parameters frozen, so that they solve "
            f"different problems: {len(found[0])} parameters are trained in one and "
            f"{len(found[1])} in another. Let callbacks freeze the same parameters "
            "whatever the start, for example by skorch's Freezer."
        )
    return found[0]


def continue_solutions(
    perturbation: Perturbation, tol: float, solver: Solver
) -> Linearisation:
    """Bring each solution to a stationary point on perturbed data, in order.

    Parameters
    ----------
    perturbation : Perturbation
        Of the data of a fitted estimator.
    tol : float
        As in `RestartTask`.
    solver : Solver

    Returns
    -------
    linearisation : Linearisation
    """
    derivatives = perturbation.derivatives
    objectives = [perturbation.objective(gd.objective) for gd in derivatives]
    polished = [
        continued(gd.weights, gd.factor, objective, tol=tol, active=gd.active)
        for objective, gd in zip(objectives, derivatives, strict=True)
    ]
    objectives = [
        objective.on_kinks(point.kinks)
        for objective, point in zip(objectives, polished, strict=True)
    ]
    found = linearise(objectives, polished, solver)
    _tell_of_other_branches(found.solution_set, derivatives, perturbation.movement)
    lost = perturbation.estimator.solution_set_.trustworthy
    lost = lost & ~found.solution_set.trustworthy
    if lost.any():
        first = found.solution_set.status[int(np.flatnonzero(lost)[0])]
        warnings.warn(
            f"{lost.sum()} of {len(lost)} retrained solutions are not trustworthy, and "
            f"no truth to compare with (see status). The first one: {first}.",
            IllPosedWarning,
            stacklevel=user_stacklevel(),
        )
    return found


def _tell_of_other_branches(
    retrained: SolutionSet,
    derivatives: Sequence[GraphicalDerivative],
    movement: Movement,
) -> None:
    """Say in the status where a solution lies beyond what its origin predicts.

    Past a fold of its branch a solution jumps to another minimum: stationary, and no
    continuation of the old one.
    """
    status = [str(sentence) for sentence in retrained.status]
    for i, (gd, w) in enumerate(zip(derivatives, retrained.weights, strict=True)):
        if gd.note:
            continue  # It predicts where outputs stay, not where a zero of R moves.
        if gd.is_matrix_free and _obeys_first_order(gd, w - gd.weights, movement):
            continue  # A solve costs as much as the answer, two products do not.
        affine = gd.along(movement)
        if not np.isfinite(affine.shift).all():
            continue  # No prediction to compare with: the status says why.
        beyond = float(gd.kernel.complement_norm(w - gd.weights - affine.shift))
        if beyond > float(np.linalg.norm(affine.shift)) + _SAME * np.linalg.norm(w):
            status[i] += (
                "; further from its prediction than that is from its start, perhaps of "
                "another branch (see follow_path)"
            )
    retrained.status = np.array(status)


def _obeys_first_order(gd: GraphicalDerivative, moved: Any, movement: Movement) -> bool:
    """Whether ``|H v + B dx| <= |B dx|`` for the movement v that was found."""
    b = gd.objective.data_product(gd.weights, movement)
    return bool(np.linalg.norm(gd.H.matvec(moved) + b) <= np.linalg.norm(b))
