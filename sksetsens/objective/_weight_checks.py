"""Whether a net's loss weighs rows: as rows that are left out and repeated."""

from __future__ import annotations

import numpy as np

from ..exceptions import UnsupportedObjectiveError
from ._objective import Objective
from ._row_weights import is_taken_apart
from ._trained_objective import moved_weights

__all__ = ["check_sample_weight"]

_MAX_ROWS = 64
_TIMES = (1, 2, 0, 0, 1)
# Both sides are float64 and differ by the order of summation.
_RTOL = 1e-9
_REMEDY = (
    "Let get_loss take its data term from self.criterion_: one of torch's own, or a "
    "mean over rows of your own (a sum says reduction='sum' as an attribute); or leave "
    "sample_weight out."
)


def check_sample_weight(objective: Objective) -> None:
    """Refuse a loss that does not weigh rows.

    Of some rows some are left out and some doubled, by weights and in fact, so that
    there are fewer: the two losses and their gradients must agree.

    Parameters
    ----------
    objective : Objective
        At any weights.

    Raises
    ------
    UnsupportedObjectiveError
        If they do not: the criterion couples rows, or ``get_loss`` has a data term
        beside the criterion.
    """
    criterion = type(objective.criterion).__name__
    if objective.has_ramps_in_loss and not is_taken_apart(objective.criterion):
        raise UnsupportedObjectiveError(
            f"The criterion {criterion} has kinks and is none of torch's, so that its "
            f"rows cannot be weighted. Got sample_weight all the same. {_REMEDY}"
        )
    plain = objective.off_kinks().weighted(None)
    rows = np.arange(min(objective.n_samples, _MAX_ROWS))
    X, y = plain.inputs[rows], plain.targets[rows]
    plain = plain.with_data(X, y)
    w = moved_weights(plain.weights)  # Off kinks, and off zeros of R.
    # A loss that reads how many rows there are shows it, since their number changes;
    # and one that reads a certain row, since each is left out once.
    for shift in range(len(_TIMES)):
        times = np.resize(np.roll(_TIMES, shift), len(rows))
        if not times.any():
            continue
        repeated = np.repeat(rows, times)
        try:
            one = plain.weighted(times.astype(float))
            loss, gradient = one.value_and_gradient(w)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refusal(criterion, str(error).splitlines()[0]) from error
        there = plain.with_data(X[repeated], y[repeated])
        expected, theirs = there.value_and_gradient(w)
        gap = float(np.linalg.norm(gradient - theirs))
        same = np.isclose(loss, expected, rtol=_RTOL, atol=0.0, equal_nan=True)
        if not (same and gap <= _RTOL * float(np.linalg.norm(theirs)) + 1e-14):
            raise _refusal(criterion, f"{loss:.6g} by weights, {expected:.6g} in fact")


def _refusal(criterion: str, found: str) -> UnsupportedObjectiveError:
    return UnsupportedObjectiveError(
        "The net's loss does not weigh its rows: with sample_weight it is not what it "
        f"is when rows are left out and repeated (criterion {criterion}: {found}). "
        f"{_REMEDY}"
    )
