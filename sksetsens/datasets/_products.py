"""Interpolating products of scalars and of matrices: curved solution sets."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state
from torch import nn

from sksetsens._validation import check_count, check_positive
from sksetsens.datasets._linear import random_directions
from sksetsens.datasets._modules import MatrixFactorisation, ProductNetwork

Array = NDArray[np.floating[Any]]

# Singular values of J below this share of the largest are its exact zeros in rounding.
_RCOND = 1e-10

# Functions of a Bunch are partials of functions of this module, so that it pickles.


def _product_gradient(weights: Array) -> Array:
    """d(w_1 ... w_m) / dw: the products of the other weights."""
    w = np.asarray(weights, dtype=float)
    return np.array([np.prod(np.delete(w, h)) for h in range(len(w))])


def _product_modulus(X: Array, product: float, weights: Array) -> float:
    g = _product_gradient(weights)
    return float(abs(product) / (np.linalg.norm(X) * np.linalg.norm(g)))


def _product_shift(X: Array, product: float, weights: Array, dX: Array) -> Array:
    g = _product_gradient(weights)
    return -product * float(np.vdot(X, dX)) / (np.vdot(X, X) * (g @ g)) * g


def make_product(
    n_factors: int = 3,
    n_samples: int = 4,
    *,
    product: float = 2.0,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Product of scalar weights: a solution set of any dimension, in closed form.

    The model is ``f(x) = w_1 w_2 ... w_m x`` with labels ``y = product * x``, so that
    the solution set is ``{w : w_1 w_2 ... w_m = product}``, of dimension m - 1. With
    ``g = d(w_1 ... w_m) / dw`` the outputs' derivatives are ``J = x g'`` in the weights
    and ``product`` times the identity in the data, so that ``J^+ D = product * g x' /
    (|g|^2 |x|^2)``. The case m = 2 is that of :func:`make_toy_network`.

    Parameters
    ----------
    n_factors : int, default=3
        Number m of weights, at least 2.

    n_samples : int, default=4
        Number of samples.

    product : float, default=2.0
        Slope of the labels, positive.

    perturbation_size : float, default=0.1
        Absolute value of each entry of `dX`.

    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean.

        X, X_perturbed, dX : ndarray of shape (n_samples, 1)
            Data, perturbed data and their difference.
        y : ndarray of shape (n_samples,)
            Labels.
        module, criterion : class
            :class:`ProductNetwork` and ``nn.MSELoss``.
        n_factors : int
            To be given to the module, unless it gets a solution as its `start`.
        weights : ndarray of shape (n_factors,)
            A solution of positive weights.
        H : ndarray of shape (n_factors, n_factors)
            Hessian of the loss at `weights`.
        B : ndarray of shape (n_factors, n_samples)
            Derivative of the gradient in the data at `weights`.
        kernel_dim : int
            Dimension of ker H and of the solution set: ``n_factors - 1``.
        product, product_perturbed : float
            Solutions are ``w_1 ... w_m = product`` before and ``w_1 ... w_m =
            product_perturbed`` after the perturbation.
        lipschitz_modulus : callable
            ``lipschitz_modulus(weights)``: ``product / (|x| |g|)``, the modulus at a
            solution.
        shift : callable
            ``shift(weights, dX)``: ``-product x'dx / (|x|^2 |g|^2) g``, the shortest
            predicted shift of a solution.

    Examples
    --------
    >>> from sksetsens.datasets import make_product
    >>> data = make_product(n_factors=3, product=8.0, random_state=0)
    >>> data.kernel_dim, round(float(data.weights.prod()), 12)
    (2, 8.0)

    Doubling the data halves the product: g'v = -8 to first order.

    >>> data.shift([2.0, 2.0, 2.0], data.X).round(12).tolist()
    [-0.666666666667, -0.666666666667, -0.666666666667]
    """
    name = "make_product"
    check_count(name, "n_factors", n_factors, low=2)
    check_count(name, "n_samples", n_samples, low=1)
    check_positive(name, "product", product)
    check_positive(name, "perturbation_size", perturbation_size)
    rng = check_random_state(random_state)
    X = rng.standard_normal((n_samples, 1))
    y = product * X[:, 0]
    dX = perturbation_size * random_directions(rng, n_samples, 1)
    weights = rng.uniform(0.5, 2.0, n_factors)
    weights *= (product / np.prod(weights)) ** (1 / n_factors)
    g = _product_gradient(weights)
    moved = X[:, 0] + dX[:, 0]
    return Bunch(
        X=X,
        y=y,
        module=ProductNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        n_factors=n_factors,
        weights=weights,
        H=2 / n_samples * float(np.vdot(X, X)) * np.outer(g, g),
        B=2 / n_samples * product * np.outer(g, X),
        kernel_dim=n_factors - 1,
        product=float(product),
        product_perturbed=float(moved @ y / (moved @ moved)),
        lipschitz_modulus=partial(_product_modulus, X, product),
        shift=partial(_product_shift, X, product),
    )


