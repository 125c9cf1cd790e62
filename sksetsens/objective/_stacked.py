"""All restarts trained at once: stacked parameters, one optimiser, one process.

A small net spends its time in Python and in operators' overhead, which a stack of nets
pays once. Each restart starts from its own weights and sees its batches in the order in
which skorch would draw them, so that the stack follows the separate trainings up to
the rounding of batched kernels.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from torch.func import vmap

from .._compat import skeleton_net
from ._isolation import isolated
from ._mismatch import random_layers
from ._net_building import bare_net
from ._net_function import NetFunction
from ._row_weights import mean_weight

__all__ = ["Trained", "train_together", "why_not_together"]

# Optimisers whose steps treat each number by itself.
_ELEMENTWISE = {
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
}
# Those of which torch has one kernel per step on a CPU, and arguments that choose
# between implementations.
_FUSED = {torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad}
_IMPLEMENTATIONS = {"fused", "foreach", "capturable", "differentiable"}
# Methods of skorch that make up its training loop: overridden, they may do anything.
_LOOP = (
    "fit_loop",
    "partial_fit",
    "run_single_epoch",
    "train_step",
    "train_step_single",
    "on_batch_begin",
    "on_batch_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_begin",
    "on_train_end",
    "on_grad_computed",
)


@dataclass(frozen=True)
class Trained:
    """What one restart's training made: weights before and after, the history."""

    start: dict[str, NDArray[Any]]
    state: dict[str, NDArray[Any]]
    history: list[dict[str, Any]]
    seconds: float


def why_not_together(net: Any) -> str:
    """Why the restarts of a net cannot be trained as a stack; "" where they can.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.

    Returns
    -------
    reason : str
    """
    if net.train_split is not None:
        return "the net holds rows out"
    if net.callbacks not in (None, [], "disable"):
        return "the net has callbacks"
    changed = [n for n in _LOOP if getattr(type(net), n) is not getattr(_base(net), n)]
    if changed:
        return f"the net overrides {changed[0]}"
    if net.optimizer not in _ELEMENTWISE:
        return f"{getattr(net.optimizer, '__name__', net.optimizer)} is not elementwise"
    if random_layers(net.module_):
        return "the module is random in training"
    if any("param_groups" in name for name in net.get_params(deep=False)):
        return "the optimizer has parameter groups"
    modules = list(net.module_.modules())
    if any(getattr(m, "track_running_stats", False) for m in modules):
        return "the module has batch statistics"
    criterion = net.criterion_
    if isinstance(criterion, torch.nn.Module) and any(
        True for _ in criterion.parameters()
    ):
        return "the criterion has parameters"
    return ""


def _base(net: Any) -> type:
    """The class that a net is of whose loop is known: skorch's, or one of ours."""
    known = ("skorch.", "sksetsens.networks")
    own = [c for c in type(net).__mro__ if c.__module__.startswith(known)]
    return own[0] if own else NeuralNet


