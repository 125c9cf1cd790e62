"""Linear models with squared loss: affine, half-dead and isolated solution sets."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state
from torch import nn

from sksetsens._validation import check_count, check_positive
from sksetsens.datasets._modules import LinearNetwork

Array = NDArray[np.floating[Any]]


def random_directions(
    rng: np.random.RandomState, n_rows: int, n_columns: int
) -> NDArray[np.floating[Any]]:
    """Rows of Euclidean norm 1, uniformly distributed."""
    directions = rng.standard_normal((n_rows, n_columns))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _hessian(X: Array, weight_decay: float = 0.0) -> Array:
    """H of ``mean((X w - y)^2) + weight_decay / 2 |w|^2``."""
    return 2 / len(X) * X.T @ X + weight_decay * np.eye(X.shape[1])


def _cross_derivative(X: Array, y: Array, weights: Array) -> Array:
    """B of the same objective, shape (d, n * d), columns row-major in (row, feature).

    R_a = (2/n) sum_i X_ia r_i with r = X w - y, so
    dR_a / dX_ij = (2/n) (delta_aj r_i + X_ia w_j).
    """
    n_samples, n_features = X.shape
    B = np.einsum("aj,i->aij", np.eye(n_features), X @ weights - y)
    B += np.einsum("ia,j->aij", X, weights)
    return 2 / n_samples * B.reshape(n_features, n_samples * n_features)


# Functions of a Bunch are partials of functions of this module, so that it pickles.


def _interpolating_modulus(X: Array, weights: Array) -> float:
    return float(np.linalg.norm(weights) / np.linalg.norm(X, ord=-2))


def _interpolating_shift(X: Array, weights: Array, dX: Array) -> Array:
    return -np.linalg.lstsq(X, dX @ weights, rcond=None)[0]


def _distance_to_affine(
    X: Array, y: Array, weights: Array, X_perturbed: Array | None = None
) -> float:
    X = X if X_perturbed is None else X_perturbed
    return float(np.linalg.norm(np.linalg.lstsq(X, X @ weights - y, rcond=None)[0]))


def make_underdetermined_linear(
    n_samples: int = 5,
    n_features: int = 9,
    *,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Interpolating linear model: the solution set is affine.

    The model is ``f(x) = x w`` with more features than samples; its solution set is
    exactly ``{w : X w = y}``, and the Lipschitz-like property holds everywhere on it.

    Parameters
    ----------
    n_samples : int, default=5
        Number of samples.

    n_features : int, default=9
        Number of features, more than `n_samples`.

    perturbation_size : float, default=0.1
        Euclidean norm of each row of `dX`.

    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean.

        X, X_perturbed, dX : ndarray of shape (n_samples, n_features)
            Data, perturbed data and their difference.
        y : ndarray of shape (n_samples,)
            Labels, which the model can attain.
        module, criterion : class
            :class:`LinearNetwork` and ``nn.MSELoss``.
        weights : ndarray of shape (n_features,)
            The shortest solution ``X^+ y``.
        H : ndarray of shape (n_features, n_features)
            Hessian of the loss, the same at all weights.
        kernel_dim : int
            Dimension of ker H and of the solution set: ``n_features - n_samples``.
        lipschitz_modulus : callable
            ``lipschitz_modulus(weights)``: ``|weights| / sigma_min(X)``, the exact
            modulus at a solution.
        shift : callable
            ``shift(weights, dX)``: ``-X^+ (dX weights)``, the shortest predicted
            shift of a solution.
        distance : callable
            ``distance(weights, X_perturbed=None)``: distance of any weights to
            the solution set of `X`, or of `X_perturbed`.

    Examples
    --------
    >>> from sksetsens.datasets import make_underdetermined_linear
    >>> data = make_underdetermined_linear(n_samples=3, n_features=7, random_state=0)
    >>> data.kernel_dim, round(data.distance(data.weights), 12)
    (4, 0.0)

    To first order, doubling the data takes the whole solution away:

    >>> import numpy as np
    >>> bool(np.allclose(data.shift(data.weights, data.X), -data.weights))
    True
    """
    name = "make_underdetermined_linear"
    check_count(name, "n_samples", n_samples, low=1)
    check_count(name, "n_features", n_features, low=n_samples + 1)
    check_positive(name, "perturbation_size", perturbation_size)
    rng = check_random_state(random_state)
    X = rng.standard_normal((n_samples, n_features))
    y = X @ rng.standard_normal(n_features)
    dX = perturbation_size * random_directions(rng, n_samples, n_features)
    return Bunch(
        X=X,
        y=y,
        module=LinearNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        weights=np.linalg.lstsq(X, y, rcond=None)[0],
        H=_hessian(X),
        kernel_dim=n_features - n_samples,
        lipschitz_modulus=partial(_interpolating_modulus, X),
        shift=partial(_interpolating_shift, X),
        distance=partial(_distance_to_affine, X, y),
    )


