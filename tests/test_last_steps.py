"""Where polishing ends: at rounding, at zero operators, at no second derivative."""

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import AllRestartsFailedError
from sksetsens.linalg import DefiniteInverse, operator_norm, symmetric_inverse
from sksetsens.optimize._trust_region import _iterate, _last_steps, _QuadraticModel


class Quartic:
    """``sum d u^2 / 2 + u^4 / 12``: a regular minimum at zero, some u free."""

    def __init__(self, d):
        self.d = np.asarray(d)
        self.n_gradients = 0

    def value_and_gradient(self, u):
        self.n_gradients += 1
        used = self.d > 0
        value = 0.5 * self.d @ u**2 + (used * u**4).sum() / 12.0
        return value, self.d * u + used * u**3 / 3.0

    def hessian(self, u):
        return np.diag(self.d + (self.d > 0) * u**2)


@pytest.mark.parametrize("d", [(1.0, 2.0, 5.0), (1.0, 2.0, 0.0), (1e-6, 2.0, 0.0)])
def test_the_last_hessian_leads_to_rounding(d):
    problem = Quartic(d)
    start = np.array([1e-6, 1e-6, 1e-6])
    _, gradient = problem.value_and_gradient(start)
    model = _QuadraticModel(problem.hessian(start), gradient, start)
    w, n_iter = _last_steps(problem, model, start)
    moved = np.array(d) > 0
    assert np.all(np.abs(w[moved]) <= 1e-16)
    assert np.array_equal(w[~moved], start[~moved])
    # One gradient a step, and one that shows that no more is gained.
    assert problem.n_gradients <= n_iter + 3


class Valleys:
    """A sum of Rosenbrock's valleys; the minimiser is all ones."""

    def __init__(self, n_valleys):
        self.n_params = 2 * n_valleys
        self.steepness = np.geomspace(1.0, 1000.0, n_valleys)

    def value_and_gradient(self, u):
        x, y, c = u[::2], u[1::2], self.steepness
        d, g = y - x**2, np.empty_like(u)
        g[1::2] = 2.0 * c * d
        g[::2] = -4.0 * c * d * x - 2.0 * (1.0 - x)
        return float((c * d**2 + (1.0 - x) ** 2).sum()), g

    def model(self, gradient, u):
        x, y, c = u[::2], u[1::2], self.steepness
        H, i = np.zeros((u.size, u.size)), np.arange(0, u.size, 2)
        H[i, i] = -4.0 * c * (y - 3.0 * x**2) + 2.0
        H[i + 1, i + 1] = 2.0 * c
        H[i, i + 1] = H[i + 1, i] = -4.0 * c * x
        return _QuadraticModel(H, gradient, u)


def test_newton_goes_on_while_it_gets_closer():
    # More weights than have iterations in plenty; twelve more are needed.
    problem = Valleys(152)
    w, n_iter, _ = _iterate(problem, np.tile([-1.2, 1.0], 152), 1e-10)
    np.testing.assert_allclose(w, 1.0, rtol=1e-12)
    assert 30 < n_iter < 60


@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-250, 1e-170, 1e-150, 1.0, 1e150])
def test_norms_of_operators_of_any_size(size):
    A = np.random.default_rng(1).standard_normal((60, 70))
    norm, direction = operator_norm(aslinearoperator(size * A))
    exact = 0.0 if size < 1e-300 else size * np.linalg.norm(A, 2)
    assert norm == pytest.approx(exact, rel=1e-10, abs=0.0)
    assert np.linalg.norm(direction) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-200, 1e-160])
def test_collapsed_matrices_are_factorised(size):
    H = size * np.diag(np.arange(1.0, 451.0))
    assert DefiniteInverse.make(H) is None
    assert symmetric_inverse(H).rank == (450 if size else 0)


class SetToZero(Callback):
    def on_train_end(self, net, **kwargs):
        with torch.no_grad():
            for p in net.module_.parameters():
                p.zero_()


class ThreeHalves(NeuralNetRegressor):
    """Mean of ``|f - y|^1.5``: gradient 0 and curvature infinite at f = y."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return ((y_pred - y_true).abs() ** 1.5).mean()


class Slope(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))

    def forward(self, X):
        return (X @ self.w)[:, None]


@pytest.mark.parametrize("polish", [True, False])
def test_an_infinite_hessian_is_told(polish):
    X = np.random.RandomState(0).standard_normal((20, 2))
    net = ThreeHalves(Slope, train_split=None, max_epochs=1, callbacks=[SetToZero()])
    model = SolutionSetEstimator(net, n_restarts=1, polish=polish, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AllRestartsFailedError, match="Hessian is not finite"):
            model.fit(X, np.zeros(20))
