"""What cannot be answered is refused with parameter, value and remedy."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import Ridge
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from torch import nn

from sksetsens import SolutionSetEstimator, sensitivity, stability_report
from sksetsens.exceptions import (
    AllRestartsFailedError,
    NonlinearityWarning,
    UnsupportedObjectiveError,
)
from sksetsens.networks import (
    DFCNN,
    DFCNNBinaryClassifier,
    DFCNNClassifier,
    DFCNNRegressor,
)
from sksetsens.perturbation._directions import called_directions, choose_rows

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


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    settings = {"n_restarts": 1, "perturbation_size": 1e-3, "random_state": 0}
    return SolutionSetEstimator(net, **{**settings, **params})


def _classifier(**params):
    return _model(DFCNNClassifier(**_NET), **params)


@pytest.fixture(scope="module")
def fitted():
    return _model().fit(X, y)


@pytest.fixture(scope="module")
def fitted_classifier():
    return _classifier().fit(X, LABELS)


@pytest.fixture
def model(fitted):
    """The fitted model, its parameters free to change."""
    params = fitted.get_params(deep=False)
    yield fitted
    fitted.set_params(**params)


def _spoilt(array, value):
    spoilt = np.array(array, dtype=float)
    spoilt.flat[1] = value
    return spoilt


# --- Data at fit ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fit_refuses_entries_that_are_not_finite(value):
    with pytest.raises(ValueError, match="Input X contains (NaN|infinity)"):
        _model().fit(_spoilt(X, value), y)
    with pytest.raises(ValueError, match="Input y contains (NaN|infinity)"):
        _model().fit(X, _spoilt(y, value))


@pytest.mark.parametrize(
    ("X_bad", "y_bad", "message"),
    [
        (X[:0], y[:0], r"0 sample\(s\).*minimum of 1 is required"),
        (X[:, :0], y, r"0 feature\(s\).*minimum of 1 is required"),
        (X[:, 0], y, "Expected 2D array, got 1D array"),
        (X, y[:3], r"inconsistent numbers of samples: \[20, 3\]"),
        (X, None, "requires y to be passed"),
        (X + 1j, y, "Complex data not supported"),
        (np.full(X.shape, "a"), y, r"text or dates in the columns \['0', '1'"),
        (
            pd.DataFrame({"a": X[:, 0], "b": ["f", "m"] * 10}),
            y,
            r"'X' parameter.*in the columns \['b'\].*OneHotEncoder",
        ),
        (X, LABELS, r"'y' parameter of SolutionSetEstimator must hold real numbers"),
    ],
)
def test_fit_refuses_data(X_bad, y_bad, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        _model().fit(X_bad, y_bad)


def test_numbers_as_text_are_numbers():
    one = _model().fit(X.astype(str).astype(object), y)
    np.testing.assert_array_equal(one.X_train_, X)


def test_sparse_data_are_those_of_the_dense_array():
    one, other = _model().fit(scipy.sparse.dok_array(X), y), _model().fit(X, y)
    np.testing.assert_array_equal(
        one.solution_set_.weights, other.solution_set_.weights
    )
    sparse = scipy.sparse.csr_matrix(X)
    np.testing.assert_array_equal(one.predict(sparse), other.predict(X))
    moved = scipy.sparse.csr_array(X + 0.01)
    shifts = [m.sensitivity(P).shift for m, P in ((one, moved), (other, X + 0.01))]
    np.testing.assert_array_equal(*shifts)


@pytest.mark.parametrize(
    "whole",
    [
        np.round(X * 3).astype(int),
        X > 0,
        pd.DataFrame(np.round(X * 3).astype(int)),
        torch.as_tensor(np.round(X * 3).astype(int)),
    ],
    ids=["int", "bool", "frame", "tensor"],
)
def test_integer_inputs_warn(whole):
    net = DFCNNRegressor(**{**_NET, "max_epochs": 1})
    with pytest.warns(DataConversionWarning, match="'X' parameter.*integers") as caught:
        _model(net).fit(whole, y)
    assert caught[0].filename == __file__


def test_a_column_of_targets_warns(fitted):
    with pytest.warns(DataConversionWarning, match=r"column-vector y.*ravel\(\)") as w:
        model = _model().fit(X, y[:, None])
    assert w[0].filename == __file__
    # And is not broadcast to an n x n matrix: the same fit as for a row.
    np.testing.assert_array_equal(
        model.solution_set_.weights, fitted.solution_set_.weights
    )
    assert model.predict(X).shape == (20,)
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        _classifier().fit(X, LABELS[:, None])


def test_labels_of_any_type_come_back(fitted_classifier):
    assert set(fitted_classifier.predict(X)) <= {"low", "middle", "high"}
    np.testing.assert_array_equal(fitted_classifier.classes_, ["high", "low", "middle"])
    weights = fitted_classifier.solution_set_.weights
    for labels in (LABELS.astype(object), np.unique(LABELS, return_inverse=True)[1]):
        model = _classifier().fit(X, labels)
        np.testing.assert_array_equal(model.solution_set_.weights, weights)
        assert model.predict(X).dtype == labels.dtype


def test_classifiers_refuse_other_targets():
    with pytest.raises(ValueError, match="at least two classes. Got only one class"):
        _classifier().fit(X, np.zeros(20, int))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        _classifier().fit(X, y)
    with pytest.raises(ValueError, match=r"1d array, got an array of shape \(20, 2\)"):
        _classifier().fit(X, np.c_[LABELS, LABELS])
    with pytest.raises(ValueError, match="3 classes. Use NeuralNetClassifier"):
        _model(DFCNNBinaryClassifier(**_NET)).fit(X, LABELS)


def _with_classes(classes):
    net = NeuralNetClassifier(
        DFCNN,
        criterion=nn.CrossEntropyLoss,
        classes=classes,
        **_NET,
        train_split=None,
        verbose=0,
    )
    return _model(net)


def test_classes_of_the_net_are_honoured():
    labels = np.where(X[:, 0] > 0, 2, 0)
    model = _with_classes([0, 1, 2]).fit(X, labels)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (20, 3)
    np.testing.assert_array_equal(model.targets_, labels)
    # The label that never occurs is the least probable.
    assert (probabilities[:, 1] < probabilities.max(axis=1)).all()
    assert model.score(X, labels) > 0.8
    assert model.perturb(X[:4], labels[:4]).shape == (4, 3)


def test_classes_keep_the_users_order():
    order = ["low", "middle", "high"]
    model = _with_classes(order).fit(X, LABELS)
    np.testing.assert_array_equal(model.classes_, order)
    np.testing.assert_array_equal(np.array(order)[model.targets_], LABELS)
    sorted_ = _with_classes(sorted(order)).fit(X, LABELS)
    assert model.score(X, LABELS) > 0.6 < sorted_.score(X, LABELS)
    # The same rows, encoded as at fit.
    np.testing.assert_array_equal(model.perturb(X, LABELS), model.perturb())


def test_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"among the net's classes, .*\['low'\] too"):
        _with_classes(["middle", "high"]).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"'classes' parameter.*distinct labels. Got"):
        _with_classes(["low", "low", "high"]).fit(X, LABELS)


# --- The user's arrays ---------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_training_data_are_copies(order):
    mine, targets = np.array(X, order=order), y.copy()
    model = _model().fit(mine, targets)
    mine[0] += 0.1
    targets[:] = 0.0
    np.testing.assert_array_equal(model.X_train_, X)
    np.testing.assert_array_equal(model.y_train_, y)
    np.testing.assert_array_equal(model.targets_.ravel(), y)
    assert model.sensitivity(mine).shift_norm.min() > 0


def test_labels_are_copies():
    labels = LABELS.copy()
    model = _classifier().fit(X, labels)
    labels[:] = "low"
    np.testing.assert_array_equal(model.y_train_, LABELS)


def test_callables_get_copies(model):
    def spoiling(estimator, X, y, rng):
        X *= 0
        y *= 0
        return X + 1.0

    mine, targets, before = X.copy(), y.copy(), X.copy()
    model.set_params(perturbation=spoiling, perturbation_size=0.5)
    model.perturb(mine, targets)
    moved = model.perturb()
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(mine, before)
    np.testing.assert_array_equal(targets, y)
    np.testing.assert_array_equal(model.X_train_, before)
    np.testing.assert_array_equal(model.y_train_, y)
    np.testing.assert_allclose(np.linalg.norm(moved - X, axis=1), 0.5, rtol=1e-12)


# --- Parameters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value", "wanted"),
    [
        ("n_restarts", 0, r"an int in the range \[1, inf\)"),
        ("n_restarts", 1.5, "an int in the range"),
        ("tol", -1e-3, r"a float in the range \[0.0, inf\)"),
        ("tol", np.nan, "a float in the range"),
        ("rcond", -1.0, r"a float in the range \[0.0, 1.0\) or None"),
        ("rcond", 1.0, "a float in the range"),
        ("solver", "cholesky", "a str among .*eigh"),
        ("curvature", "fisher", "a str among .*ggn"),
        ("perturbation", "pgd", "a str among .*worst_case.* or a callable"),
        ("perturbation", 3, "a str among"),
        ("perturbation_size", -0.1, "a float in the range"),
        ("perturbation_size", np.inf, "a float in the range"),
        ("perturbed_fraction", 0, r"an int in the range \[1, inf\) or a float"),
        ("perturbed_fraction", 0.0, r"an int .* or a float in the range \(0.0, 1.0\]"),
        ("perturbed_fraction", 1.5, "an int .* or a float in the range"),
        ("perturbed_fraction", 21, "at most the number of rows, 20"),
        ("restart_backend", "spark", "a str among .*joblib"),
        ("polish", "twice", "an instance of 'bool'"),
        ("n_jobs", 1.5, "an instance of 'int' or None"),
        ("random_state", "seed", "an int in the range"),
        ("random_state", -1, "an int in the range"),
        ("verbose", -1, "an int in the range"),
    ],
)
def test_fit_refuses_parameters(parameter, value, wanted):
    message = rf"The '{parameter}' parameter of SolutionSetEstimator must be {wanted}"
    model = _model(**{parameter: value})
    with pytest.raises(ValueError, match=message) as raised:
        model.fit(X, y)
    assert f"Got {value!r} instead" in str(raised.value)


@pytest.mark.parametrize(
    "estimator", [DFCNNRegressor, nn.Linear(3, 1), Ridge(), "net", None]
)
def test_fit_refuses_what_is_no_net(estimator):
    with pytest.raises(ValueError, match=r"'estimator' parameter.*skorch.*Got"):
        SolutionSetEstimator(estimator).fit(X, y)


def test_perturb_checks_what_was_set_after_fit(model):
    model.set_params(perturbation="pgd")
    with pytest.raises(ValueError, match="The 'perturbation' parameter"):
        model.perturb()
    model.set_params(perturbation="random", perturbation_size=-1.0)
    with pytest.raises(ValueError, match="The 'perturbation_size' parameter"):
        model.perturb()
    model.set_params(perturbation_size=0.1, perturbed_fraction=21)
    with pytest.raises(ValueError, match="at most the number of rows, 20. Got 21"):
        model.perturb()


@pytest.mark.parametrize("fraction", [True, False, np.True_])
def test_choose_rows_refuses_bools(fraction):
    message = rf"'perturbed_fraction' parameter.*an int .*Got {fraction!r} instead"
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        choose_rows(fraction, 4, np.random.RandomState(0))


def test_choose_rows_refuses_more_than_there_are():
    rng = np.random.RandomState(0)
    assert choose_rows(4, 4, rng).all()
    assert choose_rows(1e-9, 4, rng).sum() == 1
    with pytest.raises(ValueError, match="at most the number of rows, 4. Got 5"):
        choose_rows(5, 4, rng)


# --- Nets ----------------------------------------------------------------------------


class Line(nn.Linear):
    def __init__(self, n_features=1, n_outputs=1):
        super().__init__(n_features, n_outputs)


def _plain(module=Line, **params):
    return NeuralNetRegressor(
        module, **{"max_epochs": 2, "train_split": None, "verbose": 0}
    ).set_params(**params)


def test_module_instances_are_refused():
    net = NeuralNetRegressor(nn.Linear(3, 1), train_split=None, verbose=0)
    message = r"must wrap a module class. Got an instance of Linear.*module=Linear"
    with pytest.raises(UnsupportedObjectiveError, match=message):
        _model(net).fit(X, y)


def test_criteria_without_second_derivatives_are_refused():
    net = _plain(criterion=nn.HingeEmbeddingLoss)
    message = "HingeEmbeddingLoss is not twice differentiable.*MSELoss"
    with pytest.raises(UnsupportedObjectiveError, match=message):
        _model(net).fit(X, y)


def test_refusals_come_before_training():
    class Counting(EarlyStopping):
        n_calls = 0

        def on_train_begin(self, net, **kwargs):
            type(self).n_calls += 1

    net = _plain(criterion=nn.HingeEmbeddingLoss, callbacks=[("count", Counting())])
    with pytest.raises(UnsupportedObjectiveError, match="HingeEmbeddingLoss"):
        _model(net).fit(X, y)
    assert Counting.n_calls == 0


def test_sizes_that_do_not_fit_the_data_are_refused():
    with pytest.raises(ValueError, match=r"outputs of shape \(2,\).*number of outputs"):
        _model(DFCNNRegressor(**_NET, module__n_outputs=2)).fit(X, y)
    with pytest.raises(ValueError, match=r"module.*rows of shape \(3,\)"):
        _model(DFCNNRegressor(**_NET, module__n_features=2)).fit(X, y)
    with pytest.raises(ValueError, match=r"2 outputs per row and y holds 3 classes"):
        _model(DFCNNClassifier(**_NET, module__n_outputs=2)).fit(X, LABELS)


def test_the_default_train_split_is_overridden():
    """All rows make the objective, also with skorch's own default of holding some."""
    default = NeuralNetRegressor(
        DFCNN, lr=0.01, **{k: v for k, v in _NET.items()}, verbose=0
    )
    assert default.train_split is not None
    whole = clone(default).set_params(train_split=None)
    with pytest.warns(UserWarning, match=r"train_split=.*overridden by None") as caught:
        one = _model(default).fit(X, y).solution_set_
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*train_split")
        other = _model(whole).fit(X, y).solution_set_
    np.testing.assert_array_equal(one.weights, other.weights)
    # The user's own net keeps its setting.
    assert default.train_split is not None


