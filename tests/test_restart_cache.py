"""Restarts kept on disk: trained once, found again, never confused."""

import importlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.metrics import neg_shift_norm, perturbed_score
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

torch.set_num_threads(1)

_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((18, 2))
y = X[:, 0] + 0.1 * _RNG.standard_normal(18)


class Counting(Callback):
    """Write one byte per training, also from other processes."""

    def __init__(self, file):
        self.file = file

    def on_train_begin(self, net, **kwargs):
        with open(self.file, "ab") as file:
            file.write(b".")


@pytest.fixture
def count(tmp_path):
    """Path that trainings write to."""
    path = tmp_path / "trainings"
    path.touch()
    return path


def trainings(count):
    """Number of them since the last call."""
    number = count.stat().st_size
    count.write_bytes(b"")
    return number


def _net(count, **params):
    settings = {
        "module__hidden_widths": (2,),
        "module__activation": "tanh",
        "module__train_output": True,
        "optimizer__weight_decay": 0.05,
        "max_epochs": 2,
        "callbacks": [Counting(str(count))],
    }
    return DFCNNRegressor(**{**settings, **params})


def _model(net, memory, **params):
    settings = {"n_restarts": 2, "random_state": 0, "perturbation_size": 1e-3}
    return SolutionSetEstimator(net, memory=memory, **{**settings, **params})


def _files(memory):
    return sorted((Path(memory) / "sksetsens" / "restarts").iterdir())


def _assert_same(one, other):
    np.testing.assert_array_equal(
        one.solution_set_.weights, other.solution_set_.weights
    )
    for name in set(one.restart_report_) - {"cached", "n_tries", "duration"}:
        np.testing.assert_array_equal(
            one.restart_report_[name], other.restart_report_[name], err_msg=name
        )
    for net, twin in zip(one.estimators_, other.estimators_, strict=True):
        assert [r["train_loss"] for r in net.history] == [
            r["train_loss"] for r in twin.history
        ]
        for name, value in net.module_.state_dict().items():
            assert torch.equal(value, twin.module_.state_dict()[name])


# --- Hits ----------------------------------------------------------------------------


def test_a_search_trains_once_per_fold(tmp_path, count):
    """4 restarts in 3 folds and once for all rows: 16 trainings for 5 sizes."""

    def search(memory):
        net = _net(count, module__hidden_widths=(), max_epochs=1)
        model = _model(net, memory, polish=False, n_restarts=4)
        sizes = {"perturbation_size": [1e-4, 3e-4, 1e-3, 2e-3, 4e-3]}
        scoring = {"shift": neg_shift_norm, "score": perturbed_score}
        found = GridSearchCV(
            model, sizes, cv=3, scoring=scoring, refit="shift", error_score="raise"
        ).fit(X, y)
        assert found.best_params_ == {"perturbation_size": 1e-4}
        scores = [found.cv_results_[f"mean_test_{name}"] for name in scoring]
        best = found.best_estimator_.solution_set_.weights
        return np.concatenate(scores), best, trainings(count)

    expected, best, without = search(None)
    assert len(np.unique(expected)) == 10
    cold, cold_best, first = search(tmp_path / "memory")
    warm, warm_best, second = search(tmp_path / "memory")
    assert (without, first, second) == (64, 16, 0)
    for scores, found in ((cold, cold_best), (warm, warm_best)):
        np.testing.assert_array_equal(scores, expected)
        np.testing.assert_array_equal(found, best)
    assert len(_files(tmp_path / "memory")) == 16


@pytest.mark.parametrize("polish", [True, False])
@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_a_cached_restart_is_the_restart(tmp_path, count, polish):
    plain = _model(_net(count), None, polish=polish).fit(X, y)
    cold = _model(_net(count), tmp_path / "memory", polish=polish).fit(X, y)
    assert trainings(count) == 4
    warm = _model(_net(count), str(tmp_path / "memory"), polish=polish).fit(X, y)
    assert trainings(count) == 0
    for other in (cold, warm):
        _assert_same(plain, other)
    assert not cold.restart_report_["cached"].any()
    assert warm.restart_report_["cached"].all()
    np.testing.assert_array_equal(warm.restart_report_["n_tries"], [0, 0])
    np.testing.assert_array_equal(cold.restart_report_["n_tries"], [1, 1])
    np.testing.assert_array_equal(
        warm.restart_report_["duration"], cold.restart_report_["duration"]
    )


def test_only_missing_restarts_are_trained(tmp_path, count):
    _model(_net(count), tmp_path, n_restarts=2).fit(X, y)
    assert trainings(count) == 2
    more = _model(_net(count), tmp_path, n_restarts=5).fit(X, y)
    assert trainings(count) == 3
    assert list(more.restart_report_["cached"]) == [True] * 2 + [False] * 3
    fewer = _model(_net(count), tmp_path, n_restarts=3).fit(X, y)
    assert trainings(count) == 0
    np.testing.assert_array_equal(
        fewer.solution_set_.weights, more.solution_set_.weights[:3]
    )


