"""Pieces of stored solution sets, from plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import ImplicitSubspace, Subspace
from ..objective import Objective

__all__ = ["restored_kernel", "restored_objective"]

Array = NDArray[np.float64]


def restored_kernel(
    prefix: str, arrays: dict[str, NDArray[Any]], i: int
) -> Subspace | ImplicitSubspace:
    """The i-th kernel; one that was known by its products is lost but for its size."""
    size = arrays.get(f"{prefix}kernel_dim/{i}")
    if size is None:
        is_complement = bool(arrays[f"{prefix}is_complement/{i}"])
        return Subspace(arrays[f"{prefix}kernel/{i}"], is_complement)

    n_params = arrays[prefix + "weights"].shape[1]
    return ImplicitSubspace(n_params, size.item, _refuse_projection)


def _refuse_projection(_: Array) -> Array:
    raise ValueError(
        "The kernel of this solution was known by products with H alone and is not in "
        "the file: distances and samples need the fitted estimator's own "
        "solution_set_, or a set that was fitted with solver='eigh' or 'dual'."
    )


def restored_objective(
    template: Objective, arrays: dict[str, NDArray[Any]], prefix: str, n_params: int
) -> Objective:
    """The template's net with the saved weights and buffers."""
    state = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    expected = {k: v.shape for k, v in template.state(template.weights).items()}
    if {name: array.shape for name, array in state.items()} != expected:
        raise ValueError(
            f"The saved solutions ({n_params} weights) belong to a net of another "
            f"architecture than the estimator's ({template.n_params} weights)."
        )
    return template.with_state(state)
