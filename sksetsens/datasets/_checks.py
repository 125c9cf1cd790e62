"""Checks of the generators' parameters, with one error sentence."""

from numbers import Integral, Real

import numpy as np


def check_count(owner, name, value, *, low):
    """Raise unless `value` is an integer of at least `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be an integer of at least {low}. "
            f"Got {value!r} instead."
        )


def check_positive(owner, name, value, *, below=np.inf):
    """Raise unless `value` is a number strictly between 0 and `below`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value < below:
        raise ValueError(
            f"The '{name}' parameter of {owner} must be a number in (0, {below}). "
            f"Got {value!r} instead."
        )
