"""Criteria in a form of which torch has all derivatives."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss


class _HuberLoss(torch.nn.HuberLoss):
    """``HuberLoss``, evaluated as delta times ``SmoothL1Loss(beta=delta)``.

    The two are equal (documentation of ``torch.nn.HuberLoss``), and torch has no
    forward derivative of the first.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss of the outputs against the targets, reduced as the user's."""
        value = smooth_l1_loss(input, target, reduction=self.reduction, beta=self.delta)
        return self.delta * value


def analysed_criterion(criterion: Any, dtype: torch.dtype) -> Any:
    """Copy of a criterion in eval mode and another dtype, equal in value.

    Parameters
    ----------
    criterion : callable
        skorch's ``criterion_``: a module, or a function.
    dtype : torch.dtype

    Returns
    -------
    criterion : callable
    """
    twin = copy.deepcopy(criterion)
    if type(twin) is torch.nn.HuberLoss:
        twin = _HuberLoss(reduction=twin.reduction, delta=twin.delta)
    if isinstance(twin, torch.nn.Module):
        twin = twin.to(dtype).eval()
    return twin
