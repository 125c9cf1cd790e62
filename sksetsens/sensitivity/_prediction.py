"""Predicted solution sets: w + DS(x|w)(dx), with corrections where asked for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .._validation import user_stacklevel
from ..exceptions import IllPosedWarning, NonlinearityWarning, SolverWarning
from ..linalg import Reason
from ..objective import Objective
from ..perturbation import Perturbation
from ..sets import PredictedSolutionSet
from ._affine_set import AffineSet
from ._breaks import across_breaks, first_break
from ._graphical_derivative import GraphicalDerivative
from ._linearise import kink_evidence, spectral_evidence
from ._manifold import OBSTRUCTION_TOL, off_manifold, rank_can_change
from ._reach import HOLDS_TOL, FirstOrderError, first_order_error
from ._second_look import FAR
from ._undifferentiable import named

__all__ = ["predict_set"]

Array = NDArray[np.float64]

# Corrections that go so many times as far as the first order correct nothing.
_RAN_AWAY = 5.0
# Breaks that are crossed to measure the first order's error.
_N_BREAKS = 10
# Of an empty piece.
_UNKNOWN = FirstOrderError(np.nan, np.nan, np.nan, False)


@dataclass(frozen=True)
class _Piece:
    """One solution's prediction and its evidence."""

    objective: Objective
    weights: Array
    derivative: GraphicalDerivative
    affine: AffineSet
    base_loss: float
    loss: float = np.nan
    gradient_norm: float = np.nan
    error: FirstOrderError = _UNKNOWN
    obstruction: float = np.nan
    jumping: tuple[int, ...] = ()
    moves_kinks: bool = False
    parts_twins: bool = False
    first_break: float = np.nan
    corrected_by: float = 1.0

    @property
    def stationarity(self) -> float:
        """Relative residual of the perturbed problem; NaN of an empty piece."""
        length = 1.0 + self.derivative.length(self.weights)
        scale = self.derivative.residual_scale * length
        return self.error.residual / scale if scale != 0.0 else 0.0

    @property
    def lacks_derivative(self) -> bool:
        """Whether X moves where no derivative exists, and no answer makes up for it.

        At a kink the derivative to one side may be the one that was asked for: there
        the measured error decides.
        """
        if self.jumping or self.parts_twins:
            return True
        return self.moves_kinks and self.error.worse > HOLDS_TOL

    @property
    def may_end(self) -> bool:
        """Whether a branch ends within what passes for the range of linearity."""
        return self.error.worse < FAR and self.error.may_end

    @property
    def changes_rank(self) -> bool:
        """Whether a perturbation in the range of linearity leaves the manifold."""
        return self.error.worse < FAR and self.obstruction > OBSTRUCTION_TOL


