"""What a Lanczos run from a random start tells of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ._lanczos import Lanczos
from ._pseudoinverse import DECADE

__all__ = ["ProbedSpectrum"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbedSpectrum:
    """What a Lanczos run with a random start has seen.

    Attributes
    ----------
    values, errors, weights : ndarray of shape (n_steps,)
        Ritz values, the distance within which each has an eigenvalue, and its share of
        the start.
    is_certain : bool
        Whether more steps would show the same.
    """

    values: Array
    errors: Array
    weights: Array
    space: Lanczos
    rcond: float
    is_certain: bool = True

    @property
    def cutoff(self) -> float:
        return self.rcond * float(np.abs(self.values).max(initial=0.0))

    @cached_property
    def unresolved(self) -> NDArray[np.bool_]:
        """Ritz values whose eigenvalue may be zero or not, or near the cut-off."""
        least = np.abs(self.values) - self.errors
        most = np.abs(self.values) + self.errors
        return (least < DECADE * self.cutoff) & (most > self.cutoff / DECADE)

    @property
    def is_singular(self) -> bool:
        """Whether some eigenvalue is zero or negative."""
        null = np.abs(self.values) + self.errors <= self.cutoff / DECADE
        negative = self.values + self.errors < -DECADE * self.cutoff
        return bool(null.any() or negative.any())

    @property
    def _may_be_null(self) -> NDArray[np.bool_]:
        is_null = np.abs(self.values) + self.errors <= self.cutoff / DECADE
        return is_null | self.unresolved

    @property
    def n_null(self) -> int:
        """Ritz values that are zero, or may be."""
        return int(self._may_be_null.sum())

    @property
    def n_kept(self) -> int:
        """Ritz values that are not zero."""
        return len(self.values) - self.n_null

    @property
    def null_share(self) -> float:
        """Share of the start along eigenvalues that are zero, or may be."""
        return float(self.weights[self._may_be_null].sum())

    def weakest(self) -> tuple[float, Array]:
        kept = np.flatnonzero(np.abs(self.values) > self.cutoff)
        if not kept.size:
            return 0.0, np.zeros(self.space.basis.shape[1])
        least = kept[np.abs(self.values[kept]).argmin()]
        vector = self.space.ritz()[1][:, least] @ self.space.basis
        return float(abs(self.values[least])), vector
