"""Which nets have a training objective whose sensitivity can be asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import StochasticObjectiveError, UnsupportedObjectiveError
from ._isolation import isolated
from ._memory import is_out_of_memory
from ._mismatch import refuse_random_module
from ._module_checks import (
    objective_in_float64,
)
from ._objective import Objective
from ._targets import is_elementwise
from ._trained_objective import (
    refuse_another_gradient,
    refuse_dependence_on_batch_size,
)

_PROBE_ROWS = 256

_REMEDY = "Use a smooth one, for example MSELoss or CrossEntropyLoss."
_MIXED_ROWS = (
    "depends on the other rows of the batch. Use running statistics or another "
    "normalisation."
)

_UNEQUAL_SAMPLERS = (
    torch.utils.data.WeightedRandomSampler,
    torch.utils.data.SubsetRandomSampler,
)

# Piecewise linear in the outputs: the second derivative is zero or undefined.
_NOT_TWICE_DIFFERENTIABLE = (
    torch.nn.HingeEmbeddingLoss,
    torch.nn.MarginRankingLoss,
    torch.nn.MultiMarginLoss,
    torch.nn.MultiLabelMarginLoss,
    torch.nn.TripletMarginLoss,
)


def check_objective(
    net: Any,
    X: NDArray[Any],
    y: NDArray[Any],
    working_memory: float | None = None,
) -> Objective:
    """Objective of an initialised net on (X, y), or a refusal that says why.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised net.

    X, y : ndarray
        Training data in the form skorch gets, ``y`` shaped like the outputs where
        it is real-valued.

    working_memory : float, default=None
        Of the objective, in MiB.

    Returns
    -------
    objective : Objective

    Raises
    ------
    ValueError
        If the net's batch size or the working memory has no meaning.
    StochasticObjectiveError
        If the objective in eval mode differs between two evaluations at the same
        weights.
    UnsupportedObjectiveError
        If parts outside the module learn, the data is transformed on the way, rows
        influence each other, what is trained depends on the batch size, the loss is
        no number, or second derivatives do not exist.
    """
    with isolated(seed=0):
        _check_batch_size(net)
        _refuse_learning_parts(net)
        _refuse_transformed_data(net, X, y)
        _refuse_batch_statistics(net)
        refuse_random_module(net, X)
        objective = objective_in_float64(net, X, y, working_memory)
        objective.check_working_memory()
        _check_outputs(net, objective, y)
        _check_loss(net, objective)
        objective.note_operators()
        _refuse_mixed_rows(objective)
        probe = objective.with_data(X[:_PROBE_ROWS], y[:_PROBE_ROWS])
        _refuse_random_loss(probe)
        _refuse_missing_derivatives(net, objective, probe)
        refuse_another_gradient(net, probe)
        refuse_dependence_on_batch_size(net, X, y, probe)
    return objective


def _check_batch_size(net: Any) -> None:
    size = net.batch_size
    # torch takes no other integers, those of NumPy included.
    if type(size) is not int or (size < 1 and size != -1):
        raise ValueError(
            "The 'batch_size' of the net must be a positive int, or -1 for all rows. "
            f"Got {size!r} of type {type(size).__name__} instead."
        )


def _refuse_learning_parts(net: Any) -> None:
    own = {id(p) for p in net.module_.parameters()}
    other = [
        name
        for name, p in net.get_all_learnable_params()
        if id(p) not in own and p.requires_grad
    ]
    if other:
        raise UnsupportedObjectiveError(
            f"The net learns parameters outside its module: {other}. Move them into "
            "the module, so that they are part of the weights w."
        )


def _refuse_transformed_data(net: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Compare two reads of the first rows with each other and with the data."""
    rows = range(min(len(X), 32))
    try:
        dataset = net.get_dataset(X, y)
        iterator = net.get_iterator(dataset, training=True)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The net's training data cannot be read ({type(error).__name__}: "
            f"{error}). Check its dataset, iterator_train and their parameters."
        ) from error
    sampler = getattr(iterator, "sampler", None)
    if isinstance(sampler, _UNEQUAL_SAMPLERS):
        raise UnsupportedObjectiveError(
            f"The sampler {type(sampler).__name__} of the net's training iterator does "
            "not draw all rows equally often, so that the trained objective is not "
            "get_loss on all rows. Use class weights in the criterion instead."
        )
    collate = getattr(iterator, "collate_fn", None)
    if collate is None:
        return
    first, second = (collate([dataset[i] for i in rows]) for _ in range(2))
    for name, one, other, given in zip("Xy", first, second, (X, y), strict=False):
        _compare_reads(name, np.asarray(one), np.asarray(other), given[: len(rows)])


def _compare_reads(
    name: str, first: NDArray[Any], second: NDArray[Any], given: NDArray[Any]
) -> None:
    if not np.array_equal(first, second):
        raise StochasticObjectiveError(
            f"The net's dataset or collate_fn returned two versions of {name} for the "
            "same rows: with random augmentation the solution set is random. "
            "Augment the data once, with a seed, before fit."
        )
    # The net's dtype may be float32. A column of targets may come back as a row.
    same_size = first.size == given.size and (name == "y" or first.shape == given.shape)
    if not same_size or not np.allclose(first.ravel(), np.ravel(given), rtol=1e-5):
        raise UnsupportedObjectiveError(
            f"The net's dataset or collate_fn changes {name} on the way to the module. "
            "Put the transformation into a Pipeline before the estimator, so that the "
            "sensitivity refers to the data the module sees."
        )


