"""Inputs of several arrays, or of codes, as one flat array of real numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["InputLayout"]

# What float32 holds of integers: nets train on flat rows in their own dtype.
_LARGEST_CODE = 2**24


@dataclass(frozen=True)
class InputLayout:
    """Where the arrays that a net takes lie in the columns of a flat X.

    Attributes
    ----------
    names : tuple of str
        Keys of a dict; empty for one array of codes.
    shapes : tuple of tuple of int
        Of one row of each array.
    dtypes: tuple of str
        Of integer and boolean arrays (tokens, categories, masks): inputs without a
        derivative, which reach the net as they are. "" for real numbers.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of_codes(cls, X: Any, dtype: str) -> Self:
        """The layout of one array of codes in a dtype."""
        return cls((), (np.shape(X)[1:],), (dtype,))

    @classmethod
    def of(cls, X: Mapping[Any, Any]) -> Self:
        """The layout of a dict of arrays.

        Raises
        ------
        ValueError
            If there is no array, or they hold something else than numbers, or
            different numbers of rows.
        """
        arrays = {str(name): np.asarray(X[name]) for name in sorted(X, key=str)}
        if not arrays:
            raise _refusal("hold an array", "an empty dict")
        for name, part in arrays.items():
            if part.dtype.kind not in "biuf" or part.ndim < 1:
                raise _refusal(
                    "hold arrays of numbers, rows first",
                    f"dtype {part.dtype} and shape {part.shape} in {name!r}: encode "
                    "text and categories as integers",
                )
        counts = {name: len(part) for name, part in arrays.items()}
        if len(set(counts.values())) > 1:
            raise _refusal("hold arrays of equally many rows", str(counts))
        return cls(
            tuple(arrays),
            tuple(part.shape[1:] for part in arrays.values()),
            tuple(
                part.dtype.name if part.dtype.kind in "biu" else ""
                for part in arrays.values()
            ),
        )

    def __str__(self) -> str:
        kinds = [dtype or "real numbers" for dtype in self.dtypes]
        rows = [f"{k} of shape {s}" for k, s in zip(kinds, self.shapes, strict=True)]
        if not self.names:
            return rows[0]
        return ", ".join(f"{n!r}: {r}" for n, r in zip(self.names, rows, strict=True))

    @property
    def slices(self) -> list[slice]:
        """Columns of each array."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        starts = [0, *ends[:-1]]
        return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """Which columns are real numbers, along which there are derivatives."""
        sizes = [math.prod(shape) for shape in self.shapes]
        return np.repeat([not dtype for dtype in self.dtypes], sizes)

    def pack(self, X: Any, name: str = "X") -> NDArray[np.float64]:
        """Rows of all arrays side by side, (n_rows, n_columns).

        Flat rows stay what they are.

        Raises
        ------
        ValueError
            If an array is missing or unknown, has another row shape, is not finite, or
            codes are no integers.
        """
        given = X
        n_columns = self.slices[-1].stop
        if isinstance(X, np.ndarray) and X.shape[1:] == (n_columns,) and self.names:
            return np.array(X, dtype=np.float64)
        if not self.names:
            given = {"": X}
        elif not isinstance(X, Mapping):
            raise _refusal(
                f"be a dict with the keys {list(self.names)}, as in training",
                type(X).__name__,
                name,
            )
        keys = self.names or ("",)
        if set(keys) != set(map(str, given)):
            raise _refusal(f"have the keys {list(keys)}", str(list(given)), name)
        parts = []
        triples = zip(keys, self.shapes, self.dtypes, strict=True)
        for key, shape, dtype in triples:
            told = f"{name}[{key!r}]" if key else name
            parts.append(_column_block(told, given[key], shape, bool(dtype)))
        if len({len(part) for part in parts}) > 1:
            counts = {k: len(p) for k, p in zip(keys, parts, strict=True)}
            raise _refusal("hold arrays of equally many rows", str(counts), name)
        return np.concatenate(parts, axis=1)

    def unpack(self, flat: Any) -> Any:
        """The arrays of flat rows: tensors of tensors, NumPy's of NumPy's."""
        parts = []
        for columns, shape, dtype in zip(
            self.slices, self.shapes, self.dtypes, strict=True
        ):
            part = flat[:, columns].reshape(len(flat), *shape)
            parts.append(_whole(part, dtype) if dtype else part)
        return dict(zip(self.names, parts, strict=True)) if self.names else parts[0]


def _whole(part: Any, dtype: str) -> Any:
    if isinstance(part, torch.Tensor):
        return part.detach().round().to(getattr(torch, dtype))
    return np.round(part).astype(dtype)


def _column_block(
    name: str, given: Any, shape: tuple[int, ...], is_code: bool
) -> NDArray[np.float64]:
    part = np.asarray(given)
    if part.shape[1:] != shape or part.ndim < 1:
        raise _refusal(
            f"have rows of shape {shape}", f"{part.shape[1:]} in {name}", name
        )
    try:
        numbers = part.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise _refusal("hold numbers", f"dtype {part.dtype} ({error})", name) from error
    if not np.isfinite(numbers).all():
        raise _refusal("be finite", "NaN or infinite entries", name)
    if is_code and (numbers != np.round(numbers)).any():
        raise _refusal("hold integer codes, as in training", str(part.dtype), name)
    if is_code and np.abs(numbers).max(initial=0.0) > _LARGEST_CODE:
        raise _refusal(
            f"hold codes up to {_LARGEST_CODE}", str(int(np.abs(numbers).max())), name
        )
    return numbers.reshape(len(part), math.prod(shape))


def _refusal(wanted: str, got: str, name: str = "X") -> ValueError:
    return ValueError(f"The {name!r} parameter must {wanted}. Got {got} instead.")