@pytest.mark.parametrize(
    "params",
    [
        {"perturbation": "random"},
        {"rcond": 1e-6},
        {"solver": "eigh"},
        {"curvature": "ggn"},
        {"n_jobs": 2},
        {"verbose": 1},
        {"estimator__verbose": 1},
        {"restart_backend": "joblib"},
        # The net has callbacks and is not stacked.
        {"restart_backend": "vectorized"},
    ],
)
def test_what_does_not_change_training(tmp_path, count, params):
    model = _model(_net(count), tmp_path).fit(X, y)
    trainings(count)
    with joblib.parallel_config(backend="threading"):
        other = clone(model).set_params(**params).fit(X, y)
    assert trainings(count) == 0
    assert other.restart_report_["cached"].all()


@pytest.mark.parametrize(
    "params",
    [
        {"random_state": 1},
        {"polish": False},
        {"tol": 1e-9},
        {"estimator__lr": 0.02},
        {"estimator__max_epochs": 3},
        {"estimator__module__hidden_widths": (3,)},
        {"estimator__optimizer": torch.optim.Adamax},
        {"estimator__optimizer__weight_decay": 0.06},
        {"estimator__criterion": nn.SmoothL1Loss},
        {"estimator__iterator_train__shuffle": True},
    ],
)
@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_what_changes_training(tmp_path, count, params):
    model = _model(_net(count), tmp_path).fit(X, y)
    trainings(count)
    clone(model).set_params(**params).fit(X, y)
    assert trainings(count) == 2


def test_other_data_is_another_training(tmp_path, count):
    model = _model(_net(count), tmp_path).fit(X, y)
    trainings(count)
    moved = X.copy()
    moved[3, 1] = np.nextafter(moved[3, 1], 2.0)
    clone(model).fit(moved, y)
    clone(model).fit(X, y + 1e-9)
    clone(model).fit(X[::-1], y[::-1])
    assert trainings(count) == 6
    clone(model).fit(np.asfortranarray(X), list(y))
    assert trainings(count) == 0


def test_cold_retraining_is_kept(tmp_path, count):
    model = _model(_net(count), tmp_path).fit(X, y)
    moved = model.perturb()
    first = model.retrain(moved, warm_start=False)
    assert trainings(count) == 4
    second = clone(model).fit(X, y).retrain(moved, warm_start=False)
    assert trainings(count) == 0
    np.testing.assert_array_equal(first.weights, second.weights)


def test_a_joblib_memory_gives_its_location(tmp_path, count):
    memory = joblib.Memory(tmp_path / "joblib_memory", verbose=0)
    _model(_net(count), memory).fit(X, y)
    assert len(_files(tmp_path / "joblib_memory")) == 2
    _model(_net(count), tmp_path / "joblib_memory").fit(X, y)
    assert trainings(count) == 2
    nowhere = joblib.Memory(None)
    assert not _model(_net(count), nowhere).fit(X, y).restart_report_["cached"].any()
    assert trainings(count) == 2


def test_stacks_hold_the_missing_restarts_only(tmp_path, monkeypatch):
    from sksetsens.training import _restarts

    stacks = []

    def counting(estimator, params, X, y, seeds, *weights):
        stacks.append(list(seeds))
        return original(estimator, params, X, y, seeds, *weights)

    original = _restarts.train_together
    monkeypatch.setattr(_restarts, "train_together", counting)
    net = _net("unused", callbacks=None)
    settings = {"restart_backend": "vectorized"}
    first = _model(net, tmp_path, **settings).fit(X, y)
    more = _model(net, tmp_path, n_restarts=4, **settings).fit(X, y)
    again = _model(net, tmp_path, n_restarts=4, **settings).fit(X, y)
    seeds = more.restart_report_["seed"].tolist()
    assert stacks == [seeds[:2], seeds[2:]]
    np.testing.assert_array_equal(
        first.solution_set_.weights, more.solution_set_.weights[:2]
    )
    np.testing.assert_array_equal(
        again.solution_set_.weights, more.solution_set_.weights
    )
    assert set(again.restart_report_["backend"]) == {"vectorized"}
    # Bits of single trainings do not come from a stack.
    alone = _model(net, tmp_path).fit(X, y)
    assert not alone.restart_report_["cached"].any()


class Branching(nn.Module):
    """Control flow that depends on the data cannot be stacked."""

    def __init__(self, n_features=2):
        super().__init__()
        self.linear = nn.Linear(n_features, 1)

    def forward(self, X):
        out = self.linear(X)
        return out if bool(out.sum() > 1e9) else 1.0 * out


