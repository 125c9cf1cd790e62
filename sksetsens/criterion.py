r"""The Mordukhovich criterion: is the solution set Lipschitz-like here, and how surely.

The mapping F has the Lipschitz-like (Aubin) property at ``(x, w)`` iff
:math:`D^*F(x | w)(0) = \{0\}` (Mordukhovich 1992; Rockafellar and Wets, "Variational
Analysis", Theorem 9.40). The coderivative at 0 is :math:`B' \ker H`, so the test is
:math:`\ker H \subset \ker B'`, that is, :math:`\operatorname{range} B \subset
\operatorname{range} H`: every column of B, one per entry of the data, has to lie in
range H. Which columns leave it is the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .derivatives import GraphicalDerivative
from .linalg import CONSISTENCY_TOL

__all__ = ["MordukhovichCriterion", "mordukhovich_criterion", "selection"]


@dataclass(frozen=True)
class MordukhovichCriterion:
    """Outcome of the test at one solution, with what it was judged by.

    Attributes
    ----------
    holds : bool
        Whether the solution set is Lipschitz-like for perturbations of the entries
        asked about.

    leak : float
        Largest ``|P_ker b| / |b|``, Euclidean, over the columns b of B: the share of a
        column outside range H. Between 0 and 1.

    tolerance : float
        Leak up to which a column counts as inside.

    margin : float
        Factor between leak and tolerance, the larger over the smaller: how clear the
        verdict is. inf for a leak of 0.

    rank : int
        Rank of H.

    gap : float
        Smallest kept over largest dropped absolute eigenvalue of H.

    has_clear_cutoff : bool
        Whether no eigenvalue lies within a decade of the cut-off; otherwise kernel
        and verdict depend on rcond.

    worst_entry : tuple of (int, int)
        Row and feature (of the flattened row) with the largest leak.

    status : str
        One sentence.
    """

    holds: bool
    leak: float
    tolerance: float
    margin: float
    rank: int
    gap: float
    has_clear_cutoff: bool
    worst_entry: tuple[int, int]
    status: str


def mordukhovich_criterion(
    derivative: GraphicalDerivative,
    *,
    rows: ArrayLike | None = None,
    features: ArrayLike | None = None,
) -> MordukhovichCriterion:
    """Test whether the solutions move Lipschitz-continuously with the data.

    Parameters
    ----------
    derivative : GraphicalDerivative
        At the solution, as in ``graphical_derivatives_`` of a fitted estimator.

    rows : array-like of int or of bool, default=None
        Rows of the data that may move; None for all.

    features : array-like of int or of bool, default=None
        Features (of flattened rows) that may move; None for all.

    Returns
    -------
    criterion : MordukhovichCriterion

    Raises
    ------
    ValueError
        If a row or feature does not exist, or none is given.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Section 3. R. T. Rockafellar, R. J.-B.
    Wets, "Variational Analysis" (1998), Theorem 9.40.
    """
    n_samples, n_features = derivative.column_leaks.shape
    moving = selection("rows", rows, n_samples)[:, None]
    moving = moving & selection("features", features, n_features)
    leaks = np.where(moving, derivative.column_leaks, -1.0)
    row, feature = np.unravel_index(int(leaks.argmax()), leaks.shape)
    leak = float(leaks[row, feature])
    holds = leak <= CONSISTENCY_TOL
    margin = max(leak / CONSISTENCY_TOL, CONSISTENCY_TOL / leak) if leak else np.inf
    factor = derivative.factor
    clear = factor.has_clear_cutoff
    outside = f"of row {row}, feature {feature} leaves range H by {leak:.2g}"
    verdict = (
        "Lipschitz-like: every column of B lies in range H"
        if holds
        else f"not Lipschitz-like: the column of B {outside}"
    )
    doubt = "" if clear else "; but the spectrum has no gap at the cut-off"
    return MordukhovichCriterion(
        holds,
        leak,
        CONSISTENCY_TOL,
        float(margin),
        factor.rank,
        float(factor.gap),
        clear,
        (int(row), int(feature)),
        verdict + doubt,
    )


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
