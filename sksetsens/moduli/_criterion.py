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
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from .._validation import selection, unwrap
from ..linalg import CONSISTENCY_TOL
from ..optimize import stationarity
from ..sensitivity import Diagnosis, GraphicalDerivative, diagnose

__all__ = ["MordukhovichCriterion", "mordukhovich_criterion"]


# Relative gradient of a solution that is given by its derivative alone.
_STATIONARY = 1e-8


@dataclass(frozen=True)
class MordukhovichCriterion:
    """Outcome of the test at one solution, with what it was judged by.

    Attributes
    ----------
    holds : bool
        Whether the solution set is Lipschitz-like for perturbations of the entries
        asked about: the range residual is within tolerance, and the solution is one at
        which the test means something.

    is_certified : bool
        Whether the solution is trustworthy: stationary, a minimum, smooth, of constant
        rank and with a gap in the spectrum. The test speaks of H at the point, which
        says nothing about the set where one of them fails.

    range_residual : float
        Largest ``|P_ker b| / |b|``, Euclidean, over the columns b of B: the share of a
        column outside range H. Between 0 and 1; inf along an entry that has no
        derivative, NaN where iterative solves ended too early to tell.

    tolerance : float
        Range residual up to which a column counts as inside.

    margin : float
        Factor between residual and tolerance, the larger over the smaller: how clear
        the verdict is. inf for a residual of 0.

    rank : int
        Rank of H.

    gap : float
        Smallest kept over largest dropped absolute eigenvalue of H.

    has_clear_cutoff : bool
        Whether no eigenvalue lies within a decade of the cut-off; otherwise kernel
        and verdict depend on rcond.

    worst_entry : tuple of (int, int)
        Row and feature (of the flattened row) with the largest residual. Iterative
        solves tell residuals by row and by feature, of which an entry has the smaller:
        its row and its feature leave range H, the entry itself most likely.

    status : str
        One sentence.
    """

    holds: bool
    is_certified: bool
    range_residual: float
    tolerance: float
    margin: float
    rank: int
    gap: float
    has_clear_cutoff: bool
    worst_entry: tuple[int, int]
    status: str


def mordukhovich_criterion(
    at: Any,
    *,
    rows: ArrayLike | None = None,
    features: ArrayLike | None = None,
) -> Any:
    """Test whether the solutions move Lipschitz-continuously with the data.

    Parameters
    ----------
    at : SolutionSetEstimator, Pipeline, search or GraphicalDerivative
        Fitted estimator, or the derivative at one solution, which is examined first.

    rows : array-like of int or of bool, default=None
        Rows of the data that may move; None for all.

    features : array-like of int or of bool, default=None
        Features (of flattened rows) that may move; None for all.

    Returns
    -------
    criterion : list of MordukhovichCriterion, or MordukhovichCriterion
        One per solution of an estimator; one for a derivative.

    Raises
    ------
    ValueError
        If a row or feature does not exist, or none is given.

    See Also
    --------
    lipschitz_modulus : How far the solutions move, where this holds.

    Notes
    -----
    What to do where it does not hold: :doc:`/trust`.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Section 3. R. T. Rockafellar, R. J.-B.
    Wets, "Variational Analysis" (1998), Theorem 9.40.

    Examples
    --------
    A column of zeros, whose weight is free; a movement of it determines that weight:

    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator, mordukhovich_criterion
    >>> from sksetsens.datasets import make_dead_feature
    >>> data = make_dead_feature(random_state=0)
    >>> net = NeuralNetRegressor(data.module, train_split=None, verbose=0)
    >>> model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    >>> model = model.fit(data.X, data.y)
    >>> found = mordukhovich_criterion(model)[0]
    >>> found.holds, found.worst_entry[1]
    (False, 5)
    >>> mordukhovich_criterion(model, features=range(5))[0].holds
    True
    """
    if isinstance(at, GraphicalDerivative):
        return _criterion(at, _examined(at), rows, features)
    final, _ = unwrap(at, caller="mordukhovich_criterion")
    check_is_fitted(final)
    linearised = final._linearisation
    pairs = zip(linearised.derivatives, linearised.diagnoses, strict=True)
    return [_criterion(gd, diagnosis, rows, features) for gd, diagnosis in pairs]


def _examined(gd: GraphicalDerivative) -> Diagnosis:
    norm = float(np.linalg.norm(gd.objective.gradient(gd.weights)))
    relative = stationarity(gd.objective, gd.weights, norm)
    return diagnose(
        gd,
        is_stationary=relative <= _STATIONARY,
        polish_status=f"not stationary: relative gradient {relative:.2g}",
    )


def _criterion(
    gd: GraphicalDerivative,
    diagnosis: Diagnosis,
    rows: ArrayLike | None,
    features: ArrayLike | None,
) -> MordukhovichCriterion:
    n_samples, n_features = gd.column_range_residuals.shape
    moving = selection("rows", rows, n_samples)[:, None]
    moving = moving & selection("features", features, n_features)
    residuals = np.where(moving, gd.column_range_residuals, -1.0)
    row, feature = np.unravel_index(int(residuals.argmax()), residuals.shape)
    residual = float(residuals[row, feature])
    inside = residual <= CONSISTENCY_TOL
    margin = (
        max(residual / CONSISTENCY_TOL, CONSISTENCY_TOL / residual)
        if residual
        else np.inf
    )
    certified = diagnosis.is_trustworthy
    status = (
        "Lipschitz-like: every column of B lies in range H"
        if inside
        else f"not Lipschitz-like: the column of B of row {row}, feature {feature} "
        f"leaves range H by {residual:.2g}"
    )
    if np.isnan(residual):
        status = (
            "not certified: iterative solves ended before solver_tol; raise "
            "solver_max_iter or solver_tol, or use solver='eigh' or 'dual' if the net "
            "is small enough"
        )
        certified = False
    elif np.isinf(residual):
        status = (
            f"not certified (no derivative exists along row {row}, feature {feature}: "
            "forward rounds it, or has a kink there)"
        )
        certified = False
    elif not certified:
        status = f"not certified ({diagnosis.status})"
    return MordukhovichCriterion(
        inside and certified,
        certified,
        residual,
        CONSISTENCY_TOL,
        float(margin),
        gd.factor.rank,
        float(gd.factor.gap),
        gd.factor.has_clear_cutoff,
        (int(row), int(feature)),
        status,
    )
