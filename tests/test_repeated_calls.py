"""Equal calls give equal bits, and nobody waits for another model's training."""

import threading

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator
from sksetsens.objective import isolated


class Net(torch.nn.Sequential):
    def __init__(self, n_outputs=1):
        super().__init__(
            torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, n_outputs)
        )


def _net(kind=NeuralNetRegressor, **settings):
    return kind(
        Net,
        max_epochs=5,
        lr=0.05,
        train_split=None,
        optimizer__weight_decay=1e-2,
        **settings,
    )


def _data(n=12):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((n, 2))
    return X, np.tanh(X @ [1.0, -0.5])


def _model(**settings):
    given = {"n_restarts": 2, "random_state": 0, "perturbation_size": 1e-2, **settings}
    return SolutionSetEstimator(_net(), **given)


CALLS = {
    "perturb": lambda m, moved: m.perturb(),
    "sensitivity": lambda m, moved: m.sensitivity(moved).weights,
    "corrected": lambda m, moved: m.sensitivity(moved, n_corrections=1).weights,
    "moduli": lambda m, moved: m.lipschitz_moduli_,
    "rows": lambda m, moved: m.sample_lipschitz_moduli_,
    "layers": lambda m, moved: m.layer_lipschitz_moduli_,
    "retrain": lambda m, moved: m.retrain(moved).weights,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("solver", ["auto", "eigh", "dual"])
def test_equal_calls_give_equal_bits_in_any_order(solver):
    X, y = _data(n=6)

    def fitted():
        net = (
            _net()
            if solver != "dual"
            else _net().set_params(optimizer__weight_decay=0.0)
        )
        return SolutionSetEstimator(
            net, n_restarts=2, random_state=0, solver=solver, perturbation_size=1e-2
        ).fit(X, y)

    one, other = fitted(), fitted()
    moved = one.perturb()
    first = {name: call(one, moved) for name, call in CALLS.items()}
    again = {name: call(one, moved) for name, call in CALLS.items()}
    backwards = {name: call(other, moved) for name, call in reversed(CALLS.items())}
    for name, expected in first.items():
        np.testing.assert_array_equal(again[name], expected, err_msg=name)
        np.testing.assert_array_equal(backwards[name], expected, err_msg=name)


def test_answers_do_not_wait_for_the_training_of_another_model():
    """A training holds the random state for its whole time, and nothing else."""
    X, y = _data()
    model = _model(n_restarts=1).fit(X, y)
    moved = model.perturb()
    expected = model.predict(X), model.sensitivity(moved).weights
    training, done, found = threading.Event(), threading.Event(), []

    def train():
        with isolated(seed=0):
            training.set()
            done.wait(600)

    def answer():
        found.append((model.predict(X), model.sensitivity(moved).weights))

    threads = [threading.Thread(target=target) for target in (train, answer)]
    threads[0].start()
    training.wait(600)
    threads[1].start()
    threads[1].join(300)
    answered = len(found)
    done.set()
    for thread in threads:
        thread.join()
    assert answered == 1
    for one, other in zip(found[0], expected, strict=True):
        np.testing.assert_array_equal(one, other)
