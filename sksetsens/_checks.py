"""Checks of numbers and arrays given by users, with one error sentence."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

__all__ = [
    "check_choice",
    "check_count",
    "check_positive",
    "check_rows",
    "real_points",
    "selection",
]


def check_count(owner: str, name: str, value: Any, *, low: int) -> None:
    """Raise unless `value` is an integer of at least `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be an integer of at least {low}. "
            f"Got {value!r} instead."
        )


def check_positive(
    owner: str,
    name: str,
    value: Any,
    *,
    below: float = np.inf,
    up_to: float | None = None,
) -> None:
    """Raise unless `value` is a number strictly between 0 and `below`.

    With ``up_to`` the upper end belongs to the interval.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and 0 < float(value) < below and (up_to is None or value <= up_to):
        return
    wanted = "a positive number" if np.isinf(below) else f"a number in (0, {below})"
    if up_to is not None:
        wanted = f"a number in (0, {up_to}]"
    raise ValueError(
        f"The '{name}' parameter of {owner} must be {wanted}. Got {value!r} instead."
    )


def check_choice(owner: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the strings known."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be one of {known}. Got {value!r} "
            "instead."
        )


def real_points(name: str, value: Any) -> NDArray[np.float64]:
    """Points as float64; of a set, its solutions.

    Raises
    ------
    ValueError
        If these are no real numbers.
    """
    try:
        points = np.asarray(getattr(value, "weights", value))
        if points.dtype.kind == "c":
            raise TypeError("complex numbers")
        return points.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The {name!r} parameter must be a SolutionSet or an array of real "
            f"numbers. Got {value!r} instead."
        ) from error


def check_rows(
    X: ArrayLike, expected: tuple[int, ...], caller: str = "predict"
) -> NDArray[np.float64]:
    """X as finite float64 rows of the expected shape."""
    rows: NDArray[np.float64] = check_array(
        X, dtype=np.float64, allow_nd=True, input_name="X"
    )
    if rows.shape[1:] != expected:
        raise ValueError(
            f"The 'X' parameter of {caller} must have rows of shape {expected}, as in "
            f"training. Got {rows.shape[1:]} instead."
        )
    return rows


def selection(name: str, chosen: ArrayLike | None, size: int) -> NDArray[np.bool_]:
    """Mask of the chosen positions, given as integers, as a mask, or None for all.

    Raises
    ------
    ValueError
        If a position does not exist or none is chosen.
    """
    mask = np.zeros(size, dtype=bool)
    if chosen is None:
        return ~mask
    given: NDArray[Any] = np.atleast_1d(np.asarray(chosen))
    if given.dtype == bool and given.shape == (size,):
        mask = given.copy()
    elif given.dtype.kind in "iu" and given.ndim == 1 and _exist(given, size):
        mask[given] = True
    else:
        raise ValueError(
            f"The {name!r} parameter must hold integers from {-size} to {size - 1}, or "
            f"be a mask of shape ({size},). Got {chosen!r} instead."
        )
    if not mask.any():
        raise ValueError(f"The {name!r} parameter must choose at least one. Got none.")
    return mask


def _exist(positions: NDArray[Any], size: int) -> bool:
    return bool(np.all((-size <= positions) & (positions < size)))