def test_callbacks_that_watch_the_validation_loss_say_so():
    net = _plain(callbacks=[("stop", EarlyStopping(monitor="valid_loss"))])
    with pytest.raises(AllRestartsFailedError, match=r"valid_loss.*train_split"):
        _model(net).fit(X, y)
    _model(net.set_params(callbacks__stop__monitor="train_loss")).fit(X, y)


def test_any_skorch_net_is_taken():
    net = NeuralNet(DFCNN, nn.MSELoss, **_NET, train_split=None, verbose=0)
    model = _model(net).fit(X, y)
    assert not hasattr(model, "score")
    assert not hasattr(model, "predict_proba")
    assert model.predict(X).shape == (20,)
    classifier = NeuralNetClassifier(
        DFCNN, criterion=nn.CrossEntropyLoss, **_NET, train_split=None, verbose=0
    )
    assert _model(classifier).fit(X, LABELS).predict_proba(X).shape == (20, 3)


def test_one_row_is_enough():
    model = _model().fit(X[:1], y[:1])
    (objective,), (w,) = model.solution_set_.objectives, model.solution_set_.weights
    H = objective.hessian_product(w, np.eye(len(w)))
    rows = np.eye(3).reshape(3, 1, 3)
    B = np.stack([objective.cross_product(w, dx) for dx in rows], axis=1)
    # Decay makes H regular.
    dense = np.linalg.norm(np.linalg.solve(H, B), 2)
    assert model.lipschitz_modulus_ == pytest.approx(dense, rel=1e-6)


