"""A local minimiser that meets a maximiser and disappears as the data moves."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state
from torch import nn

from sksetsens._validation import check_count, check_positive
from sksetsens.datasets._modules import FoldNetwork

Array = NDArray[np.floating[Any]]

# Functions of a Bunch are partials of functions of this module, so that it pickles.


def _branch(fold_weight: float, fold_fraction: float, fraction: float) -> Array:
    """Smallest of three real roots of the gradient, in Vieta's trigonometric form.

    The cubic ``2 w^3 - (2 - coupling) w = coupling * mean`` has its double root
    `fold_weight` at ``fraction == fold_fraction``, and its right side is proportional
    to the fraction.
    """
    ratio = fraction / fold_fraction
    if not 0 <= ratio <= 1:
        return np.array([np.nan])
    angle = (np.arccos(ratio) + 2 * np.pi) / 3
    return np.array([-2 * fold_weight * np.cos(angle)])


def _fold_shift(coupling: float, hessian: float, dX: Array) -> Array:
    return np.array([coupling * np.mean(dX) / hessian])


def make_fold(
    n_samples: int = 6,
    *,
    coupling: float = 0.5,
    fold_fraction: float = 0.5,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Local minimiser that disappears in a fold on the way to the perturbed data.

    The model has one weight and the outputs ``(w^2 - 1, sqrt(coupling) (w - x))``, with
    targets 0. With a = coupling and m the mean of the data, the mean squared error is
    ``((w^2 - 1)^2 + a (w - m)^2) / 2`` up to a constant: a double well, tilted towards
    m. Its gradient and Hessian are ::

        R = 2 w (w^2 - 1) + a (w - m),    H = 6 w^2 - 2 + a.

    For m = 0 the wells are equally deep. As m grows, the minimiser on the left moves
    to ``-sqrt((2 - a) / 6)``, where H vanishes and a maximiser comes to meet it. Beyond
    there is only the one on the right: no small perturbation's answer tells where the
    solution is, and a continuation has to stop.

    Parameters
    ----------
    n_samples : int, default=6
        Number of samples.

    coupling : float, default=0.5
        Strength of the tilt, below 2.

    fold_fraction : float, default=0.5
        Where the fold lies between `X` (0) and `X_perturbed` (1).

    random_state : int, RandomState instance or None, default=None
        Determines X.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean.

        X, X_perturbed, dX : ndarray of shape (n_samples, 1)
            Data of mean 0, perturbed data beyond the fold, and their difference, the
            same for all rows.
        y : ndarray of shape (n_samples, 2)
            Targets: 0.
        module, criterion : class
            :class:`FoldNetwork` and ``nn.MSELoss``.
        coupling : float
            To be given to the module, unless it is 0.5.
        weights : ndarray of shape (1,)
            The minimiser on the left, ``-sqrt(1 - coupling / 2)``; the module's
            `start`. The other one is ``-weights``.
        weights_perturbed : ndarray of shape (1,)
            The only minimiser for `X_perturbed`, on the right.
        H : ndarray of shape (1, 1)
            Hessian of the loss at `weights`: ``4 - 2 * coupling``.
        B : ndarray of shape (1, n_samples)
            Derivative of the gradient in the data: ``-coupling / n_samples``.
        kernel_dim : int
            Dimension of ker H: 0.
        lipschitz_modulus : float
            ``|H^-1 B|_2`` at `weights`.
        shift : callable
            ``shift(dX)``: ``-H^-1 B dx``, the predicted shift of `weights`.
        fold_fraction : float
            As given: the minimiser on the left exists for ``X + t * dX`` with t below.
        fold_weights : ndarray of shape (1,)
            Where it disappears.
        branch : callable
            ``branch(t)``: the minimiser on the left for ``X + t * dX``; NaN unless
            ``0 <= t <= fold_fraction``.

    Notes
    -----
    Train it from its solution: ``NeuralNetRegressor(data.module,
    module__start=data.weights.item(), train_split=None, max_epochs=1)``.

    Examples
    --------
    >>> from sksetsens.datasets import make_fold
    >>> data = make_fold(coupling=0.5, fold_fraction=0.25, random_state=0)
    >>> data.H.tolist(), data.fold_weights.tolist(), data.branch(0.3).tolist()
    ([[3.0]], [-0.5], [nan])

    At the fold the mean of the data is 1:

    >>> round(float((data.X + 0.25 * data.dX).mean()), 12)
    1.0
    """
    name = "make_fold"
    check_count(name, "n_samples", n_samples, low=1)
    check_positive(name, "coupling", coupling, below=2)
    check_positive(name, "fold_fraction", fold_fraction, below=1)
    X = check_random_state(random_state).standard_normal((n_samples, 1))
    X -= X.mean()
    fold = -float(np.sqrt((2 - coupling) / 6))
    # R = 0 at the fold, solved for the mean.
    fold_mean = fold + 2 * fold * (fold**2 - 1) / coupling
    dX = np.full_like(X, fold_mean / fold_fraction)
    hessian = 4 - 2 * float(coupling)
    # The one real root beyond the fold, in Vieta's hyperbolic form.
    right = -2 * fold * np.cosh(np.arccosh(1 / fold_fraction) / 3)
    return Bunch(
        X=X,
        y=np.zeros((n_samples, 2)),
        module=FoldNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        coupling=float(coupling),
        weights=np.array([-np.sqrt(1 - coupling / 2)]),
        weights_perturbed=np.array([right]),
        H=np.array([[hessian]]),
        B=np.full((1, n_samples), -coupling / n_samples),
        kernel_dim=0,
        lipschitz_modulus=float(coupling / (np.sqrt(n_samples) * hessian)),
        shift=partial(_fold_shift, coupling, hessian),
        fold_fraction=float(fold_fraction),
        fold_weights=np.array([fold]),
        branch=partial(_branch, fold, fold_fraction),
    )