def test_nets_that_are_not_stacked_share_files_with_joblib(tmp_path):
    net = DFCNNRegressor(Branching, max_epochs=2, optimizer__weight_decay=0.1)
    _model(net, tmp_path).fit(X, y)
    tried = _model(net, tmp_path, restart_backend="vectorized").fit(X, y)
    assert tried.restart_report_["cached"].all()
    assert "cannot be stacked" in tried.restart_report_["backend"][0]


# --- Failures are not kept, files may be damaged -------------------------------------


class OddlyRaising(nn.Module):
    """Linear module of which every other training fails."""

    def __init__(self, n_features=2, n_outputs=1):
        super().__init__()
        self.register_buffer("fate", torch.rand(()))
        self.linear = nn.Linear(n_features, n_outputs)

    def forward(self, X):
        if bool(self.fate < 0.5) and torch.is_grad_enabled() and self.training:
            raise OSError("no luck")
        return self.linear(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_failed_restarts_are_tried_again(tmp_path, count):
    net = NeuralNetRegressor(
        OddlyRaising,
        optimizer__weight_decay=0.1,
        max_epochs=1,
        train_split=None,
        callbacks=[Counting(str(count))],
    )
    first = _model(net, tmp_path, n_restarts=6).fit(X, y)
    failed = int((first.restart_report_["error"] != "").sum())
    assert 0 < failed < 6
    assert len(_files(tmp_path)) == 6 - failed
    trainings(count)
    with pytest.warns(FitFailedWarning, match=f"{failed} of 6 restarts failed"):
        _model(net, tmp_path, n_restarts=6).fit(X, y)
    assert trainings(count) == failed


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))


def _another(path):
    others = [p for p in path.parent.iterdir() if p != path]
    path.write_bytes(others[0].read_bytes())


def _without_a_member(path):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "weights"}
    np.savez(path, **arrays)


def _folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _flip,
        _another,
        _without_a_member,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a file of arrays"),
    ],
)
def test_damaged_files_are_replaced(tmp_path, count, damage):
    model = _model(_net(count), tmp_path).fit(X, y)
    trainings(count)
    damage(_files(tmp_path)[0])
    with pytest.warns(UserWarning, match="cannot be read .* trained anew") as caught:
        again = clone(model).fit(X, y)
    assert caught[0].filename == __file__
    assert trainings(count) == 1
    _assert_same(model, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clone(model).fit(X, y)
    assert trainings(count) == 0


@pytest.mark.filterwarnings("ignore:1 of 2 restarts could not be written")
def test_a_file_that_cannot_be_replaced(tmp_path, count):
    model = _model(_net(count), tmp_path).fit(X, y)
    _folder(_files(tmp_path)[0])
    with pytest.warns(UserWarning, match="cannot be read .IsADirectoryError"):
        again = clone(model).fit(X, y)
    _assert_same(model, again)


def test_pickles_are_not_loaded(tmp_path, count):
    model = _model(_net(count), tmp_path).fit(X, y)
    witness = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(witness),))

    path = _files(tmp_path)[0]
    with open(path, "wb") as file:
        np.savez(file, record=np.array(Payload(), dtype=object))
    with pytest.warns(UserWarning, match="cannot be read"):
        clone(model).fit(X, y)
    assert not witness.exists()


