"""SolutionSetEstimator as a scikit-learn estimator: the whole contract."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import nn

from sksetsens import SolutionSetEstimator, sensitivity
from sksetsens.metrics import neg_prediction_gap, perturbed_score
from sksetsens.networks import DFCNNBinaryClassifier, DFCNNClassifier, DFCNNRegressor

torch.set_num_threads(1)

_NET = {
    "module__hidden_widths": (4,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 1e-2,
    "max_epochs": 5,
}
_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((20, 3))
y = X[:, 0] + 0.1 * _RNG.standard_normal(20)
LABELS = np.array(["low", "middle", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])]


class MLP(nn.Module):
    """A user's own module: sizes in the constructor, nothing else of ours."""

    def __init__(self, n_features=1, n_outputs=1, softmax=False):
        super().__init__()
        self.hidden = nn.Linear(n_features, 3)
        self.output = nn.Linear(3, n_outputs)
        self.softmax = softmax

    def forward(self, X):
        outputs = self.output(torch.tanh(self.hidden(X.flatten(1))))
        return outputs.softmax(-1) if self.softmax else outputs


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    settings = {"n_restarts": 2, "perturbation_size": 1e-3, "random_state": 0}
    return SolutionSetEstimator(net, **{**settings, **params})


@pytest.fixture(scope="module")
def regressor():
    return _model().fit(X, y)


@pytest.fixture(scope="module")
def classifier():
    return _model(DFCNNClassifier(**_NET)).fit(X, LABELS)


@pytest.fixture(scope="module")
def binary():
    return _model(DFCNNBinaryClassifier(**_NET)).fit(X, LABELS == "high")


# --- check_estimator -----------------------------------------------------------------

_SMALL = {**_NET, "module__hidden_widths": (2,), "max_epochs": 1}
_PLAIN = {"optimizer__weight_decay": 1e-2, "max_epochs": 1, "verbose": 0}

_DEFAULT_NETS = [
    DFCNNRegressor(**_SMALL),
    DFCNNClassifier(**_SMALL),
    DFCNNBinaryClassifier(**_SMALL),
]
_SLOW_NETS = [
    NeuralNetRegressor(MLP, **_PLAIN),
    # The default NLLLoss takes probabilities: skorch takes their logarithm.
    NeuralNetClassifier(MLP, module__softmax=True, **_PLAIN),
    NeuralNetBinaryClassifier(MLP, **_PLAIN),
]


# The paper's own net: ReLU, no biases, nothing that holds the weights.
_RELU_NETS = [
    kind(max_epochs=30)
    for kind in (DFCNNRegressor, DFCNNClassifier, DFCNNBinaryClassifier)
]


def _checks():
    slow = [*_SLOW_NETS, *_RELU_NETS]
    for nets, marks in ((_DEFAULT_NETS, ()), (slow, pytest.mark.slow)):
        for net in nets:
            model = SolutionSetEstimator(net, n_restarts=1)
            for i, (estimator, check) in enumerate(estimator_checks_generator(model)):
                kind = f"{'relu ' * (net in _RELU_NETS)}{type(net).__name__}"
                name = f"{kind}-{check.func.__name__}-{i}"
                yield pytest.param(estimator, check, id=name, marks=marks)


# The checks train on noise and constants: not every fit is stationary.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_check_estimator(estimator, check):
    check(estimator)


# scikit-learn runs these on its own estimators only.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", _DEFAULT_NETS, ids=lambda net: type(net).__name__)
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_inplace_ensure_writeable,
        estimator_checks.check_param_validation,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_beyond_check_estimator(net, check):
    check("SolutionSetEstimator", SolutionSetEstimator(net, n_restarts=1))


# --- Parameters ----------------------------------------------------------------------


def test_clone_and_parameters_reach_the_module():
    model = _model()
    params = model.get_params()
    assert params["estimator__module__hidden_widths"] == (4,)
    assert params["estimator__optimizer__weight_decay"] == 1e-2
    twin = clone(model).set_params(
        estimator__module__hidden_widths=(2,), estimator__lr=0.5, n_restarts=7
    )
    assert twin.estimator.module__hidden_widths == (2,)
    assert twin.estimator.lr == 0.5
    assert twin.n_restarts == 7
    # The original is its own.
    assert model.estimator.module__hidden_widths == (4,)
    assert model.n_restarts == 2
    small = twin.set_params(estimator__lr=0.01, n_restarts=1).fit(X, y)
    # 3 x 2 weights and 2 biases, then 2 weights and 1 bias.
    assert small.solution_set_.weights.shape == (1, 11)
    with pytest.raises(ValueError, match="Invalid parameter 'width'"):
        model.set_params(width=3)