def _refuse_batch_statistics(net: Any) -> None:
    names = [
        f"{name or 'module'} ({type(m).__name__})"
        for name, m in net.module_.named_modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
        and m.running_mean is None
    ]
    if names:
        raise UnsupportedObjectiveError(
            f"The layers {', '.join(names)} have track_running_stats=False: the output "
            f"for a row {_MIXED_ROWS}"
        )


def _check_outputs(net: Any, objective: Objective, y: NDArray[Any]) -> None:
    shape = objective.outputs(objective.weights).shape
    if shape[:1] != np.shape(y)[:1]:
        raise UnsupportedObjectiveError(
            f"The module returned outputs of shape {shape} for {len(y)} rows. The "
            "first axis must be the rows."
        )
    alone = objective._forward(objective._tensor(objective.weights), objective._x[:1])
    if alone.shape != (1, *shape[1:]):
        raise UnsupportedObjectiveError(
            f"The module returned outputs of shape {tuple(alone.shape)} for one row "
            f"and of shape {shape} for {len(y)} rows. The first axis must be the rows: "
            "name the dimension in squeeze, for example squeeze(-1)."
        )
    if objective.has_several_outputs and is_elementwise(net):
        raise UnsupportedObjectiveError(
            "The module must return one tensor. Got tuple instead: return only what "
            f"the criterion {type(net.criterion_).__name__} needs, or let get_loss "
            "take it from the tuple."
        )
    real_valued = np.issubdtype(np.asarray(y).dtype, np.floating)
    if real_valued and shape != np.shape(y) and is_elementwise(net):
        raise UnsupportedObjectiveError(
            f"The module's outputs have shape {shape} and the targets {np.shape(y)}: "
            "the criterion would broadcast them silently. Set the module's number of "
            "outputs to the number of targets."
        )


def _check_loss(net: Any, objective: Objective) -> None:
    try:
        shape = objective.loss_shape(objective.weights)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _no_loss(net, objective, error) from error
    if shape:
        raise UnsupportedObjectiveError(
            "The net's get_loss must return one number. Got a tensor of shape "
            f"{shape} from the criterion {type(net.criterion_).__name__} instead: "
            "reduce the rows to their mean, for example criterion__reduction='mean'."
        )
    if np.isnan(objective.loss(objective.weights)):
        raise UnsupportedObjectiveError(
            "The net's loss must be a number before training. Got NaN from the "
            f"criterion {type(net.criterion_).__name__} instead. skorch takes the "
            "logarithm of what a module returns to NLLLoss: for logits, pass "
            "criterion=torch.nn.CrossEntropyLoss."
        )


def _no_loss(
    net: Any, objective: Objective, error: Exception
) -> UnsupportedObjectiveError:
    """What stands between outputs and targets where get_loss raises."""
    targets = objective.targets
    remedy = "Give y the dtype and shape that the criterion asks for."
    if not objective.has_real_targets:
        remedy = (
            "Integer targets are class numbers; for numbers and for several labels "
            "per row, pass y.astype(np.float32)."
        )
    return UnsupportedObjectiveError(
        f"The net's get_loss fails ({str(error).splitlines()[0]}): the criterion "
        f"{type(net.criterion_).__name__} got targets of dtype {targets.dtype} and "
        f"shape {targets.shape}. {remedy}"
    )


def _refuse_mixed_rows(objective: Objective) -> None:
    if objective.n_samples < 2:
        return
    rows, w = objective._x[:2].cpu().numpy(), objective.weights
    together = objective.outputs(w, rows)
    alone = np.concatenate([objective.outputs(w, row[None]) for row in rows])
    # Different batch shapes may use different kernels: rounding only.
    if not np.allclose(together, alone, rtol=1e-8, atol=1e-10, equal_nan=True):
        raise UnsupportedObjectiveError(
            f"In eval mode the module's output for a row {_MIXED_ROWS}"
        )


def _refuse_random_loss(probe: Objective) -> None:
    first, second = probe.loss(probe.weights), probe.loss(probe.weights)
    # Only the order of atomic additions may differ.
    if not np.isclose(first, second, rtol=1e-9, equal_nan=True):
        raise StochasticObjectiveError(
            "The net's get_loss gives two different values for the same outputs: "
            f"{first!r} and {second!r}. A random objective has no Hessian."
        )


def _refuse_missing_derivatives(
    net: Any, objective: Objective, probe: Objective
) -> None:
    criterion = type(net.criterion_).__name__
    if isinstance(net.criterion_, _NOT_TWICE_DIFFERENTIABLE):
        raise UnsupportedObjectiveError(
            f"The criterion {criterion} is not twice differentiable: its "
            f"Hessian is zero or undefined. {_REMEDY}"
        )
    w = objective.weights
    try:
        moved = probe.hessian_product(w, np.ones_like(w))
        r = probe.output_gradient(w)
    except (NotImplementedError, RuntimeError) as error:
        told = str(error).splitlines()[0].rstrip(".")
        remedy = f"Replace that operator, or the criterion {criterion}"
        if "does not require grad" in told:
            remedy = "Take torch.no_grad and detach out of forward and get_loss"
        raise UnsupportedObjectiveError(
            f"The objective has no second derivative here: {told}. {remedy}."
        ) from error
    if not np.isfinite(moved).all():
        raise UnsupportedObjectiveError(
            f"H times a vector is not finite at the initial weights (criterion "
            f"{criterion}). {_REMEDY}"
        )
    # NLLLoss of log-probabilities is linear in the outputs and smooth in w.
    flat = r.any() and not probe.is_curved_in_outputs(w)
    flat = flat and not objective.has_ramps_in_loss
    if flat and not probe.is_linear_in_outputs(w):
        raise UnsupportedObjectiveError(
            f"The criterion {criterion} is piecewise linear in the outputs: "
            f"its second derivative is zero everywhere. {_REMEDY}"
        )
