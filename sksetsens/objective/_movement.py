"""A direction in which the data of an objective moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Movement"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Movement:
    """A movement of inputs, real-valued targets, and weights of the rows.

    Attributes
    ----------
    dX : ndarray of the shape of X
    dy : ndarray of the shape of y or None
        None where targets stay.
    ds : ndarray of shape (n_targets,) or None
        None where weights stay.
    """

    dX: Any
    dy: Any = None
    ds: Any = None

    @property
    def largest(self) -> float:
        """Largest absolute entry of all."""
        parts = [part for part in (self.dX, self.dy, self.ds) if part is not None]
        return max(float(np.abs(part).max(initial=0.0)) for part in parts)
