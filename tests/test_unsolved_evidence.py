"""What iterative solves left undone, and what is not finite, is never certified."""

import warnings

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator, lipschitz_modulus, mordukhovich_criterion
from sksetsens.datasets import LinearNetwork, make_saddle
from sksetsens.exceptions import SolverWarning
from sksetsens.moduli import target_modulus
from sksetsens.objective import Objective, initialised_net
from sksetsens.optimize import continued
from sksetsens.sensitivity import Coderivative, GraphicalDerivative


@pytest.fixture(scope="module")
def least_squares():
    """300 rows, 120 columns of falling sizes: too many for a few products."""
    rng = np.random.RandomState(1)
    X = rng.standard_normal((300, 120)) * np.logspace(0, -1.5, 120)
    y = X @ rng.standard_normal(120) + rng.standard_normal(300)
    net = NeuralNetRegressor(LinearNetwork, module__n_features=120)
    objective = Objective(initialised_net(net, {}, 0), X, y[:, None])
    return objective, np.linalg.lstsq(X, y, rcond=None)[0]


@pytest.mark.parametrize("max_iter", [5, 20])
def test_an_unsolved_target_modulus_is_infinite(least_squares, max_iter):
    gd = GraphicalDerivative(*least_squares, solver="minres", solver_max_iter=max_iter)
    with pytest.warns(SolverWarning, match="not certified"):
        assert np.isinf(target_modulus(gd).values).all()


@pytest.mark.parametrize("max_iter", [5, 20])
def test_an_unsolved_coderivative_says_so(least_squares, max_iter):
    gd = GraphicalDerivative(*least_squares, solver="minres", solver_max_iter=max_iter)
    found = Coderivative(gd)(np.ones(120))
    assert not found.converged
    assert "solver_max_iter" in found.status
    assert Coderivative(GraphicalDerivative(*least_squares))(np.ones(120)).converged


class _RootFeatures(nn.Module):
    def __init__(self, n_features=1):
        super().__init__()
        self.linear = nn.Linear(n_features, 1, bias=False)

    def forward(self, X):
        return self.linear(X.sqrt())


@pytest.fixture(scope="module")
def root_of_zero():
    """d sqrt(x) / dx is infinite at the one entry of X that is 0."""
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(30, 3))
    X[3, 0] = 0.0
    net = NeuralNetRegressor(_RootFeatures, max_epochs=1, lr=0.0, verbose=0)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, X @ rng.standard_normal(3))


@pytest.mark.parametrize("level", ["dataset", "sample", "feature", "layer"])
def test_a_derivative_that_is_not_finite_gives_no_finite_modulus(root_of_zero, level):
    moduli = np.ravel(lipschitz_modulus(root_of_zero, level=level))
    assert np.isinf(moduli).any()
    assert not np.isnan(moduli).any()


def test_a_criterion_that_is_not_finite_is_not_certified(root_of_zero):
    (criterion,) = mordukhovich_criterion(root_of_zero)
    assert not criterion.is_certified


class _Rounded(nn.Module):
    def __init__(self, n_features=1):
        super().__init__()
        self.linear = nn.Linear(n_features, 1, bias=False)

    def forward(self, X):
        rounded = torch.cat([torch.round(X[:, :1]), X[:, 1:]], 1)
        return self.linear(rounded)


def test_a_coderivative_is_nan_along_entries_without_a_derivative():
    rng = np.random.RandomState(3)
    X = rng.standard_normal((60, 3)) * [3, 1, 1]
    y = np.round(X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(60)
    net = NeuralNetRegressor(
        _Rounded, max_epochs=1, lr=1e-3, optimizer__weight_decay=0.01, verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
        found = Coderivative(model.graphical_derivatives_[0])(np.ones(3))
    assert np.isnan(found.value[:, 0]).all()
    assert np.isfinite(found.value[:, 1:]).all()


def test_no_worst_case_without_a_trusted_solution():
    data = make_saddle()
    net = NeuralNetRegressor(
        data.module, module__start=(0.0, 0.0), max_epochs=1, lr=0.0, verbose=0
    )
    model = SolutionSetEstimator(net, n_restarts=1, perturbation="worst_case")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.X, data.y)
        assert np.isinf(model.lipschitz_moduli_).all()
        with pytest.raises(ValueError, match="worst_case"):
            model.perturb()


class _WideSecond(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 30000)
        self.third = nn.Linear(30000, 1)

    def forward(self, X):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(X)))))


def test_a_small_layer_of_a_large_net_needs_no_square_of_its_size():
    """12 of 150,016 weights: an identity of that size would be 180 GB."""
    rng = np.random.RandomState(0)
    net = NeuralNetRegressor(_WideSecond, optimizer__weight_decay=0.01)
    X, y = rng.standard_normal((10, 4)), rng.standard_normal((10, 1))
    objective = Objective(initialised_net(net, {}, 0), X, y)
    gd = GraphicalDerivative(objective, objective.weights, solver="minres")
    part = next(iter(objective.parameter_slices.values()))
    moved, residuals = gd.restricted_map(part)
    assert moved.shape == (12, X.size)
    assert np.isfinite(residuals).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["eigh", "dual"])
def test_a_nudge_along_the_kernel_lies_in_it(seed, solver):
    """Whatever seed the data were drawn with: its rows are no probe."""
    X = np.random.RandomState(seed).standard_normal((5, 12))
    net = NeuralNetRegressor(LinearNetwork, module__n_features=12)
    objective = Objective(initialised_net(net, {}, 0), X, X[:, :1])
    w = np.linalg.lstsq(X, X[:, 0], rcond=None)[0]
    gd = GraphicalDerivative(objective, w, solver=solver)
    moved = continued(w, gd.factor, objective, tol=1e-6, nudge=1e-3).weights
    # The nudge is already a solution: nothing brings it back.
    length = 1e-3 * (1.0 + np.linalg.norm(w))
    assert np.linalg.norm(moved - w) == pytest.approx(length, rel=1e-6)


def test_one_training_row_is_interpolated_without_warnings_from_inside():
    net = NeuralNetRegressor(
        LinearNetwork, module__n_features=2, max_epochs=1, lr=0.1, verbose=0
    )
    X, y = np.array([[1.0, 2.0]]), np.array([1.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    assert model.predict(X) == pytest.approx(y)
    assert not [w for w in caught if "std" in str(w.message)]
