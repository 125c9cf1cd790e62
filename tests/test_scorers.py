"""Scorers, bare and in the tools of scikit-learn that call them."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, check_scoring, r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator, metrics
from sksetsens.datasets import (
    make_dead_feature,
    make_isolated_minimum,
    make_underdetermined_linear,
)
from sksetsens.exceptions import StationarityWarning
from sksetsens.metrics import (
    neg_lipschitz_modulus,
    neg_prediction_gap,
    neg_shift_norm,
    perturbed_score,
)
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

torch.set_num_threads(1)

SCORERS = [neg_lipschitz_modulus, neg_prediction_gap, neg_shift_norm, perturbed_score]
NAMES = [scorer.__name__ for scorer in SCORERS]

_NET = {
    "module__hidden_widths": (),
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 1e-2,
    "max_epochs": 3,
}
_RNG = np.random.RandomState(0)
X = 2.0 * _RNG.standard_normal((24, 2)) + 1.0
y = X[:, 0] + 0.1 * _RNG.standard_normal(24)
LABELS = np.where(X[:, 0] > 1.0, "yes", "no")
X_TEST = 2.0 * _RNG.standard_normal((9, 2)) + 1.0
Y_TEST = X_TEST[:, 0]


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    settings = {"n_restarts": 2, "perturbation_size": 1e-3, "random_state": 0}
    return SolutionSetEstimator(net, **{**settings, **params})


def _linear(data, **params):
    net = NeuralNetRegressor(
        data.module,
        module__n_features=data.X.shape[1],
        optimizer__weight_decay=data.get("weight_decay", 0.0),
        max_epochs=3,
        train_split=None,
        verbose=0,
    )
    return _model(net, **params).fit(data.X, data.y)


@pytest.fixture(scope="module")
def fitted():
    return _model().fit(X, y)


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(StandardScaler(), _model()).fit(X, y)


def test_all_scorers_are_here():
    assert sorted(metrics.__all__) == sorted(
        [*NAMES, "distance_to_set", "excess", "excess_bounds", "pompeiu_hausdorff"]
    )


# --- Values --------------------------------------------------------------------------


def test_values_are_the_direct_computation(fitted):
    moved = fitted.perturb()
    predicted, retrained = fitted.sensitivity(moved), fitted.retrain(moved)
    assert neg_lipschitz_modulus(fitted, X, y) == -fitted.lipschitz_modulus_
    assert neg_shift_norm(fitted, X, y) == -predicted.shift_norm.max()
    mean = predicted.predict(X_TEST).mean(axis=0)
    score = perturbed_score(fitted, X_TEST, Y_TEST)
    assert score == pytest.approx(r2_score(Y_TEST, mean), rel=1e-12)
    assert score != fitted.score(X_TEST, Y_TEST)
    gaps = [
        predicted[i].distance(retrained[i])[0] / predicted.shift_norm[i]
        for i in range(2)
    ]
    assert neg_prediction_gap(fitted, X, y) == pytest.approx(-max(gaps), rel=1e-9)
    # The first order holds for a perturbation of 1e-3 in data of size 2.
    assert -0.1 < neg_prediction_gap(fitted, X, y) < 0


def test_values_of_a_classifier():
    model = _model(DFCNNClassifier(**_NET), perturbation_size=0.05).fit(X, LABELS)
    predicted = model.sensitivity(model.perturb())
    best = predicted.predict(X_TEST).mean(axis=0).argmax(axis=1)
    labels = np.where(X_TEST[:, 0] > 1.0, "yes", "no")
    assert perturbed_score(model, X_TEST, labels) == accuracy_score(
        labels, model.classes_[best]
    )
    assert neg_shift_norm(model) == -predicted.shift_norm.max()


def test_only_the_perturbed_score_reads_data(fitted):
    for scorer in (neg_lipschitz_modulus, neg_shift_norm, neg_prediction_gap):
        assert scorer(fitted) == scorer(fitted, X_TEST, Y_TEST)
    assert perturbed_score(fitted, X, y) != perturbed_score(fitted, X_TEST, Y_TEST)


def test_known_modulus():
    data = make_isolated_minimum(random_state=0)
    model = _linear(data, perturbation="worst_case")
    dense = np.linalg.norm(np.linalg.solve(data.H, data.B), 2)
    assert neg_lipschitz_modulus(model) == pytest.approx(-dense, rel=1e-6)
    # The worst case attains it: |dx| = size sqrt(n).
    size = 1e-3 * np.sqrt(len(data.X))
    assert neg_shift_norm(model) == pytest.approx(-dense * size, rel=1e-6)


def test_no_perturbation_costs_nothing():
    data = make_underdetermined_linear(random_state=0)
    model = _linear(data, perturbation_size=0.0)
    assert neg_shift_norm(model) == 0
    # Not what polishing leaves, relative to a shift of zero.
    assert neg_prediction_gap(model) == 0
    score = perturbed_score(model, data.X, data.y)
    assert score == pytest.approx(model.score(data.X, data.y))


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_empty_predictions_score_worst():
    data = make_dead_feature(random_state=0)

    def along_dead(estimator, X, y, rng):
        return data.dX_dead

    model = _linear(data, perturbation=along_dead)
    assert model.sensitivity(model.perturb()).is_empty.all()
    for scorer in (neg_lipschitz_modulus, neg_shift_norm, neg_prediction_gap):
        assert scorer(model) == -np.inf
    # No prediction exists: scikit-learn's searches rank NaN last.
    assert np.isnan(perturbed_score(model, data.X, data.y))


def test_a_truth_that_is_not_stationary_is_no_truth(fitted, monkeypatch):
    retrained = fitted.retrain(fitted.perturb())
    retrained.converged = np.array([True, False])
    monkeypatch.setattr(fitted, "retrain", lambda *_: retrained, raising=False)
    with pytest.warns(StationarityWarning, match="NaN: 1 of 2 retrained") as caught:
        assert np.isnan(neg_prediction_gap(fitted))
    assert caught[0].filename == __file__


def test_smaller_perturbations_score_better(fitted):
    small, large = (
        clone(fitted).set_params(perturbation_size=size).fit(X, y)
        for size in (1e-4, 1e-3)
    )
    # Linear in the size; the directions are the same.
    ratio = neg_shift_norm(large) / neg_shift_norm(small)
    assert ratio == pytest.approx(10.0, rel=1e-6)
    assert neg_lipschitz_modulus(large) == neg_lipschitz_modulus(small)
    assert neg_prediction_gap(small) > neg_prediction_gap(large)


# --- Pipelines and searches ----------------------------------------------------------


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
def test_pipelines(pipeline, scorer):
    final, rows = pipeline[-1], pipeline[0].transform(X_TEST)
    assert scorer(pipeline, X_TEST, Y_TEST) == pytest.approx(
        scorer(final, rows, Y_TEST), rel=1e-12
    )
    nested = Pipeline([("inner", pipeline)])
    assert scorer(nested, X_TEST, Y_TEST) == pytest.approx(
        scorer(final, rows, Y_TEST), rel=1e-12
    )


def test_a_pipeline_of_one_step(fitted):
    bare = Pipeline([("model", fitted)])
    for scorer in SCORERS:
        assert scorer(bare, X_TEST, Y_TEST) == pytest.approx(
            scorer(fitted, X_TEST, Y_TEST), rel=1e-12
        )


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
def test_search_over_the_perturbation_size(scorer):
    sizes = [1e-4, 1e-3]
    split = [(np.arange(16), np.arange(16, 24))]
    search = GridSearchCV(
        _model(n_restarts=1),
        {"perturbation_size": sizes},
        scoring=scorer,
        cv=split,
        refit=False,
        error_score="raise",
    ).fit(X, y)
    expected = []
    for size in sizes:
        model = _model(n_restarts=1, perturbation_size=size).fit(X[:16], y[:16])
        expected.append(scorer(model, X[16:], y[16:]))
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected, rtol=1e-9
    )


def test_search_in_a_pipeline():
    pipeline = Pipeline([("scale", StandardScaler()), ("model", _model(n_restarts=1))])
    search = GridSearchCV(
        pipeline,
        {"model__perturbation_size": [1e-3, 1e-4]},
        scoring=neg_shift_norm,
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"model__perturbation_size": 1e-4}
    # And a fitted search is scored as what it found.
    best = search.best_estimator_
    for scorer in SCORERS:
        assert scorer(search, X_TEST, Y_TEST) == pytest.approx(
            scorer(best, X_TEST, Y_TEST), rel=1e-12
        )
    assert search.score(X, y) == pytest.approx(neg_shift_norm(best), rel=1e-12)


def test_many_metrics_at_once_in_parallel():
    scoring = dict(zip(NAMES, SCORERS, strict=True))
    split = [(np.arange(16), np.arange(16, 24)), (np.arange(8, 24), np.arange(8))]
    pipeline = make_pipeline(StandardScaler(), _model(n_restarts=1))
    settings = {"scoring": scoring, "cv": split, "error_score": "raise"}
    found = cross_validate(pipeline, X, y, n_jobs=2, **settings)
    alone = cross_validate(pipeline, X, y, **settings)
    for name in NAMES:
        scores = found[f"test_{name}"]
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores, alone[f"test_{name}"], rtol=1e-9)
    for (train, test), score in zip(split, found["test_perturbed_score"], strict=True):
        twin = clone(pipeline).fit(X[train], y[train])
        assert perturbed_score(twin, X[test], y[test]) == pytest.approx(score, rel=1e-9)


def test_check_scoring_takes_them(fitted):
    for scorer in SCORERS:
        assert check_scoring(fitted, scoring=scorer) is scorer


# --- Callables -----------------------------------------------------------------------


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
def test_scorers_are_plain_named_callables(scorer):
    assert pickle.loads(pickle.dumps(scorer)) is scorer
    assert scorer.__name__ in repr(scorer)
    assert scorer.__doc__


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
def test_other_estimators_are_refused(scorer):
    ridge = Ridge().fit(X, y)
    message = f"{scorer.__name__} must end in a SolutionSetEstimator. Got Ridge instead"
    with pytest.raises(TypeError, match=message):
        scorer(ridge, X, y)
    with pytest.raises(TypeError, match=message):
        scorer(make_pipeline(StandardScaler(), Ridge()).fit(X, y), X, y)


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
def test_unfitted_estimators_are_refused(scorer):
    with pytest.raises(ValueError, match="not fitted yet"):
        scorer(_model(), X, y)
