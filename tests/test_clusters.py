"""Fits, retraining, sweeps and cross-validation run unchanged on a cluster.

The module class lives in ``__main__``, as in anybody's script: workers must get it, and
must not return nets.
"""

import copy
import multiprocessing
import os
import pickle
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor
from sksetsens.objective._isolation import TRAINING, isolated
from sksetsens.training._restart import run_restart

torch.set_num_threads(1)


def _answers(X, y, seed):
    net = DFCNNRegressor(
        module__hidden_widths=(3,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=0.05,
        max_epochs=3,
    )
    model = SolutionSetEstimator(net, n_restarts=2, random_state=seed).fit(X, y)
    moved = model.perturb()
    return np.stack(
        [
            model.solution_set_.weights,
            model.sensitivity(moved, n_corrections=1).weights,
            model.retrain(moved).weights,
        ]
    )


def test_threads_do_not_disturb_each_other():
    """torch's generators and levels of differentiation are the whole process's."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((20, 2))
    y = X[:, 0]
    alone = [_answers(X, y, seed) for seed in range(3)]
    found = {}
    state = torch.get_rng_state()
    threads = [
        threading.Thread(target=lambda s=s: found.update({s: _answers(X, y, s)}))
        for s in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    for seed, expected in enumerate(alone):
        np.testing.assert_array_equal(found[seed], expected)


def test_fitted_estimators_travel_while_they_answer():
    """A thread that answers exchanges the parameters of the module."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((20, 2))
    net = DFCNNRegressor(
        module__hidden_widths=(3,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=0.05,
        max_epochs=3,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, X[:, 0])
    moved, stop = model.perturb(), threading.Event()
    expected = model.sensitivity(moved, n_corrections=1).weights

    def answer():
        while not stop.is_set():
            model.sensitivity(moved, n_corrections=1)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        twins = [pickle.loads(pickle.dumps(model)) for _ in range(40)]
        copies = [copy.deepcopy(model.solution_set_) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    for twin in twins[::8]:
        np.testing.assert_array_equal(
            twin.sensitivity(moved, n_corrections=1).weights, expected
        )
    assert all(len(one.symmetry.hidden_layers) == 1 for one in copies)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked")
def test_forked_processes_do_not_wait_for_threads_they_do_not_have():
    held, done = threading.Event(), threading.Event()

    def hold():
        with TRAINING:
            held.set()
            done.wait(600)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(600)
    try:
        child = multiprocessing.get_context("fork").Process(target=_take_turn)
        child.start()
        child.join(300)
        code = child.exitcode
        child.kill()
    finally:
        done.set()
        thread.join()
    assert code == 0


def _take_turn():
    with isolated(seed=0), TRAINING:
        pass


def test_workers_get_read_only_arrays():
    """Joblib maps large arrays from files, Ray all; torch warns of such arrays."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((20, 2))
    net = DFCNNRegressor(
        module__hidden_widths=(), module__train_output=True, max_epochs=2
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, X[:, 0])
    task = model._task
    expected = run_restart(task, 0)
    frozen = {name: getattr(task, name).copy() for name in ("X", "y", "X_net", "y_net")}
    for array in (*frozen.values(), X):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_restart(replace(task, **frozen, objective=None), 0)
        model.solution_set_.predict(X)
        model.sensitivity(X)
    assert not found.error
    np.testing.assert_array_equal(found.polished.weights, expected.polished.weights)


_SCRIPT = """
    import sys
    import numpy as np
    import torch
    from joblib import Parallel, delayed, parallel_config
    from sklearn.model_selection import GridSearchCV, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from skorch import NeuralNetRegressor
    from sksetsens import SolutionSetEstimator, sensitivity, sensitivity_curve
    from sksetsens.metrics import neg_shift_norm, perturbed_score

    class Net(torch.nn.Module):
        def __init__(self, n_features=1, n_outputs=1):
            super().__init__()
            self.hidden = torch.nn.Linear(n_features, 3)
            self.output = torch.nn.Linear(3, n_outputs)

        def forward(self, X):
            return self.output(torch.tanh(self.hidden(X)))

    def answers(n_jobs):
        rng = np.random.RandomState(0)
        X = rng.standard_normal((30, 2))
        y = np.sin(X[:, 0])
        net = NeuralNetRegressor(
            Net, optimizer__weight_decay=0.05, max_epochs=3, train_split=None, verbose=0
        )
        model = SolutionSetEstimator(net, n_restarts=3, perturbation_size=1e-3,
                                     random_state=0, n_jobs=n_jobs)
        pipeline = make_pipeline(StandardScaler(), model)
        scoring = {"score": perturbed_score, "shift": neg_shift_norm}
        validated = cross_validate(
            pipeline, X, y, cv=3, scoring=scoring, n_jobs=n_jobs, error_score="raise"
        )
        search = GridSearchCV(
            pipeline, {"solutionsetestimator__perturbation_size": [1e-3, 1e-2]},
            cv=2, scoring=neg_shift_norm, n_jobs=n_jobs, error_score="raise",
        ).fit(X, y)
        model.fit(X, y)
        moved = model.perturb()
        # Fitted estimators travel, nets and factorised derivatives included.
        shipped = Parallel(n_jobs=n_jobs)(
            delayed(sensitivity)(fitted, moved) for fitted in (model, model)
        )
        curve = sensitivity_curve(
            model, X, y, param_range=[1e-3, 1e-2], cv=2, retrain=True, n_jobs=n_jobs
        )
        return {
            "fit": model.solution_set_.weights,
            "predicted": model.sensitivity(moved).weights,
            "shipped": np.stack([there.weights for there in shipped]),
            "cold retraining": model.retrain(moved, warm_start=False).weights,
            "cross-validated score": validated["test_score"],
            "cross-validated shift": validated["test_shift"],
            "search": search.cv_results_["mean_test_score"],
            "refit": search.best_estimator_[-1].solution_set_.weights,
            "curve": curve.losses,
            "retrained curve": curve.retrained_losses,
        }

    def compare(alone, **options):
        with parallel_config(**options):
            there = answers(2)
        for name, values in alone.items():
            np.testing.assert_array_equal(there[name], values, err_msg=name)
        sys.stdout.write("unchanged")

    if __name__ == "__main__":
        alone = answers(None)
        if sys.argv[1] == "dask":
            from distributed import Client, LocalCluster

            cluster = LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True,
                host="127.0.0.1", dashboard_address=None,
            )
            with cluster, Client(cluster):
                compare(alone, backend="dask")
        else:
            compare(alone, backend=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "threading", "dask"])
def test_bits_do_not_depend_on_where_it_runs(run_script, backend):
    if backend == "dask":
        pytest.importorskip("distributed")
    assert "unchanged" in run_script(_SCRIPT, backend)
