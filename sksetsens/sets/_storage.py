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

__all__ = ["read_arrays", "write_arrays"]

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
