"""Following the solution set along a path of data, solution by solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_count, check_positive
from ..optimize import Polished, stationarity
from ..perturbation import Perturbation, check_perturbation
from ..sensitivity import GraphicalDerivative, collect, diagnose
from ..sets import SolutionSet
from ._walk import SolutionTrack, Walk

__all__ = ["SolutionPath", "follow_path"]

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class SolutionPath:
    """The set of solutions along ``x + t dx``, t from 0 to 1.

    Attributes
    ----------
    tracks : list of SolutionTrack
        One per solution.

    solution_set : SolutionSet
        The set at the end of each track, with its evidence: at the perturbed data for
        those that arrived, at the last data reached for the others.

    arrived : ndarray of bool of shape (n_solutions,)

    stopped_at : ndarray of shape (n_solutions,)

    n_steps : ndarray of int of shape (n_solutions,)

    status : ndarray of str of shape (n_solutions,)
    """

    tracks: list[SolutionTrack]
    solution_set: SolutionSet

    def __repr__(self) -> str:
        n = len(self.tracks)
        return (
            f"<SolutionPath: {int(self.arrived.sum())} of {n} solutions arrived, "
            f"{int(self.n_steps.sum())} steps>"
        )

    @property
    def arrived(self) -> NDArray[np.bool_]:
        """Whether each solution reached the perturbed data."""
        return np.array([track.arrived for track in self.tracks])

    @property
    def stopped_at(self) -> Array:
        """Share of the perturbation at which each track ends."""
        return np.array([track.stopped_at for track in self.tracks])

    @property
    def n_steps(self) -> NDArray[np.int64]:
        """Steps taken from each solution."""
        return np.array([len(track.t) - 1 for track in self.tracks])

    @property
    def status(self) -> NDArray[np.str_]:
        """One sentence per solution."""
        return np.array([track.status for track in self.tracks])


def follow_path(
    estimator: Any,
    X_perturbed: Any = None,
    y_perturbed: Any = None,
    *,
    sample_weight: Any = None,
    tol: float = 0.3,
    min_step: float = 1e-4,
    max_steps: int = 1000,
) -> SolutionPath:
    """Follow the solution set while the data moves to the perturbed one.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    X_perturbed, y_perturbed, sample_weight
        As in `SolutionSetEstimator.sensitivity`.

    tol : float, default=0.3
        Error of the first order that a step may have before it is corrected, in (0, 1].

    min_step : float, default=1e-4
        Share of the way behind, and at the start its square, below which a step is
        given up.

    max_steps : int, default=1000
        Per solution.

    Returns
    -------
    path : SolutionPath
        Tracks that stop on the way say why: the set folds, is empty, or its rank
        changes.

    Raises
    ------
    ValueError
        If a parameter is out of range or the data is not as `sensitivity` wants it.

    Examples
    --------
    A minimum that disappears half way:

    >>> from skorch import NeuralNetRegressor
    >>> from sksetsens import SolutionSetEstimator, follow_path
    >>> from sksetsens.datasets import make_fold
    >>> fold = make_fold(fold_fraction=0.5, random_state=0)
    >>> net = NeuralNetRegressor(
    ...     fold.module, module__start=fold.weights.item(), train_split=None,
    ...     max_epochs=1,
    ... )
    >>> model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    >>> path = follow_path(model.fit(fold.X, fold.y), fold.X_perturbed)
    >>> path.arrived, path.stopped_at.round(4)
    (array([False]), array([0.5]))
    >>> print(path.status[0][:24])
    the set folds at 0.5: an
    """
    check_positive("follow_path", "tol", tol, up_to=1.0)
    check_positive("follow_path", "min_step", min_step, up_to=1.0)
    check_count("follow_path", "max_steps", max_steps, low=1)
    perturbation = check_perturbation(
        estimator, X_perturbed, y_perturbed, sample_weight, caller="follow_path"
    )
    walks = [
        Walk(gd, perturbation, floor, tol, min_step)
        for gd, floor in zip(perturbation.derivatives, perturbation.floors, strict=True)
    ]
    base = perturbation.estimator.solution_set_
    for walk, ok, status in zip(walks, base.trustworthy, base.status, strict=True):
        if ok:
            walk.run(int(max_steps))
        else:
            walk.stop(0.0, f"starts from an untrustworthy solution ({status})")
    ends = _ends(walks, perturbation)
    for track, ok, status in zip(
        [walk.track for walk in walks], ends.trustworthy, ends.status, strict=True
    ):
        if track.arrived and not ok:
            track.arrived = False
            track.status = f"ends at an untrustworthy solution ({status})"
    return SolutionPath([walk.track for walk in walks], ends)


def _ends(walks: list[Walk], perturbation: Perturbation) -> SolutionSet:
    """The set at the ends, factorised with the rank that H has there."""
    tol = perturbation.estimator.tol
    polished = [_evidence(walk.here, walk.track, tol) for walk in walks]
    derivatives = [
        walk.here.at(
            walk.here.objective,
            point.weights,
            keep_rank=False,
            stationarity=point.stationarity,
        )
        for walk, point in zip(walks, polished, strict=True)
    ]
    diagnoses = [
        diagnose(gd, is_stationary=point.converged, polish_status=point.status)
        for gd, point in zip(derivatives, polished, strict=True)
    ]
    return collect(derivatives, polished, diagnoses).solution_set


def _evidence(gd: GraphicalDerivative, track: SolutionTrack, tol: float) -> Polished:
    norm = gd.length_of_residual(gd.objective, gd.weights)
    relative = stationarity(gd.smooth, gd.weights, norm)
    converged = bool(relative <= tol)
    status = (
        "stationary" if converged else f"not stationary: {relative:.2g} > {tol:.2g}"
    )
    return Polished(
        gd.weights,
        gd.objective.loss(gd.weights),
        norm,
        norm,
        relative,
        len(track.t) - 1,
        "predictor-corrector",
        converged,
        status,
    )
