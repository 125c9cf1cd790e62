"""Jobs that kill the process they run in cost themselves and nothing else."""

import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool

import joblib
import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import AllRestartsFailedError
from sksetsens.training import _surviving
from sksetsens.training._surviving import Died, surviving

torch.set_num_threads(1)

X = np.linspace(0.0, 1.0, 6)[:, None]
y = 2.0 * X[:, 0]


# --- The order of attempts, with pools that only pretend to break --------------------


class FakeParallel:
    """Runs jobs in turn; one that returns a death breaks the pool for all the rest."""

    submitted: list

    def __init__(self, *, return_as="list", n_jobs, batch_size):
        if return_as != self.returns:
            raise ValueError("this backend does not support return_as")

    def __call__(self, jobs):
        jobs = list(jobs)
        self.submitted.append([arguments[0] for _, arguments, _ in jobs])
        outcomes = self._run(jobs)
        return outcomes if self.returns != "list" else list(outcomes)

    def _run(self, jobs):
        for function, arguments, _ in jobs:
            key, result = function(*arguments)
            if isinstance(result, Exception):
                raise result
            yield key, result


@pytest.fixture(params=["generator_unordered", "list"])
def submitted(request, monkeypatch):
    FakeParallel.submitted = []
    FakeParallel.returns = request.param
    monkeypatch.setattr(_surviving, "Parallel", FakeParallel)
    return FakeParallel.submitted


def _outcomes(function, n_jobs, recovered=lambda key: None):
    jobs = {key: (key,) for key in range(n_jobs)}
    found = list(surviving(function, jobs, n_jobs=2, recovered=recovered))
    assert len({key for key, *_ in found}) == len(found)
    return {key: (result, tries) for key, result, tries in found}


def test_nothing_dies(submitted):
    assert _outcomes(lambda key: 10 * key, 3) == {0: (0, 1), 1: (10, 1), 2: (20, 1)}
    assert submitted == [[0, 1, 2]]


def test_a_killer_is_left_alone_in_the_end(submitted):
    death = BrokenProcessPool("gone")
    found = _outcomes(lambda key: death if key == 1 else key, 4)
    assert found.pop(1) == (Died(f"{type(death).__name__}: gone"), 3)
    assert {key: result for key, (result, _) in found.items()} == {0: 0, 2: 2, 3: 3}
    assert [1] in submitted
    if FakeParallel.returns != "list":
        # What stood behind the killer comes before it, the second time.
        assert submitted == [[0, 1, 2, 3], [3, 2, 1], [1]]


def test_a_death_that_does_not_repeat_is_forgotten(submitted):
    deaths = iter([BrokenProcessPool("gone")])

    def once(key):
        return next(deaths, key) if key == 2 else key

    found = _outcomes(once, 3)
    assert {key: result for key, (result, _) in found.items()} == {0: 0, 1: 1, 2: 2}
    assert found[2][1] == 2


def test_a_single_job_gets_a_second_try(submitted):
    found = _outcomes(lambda key: BrokenProcessPool(), 1)
    assert found == {0: (Died("BrokenProcessPool: "), 2)}


def test_all_die(submitted):
    found = _outcomes(lambda key: BrokenProcessPool(), 3)
    assert len(found) == 3
    assert all(isinstance(result, Died) for result, _ in found.values())


def test_what_a_lost_job_left_behind_is_taken(submitted):
    left = {2: "from a file"}
    found = _outcomes(
        lambda key: BrokenProcessPool() if key == 0 else key, 3, recovered=left.get
    )
    assert found[2] == ("from a file", 1)
    assert sum(2 in keys for keys in submitted) == 1


def test_other_errors_are_raised(submitted):
    with pytest.raises(OSError, match="cannot be sent"):
        _outcomes(lambda key: OSError("cannot be sent"), 2)


# --- In one process ------------------------------------------------------------------