# --- Before fit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.predict(X),
        lambda m: m.score(X, y),
        lambda m: m.sensitivity(X),
        lambda m: m.retrain(X),
        lambda m: m.perturb(),
        lambda m: m.lipschitz_modulus_,
        lambda m: m.lipschitz_moduli_,
        lambda m: m.score_of(m, X, y),
        lambda m: sensitivity(m, X),
    ],
)
def test_methods_need_fit(use):
    with pytest.raises(NotFittedError, match="not fitted yet. Call 'fit'"):
        use(_model())


def test_the_function_refuses_other_estimators():
    with pytest.raises(TypeError, match=r"end in a SolutionSetEstimator. Got Ridge"):
        sensitivity(Ridge().fit(X, y), X)


# --- Perturbed data ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sensitivity", "retrain"])
@pytest.mark.parametrize(
    ("X_bad", "message"),
    [
        (_spoilt(X, np.nan), "Input X_perturbed contains NaN"),
        (_spoilt(X, np.inf), "Input X_perturbed contains infinity"),
        (X[:5], r"shape of the training X, \(20, 3\). Got \(5, 3\).*all training rows"),
        (X[:, :2], "X has 2 features, but SolutionSetEstimator is expecting 3"),
        (X[:, 0], "Expected 2D array, got 1D array"),
        (X[..., None], r"\(20, 3\). Got \(20, 3, 1\)"),
        (np.full(X.shape, "a"), "'X_perturbed' parameter must hold real numbers"),
        (X.astype(str), r"Got text \(dtype <U\d+\) instead: pass X_perturbed.astype"),
        (X.astype(str).tolist(), r"Got text \(dtype <U"),
        (X.astype(str).astype(object), r"Got text \(dtype object\)"),
        (pd.DataFrame(X.astype(str)), r"Got text"),
        (X + 1j, "Complex data not supported"),
        (None, "Got None for all three"),
    ],
)
def test_perturbed_inputs_are_checked(fitted, method, X_bad, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        getattr(fitted, method)(X_bad)


@pytest.mark.parametrize("method", ["sensitivity", "retrain", "stability_report"])
def test_less_precise_inputs_warn(fitted, method):
    with pytest.warns(DataConversionWarning, match="float32.*Pass float64") as caught:
        getattr(fitted, method)(X.astype(np.float32))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "other",
    [X[::-1], np.full_like(X, 0.01), 10.0 * X],
    ids=["reordered", "the perturbation alone", "scaled again"],
)
def test_other_data_are_asked_about(fitted, other):
    with pytest.warns(NonlinearityWarning, match="the training rows in their order"):
        fitted.sensitivity(other)


