"""Descent in the scales of the curvature, on functions of known minima."""

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.objective import Objective, initialised_net
from sksetsens.optimize._lbfgs import lbfgs
from sksetsens.optimize._plan import planned_steps
from sksetsens.optimize._scaled_lbfgs import scaled_lbfgs


class Counted:
    """A function with its derivatives, which counts what it is asked."""

    def __init__(self, value, gradient, hessian, n_params):
        self._value, self._gradient, self._hessian = value, gradient, hessian
        self.n_params, self.n_gradients, self.n_hessians = n_params, 0, 0

    def value_and_gradient(self, w):
        self.n_gradients += 1
        return float(self._value(w)), self._gradient(w)

    def gradient(self, w):
        return self._gradient(w)

    def hessian(self, w):
        self.n_hessians += 1
        return self._hessian(w)

    def products(self, w):
        return self._hessian(w).__matmul__

    def hessian_norm(self, w):
        return float(np.linalg.norm(self._hessian(w), 2))


def rosenbrock(n):
    return Counted(
        scipy.optimize.rosen,
        scipy.optimize.rosen_der,
        scipy.optimize.rosen_hess,
        n,
    )


def test_a_stiff_quadratic_takes_a_few_steps():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    H = Q * np.logspace(-6, 2, 30) @ Q.T
    f = Counted(lambda w: 0.5 * w @ H @ w, lambda w: H @ w, lambda w: H, 30)
    plain = Counted(lambda w: 0.5 * w @ H @ w, lambda w: H @ w, lambda w: H, 30)
    start = rng.standard_normal(30)
    w, n_iter = scaled_lbfgs(f, start)
    v, _ = lbfgs(plain, start, 1e-14, 3000)
    assert np.linalg.norm(w) < 1e-3 < np.linalg.norm(start)
    assert 0 < n_iter < 1000
    assert f.n_gradients < plain.n_gradients or np.linalg.norm(v) > np.linalg.norm(w)


def test_a_curved_valley_is_followed_to_its_end():
    f = rosenbrock(10)
    start = np.tile([-1.2, 1.0], 5)
    w, _ = scaled_lbfgs(f, start)
    np.testing.assert_allclose(w, 1.0, atol=1e-6)
    assert f.n_hessians <= 6


def test_negative_curvature_is_left():
    """Next to the saddle of ``x^4 / 4 - x^2 / 2 + 50 y^2``."""
    f = Counted(
        lambda w: w[0] ** 4 / 4 - w[0] ** 2 / 2 + 50 * w[1] ** 2,
        lambda w: np.array([w[0] ** 3 - w[0], 100 * w[1]]),
        lambda w: np.diag([3 * w[0] ** 2 - 1, 100.0]),
        2,
    )
    w, _ = scaled_lbfgs(f, np.array([1e-3, 0.5]))
    np.testing.assert_allclose(np.abs(w), [1.0, 0.0], atol=1e-8)


def test_what_is_not_finite_is_left_as_it_is():
    f = Counted(lambda w: np.nan, lambda w: w * np.nan, lambda w: np.eye(2) * np.nan, 2)
    w, n_iter = scaled_lbfgs(f, np.ones(2))
    np.testing.assert_array_equal(w, np.ones(2))
    assert n_iter == 0


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, X):
        return self.out(self.cell(X.reshape(len(X), 5, 2))[0][:, -1])


def test_recurrent_nets_take_few_hessians(monkeypatch):
    """Newton's method in a ball took tens."""
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X)[:60], scale(y)[:60]
    net = NeuralNetRegressor(
        Last,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-3,
        lr=0.02,
        max_epochs=20,
        train_split=None,
        verbose=0,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    counts, plain = [], Objective.hessian

    def counted(self, weights):
        counts.append(1)
        return plain(self, weights)

    monkeypatch.setattr(Objective, "hessian", counted)
    assert model.fit(X, y).solution_set_.trustworthy.all()
    assert model.solution_set_.stationarity[0] < 1e-14
    assert model.restart_report_["method"][0] == "lbfgs+scaled"
    assert len(counts) <= 13
    # Steps with the last Hessian, and with one of each further step's.
    counts.clear()
    rng = np.random.default_rng(0)
    moved = model.retrain(X + 1e-3 * rng.standard_normal(X.shape))
    assert moved.stationarity[0] < 1e-14
    assert len(counts) <= 5


@pytest.mark.parametrize(
    ("decay", "names"), [(1e-3, ["newton", "scaled", "newton"]), (0.0, ["newton"])]
)
def test_warm_steps_give_way_to_descent_where_weights_are_held(decay, names):
    """Where nothing holds them, descent would leave the nearest of many solutions."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    net = NeuralNetRegressor(
        Last, optimizer=torch.optim.SGD, optimizer__weight_decay=decay
    )
    o = Objective(initialised_net(net, {}, 0), X[:200], y[:200, None])
    plan = planned_steps(o, o.weights, True, False, None)
    assert [name for name, _ in plan] == names
