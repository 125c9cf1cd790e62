"""What leaving out rows of the training data does to losses and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .._progress import bars, progress
from .._validation import check_choice, check_positive, unwrap
from ..objective import check_sample_weight, memory_explained
from ..sensitivity import HOLDS_TOL, GraphicalDerivative
from ._influence_request import InfluencePoints, points_asked, removals
from ._removal import Removal

__all__ = ["SampleInfluence", "sample_influence"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

_METHODS = ("auto", "first_order", "low_rank", "gauss_newton", "retrain")


class ValueRange(NamedTuple):
    """Smallest and largest values over local sets.

    Attributes
    ----------
    lower, upper : ndarray of the shape of the values
    """

    lower: Array
    upper: Array


@dataclass(frozen=True, repr=False)
class SampleInfluence:
    """What leaving out each row, or each group of rows, changes.

    Attributes
    ----------
    values : ndarray of shape (n_solutions, n_points, n_samples[, n_outputs])
        Value after the removal minus value before, evaluated at the weights that are
        predicted for it; ``n_groups`` in place of ``n_samples`` for groups. Of a
        self-influence, of shape (n_solutions, n_samples): each row's own loss. NaN
        where the rows alone hold a direction of the weights.

    shift_norm : ndarray of shape (n_solutions, n_samples)
        Euclidean norm of the weights' movement.

    errors : ndarray of shape (n_solutions, n_samples)
        A-posteriori estimate of the movement's relative error: the next step over the
        movement. 0 of a movement that is none, and of retrained rows.

    trustworthy : ndarray of bool of shape (n_solutions, n_samples)
        Whether the solution is, the error is at most 0.1, and the value is a number.

    kernel_dims : ndarray of int of shape (n_solutions, n_samples)
        Dimension of the solution set without the rows: it grows where the net
        interpolates. -1 where that is not known: with ``solver="lsmr"``, and where the
        rows alone hold a direction of a net that does not.

    status : ndarray of str of shape (n_solutions,)
        One sentence each.

    samples : list of ndarray of int
        The rows of each removal.

    method : str
    """

    values: Array
    shift_norm: Array
    errors: Array
    trustworthy: NDArray[np.bool_]
    kernel_dims: NDArray[np.int64]
    status: NDArray[np.str_]
    samples: list[Rows]
    method: str
    _widths: Array = field(repr=False)

    def __repr__(self) -> str:
        n_solutions, n_removals = self.trustworthy.shape
        sure = int(self.trustworthy.all(axis=0).sum())
        return (
            f"<SampleInfluence: {n_removals} removals from {n_solutions} solutions, "
            f"method {self.method!r}, {sure} trustworthy at all>"
        )

    @property
    def mean(self) -> Array:
        """Mean of the values over the solutions."""
        found: Array = self.values.mean(axis=0)
        return found

    @property
    def spread(self) -> Array:
        """Standard deviation of the values over the solutions."""
        found: Array = self.values.std(axis=0)
        return found

    def range_within(self, radius: float) -> ValueRange:
        """Smallest and largest values over the local sets without the rows.

        A row of a net that interpolates moves nothing, and frees directions of the
        set: what training finds without it is any value of an interval. To first order
        in the movement within the set.

        Parameters
        ----------
        radius : float
            Euclidean radius of the ball around each solution.

        Returns
        -------
        range : (lower, upper), ndarrays of the shape of values
            Equal where the solution without the row is isolated, NaN where the set is
            not known.
        """
        check_positive("range_within", "radius", radius)
        half = radius * self._widths
        return ValueRange(self.values - half, self.values + half)


def sample_influence(
    estimator: Any,
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    of: str = "loss",
    samples: ArrayLike | None = None,
    groups: Sequence[ArrayLike] | None = None,
    method: str = "auto",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> SampleInfluence:
    r"""What leaving out training rows would change at given points.

    For all rows and points at once, from the factorisation of the fit.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted. ``X`` passes through a pipeline's transformers.

    X : array-like of shape (n_points, ...), default=None
        Points. None for the rows themselves: the self-influence, each on its own loss.

    y : array-like of shape (n_points,) or (n_points, n_outputs), default=None
        Their targets, for losses.

    of : {"loss", "prediction"}, default="loss"
        The criterion at each point alone, penalties left out; or the prediction
        (probabilities of a classifier, which add an axis).

    samples : array-like of int of shape (n_samples,), default=None
        Rows to leave out, one by one; None for all.

    groups : list of array-like of int, default=None
        Groups of rows, each left out as a whole, in place of single rows.

    method : {"auto", "first_order", "low_rank", "gauss_newton", "retrain"}, \
            default="auto"
        "first_order" moves along the derivative in the row's weight. "low_rank" takes
        the row's Gauss-Newton term out of H, which is exact for least squares without a
        penalty, and corrects the step by what is left of the gradient. "gauss_newton"
        takes a step on the rows that are left. "retrain" continues to the solution
        without the rows. "auto" is "low_rank" for rows, "gauss_newton" for groups.

    n_jobs : int, default=None
        Solutions at once, through joblib's current backend.

    verbose : int, default=0
        A bar over the removals at 1.

    Returns
    -------
    influence : SampleInfluence

    Raises
    ------
    ValueError
        If a row does not exist, a group is empty or leaves nothing, ``y`` is missing
        for losses, or ``method`` does not apply.
    UnsupportedObjectiveError
        If the net's loss does not weigh rows.

    See Also
    --------
    sksetsens.inspection.SampleInfluenceDisplay : The largest, drawn.
    sksetsens.metrics.linear_datamodeling_score : What such values are worth.

    Notes
    -----
    Which rows to trust, groups, intervals at interpolation: :doc:`/rows`.

    References
    ----------
    P. W. Koh, P. Liang, "Understanding Black-box Predictions via Influence Functions",
    ICML 2017, arXiv 1703.04730; R. D. Cook, "Detection of influential observation in
    linear regression", Technometrics 19 (1977), doi 10.2307/1268249.

    Examples
    --------
    The mean of three numbers, each left out:

    >>> import numpy as np
    >>> from skorch import NeuralNetRegressor
    >>> from torch import nn
    >>> from sksetsens import SolutionSetEstimator, sample_influence
    >>> class Mean(nn.Linear):
    ...     def __init__(self):
    ...         super().__init__(1, 1, bias=False)
    >>> net = NeuralNetRegressor(Mean, train_split=None, lr=0.1)
    >>> X, y = np.ones((3, 1)), np.array([0.0, 3.0, 6.0])
    >>> model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    >>> sample_influence(model, [[1.0]], of="prediction").values.round(6)[0, 0]
    array([ 1.5,  0. , -1.5])
    """
    check_choice("sample_influence", "of", of, ("loss", "prediction"))
    check_choice("sample_influence", "method", method, _METHODS)
    final, X = unwrap(estimator, X, caller="sample_influence")
    check_is_fitted(final)
    sets = removals(final, samples, groups)
    if method == "auto":
        method = "low_rank" if groups is None else "gauss_newton"
    if groups is not None and method == "low_rank":
        raise ValueError(
            "The 'method' parameter of sample_influence must not be 'low_rank' with "
            "groups, whose rows are too many for one step. Use 'gauss_newton' or "
            "'retrain'."
        )
    points = points_asked(final, X, y, of, groups)
    derivatives = final.graphical_derivatives_
    check_sample_weight(derivatives[0].objective)
    with memory_explained("sample_influence"), bars(verbose):
        trusted = final.solution_set_.trustworthy
        found = Parallel(n_jobs=n_jobs)(
            delayed(_of_solution)(gd, bool(ok), sets, points, method, final._task.tol)
            for gd, ok in zip(derivatives, trusted, strict=True)
        )
    parts = [np.stack(part) for part in zip(*found, strict=True)]
    values, widths, lengths, errors, dims = parts
    numbers = np.isfinite(values)
    if X is not None:
        numbers = numbers.all(axis=1)
    numbers = numbers.all(axis=-1) if numbers.ndim > 2 else numbers
    trustworthy = trusted[:, None] & (errors <= HOLDS_TOL) & numbers
    status = np.array(
        [
            _status(s, ok, e, method)
            for s, ok, e in zip(
                final.solution_set_.status, trusted, errors, strict=True
            )
        ]
    )
    return SampleInfluence(
        values, lengths, errors, trustworthy, dims, status, sets, method, widths
    )


def _of_solution(
    gd: GraphicalDerivative,
    trusted: bool,
    sets: list[Rows],
    points: InfluencePoints,
    method: str,
    tol: float,
) -> tuple[Array, Array, Array, Array, NDArray[np.int64]]:
    """Values, half widths per radius, lengths, errors and kernel dimensions."""
    removal = Removal(gd, tol)
    shift, errors = _shifts(removal, sets, method)
    alone = removal.alone(sets)
    shift[alone], errors[alone] = np.nan, np.inf
    here = gd.weights
    after = points.values(gd.objective, here + np.nan_to_num(shift), sets)
    before = points.values(
        gd.objective, np.broadcast_to(here, shift.shape)[:1], sets[:1]
    )
    if points.X is None:
        before = points.values(gd.objective, np.repeat(here[None], len(sets), 0), sets)
    values = after - before
    values[~np.isfinite(shift).all(axis=1)] = np.nan
    widths, dims = _widths(removal, sets, points, values)
    widths[alone], dims[alone] = np.nan, -1
    lengths = np.linalg.norm(shift, axis=1)
    if points.X is None:
        return values[:, 0], widths[:, 0], lengths, errors, dims
    return _points_first(values), _points_first(widths), lengths, errors, dims


def _points_first(values: Array) -> Array:
    """(n_sets, n_points, ...) as (n_points, n_sets, ...), a single output left out."""
    if values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    return np.swapaxes(values, 0, 1)


def _shifts(removal: Removal, sets: list[Rows], method: str) -> tuple[Array, Array]:
    single = all(len(rows) == 1 for rows in sets)
    rows = np.array([rows[0] for rows in sets])
    if method == "retrain":
        start = removal.low_rank(rows) if single else np.zeros((len(sets), 1))
        found = [
            removal.retrained(one, removal.gd.weights + v)
            for one, v in zip(progress(sets, len(sets), "removals"), start, strict=True)
        ]
        shift = np.stack([w for w, _ in found]) - removal.gd.weights
        return shift, np.where([ok for _, ok in found], 0.0, np.inf)
    if method == "gauss_newton":
        return removal.by_groups(sets)
    if not single:
        shift = np.stack([removal.first_order(one).sum(axis=0) for one in sets])
        return shift, removal.errors_of_groups(sets, shift)
    if method == "low_rank":
        return removal.corrected(rows)
    shift = removal.first_order(rows)
    return shift, removal.errors(rows, shift)


def _widths(
    removal: Removal, sets: list[Rows], points: InfluencePoints, values: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Largest change per radius within the sets, like values, and their dimension."""
    gd = removal.gd
    dims = np.full(len(sets), gd.factor.kernel_dim)
    widths = np.zeros_like(values)
    if removal.interpolates and not removal.knows_sets:
        return np.full_like(widths, np.nan), np.full_like(dims, -1)
    if not (gd.factor.kernel_dim or removal.interpolates):
        return widths, dims
    gradients = points.gradients(gd)
    squares = (gd.kernel.project(gradients) ** 2).sum(axis=-1)
    for j, rows in enumerate(sets):
        freed = removal.freed(rows)
        dims[j] += len(freed)
        of_points, base = gradients, squares
        if points.X is None:
            of_points, base = gradients[rows], squares[rows]
        more = ((of_points @ freed.T) ** 2).sum(axis=-1)
        widths[j] = np.sqrt(base + more).reshape(widths[j].shape)
    return widths, dims


def _status(status: str, trusted: bool, errors: Array, method: str) -> str:
    if not trusted:
        return f"from an untrustworthy solution ({status})"
    bad = int((errors > HOLDS_TOL).sum())
    if not bad:
        return f"all {len(errors)} removals have an estimated error of at most 0.1"
    remedy = "retrain them (method='retrain', samples=...)"
    if method == "retrain":
        remedy = "retraining did not become stationary there"
    return (
        f"{bad} of {len(errors)} removals have an estimated error above 0.1 (see "
        f"errors): {remedy}"
    )