def test_files_hold_arrays_and_json(tmp_path, count):
    _model(_net(count), tmp_path).fit(X, y)
    for path in _files(tmp_path):
        with np.load(path, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            assert file["weights"].shape == (6,)
        assert len(record["history"]) == 2
        assert record["polished"]["status"] == "stationary"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_memory_that_cannot_be_written_to(tmp_path, count, n_jobs):
    taken = tmp_path / "file"
    taken.write_text("")
    model = _model(_net(count), taken, n_jobs=n_jobs)
    with (
        joblib.parallel_config(backend="threading"),
        pytest.warns(UserWarning, match="2 of 2 restarts could not be written") as told,
    ):
        model.fit(X, y)
    assert told[-1].filename == __file__
    assert "'memory' parameter of SolutionSetEstimator" in str(told[-1].message)
    _assert_same(model, _model(_net(count), None).fit(X, y))


def test_a_full_disk_loses_no_training(tmp_path, count, monkeypatch):
    from sksetsens.training import _restart_cache

    def full(path, kind, arrays):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_restart_cache, "write_arrays", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        model = _model(_net(count), tmp_path / "memory").fit(X, y)
    assert len(model.solution_set_) == 2
    assert not _files(tmp_path / "memory")


class Locked(Callback):
    lock = threading.Lock()


class Chatty(Callback):
    """Write something into the history that is no JSON."""

    def on_epoch_end(self, net, **kwargs):
        net.history.record("net", type(net))


def test_nets_without_a_stable_key_are_not_cached(tmp_path):
    net = _net("unused", callbacks=[Locked()])
    with pytest.warns(
        UserWarning, match="'estimator__callbacks' holds an object of _thr"
    ) as told:
        model = _model(net, tmp_path / "memory").fit(X, y)
    assert told[-1].filename == __file__
    assert not model.restart_report_["cached"].any()
    assert not (tmp_path / "memory").exists()


def test_histories_that_are_no_json_are_not_cached(tmp_path):
    net = _net("unused", callbacks=[Chatty()])
    with pytest.warns(UserWarning, match="history holds a type"):
        model = _model(net, tmp_path).fit(X, y)
    assert len(model.solution_set_) == 2
    assert not _files(tmp_path)


@pytest.mark.parametrize("memory", [3, True, ["folder"], {"path": "folder"}])
def test_wrong_types(memory):
    with pytest.raises(
        ValueError,
        match="The 'memory' parameter of SolutionSetEstimator must be .* Got",
    ):
        _model(_net("unused"), memory).fit(X, y)


def test_clone_and_pickle_keep_the_memory(tmp_path, count):
    model = _model(_net(count), str(tmp_path)).fit(X, y)
    assert clone(model).memory == str(tmp_path)
    assert model.get_params(deep=False)["memory"] == str(tmp_path)


# --- Across processes ----------------------------------------------------------------

_CLASSIFIER = """
    import sys
    import numpy as np
    import torch
    from sksetsens import SolutionSetEstimator
    from sksetsens.networks import DFCNNClassifier
    from skorch.callbacks import EarlyStopping

    import user_module

    def n_cached(memory):
        X = np.random.RandomState(0).standard_normal((12, 2))
        y = (X[:, 0] > 0).astype(int)
        net = DFCNNClassifier(
            user_module.Net,
            criterion__weight=torch.tensor([0.25, 0.75]),
            optimizer__weight_decay=0.1,
            max_epochs=2,
            callbacks=[EarlyStopping("train_loss")],
        )
        model = SolutionSetEstimator(
            net, n_restarts=1, random_state=0, memory=memory, polish=False
        )
        return int(model.fit(X, y).restart_report_["cached"].sum())

    if __name__ == "__main__":
        torch.set_num_threads(1)
        sys.stdout.write(str(n_cached(sys.argv[1])))
"""
_MODULE = """
    import torch

    SCALE = 1.0

    def helper(x):
        return SCALE * torch.tanh(x)

    class Net(torch.nn.Module):
        def __init__(self, n_features=1, n_outputs=2):
            super().__init__()
            self.linear = torch.nn.Linear(n_features, n_outputs)

        def forward(self, X):
            return torch.softmax(helper(self.linear(X)), -1)
"""


def _in_a_new_process(folder):
    """Number of cached restarts there, whose strings have other hashes than here."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([root, str(folder), os.environ.get("PYTHONPATH", "")])
    seeds = {"1", "2"} - {os.environ.get("PYTHONHASHSEED")}
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONHASHSEED": seeds.pop(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(folder / "user_script.py"), str(folder / "memory")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _in_this_process(folder, monkeypatch):
    """The same here, with the user's code imported anew."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("user_module", "user_script"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    linecache.checkcache()
    script = importlib.import_module("user_script")
    return script.n_cached(str(folder / "memory"))


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_keys_hold_across_processes_and_tell_edits(tmp_path, monkeypatch):
    """A tensor as a parameter, a class of the user's, and helpers that it calls."""
    (tmp_path / "user_script.py").write_text(textwrap.dedent(_CLASSIFIER))
    module = tmp_path / "user_module.py"
    source = textwrap.dedent(_MODULE)
    module.write_text(source)
    assert _in_this_process(tmp_path, monkeypatch) == 0
    module.write_text("# A comment changes no weight.\n" + source)
    assert _in_a_new_process(tmp_path) == 1
    assert _in_this_process(tmp_path, monkeypatch) == 1
    module.write_text(source.replace("SCALE = 1.0", "SCALE = 2.0"))
    assert _in_this_process(tmp_path, monkeypatch) == 0


def test_equal_tensors_as_parameters_have_one_key(tmp_path):
    labels = (X[:, 0] > 0).astype(int)

    def fit(weight):
        net = DFCNNClassifier(
            module__hidden_widths=(),
            module__train_output=True,
            optimizer__weight_decay=0.1,
            criterion__weight=torch.tensor(weight),
            max_epochs=1,
        )
        return _model(net, tmp_path).fit(X, labels).restart_report_["cached"].all()

    assert [fit([0.25, 0.75]), fit([0.25, 0.75]), fit([0.75, 0.25])] == [
        False,
        True,
        False,
    ]