def test_clone_is_unfitted(regressor):
    twin = clone(regressor)
    assert {
        k: v for k, v in twin.get_params(deep=False).items() if k != "estimator"
    } == {k: v for k, v in regressor.get_params(deep=False).items() if k != "estimator"}
    with pytest.raises(NotFittedError, match="not fitted yet"):
        check_is_fitted(twin)
    np.testing.assert_array_equal(
        twin.fit(X, y).solution_set_.weights, regressor.solution_set_.weights
    )


def test_html_representation(regressor, classifier):
    for model in (_model(), regressor, classifier):
        html = model._repr_html_()
        assert "SolutionSetEstimator" in html
        assert type(model.estimator).__name__ in html
    assert "n_restarts=2" in repr(_model())


def test_notebooks_see_the_set_below_the_diagram(regressor):
    fitted, before = (m._repr_mimebundle_() for m in (regressor, _model()))
    table = regressor.solution_set_._repr_html_()
    assert fitted["text/html"].endswith(table)
    assert "SolutionSetEstimator" in fitted["text/html"][: -len(table)]
    assert "kernel dimension" not in before["text/html"]
    with config_context(display="text"):
        assert set(regressor._repr_mimebundle_()) == {"text/plain"}


# --- Copies --------------------------------------------------------------------------


def _copies():
    yield "pickle", lambda model: pickle.loads(pickle.dumps(model))
    yield "deepcopy", copy.deepcopy


@pytest.mark.parametrize("kind", ["regressor", "classifier", "binary"])
@pytest.mark.parametrize(
    "copied", [pytest.param(function, id=name) for name, function in _copies()]
)
def test_copies_answer_the_same(kind, copied, request):
    model = request.getfixturevalue(kind)
    twin = copied(model)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    if is_classifier(model):
        np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    moved = model.perturb()
    np.testing.assert_array_equal(twin.perturb(), moved)
    ours, theirs = model.sensitivity(moved), twin.sensitivity(moved)
    for name in ("weights", *ours.EVIDENCE):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(
        twin.retrain(moved).weights, model.retrain(moved).weights
    )
    assert twin.lipschitz_modulus_ == model.lipschitz_modulus_
    for net, other in zip(model.estimators_, twin.estimators_, strict=True):
        np.testing.assert_array_equal(net.predict_proba(X), other.predict_proba(X))


