"""The files of CIFAR-10, in the Python and in the binary version."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_N_PIXELS = 3 * 32 * 32
_N_CLASSES = 10
_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")

# All that the original pickles ask for; NumPy has renamed its module since.
_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_cifar10(path: str | os.PathLike[str], subset: str) -> Batch:
    """Pixels (n, 3072) and labels (n,) of a subset, from the folder of its files."""
    folder, suffix = _locate(Path(path))
    read = _read_binary if suffix else _read_pickle
    files = [folder / f"{name}{suffix}" for name in _BATCHES[subset]]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            "The 'path' parameter of load_cifar10 must be a folder with all the files "
            f"{[file.name for file in files]} of the {subset} subset. Got {folder}, "
            f"without {missing}, instead. Unpack the archive again."
        )
    batches = [_check_labels(file, read(file)) for file in files]
    pixels, labels = zip(*batches, strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def _locate(path: Path) -> tuple[Path, str]:
    """Folder with the files, and their suffix: "" of pickles, or ".bin"."""
    names = [name for names in _BATCHES.values() for name in names]
    for folder in (path, *(path / name for name in _FOLDERS)):
        for suffix in ("", ".bin"):
            if any((folder / f"{name}{suffix}").is_file() for name in names):
                return folder, suffix
    found = "a folder without them" if path.is_dir() else "no folder"
    raise FileNotFoundError(
        "The 'path' parameter of load_cifar10 must be a folder with the files of "
        "CIFAR-10 ('data_batch_1' or 'data_batch_1.bin' and so on), or with one of "
        f"{_FOLDERS} in it. Got {path}, {found}, instead. Download and unpack one of "
        "the archives cifar-10-python.tar.gz and cifar-10-binary.tar.gz."
    )


def _read_binary(file: Path) -> Batch:
    """Records of one byte for the label and 3072 for the pixels."""
    content = np.fromfile(file, dtype=np.uint8)
    length = _N_PIXELS + 1
    if not content.size or content.size % length:
        raise _foreign(
            file, f"{content.size} bytes are not a whole number of {length}-byte images"
        )
    records = content.reshape(-1, length)
    return records[:, 1:], records[:, 0]


def _read_pickle(file: Path) -> Batch:
    """A pickled dictionary with ``data`` and ``labels``, as Python 2 wrote it."""
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream).load()
    # Bytes that are no pickle make the unpickler raise errors of almost any type.
    except Exception as error:
        raise _foreign(file, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise _foreign(file, f"it holds a {type(content).__name__}, not a dictionary")
    pixels, labels = _entry(file, content, "data"), _entry(file, content, "labels")
    return _check_pixels(file, pixels), _as_labels(file, labels, len(pixels))


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of arrays and builtin containers: it calls nothing else."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        """Object that a pickle may call; none but those that make an array."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no file of CIFAR-10 needs"
            ) from None


def _entry(file: Path, content: dict[Any, Any], key: str) -> Any:
    for name in (key.encode(), key):
        if name in content:
            return content[name]
    raise _foreign(file, f"it has no entry {key!r}")


def _check_pixels(file: Path, pixels: Any) -> NDArray[np.uint8]:
    wanted = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not wanted or pixels.ndim != 2 or pixels.shape[1] != _N_PIXELS:
        shape, dtype = np.shape(pixels), getattr(pixels, "dtype", type(pixels).__name__)
        raise _foreign(
            file,
            f"'data' must be of type uint8 and shape (n, {_N_PIXELS}), not of type "
            f"{dtype} and shape {shape}",
        )
    return pixels


def _as_labels(file: Path, labels: Any, n_rows: int) -> NDArray[np.uint8]:
    given = np.asarray(labels) if isinstance(labels, (list, np.ndarray)) else None
    if given is None or given.dtype.kind not in "iu" or given.shape != (n_rows,):
        raise _foreign(file, f"'labels' must hold {n_rows} integers, one per image")
    return given


def _check_labels(file: Path, batch: Batch) -> Batch:
    labels = batch[1]
    if labels.size and not 0 <= labels.min() <= labels.max() < _N_CLASSES:
        raise _foreign(
            file,
            f"its labels run from {labels.min()} to {labels.max()}, not within 0 to 9",
        )
    return batch


def _foreign(file: Path, reason: str) -> ValueError:
    return ValueError(
        "The 'path' parameter of load_cifar10 must be a folder with intact files of "
        f"CIFAR-10. Got {file} instead, which is none: {reason}. Unpack the archive "
        "again."
    )
