"""Predicted solution sets: w + DS(x|w)(dx), with corrections where asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._linearise import spectral_evidence
from ._objective import Objective
from .derivatives import AffineSet, GraphicalDerivative
from .exceptions import IllPosedWarning, NonlinearityWarning
from .linalg import Subspace
from .solution_set import PredictedSolutionSet, SolutionSet

__all__ = ["predict_set"]

Array = NDArray[np.float64]

# Share of the perturbed residual that the prediction leaves. Up to a tenth the shift
# is first-order accurate; above a half the prediction removed less than it claims.
_HOLDS, _FAILS = 0.1, 0.5


@dataclass(frozen=True)
class _Piece:
    """One solution's prediction."""

    objective: Objective
    weights: Array
    kernel: Subspace
    affine: AffineSet
    loss: float
    base_loss: float
    gradient_norm: float
    nonlinearity: float
    derivative: GraphicalDerivative


def predict_set(
    base: SolutionSet,
    derivatives: Sequence[GraphicalDerivative],
    X: Array,
    X_perturbed: Array,
    y: NDArray[Any],
    y_perturbed: NDArray[Any] | None,
    *,
    n_corrections: int,
    tol: float,
    stacklevel: int,
) -> PredictedSolutionSet:
    """Predict the set of solutions on perturbed data.

    Parameters
    ----------
    base : SolutionSet
        On the data X, y.

    derivatives : sequence of GraphicalDerivative
        At its solutions.

    X, X_perturbed : ndarray of shape (n_samples, ...)

    y : ndarray of shape (n_samples, ...)

    y_perturbed : ndarray of the shape of y or None
        Real-valued targets that move too.

    n_corrections : int
        Newton steps on R(x^p, .) after the prediction (Gauss-Newton in the dual).

    tol : float
        Relative stationarity that counts as converged.

    stacklevel : int
        Of the warnings.

    Returns
    -------
    predicted : PredictedSolutionSet
    """
    dX = X_perturbed - X
    dy = None if y_perturbed is None else y_perturbed - y
    targets = y if y_perturbed is None else y_perturbed
    pieces = [
        _piece(gd, dX, dy, X_perturbed, targets, n_corrections) for gd in derivatives
    ]
    weights = np.stack([piece.weights for piece in pieces])
    shift = weights - base.weights
    is_empty = np.array([piece.affine.is_empty for piece in pieces])
    nonlinearity = np.array([piece.nonlinearity for piece in pieces])
    gradient_norms = np.array([piece.gradient_norm for piece in pieces])
    scales = np.array([piece.derivative.hessian_norm for piece in pieces])
    scales = scales * (1.0 + np.linalg.norm(weights, axis=1))
    relative = np.divide(
        gradient_norms, scales, out=np.zeros(len(pieces)), where=scales > 0
    )
    relative[is_empty] = np.nan
    evidence = {
        "losses": np.array([piece.loss for piece in pieces]),
        "base_losses": np.array([piece.base_loss for piece in pieces]),
        "gradient_norms": gradient_norms,
        "stationarity": relative,
        "converged": relative <= tol,
        **spectral_evidence([piece.derivative for piece in pieces]),
        "shift": shift,
        "shift_norm": np.where(is_empty, np.inf, np.linalg.norm(shift, axis=1)),
        "is_empty": is_empty,
        "residual": np.array([piece.affine.residual for piece in pieces]),
        "cutoff_change": np.array([piece.affine.cutoff_change for piece in pieces]),
        "nonlinearity": nonlinearity,
        "trustworthy": base.trustworthy & ~is_empty & (nonlinearity < _FAILS),
        "status": np.array(
            [
                _status(p, ok, s)
                for p, ok, s in zip(pieces, base.trustworthy, base.status, strict=True)
            ]
        ),
    }
    kernels = [piece.kernel for piece in pieces]
    objectives = [piece.objective for piece in pieces]
    _warn(is_empty, nonlinearity, stacklevel + 1)
    return PredictedSolutionSet(weights, evidence, kernels, objectives, base)


def _piece(
    gd: GraphicalDerivative,
    dX: Array,
    dy: NDArray[Any] | None,
    X_perturbed: Array,
    targets: NDArray[Any],
    n_corrections: int,
) -> _Piece:
    objective = gd.objective.with_data(X_perturbed, targets)
    affine = gd(dX, dy)
    before = float(np.linalg.norm(objective.gradient(gd.weights)))
    base_loss = objective.loss(gd.weights)
    if affine.is_empty:
        return _Piece(
            objective,
            affine.shift,
            gd.kernel,
            affine,
            np.nan,
            base_loss,
            np.nan,
            np.nan,
            gd,
        )
    weights, derivative = gd.weights + affine.shift, gd
    for _ in range(n_corrections):
        weights = weights + gd.at(objective, weights).newton_step()
    if n_corrections:
        derivative = gd.at(objective, weights)
    after = float(np.linalg.norm(objective.gradient(weights)))
    return _Piece(
        objective,
        weights,
        derivative.kernel,
        affine,
        objective.loss(weights),
        base_loss,
        after,
        after / before if before > 0 else 0.0,
        derivative,
    )


def _status(piece: _Piece, base_is_trustworthy: bool, base_status: str) -> str:
    if not base_is_trustworthy:
        return f"from an untrustworthy solution ({base_status})"
    if piece.affine.status != "solved":
        return piece.affine.status
    left = f"{piece.nonlinearity:.2g} of the perturbed residual is left"
    if piece.nonlinearity <= _HOLDS:
        return f"first order holds: {left}"
    if piece.nonlinearity < _FAILS:
        return f"first order is rough: {left}; add corrections"
    return (
        f"outside the range of linearity: {left}; use a smaller perturbation, "
        "n_corrections, or retrain"
    )


def _warn(is_empty: NDArray[np.bool_], nonlinearity: Array, stacklevel: int) -> None:
    if is_empty.any():
        warnings.warn(
            f"The predicted set is empty at {is_empty.sum()} of {len(is_empty)} "
            "solutions: this perturbation leaves range H, so that no first-order "
            "shift exists (see is_empty and residual). Perturb other features, or add "
            "weight decay.",
            IllPosedWarning,
            stacklevel=stacklevel + 1,
        )
    far = nonlinearity >= _FAILS
    if far.any():
        warnings.warn(
            f"The perturbation is outside the range of linearity at {far.sum()} of "
            f"{len(far)} solutions (largest nonlinearity {np.nanmax(nonlinearity):.2g}"
            "). Use a smaller perturbation, n_corrections, or retrain.",
            NonlinearityWarning,
            stacklevel=stacklevel + 1,
        )
