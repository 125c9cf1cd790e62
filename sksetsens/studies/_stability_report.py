"""The paper's Algorithm 1 as a report: how stable training is, with the evidence."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_positive
from ..perturbation import check_perturbation
from ..sensitivity import predict_set, reach
from ..sets import PredictedSolutionSet, html_table
from ._html_report import html_report

__all__ = ["StabilityReport", "stability_report"]

Array = NDArray[np.float64]

_ROUNDING = 1e-12
_COLUMNS = ("solution", "distance", "bound", "slack", "nonlinearity", "holds to")


@dataclass(frozen=True, repr=False)
class StabilityReport:
    """Movement of each solution under a perturbation, with its bound and its evidence.

    Shown as a short table, in notebooks as HTML.

    Attributes
    ----------
    predicted : PredictedSolutionSet
        What `sensitivity` answers.

    size : float
        Frobenius norm of the perturbation of X, y and weights.

    distance : ndarray of shape (n_solutions,)
        From the solution to its predicted set, ``|v0|``, Euclidean (Algorithm 1); inf
        where the predicted set is empty.

    bound : ndarray of shape (n_solutions,)
        The most that any perturbation of this size moves the solution to first order,
        ``kappa |dx|`` and the like for targets and weights; inf where no modulus is
        certified.

    slack : ndarray of shape (n_solutions,)
        ``bound - distance``: 0 for the worst case, NaN where both are infinite.

    nonlinearity, shift_error : ndarray of shape (n_solutions,)
        As in `PredictedSolutionSet`.

    holds_to : ndarray of shape (n_solutions,)
        Share of the perturbation up to which the first order errs by no more than
        ``tol``.

    tol : float

    status : ndarray of str of shape (n_solutions,)

    estimator : SolutionSetEstimator, Pipeline or search
        What the report is about.
    """

    predicted: PredictedSolutionSet
    size: float
    distance: Array
    bound: Array
    slack: Array
    nonlinearity: Array
    shift_error: Array
    holds_to: Array
    tol: float
    status: NDArray[np.str_]
    estimator: Any

    @property
    def worst_distance(self) -> float:
        """Largest distance over the solutions."""
        return float(np.max(self.distance))

    @property
    def worst_bound(self) -> float:
        """Largest bound over the solutions."""
        return float(np.max(self.bound))

    @property
    def is_trustworthy(self) -> bool:
        """Whether the prediction may be trusted at every solution."""
        return bool(self.predicted.trustworthy.all())

    def to_html(
        self, path: str | os.PathLike[str], *, X_test: Any = None, y_test: Any = None
    ) -> None:
        """Write one HTML file that needs no other, and no network.

        With the table and what cannot be trusted and why, the Lipschitz moduli by row
        and by feature, and the influence of the training rows; where one of these has
        no answer, with the reason.

        Parameters
        ----------
        path : str or path-like
            Of the file, which is overwritten.
        X_test, y_test : array-like, default=None
            Rows on whose loss the influence is measured, as in `sample_influence`; None
            for each training row's own loss.

        Raises
        ------
        ValueError
            If only one of ``X_test`` and ``y_test`` is given.
        """
        if (X_test is None) != (y_test is None):
            missing = "y_test" if y_test is None else "X_test"
            raise ValueError(
                f"The {missing!r} parameter of StabilityReport.to_html must be given "
                "together with the other one, or neither. Got None instead."
            )
        page = html_report(self, X_test, y_test)
        Path(path).write_text(page, encoding="utf-8")

    def _cells(self) -> list[list[str]]:
        columns = (self.distance, self.bound, self.slack)
        errors = (self.nonlinearity, self.holds_to)
        return [
            [
                str(i),
                *(f"{c[i]:.3g}" for c in columns),
                *(f"{e[i]:.2g}" for e in errors),
            ]
            for i in range(len(self.distance))
        ]

    def _summary(self) -> str:
        trusted = int(self.predicted.trustworthy.sum())
        return (
            f"perturbation of norm {self.size:.3g}: solutions move by up to "
            f"{self.worst_distance:.3g}, at worst {self.worst_bound:.3g}; "
            f"{trusted} of {len(self.distance)} predictions may be trusted"
        )

    def _legend(self) -> str:
        return (
            "distance: predicted movement of the weights; bound: at worst; holds to: "
            f"share of the perturbation where the first order errs by {self.tol:.0%}"
        )

    def __repr__(self) -> str:
        lines = [self._summary(), "".join(f"{name:>13}" for name in _COLUMNS)]
        lines += ["".join(f"{cell:>13}" for cell in row) for row in self._cells()]
        lines += [f"  {self._legend()}", *_told(self.status)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = html_table(
            self._summary(),
            _COLUMNS,
            self._cells(),
            self.status,
            self.predicted.trustworthy,
        )
        return f"{table}<p><small>{html.escape(self._legend())}</small></p>"


def _told(status: NDArray[np.str_]) -> list[str]:
    """Each sentence once, with the solutions it is about."""
    about: dict[str, list[str]] = {}
    for i, sentence in enumerate(status):
        about.setdefault(str(sentence), []).append(str(i))
    return [f"  {', '.join(who)}: {sentence}" for sentence, who in about.items()]


def stability_report(
    estimator: Any,
    X_perturbed: Any = None,
    y_perturbed: Any = None,
    *,
    sample_weight: Any = None,
    tol: float = 0.1,
) -> StabilityReport:
    """How far training moves when its data is perturbed, without retraining.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_perturbed, y_perturbed, sample_weight
        As in `SolutionSetEstimator.sensitivity`.

    tol : float, default=0.1
        Error of the first order that ``holds_to`` refers to, in (0, 1].

    Returns
    -------
    report : StabilityReport
        It tells what `sensitivity` would warn of, and warns of nothing itself.

    References
    ----------
    X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
    Networks", AAAI 2025, arXiv 2412.11057, Algorithm 1.
    """
    check_positive("stability_report", "tol", tol, up_to=1.0)
    perturbation = check_perturbation(
        estimator, X_perturbed, y_perturbed, sample_weight, caller="stability_report"
    )
    predicted = predict_set(perturbation, n_corrections=0, warn=False)
    triples = zip(
        perturbation.derivatives, perturbation.floors, predicted.shift, strict=True
    )
    holds_to = [
        reach(gd, perturbation.movement, tol=tol, floor=floor, shift=shift)
        for gd, floor, shift in triples
    ]
    distance, bound = predicted.shift_norm, perturbation.bounds
    with np.errstate(invalid="ignore"):
        slack = bound - distance
    # In the worst case both are the same number, computed in two ways.
    slack = np.where(np.abs(slack) <= _ROUNDING * distance, 0.0, slack)
    return StabilityReport(
        predicted,
        perturbation.size,
        distance,
        bound,
        slack,
        predicted.nonlinearity,
        predicted.shift_error,
        np.array(holds_to),
        tol,
        predicted.status,
        estimator,
    )
