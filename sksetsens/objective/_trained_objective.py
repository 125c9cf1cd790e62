"""Comparisons of the objective with what skorch trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import UnsupportedObjectiveError
from ._objective import Objective

__all__ = [
    "eval_mode",
    "moved_weights",
    "refuse_another_gradient",
    "refuse_dependence_on_batch_size",
]

# Both sides are float64 and differ by their kernels only, by about 1e-12 of the
# gradient; the floor is for one that is rounding itself (saturated outputs).
_RTOL = 1e-6
_ATOL = 1e-12
# Share of the weights' root mean square by which they move before the comparison: away
# from a start that is a solution already, where every gradient is zero.
_MOVE = 0.1


def refuse_another_gradient(net: Any, probe: Objective) -> None:
    """Compare with what skorch trains: get_loss and autograd on the net itself.

    They differ where get_loss reads weights that the objective cannot exchange, for
    example parameters kept in a list or another object since `initialize`.
    """
    w = moved_weights(probe.weights)
    operators = probe.operators.replaced()
    with _double_at(net, w), eval_mode(net.module_), torch.enable_grad(), operators:
        parameters = [p for p in net.module_.parameters() if p.requires_grad]
        loss = net.get_loss(net.infer(probe._x), probe._y, X=probe._x, training=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        ours = probe.gradient(w)
    data_term = [
        np.zeros(p.numel()) if g is None else g.to_dense().cpu().numpy().ravel()
        for p, g in zip(parameters, gradients, strict=True)
    ]
    theirs = np.concatenate(data_term) + probe.decay.cpu().numpy() * w
    gap, scale = (float(np.linalg.norm(v)) for v in (ours - theirs, theirs))
    if gap > _RTOL * scale + _ATOL:
        raise UnsupportedObjectiveError(
            "The gradient of the net's get_loss is not that of the objective as a "
            f"function of the module's parameters: they are {gap:.2g} apart at norm "
            f"{scale:.2g}. In get_loss, read the weights from "
            "self.module_.parameters() at each call."
        )


def moved_weights(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights at a random place nearby, where nothing is zero by chance."""
    scale = float(np.sqrt(np.mean(w**2))) or 1.0
    return w + _MOVE * scale * np.random.default_rng(0).standard_normal(w.shape)


@contextlib.contextmanager
def _double_at(net: Any, weights: NDArray[np.float64]) -> Iterator[None]:
    """The net itself in float64 at other weights; afterwards as it was.

    In place, because a copy of the module would no longer be what a list of its
    parameters refers to.
    """
    parts = [net.module_, net.criterion_]
    modules = [
        m for part in parts if isinstance(part, torch.nn.Module) for m in part.modules()
    ]
    parameters = [p for m in modules for p in m.parameters(recurse=False)]
    data = [p.data for p in parameters]
    buffers = [dict(m._buffers) for m in modules]
    trainable = [p for p in net.module_.parameters() if p.requires_grad]
    before = list(zip(parameters, data, strict=True))
    try:
        for p in parameters:
            p.data = _double(p.data)
        for m, own in zip(modules, buffers, strict=True):
            m._buffers.update(
                {k: b if b is None else _double(b) for k, b in own.items()}
            )
        pieces = np.split(weights, np.cumsum([p.numel() for p in trainable])[:-1])
        for p, piece in zip(trainable, pieces, strict=True):
            p.data = torch.as_tensor(piece, device=p.device).reshape(p.shape)
        for m in modules:
            # Rows of padding are constants.
            if isinstance(m, torch.nn.Embedding) and m.padding_idx is not None:
                rows = next(d for p, d in before if p is m.weight)
                m.weight.data[m.padding_idx] = rows[m.padding_idx].double()
        yield
    finally:
        for p, tensor in before:
            p.data = tensor
        for m, own in zip(modules, buffers, strict=True):
            m._buffers.update(own)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@contextlib.contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each layer's own mode again."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def refuse_dependence_on_batch_size(
    net: Any, X: NDArray[Any], y: NDArray[Any], probe: Objective
) -> None:
    """Refuse a criterion that adds rows up, beside a penalty, in small batches.

    Each batch then weighs the penalty against its own rows only: a net trained in
    batches of b minimises the objective with n / b times the penalty.
    """
    iterator = net.get_iterator(net.get_dataset(X, y), training=True)
    batch_size = getattr(iterator, "batch_size", None)
    if batch_size is None or batch_size >= len(X):
        return
    if not (probe.is_penalised(probe.weights) and _adds_up(probe, probe.weights)):
        return
    raise UnsupportedObjectiveError(
        f"The criterion {type(net.criterion_).__name__} adds up the rows of a batch "
        "and the weights are penalised, so that what batches of batch_size="
        f"{batch_size} train is not the objective on all {len(X)} rows. Pass "
        "batch_size=-1 (full batch), or criterion__reduction='mean'."
    )


def _adds_up(probe: Objective, w: NDArray[np.float64]) -> bool:
    """Whether doubling the rows leaves a row's output gradient; a mean halves it."""
    rows = probe._x.cpu().numpy()
    targets = probe._y.cpu().numpy()
    twice = probe.with_data(
        np.concatenate([rows, rows]), np.concatenate([targets, targets])
    )
    r = probe.output_gradient(w)
    gap = twice.output_gradient(w)[: len(r)] - r
    # Between the 0 of a sum and the 1/2 of a mean.
    return bool(np.linalg.norm(gap) < 0.25 * np.linalg.norm(r))
