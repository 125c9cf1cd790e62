"""Weights that are frozen by the time the training ends stay where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Freezer, Unfreezer
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import UnsupportedObjectiveError
from sksetsens.objective import initialised_net
from sksetsens.training._restart import run_restart

N, D, WIDTH = 30, 3, 2
HIDDEN = (D + 1) * WIDTH
HEAD = WIDTH + 1


class Net(nn.Module):
    """A head, linear in its weights, on a hidden layer."""

    def __init__(self, frozen=False):
        super().__init__()
        self.hidden = nn.Linear(D, WIDTH)
        self.head = nn.Linear(WIDTH, 1)
        if frozen:
            self.hidden.requires_grad_(False)

    def forward(self, X):
        return self.head(torch.tanh(self.hidden(X)))


class FreezesAtStart(Callback):
    def on_train_begin(self, net, **kwargs):
        net.module_.hidden.requires_grad_(False)


class FreezesLate(Callback):
    """Once the history says so, which no rehearsal knows."""

    def on_epoch_end(self, net, **kwargs):
        if np.isfinite(net.history[-1, "train_loss"]) and len(net.history) == 2:
            net.module_.hidden.requires_grad_(False)


class FreezesForSome(Callback):
    """The hidden layer, where the start happens to have its first weight above 0."""

    def on_train_begin(self, net, **kwargs):
        if net.module_.hidden.weight[0, 0] > 0:
            net.module_.hidden.requires_grad_(False)


class HeadOnly(NeuralNetRegressor):
    """Hands the head alone to the optimiser."""

    def get_params_for_optimizer(self, prefix, named_parameters):
        named = [(n, p) for n, p in named_parameters if "head" in n]
        return super().get_params_for_optimizer(prefix, named)


def data():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, D))
    return X, np.sin(X[:, 0]) + 0.3 * X[:, 1] + 0.1 * rng.standard_normal(N)


def model(callbacks, kind=NeuralNetRegressor, n_restarts=2, **kwargs):
    net = kind(
        Net,
        train_split=None,
        max_epochs=4,
        lr=0.05,
        callbacks=callbacks,
        verbose=0,
        **kwargs,
    )
    return SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0, n_jobs=1)


def start_of(fitted, i):
    """The hidden layer of restart i before any training, in float64."""
    net = initialised_net(fitted.estimator, {}, int(fitted.restart_report_["seed"][i]))
    return net.module_.hidden


def least_squares_head(hidden, X, y):
    """Head by dense least squares, in float64: the frozen problem is linear."""
    W, b = (p.detach().double().numpy() for p in (hidden.weight, hidden.bias))
    A = np.column_stack([np.tanh(X @ W.T + b), np.ones(len(X))])
    return np.linalg.lstsq(A, y, rcond=None)[0]


FREEZERS = {
    "Freezer": lambda: [("freeze", Freezer("hidden.*"))],
    "Freezer by callable": lambda: [Freezer(lambda name: "hidden" in name)],
    "on_train_begin": lambda: [FreezesAtStart()],
}


@pytest.mark.parametrize("name", FREEZERS)
def test_frozen_weights_stay_and_do_not_count(name):
    X, y = data()
    fitted = model(FREEZERS[name]()).fit(X, y)
    found = fitted.solution_set_
    assert found.weights.shape == (2, HEAD)
    rng = np.random.default_rng(0)
    X_perturbed = X + 1e-6 * rng.standard_normal(X.shape)
    predicted = fitted.sensitivity(X_perturbed)
    for i, net in enumerate(fitted.estimators_):
        hidden = start_of(fitted, i)
        for one, other in zip(
            net.module_.hidden.parameters(), hidden.parameters(), strict=True
        ):
            assert torch.equal(one, other)
            assert not one.requires_grad
        before = least_squares_head(hidden, X, y)
        after = least_squares_head(hidden, X_perturbed, y)
        np.testing.assert_allclose(found.weights[i], before, rtol=1e-8)
        shift = predicted.shift[i]
        assert np.linalg.norm(shift - (after - before)) < 1e-3 * np.linalg.norm(shift)
    moved = fitted.retrain(X_perturbed)
    for i, w in enumerate(moved.weights):
        after = least_squares_head(start_of(fitted, i), X_perturbed, y)
        np.testing.assert_allclose(w, after, rtol=1e-8)
    cold = fitted.retrain(X_perturbed, warm_start=False)
    np.testing.assert_allclose(cold.weights, moved.weights, rtol=1e-8)


def test_freezing_by_callback_equals_freezing_in_the_module():
    X, y = data()
    by_callback = model([Freezer("hidden.*")]).fit(X, y)
    by_module = model(None, module__frozen=True).fit(X, y)
    for one, other in zip(by_callback.estimators_, by_module.estimators_, strict=True):
        assert torch.equal(one.module_.hidden.weight, other.module_.hidden.weight)
    # The trainings differ by nothing; the set and its moduli neither.
    np.testing.assert_allclose(
        by_callback.solution_set_.weights, by_module.solution_set_.weights, rtol=1e-10
    )
    np.testing.assert_allclose(
        by_callback.lipschitz_moduli_, by_module.lipschitz_moduli_, rtol=1e-6
    )


def test_weights_frozen_in_the_middle_keep_what_training_gave_them():
    X, y = data()
    fitted = model([FreezesLate()], n_restarts=1).fit(X, y)
    (net,) = fitted.estimators_
    assert fitted.solution_set_.weights.shape == (1, HEAD)
    assert not torch.equal(net.module_.hidden.weight, start_of(fitted, 0).weight)
    head = least_squares_head(net.module_.hidden, X, y)
    np.testing.assert_allclose(fitted.solution_set_.weights[0], head, rtol=1e-6)


def test_weights_that_are_unfrozen_count():
    X, y = data()
    thaws = Unfreezer("hidden.*", at=3)
    fitted = model([thaws], n_restarts=1, module__frozen=True).fit(X, y)
    assert fitted.solution_set_.weights.shape == (1, HIDDEN + HEAD)
    (net,) = fitted.estimators_
    assert all(p.requires_grad for p in net.module_.parameters())
    objective = fitted.sensitivity(X).base
    assert objective.gradient_norms[0] < 1e-8


def test_decay_reaches_weights_that_are_unfrozen():
    """Stationary for the decayed objective: autograd in float64 agrees."""
    X, y = data()
    thaws = Unfreezer("hidden.*", at=2)
    options = {"module__frozen": True, "optimizer__weight_decay": 0.01}
    fitted = model([thaws], n_restarts=1, **options).fit(X, y)
    module = Net().double()
    nn.utils.vector_to_parameters(
        torch.as_tensor(fitted.solution_set_.weights[0]), module.parameters()
    )
    loss = ((module(torch.as_tensor(X))[:, 0] - torch.as_tensor(y)) ** 2).mean()
    loss = loss + 0.005 * sum(p.square().sum() for p in module.parameters())
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in module.parameters()) < 1e-8


def test_a_freezer_makes_up_for_an_optimizer_without_the_weights():
    X, y = data()
    fitted = model([Freezer("hidden.*")], HeadOnly, n_restarts=1).fit(X, y)
    assert fitted.solution_set_.weights.shape == (1, HEAD)
    with pytest.raises(UnsupportedObjectiveError, match="does not train"):
        model(None, HeadOnly, n_restarts=1).fit(X, y)


def test_what_a_freezer_leaves_is_known_before_training():
    """So that a large frozen backbone does not choose, or exceed, the solver."""
    X, y = data()
    fitted = model([Freezer("hidden.*")], n_restarts=1).fit(X, y)
    assert fitted._task.objective.n_params == HEAD


def test_restarts_that_train_different_weights_are_told():
    X, y = data()
    with pytest.raises(UnsupportedObjectiveError, match=r"restarts.* different param"):
        model([FreezesForSome()], n_restarts=8).fit(X, y)


def test_cached_restarts_remember_what_was_frozen(tmp_path):
    X, y = data()
    first, second = (
        model([Freezer("hidden.*")]).set_params(memory=str(tmp_path)).fit(X, y)
        for _ in range(2)
    )
    np.testing.assert_array_equal(
        first.solution_set_.weights, second.solution_set_.weights
    )
    assert second.solution_set_.weights.shape == (2, HEAD)


def test_restarts_in_other_processes_freeze_the_same():
    """There the objective does not travel along, and is built after the training."""
    X, y = data()
    fitted = model([FreezesAtStart()], n_restarts=1).fit(X, y)
    alone = replace(fitted._task, objective=None)
    restart = run_restart(alone, int(fitted.restart_report_["seed"][0]))
    assert restart.trainable == ("head.weight", "head.bias")
    np.testing.assert_array_equal(
        restart.polished.weights, fitted.solution_set_.weights[0]
    )
