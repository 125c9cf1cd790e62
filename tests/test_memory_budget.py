"""What may be factorised depends on the machine, not on what else runs on it."""

import os

import numpy as np
import pytest
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import make_toy_network
from sksetsens.networks import DFCNNRegressor
from sksetsens.sensitivity.systems import _point


def toy_model(**params):
    toy = make_toy_network()
    net = NeuralNetRegressor(toy.module, train_split=None, lr=0.01, max_epochs=5)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, **params)
    return toy, model.fit(toy.X, toy.y)


def memory(monkeypatch, **pages):
    names = {"SC_PAGE_SIZE": 1, **pages}
    real = os.sysconf
    monkeypatch.setattr(
        os, "sysconf", lambda name: names[name] if name in names else real(name)
    )


@pytest.mark.parametrize("solver", ["auto", "eigh"])
def test_no_free_memory_changes_nothing(solver, monkeypatch):
    params = {"solver": solver}
    toy, model = toy_model(**params)
    expected = model.sensitivity(toy.X_perturbed).shift
    memory(monkeypatch, SC_AVPHYS_PAGES=1, SC_PHYS_PAGES=10**9)
    _, again = toy_model(**params)
    assert np.array_equal(again.sensitivity(toy.X_perturbed).shift, expected)
    solvers = [m.graphical_derivatives_[0].solver_ for m in (model, again)]
    assert solvers[0] == solvers[1]


def test_a_small_machine_names_the_solver_that_would_do(monkeypatch):
    memory(monkeypatch, SC_AVPHYS_PAGES=10**12, SC_PHYS_PAGES=64)
    assert _point.factorisation_budget() == 32.0
    with pytest.raises(ValueError, match="half of this machine's memory.*'minres'"):
        toy_model(solver="eigh")


def early_stopped():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    net = DFCNNRegressor(
        module__hidden_widths=(8,),
        module__activation="tanh",
        module__train_output=True,
        max_epochs=5,
    )
    model = SolutionSetEstimator(
        net, n_restarts=2, random_state=0, polish=False, solver="dual"
    )
    return X, y, rng, model.fit(X, y)


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.StationarityWarning")
@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
@pytest.mark.parametrize("moves_targets", [False, True])
def test_early_stopped_nets_retrain_with_the_dual(moves_targets):
    X, y, rng, model = early_stopped()
    X2 = X + 1e-3 * rng.standard_normal(X.shape)
    y2 = y + 1e-3 * rng.standard_normal(y.shape) if moves_targets else None
    retrained = model.retrain(X2, y2)
    # What the tilted objective's own residual says of the weights is what is told.
    for gd, w, told in zip(
        model.graphical_derivatives_,
        retrained.weights,
        retrained.gradient_norms,
        strict=True,
    ):
        targets = gd.objective.targets if y2 is None else y2.reshape(-1, 1)
        left = np.linalg.norm(gd.objective.with_data(X2, targets).gradient(w))
        assert told == pytest.approx(left)
    assert not retrained.trustworthy.any()
