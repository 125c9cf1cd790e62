"""Where what a net trains on is not the objective that is analysed."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from .._compat import skeleton_net
from ..exceptions import StochasticObjectiveError
from ._decay import decay_mismatches
from ._isolation import global_states, isolated
from ._module_copy import copied
from ._net_building import net_inputs

__all__ = ["mismatches", "random_layers", "refuse_random_module"]

_PROBE_ROWS = 256


def mismatches(net: Any, X: NDArray[Any]) -> tuple[str, ...]:
    """What the objective leaves out or replaces, a phrase each.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    X : ndarray of shape (n_samples, ...)

    Returns
    -------
    phrases : tuple of str
        Such as "dropout is off (layer 1, p=0.5)".
    """
    found = list(decay_mismatches(net))
    if _draws(net, X):
        layers = random_layers(net.module_)
        told = f" ({', '.join(layers)})" if layers else ""
        found.insert(0, f"what is random in training is off{told}")
    return tuple(found)


def _draws(net: Any, X: NDArray[Any]) -> bool:
    """Whether a pass in train mode takes numbers from a generator, or of its own."""
    with isolated(seed=0):
        before = global_states()
        first = _outputs(net, X, train=True)
        return before != global_states() or not _agree(
            first, _outputs(net, X, train=True)
        )


def refuse_random_module(net: Any, X: NDArray[Any]) -> None:
    """Refuse outputs that differ between two passes in eval mode."""
    if not _agree(*(_outputs(net, X, train=False) for _ in range(2))):
        raise StochasticObjectiveError(
            "The module gives two different outputs for the same rows in eval mode, so "
            "that its objective is random and has no Hessian. Draw nothing in eval "
            "mode, for example functional.dropout(X, training=self.training)."
        )


def _outputs(net: Any, X: NDArray[Any], *, train: bool) -> Any:
    """Outputs of the first rows: a tensor, or a tuple of them."""
    module = copied(net.module_).train(train)
    # The criterion plays no part in the outputs.
    twin = skeleton_net(net, module, net.criterion_)
    with torch.no_grad():
        return twin.infer(net_inputs(net, X[:_PROBE_ROWS]))


def _agree(first: Any, second: Any) -> bool:
    # Two passes of the same kernel differ only by the order of atomic additions.
    if isinstance(first, torch.Tensor):
        return torch.allclose(first, second, rtol=1e-5, atol=1e-7, equal_nan=True)
    if isinstance(first, tuple | list):
        return all(map(_agree, first, second))
    return True


def random_layers(module: torch.nn.Module) -> list[str]:
    """Layers that draw in train mode, with their probabilities."""
    names = []
    for name, m in module.named_modules():
        # Attention and recurrent layers keep theirs as a number named dropout.
        own = "p" if "Dropout" in type(m).__name__ else "dropout"
        probability = getattr(m, own, None)
        if isinstance(probability, float | int) and probability > 0:
            names.append(
                f"{name or 'module'} ({type(m).__name__}, {own}={probability})"
            )
        elif isinstance(m, torch.nn.RReLU):
            names.append(f"{name or 'module'} (RReLU)")
    return names
