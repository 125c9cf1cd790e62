"""The share of a vector that lies outside range H: one definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._pseudoinverse import PseudoInverse

__all__ = ["outside_range", "range_residuals"]

Array = NDArray[np.float64]

# Columns ten decades below the largest are rounding.
_ROUNDING = 1e-10


def outside_range(factor: PseudoInverse, b: Array) -> tuple[Array, Array]:
    """``|P S b|`` and ``|S b|`` with the projector P on the kernel of ``S H S``.

    b lies in range H where S b lies in range ``S H S``; in these units no entry of b is
    hidden by another one that belongs to a larger column of data.

    Parameters
    ----------
    factor : PseudoInverse
        Of H.
    b : ndarray of shape (..., p)

    Returns
    -------
    outside, norms : ndarray of shape (...)
        Euclidean.
    """
    scaled = b * factor.scales
    outside = factor.scaled.kernel.project(scaled)
    return np.linalg.norm(outside, axis=-1), np.linalg.norm(scaled, axis=-1)


def range_residuals(outside: Array, norms: Array) -> Array:
    """``|P_ker b| / |b|`` of each column b of B.

    Parameters
    ----------
    outside : ndarray
        ``|P_ker b|``, Euclidean.
    norms : ndarray of the same shape
        ``|b|``, Euclidean.

    Returns
    -------
    residuals : ndarray of the same shape
        Between 0 and 1; 0 where b is rounding of the largest, inf where it is not
        finite.
    """
    finite = np.isfinite(norms)
    real = norms > _ROUNDING * norms.max(initial=0.0, where=finite)
    shares = np.divide(outside, norms, out=np.zeros_like(norms), where=real & finite)
    return np.where(finite, shares, np.inf)
