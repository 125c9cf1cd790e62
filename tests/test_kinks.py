"""Kinks by hand: problems whose minimiser sits on one, with closed-form movements."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.linear_model import Lasso, QuantileRegressor
from skorch import NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sksetsens import (
    Coderivative,
    SolutionSetEstimator,
    follow_path,
    lipschitz_modulus,
    mordukhovich_criterion,
)
from sksetsens.datasets import LinearNetwork
from sksetsens.exceptions import UnsupportedObjectiveError

torch.set_num_threads(1)


def estimator(module, X, y, *, n_restarts=1, epochs=50, kind=NeuralNetRegressor, **net):
    options = {
        "optimizer": torch.optim.Adam,
        "lr": 0.05,
        "max_epochs": epochs,
        "batch_size": -1,
        "train_split": None,
        "verbose": 0,
    }
    inner = kind(module, **{**options, **net})
    model = SolutionSetEstimator(inner, n_restarts=n_restarts, random_state=0)
    return model.fit(X, y)


class _Scalar(nn.Module):
    """One weight w; outputs are ``kink(w) - w``, X is not looked at but for its sum."""

    def __init__(self, kink=None, start=0.3):
        super().__init__()
        self.w, self.kink = nn.Parameter(torch.tensor([start])), kink

    def forward(self, X):
        return self.kink(self.w - X.sum(1, keepdim=True))


def _pooled(window):
    def kink(z):
        return F.max_pool1d(torch.cat([z, -z], 1)[:, None], window)[:, 0]

    return kink


# |z| up to slopes: each has its minimum, and its only kink, at z = 0.
VALLEYS = {
    "abs": torch.abs,
    "two relus": lambda z: F.relu(z) + 2.0 * F.relu(-z),
    "leaky": lambda z: F.leaky_relu(z, 0.5) - 0.7 * z,
    "maximum": lambda z: torch.maximum(z, -0.5 * z),
    "minimum": lambda z: -torch.minimum(z, -z),
    "max": lambda z: torch.cat([z, -z], 1).max(1, keepdim=True).values,
    "amax": lambda z: torch.cat([z, -z], 1).amax(1, keepdim=True),
    "max_pool1d": _pooled(2),
    "clamp": lambda z: z.clamp(-5.0, 0.0) * -2.0 + z.clamp(0.0, 5.0),
    "hardtanh": lambda z: F.hardtanh(z, 0.0, 9.0) - 0.3 * z,
    "relu6": lambda z: F.relu6(z) - 0.3 * z,
}


class _Identity(nn.Module):
    def forward(self, f, y):
        return f.mean() + 0.0 * y.mean()


@pytest.mark.parametrize("name", VALLEYS)
def test_a_valley_follows_its_kink(name):
    """``L = mean kink(w - x_i)``: the minimiser is a quantile of the x_i.

    It moves with that row alone.
    """
    X = np.array([[0.5], [-0.2], [0.9], [0.1], [-0.6], [1.3], [0.7]])
    model = estimator(
        _Scalar,
        X,
        np.zeros(len(X)),
        criterion=_Identity,
        module__kink=VALLEYS[name],
    )
    s = model.solution_set_
    assert s.n_kinks.tolist() == [1]
    assert s.trustworthy.all(), s.status
    (row,) = np.flatnonzero(np.abs(X[:, 0] - s.weights[0, 0]) < 1e-12)
    candidates = np.linspace(-1.0, 1.5, 2001)
    z = torch.from_numpy(candidates[:, None, None] - X[None])
    values = VALLEYS[name](z.reshape(-1, 1)).reshape(len(candidates), -1).mean(1)
    nearest = candidates[int(values.argmin())]
    assert abs(nearest - s.weights[0, 0]) <= 2e-3
    moved = X + 0.01 * np.arange(1, 8)[:, None]
    predicted = model.sensitivity(moved)
    assert predicted.shift[0, 0] == pytest.approx((moved - X)[row, 0], rel=1e-9)
    expected = np.zeros(len(X))
    expected[row] = 1.0
    np.testing.assert_allclose(model.sample_lipschitz_moduli_[0], expected, atol=1e-12)
    assert model.lipschitz_modulus_ == pytest.approx(1.0)
    value = Coderivative(model.graphical_derivatives_[0])(np.array([3.0])).value
    np.testing.assert_allclose(value[:, 0], 3.0 * expected, atol=1e-12)


def test_a_path_of_a_median_changes_rows():
    """The median follows its row until another row overtakes it."""
    X = np.array([[0.5], [-0.2], [0.9]])
    model = estimator(
        _Scalar, X, np.zeros(3), criterion=_Identity, module__kink=torch.abs
    )
    end = X + np.array([[0.6], [0.0], [0.0]])  # row 0 overtakes row 2 at 2/3
    predicted = model.sensitivity(end)
    assert predicted.first_break[0] == pytest.approx(2.0 / 3.0, rel=1e-9)
    path = follow_path(model, end)
    assert path.arrived.all(), path.status
    assert path.solution_set.weights[0, 0] == pytest.approx(0.9, abs=1e-12)
    corrected = model.sensitivity(end, n_corrections=1)
    assert corrected.weights[0, 0] == pytest.approx(0.9, abs=1e-12)


# --- Losses and penalties with kinks --------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((40, 4))
    return X, X @ np.array([1.0, -2.0, 0.0, 0.0]) + rng.standard_normal(40)


class _Pinball(nn.Module):
    def forward(self, f, y):
        e = y - f
        return torch.maximum(0.8 * e, -0.2 * e).mean()


def _quantile(X, y, level):
    linear = QuantileRegressor(
        quantile=level, alpha=0.0, fit_intercept=False, solver="highs"
    )
    return linear.fit(X, y).coef_


@pytest.mark.parametrize(("criterion", "level"), [(nn.L1Loss, 0.5), (_Pinball, 0.8)])
def test_quantile_regression_is_exact(rows, criterion, level):
    X, y = rows
    model = estimator(LinearNetwork, X, y, module__n_features=4, criterion=criterion)
    w, s = model.solution_set_.weights[0], model.solution_set_
    np.testing.assert_allclose(w, _quantile(X, y, level), atol=1e-12)
    assert s.n_kinks.tolist() == [4]  # as many errors are 0 as there are weights
    assert s.trustworthy.all(), s.status
    dX = 1e-4 * np.random.RandomState(1).standard_normal(X.shape)
    on = np.abs(y - X @ w) < 1e-12
    expected = -np.linalg.solve(X[on], dX[on] @ w)
    predicted = model.sensitivity(X + dX)
    np.testing.assert_allclose(predicted.shift[0], expected, rtol=1e-9)
    retrained = model.retrain(X + dX).weights[0]
    np.testing.assert_allclose(retrained, _quantile(X + dX, y, level), atol=1e-12)
    dy = 1e-4 * np.random.RandomState(2).standard_normal(len(y))
    by_targets = model.sensitivity(X, y + dy).shift[0]
    np.testing.assert_allclose(by_targets, np.linalg.solve(X[on], dy[on]), rtol=1e-9)
    matrix = np.zeros((4, len(y)))
    matrix[:, on] = np.linalg.inv(X[on])
    target = lipschitz_modulus(model, level="target")
    assert target == pytest.approx(np.linalg.norm(matrix, 2))


class _L1Penalty(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss + 0.3 * sum(w.abs().sum() for w in self.module_.parameters())


@pytest.fixture(scope="module")
def lasso(rows):
    return estimator(LinearNetwork, *rows, module__n_features=4, kind=_L1Penalty)


def _lasso(X, y):
    linear = Lasso(alpha=0.15, fit_intercept=False, tol=1e-15, max_iter=100_000)
    return linear.fit(X, y).coef_


def test_the_lasso_is_exact(rows, lasso):
    X, y = rows
    w = lasso.solution_set_.weights[0]
    np.testing.assert_allclose(w, _lasso(X, y), atol=1e-7)
    on = w != 0.0
    assert on.tolist() == [True, True, False, False]
    assert lasso.solution_set_.n_kinks.tolist() == [2]
    assert lasso.solution_set_.status[0].startswith("minimum on 2 kinks")
    # Of the squared loss on its support: H v = -B dx by hand.
    dX = 1e-4 * np.random.RandomState(1).standard_normal(X.shape)
    A, dA, r = X[:, on], dX[:, on], X @ w - y
    b = (2.0 / len(y)) * (dA.T @ r + A.T @ (dX @ w))
    expected = np.zeros(4)
    expected[on] = -np.linalg.solve((2.0 / len(y)) * A.T @ A, b)
    predicted = lasso.sensitivity(X + dX)
    np.testing.assert_allclose(predicted.shift[0], expected, rtol=1e-8, atol=1e-15)


def test_the_lasso_breaks_where_a_feature_enters(rows, lasso):
    """``first_break`` is where the path of scikit-learn's Lasso changes its support."""
    X, y = rows
    dX = np.zeros_like(X)
    dX[:, 2] = 0.3 * (y - X @ lasso.solution_set_.weights[0])  # towards the residual
    found = lasso.sensitivity(X + dX).first_break[0]
    assert 0.0 < found < 1.0
    before = _lasso(X + 0.98 * found * dX, y)
    after = _lasso(X + 1.02 * found * dX, y)
    assert before[2] == 0.0
    assert after[2] != 0.0
    path = follow_path(lasso, X + dX)
    assert path.arrived.all(), path.status
    expected = _lasso(X + dX, y)
    np.testing.assert_allclose(path.solution_set.weights[0], expected, atol=1e-7)