def _factors(weights: Array, n_features: int, rank: int) -> tuple[Array, Array]:
    """W1 of shape (n_features, rank) and W2 of shape (rank, n_outputs)."""
    first, second = np.split(np.asarray(weights, dtype=float), [n_features * rank])
    return first.reshape(n_features, rank), second.reshape(rank, -1)


def _jacobians(X: Array, W1: Array, W2: Array) -> tuple[Array, Array]:
    """J and D of the outputs ``F = X W1 W2``, row by row.

    ``dF_ij / dW1_ab = X_ia W2_bj``, ``dF_ij / dW2_bj = (X W1)_ib`` and
    ``dF_ij / dX_ia = (W1 W2)_aj``; all others are 0.
    """
    n_equations = len(X) * W2.shape[1]
    by_W1 = np.einsum("ia,bj->ijab", X, W2).reshape(n_equations, -1)
    by_W2 = np.einsum("ib,jl->ijbl", X @ W1, np.eye(W2.shape[1]))
    by_X = np.einsum("im,aj->ijma", np.eye(len(X)), W1 @ W2)
    J = np.hstack([by_W1, by_W2.reshape(n_equations, -1)])
    return J, by_X.reshape(n_equations, -1)


def _factorisation_modulus(X: Array, rank: int, weights: Array) -> float:
    J, D = _jacobians(X, *_factors(weights, X.shape[1], rank))
    return float(np.linalg.norm(np.linalg.pinv(J, rcond=_RCOND) @ D, ord=2))


def _factorisation_shift(X: Array, rank: int, weights: Array, dX: Array) -> Array:
    W1, W2 = _factors(weights, X.shape[1], rank)
    J, _ = _jacobians(X, W1, W2)
    moved = (dX @ W1 @ W2).ravel()
    return -np.linalg.lstsq(J, moved, rcond=_RCOND)[0]


def _reduced_rank_regression(X: Array, y: Array, rank: int) -> Array:
    """Matrix M of at most this rank with the smallest ``|X M - y|``.

    Least squares without the constraint, projected on the leading right singular
    vectors of its outputs (Eckart and Young).
    """
    free = np.linalg.lstsq(X, y, rcond=None)[0]
    leading = np.linalg.svd(X @ free)[2][:rank]
    return free @ leading.T @ leading