class Exiting(nn.Module):
    """Linear module of which some trainings call sys.exit."""

    def __init__(self, n_features=1, n_outputs=1, share=0.5):
        super().__init__()
        self.register_buffer("fate", torch.rand(()))
        self.linear = nn.Linear(n_features, n_outputs)
        self.share = share

    def forward(self, X):
        if bool(self.fate < self.share) and torch.is_grad_enabled() and self.training:
            sys.exit("enough")
        return self.linear(X)


def _model(module=Exiting, n_restarts=6, callbacks=None, memory=None, **params):
    net = NeuralNetRegressor(
        module,
        optimizer__weight_decay=0.1,
        max_epochs=2,
        train_split=None,
        verbose=0,
        callbacks=callbacks,
        **params,
    )
    return SolutionSetEstimator(
        net, n_restarts=n_restarts, random_state=0, memory=memory
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_sys_exit_is_a_failure():
    model = _model().fit(X, y)
    failed = model.restart_report_["error"] != ""
    assert 0 < failed.sum() < 6
    assert set(model.restart_report_["status"][failed]) == {
        "failed: SystemExit: enough"
    }
    whole = _model(module__share=-1.0).fit(X, y)
    np.testing.assert_array_equal(
        model.solution_set_.weights, whole.solution_set_.weights[~failed]
    )
    with pytest.raises(AllRestartsFailedError, match="SystemExit: enough"):
        _model(module__share=2.0).fit(X, y)


class Interrupting(Callback):
    """Press Ctrl-C in the third training."""

    def __init__(self, file):
        self.file = file

    def on_epoch_end(self, net, **kwargs):
        with open(self.file, "ab") as file:
            file.write(b".")
        if os.path.getsize(self.file) == 5:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, in processes too that were started where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_done(tmp_path):
    """skorch takes it for the end of the training, which is then half done."""
    memory, file = tmp_path / "memory", str(tmp_path / "epochs")
    callbacks = [Interrupting(file)]
    model = _model(callbacks=callbacks, memory=memory, module__share=-1.0)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="") as caught:
        model.fit(X, y)
    (note,) = caught.value.__notes__
    assert note.startswith("2 of 6 restarts are kept in ")
    assert str(memory) in note
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert signal.getsignal(signal.SIGINT) is handler
    model.fit(X, y)
    assert list(model.restart_report_["cached"]) == [True] * 2 + [False] * 4
    whole = _model(module__share=-1.0).fit(X, y)
    np.testing.assert_array_equal(
        model.solution_set_.weights, whole.solution_set_.weights
    )


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_without_memory_names_the_remedy(tmp_path):
    model = _model(callbacks=[Interrupting(str(tmp_path / "e"))], module__share=-1.0)
    with pytest.raises(KeyboardInterrupt, match="") as caught:
        model.fit(X, y)
    assert "'memory' parameter of SolutionSetEstimator" in caught.value.__notes__[0]


def test_early_stopping_still_ends_a_training():
    """It raises a KeyboardInterrupt inside skorch, which is none of the user's."""
    stop = EarlyStopping("train_loss", patience=1, threshold=0.9)
    model = _model(callbacks=[stop], n_restarts=1, module__share=-1.0, lr=1e-6)
    model.set_params(estimator__max_epochs=50).fit(X, y)
    assert len(model.estimators_[0].history) < 50


# --- Real processes ------------------------------------------------------------------