def _live_shift(X: Array, y: Array, weights: Array, dX: Array) -> Array:
    if np.any(dX[:, -1]):
        raise ValueError(
            "The 'dX' parameter of shift must be 0 in the dead feature, else no "
            f"first-order shift exists. Got the column {dX[:, -1]!r} instead."
        )
    B = _cross_derivative(X, y, weights)
    # The spectrum of H has its gap at the dead feature; the rest is well-conditioned.
    return -np.linalg.pinv(_hessian(X), rcond=1e-10, hermitian=True) @ B @ dX.ravel()


def make_dead_feature(
    n_samples: int = 40,
    n_features: int = 6,
    *,
    noise: float = 0.5,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Least squares with a column of zeros: the Lipschitz-like property fails.

    The labels are noisy, so no weights interpolate. The weight of the dead (last)
    feature is free: H is singular. A perturbation of the dead column leaves range H:
    the graphical derivative is empty and the modulus infinite. A perturbation that
    leaves that column at zero has a finite answer.

    Parameters
    ----------
    n_samples : int, default=40
        Number of samples, at least `n_features`.

    n_features : int, default=6
        Number of features, the dead one included; at least 2.

    noise : float, default=0.5
        Standard deviation of the labels' noise.

    perturbation_size : float, default=0.1
        Euclidean norm of each row of `dX_dead` and `dX_live`.

    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean.

        X : ndarray of shape (n_samples, n_features)
            Data; the last column is 0.
        y : ndarray of shape (n_samples,)
            Noisy labels.
        module, criterion : class
            :class:`LinearNetwork` and ``nn.MSELoss``.
        dead_feature : int
            Index of the dead feature: ``n_features - 1``.
        X_perturbed_dead, dX_dead : ndarray of shape (n_samples, n_features)
            A perturbation of the dead column alone, along the signs of the residuals.
        X_perturbed_live, dX_live : ndarray of shape (n_samples, n_features)
            A random perturbation of the other columns.
        X_perturbed, dX : ndarray of shape (n_samples, n_features)
            The live one again, the one with an answer.
        weights : ndarray of shape (n_features,)
            The shortest least-squares solution.
        H : ndarray of shape (n_features, n_features)
            Hessian of the loss.
        B : ndarray of shape (n_features, n_samples * n_features)
            Derivative of the gradient in the data at `weights`, columns row-major
            over (sample, feature).
        kernel_dim : int
            Dimension of ker H: 1.
        lipschitz_modulus : float
            Infinity.
        shift : callable
            ``shift(dX_live)``: ``-H^+ B dx``, the shortest predicted shift. It
            raises where the dead column moves.

    Examples
    --------
    >>> from sksetsens.datasets import make_dead_feature
    >>> data = make_dead_feature(random_state=0)
    >>> data.dead_feature, data.kernel_dim, data.lipschitz_modulus
    (5, 1, inf)
    >>> float(data.H[5, 5]), bool((data.B @ data.dX_dead.ravel())[5] != 0)
    (0.0, True)
    """
    name = "make_dead_feature"
    check_count(name, "n_features", n_features, low=2)
    check_count(name, "n_samples", n_samples, low=n_features)
    check_positive(name, "noise", noise)
    check_positive(name, "perturbation_size", perturbation_size)
    rng = check_random_state(random_state)
    X = rng.standard_normal((n_samples, n_features))
    X[:, -1] = 0.0
    y = X @ rng.standard_normal(n_features) + noise * rng.standard_normal(n_samples)
    weights = np.append(np.linalg.lstsq(X[:, :-1], y, rcond=None)[0], 0.0)
    dX_dead, dX_live = np.zeros_like(X), np.zeros_like(X)
    # Along the residuals' signs, R_dead moves by (2/n) sum_i |r_i| size > 0.
    dX_dead[:, -1] = perturbation_size * np.where(X @ weights >= y, 1.0, -1.0)
    directions = random_directions(rng, n_samples, n_features - 1)
    dX_live[:, :-1] = perturbation_size * directions
    return Bunch(
        X=X,
        y=y,
        module=LinearNetwork,
        criterion=nn.MSELoss,
        dead_feature=n_features - 1,
        X_perturbed_dead=X + dX_dead,
        dX_dead=dX_dead,
        X_perturbed_live=X + dX_live,
        dX_live=dX_live,
        X_perturbed=X + dX_live,
        dX=dX_live,
        weights=weights,
        H=_hessian(X),
        B=_cross_derivative(X, y, weights),
        kernel_dim=1,
        lipschitz_modulus=np.inf,
        shift=partial(_live_shift, X, y, weights),
    )


def _ridge_weights(X: Array, y: Array, weight_decay: float) -> Array:
    return np.linalg.solve(_hessian(X, weight_decay), 2 / len(X) * X.T @ y)


def _influence(minus_inverse_cross: Array, dX: Array) -> Array:
    return minus_inverse_cross @ np.ravel(dX)


def make_isolated_minimum(
    n_samples: int = 30,
    n_features: int = 5,
    *,
    weight_decay: float = 0.1,
    noise: float = 0.5,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Ridge regression: one solution, the case of the influence function.

    The objective is ``mean((X w - y)^2) + weight_decay / 2 |w|^2``, which torch's SGD
    and Adam minimise with that `weight_decay`. H is positive definite, so set-valued
    sensitivity is the influence function of [1]_.

    Parameters
    ----------
    n_samples : int, default=30
        Number of samples.

    n_features : int, default=5
        Number of features.

    weight_decay : float, default=0.1
        Strength of the penalty.

    noise : float, default=0.5
        Standard deviation of the labels' noise.

    perturbation_size : float, default=0.1
        Euclidean norm of each row of `dX`.

    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean.

        X, X_perturbed, dX : ndarray of shape (n_samples, n_features)
            Data, perturbed data and their difference.
        y : ndarray of shape (n_samples,)
            Noisy labels.
        module, criterion : class
            :class:`LinearNetwork` and ``nn.MSELoss``.
        weight_decay : float
            To be given to the optimizer.
        weights, weights_perturbed : ndarray of shape (n_features,)
            The exact solutions for `X` and for `X_perturbed`.
        H : ndarray of shape (n_features, n_features)
            Hessian of the objective.
        B : ndarray of shape (n_features, n_samples * n_features)
            Derivative of the gradient in the data at `weights`, columns row-major
            over (sample, feature).
        kernel_dim : int
            Dimension of ker H: 0.
        lipschitz_modulus : float
            ``|H^-1 B|_2``.
        shift : callable
            ``shift(dX)``: ``-H^-1 B dx``.

    References
    ----------
    .. [1] P. W. Koh, P. Liang, "Understanding Black-box Predictions via Influence
       Functions", ICML 2017, :arxiv:`1703.04730`.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.datasets import make_isolated_minimum
    >>> data = make_isolated_minimum(perturbation_size=1e-6, random_state=0)
    >>> moved = data.weights_perturbed - data.weights
    >>> bool(np.linalg.norm(data.shift(data.dX) - moved) < 1e-10)
    True
    """
    name = "make_isolated_minimum"
    check_count(name, "n_samples", n_samples, low=1)
    check_count(name, "n_features", n_features, low=1)
    for key, value in [
        ("weight_decay", weight_decay),
        ("noise", noise),
        ("perturbation_size", perturbation_size),
    ]:
        check_positive(name, key, value)
    rng = check_random_state(random_state)
    X = rng.standard_normal((n_samples, n_features))
    y = X @ rng.standard_normal(n_features) + noise * rng.standard_normal(n_samples)
    dX = perturbation_size * random_directions(rng, n_samples, n_features)
    weights = _ridge_weights(X, y, weight_decay)
    H, B = _hessian(X, weight_decay), _cross_derivative(X, y, weights)
    minus_inverse_cross = -np.linalg.solve(H, B)
    return Bunch(
        X=X,
        y=y,
        module=LinearNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        weight_decay=weight_decay,
        weights=weights,
        weights_perturbed=_ridge_weights(X + dX, y, weight_decay),
        H=H,
        B=B,
        kernel_dim=0,
        lipschitz_modulus=float(np.linalg.norm(minus_inverse_cross, ord=2)),
        shift=partial(_influence, minus_inverse_cross),
    )