def test_large_perturbations_are_just_large(fitted):
    with pytest.warns(NonlinearityWarning, match="or retrain") as caught:
        fitted.sensitivity(X + 0.4 * np.sign(X))
    assert "in their order" not in str(caught[0].message)


@pytest.mark.parametrize("function", [sensitivity, stability_report])
def test_functions_warn_where_they_are_called(fitted, function):
    with pytest.warns(DataConversionWarning, match="float32.*Pass float64") as caught:
        function(fitted, X.astype(np.float32))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("estimator", "remedy"),
    [
        (DFCNN(), r"Got DFCNN instead; wrap its class: NeuralNetRegressor\(DFCNN\)"),
        (DFCNN, "wrap its class"),
        (DFCNNRegressor, r"Got DFCNNRegressor instead; call it: DFCNNRegressor\(\)"),
    ],
)
def test_what_is_no_net_yet_is_told(estimator, remedy):
    with pytest.raises(ValueError, match=remedy):
        SolutionSetEstimator(estimator).fit(X, y)


@pytest.mark.parametrize("size", [0, -2, 2.0, "all", True, np.int64(4), None])
def test_batch_sizes_are_checked(size):
    net = DFCNNRegressor(batch_size=size, module__hidden_widths=(2,))
    with pytest.raises(ValueError, match="'batch_size' of the net must be a positive"):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"iterator_train__batch_size": 0}, "training data cannot be read"),
        ({"iterator_train__num_workers": -1}, "training data cannot be read"),
        ({"optimizer__weight_decay": -1.0}, "cannot be initialised .*weight_decay"),
        ({"module__unknown": 1}, "cannot be initialised .*unknown"),
    ],
)
def test_nets_that_cannot_be_built_are_told(params, message):
    net = DFCNNRegressor(module__hidden_widths=(2,), **params)
    with pytest.raises(ValueError, match=message):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


