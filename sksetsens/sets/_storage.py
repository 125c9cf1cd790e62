"""Files of plain arrays: NumPy's npz with a header, nothing that executes."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import ImplicitSubspace, Subspace
from ..objective import Objective

__all__ = ["read_arrays", "restored_kernel", "restored_objective", "write_arrays"]

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


_FORMAT = "sksetsens-solution-set-1"

# What NumPy raises for files of other kinds (a bare array has no members: TypeError).
_UNREADABLE = (
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_arrays(
    path: str | os.PathLike[str], kind: str, arrays: dict[str, NDArray[Any]]
) -> None:
    """Write named arrays and their kind to ``path``, as given."""
    header = np.array(json.dumps({"format": _FORMAT, "class": kind}))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, header=header, **arrays)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> tuple[str, dict[str, NDArray[Any]]]:
    """Kind and arrays of a file written by `write_arrays`.

    Raises
    ------
    ValueError
        If the file is of another kind or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise ValueError(f"{path} is no solution set of sksetsens.") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"{path} is no solution set of format {_FORMAT!r}.")
    return str(header.get("class")), arrays
