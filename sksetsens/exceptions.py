"""Errors and warnings that sksetsens raises on purpose.

Every error derives from :class:`ValueError` as well, so that code which guards
against bad input in scikit-learn's manner keeps working.
"""

from typing import Any

from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "AllRestartsFailedError",
    "FittedNetWarning",
    "IllPosedWarning",
    "NonlinearityWarning",
    "ObjectiveMismatchWarning",
    "SolverWarning",
    "StationarityWarning",
    "StochasticObjectiveError",
    "UnsupportedObjectiveError",
]


class UnsupportedObjectiveError(ValueError):
    """The net's training objective has no usable first and second derivatives."""


class StochasticObjectiveError(UnsupportedObjectiveError):
    """Two evaluations of the training objective at the same point differ.

    Outputs that are random in eval mode, random losses and random augmentation make the
    first-order residual a random variable, so that "the set of its zeros" means
    nothing. What is random in training only, such as dropout, is off in the objective.
    """


class AllRestartsFailedError(ValueError):
    """No restart produced weights; the message holds the first cause.

    Attributes
    ----------
    restart_report : dict of str to ndarray
        What happened to each restart, as `SolutionSetEstimator.restart_report_`, which
        a fit that fails leaves as it was.
    """

    def __init__(
        self, message: str, restart_report: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.restart_report = restart_report or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.restart_report)


class FittedNetWarning(UserWarning):
    """A net that is fitted already was given to ``fit``, which trains a clone anew."""


class ObjectiveMismatchWarning(UserWarning):
    """What the net trains on is not the objective that is analysed.

    Dropout is off in it, decoupled weight decay is a quadratic penalty.
    """


class StationarityWarning(ConvergenceWarning):
    """Weights are not stationary: they solve no first-order condition."""


class SolverWarning(ConvergenceWarning):
    """An iterative solve ended before its tolerance: its answer is marked."""


class IllPosedWarning(UserWarning):
    """A sensitivity question has no trustworthy finite answer at this point.

    Issued where the Hessian's rank has no clear cut-off, changes nearby, where the
    objective has a kink, at saddles, and where the predicted set is empty.
    """


class NonlinearityWarning(UserWarning):
    """A perturbation is too large for the first-order prediction to hold."""