def make_matrix_factorisation(
    n_samples: int = 8,
    n_features: int = 4,
    n_outputs: int = 3,
    *,
    rank: int = 2,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Product of two matrices: a solution set of dimension ``rank^2``.

    The model is ``f(x) = x W1 W2`` with labels ``y = X M`` for a matrix M of rank
    exactly `rank`, the number of hidden units, and X of full column rank. The solution
    set is ``{(W1, W2) : W1 W2 = M} = {(U1 G, G^-1 U2) : G invertible}``, of dimension
    ``rank^2``; the Lipschitz-like property holds everywhere on it.

    Parameters
    ----------
    n_samples : int, default=8
        Number of samples, at least `n_features`.

    n_features : int, default=4
        Number of features, at least `rank`.

    n_outputs : int, default=3
        Number of outputs, at least `rank` and 2.

    rank : int, default=2
        Number of hidden units, and rank of M.

    perturbation_size : float, default=0.1
        Euclidean norm of each row of `dX`.

    random_state : int, RandomState instance or None, default=None
        Determines all random numbers.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All norms are Euclidean. Weights are flat: the entries of W1, then of W2, both
        row by row; p is their number, ``rank * (n_features + n_outputs)``.

        X, X_perturbed, dX : ndarray of shape (n_samples, n_features)
            Data, perturbed data and their difference.
        y : ndarray of shape (n_samples, n_outputs)
            Labels, which the model can attain.
        module, criterion : class
            :class:`MatrixFactorisation` and ``nn.MSELoss``.
        rank : int
            To be given to the module, unless it gets a solution as its `start`.
        weights : ndarray of shape (p,)
            The balanced solution, ``W1' W1 = W2 W2'``: of all, the shortest.
        H : ndarray of shape (p, p)
            Hessian of the loss at `weights`.
        B : ndarray of shape (p, n_samples * n_features)
            Derivative of the gradient in the data at `weights`, columns row-major
            over (sample, feature).
        kernel_dim : int
            Dimension of ker H and of the solution set: ``rank^2``.
        matrix, matrix_perturbed : ndarray of shape (n_features, n_outputs)
            Minimisers are ``W1 W2 = matrix`` before and ``W1 W2 = matrix_perturbed``
            after the perturbation. The singular values of `matrix` are equally spaced
            from 1 to 2.
        lipschitz_modulus : callable
            ``lipschitz_modulus(weights)``: ``|J^+ D|_2`` at a solution, with the
            outputs' dense derivatives J in the weights and D in the data.
        shift : callable
            ``shift(weights, dX)``: ``-J^+ D dx``, the shortest predicted shift of a
            solution.

    Examples
    --------
    >>> from sksetsens.datasets import make_matrix_factorisation
    >>> data = make_matrix_factorisation(rank=2, random_state=0)
    >>> len(data.weights), data.kernel_dim
    (14, 4)

    Halving the data doubles the product; balanced factors both grow by a half of that:

    >>> import numpy as np
    >>> shift = data.shift(data.weights, -data.X / 2)
    >>> bool(np.allclose(shift, data.weights / 4))
    True
    """
    name = "make_matrix_factorisation"
    check_count(name, "rank", rank, low=1)
    check_count(name, "n_features", n_features, low=rank)
    check_count(name, "n_samples", n_samples, low=n_features)
    check_count(name, "n_outputs", n_outputs, low=max(rank, 2))
    check_positive(name, "perturbation_size", perturbation_size)
    rng = check_random_state(random_state)
    X = rng.standard_normal((n_samples, n_features))
    left = np.linalg.qr(rng.standard_normal((n_features, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((n_outputs, rank)))[0]
    roots = np.sqrt(np.linspace(2.0, 1.0, rank))
    W1, W2 = left * roots, roots[:, None] * right.T
    weights = np.concatenate([W1.ravel(), W2.ravel()])
    y = X @ W1 @ W2
    dX = perturbation_size * random_directions(rng, n_samples, n_features)
    J, D = _jacobians(X, W1, W2)
    return Bunch(
        X=X,
        y=y,
        module=MatrixFactorisation,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        rank=rank,
        weights=weights,
        H=2 / y.size * J.T @ J,
        B=2 / y.size * J.T @ D,
        kernel_dim=rank**2,
        matrix=W1 @ W2,
        matrix_perturbed=_reduced_rank_regression(X + dX, y, rank),
        lipschitz_modulus=partial(_factorisation_modulus, X, rank),
        shift=partial(_factorisation_shift, X, rank),
    )
