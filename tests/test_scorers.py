"""Scorers, bare and in the tools of scikit-learn that call them."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.metrics import (
    accuracy_score,
    check_scoring,
    get_scorer,
    log_loss,
    make_scorer,
    max_error,
    r2_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator, metrics, sensitivity_curve
from sksetsens.datasets import (
    make_dead_feature,
    make_isolated_minimum,
    make_underdetermined_linear,
)
from sksetsens.exceptions import NonlinearityWarning, StationarityWarning
from sksetsens.metrics import (
    make_sensitivity_scorer,
    neg_lipschitz_modulus,
    neg_prediction_gap,
    neg_shift_norm,
    perturbed_score,
)
from sksetsens.moduli import modulus
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
    distances = ["distance_to_set", "excess", "excess_bounds", "pompeiu_hausdorff"]
    makers = ["SensitivityScorer", "make_sensitivity_scorer"]
    makers += ["DatamodelingScore", "linear_datamodeling_score", "neg_removal_gap"]
    assert sorted(metrics.__all__) == sorted([*NAMES, *distances, *makers])


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


def test_the_worst_direction_is_computed_once(monkeypatch):
    calls = []

    def counted(gd, rows):
        calls.append(rows.sum())
        return modulus(gd, rows)

    monkeypatch.setattr("sksetsens.moduli._kept_moduli.modulus", counted)
    data = make_isolated_minimum(random_state=0)
    model = _linear(data, perturbation="worst_case", n_restarts=1)
    scorers = [
        make_sensitivity_scorer(perturbation_size=size, perturbed_fraction=fraction)
        for size in (1e-4, 1e-3)
        for fraction in (1.0, 5)
    ]
    first = [scorer(model, data.X, data.y) for scorer in scorers]
    assert calls == [30, 5]
    # Not those of another fit.
    model.fit(2.0 * data.X, data.y)
    again = [scorer(model, data.X, data.y) for scorer in scorers]
    assert calls == [30, 5, 30, 5]
    assert len({*first, *again}) == 8


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
    monkeypatch.setattr(fitted, "retrain", lambda **_: retrained, raising=False)
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


# --- Scorers of one's own ------------------------------------------------------------


def largest_nonlinearity(predicted):
    return predicted.nonlinearity.max()


def scaled_gap(predicted, retrained, factor):
    return factor * predicted.relative_gaps(retrained).max()


def test_a_function_of_the_predicted_set(fitted):
    scorer = make_sensitivity_scorer(
        largest_nonlinearity,
        greater_is_better=False,
        perturbation="random",
        perturbation_size=0.02,
        perturbed_fraction=5,
        n_corrections=1,
    )
    twin = clone(fitted).set_params(
        perturbation="random", perturbation_size=0.02, perturbed_fraction=5
    )
    moved = twin.fit(X, y).perturb()
    predicted = twin.sensitivity(moved, n_corrections=1)
    assert scorer(fitted) == -predicted.nonlinearity.max() != 0
    # The estimator keeps its own perturbation.
    assert fitted.perturbation_size == 1e-3
    assert scorer.__name__ == "largest_nonlinearity"


def test_a_function_of_the_truth_too(fitted):
    scorer = make_sensitivity_scorer(scaled_gap, retrain=True, factor=-3.0)
    expected = 3.0 * neg_prediction_gap(fitted)
    assert scorer(fitted) == pytest.approx(expected, rel=1e-12)
    # The unperturbed set is its own truth: no training, no rounding.
    still = make_sensitivity_scorer(
        scaled_gap, retrain=True, factor=1.0, perturbation_size=0.0
    )
    assert still(fitted) == 0


def test_scikit_learns_scorers_of_the_predicted_set():
    model = _model(DFCNNClassifier(**_NET), perturbation_size=0.05).fit(X, LABELS)
    labels = np.where(X_TEST[:, 0] > 1.0, "yes", "no")
    predicted = model.sensitivity(model.perturb())
    expected = -log_loss(labels, predicted.predict(X_TEST).mean(axis=0))
    scorer = make_sensitivity_scorer(scoring="neg_log_loss")
    assert scorer(model, X_TEST, labels) == pytest.approx(expected, rel=1e-12)
    assert scorer(model, X_TEST, labels) != get_scorer("neg_log_loss")(
        model, X_TEST, labels
    )
    own = make_sensitivity_scorer()
    assert own(model, X_TEST, labels) == perturbed_score(model, X_TEST, labels)


def test_several_sizes_cost_one_training():
    sizes = {"none": 0.0, "small": 1e-3, "large": 0.3}
    scoring = {
        name: make_sensitivity_scorer(scoring="r2", perturbation_size=size)
        for name, size in sizes.items()
    }
    scoring["plain"] = "r2"
    split = [(np.arange(16), np.arange(16, 24))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonlinearityWarning)
        found = cross_validate(_model(), X, y, cv=split, scoring=scoring)
        for name, size in sizes.items():
            model = _model(perturbation_size=size).fit(X[:16], y[:16])
            assert found[f"test_{name}"] == perturbed_score(model, X[16:], y[16:])
    assert found["test_none"] == found["test_plain"] != found["test_large"]


def test_made_scorers_are_pickled():
    made = [
        make_sensitivity_scorer(scaled_gap, retrain=True, factor=2.0),
        make_sensitivity_scorer(
            scoring="neg_mean_squared_error", perturbation_size=0.01
        ),
    ]
    data = make_isolated_minimum(random_state=0)
    model = _linear(data)
    for scorer in made:
        twin = pickle.loads(pickle.dumps(scorer))
        assert twin(model, data.X, data.y) == scorer(model, data.X, data.y)
    assert repr(made[1]) == "<scorer perturbed neg_mean_squared_error>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_func": 3}, r"'score_func' parameter.*Got 3"),
        ({"score_func": max, "scoring": "r2"}, r"'score_func'.*scoring='r2'"),
        ({"scoring": "r3"}, r"'r3'"),
        ({"scoring": perturbed_score}, r"must score predictions. Got <scorer pert"),
        ({"retrain": True}, r"left out without a 'score_func': \['retrain'\]"),
        ({"size": 3}, r"left out without a 'score_func': \['size'\]"),
        ({"greater_is_better": False}, r"\['greater_is_better'\]"),
        ({"score_func": max, "retrain": "yes"}, r"'retrain' parameter.*Got 'yes'"),
        ({"n_corrections": -1}, r"'n_corrections'.*at least 0. Got -1"),
        ({"perturbation": "up"}, r"'perturbation' parameter.*Got 'up'"),
        ({"perturbation_size": -1.0}, r"'perturbation_size' parameter.*Got -1.0"),
        ({"perturbed_fraction": 2.5}, r"'perturbed_fraction' parameter.*Got 2.5"),
    ],
)
def test_bad_scorers_are_refused_when_they_are_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_sensitivity_scorer(**arguments)


# --- All searches, and metadata ------------------------------------------------------


def _searches(grid, **settings):
    yield GridSearchCV(_model(n_restarts=1), grid, cv=2, **settings)
    yield RandomizedSearchCV(
        _model(n_restarts=1), grid, n_iter=2, cv=2, random_state=0, **settings
    )


def test_grids_and_random_searches_with_many_metrics():
    grid = {"estimator__optimizer__weight_decay": [1e-2, 1.0]}
    scoring = {"modulus": neg_lipschitz_modulus, "score": perturbed_score, "r2": "r2"}
    settings = {"scoring": scoring, "refit": "modulus", "error_score": "raise"}
    tables = []
    for search in _searches(grid, n_jobs=2, **settings):
        search.fit(X, y)
        # Decay makes the solutions stiffer, and predict worse.
        assert search.best_params_ == {"estimator__optimizer__weight_decay": 1.0}
        results = search.cv_results_
        order = [
            p["estimator__optimizer__weight_decay"] == 1.0 for p in results["params"]
        ]
        tables.append(results["mean_test_score"][np.argsort(order)])
        assert tables[-1][0] > tables[-1][1]
        assert search.score(X, y) == neg_lipschitz_modulus(search)
    np.testing.assert_allclose(*tables, rtol=1e-9)


@pytest.mark.parametrize("resource", ["n_samples", "n_restarts"])
def test_halving_searches(resource):
    grid = {"estimator__optimizer__weight_decay": [1e-2, 1.0]}
    limits = {"n_samples": (12, 24), "n_restarts": (1, 2)}[resource]
    search = HalvingGridSearchCV(
        _model(),
        grid,
        resource=resource,
        factor=2,
        min_resources=limits[0],
        max_resources=limits[1],
        cv=2,
        scoring=neg_lipschitz_modulus,
        random_state=0,
        error_score="raise",
    ).fit(X, y)
    assert search.n_iterations_ == 2
    assert search.best_params_["estimator__optimizer__weight_decay"] == 1.0


def test_weights_of_held_out_rows(fitted):
    weights = np.arange(1.0, 10.0)
    predicted = fitted.sensitivity(fitted.perturb())
    expected = r2_score(
        Y_TEST, predicted.predict(X_TEST).mean(axis=0), sample_weight=weights
    )
    score = perturbed_score(fitted, X_TEST, Y_TEST, sample_weight=weights)
    assert score == pytest.approx(expected, rel=1e-12)
    assert score != perturbed_score(fitted, X_TEST, Y_TEST)
    for scorer in (neg_shift_norm, neg_lipschitz_modulus, neg_prediction_gap):
        message = rf"'sample_weight' parameter of {scorer.__name__} must be None"
        with pytest.raises(TypeError, match=message):
            scorer(fitted, X_TEST, Y_TEST, sample_weight=weights)


def test_weights_are_routed():
    weights = np.linspace(1.0, 3.0, 24)
    split = [(np.arange(16), np.arange(16, 24))]
    passed = {"cv": split, "params": {"sample_weight": weights}}
    with config_context(enable_metadata_routing=True):
        asking = perturbed_score.set_score_request(sample_weight=True)
        deaf = perturbed_score.set_score_request(sample_weight=False)
        renamed = perturbed_score.set_score_request(sample_weight="confidence")
        scoring = {"asking": asking, "deaf": deaf, "shift": neg_shift_norm}
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = _model(n_restarts=1).set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model)
        found = cross_validate(pipeline, X, y, scoring=scoring, **passed)
        alias = cross_validate(
            pipeline,
            X,
            y,
            cv=split,
            scoring=renamed,
            params={"confidence": weights},
        )
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            cross_validate(pipeline, X, y, scoring=perturbed_score, **passed)
        with pytest.raises(TypeError, match="neg_shift_norm scores no rows"):
            neg_shift_norm.set_score_request(sample_weight=True)
        # What was asked for travels with a copy; the shared scorer stays as it was.
        again = pickle.loads(pickle.dumps(asking))
        found_again = cross_validate(pipeline, X, y, scoring=again, **passed)
        search = GridSearchCV(
            pipeline,
            {"solutionsetestimator__perturbation_size": [1e-3]},
            scoring=asking,
            cv=split,
        ).fit(X, y, sample_weight=weights)
    twin = clone(pipeline).fit(X[:16], y[:16])
    score = perturbed_score(twin, X[16:], y[16:], sample_weight=weights[16:])
    assert found["test_asking"] == alias["test_score"] == found_again["test_score"]
    assert found["test_asking"] == pytest.approx(score, rel=1e-12)
    assert search.cv_results_["mean_test_score"] == found["test_asking"]
    assert found["test_deaf"] == perturbed_score(twin, X[16:], y[16:])
    assert found["test_deaf"] != found["test_asking"]
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        perturbed_score.set_score_request(sample_weight=True)


def test_the_estimator_routes_weights_to_its_score():
    weights = np.linspace(1.0, 3.0, 8)
    with config_context(enable_metadata_routing=True):
        model = _model(n_restarts=1).set_score_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler(), model).fit(X[:16], y[:16])
        score = pipeline.score(X[16:], y[16:], sample_weight=weights)
    expected = r2_score(y[16:], pipeline.predict(X[16:]), sample_weight=weights)
    assert score == expected != pipeline.score(X[16:], y[16:])


def worst_error(estimator, X, y):
    return -np.abs(estimator.predict(X) - y).max()


@pytest.mark.parametrize(
    ("inner", "counts"),
    [(make_scorer(max_error), False), (worst_error, False), ("r2", True)],
    ids=["make_scorer", "callable", "name"],
)
def test_weights_follow_the_scorer_that_is_wrapped(fitted, inner, counts):
    """Without routing, scikit-learn asks scorers in dicts whether they take them."""
    if not counts and not hasattr(get_scorer("r2"), "_accept_sample_weight"):
        pytest.skip("this scikit-learn passes weights to all scorers in a dict")
    table = {"it": make_sensitivity_scorer(scoring=inner)}
    weighted, bare = (
        permutation_importance(
            fitted, X, y, scoring=table, n_repeats=1, random_state=0, **extra
        )["it"].importances_mean
        for extra in ({"sample_weight": np.arange(1.0, 25.0)}, {})
    )
    assert np.array_equal(weighted, bare) != counts


def test_other_sets_are_scored_by_their_predictions_only(fitted):
    other = fitted.sensitivity(fitted.perturb())
    with pytest.raises(ValueError, match="of score_of must score predictions. Got <sc"):
        fitted.score_of(other, X, y, scoring=neg_shift_norm)
    for scoring in (["r2"], {"a": "r2"}, 3):
        with pytest.raises(ValueError, match="must be the name of one scorer"):
            fitted.score_of(other, X, y, scoring=scoring)
        with pytest.raises(ValueError, match="must be the name of one scorer"):
            sensitivity_curve(_model(), X, y, param_range=[1e-3], scoring=scoring)


def test_searches_without_an_estimator_are_told():
    search = GridSearchCV(_model(), {"perturbation_size": [1e-3]}, refit=False)
    with pytest.raises(ValueError, match="must not be a search with refit=False"):
        neg_shift_norm(search, X, y)
    with pytest.raises(ValueError, match="must not be a search with refit=False"):
        sensitivity_curve(search, X, y, param_range=[1e-3])
    with pytest.raises(NotFittedError, match="GridSearchCV is not fitted yet"):
        neg_shift_norm(search.set_params(refit=True), X, y)


def test_warnings_name_the_code_that_scores():
    model = _model(perturbation_size=3.0).fit(X, y)
    with pytest.warns(NonlinearityWarning) as caught:
        perturbed_score(model, X, y)
    assert caught[0].filename == __file__
