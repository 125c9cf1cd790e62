"""The share of each column of B that lies outside range H: one definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["range_residuals"]

Array = NDArray[np.float64]

# Columns ten decades below the largest are rounding.
_ROUNDING = 1e-10


def range_residuals(outside: Array, norms: Array) -> Array:
    """``|P_ker b| / |b|`` of each column b, 0 where b is rounding of the largest.

    Parameters
    ----------
    outside : ndarray
        ``|P_ker b|``, Euclidean.
    norms : ndarray of the same shape
        ``|b|``, Euclidean.

    Returns
    -------
    residuals : ndarray of the same shape
        Between 0 and 1.
    """
    real = norms > _ROUNDING * norms.max(initial=0.0)
    return np.divide(outside, norms, out=np.zeros_like(norms), where=real)