def predict_set(
    perturbation: Perturbation, *, n_corrections: int, warn: bool
) -> PredictedSolutionSet:
    """Predict the set of solutions on perturbed data.

    Parameters
    ----------
    perturbation : Perturbation

    n_corrections : int
        Newton steps on R(x^p, .) after the prediction (Gauss-Newton in the dual).

    warn : bool
        Whether to warn of what may not be trusted, too.

    Returns
    -------
    predicted : PredictedSolutionSet
    """
    base, tol = perturbation.estimator.solution_set_, perturbation.estimator.tol
    pieces = [
        _piece(gd, perturbation, n_corrections, floor)
        for gd, floor in zip(perturbation.derivatives, perturbation.floors, strict=True)
    ]
    weights = np.stack([piece.weights for piece in pieces])
    shift = weights - base.weights
    is_empty = np.array([piece.affine.is_empty for piece in pieces])
    relative_error = np.array([piece.error.worse for piece in pieces])
    changes_rank = np.array([piece.changes_rank for piece in pieces])
    lacks_derivative = np.array([piece.lacks_derivative for piece in pieces])
    may_end = np.array([piece.may_end for piece in pieces])
    relative = np.array([piece.stationarity for piece in pieces])
    evidence = {
        "losses": np.array([piece.loss for piece in pieces]),
        "base_losses": np.array([piece.base_loss for piece in pieces]),
        "gradient_norms": np.array([piece.gradient_norm for piece in pieces]),
        "stationarity": relative,
        "converged": relative <= tol,
        **spectral_evidence([piece.derivative for piece in pieces]),
        "shift": shift,
        "shift_norm": np.where(is_empty, np.inf, np.linalg.norm(shift, axis=1)),
        "is_empty": is_empty,
        "residual": np.array([piece.affine.residual for piece in pieces]),
        "cutoff_change": np.array([piece.affine.cutoff_change for piece in pieces]),
        "nonlinearity": np.array([piece.error.nonlinearity for piece in pieces]),
        "shift_error": np.array([piece.error.shift_error for piece in pieces]),
        "solver_converged": np.array([piece.affine.converged for piece in pieces]),
        "n_products": np.array([piece.affine.n_iter for piece in pieces]),
        "first_break": np.array([piece.first_break for piece in pieces]),
        **kink_evidence([piece.derivative for piece in pieces]),
        "trustworthy": base.trustworthy
        & ~is_empty
        & np.array([piece.affine.converged for piece in pieces])
        & ~changes_rank
        & ~lacks_derivative
        & ~may_end
        & (relative_error < FAR),
        "status": np.array(
            [
                _status(p, ok, s)
                for p, ok, s in zip(pieces, base.trustworthy, base.status, strict=True)
            ]
        ),
    }
    kernels = [piece.derivative.kernel for piece in pieces]
    objectives = [piece.objective for piece in pieces]
    if warn:
        _warn_of_solves([piece.affine for piece in pieces])
        _warn(perturbation, is_empty, changes_rank, may_end, relative_error)
    return PredictedSolutionSet(weights, evidence, kernels, objectives, base)


def _piece(
    gd: GraphicalDerivative,
    perturbation: Perturbation,
    n_corrections: int,
    floor: float,
) -> _Piece:
    """Predict from one solution; residuals up to ``floor`` count as rounding."""
    objective = perturbation.objective(gd.objective)
    plain = objective.off_kinks()
    affine = gd.along(perturbation.movement)
    before = gd.residual_norm(objective, gd.weights)
    base_loss = plain.loss(gd.weights)
    if affine.is_empty:
        return _Piece(objective, affine.shift, gd, affine, base_loss)
    weights, derivative = gd.weights + affine.shift, gd
    if n_corrections:
        weights, derivative = _corrected(
            gd, perturbation, objective, weights, n_corrections
        )
    error = first_order_error(
        gd,
        objective,
        weights,
        floor=floor,
        corrected=derivative,
        before=before,
        looks=True,
    )
    if perturbation.removes and not n_corrections:
        derivative = _without_rows(gd, objective, weights, error)
    breaks = first_break(gd, affine.shift, perturbation.movement)
    if breaks < 1.0 and not n_corrections and gd.can_exchange:
        error = _error_beyond_break(gd, perturbation, objective, weights, error)
    gradient_norm = derivative.length_of_residual(objective, weights)
    obstruction = 0.0
    # A random perturbation, which fit has tried, finds any change of rank that this one
    # brings; once more where it costs no solves.
    if not (error.is_rounding or gd.is_matrix_free) and rank_can_change(gd):
        moved = gd.length(weights - gd.weights)
        obstruction = off_manifold(gd, objective, weights, moved)
    jumping, moves_kinks = _without_derivative(gd, perturbation.dX)
    parts = gd.parts_twins(perturbation.movement)
    if parts and n_corrections:
        # They find out on which of them the solution stays.
        parts = derivative.has_parted_twins
    return _Piece(
        objective,
        weights,
        derivative,
        affine,
        base_loss,
        plain.loss(weights),
        gradient_norm,
        error,
        obstruction,
        jumping,
        moves_kinks,
        parts,
        breaks,
        _corrected_by(gd, weights, affine.shift) if n_corrections else 1.0,
    )


def _corrected_by(gd: GraphicalDerivative, weights: Array, shift: Array) -> float:
    """Movement with corrections over that of the first order."""
    first = max(gd.length(shift), np.finfo(float).tiny)
    return gd.length(weights - gd.weights) / first