_LOKY = """
    import os, signal, sys
    import numpy as np
    import torch
    from joblib import parallel_config
    from skorch import NeuralNetRegressor
    from sksetsens import SolutionSetEstimator

    class Deadly(torch.nn.Module):
        def __init__(self, n_features=1, n_outputs=1, main=0, how="exit"):
            super().__init__()
            self.register_buffer("fate", torch.rand(()))
            self.linear = torch.nn.Linear(n_features, n_outputs)
            self.main, self.how = main, how

        def forward(self, X):
            dies = float(self.fate) < 0.25 and self.how != "none" and self.training
            if dies and os.getpid() != self.main:
                if self.how == "exit":
                    os._exit(3)
                if self.how != "once" or not os.path.exists("died"):
                    open("died", "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
            return self.linear(X)

    def compare(how, **options):
        X = np.linspace(0.0, 1.0, 6)[:, None]
        net = NeuralNetRegressor(
            Deadly, module__main=os.getpid(), module__how=how, max_epochs=2,
            optimizer__weight_decay=0.1, train_split=None, verbose=0,
        )
        model = SolutionSetEstimator(net, n_restarts=5, random_state=0)
        alone = model.fit(X, X[:, 0]).solution_set_.weights
        with parallel_config(**options):
            model.fit(X, X[:, 0])
        report = model.restart_report_
        died = report["error"] != ""
        assert os.path.exists("died") == (how in ("kill", "once"))
        if how == "once":
            np.testing.assert_array_equal(model.solution_set_.weights, alone)
            assert not died.any()
            sys.stdout.write("others kept")
            return
        np.testing.assert_array_equal(model.solution_set_.weights, alone[~died])
        assert list(died) == [False, False, False, True, False], report["error"]
        assert "the worker process died" in report["status"][3]
        assert report["n_tries"][3] in (2, 3)
        sys.stdout.write("others kept")

    if __name__ == "__main__":
        if sys.argv[1] == "dask":
            import dask
            from distributed import Client, LocalCluster

            # A seed that always kills then dies once in each of three tries.
            tolerance = 3 if sys.argv[2] == "once" else 0
            dask.config.set({"distributed.scheduler.allowed-failures": tolerance})
            cluster = LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True,
                host="127.0.0.1", dashboard_address=None,
            )
            with cluster, Client(cluster):
                compare(sys.argv[2], backend="dask")
        else:
            compare(sys.argv[1], backend="loky", n_jobs=2)
"""


def test_a_dask_cluster_without_workers_is_not_waited_for(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(_surviving, "_PATIENCE", 0.2)
    monkeypatch.setattr(_surviving, "_ASK_SECONDS", 0.1)
    cluster = distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        found = _outcomes(abs, 3)
    assert [tries for _, tries in found.values()] == [1, 1, 1]
    assert all("has had no worker" in died.cause for died, _ in found.values())


def test_under_dask_errors_are_raised_and_results_released():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        assert _outcomes(abs, 3) == {0: (0, 1), 1: (1, 1), 2: (2, 1)}
        with pytest.raises(ZeroDivisionError, match="zero"):
            _outcomes(lambda key: 1 // key, 3)


class _Data:
    """Counts how often it is sent."""

    n_sent = 0

    def __reduce__(self):
        _Data.n_sent += 1
        return _Data, ()


def test_dask_is_sent_shared_arguments_once():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, processes=False, dashboard_address=None
    )
    data, jobs = _Data(), {key: (key,) for key in range(6)}
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        _Data.n_sent = 0
        found = surviving(
            lambda held, key: (type(held).__name__, key),
            jobs,
            shared=(data,),
            n_jobs=2,
            recovered=lambda key: None,
        )
        assert sorted(result for _, result, _ in found) == [
            ("_Data", key) for key in range(6)
        ]
    assert _Data.n_sent <= 2  # Once to the scheduler, once from worker to worker.


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "kill", "dask once", "dask kill"])
def test_dead_processes_cost_one_restart(run_script, how):
    """Also: module classes of __main__ reach workers, and bits are those of one."""
    if "dask" in how:
        pytest.importorskip("distributed")
    assert "others kept" in run_script(_LOKY, *how.split())


@pytest.mark.slow
def test_workers_write_before_they_report(tmp_path):
    model = _model(memory=tmp_path, n_restarts=3, module__share=-1.0)
    model.n_jobs = 2
    with joblib.parallel_config(backend="loky"):
        model.fit(X, y)
    assert len(list((tmp_path / "sksetsens" / "restarts").iterdir())) == 3
    assert model.fit(X, y).restart_report_["cached"].all()
