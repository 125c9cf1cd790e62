"""Checks of the generators' parameters, with one error sentence."""

from numbers import Integral, Real
from typing import Any

import numpy as np


def check_count(owner: str, name: str, value: Any, *, low: int) -> None:
    """Raise unless `value` is an integer of at least `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be an integer of at least {low}. "
            f"Got {value!r} instead."
        )


def check_positive(owner: str, name: str, value: Any, *, below: float = np.inf) -> None:
    """Raise unless `value` is a number strictly between 0 and `below`."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < below:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be a number in (0, {below}). "
            f"Got {value!r} instead."
        )
