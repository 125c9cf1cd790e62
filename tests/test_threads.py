"""Models in several threads of one process: none waits for another's training."""

import multiprocessing
import os
import threading

import joblib
import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from threadpoolctl import threadpool_info, threadpool_limits

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor
from sksetsens.objective import single_threaded
from sksetsens.objective._isolation import DERIVATIVES
from sksetsens.training import _restart

torch.set_num_threads(1)

# What a training waits for, and how long; skorch clones callbacks, events cannot be.
_TRAINING, _ANSWERED = threading.Event(), threading.Event()
_PATIENCE = 120.0


class _WaitsForAnAnswer(Callback):
    def on_train_begin(self, net, **_):
        _TRAINING.set()
        if not _ANSWERED.wait(_PATIENCE):
            raise TimeoutError("nobody else answered while this net was training")


def _data(n_samples=20, seed=0):
    X = np.random.RandomState(seed).standard_normal((n_samples, 2))
    return X, np.sin(X[:, 0])


def _estimator(seed=0, n_restarts=1, **options):
    net = DFCNNRegressor(
        module__hidden_widths=(3,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=0.05,
        max_epochs=3,
        **options,
    )
    return SolutionSetEstimator(net, n_restarts=n_restarts, random_state=seed)


@pytest.fixture(scope="module")
def fitted():
    return _estimator().fit(*_data())


def _all_answers(model):
    moved = model.perturb()
    return [
        model.predict(moved),
        model.solution_set_.predict(moved),
        model.sensitivity(moved, n_corrections=1).weights,
        model.retrain(moved).weights,
        model.lipschitz_moduli_,
    ]


def test_answers_do_not_wait_for_the_training_of_another_model(fitted):
    _TRAINING.clear()
    _ANSWERED.clear()
    slow = _estimator(seed=1, callbacks=[("waits", _WaitsForAnAnswer)])
    failures = []

    def train():
        try:
            slow.fit(*_data(seed=1))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert _TRAINING.wait(_PATIENCE)
        _all_answers(fitted)
    finally:
        _ANSWERED.set()
        thread.join()
    assert not failures


def test_restarts_in_threads_polish_at_the_same_time(monkeypatch):
    both, polish = threading.Barrier(2), _restart.polish

    def polish_beside_the_other(*args, **options):
        both.wait(_PATIENCE)
        return polish(*args, **options)

    expected = _estimator(n_restarts=2).fit(*_data()).solution_set_.weights
    monkeypatch.setattr(_restart, "polish", polish_beside_the_other)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        model = _estimator(n_restarts=2).fit(*_data())
    np.testing.assert_array_equal(model.solution_set_.weights, expected)


class _Attention(torch.nn.Module):
    """A row's features attend to each other."""

    def __init__(self, n_features=2, n_outputs=1):
        super().__init__()
        self.embed = torch.nn.Linear(1, 4)
        self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
        self.output = torch.nn.Linear(4, n_outputs)

    def forward(self, X):
        tokens = torch.tanh(self.embed(X[:, :, None]))
        moved = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.output(moved.mean(dim=1))


def _life(seed):
    """Fit and ask everything, of nets with and without attention."""
    X, y = _data(12, seed)
    if seed % 2:
        net = NeuralNetRegressor(
            _Attention,
            optimizer__weight_decay=0.1,
            max_epochs=2,
            verbose=0,
            train_split=None,
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=seed)
    else:
        model = _estimator(seed, n_restarts=2)
    model.fit(X, y)
    return _all_answers(model)


@pytest.mark.filterwarnings("ignore")
def test_threads_that_mix_everything_give_the_bits_of_one():
    alone = {seed: _life(seed) for seed in range(4)}
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    found, failures = {}, []

    def live(seed):
        try:
            found[seed] = _life(seed)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for seed, expected in alone.items():
        for one, other in zip(found[seed], expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_one_model_answers_in_many_threads(fitted):
    """They share a module, whose parameters are exchanged and which gets hooks."""
    expected = _all_answers(fitted)
    failures = []

    def ask():
        try:
            for one, other in zip(_all_answers(fitted), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _thread_counts():
    blas = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
    return [torch.get_num_threads(), *blas]


def test_thread_counts_are_put_back_when_the_last_thread_leaves():
    """One enters first and leaves first, the other leaves last."""
    with threadpool_limits(2):
        torch.set_num_threads(2)
        try:
            before, inside, after = _thread_counts(), [], []
            second_in, first_out = threading.Event(), threading.Event()

            def second():
                with single_threaded():
                    second_in.set()
                    first_out.wait(_PATIENCE)
                    inside.append(_thread_counts())

            thread = threading.Thread(target=second)
            with single_threaded():
                thread.start()
                second_in.wait(_PATIENCE)
                inside.append(_thread_counts())
            first_out.set()
            thread.join()
            after.append(_thread_counts())
            fresh = threading.Thread(target=lambda: after.append(_thread_counts()))
            fresh.start()
            fresh.join()
        finally:
            torch.set_num_threads(1)
    assert before == [2] * len(before)
    assert inside == [[1] * len(before)] * 2
    assert after == [before] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked")
def test_a_fork_waits_for_an_evaluation_and_gets_a_whole_module(fitted):
    """Otherwise hooks and levels of differentiation would stay in the child."""
    entered, leave = threading.Event(), threading.Event()

    def evaluate():
        with DERIVATIVES:
            entered.set()
            leave.wait(_PATIENCE)

    thread = threading.Thread(target=evaluate)
    thread.start()
    entered.wait(_PATIENCE)
    threading.Timer(0.5, leave.set).start()
    child = multiprocessing.get_context("fork").Process(
        target=_all_answers, args=(fitted,)
    )
    child.start()
    assert leave.is_set()
    thread.join()
    child.join(300)
    assert child.exitcode == 0
    _all_answers(fitted)