def _without_rows(
    gd: GraphicalDerivative,
    objective: Objective,
    weights: Array,
    error: FirstOrderError,
) -> GraphicalDerivative:
    """The derivative on the data that is left: where rows go, the set may extend.

    At interpolation the outputs of a row that is gone are free.
    """
    if gd.kinks.holds or (gd.kernel.dim == 0 and gd.objective.decays_everywhere):
        return gd
    scale = gd.residual_scale * (1.0 + gd.length(weights))
    return gd.at(
        objective, weights, keep_rank=False, stationarity=error.residual / scale
    )


def _exchanged(
    gd: GraphicalDerivative,
    perturbation: Perturbation,
    objective: Objective,
    weights: Array,
    max_breaks: int | None,
) -> GraphicalDerivative | None:
    """The derivative at the solution on the perturbed data, on its kinks there."""
    found = gd.on_other_kinks(objective, weights)
    if found is not None:
        return found
    return across_breaks(gd, perturbation.movement, max_breaks=max_breaks)


def _error_beyond_break(
    gd: GraphicalDerivative,
    perturbation: Perturbation,
    objective: Objective,
    weights: Array,
    error: FirstOrderError,
) -> FirstOrderError:
    """Error where kinks have changed: the distance to the solution on the new ones.

    R jumps where a ramp crosses its kink, so that its size tells nothing there.
    """
    there = _exchanged(gd, perturbation, objective, weights, _N_BREAKS)
    moved = gd.length(weights - gd.weights)
    missed = np.inf
    if there is not None and moved > 0.0:
        left = there.weights - weights
        missed = float(there.kernel.complement_norm(left)) / moved
    return replace(error, nonlinearity=missed, shift_error=missed)


def _corrected(
    gd: GraphicalDerivative,
    perturbation: Perturbation,
    objective: Objective,
    weights: Array,
    n_steps: int,
) -> tuple[Array, GraphicalDerivative]:
    """Weights after Newton steps on the perturbed data, and the derivative there.

    Kinks are exchanged where others hold there.
    """
    if gd.kinks.holds:
        found = _exchanged(gd, perturbation, objective, weights, None)
        if found is not None:
            return found.weights, found
    for _ in range(n_steps):
        weights = weights + gd.at(objective, weights).newton_step()
    return weights, gd.at(objective, weights)


def _without_derivative(
    gd: GraphicalDerivative, dX: Array
) -> tuple[tuple[int, ...], bool]:
    """Features that move and jump, and whether entries on a kink move."""
    moving = dX.reshape(len(dX), -1) != 0.0
    found = gd.undifferentiable
    jumping = np.flatnonzero((found.jumps & moving).any(axis=0))
    return tuple(int(j) for j in jumping), bool((found.kinks & moving).any())


def _status(piece: _Piece, base_is_trustworthy: bool, base_status: str) -> str:
    if not base_is_trustworthy:
        return f"from an untrustworthy solution ({base_status})"
    if piece.affine.reason is not Reason.SOLVED:
        return piece.affine.status
    if piece.changes_rank:
        return (
            "the rank of H changes with this perturbation (for example duplicated rows "
            "that come apart): the solutions may move much further than the shift; "
            "retrain, or add weight decay"
        )
    if piece.jumping:
        return (
            f"X moves in features {named(piece.jumping)}, along which the outputs "
            "jump (an integer, a rounding or a threshold inside forward): no "
            "derivative exists there; retrain"
        )
    left = (
        f"{piece.error.nonlinearity:.2g} of the perturbed residual is left, the next "
        f"correction is {piece.error.shift_error:.2g} of the shift"
    )
    if piece.first_break < 1.0:
        left = f"kinks change from {piece.first_break:.2g} of it on; {left}"
    if piece.derivative.note:
        left = f"{piece.derivative.note}; {left}"
    if piece.parts_twins:
        return (
            "equal rows sit on a kink together and part, where the derivative is "
            f"one-sided: {left}; n_corrections=1 may find which of them stays, and "
            "retrain does"
        )
    if piece.lacks_derivative:
        return (
            "X moves in entries on a kink of the net (relu(x) or abs(x) at 0, a tie of "
            f"a maximum), where the derivative is one-sided: {left}; retrain"
        )
    if piece.may_end:
        return (
            "the branch of solutions may end within this perturbation (the next step "
            f"leaves {piece.error.remaining:.2g} of the curvature along it): {left}; "
            "use a smaller perturbation, follow_path, or retrain"
        )
    if piece.error.worse <= HOLDS_TOL:
        return f"first order holds: {left}"
    if piece.error.worse < FAR:
        return f"first order is rough: {left}; set n_corrections=1"
    if piece.corrected_by > _RAN_AWAY:
        return (
            f"outside the range of linearity: the corrections went "
            f"{piece.corrected_by:.2g} times as far as the first order, where {left}; "
            "use a smaller perturbation, follow_path, or retrain"
        )
    return (
        f"outside the range of linearity: {left}; use a smaller perturbation, "
        "n_corrections, or retrain"
    )


