"""What a call leaves behind: nothing where it fails, and seeds of their own."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import Callback

from sksetsens import SolutionSetEstimator, _estimator
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

RNG = np.random.default_rng(11)
X = RNG.standard_normal((12, 3))
Y = X[:, 0] - 0.5 * X[:, 1] ** 2


def regressor(**params):
    settings = {
        "module__hidden_widths": (4,),
        "module__activation": "tanh",
        "module__bias": True,
        "module__train_output": True,
        "optimizer__weight_decay": 0.05,
        "max_epochs": 5,
    }
    return DFCNNRegressor(**{**settings, **params})


def model(net=None, **params):
    settings = {"n_restarts": 2, "random_state": 0, "perturbation_size": 1e-3}
    return SolutionSetEstimator(net or regressor(), **{**settings, **params})


def learnt(fitted):
    """Fitted attributes by name, private ones included."""
    names = [n for n in vars(fitted) if n.endswith("_") or n.startswith("_")]
    return {name: vars(fitted)[name] for name in names}


def fail(*_, **__):
    raise MemoryError("no room")


# A fit that fails ---------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepare", "run_restarts", "linearise_restarts"])
def test_a_fit_that_fails_leaves_the_fitted_model_as_it_was(monkeypatch, step):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    fitted = model().fit(frame, Y)
    before = learnt(fitted)
    answer = fitted.sensitivity(fitted.perturb()).weights
    monkeypatch.setattr(_estimator, step, fail)
    with pytest.raises(MemoryError, match="What was fitted before is unchanged"):
        fitted.fit(X[:, :2], np.where(Y > 0, 1.0, 2.0))
    monkeypatch.undo()
    after = learnt(fitted)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert np.array_equal(fitted.sensitivity(fitted.perturb()).weights, answer)


def test_a_first_fit_that_fails_leaves_nothing(monkeypatch):
    unfitted = model()
    monkeypatch.setattr(_estimator, "linearise_restarts", fail)
    with pytest.raises(MemoryError):
        unfitted.fit(X, Y)
    assert not learnt(unfitted)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_bad_data_leave_the_fitted_model_as_it_was():
    fitted = model().fit(pd.DataFrame(X, columns=["a", "b", "c"]), Y)
    before = learnt(fitted)
    with pytest.raises(ValueError, match="NaN"):
        fitted.fit(np.full((4, 2), np.nan), np.zeros(4))
    assert all(vars(fitted)[name] is before[name] for name in before)


def test_what_no_longer_holds_is_forgotten():
    net = DFCNNClassifier(
        module__hidden_widths=(3,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=0.1,
        max_epochs=3,
    )
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    fitted = model(net, n_restarts=1).fit(frame, Y > 0)
    assert list(fitted.classes_) == [False, True]
    fitted.set_params(estimator=regressor()).fit(X, Y)
    assert not hasattr(fitted, "classes_")
    assert not hasattr(fitted, "feature_names_in_")


# Seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, np.random.RandomState(5)])
def test_perturbations_do_not_depend_on_the_number_of_restarts(seed):
    moved = []
    for n_restarts in (1, 3):
        state = np.random.RandomState(5) if not isinstance(seed, int) else seed
        settings = {"perturbation": "random", "perturbed_fraction": 0.5}
        fitted = model(n_restarts=n_restarts, random_state=state, **settings).fit(X, Y)
        moved.append(fitted.perturb())
    assert np.array_equal(*moved)
    assert not np.array_equal(moved[0], X)


# Alignment ----------------------------------------------------------------------------


def test_copies_of_an_interpolating_net_are_aligned():
    # Losses are rounding (1e-31): relative to each other they differ by all of it.
    wide = regressor(module__hidden_widths=(16,), optimizer__weight_decay=0.0)
    fitted = model(wide, n_restarts=2).fit(X, Y)
    assert (fitted.solution_set_.losses < 1e-25).all()
    first = fitted.solution_set_[0]
    aligned = fitted.solution_set_.aligned_to(first)
    apart = np.linalg.norm(fitted.solution_set_.weights - first.weights, axis=1)
    nearer = np.linalg.norm(aligned.weights - first.weights, axis=1)
    assert nearer[0] == 0.0
    assert nearer[1] < apart[1]
    assert np.allclose(aligned.predict(X), fitted.solution_set_.predict(X))


class TellsUnitsApart(DFCNNRegressor):
    """A penalty that knows one unit from another, and vanishes with the fit."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        units = self.module_.hidden[0].weight
        return loss + 1e-3 * (units[0] ** 2).sum()


@pytest.mark.slow
def test_a_penalty_that_tells_units_apart_is_still_refused():
    net = TellsUnitsApart(
        module__hidden_widths=(4,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        max_epochs=5,
    )
    fitted = model(net).fit(X, Y)
    with pytest.raises(ValueError, match="none of its objective"):
        _ = fitted.solution_set_.symmetry


class FailsOnce(Callback):
    """Fails for one seed on old data, and for another on new ones."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        first = float(next(net.module_.parameters()).detach().ravel()[0])
        # Each seed begins at weights of its own: they tell which one this is.
        on_new_data = bool(torch.as_tensor(X).abs().max() > 50.0)
        if FATES.get(round(first, 6)) == on_new_data:
            raise RuntimeError("this seed fails here")


FATES = {}


def test_cold_retraining_pairs_by_seed():
    # Little decay: of dead units one copy would be as near as another.
    net = regressor(callbacks=[FailsOnce()], optimizer__weight_decay=1e-3)
    FATES.clear()
    fitted = model(clone(net), n_restarts=3, random_state=3).fit(X, Y)
    starts = []  # of the three seeds
    for kept in fitted._kept:
        torch.manual_seed(kept.seed)
        built = clone(net).set_params(module__n_features=3, module__n_outputs=1)
        first = next(built.initialize().module_.parameters()).detach().ravel()[0]
        starts.append(round(float(first), 6))
    FATES.update({starts[0]: False, starts[2]: True})
    moved = X.copy()
    moved[0, 0] = 60.0
    with pytest.warns(Warning, match="1 of 3 restarts failed"):
        fitted = model(clone(net), n_restarts=3, random_state=3).fit(X, Y)
    with pytest.warns(Warning, match="1 of 3 restarts failed"):
        aligned = fitted.retrain(moved, warm_start=False, align=True)
    # Left are the seeds 1 and 2 on old data, 0 and 1 on new ones: 1 has a partner.
    with pytest.warns(Warning, match="1 of 3 restarts failed"):
        cold = fitted.retrain(moved, warm_start=False)
    symmetry = fitted.solution_set_.symmetry
    old = fitted.solution_set_.weights
    partner, stranger = (symmetry.align(cold.weights[1], w).weights for w in old)
    assert not np.array_equal(partner, stranger)
    assert np.array_equal(aligned.weights[1], partner)
    nearest = min(
        (symmetry.align(cold.weights[0], w) for w in old), key=lambda a: a.distance
    )
    assert np.array_equal(aligned.weights[0], nearest.weights)
