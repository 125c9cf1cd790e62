"""Gauss-Newton's matrix by a small Gram matrix, and L-BFGS from it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens.linalg import LiftedLowRank
from sksetsens.objective import (
    PointProducts,
    check_objective,
    gauss_newton_factor,
    initialised_net,
)
from sksetsens.optimize import _trust_region, lifted_gauss_newton, polish
from sksetsens.optimize._gauss_newton_lbfgs import gauss_newton_lbfgs
from sksetsens.optimize._preconditioned_lbfgs import preconditioned_lbfgs
from sksetsens.sensitivity import GraphicalDerivative


class Net(nn.Module):
    """Two hidden layers, the second without bias."""

    def __init__(self, n_in=64, width=8, n_out=10, activation=nn.GELU):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, width),
            activation(),
            nn.Linear(width, width, bias=False),
            nn.Tanh(),
            nn.Linear(width, n_out),
        )

    def forward(self, X):
        return self.layers(X)


def objective(n_rows=40, decay=1e-3, kind=NeuralNetClassifier, **module):
    X, y = load_digits(return_X_y=True)
    X, y = X[:n_rows] / 16.0, y[:n_rows]
    options = {f"module__{name}": value for name, value in module.items()}
    if kind is NeuralNetClassifier:
        options["criterion"] = nn.CrossEntropyLoss
    else:
        y, options["module__n_out"] = y[:, None] / 10.0, 1
    net = kind(Net, optimizer=torch.optim.SGD, optimizer__weight_decay=decay, **options)
    target = y if y.dtype.kind == "i" else y.astype(np.float32)
    trial = initialised_net(net, {}, 0)
    return check_objective(trial, X.astype(np.float32), target).with_data(X, y)


@pytest.mark.parametrize("kind", [NeuralNetClassifier, NeuralNetRegressor])
def test_all_directions_give_gauss_newtons_matrix(kind):
    o = objective(kind=kind)
    factor = gauss_newton_factor(o, o.weights, 10_000)
    J, L = o.jacobian(o.weights), o.output_hessian(o.weights)
    expected = np.einsum("nap,nab,nbq->pq", J, L, J)
    A = np.stack([factor.pull(unit) for unit in np.eye(len(factor.gram))])
    np.testing.assert_allclose(A.T @ A, expected, atol=1e-13)
    np.testing.assert_allclose(A @ A.T, factor.gram, atol=1e-13)
    v = np.random.default_rng(0).standard_normal(o.n_params)
    np.testing.assert_allclose(factor.push(v), A @ v, atol=1e-12)
    assert factor.share == pytest.approx(1.0)


def test_few_directions_are_the_stiffest():
    o = objective()
    factor = gauss_newton_factor(o, o.weights, 300)
    sizes = np.sort(np.linalg.eigvalsh(o.output_hessian(o.weights)).ravel())[::-1]
    assert len(factor.gram) == 300
    assert factor.share == pytest.approx(sizes[:300].sum() / sizes.sum())


def test_no_factor_where_few_directions_hold_little_or_layers_are_others():
    o = objective()
    assert gauss_newton_factor(o, o.weights, 3) is None

    class Convolution(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 10, 8))

        def forward(self, X):
            return super().forward(X).flatten(1)

    net = NeuralNetClassifier(Convolution, criterion=nn.CrossEntropyLoss)
    X, y = load_digits(return_X_y=True)
    X = X[:20].astype(np.float32) / 16
    trial = initialised_net(net, {}, 0)
    other = check_objective(trial, X, y[:20])
    assert gauss_newton_factor(other, other.weights, 1000) is None


def test_inverse_and_root_of_a_lifted_matrix():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((5, 12))
    A[4] = A[3]  # of rank 4
    P = LiftedLowRank(A @ A.T, A.__matmul__, A.T.__matmul__, 1e-3)
    dense, v = A.T @ A + 1e-3 * np.eye(12), rng.standard_normal(12)
    np.testing.assert_allclose(dense @ P.solve(v), v, atol=1e-9)
    twice = P.root(P.root_adjoint(v))
    np.testing.assert_allclose(twice, P.solve(v), rtol=1e-8, atol=1e-9)
    root = np.stack([P.root(unit) for unit in np.eye(12)], axis=1)
    adjoint = np.stack([P.root_adjoint(unit) for unit in np.eye(12)], axis=1)
    np.testing.assert_allclose(root, adjoint.T, atol=1e-10)
    assert P.norm == pytest.approx(np.linalg.norm(A, 2) ** 2)


def test_nothing_curves_the_loss():
    """Outputs are zero whatever the weights, and nothing is penalised."""
    assert LiftedLowRank(np.zeros((3, 3)), np.array, np.array, 1.0).norm == 0.0

    class Silent(Net):
        def forward(self, X):
            return super().forward(X) * 0.0

    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(Silent, criterion=nn.CrossEntropyLoss)
    trial = initialised_net(net, {}, 0)
    o = check_objective(trial, X[:20].astype(np.float32), y[:20])
    assert lifted_gauss_newton(o, o.weights) is None


def test_lbfgs_with_the_exact_inverse_is_newtons_method():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((20, 20))
    H, b = A @ A.T + np.eye(20), rng.standard_normal(20)

    def quadratic(w):
        return float(0.5 * w @ H @ w - b @ w), H @ w - b

    w, _ = preconditioned_lbfgs(
        quadratic, np.zeros(20), lambda v: np.linalg.solve(H, v), 1
    )
    np.testing.assert_allclose(w, np.linalg.solve(H, b), atol=1e-10)


def test_lbfgs_ends_at_a_minimum_without_a_step():
    w, n_iter = preconditioned_lbfgs(
        lambda w: (float(w @ w), 2.0 * w), np.zeros(3), lambda v: v, 5
    )
    assert n_iter <= 1
    np.testing.assert_array_equal(w, np.zeros(3))


def test_a_net_too_large_for_its_hessian_becomes_stationary():
    o = objective(100, 1e-2, width=48, activation=nn.Tanh)
    assert o.n_params > 3000
    found, n_iter = gauss_newton_lbfgs(o, o.weights)
    assert n_iter
    assert o.loss(found) < o.loss(o.weights)
    polished = polish(o, o.weights, tol=1e-10)
    assert polished.converged
    assert polished.stationarity <= 1e-12


def test_no_factor_where_weights_act_outside_their_layers():
    """Its Gram matrix would be that of the layers alone."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 8), nn.Linear(64, 10)

        def forward(self, X):
            h = torch.tanh(self.a(X))
            return self.b(torch.tanh(nn.functional.linear(h, self.a.weight.t())))

    X, y = load_digits(return_X_y=True)
    X, y = X[:20].astype(np.float32) / 16, y[:20]
    net = NeuralNetClassifier(Tied, criterion=nn.CrossEntropyLoss)
    o = check_objective(initialised_net(net, {}, 0), X, y)
    assert o.has_quick_hessian  # layers of linear weights alone
    assert gauss_newton_factor(o, o.weights, 1000) is None