class _Indices(torch.utils.data.Dataset):
    """Numbers of the rows: what a net's iterator draws in their place."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, i: int) -> int:
        return i

    def __getitems__(self, rows: list[int]) -> list[int]:
        return rows


def train_together(
    estimator: Any,
    params: dict[str, Any],
    X: NDArray[Any],
    y: NDArray[Any],
    seeds: Sequence[int],
    sample_weight: NDArray[Any] | None = None,
) -> list[Trained]:
    """Train one restart per seed, all in one stack.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Unfitted, of a kind that `why_not_together` allows.
    params : dict
        Set on its clones.
    X, y : ndarray
        Data in the net's dtype.
    seeds : sequence of int
    sample_weight : ndarray of shape (n_samples,), default=None

    Returns
    -------
    trained : list of Trained
        In the order of the seeds.

    Raises
    ------
    RuntimeError
        If an operator cannot be stacked.
    """
    began = time.perf_counter()
    nets: list[Any] = []
    orders: list[_Order] = []
    for seed in seeds:
        # Without shuffling, one order is everybody's.
        known = orders[0] if orders and orders[0].is_sequential else None
        net, order = _draw(estimator, params, len(X), seed, known)
        nets.append(net)
        orders.append(order)
    starts = [_state(net.module_) for net in nets]
    stacks = _stacked([dict(net.module_.named_parameters()) for net in nets])
    histories = _train(nets[0], stacks, orders, X, y, sample_weight)
    share = (time.perf_counter() - began) / len(seeds)
    return [
        Trained(start, {**start, **_piece(stacks, i)}, history, share)
        for i, (start, history) in enumerate(zip(starts, histories, strict=True))
    ]


def _stacked(
    parameters: list[dict[str, torch.nn.Parameter]],
) -> dict[str, torch.Tensor]:
    """What is trained, by name: one stack over the restarts each."""
    names = [name for name, p in parameters[0].items() if p.requires_grad]
    return {
        name: torch.nn.Parameter(
            torch.stack([own[name].detach() for own in parameters])
        )
        for name in names
    }


def _train(
    net: Any,
    stacks: dict[str, torch.Tensor],
    orders: list[_Order],
    X: NDArray[Any],
    y: NDArray[Any],
    sample_weight: NDArray[Any] | None,
) -> list[list[dict[str, Any]]]:
    """Train the stacks in place; a history per restart."""
    core = NetFunction(skeleton_net(net, net.module_.train(), net.criterion_))
    weights = {f"module.{name}": stack for name, stack in stacks.items()}
    _, kwargs = net.get_params_for_optimizer("optimizer", list(weights.items()))
    on_cpu = torch.device(net.device).type == "cpu"
    if on_cpu and net.optimizer in _FUSED and not _IMPLEMENTATIONS & kwargs.keys():
        kwargs["fused"] = True
    optimizer = net.optimizer(list(weights.values()), **kwargs)
    inputs = torch.as_tensor(X, device=net.device)
    targets = torch.as_tensor(y, device=net.device)

    by_row = torch.ones(len(X)) if sample_weight is None else sample_weight
    by_row = torch.as_tensor(by_row)
    shares = (by_row / mean_weight(net.criterion_, by_row, targets.cpu())).to(inputs)

    def loss(weights: dict[str, torch.Tensor], x: Any, t: Any, s: Any) -> Any:
        if sample_weight is None:
            return core.called_with(weights, "value", x, t)
        return core.called_with(weights, "value", x, t, sample_weight=s, whole=1.0)

    # An order that all have in common needs no copy of the rows per restart.
    common = orders[0].is_sequential
    together = vmap(loss, in_dims=(0, None, None, None) if common else 0)
    histories: list[list[dict[str, Any]]] = [[] for _ in orders]
    for epoch in range(net.max_epochs):
        began = time.perf_counter()
        losses, sizes = [], []
        batches = [order.epochs[epoch] for order in orders[: 1 if common else None]]
        for batch in zip(*batches, strict=True):
            rows = batch[0] if common else torch.stack(batch)
            rows = rows.to(inputs.device)
            optimizer.zero_grad(set_to_none=True)
            values = together(weights, inputs[rows], targets[rows], shares[rows])
            values.sum().backward()
            optimizer.step()
            losses.append(values.detach())
            sizes.append(rows.shape[-1])
        seconds = (time.perf_counter() - began) / len(orders)
        columns = torch.stack(losses).cpu().numpy().T
        for history, column in zip(histories, columns, strict=True):
            history.append(_epoch(epoch, column, sizes, seconds))
    return histories


@dataclass(frozen=True)
class _Order:
    """Rows per epoch and batch."""

    epochs: list[list[torch.Tensor]]
    is_sequential: bool


def _draw(
    estimator: Any, params: dict[str, Any], n_rows: int, seed: int, known: _Order | None
) -> tuple[Any, _Order]:
    """A restart's initial net, and the rows that it sees, as skorch draws them."""
    with isolated(seed):
        net = bare_net(estimator, params).initialize()
        if known is not None:
            return net, known
        iterator = net.get_iterator(_Indices(n_rows), training=True)
        epochs = [_epoch_of(iterator, n_rows) for _ in range(net.max_epochs)]
    sampler = getattr(iterator, "sampler", None)
    return net, _Order(epochs, type(sampler) is torch.utils.data.SequentialSampler)