def _warn_of_solves(affine: list[AffineSet]) -> None:
    ended = [a for a in affine if not a.converged]
    if ended:
        worst = max(ended, key=lambda a: a.residual)
        warnings.warn(
            f"{len(ended)} of {len(affine)} predicted shifts are not solved to "
            f"solver_tol: {worst.status}.",
            SolverWarning,
            stacklevel=user_stacklevel(),
        )


def _warn(
    perturbation: Perturbation,
    is_empty: NDArray[np.bool_],
    changes_rank: NDArray[np.bool_],
    may_end: NDArray[np.bool_],
    relative_error: Array,
) -> None:
    if is_empty.any():
        warnings.warn(
            f"The predicted set is empty at {is_empty.sum()} of {len(is_empty)} "
            "solutions: this perturbation leaves range H, so that no first-order "
            "shift exists (see is_empty and residual). Perturb other features, or add "
            "weight decay.",
            IllPosedWarning,
            stacklevel=user_stacklevel(),
        )
    if changes_rank.any():
        warnings.warn(
            f"The rank of H changes with this perturbation at {changes_rank.sum()} of "
            f"{len(is_empty)} solutions: they may move much further than the predicted "
            "shift. Retrain, or add weight decay.",
            IllPosedWarning,
            stacklevel=user_stacklevel(),
        )
    if may_end.any():
        warnings.warn(
            f"The branch of solutions may end within this perturbation at "
            f"{may_end.sum()} of {len(may_end)} solutions: beyond, they jump. Use a "
            "smaller one (see linear_range), follow_path, or retrain.",
            NonlinearityWarning,
            stacklevel=user_stacklevel(),
        )
    far = relative_error >= FAR
    if far.any():
        worst = float(np.nanmax(relative_error))
        # The error grows about in proportion to the perturbation.
        errors = (
            f"errors of up to {worst:.2g} of the shift, and of {HOLDS_TOL:.0%} from "
            f"about {HOLDS_TOL / worst:.1g} of the perturbation on"
            if np.isfinite(worst)
            else "no bound on the error was found at some"
        )
        warnings.warn(
            f"The perturbation is outside the range of linearity at {far.sum()} of "
            f"{len(far)} solutions: {errors} (see nonlinearity, shift_error). Use a "
            "smaller one (see linear_range), n_corrections, or retrain."
            f"{_other_data(perturbation)}",
            NonlinearityWarning,
            stacklevel=user_stacklevel(),
        )


def _other_data(perturbation: Perturbation) -> str:
    """A sentence for X that moves about as far as other rows would be away."""
    spread = np.linalg.norm(perturbation.X - perturbation.X.mean(axis=0))
    if np.linalg.norm(perturbation.dX) < 0.5 * spread:
        return ""
    return (
        " X_perturbed is as far from the training X as other data would be: are these "
        "the training rows in their order, and not the perturbation alone, nor data "
        "that a pipeline transforms a second time?"
    )
