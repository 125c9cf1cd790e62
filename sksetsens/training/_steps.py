"""The steps of ``fit`` and ``retrain``: prepare, restart, linearise; or continue."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from .._training_data import TrainingData
from .._validation import user_stacklevel
from ..exceptions import UnsupportedObjectiveError
from ..networks import missing_sizes
from ..objective import (
    Movement,
    Objective,
    check_objective,
    check_sample_weight,
    check_weighted_training,
    initialised_net,
    rehearse_freezing,
    shape_targets,
)
from ..optimize import continued
from ..perturbation import Perturbation
from ..sensitivity import GraphicalDerivative, Linearisation, linearise
from ..sensitivity.systems import Point, Solver, check_size
from ..sets import SolutionSet
from ._restart import Restart, RestartTask

__all__ = [
    "continue_solutions",
    "linearise_restarts",
    "prepare",
    "warn_of_train_split",
]

# Distances below this share of the weights' norm are what polishing leaves.
_SAME = 1e-6


def warn_of_train_split(net: Any) -> None:
    """Say that rows the net would hold out take part in the objective."""
    if net.train_split is None:
        return
    warnings.warn(
        f"The net's train_split={net.train_split!r} would hold rows out of the "
        "training; it is overridden by None, so that the solution set belongs to all "
        "rows of X. Pass train_split=None to the net to silence this.",
        UserWarning,
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
    sample_weight: np.ndarray | None = None,
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
    trial = initialised_net(net, params, seed)
    rehearse_freezing(trial)
    dtype = next(iter(trial.module_.parameters())).detach().cpu().numpy().dtype
    X_net = data.X.astype(dtype)
    targets = shape_targets(trial, X_net, data.targets)
    y_net = targets.astype(dtype) if targets.dtype.kind == "f" else targets
    objective = check_objective(trial, X_net, y_net, working_memory).with_data(
        data.X, targets
    )
    if sample_weight is not None:
        check_weighted_training(trial, X_net, y_net)
        check_sample_weight(objective)
        objective = objective.weighted(sample_weight)
        if not np.isfinite(objective.loss(objective.weights)):
            raise ValueError(
                "The 'sample_weight' parameter of fit must leave rows that the "
                "criterion counts (no labels of its ignore_index). Got a loss of "
                f"{objective.loss(objective.weights)} with these weights."
            )
    check_size(Point(objective, objective.weights, solver))
    task = RestartTask(
        clone(net),  # What is set on the user's net later must not reach the task.
        params,
        data.X,
        targets,
        X_net,
        y_net,
        polish,
        tol,
        sample_weight,
        objective,
        working_memory,
    )
    return objective, task


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
    return linearise(objectives, polished, solver)


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
