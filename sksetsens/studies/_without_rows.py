r"""What is left of H without single rows, inverted.

By Woodbury's formula: with J and :math:`\Lambda` of a row and :math:`P = H^+`,

.. math:: M^{-1} b = P b + P J' \Lambda (I - J P J' \Lambda)^{-1} J P b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALONE", "WithoutRows"]

Array = NDArray[np.float64]

# Leverages above 1 less this are 1: nothing but the row holds that direction.
ALONE = 1e-8


@dataclass(frozen=True)
class WithoutRows:
    """``M_i^{-1}`` for some rows i, one each.

    Attributes
    ----------
    J, U : ndarray of shape (k, n_outputs, r)
        The rows' Jacobians and ``P J'``, in the coordinates of V where it is there.
    curvature : ndarray of shape (k, n_outputs, n_outputs)
    V, d : ndarray of shape (p, r), (r,)
        ``P = V diag(1 / d) V'``.
    applied : callable
        P in place of V.
    """

    J: Array
    U: Array
    curvature: Array
    V: Any = None
    d: Any = None
    applied: Any = None

    @cached_property
    def _inner(self) -> tuple[Array, NDArray[np.bool_]]:
        """``Lambda (I - J P J' Lambda)^{-1}``, and the rows where it is singular."""
        left = self.J @ self.U.transpose(0, 2, 1) @ self.curvature
        gap = np.eye(left.shape[1]) - left
        alone = np.abs(np.linalg.eigvals(gap)).min(axis=1) < ALONE
        gap[alone] = np.eye(left.shape[1])
        return self.curvature @ np.linalg.inv(gap), alone

    @property
    def alone(self) -> NDArray[np.bool_]:
        """Rows without which M is singular."""
        return self._inner[1]

    def __call__(self, b: Array, leaving: Any = None) -> Array:
        """For each row its vector of b, (k, p); NaN where M_i is singular."""
        inner, alone = self._inner
        if self.V is not None:
            Pb = (b @ self.V) / self.d
        elif leaving is None:
            Pb = self.applied(b)
        else:
            Pb = self.applied(b, leaving)
        more = inner @ (self.J @ Pb[..., None])
        found: Array = Pb + (self.U.transpose(0, 2, 1) @ more)[..., 0]
        found = found if self.V is None else found @ self.V.T
        found[alone] = np.nan
        return found