def test_what_is_set_later_does_not_reach_what_was_fitted():
    model = _model(n_restarts=1).fit(X, y)
    expected = model.predict(X)
    moved = model.perturb()
    cold = model.retrain(moved, warm_start=False).weights
    model.set_params(estimator__module__activation="relu", estimator__lr=1e-6)
    for fitted in (model, pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(
            fitted.estimators_[0].predict(X).ravel(), expected, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(
            fitted.retrain(moved, warm_start=False).weights, cold
        )


class Guarded(NeuralNetRegressor):
    """A net that cannot be pickled but for its own care."""

    def initialize(self):
        super().initialize()
        self.guard_ = threading.Lock()
        return self

    def __getstate__(self):
        return {k: v for k, v in super().__getstate__().items() if k != "guard_"}


def test_nets_that_see_to_their_own_pickling():
    net = Guarded(MLP, criterion__reduction="mean", **_PLAIN, train_split=None)
    model = _model(net, n_restarts=1).fit(X, y)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
        moved = model.perturb()
        np.testing.assert_array_equal(
            twin.sensitivity(moved).weights, model.sensitivity(moved).weights
        )


def test_copies_are_independent(regressor):
    twin = pickle.loads(pickle.dumps(regressor))
    before = regressor.predict(X)
    twin.fit(X, -y)
    np.testing.assert_array_equal(regressor.predict(X), before)


# --- Predictions ---------------------------------------------------------------------


def test_predictions_are_means_over_the_set(regressor, classifier, binary):
    members = regressor.solution_set_.predict(X)
    np.testing.assert_array_equal(regressor.predict(X), members.mean(axis=0))
    assert regressor.score(X, y) == r2_score(y, regressor.predict(X))
    for model, labels in ((classifier, LABELS), (binary, LABELS == "high")):
        mean = model.solution_set_.predict(X).mean(axis=0)
        np.testing.assert_array_equal(model.predict_proba(X), mean)
        np.testing.assert_allclose(mean.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(
            model.predict(X), model.classes_[mean.argmax(axis=1)]
        )
        score = model.score(X, labels)
        assert score == accuracy_score(labels, model.predict(X))
        # Decay of 1e-2 leaves the classes apart.
        assert score > 0.8
    weight = np.arange(20.0)
    assert regressor.score(X, y, sample_weight=weight) == r2_score(
        y, regressor.predict(X), sample_weight=weight
    )


def test_binary_threshold_is_respected(binary):
    probabilities = binary.predict_proba(X)[:, 1]
    threshold = float(np.median(probabilities))
    model = copy.deepcopy(binary).set_params(estimator__threshold=threshold)
    np.testing.assert_array_equal(model.predict(X), probabilities > threshold)


def test_multiple_outputs():
    model = _model(n_restarts=1).fit(X, np.c_[y, -y])
    assert model.predict(X).shape == (20, 2)
    assert model.y_train_.shape == (20, 2)
    assert model.score(X, np.c_[y, -y]) > 0.5


def test_images_are_taken():
    images = X[:, :2].reshape(20, 1, 2)
    flat = _model(n_restarts=1).fit(X[:, :2], y)
    model = _model(n_restarts=1).fit(images, y)
    np.testing.assert_allclose(
        model.predict(images), flat.predict(X[:, :2]), rtol=1e-12
    )
    moved = model.perturb()
    assert moved.shape == images.shape
    np.testing.assert_allclose(
        model.sensitivity(moved).weights,
        flat.sensitivity(moved.reshape(20, 2)).weights,
        rtol=1e-9,
        atol=1e-12,
    )


# --- Composition ---------------------------------------------------------------------


def test_pipelines_and_cross_validation():
    pipeline = make_pipeline(StandardScaler(), _model(n_restarts=1))
    scores = cross_val_score(pipeline, X, y, cv=2)
    assert scores.shape == (2,)
    assert (scores > 0).all()
    scaled = StandardScaler().fit(X[:10]).transform(X)
    direct = _model(n_restarts=1).fit(scaled[:10], y[:10])
    split = [(np.arange(10), np.arange(10, 20))]
    (score,) = cross_val_score(pipeline, X, y, cv=split)
    assert score == direct.score(scaled[10:], y[10:])


def test_the_function_sends_data_through_pipelines_and_searches():
    pipeline = make_pipeline(StandardScaler(), _model(n_restarts=1)).fit(X, y)
    final, scaler = pipeline[-1], pipeline[0]
    moved = X + 1e-4
    expected = final.sensitivity(scaler.transform(moved)).weights
    np.testing.assert_array_equal(sensitivity(pipeline, moved).weights, expected)
    np.testing.assert_array_equal(
        sensitivity(final, scaler.transform(moved)).weights, expected
    )
    corrected = final.sensitivity(scaler.transform(moved), n_corrections=1).weights
    np.testing.assert_array_equal(
        sensitivity(pipeline, moved, n_corrections=1).weights, corrected
    )
    name = "solutionsetestimator__estimator__optimizer__weight_decay"
    search = GridSearchCV(pipeline, {name: [1e-2]}, cv=2).fit(X, y)
    np.testing.assert_array_equal(sensitivity(search, moved).weights, expected)


def test_the_set_is_a_part_of_larger_estimators():
    vote = VotingRegressor([("set", _model(n_restarts=1)), ("ridge", Ridge())])
    assert vote.fit(X, y).predict(X).shape == (20,)


# --- Feature names -------------------------------------------------------------------


def test_memory_layout_does_not_change_bits(regressor):
    model = _model().fit(np.asfortranarray(X), y)
    np.testing.assert_array_equal(
        model.solution_set_.weights, regressor.solution_set_.weights
    )
    moved = X + 1e-4
    np.testing.assert_array_equal(
        model.sensitivity(np.asfortranarray(moved)).weights,
        regressor.sensitivity(moved).weights,
    )


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(X, columns=["age", "height", "weight"])


@pytest.fixture(scope="module")
def named(frame):
    return _model(n_restarts=1).fit(frame, pd.Series(y))


def test_feature_names_are_kept(named, frame, regressor):
    assert list(named.feature_names_in_) == ["age", "height", "weight"]
    assert named.n_features_in_ == 3
    assert not hasattr(regressor, "feature_names_in_")
    np.testing.assert_array_equal(named.X_train_, X)
    np.testing.assert_array_equal(named.y_train_, y)
    np.testing.assert_array_equal(
        named.solution_set_.weights, regressor.solution_set_.weights[:1]
    )
    moved = frame.copy()
    moved.loc[3, "height"] += 1e-3
    np.testing.assert_array_equal(
        named.sensitivity(moved, pd.Series(y)).weights,
        named.sensitivity(moved).weights,
    )


@pytest.mark.parametrize("method", ["predict", "sensitivity", "retrain"])
def test_other_feature_names_are_refused(named, frame, method):
    use = getattr(named, method)
    with pytest.raises(ValueError, match=r"(?s)feature names should match.*\bsize"):
        use(frame.rename(columns={"height": "size"}))
    with pytest.raises(ValueError, match="same order"):
        use(frame[["height", "age", "weight"]])


@pytest.mark.parametrize("method", ["predict", "sensitivity", "retrain"])
def test_unexpected_feature_names_warn(regressor, frame, method):
    with pytest.warns(UserWarning, match="X has feature names, but"):
        getattr(regressor, method)(frame + 1e-6)


def test_missing_feature_names_warn_but_of_perturbed_training_data(named):
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = named.perturb()
        named.sensitivity(moved)
        named.retrain(moved)
        named.stability_report(moved)
        perturbed_score(named, pd.DataFrame(X, columns=named.feature_names_in_), y)
        neg_prediction_gap(named)


def test_perturb_checks_feature_names(named, frame):
    with pytest.raises(ValueError, match="same order"):
        named.perturb(frame[["height", "age", "weight"]], y)


def test_frames_go_through_pipelines(frame):
    """With set_output the estimator sees names, with the same result as without."""
    moved = frame + 1e-4
    answers = []
    for output in ("default", "pandas"):
        pipeline = make_pipeline(StandardScaler(), _model(n_restarts=1))
        pipeline.set_output(transform=output).fit(frame, pd.Series(y))
        named = hasattr(pipeline[-1], "feature_names_in_")
        assert named == (output == "pandas")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answers.append(
                [
                    pipeline.predict(frame),
                    sensitivity(pipeline, moved).weights,
                    perturbed_score(pipeline, frame, y),
                    pipeline.score(frame, pd.Series(y)),
                ]
            )
    assert list(pipeline[-1].feature_names_in_) == ["age", "height", "weight"]
    for plain, framed in zip(*answers, strict=True):
        np.testing.assert_array_equal(plain, framed)


def test_frames_of_labels(frame):
    labels = pd.Series(LABELS, dtype="category")
    model = _model(DFCNNClassifier(**_NET), n_restarts=1).fit(frame, labels)
    plain = _model(DFCNNClassifier(**_NET), n_restarts=1).fit(X, LABELS)
    np.testing.assert_array_equal(model.classes_, plain.classes_)
    np.testing.assert_array_equal(model.predict(frame), plain.predict(X))
    np.testing.assert_array_equal(
        model.sensitivity(frame + 1e-4, labels).weights,
        plain.sensitivity(X + 1e-4).weights,
    )


# --- Tags ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "kind"),
    [
        (DFCNNRegressor(), "regressor"),
        (NeuralNetRegressor(MLP), "regressor"),
        (DFCNNClassifier(), "classifier"),
        (NeuralNetClassifier(MLP), "classifier"),
        (DFCNNBinaryClassifier(), "classifier"),
        (NeuralNetBinaryClassifier(MLP), "classifier"),
        (NeuralNet(MLP, nn.MSELoss), None),
    ],
)
def test_the_kind_follows_from_the_net(net, kind):
    model = SolutionSetEstimator(net)
    assert is_classifier(model) == (kind == "classifier")
    assert is_regressor(model) == (kind == "regressor")
    assert hasattr(model, "predict_proba") == (kind == "classifier")
    assert hasattr(model, "score") == (kind is not None)
    tags = get_tags(model)
    assert tags.estimator_type == kind
    assert tags.target_tags.required
    assert tags.target_tags.multi_output == (kind == "regressor")
    assert not tags.non_deterministic
    if kind == "classifier":
        is_binary = isinstance(net, NeuralNetBinaryClassifier)
        assert tags.classifier_tags.multi_class != is_binary
