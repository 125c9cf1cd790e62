"""Warnings name the user's line, through pipelines and searches, too."""

import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import DataConversionWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit

from sksetsens import SolutionSetEstimator, lipschitz_modulus
from sksetsens._validation import user_stacklevel
from sksetsens.exceptions import SolverWarning, StationarityWarning

torch.set_num_threads(1)


class _Net(torch.nn.Module):
    def __init__(self, n_features=1, n_outputs=1):
        super().__init__()
        self.hidden = torch.nn.Linear(n_features, 3)
        self.output = torch.nn.Linear(3, n_outputs)

    def forward(self, X):
        return self.output(torch.tanh(self.hidden(X)))


class _SometimesDiverges(Callback):
    n_begun = 0

    def on_train_end(self, net, **_):
        _SometimesDiverges.n_begun += 1
        if _SometimesDiverges.n_begun % 2:
            raise FloatingPointError("this one")


def _model(
    n_restarts=1, solver="auto", memory=None, max_iter=1000, tol=1e-9, **options
):
    net = {"optimizer__weight_decay": 0.05, "max_epochs": 2, "train_split": None}
    return SolutionSetEstimator(
        NeuralNetRegressor(_Net, verbose=0, **{**net, **options}),
        n_restarts=n_restarts,
        random_state=0,
        solver=solver,
        solver_max_iter=max_iter,
        memory=memory,
        tol=tol,
    )


def _data():
    X = np.random.RandomState(0).standard_normal((12, 2))
    return X, np.sin(X[:, 0])


class _HasNoKey(Callback):
    """What a function imports from the user's own files is not known to a digest."""

    never = False

    def on_train_begin(self, net, **_):
        if self.never:
            import conftest

            conftest.never()


MODELS = {
    "held out rows": (UserWarning, lambda: _model(train_split=ValidSplit(5))),
    "no key": (UserWarning, lambda: _model(callbacks=[("never", _HasNoKey)])),
    "failed restarts": (
        FitFailedWarning,
        lambda: _model(2, callbacks=[("diverges", _SometimesDiverges)]),
    ),
    "not stationary": (StationarityWarning, lambda: _model(tol=1e-300)),
}


def _alone(model, X, y):
    model.fit(X, y)


def _piped(model, X, y):
    make_pipeline(FunctionTransformer(), model).fit(X, y)


def _validated(model, X, y):
    cross_validate(make_pipeline(FunctionTransformer(), model), X, y, cv=2)


def _searched(model, X, y):
    GridSearchCV(model, {"perturbation_size": [1e-3]}, cv=2).fit(X, y)


CALLS = [_alone, _piped, _validated, _searched]


def _told(category, call, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    # scikit-learn's own summary of failed fits is none of ours.
    return [w for w in caught if issubclass(w.category, category)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", MODELS)
def test_warnings_of_fit_name_this_file(kind, call, tmp_path):
    category, model = MODELS[kind]
    model = model()
    if kind == "no key":
        model.set_params(memory=tmp_path)
    _SometimesDiverges.n_begun = 0
    found = _told(category, call, model, *_data())
    assert found
    assert {w.filename for w in found} == {__file__}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", ["integers", "column"])
def test_warnings_of_data_name_this_file(what, call):
    X, y = _data()
    X, y = (np.round(9 * X).astype(int), y) if what == "integers" else (X, y[:, None])
    found = _told(DataConversionWarning, call, _model(), X, y)
    assert found
    assert {w.filename for w in found} == {__file__}


def test_a_damaged_file_of_the_memory_is_told_here(tmp_path):
    _model(memory=tmp_path).fit(*_data())
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(b"nothing")
    for call in CALLS[:2]:
        found = _told(UserWarning, call, _model(memory=tmp_path), *_data())
        assert {w.filename for w in found} == {__file__}
        for path in tmp_path.rglob("*.npz"):
            path.write_bytes(b"nothing")


@pytest.mark.filterwarnings("ignore")
def test_warnings_of_moduli_name_this_file():
    model = _model(solver="minres", max_iter=1).fit(*_data())
    found = _told(SolverWarning, lipschitz_modulus, model)
    assert found
    assert {w.filename for w in found} == {__file__}


@pytest.mark.filterwarnings("ignore")
def test_cold_retraining_names_this_file():
    model = _model(2, callbacks=[("diverges", _SometimesDiverges)]).fit(*_data())
    _SometimesDiverges.n_begun = 0
    X = _data()[0] + 1e-3
    found = _told(FitFailedWarning, lambda: model.retrain(X, warm_start=False))
    assert found
    assert {w.filename for w in found} == {__file__}


def _function(module, body, **names):
    """``run`` of a module of that name, in a file of that name."""
    space = {"__name__": module, **names}
    exec(compile(f"def run():\n    {body}", f"{module}.py", "exec"), space)
    return space["run"]


def _warn_in_thread(target):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    return [w.filename for w in caught]


def test_where_the_user_has_no_line_the_first_frame_outside_is_named():
    names = {"warnings": warnings, "user_stacklevel": user_stacklevel}
    told = "warnings.warn('here', UserWarning, stacklevel=user_stacklevel())"
    inside = _function("sksetsens.inside", told, **names)
    worker = _function("joblib.worker", "inside()", inside=inside)
    assert _warn_in_thread(worker) == ["joblib.worker.py"]
    assert _warn_in_thread(lambda: worker()) == [__file__]


def test_a_memory_that_cannot_be_written_is_told_here(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    told = _told(UserWarning, _alone, _model(memory=str(blocked)), *_data())
    assert [w.filename for w in told if "written" in str(w.message)] == [__file__]
