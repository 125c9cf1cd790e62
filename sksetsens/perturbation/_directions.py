r"""Directions in which the training data may move.

The perturbation model is :math:`x_i^p = x_i + \delta u_i` with :math:`|u_i| = 1` for
rows i in K and 0 otherwise: :math:`\delta` is the Euclidean size per row, so that
:math:`|dx| = \delta \sqrt{|K|}` in the Frobenius norm (arXiv 2412.11057, Section 4).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._compat import Interval, RealNotInt, StrOptions
from ..objective import Objective

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "called_directions",
    "choose_rows",
    "gradient_directions",
    "perturbed",
    "random_directions",
]

Array = NDArray[np.float64]

PARAMETER_CONSTRAINTS = {
    "perturbation": [StrOptions({"gradient", "random", "worst_case"}), callable],
    "perturbation_size": [Interval(Real, 0, None, closed="left")],
    "perturbed_fraction": [
        Interval(Integral, 1, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="right"),
    ],
}

# A row's output gradient below this share of the one at output zero is rounding.
_VANISHING = 1e-8


def choose_rows(
    fraction: float | int, n_samples: int, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Mask of the perturbed rows K, drawn without replacement.

    Parameters
    ----------
    fraction : float or int
        Share of the rows (rounded, at least one) or their number.
    n_samples : int
    rng : RandomState

    Returns
    -------
    rows : ndarray of bool of shape (n_samples,)

    Raises
    ------
    ValueError
        If more rows are to move than there are, or a bool is given.
    """
    if isinstance(fraction, bool | np.bool_):
        raise ValueError(
            "The 'perturbed_fraction' parameter of SolutionSetEstimator must be an int "
            "in the range [1, inf) or a float in the range (0.0, 1.0]. Got "
            f"{fraction!r} instead."
        )
    if isinstance(fraction, (int, np.integer)):
        n_rows = int(fraction)
    else:
        n_rows = max(1, round(float(fraction) * n_samples))
    if n_rows > n_samples:
        raise ValueError(
            "The 'perturbed_fraction' parameter of SolutionSetEstimator must be at "
            f"most the number of rows, {n_samples}. Got {fraction!r} instead."
        )
    rows = np.zeros(n_samples, dtype=bool)
    rows[rng.permutation(n_samples)[:n_rows]] = True
    return rows


def random_directions(shape: tuple[int, ...], rng: np.random.RandomState) -> Array:
    """Directions uniform on the unit sphere of each row."""
    return rng.standard_normal(shape)


def gradient_directions(objectives: Sequence[Objective], weights: Array) -> Array:
    """Direction per row in which the mean loss of the solutions grows fastest.

    Where a row's loss gradient vanishes (a net that interpolates), the loss grows to
    second order, along the leading eigenvector of ``D' Lambda D``; its sign, which
    does not matter to the loss, makes the largest entry positive.

    Parameters
    ----------
    objectives : sequence of Objective
        On the data to be perturbed, one per solution.
    weights : ndarray of shape (n_solutions, n_params)

    Returns
    -------
    directions : ndarray of the shape of X
        Not normalised.
    """
    pairs = list(zip(objectives, weights, strict=True))
    gradient = np.mean([o.input_gradient(w) for o, w in pairs], axis=0)
    vanishing = np.all([_vanishes(o, w) for o, w in pairs], axis=0)
    if vanishing.any():
        growth = np.concatenate([_root_growth(o, w)[vanishing] for o, w in pairs], 1)
        gradient[vanishing] = _leading(growth).reshape(-1, *gradient.shape[1:])
    return gradient


def _vanishes(objective: Objective, w: Array) -> NDArray[np.bool_]:
    """Rows whose output gradient r is rounding beside that of an output of zero."""
    r = objective.output_gradient(w)
    outputs = objective.outputs(w).reshape(*r.shape, 1)
    scale = np.abs(objective.output_hessian(w) @ outputs).max()
    return np.linalg.norm(r, axis=1) <= _VANISHING * scale


def _root_growth(objective: Objective, w: Array) -> Array:
    """``S D`` per row: a movement u of the row costs ``|S D u|^2 / 2``."""
    eigenvalues, vectors = np.linalg.eigh(objective.output_hessian(w))
    # Concave directions of the loss are left out: it does not grow along them.
    root = np.sqrt(np.maximum(eigenvalues, 0.0))[..., None]
    return (root * vectors.transpose(0, 2, 1)) @ objective.input_jacobian(w)


def _leading(blocks: Array) -> Array:
    """First right singular vector of each block, its largest entry positive."""
    leading = np.linalg.svd(blocks, full_matrices=False)[2][:, 0]
    largest = np.abs(leading).argmax(axis=1)
    signs = np.where(leading[np.arange(len(leading)), largest] < 0, -1.0, 1.0)
    return leading * signs[:, None]


def perturbed(
    X: Array, directions: Array, rows: NDArray[np.bool_], size: float
) -> Array:
    """``X`` with the chosen rows moved by ``size`` along their unit directions.

    Parameters
    ----------
    X : ndarray of shape (n_samples, ...)
    directions : ndarray of the shape of X
        Rows of any length; a row of zeros stays where it is.
    rows : ndarray of bool of shape (n_samples,)
    size : float
        Euclidean length of each row's movement.

    Returns
    -------
    X_perturbed : ndarray of the shape of X

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.perturbation._directions import perturbed
    >>> X, along = np.zeros((2, 2)), np.array([[3.0, 4.0], [1.0, 0.0]])
    >>> perturbed(X, along, np.array([True, False]), 0.5)
    array([[0.3, 0.4],
           [0. , 0. ]])
    """
    flat = directions.reshape(len(X), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    units = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
    units[~rows] = 0.0
    return X + size * units.reshape(X.shape)


def called_directions(
    function: Callable[..., Any],
    estimator: Any,
    X: Array,
    y: Any,
    rng: np.random.RandomState,
) -> Array:
    """Directions from the user's callable, which gets copies of X and y, checked.

    Raises
    ------
    ValueError
        If the result is not real-valued, has another shape than X or is not finite.
    """
    directions = np.asarray(function(estimator, X.copy(), copy.deepcopy(y), rng))
    if directions.dtype.kind not in "biuf":
        raise ValueError(
            "The 'perturbation' callable of SolutionSetEstimator must return an array "
            f"of real numbers. Got dtype {directions.dtype} instead."
        )
    directions = directions.astype(np.float64)
    if directions.shape != X.shape:
        raise ValueError(
            "The 'perturbation' callable of SolutionSetEstimator must return an array "
            f"of the shape of X, {X.shape}. Got shape {directions.shape} instead."
        )
    if not np.isfinite(directions).all():
        bad = int((~np.isfinite(directions)).sum())
        raise ValueError(
            "The 'perturbation' callable of SolutionSetEstimator must return finite "
            f"directions. Got {bad} NaN or infinite entries instead."
        )
    return directions