def test_median_by_linear_programming():
    """An independent solver: least absolute deviations as a linear program."""
    rng = np.random.RandomState(3)
    X, y = rng.standard_normal((25, 3)), rng.standard_normal(25)
    model = estimator(LinearNetwork, X, y, module__n_features=3, criterion=nn.L1Loss)
    n, p = X.shape
    program = linprog(
        np.r_[np.zeros(p), np.ones(2 * n)],
        A_eq=np.c_[X, np.eye(n), -np.eye(n)],
        b_eq=y,
        bounds=[(None, None)] * p + [(0, None)] * 2 * n,
    )
    np.testing.assert_allclose(model.solution_set_.weights[0], program.x[:p], atol=1e-9)


def test_losses_whose_kinks_are_not_seen_are_refused(rows):
    class Hidden(nn.Module):
        def forward(self, f, y):
            return torch.where(f > y, f - y, y - f).mean()

    with pytest.raises(UnsupportedObjectiveError, match="piecewise linear"):
        estimator(LinearNetwork, *rows, module__n_features=4, criterion=Hidden)


# --- What stays untrusted -------------------------------------------------------------


class _TwoSided(nn.Module):
    """``f = relu(w) + w / 2`` times x: no force at w = 0, but two curvatures."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.1]))

    def forward(self, X):
        return (F.relu(self.w) + 0.5 * self.w) * X


def test_a_kink_without_a_force_is_told():
    X = np.array([[1.0], [2.0]])
    with pytest.warns(match="kink"):
        model = estimator(_TwoSided, X, np.zeros((2, 1)), epochs=5)
    assert not model.solution_set_.trustworthy.any()
    assert np.isinf(model.lipschitz_modulus_)


@pytest.fixture(scope="module")
def equal_rows():
    """A weighted median of which two equal rows hold the weight together."""
    X = np.array([[1.0], [1.0], [2.0], [-1.0]])
    y = np.array([1.0, 1.0, -3.0, -4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = estimator(
            LinearNetwork, X, y, module__n_features=1, criterion=nn.L1Loss
        )
    return model, X


def test_equal_rows_hold_a_kink_together(equal_rows):
    model, X = equal_rows
    s = model.solution_set_
    assert s.weights[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert s.trustworthy.all()
    assert "in 2 rows (equal ones" in s.status[0]
    moduli = model.sample_lipschitz_moduli_[0]
    np.testing.assert_array_equal(np.isinf(moduli), [True, True, False, False])
    # Their ratio of target and feature moves as one: w = y / x.
    together = model.sensitivity(X + [[0.01], [0.01], [0.3], [-0.2]])
    assert together.trustworthy.all()
    np.testing.assert_allclose(together.shift[0], -0.01, atol=1e-12)


@pytest.mark.parametrize(("moved", "expected"), [(0.01, 1.0 / 1.01), (-0.01, 1.0)])
def test_equal_rows_that_part(equal_rows, moved, expected):
    """The lower of the two ratios is the weighted median: to each side another row."""
    model, X = equal_rows
    apart = X + [[moved], [0.0], [0.0], [0.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = model.sensitivity(apart)
        corrected = model.sensitivity(apart, n_corrections=1)
        retrained = model.retrain(apart)
    assert not first.trustworthy.any()
    assert "equal rows" in first.status[0]
    assert first.first_break[0] == 0.0
    assert corrected.trustworthy.all()
    np.testing.assert_allclose(corrected.weights[0], expected, atol=1e-12)
    np.testing.assert_allclose(retrained.weights[0], expected, atol=1e-12)


def test_the_criterion_speaks_of_kinks_too(lasso):
    (criterion,) = mordukhovich_criterion(lasso)
    assert criterion.holds
    assert criterion.is_certified


class _Narrow(nn.Sequential):
    """Two hidden layers without biases."""

    def __init__(self):
        layers = [nn.Linear(3, 4, bias=False), nn.ReLU()]
        layers += [nn.Linear(4, 3, bias=False), nn.ReLU()]
        super().__init__(*layers, nn.Linear(3, 1, bias=False))


def test_a_net_whose_units_are_all_dead():
    """Noise without a pattern and a heavy penalty: 0 is the minimum, and says so."""
    X = np.random.RandomState(0).standard_normal((20, 3))
    y = np.random.RandomState(1).standard_normal((20, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = estimator(_Narrow, X, y, optimizer__weight_decay=1.0)
    s = model.solution_set_
    np.testing.assert_array_equal(s.weights, 0.0)
    np.testing.assert_array_equal(s.n_dead_units, 7)
    assert s.trustworthy.all()
    assert model.sensitivity(X + 0.1).shift_norm == 0.0