def test_no_factor_where_the_net_gives_no_numbers():
    o = objective()
    assert gauss_newton_factor(o, np.full(o.n_params, np.nan), 1000) is None


@pytest.mark.parametrize("decay", [1.0, 1e-3])
def test_systems_of_large_nets_are_what_the_dense_ones_are(decay):
    """With much decay H proves to be definite; with little, at random weights, not."""
    o = objective(20, decay, width=44)
    assert o.n_params >= 5000
    o = o.tilted(o.gradient(o.weights))
    gd = GraphicalDerivative(o, o.weights, solver="minres")
    dX = np.random.default_rng(0).standard_normal(o.input_shape)
    H = o.hessian(o.weights)
    found, is_proved = gd(dX), gd.factor._proof is not None
    assert is_proved == (decay == 1.0)
    left = H @ found.shift + o.cross_product(o.weights, dX)
    assert np.linalg.norm(left) <= 1.01 * found.residual * np.linalg.norm(
        o.cross_product(o.weights, dX)
    )
    if is_proved:
        np.linalg.cholesky(H - gd.factor._proof.least * np.eye(len(H)))
        assert found.residual <= 1e-8
        assert gd.factor.inertia == (0, 0, o.n_params)


def test_warm_newton_takes_few_products(monkeypatch):
    """From a solution of nearby data, in the scales of Gauss-Newton's matrix."""
    o = objective(60, 1e-2, width=44)
    start = polish(o, o.weights, tol=1e-10).weights
    rng = np.random.default_rng(0)
    moved = o.with_data(o.inputs + 1e-3 * rng.standard_normal(o.inputs.shape))
    n_products = []

    def counted(near):
        products, hessian = [], PointProducts.hessian

        def product(self, v):
            products.append(v)
            return hessian(self, v)

        with monkeypatch.context() as m:
            m.setattr(PointProducts, "hessian", product)
            if not near:
                m.setattr(_trust_region, "lifted_gauss_newton", lambda *_: None)
            found = polish(moved, start, tol=1e-10, warm=True)
        assert found.converged
        n_products.append(len(products))
        return found.weights

    np.testing.assert_allclose(counted(True), counted(False), atol=1e-7)
    assert n_products[0] < 0.7 * n_products[1]
