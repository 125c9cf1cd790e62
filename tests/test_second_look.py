"""Curvature that is gone at the predicted weights, and branches that end."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import IllPosedWarning, NonlinearityWarning

torch.set_num_threads(1)

rng = np.random.default_rng(0)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False)

    def forward(self, X):
        return self.layer(X)


def ridge(**params):
    """A row of large leverage alone bends one direction."""
    X = 0.3 * rng.standard_normal((20, 3))
    X[0] = [0.0, 3.0, 0.0]
    X[1:, 1] *= 0.01
    y = X @ [1.0, -1.0, 0.5] + 0.1 * rng.standard_normal(20)
    net = NeuralNetRegressor(
        Linear, optimizer__weight_decay=1e-3, train_split=None, max_epochs=5, verbose=0
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, **params)
    return model.fit(X, y)


def test_the_error_is_exact_where_the_loss_is_quadratic():
    """Without the row the true step is 20 times the one with the old curvature."""
    model = ridge()
    s = np.ones(20)
    s[0] = 0.0
    with pytest.warns(NonlinearityWarning):
        predicted = model.sensitivity(sample_weight=s)
    truth = model.retrain(sample_weight=s)
    missed = np.linalg.norm(truth.weights - predicted.weights, axis=1)
    np.testing.assert_allclose(
        predicted.shift_error, missed / predicted.shift_norm, rtol=1e-6
    )
    assert predicted.shift_error[0] > 5.0
    assert not predicted.trustworthy[0]
    corrected = model.sensitivity(sample_weight=s, n_corrections=1)
    np.testing.assert_allclose(corrected.weights, truth.weights, atol=1e-9)
    assert corrected.trustworthy[0]


def test_by_products_the_step_is_rescaled_at_least():
    model = ridge(solver="minres")
    s = np.ones(20)
    s[0] = 0.0
    with pytest.warns(NonlinearityWarning):
        predicted = model.sensitivity(sample_weight=s)
    assert predicted.shift_error[0] > 5.0  # 0.95 by the old curvature
    assert not predicted.trustworthy[0]


class Fold(nn.Module):
    """Solutions u = sqrt(mean x), which end at 0, and v = 10 mean x."""

    def __init__(self):
        super().__init__()
        self.u = nn.Parameter(torch.tensor(1.2))
        self.v = nn.Parameter(torch.tensor(9.0))

    def forward(self, X):
        return self.u**3 / 3 - X * self.u + 0.5 * (self.v - 10.0 * X) ** 2


class MeanNet(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return y_pred.mean()


@pytest.fixture(scope="module")
def folding():
    net = MeanNet(Fold, train_split=None, max_epochs=5, lr=0.01, verbose=0)
    X = np.ones((6, 1), np.float32)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    model.fit(X, np.zeros((6, 1), np.float32))
    np.testing.assert_allclose(model.solution_set_.weights, [[1.0, 10.0]], atol=1e-8)
    return model


@pytest.mark.parametrize("moved", [-0.3, -0.6, -0.9, 0.5, 1.0])
def test_branches_that_go_on_are_trusted(folding, moved):
    """Though one of two weights that move is off by up to a fifth of its movement."""
    predicted = folding.sensitivity(folding.X_train_ + moved)
    np.testing.assert_allclose(
        predicted.weights, [[1.0 + moved / 2, 10.0 + 10.0 * moved]], atol=1e-7
    )
    assert predicted.trustworthy[0], predicted.status


@pytest.mark.parametrize("moved", [-1.05, -1.3, -1.8])
def test_branches_that_end_are_not(folding, moved):
    """Long before: the next step is 3 % of the shift, which u hardly counts in."""
    with pytest.warns(NonlinearityWarning):
        predicted = folding.sensitivity(folding.X_train_ + moved)
    assert not predicted.trustworthy[0]
    assert "branch" in predicted.status[0] or "outside" in predicted.status[0]


def test_one_correction_does_not_bring_it_back(folding):
    with pytest.warns(NonlinearityWarning):
        predicted = folding.sensitivity(folding.X_train_ - 1.1, n_corrections=1)
    assert not predicted.trustworthy[0]


def test_retraining_beyond_the_end_is_no_truth_to_compare_with(folding):
    """No solution is left: descent runs away, and says so."""
    with pytest.warns(IllPosedWarning, match="no truth to compare with"):
        retrained = folding.retrain(folding.X_train_ - 1.1)
    assert not retrained.trustworthy[0]


def test_corrections_that_run_away_are_told(folding):
    """Newton's step from next to no curvature."""
    with pytest.warns(NonlinearityWarning):
        predicted = folding.sensitivity(folding.X_train_ - 1.998, n_corrections=1)
    assert not predicted.trustworthy[0]
    assert "times as far as the first order" in predicted.status[0]
