"""Warnings point at the user's line."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import DataConversionWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetRegressor
from skorch.dataset import ValidSplit

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import StationarityWarning
from sksetsens.training import draw_seeds

X = np.random.RandomState(0).standard_normal((8, 2))
y = X @ [1.0, -1.0]


class Flaky(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        if torch.initial_seed() == draw_seeds(0, 2)[1]:
            raise OSError("no")


def _model(module=torch.nn.Linear, **settings):
    given = {"max_epochs": 2, "lr": 0.01, "train_split": None}
    if module is torch.nn.Linear:
        given.update(module__in_features=2, module__out_features=1)
    given["train_split"] = settings.pop("train_split", None)
    net = NeuralNetRegressor(module, **given)
    return SolutionSetEstimator(net, n_restarts=2, random_state=0, **settings)


CASES = {
    "split": (lambda: _model(train_split=ValidSplit(2)), X, y, UserWarning),
    "integers": (_model, np.arange(16).reshape(8, 2), y, DataConversionWarning),
    "column": (_model, X, y[:, None], DataConversionWarning),
    "stationary": (lambda: _model(tol=0.0), X, np.exp(y), StationarityWarning),
    "failed": (lambda: _model(Flaky), X, y, FitFailedWarning),
}


def _wrapped(model, wrapper):
    if wrapper == "pipeline":
        return make_pipeline(FunctionTransformer(), model)
    if wrapper == "search":
        return GridSearchCV(model, {"tol": [model.tol]}, cv=2)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrapper", ["alone", "pipeline", "search"])
@pytest.mark.parametrize("case", CASES)
def test_a_warning_names_the_file_of_the_user(case, wrapper):
    make, inputs, targets, category = CASES[case]
    model = _wrapped(make(), wrapper)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(inputs, targets)
    own = [w for w in told if w.category is category and w.filename == __file__]
    assert own


def test_an_unwritable_memory_is_told_at_the_user_s_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="could not be written") as told:
        _model(memory=str(blocked)).fit(X, y)
    assert [w.filename for w in told if "written" in str(w.message)] == [__file__]