def _epoch_of(iterator: Any, n_rows: int) -> list[torch.Tensor]:
    """The batches of one epoch, in torch's own order of drawing.

    A plain loader draws the order of all rows when the epoch begins, whatever the size
    of its batches: all rows at once cost a tenth of many batches, and a permutation a
    tenth of that.
    """
    sampler: Any = getattr(iterator, "batch_sampler", None)
    plain = (torch.utils.data.DataLoader, torch.utils.data.BatchSampler)
    if (type(iterator), type(sampler)) != plain or iterator.num_workers:
        iterator.collate_fn = torch.as_tensor
        return list(iterator)
    if _is_shuffle(iterator, n_rows) and _draws_like_torch():
        whole = [_shuffled(n_rows)]
    else:
        whole = list(_all_at_once(iterator, n_rows))
    batches = [b for rows in whole for b in torch.split(rows, sampler.batch_size)]
    uneven = sampler.drop_last and len(batches[-1]) < sampler.batch_size
    return batches[:-1] if uneven else batches


def _all_at_once(iterator: Any, n_rows: int) -> torch.utils.data.DataLoader:
    """The same loader with one batch."""
    return torch.utils.data.DataLoader(
        iterator.dataset,
        batch_size=n_rows,
        sampler=iterator.sampler,
        collate_fn=torch.as_tensor,
        generator=iterator.generator,
    )


def _is_shuffle(iterator: Any, n_rows: int) -> bool:
    """Whether an epoch is a permutation drawn from torch's global generator."""
    sampler = iterator.sampler
    return (
        type(sampler) is torch.utils.data.RandomSampler
        and not sampler.replacement
        and sampler.num_samples == n_rows
        and sampler.generator is None
        and iterator.generator is None
    )


def _shuffled(n_rows: int) -> torch.Tensor:
    """A shuffled epoch, without the loader and its lists of numbers."""
    _, seed = (int(torch.empty((), dtype=torch.int64).random_()) for _ in range(2))
    return torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(maxsize=1)
def _draws_like_torch() -> bool:
    """Whether `_shuffled` is what a loader of this version of torch draws, twice."""
    loader = torch.utils.data.DataLoader(_Indices(9), shuffle=True)
    with isolated(seed=0):
        expected = [list(_all_at_once(loader, 9))[0] for _ in range(2)]
    with isolated(seed=0):
        found = [_shuffled(9) for _ in range(2)]
    return all(map(torch.equal, expected, found))


def _state(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers as arrays, those outside ``state_dict`` included."""
    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: t.detach().cpu().numpy().copy() for name, t in tensors.items()}


def _piece(stacks: dict[str, torch.Tensor], i: int) -> dict[str, NDArray[Any]]:
    """Restart i's slice of each stack."""
    return {k: stack[i].detach().cpu().numpy().copy() for k, stack in stacks.items()}


def _epoch(
    epoch: int, losses: NDArray[Any], sizes: list[int], seconds: float
) -> dict[str, Any]:
    """One epoch in the manner of skorch's history."""
    batches = [
        {"train_loss": float(value), "train_batch_size": size}
        for value, size in zip(losses, sizes, strict=True)
    ]
    return {
        "batches": batches,
        "epoch": epoch + 1,
        "dur": seconds,
        "train_loss": float(np.average(losses, weights=sizes)),
        "train_batch_count": len(sizes),
    }
