r"""A net's criterion with weights of the rows.

With row losses :math:`l_i` and weights :math:`s_i` the data term is
:math:`\sum_i s_i l_i / \sum_i s_i`: a weight of 0 is a row that is not there, one of 2
a row that is there twice. Class weights :math:`c` multiply :math:`s` in both sums, as
in torch's own means. What else ``get_loss`` adds is left as it is.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

__all__ = [
    "is_taken_apart",
    "mean_weight",
    "row_shares",
    "unreduced_net",
    "weighted_net",
]

_OWN = ("torch.nn.", "sksetsens.")
_BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)


def is_taken_apart(criterion: Any) -> bool:
    """Whether torch gives a criterion's losses row by row: ``reduction="none"``."""
    known = isinstance(criterion, nn.modules.loss._Loss)
    return known and type(criterion).__module__.startswith(_OWN)


def weighted_net(net: Any, twin: Any, weights: Tensor, whole: Any = None) -> Any:
    """The twin of a skorch net, given a criterion that weighs the rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        Whose criterion it is.
    twin : skorch.NeuralNet
        A copy of the net's shell, which gets the criterion.
    weights : Tensor of shape (n_rows,)
        Of the rows that the criterion will see.
    whole : float, default=None
        `mean_weight` of all data, where the criterion sees a part of it. None where it
        sees all.

    Returns
    -------
    twin : skorch.NeuralNet
    """
    criterion = net.criterion_
    value = partial(_weighted, criterion, weights, whole)
    return _with_criterion(criterion, twin, value)


def unreduced_net(net: Any, twin: Any, *, zeros: bool = False) -> Any:
    """The twin of a skorch net, whose criterion gives each row's own loss.

    Shape (n_rows,): what the criterion is of that row alone. Zeros where they are
    asked for: what ``get_loss`` adds is then left.
    """
    criterion = net.criterion_

    def value(*given: Any) -> Tensor:
        total, shares = _rows_apart(criterion, *given)
        if zeros:
            return 0.0 * total
        if shares is None:
            return total
        # Rows that the criterion leaves out have no loss.
        return torch.where(shares > 0.0, total / shares.clamp(min=1e-300), 0.0 * total)

    return _with_criterion(criterion, twin, value)


def _with_criterion(criterion: Any, twin: Any, value: Any) -> Any:
    """The twin, given a criterion of the same class and another value.

    skorch looks whether it is an NLLLoss.
    """
    other = value
    if isinstance(criterion, nn.Module):
        other = copy.copy(criterion)
        other.forward = value
    twin.__dict__.update(criterion_=other)
    return twin


def _weighted(
    criterion: Any, weights: Tensor, whole: float | None, *given: Any
) -> Tensor:
    losses, shares = _rows_apart(criterion, *given)
    total = (weights * losses).sum()
    if shares is None:
        return total
    if whole is None:
        return total / (weights * shares).sum()
    return total / (whole * shares.sum())


def _rows_apart(criterion: Any, *given: Any) -> tuple[Tensor, Tensor | None]:
    """Sum of each row's losses, and what a mean divides it by; None for a sum.

    Of what the criterion is given: outputs, perhaps several, targets, and what else.
    """
    losses = _row_losses(criterion, *given)
    y = given[1]
    total = losses.reshape(len(y), -1).sum(dim=1)
    reduction = getattr(criterion, "reduction", "mean")
    if reduction == "sum":
        return total, None
    shares = row_shares(criterion, y).to(total)
    if reduction == "mean" and not _counts_classes(criterion, y):
        # The numbers that a row's losses are.
        shares = shares * math.prod(losses.shape[1:])
    return total, shares


def _row_losses(criterion: Any, *given: Any) -> Tensor:
    """Losses of shape (n_rows, ...)."""
    if is_taken_apart(criterion):
        each = copy.copy(criterion)
        each.reduction = "none"
        losses: Tensor = type(criterion).forward(each, *given)
        return losses

    def alone(*row: Any) -> Any:
        return criterion(*map(_as_batch, row))

    return vmap(alone)(*given)


def _as_batch(part: Any) -> Any:
    """A row's outputs, one tensor or several, as those of a batch of it alone."""
    if isinstance(part, tuple | list):
        return type(part)(map(_as_batch, part))
    return part[None] if isinstance(part, Tensor) else part


def _counts_classes(criterion: Any, y: Tensor) -> bool:
    """Whether its mean divides by class weights, and leaves rows out."""
    by_class = isinstance(criterion, _BY_CLASS) and is_taken_apart(criterion)
    return by_class and not y.is_floating_point()


def row_shares(criterion: Any, y: Tensor) -> Tensor:
    """What each row counts in the mean of a criterion, shape (n_rows,)."""
    if not _counts_classes(criterion, y):
        return torch.ones(len(y), dtype=torch.float64, device=y.device)
    counted = (y != criterion.ignore_index).to(torch.float64)
    if criterion.weight is not None:
        counted = counted * criterion.weight.to(counted)[y.clamp(min=0)]
    return counted.reshape(len(y), -1).sum(dim=1)


def mean_weight(criterion: Any, weights: Tensor, y: Tensor) -> float:
    """Mean of the rows' weights as the criterion counts rows; 1 for one that adds."""
    if getattr(criterion, "reduction", "mean") == "sum":
        return 1.0
    shares = row_shares(criterion, y)
    return float((weights.to(shares) * shares).sum() / shares.sum())
