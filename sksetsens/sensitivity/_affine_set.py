"""What a graphical derivative gives for one perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..linalg import PseudoInverse, Reason, Subspace

__all__ = ["AffineSet"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AffineSet:
    """The set ``{v : H v + B dx = 0}``: empty, or ``shift + ker H``.

    Attributes
    ----------
    shift : ndarray of shape (n_params,)
        Shortest element ``v0 = -H^+ B dx``; NaN where the set is empty.

    factor : PseudoInverse
        Of H.

    residual : float
        ``|H v0 + B dx| / |B dx|``, Euclidean; 0 for ``B dx = 0``.

    is_empty : bool
        Whether ``B dx`` leaves range H.

    cutoff_change : float
        Relative change of the shift within one decade of rcond.

    status : str
        One sentence.

    reason : Reason
        Which one.

    n_iter : int
        Products of an iterative solve; 0 for a factorisation.

    converged : bool
        Whether an iterative solve met its tolerance.
    """

    shift: Array
    factor: PseudoInverse
    residual: float
    is_empty: bool
    cutoff_change: float
    status: str
    reason: Reason
    n_iter: int = 0
    converged: bool = True

    @property
    def kernel(self) -> Subspace:
        """ker H; ``kernel.project`` is the orthogonal projector on it."""
        return self.factor.kernel
