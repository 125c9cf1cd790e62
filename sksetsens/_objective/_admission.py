"""Which nets have a training objective whose sensitivity can be asked for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from .._isolation import isolated
from ..exceptions import StochasticObjectiveError, UnsupportedObjectiveError
from ._objective import Objective

_PROBE_ROWS = 256

# Piecewise linear in the outputs: the second derivative is zero or undefined.
_NOT_TWICE_DIFFERENTIABLE = (
    torch.nn.L1Loss,
    torch.nn.HingeEmbeddingLoss,
    torch.nn.MarginRankingLoss,
    torch.nn.MultiMarginLoss,
    torch.nn.MultiLabelMarginLoss,
    torch.nn.TripletMarginLoss,
)


def initialised_net(estimator: Any, params: dict[str, Any], seed: int) -> Any:
    """Clone of a skorch net with ``params`` set, built and seeded by ``seed``.

    The clone trains on exactly the rows it is given (``train_split=None``) and on
    its own (``warm_start=False``). Global random state is left as found.

    Raises
    ------
    UnsupportedObjectiveError
        If ``estimator.module`` is an instance: every restart would begin at the
        same weights.
    """
    if isinstance(estimator.module, torch.nn.Module):
        name = type(estimator.module).__name__
        raise UnsupportedObjectiveError(
            "The 'estimator' parameter must wrap a module class. Got an instance of "
            f"{name} instead, with which every restart begins at the same weights. "
            f"Pass module={name} and its arguments as module__<name>=<value>."
        )
    net = clone(estimator).set_params(train_split=None, warm_start=False, **params)
    with isolated(seed):
        return net.initialize()


def admit(net: Any, X: NDArray[Any], y: NDArray[Any]) -> Objective:
    """Objective of an initialised net on (X, y), or a refusal that says why.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised net.

    X, y : ndarray
        Training data in the form skorch gets, ``y`` shaped like the outputs where
        it is real-valued.

    Returns
    -------
    objective : Objective

    Raises
    ------
    StochasticObjectiveError
        If the objective differs between two evaluations at the same weights.
    UnsupportedObjectiveError
        If parts outside the module learn, the data is transformed on the way, rows
        influence each other, or second derivatives do not exist.
    """
    with isolated(seed=0):
        _refuse_learning_parts(net)
        _refuse_transformed_data(net, X, y)
        _refuse_random_module(net, X)
        objective = Objective(net, X, y)
        _check_outputs(objective, y)
        _refuse_mixed_rows(objective)
        _refuse_missing_derivatives(net, objective)
    return objective


def _refuse_learning_parts(net: Any) -> None:
    own = {id(p) for p in net.module_.parameters()}
    other = [n for n, p in net.get_all_learnable_params() if id(p) not in own]
    if other:
        raise UnsupportedObjectiveError(
            f"The net learns parameters outside its module: {other}. Move them into "
            "the module, so that they are part of the weights w."
        )


def _refuse_transformed_data(net: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Compare two reads of the first rows with each other and with X."""
    dataset = net.get_dataset(X, y)
    rows = range(min(len(X), 32))
    collate = getattr(net.get_iterator(dataset, training=True), "collate_fn", None)
    if collate is None:
        return
    first, second = (
        np.asarray(collate([dataset[i] for i in rows])[0]) for _ in range(2)
    )
    if not np.array_equal(first, second):
        raise StochasticObjectiveError(
            "The net's dataset or collate_fn returned two different versions of the "
            "same rows: with random augmentation the solution set is random. Augment "
            "the data once, with a seed, before fit."
        )
    expected = np.asarray(X[: len(rows)])
    if first.shape != expected.shape or not np.allclose(first, expected, rtol=1e-5):
        raise UnsupportedObjectiveError(
            "The net's dataset or collate_fn changes X on the way to the module. Put "
            "the transformation into a Pipeline before the estimator, so that the "
            "sensitivity refers to the data the module sees."
        )


