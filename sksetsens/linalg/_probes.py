"""Random probes, drawn from one seed that test data is unlikely to be drawn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["probe", "probe_generator"]

# Data is often drawn from seed 0: a probe from it would be the data itself, and see
# only the direction in which the data is scaled.
_SEED = 0x5E75E45


def probe_generator(stream: int = 0) -> np.random.Generator:
    """Generator of probes; checks that must not share a direction take other streams.

    Parameters
    ----------
    stream : int, default=0

    Returns
    -------
    rng : numpy.random.Generator
    """
    return np.random.default_rng([_SEED, stream] if stream else _SEED)


def probe(*shape: int, stream: int = 0) -> NDArray[np.float64]:
    """Draw a standard normal array, the same at each call.

    Parameters
    ----------
    *shape : int
    stream : int, default=0
        As in `probe_generator`.

    Returns
    -------
    values : ndarray of that shape
    """
    return probe_generator(stream).standard_normal(shape)
