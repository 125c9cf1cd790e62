"""Two-weight problems whose solution sets are hyperbolas, or degenerate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state
from torch import nn

from sksetsens._validation import check_count, check_positive
from sksetsens.datasets._modules import ShiftedProductNetwork, ToyNetwork

Array = NDArray[np.floating[Any]]


def _nearest_on_hyperbola(weights: Array, product: float) -> Array:
    """Point of ``{w : w1 w2 = product}``, product > 0, nearest to `weights`."""
    a, b = weights
    # Stationarity of (t - a)^2 + (product / t - b)^2 in t = w1, times t^3 / 2.
    roots = np.roots([1.0, -a, 0.0, b * product, -(product**2)])
    # A real root comes back with a rounding-sized imaginary part at most.
    real = roots.real[np.abs(roots.imag) < 1e-9 * np.abs(roots).max()]
    candidates = np.column_stack([real, product / real])
    distances = np.linalg.norm(candidates - weights, axis=1)
    return candidates[distances.argmin()]


def _toy_loss(X: Array, y: Array, weights: Array) -> float:
    """Mean squared error of ``f(x) = w1 w2 x``."""
    return float(np.mean((y - weights[0] * weights[1] * X[:, 0]) ** 2))


def make_toy_network(*, perturbation_size: float = 0.2) -> Bunch:
    """Toy network of the paper: a hyperbola of solutions that moves.

    The model is ``f(x) = w1 w2 x`` with data x = (1, 2), y = (2, 4), studied at
    ``w = (1, 2)``. With two samples, the mean squared error of torch is the paper's
    ``1/2 sum (y - w1 w2 x)^2`` exactly. See [1]_, toy example.

    Parameters
    ----------
    perturbation_size : float, default=0.2
        The data moves by ``dx = -perturbation_size * x``; below 1.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        All distances are Euclidean.

        X, X_perturbed, dX : ndarray of shape (2, 1)
            Data, perturbed data and their difference.
        y : ndarray of shape (2,)
            Labels.
        module, criterion : class
            :class:`ToyNetwork` and ``nn.MSELoss``.
        weights : ndarray of shape (2,)
            The solution (w1, w2) = (1, 2).
        H : ndarray of shape (2, 2)
            Hessian of the loss at `weights`.
        B : ndarray of shape (2, 2)
            Derivative of the gradient in the data; columns are samples.
        kernel_dim : int
            Dimension of ker H: 1.
        lipschitz_modulus : float
            ``|H^+ B|_2``: 0.4. (The paper prints 0.2 beside a radius that belongs
            to 0.4.)
        shift : ndarray of shape (2,)
            Shortest predicted shift ``-H^+ B dx``.
        shift_norm : float
            Its norm.
        loss_before, loss_predicted : float
            Loss on the perturbed data at `weights` and at ``weights + shift``.
        product, product_perturbed : float
            Solutions are ``w1 w2 = product`` before and ``w1 w2 =
            product_perturbed`` after the perturbation.
        true_nearest : ndarray of shape (2,)
            Point of the perturbed solution set nearest to `weights`.
        true_distance : float
            Its distance from `weights`.

    References
    ----------
    .. [1] X. Wang, F. Wang, X. Ban, "Set-Valued Sensitivity Analysis of Deep Neural
       Networks", AAAI 2025, :arxiv:`2412.11057`.

    Examples
    --------
    >>> from sksetsens.datasets import make_toy_network
    >>> data = make_toy_network()
    >>> data.H.tolist(), data.B.tolist()
    ([[20.0, 10.0], [10.0, 5.0]], [[4.0, 8.0], [2.0, 4.0]])
    >>> data.shift.round(12).tolist(), round(data.lipschitz_modulus, 12)
    ([0.16, 0.08], 0.4)
    """
    check_positive("make_toy_network", "perturbation_size", perturbation_size, below=1)
    X, weights, product = np.array([[1.0], [2.0]]), np.array([1.0, 2.0]), 2.0
    y = product * X[:, 0]
    dX = -perturbation_size * X
    # d(w1 w2)/dw = g. The residual is 0, so H and B are products of first derivatives.
    g = weights[::-1]
    energy = float(X[:, 0] @ X[:, 0])
    B = product * np.outer(g, X[:, 0])
    shift = -B @ dX[:, 0] / (energy * (g @ g))
    product_perturbed = product / (1 - perturbation_size)
    nearest = _nearest_on_hyperbola(weights, product_perturbed)
    return Bunch(
        X=X,
        y=y,
        module=ToyNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        weights=weights,
        H=energy * np.outer(g, g),
        B=B,
        kernel_dim=1,
        lipschitz_modulus=float(product / np.sqrt(energy * (g @ g))),
        shift=shift,
        shift_norm=float(np.linalg.norm(shift)),
        loss_before=_toy_loss(X + dX, y, weights),
        loss_predicted=_toy_loss(X + dX, y, weights + shift),
        product=product,
        product_perturbed=product_perturbed,
        true_nearest=nearest,
        true_distance=float(np.linalg.norm(nearest - weights)),
    )


def make_saddle(*, perturbation_size: float = 0.2) -> Bunch:
    """Toy network of :func:`make_toy_network` at its saddle ``w = (0, 0)``.

    The gradient vanishes there, H is nonsingular and the first-order answer is exact
    (the saddle does not move), but it is no minimum: H has a negative eigenvalue.

    Parameters
    ----------
    perturbation_size : float, default=0.2
        The data moves by ``dx = -perturbation_size * x``; below 1.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, X_perturbed, dX : ndarray of shape (2, 1)
            Data, perturbed data and their difference.
        y : ndarray of shape (2,)
            Labels.
        module, criterion : class
            :class:`ToyNetwork` and ``nn.MSELoss``.
        weights : ndarray of shape (2,)
            The saddle (0, 0).
        H : ndarray of shape (2, 2)
            Hessian of the loss at `weights`.
        B : ndarray of shape (2, 2)
            Derivative of the gradient in the data: 0.
        eigenvalues : ndarray of shape (2,)
            Eigenvalues of H, ascending.
        kernel_dim : int
            Dimension of ker H: 0.
        lipschitz_modulus : float
            ``|H^+ B|_2``: 0.
        shift : ndarray of shape (2,)
            ``-H^+ B dx``: 0.

    Examples
    --------
    >>> from sksetsens.datasets import make_saddle
    >>> data = make_saddle()
    >>> data.H.tolist(), data.eigenvalues.tolist()
    ([[0.0, -10.0], [-10.0, 0.0]], [-10.0, 10.0])
    """
    check_positive("make_saddle", "perturbation_size", perturbation_size, below=1)
    X, y = np.array([[1.0], [2.0]]), np.array([2.0, 4.0])
    # At w = 0 the outputs are 0; only the residual's term of H is left.
    slope = 2 / len(y) * float(X[:, 0] @ y)
    return Bunch(
        X=X,
        y=y,
        module=ToyNetwork,
        criterion=nn.MSELoss,
        X_perturbed=(1 - perturbation_size) * X,
        dX=-perturbation_size * X,
        weights=np.zeros(2),
        H=np.array([[0.0, -slope], [-slope, 0.0]]),
        B=np.zeros((2, 2)),
        eigenvalues=np.array([-slope, slope]),
        kernel_dim=0,
        lipschitz_modulus=0.0,
        shift=np.zeros(2),
    )


def make_degenerate_product(
    n_samples: int = 4,
    *,
    perturbation_size: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Minimum where the rank drops and the first-order answer is wrong.

    The model is ``f(x) = w1 w2 + x`` with labels y = x, at ``w = (0, 0)``. There H and
    B are 0, so the formulas give the modulus 0, while the solution set ``{w : w1 w2 =
    -mean(dx)}`` moves away from `weights` like a square root: the true modulus is
    infinite. Software must notice the change of rank.

    Parameters
    ----------
    n_samples : int, default=4
        Number of samples.

    perturbation_size : float, default=0.1
        Every row moves by this much, all in the same direction.

    random_state : int, RandomState instance or None, default=None
        Determines X.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, X_perturbed, dX : ndarray of shape (n_samples, 1)
            Data, perturbed data and their difference.
        y : ndarray of shape (n_samples,)
            Labels.
        module, criterion : class
            :class:`ShiftedProductNetwork` and ``nn.MSELoss``.
        weights : ndarray of shape (2,)
            The minimiser (0, 0).
        H : ndarray of shape (2, 2)
            Hessian of the loss at `weights`: 0.
        B : ndarray of shape (2, n_samples)
            Derivative of the gradient in the data: 0.
        kernel_dim : int
            Dimension of ker H: 2. The solution set has dimension 1 only.
        formula_modulus : float
            ``|H^+ B|_2``: 0.
        lipschitz_modulus : float
            The true modulus: infinity.
        shift : ndarray of shape (2,)
            ``-H^+ B dx``: 0.
        product, product_perturbed : float
            Minimisers are ``w1 w2 = product`` before and ``w1 w2 =
            product_perturbed`` after the perturbation.
        true_distance : float
            Euclidean distance from `weights` to the perturbed set:
            ``sqrt(2 * perturbation_size)``.

    Examples
    --------
    >>> from sksetsens.datasets import make_degenerate_product
    >>> data = make_degenerate_product(perturbation_size=0.5, random_state=0)
    >>> data.formula_modulus, data.true_distance, data.product_perturbed
    (0.0, 1.0, -0.5)
    """
    name = "make_degenerate_product"
    check_count(name, "n_samples", n_samples, low=1)
    check_positive(name, "perturbation_size", perturbation_size)
    X = check_random_state(random_state).standard_normal((n_samples, 1))
    dX = np.full_like(X, perturbation_size)
    return Bunch(
        X=X,
        y=X[:, 0].copy(),
        module=ShiftedProductNetwork,
        criterion=nn.MSELoss,
        X_perturbed=X + dX,
        dX=dX,
        weights=np.zeros(2),
        H=np.zeros((2, 2)),
        B=np.zeros((2, n_samples)),
        kernel_dim=2,
        formula_modulus=0.0,
        lipschitz_modulus=np.inf,
        shift=np.zeros(2),
        product=0.0,
        product_perturbed=-float(perturbation_size),
        true_distance=float(np.sqrt(2 * perturbation_size)),
    )
