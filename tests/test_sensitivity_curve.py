"""The curve over sizes against direct calls on the same folds."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator, sensitivity_curve
from sksetsens.datasets import (
    LinearNetwork,
    make_dead_feature,
    make_isolated_minimum,
    make_toy_network,
)
from sksetsens.metrics import neg_prediction_gap, neg_shift_norm, perturbed_score
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

torch.set_num_threads(1)

_NET = {
    "module__hidden_widths": (3,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 5e-2,
    "max_epochs": 5,
}
_RNG = np.random.RandomState(0)
X = 2.0 * _RNG.standard_normal((30, 2)) + 1.0
y = np.sin(X[:, 0]) + 0.3 * _RNG.standard_normal(30)
LABELS = np.where(X[:, 0] > 1.0, "yes", "no")
SIZES = [0.0, 0.01, 0.1]
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def _shrink(estimator, X, y, rng):
    return -X


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    settings = {"n_restarts": 2, "perturbation": "random", "random_state": 0}
    return SolutionSetEstimator(net, **{**settings, **params})


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(StandardScaler(), _model())


@pytest.fixture(scope="module")
def curve(pipeline):
    return sensitivity_curve(
        pipeline, X, y, param_range=SIZES, cv=KFold(3), retrain=True
    )


# --- Values --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.NonlinearityWarning")
@pytest.mark.parametrize("fold", range(3))
@pytest.mark.parametrize("k", range(len(SIZES)))
def test_every_cell_is_the_direct_computation(pipeline, curve, fold, k):
    train, test = list(KFold(3).split(X))[fold]
    twin = clone(pipeline).set_params(solutionsetestimator__perturbation_size=SIZES[k])
    model = twin.fit(X[train], y[train])[-1]
    moved = model.perturb()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = model.sensitivity(moved)
    retrained = model.retrain(moved)
    away = np.linalg.norm(retrained.weights - model.solution_set_.weights, axis=1)
    X_test = twin[0].transform(X[test])
    expected = {
        "perturbation_norms": np.linalg.norm(moved - model.X_train_),
        "losses": predicted.losses.mean(),
        "base_losses": predicted.base_losses.mean(),
        "scores": perturbed_score(twin, X[test], y[test]),
        "shift_norms": predicted.shift_norm.mean(),
        "nonlinearity": predicted.nonlinearity.max(),
        "shift_errors": predicted.shift_error.max(),
        "trustworthy": predicted.trustworthy.mean(),
        "retrained_losses": retrained.losses.mean(),
        "retrained_scores": model.score_of(retrained, X_test, y[test]),
        "retrained_shift_norms": away.mean(),
        "gaps": -neg_prediction_gap(twin),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(curve, name)[k, fold], value, **CLOSE, err_msg=name
        )
    score = twin.score(X[test], y[test])
    np.testing.assert_allclose(curve.base_scores[fold], score, **CLOSE)


def test_shapes_and_the_size_of_zero(curve):
    assert curve.param_range.tolist() == SIZES
    assert curve.n_folds == 3
    assert curve.losses.shape == (3, 3)
    assert (curve.shift_norms[0] == 0).all()
    assert (curve.gaps[0] == 0).all()
    np.testing.assert_allclose(curve.scores[0], curve.base_scores, **CLOSE)
    # Twenty rows that move by 0.1 each.
    np.testing.assert_allclose(
        curve.perturbation_norms[2], 0.1 * np.sqrt(20), rtol=1e-9
    )


def test_the_shift_is_linear_in_the_size_and_bounded():
    data = make_isolated_minimum(random_state=0)
    net = NeuralNetRegressor(
        data.module,
        module__n_features=data.X.shape[1],
        optimizer__weight_decay=data.get("weight_decay", 0.0),
        max_epochs=3,
        train_split=None,
    )
    model = _model(net, perturbation="worst_case").fit(data.X, data.y)
    found = sensitivity_curve(
        model, data.X, data.y, param_range=[1e-3, 2e-3], cv="prefit"
    )
    modulus = np.linalg.norm(np.linalg.solve(data.H, data.B), 2)
    np.testing.assert_allclose(
        found.shift_norms, modulus * found.perturbation_norms, rtol=1e-6
    )


def test_each_fold_is_trained_once(monkeypatch):
    fits = []
    fit = SolutionSetEstimator.fit

    def counted(self, X, y):
        fits.append(len(X))
        return fit(self, X, y)

    monkeypatch.setattr(SolutionSetEstimator, "fit", counted)
    sensitivity_curve(_model(n_restarts=1), X, y, param_range=SIZES, cv=2)
    assert fits == [15, 15]


def test_scorers_of_predictions():
    found = sensitivity_curve(
        _model(),
        X,
        y,
        param_range=[0.05],
        cv=[(np.arange(20), np.arange(20, 30))],
        scoring="neg_mean_squared_error",
    )
    model = _model(perturbation_size=0.05).fit(X[:20], y[:20])
    mean = model.sensitivity(model.perturb()).predict(X[20:]).mean(axis=0)
    expected = -mean_squared_error(y[20:], mean)
    np.testing.assert_allclose(found.scores, [[expected]], **CLOSE)


def test_probabilities_of_classifiers_are_scored():
    model = _model(DFCNNClassifier(**_NET), perturbation_size=0.05).fit(X, LABELS)
    found = sensitivity_curve(
        model, X, LABELS, param_range=[0.05], cv="prefit", scoring="neg_log_loss"
    )
    mean = model.sensitivity(model.perturb()).predict(X).mean(axis=0)
    np.testing.assert_allclose(found.scores, [[-log_loss(LABELS, mean)]], **CLOSE)


def test_prefit_estimators_stay_as_they_are():
    model = _model(perturbation_size=0.3).fit(X, y)
    set_before = model.solution_set_
    found = sensitivity_curve(model, X, y, param_range=[0.01], cv="prefit")
    assert model.perturbation_size == 0.3
    assert model.solution_set_ is set_before
    moved = model.set_params(perturbation_size=0.01).perturb()
    expected = model.sensitivity(moved).shift_norm.mean()
    np.testing.assert_allclose(found.shift_norms, [[expected]], **CLOSE)
    assert found.gaps is None
    assert found.retrained_losses is None


def test_corrections_come_nearer_to_the_truth():
    model = _model().fit(X, y)
    first, corrected = (
        sensitivity_curve(
            model,
            X,
            y,
            param_range=[0.02],
            cv="prefit",
            n_corrections=n,
            retrain=True,
        )
        for n in (0, 1)
    )
    assert corrected.gaps < 0.1 * first.gaps
    assert corrected.nonlinearity < 0.1 * first.nonlinearity


def test_results_do_not_depend_on_n_jobs(pipeline, curve):
    parallel = sensitivity_curve(
        pipeline, X, y, param_range=SIZES, cv=KFold(3), n_jobs=2
    )
    np.testing.assert_allclose(parallel.losses, curve.losses, **CLOSE)


def test_groups_reach_the_splitter():
    groups = np.repeat([0, 1], 15)
    found = sensitivity_curve(
        _model(n_restarts=1), X, y, param_range=[0.01], groups=groups, cv=GroupKFold(2)
    )
    assert found.n_folds == 2


# --- Where there is no prediction ----------------------------------------------------


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_empty_sets_have_no_loss_and_no_end():
    data = make_dead_feature(random_state=0)
    net = NeuralNetRegressor(
        LinearNetwork,
        module__n_features=data.X.shape[1],
        max_epochs=3,
        train_split=None,
    )

    def along_dead(estimator, X, y, rng):
        return data.dX_dead

    model = _model(net, perturbation=along_dead).fit(data.X, data.y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sensitivity_curve(model, data.X, data.y, param_range=[0.1], cv="prefit")
    assert np.isnan(found.losses).all()
    assert np.isnan(found.scores).all()
    assert np.isinf(found.shift_norms).all()
    assert np.isinf(found.nonlinearity).all()
    assert (found.trustworthy == 0).all()
    assert np.isfinite(found.base_losses).all()


def test_sizes_beyond_the_first_order_are_told_and_do_not_warn():
    toy = make_toy_network()
    net = NeuralNetRegressor(
        toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=1
    )
    model = _model(net, n_restarts=1, perturbation=_shrink).fit(toy.X, toy.y)
    with warnings.catch_warnings():
        # At 5 the correction that examines the rank used to overflow.
        warnings.simplefilter("error")
        found = sensitivity_curve(
            model, toy.X, toy.y, param_range=[1e-3, 5.0], cv="prefit"
        )
    assert found.nonlinearity[0] < 0.01
    assert max(found.nonlinearity[1], found.shift_errors[1]) > 0.5
    assert found.trustworthy.ravel().tolist() == [1.0, 0.0]


@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_nets_without_a_score_have_nan():
    net = NeuralNet(LinearNetwork, nn.MSELoss, module__n_features=2, max_epochs=3)
    net.set_params(optimizer__weight_decay=0.1, train_split=None)
    model = _model(net, n_restarts=1)
    column = y.astype(np.float32)[:, None]
    found = sensitivity_curve(model, X, column, param_range=[0.01], cv=2)
    assert np.isnan(found.scores).all()
    assert np.isfinite(found.losses).all()


def test_named_features_do_not_warn_of_themselves():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["age", "height"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="X ")
        named = sensitivity_curve(
            _model(), frame, pd.Series(y), param_range=[0.01], cv=2, retrain=True
        )
    plain = sensitivity_curve(_model(), X, y, param_range=[0.01], cv=2, retrain=True)
    np.testing.assert_array_equal(named.scores, plain.scores)
    np.testing.assert_array_equal(named.gaps, plain.gaps)


# --- Errors --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [-0.1], [np.inf], 0.1, "abc", [[0.1]]], ids=str)
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"'param_range' parameter.*non-negative"):
        sensitivity_curve(_model(), X, y, param_range=sizes)


def test_scorers_that_perturb_are_refused():
    with pytest.raises(ValueError, match=r"must score predictions.*neg_shift_norm"):
        sensitivity_curve(_model(), X, y, param_range=[0.1], scoring=neg_shift_norm)


def test_a_negative_number_of_corrections_is_refused():
    with pytest.raises(ValueError, match="'n_corrections' parameter"):
        sensitivity_curve(_model(), X, y, param_range=[0.1], n_corrections=-1)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match=r"must end in a SolutionSetEstimator.*Ridge"):
        sensitivity_curve(Ridge(), X, y, param_range=[0.1])


def test_unfitted_estimators_are_no_prefit_ones():
    with pytest.raises(ValueError, match="not fitted yet"):
        sensitivity_curve(_model(), X, y, param_range=[0.1], cv="prefit")
