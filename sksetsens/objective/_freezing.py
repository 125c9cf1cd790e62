"""Which parameters a net's callbacks will have frozen when its training ends."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Freezer, Unfreezer

from ._isolation import isolated


def rehearse_freezing(net: Any) -> None:
    """Freeze and unfreeze parameters as skorch's callbacks will by the last epoch.

    What is admitted and measured before any training then is the problem that will be
    trained. Other callbacks may do anything and are not called: what they freeze is
    seen after the training.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised, for examination only: its ``requires_grad`` are set.
    """
    mappers = [c for _, c in net.callbacks_ if isinstance(c, Freezer | Unfreezer)]
    if not mappers:
        return
    kept = [p.requires_grad for p in net.module_.parameters()]
    with isolated(seed=0):
        try:
            for _ in range(net.max_epochs):
                net.history.new_epoch()
                for mapper in mappers:
                    mapper.on_epoch_begin(net)
        except Exception:
            # A schedule that reads losses: what it decides shows after the training.
            _restore(net.module_, kept)
    net.history.clear()


def _restore(module: torch.nn.Module, kept: list[bool]) -> None:
    for parameter, trained in zip(module.parameters(), kept, strict=True):
        parameter.requires_grad_(trained)