def test_nets_too_large_to_build_run_out_of_memory():
    net = DFCNNRegressor(module__hidden_widths=(10**12,))
    with pytest.raises(MemoryError, match="Memory ran out during fit"):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


def test_a_loss_that_is_nan_from_the_start_is_told():
    """Logits in the place of probabilities, skorch users' most common slip."""
    net = NeuralNetClassifier(nn.Linear, module__in_features=3, module__out_features=3)
    with pytest.raises(ValueError, match="Got NaN from.*NLLLoss.*CrossEntropyLoss"):
        SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, LABELS)


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "float16", "float32"])
def test_types_that_cannot_hold_the_training_data_warn(fitted, dtype):
    frame = pd.DataFrame(X)
    frame[1] = frame[1].astype(dtype)
    extension = frame.astype({1: "Float32"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("error", category=DataConversionWarning)
        fitted.sensitivity(pd.DataFrame(X))
        fitted.sensitivity(X.astype(object))
        for coarse in (X.astype(dtype), frame):
            message = f"'X_perturbed' parameter has dtype {dtype} .*Pass float64"
            with pytest.raises(DataConversionWarning, match=message):
                fitted.sensitivity(coarse)
        with pytest.raises(DataConversionWarning, match="float32"):
            fitted.sensitivity(extension)


def test_whole_columns_may_come_back_as_integers():
    whole = X.copy()
    whole[:, 1] = np.round(3 * X[:, 1])
    model = _model().fit(whole, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = model.sensitivity(pd.DataFrame(whole).astype({1: "int64"}))
    np.testing.assert_array_equal(predicted.shift, 0.0)


def test_exact_float32_inputs_do_not_warn():
    coarse = X.astype(np.float32)
    model = _model().fit(coarse, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = model.sensitivity(coarse)
    np.testing.assert_array_equal(predicted.shift, 0.0)


def test_unchanged_data_move_nothing_and_warn_of_nothing(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = fitted.sensitivity(X)
    np.testing.assert_array_equal(predicted.weights, fitted.solution_set_.weights)
    np.testing.assert_array_equal(predicted.nonlinearity, 0.0)
    assert predicted.trustworthy.all()


@pytest.mark.parametrize("method", ["sensitivity", "retrain"])
@pytest.mark.parametrize(
    ("y_bad", "message"),
    [
        (y[:3], r"shape of the training y, \(20,\). Got \(3,\)"),
        (y[None], r"shape of the training y, \(20,\). Got \(1, 20\)"),
        (_spoilt(y, np.nan), "'y_perturbed' parameter must be finite. Got 1 NaN"),
        (_spoilt(y, np.inf), "'y_perturbed' parameter must be finite. Got 1"),
        (LABELS, "'y_perturbed' parameter must hold real numbers. Got dtype <U6"),
    ],
)
def test_perturbed_targets_are_checked(fitted, method, y_bad, message):
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(X, y_bad)


@pytest.mark.parametrize("method", ["sensitivity", "retrain"])
def test_classifiers_refuse_unknown_labels(fitted_classifier, method):
    changed = LABELS.astype("<U9")
    changed[0] = "different"
    with pytest.raises(ValueError, match=r"seen at fit.*Got \['different'\] too"):
        getattr(fitted_classifier, method)(X, changed)
    with pytest.raises(ValueError, match="shape of the training y"):
        getattr(fitted_classifier, method)(X, LABELS[:3])
    getattr(fitted_classifier, method)(X + 1e-6, LABELS)


@pytest.mark.parametrize("n_corrections", [-1, 1.0, "1", None])
def test_numbers_of_corrections_are_checked(fitted, n_corrections):
    with pytest.raises(
        ValueError, match=rf"integer of at least 0. Got {n_corrections!r} instead"
    ):
        fitted.sensitivity(X, n_corrections=n_corrections)


# --- Perturbations -------------------------------------------------------------------


def test_perturb_needs_targets_for_gradients(fitted):
    with pytest.raises(ValueError, match="'y' parameter of perturb must be given with"):
        fitted.perturb(X[:5])
    assert fitted.perturb(X[:5], y[:5]).shape == (5, 3)


@pytest.mark.parametrize(
    ("y_bad", "message"),
    [
        (y[:3], r"inconsistent numbers of samples|'y' parameter"),
        (_spoilt(y, np.nan), "y contains NaN|'y' parameter"),
        (_spoilt(y, np.inf), "y contains infinity|'y' parameter"),
        (LABELS, "'y' parameter"),
    ],
)
def test_perturb_checks_targets(fitted, y_bad, message):
    with pytest.raises(ValueError, match=message):
        fitted.perturb(X, y_bad)


def test_perturb_refuses_targets_without_inputs(fitted):
    with pytest.raises(ValueError, match="'X' parameter"):
        fitted.perturb(None, y)


def test_perturb_refuses_unknown_classes(fitted_classifier):
    labels = LABELS.astype(object)
    labels[0] = "top"
    with pytest.raises(
        ValueError, match=r"'y' parameter of perturb.*classes.*\['top'\]"
    ):
        fitted_classifier.perturb(X, labels)


def test_perturb_checks_inputs(fitted):
    with pytest.raises(ValueError, match="2 features, but SolutionSetEstimator is"):
        fitted.perturb(X[:, :2], y)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fitted.perturb(_spoilt(X, np.nan), y)


def test_worst_case_refers_to_the_training_data(model):
    model.set_params(perturbation="worst_case")
    with pytest.raises(ValueError, match="must be None for perturbation='worst_case'"):
        model.perturb(X, y)
    assert model.perturb().shape == X.shape


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda e, X, y, r: X[:3], r"shape of X, \(20, 3\). Got shape \(3, 3\)"),
        (lambda e, X, y, r: None, r"real numbers. Got dtype object"),
        (lambda e, X, y, r: "up", r"real numbers. Got dtype <U2"),
        (lambda e, X, y, r: 1j * X, r"real numbers. Got dtype complex128"),
        (lambda e, X, y, r: np.nan * X, r"finite directions. Got 60 NaN"),
        (lambda e, X, y, r: np.inf + X, r"finite directions. Got 60"),
    ],
)
def test_callables_are_checked(model, function, message):
    model.set_params(perturbation=function)
    with pytest.raises(ValueError, match=f"'perturbation' callable.*{message}"):
        model.perturb()


def test_callables_may_return_lists_and_integers(model):
    seen = {}

    def along_first(estimator, X, y, rng):
        seen.update(estimator=estimator, X=X, y=y, rng=rng)
        return np.eye(3, dtype=int)[np.zeros(len(X), int)].tolist()

    model.set_params(perturbation=along_first, perturbation_size=0.5)
    np.testing.assert_array_equal(model.perturb(), X + [0.5, 0.0, 0.0])
    assert seen["estimator"] is model
    np.testing.assert_array_equal(seen["y"], y)
    assert isinstance(seen["rng"], np.random.RandomState)
    # Rows of zeros stay.
    model.set_params(perturbation=lambda e, X, y, r: 0.0 * X)
    np.testing.assert_array_equal(model.perturb(), X)


def test_errors_of_callables_are_their_own():
    def function(estimator, X, y, rng):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        called_directions(function, None, X, y, np.random.RandomState(0))


# --- Solution sets -------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "3", None, True])
def test_sample_checks_the_number(fitted, n_samples):
    message = rf"'n_samples'.*integer of at least 1. Got {n_samples!r} instead"
    with pytest.raises(ValueError, match=message):
        fitted.solution_set_.sample(n_samples, 1.0)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, np.inf, "1", None])
def test_sample_checks_the_radius(fitted, radius):
    with pytest.raises(ValueError, match="'radius'.*must be a positive number. Got"):
        fitted.solution_set_.sample(3, radius)


def test_sample_checks_the_centre(fitted):
    predicted = fitted.sensitivity(X)
    with pytest.raises(ValueError, match="'center'.*'solution', 'base'.*Got 'here'"):
        predicted.sample(3, 1.0, center="here")


@pytest.mark.parametrize(
    ("X_bad", "message"),
    [
        (X[:, :2], r"rows of shape \(3,\), as in training. Got \(2,\)"),
        (X[0], "Expected 2D array, got 1D array"),
        (_spoilt(X, np.nan), "Input X contains NaN"),
    ],
)
def test_set_predict_checks_inputs(fitted, X_bad, message):
    with pytest.raises(ValueError, match=message):
        fitted.solution_set_.predict(X_bad)


def test_set_distance_checks_points(fitted):
    with pytest.raises(ValueError, match=r"must have 21 weights.*Got shape \(1, 3\)"):
        fitted.solution_set_.distance(np.zeros(3))
