"""Weight decay of the optimiser as a term of the objective."""

from __future__ import annotations

from typing import Any

import torch

from ..exceptions import UnsupportedObjectiveError

# Optimisers whose ``weight_decay`` adds lambda * w to the gradient, which makes it
# the quadratic penalty (lambda / 2) |w|^2 of the objective.
_COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)


def weight_decay(net: Any) -> dict[str, float]:
    """Penalty coefficient of each parameter of the module that the optimiser holds.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised net.

    Returns
    -------
    decay : dict of str to float
        lambda of the term (lambda / 2) |w|^2, by the parameter's name. Frozen
        parameters are among them: a callback may unfreeze them later. Of an optimiser
        that decays in another way, the penalty with its coefficient
        (`decay_mismatches`).

    Raises
    ------
    UnsupportedObjectiveError
        If the optimiser maximises, or leaves trainable parameters out; if there are
        none.
    """
    optimizer = net.optimizer_
    by_parameter: dict[int, float] = {}
    for group in optimizer.param_groups:
        decay = float(group.get("weight_decay", 0.0) or 0.0)
        if group.get("maximize"):
            raise UnsupportedObjectiveError(
                f"The optimizer {type(optimizer).__name__} has maximize=True. Negate "
                "the criterion instead: a solution is a minimiser of the objective."
            )
        if isinstance(optimizer, torch.optim.ASGD):
            # ASGD shrinks w by lr * lambd besides: a decay of its own, 1e-4 by default.
            decay += float(group["lambd"])
        by_parameter.update((id(p), decay) for p in group["params"])
    trainable = [(n, p) for n, p in net.module_.named_parameters() if p.requires_grad]
    if not trainable:
        raise UnsupportedObjectiveError(
            f"The module {type(net.module_).__name__} has no trainable parameters: "
            "there are no weights w whose sensitivity could be asked for."
        )
    missing = [n for n, p in trainable if id(p) not in by_parameter]
    if missing:
        raise UnsupportedObjectiveError(
            f"The optimizer of the net does not train the parameters {missing}. "
            "Freeze them with requires_grad_(False), or hand them to the optimizer."
        )
    named = net.module_.named_parameters()
    return {n: by_parameter[id(p)] for n, p in named if id(p) in by_parameter}


def decay_mismatches(net: Any) -> list[str]:
    """Where the optimiser's decay is not the gradient of the objective's penalty."""
    optimizer, found = net.optimizer_, []
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        decay = float(group.get("weight_decay", 0.0) or 0.0)
        if decay and _is_decoupled(optimizer, group):
            how = "decoupled, the gradient of no objective"
        elif decay and not isinstance(optimizer, _COUPLED):
            how = "applied in a way that is not known here"
        else:
            continue
        found.append(
            f"the weight_decay={decay!r} of {name}, {how}, is the penalty "
            f"{decay / 2:g} |w|^2"
        )
    return list(dict.fromkeys(found))


def _is_decoupled(optimizer: Any, group: dict[str, Any]) -> bool:
    decoupled = group.get("decoupled_weight_decay", False)
    return bool(decoupled) or isinstance(optimizer, torch.optim.AdamW)