def _refuse_random_module(net: Any, X: NDArray[Any]) -> None:
    module, criterion = net.module_, net.criterion_
    twin = copy.deepcopy(module).train()
    dtype = next(module.parameters()).dtype
    rows = torch.as_tensor(X[:_PROBE_ROWS], device=net.device).to(dtype)
    del criterion
    with torch.no_grad():
        first, second = twin(rows), twin(rows)
    if not isinstance(first, torch.Tensor):
        raise UnsupportedObjectiveError(
            "The module must return one tensor. Got "
            f"{type(first).__name__} instead: return only what the criterion needs."
        )
    # Two passes of the same kernel differ only by the order of atomic additions.
    if not torch.allclose(first, second, rtol=1e-5, atol=1e-7, equal_nan=True):
        layers = _random_layers(module)
        raise StochasticObjectiveError(
            "The module gives two different outputs for the same rows in train mode"
            f"{layers}, so that its training objective is random and has no Hessian. "
            "Set the dropout probability to 0, or use weight decay instead."
        )


def _random_layers(module: torch.nn.Module) -> str:
    names = [
        f"{name or 'module'} ({type(m).__name__}, p={m.p})"
        for name, m in module.named_modules()
        if "Dropout" in type(m).__name__ and getattr(m, "p", 0.0)
    ]
    return f" because of {', '.join(names)}" if names else ""


def _check_outputs(objective: Objective, y: NDArray[Any]) -> None:
    shape = objective.outputs(objective.weights).shape
    if shape[0] != len(y):
        raise UnsupportedObjectiveError(
            f"The module returned outputs of shape {shape} for {len(y)} rows. The "
            "first axis must be the rows."
        )
    real_valued = np.issubdtype(np.asarray(y).dtype, np.floating)
    if real_valued and shape != np.shape(y):
        raise UnsupportedObjectiveError(
            f"The module's outputs have shape {shape} and the targets {np.shape(y)}: "
            "the criterion would broadcast them silently. Set the module's number of "
            "outputs to the number of targets."
        )


def _refuse_mixed_rows(objective: Objective) -> None:
    if objective.n_samples < 2:
        return
    rows = objective._x[:2].cpu().numpy()
    together = objective.outputs(objective.weights, rows)[:1]
    alone = objective.outputs(objective.weights, rows[:1])
    # Different batch shapes may use different kernels: rounding only.
    if not np.allclose(together, alone, rtol=1e-8, atol=1e-10):
        raise UnsupportedObjectiveError(
            "In eval mode the module's output for a row depends on the other rows of "
            "the batch (for example BatchNorm with track_running_stats=False). Use "
            "running statistics or another normalisation."
        )


def _refuse_missing_derivatives(net: Any, objective: Objective) -> None:
    criterion = type(net.criterion_)
    remedy = "Use a smooth one, for example MSELoss or CrossEntropyLoss."
    if issubclass(criterion, _NOT_TWICE_DIFFERENTIABLE):
        raise UnsupportedObjectiveError(
            f"The criterion {criterion.__name__} is not twice differentiable: its "
            f"Hessian is zero or undefined. {remedy}"
        )
    w = objective.weights
    try:
        r = objective.output_gradient(w)
        moved = objective.hessian_product(w, np.ones_like(w))
    except (NotImplementedError, RuntimeError) as error:
        raise UnsupportedObjectiveError(
            "The objective has no second derivative here: "
            f"{str(error).splitlines()[0]}. Replace that operator, or the criterion "
            f"{criterion.__name__}."
        ) from error
    if not np.isfinite(moved).all():
        raise UnsupportedObjectiveError(
            f"H times a vector is not finite at the initial weights (criterion "
            f"{criterion.__name__}). {remedy}"
        )
    flat = objective.n_outputs <= _PROBE_ROWS and not objective.output_hessian(w).any()
    if flat and r.any():
        raise UnsupportedObjectiveError(
            f"The criterion {criterion.__name__} is piecewise linear in the outputs: "
            f"its second derivative is zero everywhere. {remedy}"
        )


def shape_targets(net: Any, X: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Real-valued targets in the shape of the net's outputs.

    A column of outputs against a row of targets broadcasts to an n x n matrix in
    MSELoss without an error; integer targets (class labels) stay as they are.

    Raises
    ------
    UnsupportedObjectiveError
        If the outputs hold another number of values per row than the targets.
    """
    if not np.issubdtype(y.dtype, np.floating):
        return y
    net.module_.eval()
    with torch.no_grad():
        shape = np.shape(net.infer(X[:1]))[1:]
    if int(np.prod(shape)) != int(np.prod(y.shape[1:])):
        raise UnsupportedObjectiveError(
            f"The module returns outputs of shape {tuple(shape)} per row and the "
            f"targets have shape {y.shape[1:]}: the criterion would broadcast them "
            "silently. Set the module's number of outputs to the number of targets."
        )
    return y.reshape(len(y), *shape)
