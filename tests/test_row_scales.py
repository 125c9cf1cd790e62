"""Descent in the scales of Gauss-Newton's rows: oracles are dense matrices."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import Ridge
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens.linalg import LiftedRows
from sksetsens.objective import Objective, initialised_net
from sksetsens.optimize import lifted_gauss_newton, polish
from sksetsens.optimize._gauss_newton_lbfgs import row_scaled_lbfgs
from sksetsens.optimize._revival import _starts
from sksetsens.optimize._some_weights import SomeWeights


class Convolutions(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, 10),
        )

    def forward(self, X):
        return self.layers(X)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(2, 8), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 8, 0.0, activation="gelu", batch_first=True
        )

    def forward(self, X):
        up = self.up(X.reshape(len(X), 5, 2))
        return self.out(self.layer(up).mean(dim=1))


class Line(nn.Linear):
    def __init__(self):
        super().__init__(10, 1)


def images(n_rows=30, decay=1e-2, **module):
    X, y = load_digits(return_X_y=True)
    X = (X[:n_rows] / 16.0).reshape(-1, 1, 8, 8)
    net = NeuralNetClassifier(
        Convolutions,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__weight_decay=decay,
        **{f"module__{name}": value for name, value in module.items()},
    )
    return Objective(initialised_net(net, {}, 0), X, y[:n_rows])


def regression(module, n_rows=60, decay=1e-2, **options):
    X, y = map(scale, load_diabetes(return_X_y=True))
    net = NeuralNetRegressor(
        module, optimizer=torch.optim.SGD, optimizer__weight_decay=decay, **options
    )
    y = y if module is Line else np.tanh(X.sum(axis=1) / 3.0)
    return Objective(initialised_net(net, {}, 0), X[:n_rows], y[:n_rows, None])


@pytest.mark.parametrize("o", [images(), regression(Attention)])
def test_all_rows_give_gauss_newtons_matrix(o):
    A = o.curvature_rows(o.weights, o.n_equations)
    J, curvature = o.jacobian(o.weights), o.output_hessian(o.weights)
    expected = np.einsum("rkp,rkl,rlq->pq", J, curvature, J, optimize=True)
    np.testing.assert_allclose(A.T @ A, expected, atol=1e-13)


def test_fewer_rows_are_those_of_largest_curvature_and_stand_for_all():
    o = images()
    w = 3.0 * o.weights
    sizes = np.trace(o.output_hessian(w), axis1=1, axis2=2)
    A = o.curvature_rows(w, 70)
    kept = np.sort(np.argsort(-sizes)[:7])
    alone = o.jacobian(w, kept)
    curvature = o.output_hessian(w)[kept] * sizes.sum() / sizes[kept].sum()
    expected = np.einsum("rkp,rkl,rlq->pq", alone, curvature, alone, optimize=True)
    np.testing.assert_allclose(A.T @ A, expected, atol=1e-12)


def test_rows_of_weight_zero_are_left_out():
    o = regression(Line)
    weights = np.r_[np.zeros(20), np.ones(40)]
    assert len(o.weighted(weights).curvature_rows(o.weights, 1000)) == 40


class Downward(nn.Module):
    def forward(self, outputs, y):
        return -((outputs - y) ** 2).mean()


class Coupled(nn.Module):
    def forward(self, outputs, y):
        return ((outputs - y).mean() + (outputs - y) ** 2).square().mean()


@pytest.mark.parametrize("criterion", [Downward, Coupled, nn.L1Loss])
def test_no_rows_where_the_loss_is_no_sum_of_curved_rows(criterion):
    o = regression(Line, criterion=criterion)
    assert o.curvature_rows(o.weights, 1000) is None
    assert row_scaled_lbfgs(o, o.weights) is None


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (6, 6)])
def test_inverse_and_root_of_lifted_rows(shape):
    A = np.random.default_rng(0).standard_normal(shape)
    A[-1] = A[0]
    n = shape[1]
    for lift in (1e-3, 1e-4):
        P = LiftedRows(A, 1e-3).with_lift(lift)
        dense, v = A.T @ A + lift * np.eye(n), np.arange(n, dtype=float)
        np.testing.assert_allclose(dense @ P.solve(v), v, atol=1e-8)
        np.testing.assert_allclose(P.root(P.root_adjoint(v)), P.solve(v), rtol=1e-9)
        assert P.norm == pytest.approx(np.linalg.norm(A, 2) ** 2)


def test_of_some_weights_rows_and_products_are_columns():
    o = regression(Attention)
    free = np.arange(o.n_params) % 3 > 0
    some, u = SomeWeights(o, o.weights, free), o.weights[free]
    A = o.curvature_rows(o.weights, 1000)
    np.testing.assert_array_equal(some.curvature_rows(u, 1000), A[:, free])
    v, H = np.cos(np.arange(len(u))), o.hessian(o.weights)
    inside = H[np.ix_(free, free)] @ v
    np.testing.assert_allclose(some.products(u)(v), inside, atol=1e-12)
    np.testing.assert_allclose(some.penalty_product(u, v), 1e-2 * v, rtol=1e-12)


def test_of_a_line_it_is_ridge_regression():
    o = regression(Line, n_rows=442)
    w, n_iter = row_scaled_lbfgs(o, o.weights)
    X, y = np.c_[o.inputs, np.ones(442)], o.targets[:, 0]
    # |y - Xw|^2 / n + 1e-2 |w|^2 / 2, the constant penalised too.
    exact = Ridge(442 * 1e-2 / 2, fit_intercept=False).fit(X, y).coef_
    np.testing.assert_allclose(w, exact, atol=1e-12)
    assert n_iter < 100


def test_it_ends_where_little_of_the_gradient_is_enough():
    o = images()
    w, n_iter = row_scaled_lbfgs(o, o.weights)
    rough, fewer = row_scaled_lbfgs(o, o.weights, 1e-5)
    assert np.linalg.norm(o.gradient(w)) < 1e-12
    assert np.linalg.norm(o.gradient(rough)) <= 1e-5
    assert fewer <= n_iter


@pytest.mark.parametrize("o", [images(), regression(Attention)])
def test_nets_become_stationary_without_a_hessian(o, monkeypatch):
    def refused(self, weights):
        raise AssertionError("a Hessian is formed by rows")

    monkeypatch.setattr(Objective, "hessian", refused)
    polished = polish(o, o.weights, tol=1e-10)
    assert polished.converged
    assert polished.method in ("scaled", "scaled+krylov")


def test_nets_too_large_for_their_hessian():
    o = images(60, width=20)
    assert o.n_params > 3000
    P = lifted_gauss_newton(o, o.weights)
    assert isinstance(P, LiftedRows)
    A = o.curvature_rows(o.weights, o.n_equations)
    v = np.cos(np.arange(o.n_params))
    near = A.T @ (A @ v) + P.lift * v
    np.testing.assert_allclose(P.solve(near), v, atol=2e-3)
    polished = polish(o, o.weights, tol=1e-10)
    assert polished.converged


def test_large_nets_have_few_rows_and_free_ones_none(monkeypatch):
    """All of a net of 20,000 weights would be gigabytes."""
    asked, plain = [], Objective.curvature_rows

    def watched(self, weights, most):
        asked.append(most)
        return plain(self, weights, most)

    monkeypatch.setattr(Objective, "curvature_rows", watched)
    o = images(12, width=20)
    row_scaled_lbfgs(o, o.weights, 1e-2)
    assert set(asked) == {1000}
    free = images(12, decay=0.0, width=20)
    assert lifted_gauss_newton(free, free.weights) is None


def test_dead_units_of_many_ramps_are_asked_in_few_directions():
    rng = np.random.default_rng(0)
    X, G = rng.standard_normal((8000, 3)), np.ones((8000, 1))
    X[17] *= 1e3
    starts = _starts(X, G)
    assert 600 <= len(starts) <= 2000
    assert (starts == X[17]).all(axis=1).any()
    few = _starts(X[:100], G[:100])
    assert len(few) > 1000
    assert (few[-100:] == -X[:100]).all()
