"""Restarts trained as one stack, against skorch one after another."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor
from sksetsens.objective import (
    bare_net,
    isolated,
    single_threaded,
    train_together,
    why_not_together,
)
from sksetsens.objective._stacked import _draws_like_torch

SEEDS = [3, 1, 4, 1_000_000_007]
TANH = {
    "module__hidden_widths": (6,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
}
_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((23, 3)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64)


def sized(net, **params):
    return net.set_params(module__n_features=3, verbose=0, **params)


def one_by_one(net, y):
    """Weights and last losses of skorch's own trainings."""
    found = []
    for seed in SEEDS:
        with isolated(seed), single_threaded():
            single = bare_net(net, {}).initialize()
            single.partial_fit(X, y)
        state = {k: v.numpy().copy() for k, v in single.module_.state_dict().items()}
        found.append((state, single.history[:, "train_loss"]))
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
        (torch.optim.Adam, {"weight_decay": 0.01}),
        (torch.optim.RMSprop, {}),
        (torch.optim.NAdam, {}),
    ],
)
def test_follows_skorch(optimizer, options, shuffle):
    """Uneven batches, shuffled by each restart's own seed; same weights and losses."""
    net = sized(
        DFCNNClassifier(
            **TANH,
            module__n_outputs=2,
            optimizer=optimizer,
            lr=0.02,
            max_epochs=6,
            batch_size=5,
            iterator_train__shuffle=shuffle,
            **{f"optimizer__{k}": v for k, v in options.items()},
        )
    )
    expected = one_by_one(net, LABELS)
    found = train_together(net, {}, X, LABELS, SEEDS)
    for (state, losses), trained in zip(expected, found, strict=True):
        assert state.keys() == trained.state.keys()
        for name, value in state.items():
            np.testing.assert_allclose(trained.state[name], value, atol=1e-5)
        ours = [epoch["train_loss"] for epoch in trained.history]
        np.testing.assert_allclose(ours, losses, rtol=1e-4)


def test_shuffled_epochs_are_drawn_without_a_loader():
    """Otherwise nothing is wrong, but every epoch costs a list of all rows."""
    assert _draws_like_torch()


def regression(**params):
    net = DFCNNRegressor(
        **TANH, optimizer__weight_decay=0.05, lr=0.05, max_epochs=5, **params
    )
    return net, X.astype(float), np.sin(X[:, 0]).astype(float)


def test_an_estimator_reaches_the_same_solutions():
    net, inputs, targets = regression(iterator_train__shuffle=True, batch_size=7)
    models = [
        SolutionSetEstimator(
            net, n_restarts=3, restart_backend=backend, random_state=0
        ).fit(inputs, targets)
        for backend in ("joblib", "vectorized")
    ]
    sequential, stacked = (model.solution_set_ for model in models)
    np.testing.assert_allclose(stacked.weights, sequential.weights, atol=1e-8)
    assert set(models[0].restart_report_["backend"]) == {"joblib"}
    assert set(models[1].restart_report_["backend"]) == {"vectorized"}
    first, second = (model.estimators_[0] for model in models)
    assert len(second.history) == len(first.history)
    np.testing.assert_allclose(
        second.history[:, "train_loss"], first.history[:, "train_loss"], rtol=1e-4
    )
    np.testing.assert_allclose(
        models[1].predict(inputs), models[0].predict(inputs), atol=1e-6
    )


def test_nothing_outside_changes():
    net, inputs, targets = regression()
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    threads, params = torch.get_num_threads(), repr(net.get_params(deep=False))
    SolutionSetEstimator(
        net, n_restarts=2, restart_backend="vectorized", polish=False, random_state=0
    ).fit(inputs, targets)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert torch.get_num_threads() == threads
    assert repr(net.get_params(deep=False)) == params


def test_one_restart_that_diverges_leaves_the_others():
    net, inputs, targets = regression(batch_size=-1)
    net.set_params(optimizer=torch.optim.SGD, lr=3.0, max_epochs=60)
    found = train_together(
        sized(net, module__n_outputs=1),
        {},
        X,
        targets[:, None].astype(np.float32),
        list(range(12)),
    )
    finite = [all(np.isfinite(v).all() for v in t.state.values()) for t in found]
    alone = [
        train_together(
            sized(net, module__n_outputs=1), {}, X, targets[:, None].astype("f"), [s]
        )[0]
        for s in range(12)
    ]
    expected = [all(np.isfinite(v).all() for v in t.state.values()) for t in alone]
    assert finite == expected


class Normalised(nn.Module):
    def __init__(self, n_features=3):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)
        self.linear = nn.Linear(n_features, 1)

    def forward(self, X):
        return self.linear(self.norm(X))


class OwnLoop(DFCNNRegressor):
    def train_step(self, batch, **params):
        return super().train_step(batch, **params)


class Watching(Callback):
    pass


class Branching(nn.Module):
    """Control flow that depends on the data cannot be stacked."""

    def __init__(self, n_features=3):
        super().__init__()
        self.linear = nn.Linear(n_features, 1)

    def forward(self, X):
        out = self.linear(X)
        return out if bool(out.sum() > 1e9) else 1.0 * out


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (DFCNNRegressor(**TANH, callbacks=[Watching()]), "callbacks"),
        (DFCNNRegressor(Normalised), "batch statistics"),
        (OwnLoop(**TANH), "overrides train_step"),
        (DFCNNRegressor(**TANH, optimizer=torch.optim.LBFGS), "LBFGS is not element"),
    ],
)
def test_nets_that_are_not_stacked(net, reason):
    assert reason in why_not_together(net.set_params(module__n_features=3).initialize())


def test_falls_back_with_the_reason_in_the_report():
    _, inputs, targets = regression()
    net = DFCNNRegressor(Branching, max_epochs=3, optimizer__weight_decay=0.1)
    fits = [
        SolutionSetEstimator(
            net, n_restarts=2, restart_backend=backend, random_state=0, polish=False
        ).fit(inputs, targets)
        for backend in ("vectorized", "joblib")
    ]
    told = fits[0].restart_report_["backend"]
    assert all(t.startswith("joblib: the nets cannot be stacked") for t in told)
    np.testing.assert_array_equal(
        fits[0].solution_set_.weights, fits[1].solution_set_.weights
    )
