"""The same call gives the same bits, whatever was asked for before."""

import numpy as np
import pytest
import torch

from sksetsens import SolutionSetEstimator
from sksetsens.linalg import KrylovInverse, KrylovSettings
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)

SOLVERS = ["eigh", "dual", "auto", "minres", "lsmr"]


def _data():
    X = np.random.RandomState(3).standard_normal((8, 2))
    return X, np.sin(X[:, 0])


def _fitted(solver, penalised):
    """A net of 33 weights; without decay it interpolates the eight rows."""
    net = DFCNNRegressor(
        module__hidden_widths=(8,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=0.05 if penalised else 0.0,
        max_epochs=20,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, solver=solver)
    return model.fit(*_data())


def _questions(model):
    X = model.X_train_
    moved = X + 1e-3 * np.cos(np.arange(X.size)).reshape(X.shape)
    other = X + 1e-3 * np.sin(3.0 * np.arange(X.size)).reshape(X.shape)
    return {
        "sensitivity": lambda: model.sensitivity(moved).weights,
        "corrected": lambda: model.sensitivity(moved, n_corrections=1).weights,
        "elsewhere": lambda: model.sensitivity(other).weights,
        "predictions": lambda: model.sensitivity(other).predict(X),
        "perturb": model.perturb,
        "retrain": lambda: model.retrain(moved).weights,
        "modulus": lambda: model.lipschitz_moduli_,
        "moved data": lambda: model.graphical_derivatives_[0](moved - X).shift,
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalised", [False, True], ids=["interpolating", "decay"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_answers_do_not_depend_on_what_was_asked_before(solver, penalised):
    if solver in ("dual", "lsmr") and penalised:
        pytest.skip("these forms are for nets that interpolate")
    questions = _questions(_fitted(solver, penalised))
    first = {name: ask() for name, ask in questions.items()}
    again = {name: ask() for name, ask in questions.items()}
    reverse = dict(reversed(_questions(_fitted(solver, penalised)).items()))
    other_order = {name: ask() for name, ask in reverse.items()}
    for name, expected in first.items():
        np.testing.assert_array_equal(again[name], expected, err_msg=name)
        np.testing.assert_array_equal(other_order[name], expected, err_msg=name)


def test_iterative_solves_do_not_depend_on_earlier_ones():
    rng = np.random.RandomState(5)
    Q = np.linalg.qr(rng.standard_normal((90, 90)))[0]
    H = (Q * np.concatenate([np.geomspace(1e-3, 1.0, 80), np.zeros(10)])) @ Q.T
    b, c = H @ rng.standard_normal(90), H @ rng.standard_normal(90)

    def inverse():
        settings = KrylovSettings(tol=1e-8, max_iter=500)
        return KrylovInverse(H.__matmul__, 90, settings=settings)

    alone, after = inverse(), inverse()
    expected = alone.solve(b).value
    after.solve(c)
    after.kernel.project(c)
    np.testing.assert_array_equal(after.solve(b).value, expected)
    np.testing.assert_array_equal(alone.solve(b).value, expected)
    # |error| <= tol |b| / the smallest eigenvalue.
    exact = -np.linalg.pinv(H, hermitian=True) @ b
    assert np.linalg.norm(expected - exact) <= 2e-8 * np.linalg.norm(b) / 1e-3
