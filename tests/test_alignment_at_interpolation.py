"""Copies of nets that interpolate, and pairs of restarts of which others failed."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback

from sksetsens import SolutionSetEstimator


class Net(torch.nn.Sequential):
    def __init__(self, n_hidden=6):
        super().__init__(
            torch.nn.Linear(2, n_hidden), torch.nn.Tanh(), torch.nn.Linear(n_hidden, 1)
        )


class Penalised(NeuralNetRegressor):
    """A penalty a billion times below the data, on one hidden unit alone."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        first = next(self.module_.parameters())
        return loss + 1e-9 * (first[0] ** 2).sum()


def _data():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((5, 2))
    return X, X[:, 0] - 0.5 * X[:, 1] + 0.2 * rng.standard_normal(5)


def _model(kind=NeuralNetRegressor, n_restarts=2, **settings):
    net = kind(Net, max_epochs=5, lr=0.05, train_split=None, batch_size=-1, **settings)
    return SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)


def test_nets_that_interpolate_are_aligned():
    X, y = _data()
    model = _model(n_restarts=3).fit(X, y)
    solutions = model.solution_set_
    assert solutions.losses.max() < 1e-20
    # Losses of a copy are other rounding: 1.2e-33 and 4.6e-32, for example.
    for one in solutions:
        assert len(one.symmetry.hidden_layers) == 1
    w = solutions.weights[0]
    W, b, v, c = w[:12].reshape(6, 2), w[12:18], w[18:24], w[24:]
    order, sign = np.array([3, 1, 0, 5, 2, 4]), np.array([1, -1, 1, 1, -1, -1])
    copy = np.concatenate(
        [((W[order].T * sign).T).ravel(), b[order] * sign, v[order] * sign, c]
    )
    found = solutions.symmetry.align(copy, w)
    np.testing.assert_allclose(found.weights, w)


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.StationarityWarning")
@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_a_small_penalty_that_tells_units_apart_is_still_seen():
    X, y = _data()
    solutions = _model(Penalised, n_restarts=1).fit(X, y).solution_set_
    with pytest.raises(ValueError, match="none of its objective"):
        _ = solutions.symmetry


class Killing(Callback):
    """Fails some seeds: others on the moved data than on the old."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        old = abs(float(np.sum(X)) - KILLED["sum"]) < 1e-4
        first = float(next(net.module_.parameters()).detach().ravel()[0])
        if any(abs(first - start) < 1e-9 for start in KILLED[old]):
            raise OSError("killed")


KILLED = {"sum": 0.0, True: [], False: []}


class Starting(Callback):
    def on_train_begin(self, net, X=None, y=None, **kwargs):
        STARTS.append(float(next(net.module_.parameters()).detach().ravel()[0]))


STARTS = []


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_a_cold_start_is_paired_by_seed_when_other_restarts_failed():
    X, y = _data()
    STARTS.clear()
    full = _model(n_restarts=3, callbacks=[Starting()]).fit(X, y)
    assert len(STARTS) == 3
    moved = X.copy()
    moved[0] += 1e-3
    expected = full.retrain(moved, warm_start=False, align=True)
    KILLED.update(
        {"sum": float(X.astype(np.float32).sum()), True: STARTS[:1], False: STARTS[2:3]}
    )
    model = _model(n_restarts=3, callbacks=[Killing()]).fit(X, y)
    seeds = model.restart_report_["seed"]
    assert list(model.restart_report_["error"] != "") == [True, False, False]
    np.testing.assert_array_equal(seeds, full.restart_report_["seed"])
    retrained = model.retrain(moved, warm_start=False, align=True)
    assert len(retrained) == len(model.solution_set_) == 2
    # Seed 1 is second of the new and first of the old ones: these go together.
    np.testing.assert_allclose(
        retrained.weights[1], expected.weights[1], rtol=0, atol=1e-8
    )
