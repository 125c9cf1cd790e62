"""DFCNN against NumPy, and the nets as scikit-learn estimators."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

from sksetsens.networks import (
    DFCNN,
    DFCNNBinaryClassifier,
    DFCNNClassifier,
    DFCNNRegressor,
    data_sizes,
    missing_sizes,
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _numpy_parameters(net):
    return {key: value.detach().numpy() for key, value in net.state_dict().items()}


def _regression_data():
    X, y = make_regression(n_samples=120, n_features=4, random_state=0)
    return X, scale(y)


# --- DFCNN ---------------------------------------------------------------------------


def test_default_network_is_the_papers():
    net = DFCNN(n_features=3, n_outputs=2, hidden_widths=(5, 4)).double()
    values = _numpy_parameters(net)
    assert set(values) == {"hidden.0.weight", "hidden.1.weight", "a"}
    X = np.random.default_rng(0).standard_normal((7, 3))
    x = np.maximum(values["hidden.0.weight"] @ X.T, 0)
    x = np.maximum(values["hidden.1.weight"] @ x, 0)
    outputs = net(torch.from_numpy(X)).detach().numpy()
    # Rounding of a few float64 sums of at most five terms.
    np.testing.assert_allclose(outputs, (values["a"] @ x).T, rtol=0, atol=1e-14)


def test_plain_mlp_against_numpy():
    net = DFCNN(
        n_features=3,
        hidden_widths=(6,),
        activation="tanh",
        bias=True,
        train_output=True,
    ).double()
    v = _numpy_parameters(net)
    X = np.random.default_rng(0).standard_normal((7, 3))
    hidden = np.tanh(X @ v["hidden.0.weight"].T + v["hidden.0.bias"])
    expected = hidden @ v["output.weight"].T + v["output.bias"]
    outputs = net(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-14)
    assert "a" not in dict(net.named_buffers())


def test_linear_model_without_hidden_layers():
    net = DFCNN(n_features=3, hidden_widths=(), train_output=True)
    X = torch.randn(4, 3)
    torch.testing.assert_close(net(X), X @ net.output.weight.T)


def test_fixed_output_depends_on_the_shape_only():
    torch.manual_seed(1)
    first = DFCNN(n_outputs=3, hidden_widths=(8, 20)).a
    torch.manual_seed(2)
    second = DFCNN(n_features=9, n_outputs=3, hidden_widths=(5, 20), bias=True).a
    assert torch.equal(first, second)
    assert first.shape == (3, 20)


def test_fixed_output_is_scaled_by_the_width():
    a = DFCNN(n_outputs=40, hidden_widths=(400,)).a
    # 16000 draws: the standard deviation is known to about 0.6 %.
    assert a.std().item() == pytest.approx(1 / 20, rel=0.03)


def test_fixed_output_in_double_agrees_with_single():
    single = DFCNN().a
    torch.set_default_dtype(torch.float64)
    try:
        double = DFCNN().a
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), single)


def test_fixed_output_leaves_the_global_random_state_alone():
    # Without hidden layers' own draws there would be nothing else to compare, so
    # compare with the draws of the hidden layer alone.
    torch.manual_seed(3)
    DFCNN(n_features=2, hidden_widths=(4,), bias=True)
    after_network = torch.get_rng_state()
    torch.manual_seed(3)
    nn.Linear(2, 4)
    assert torch.equal(after_network, torch.get_rng_state())


def test_he_initialisation_of_the_papers_form():
    weight = DFCNN(n_features=200, hidden_widths=(200,)).hidden[0].weight
    # 40000 draws: known to about 0.35 %.
    assert weight.std().item() == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert weight.abs().max() > np.sqrt(6 / 200)  # normal, not uniform


def test_torch_initialisation_of_other_forms():
    weight = DFCNN(n_features=200, hidden_widths=(200,), activation="tanh").hidden[0]
    assert weight.weight.abs().max() <= 1 / np.sqrt(200)


def test_rows_are_flattened():
    net = DFCNN(n_features=12, hidden_widths=(5,))
    X = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(net(X), net(X.reshape(4, 12)))


@pytest.mark.parametrize(
    ("n_outputs", "squeeze", "shape"),
    [(1, False, (4, 1)), (1, True, (4,)), (2, True, (4, 2))],
)
def test_output_shape(n_outputs, squeeze, shape):
    net = DFCNN(n_features=3, n_outputs=n_outputs, squeeze_output=squeeze)
    assert net(torch.randn(4, 3)).shape == shape


@pytest.mark.parametrize(
    ("activation", "cls"),
    [
        ("relu", nn.ReLU),
        ("tanh", nn.Tanh),
        ("softplus", nn.Softplus),
        ("sigmoid", nn.Sigmoid),
        ("gelu", nn.GELU),
        ("silu", nn.SiLU),
        ("identity", nn.Identity),
        (nn.ELU, nn.ELU),
    ],
)
def test_activations_are_modules(activation, cls):
    net = DFCNN(hidden_widths=(3, 3), activation=activation)
    assert [type(module) for module in net.activations] == [cls, cls]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"n_features": 0}, r"'n_features' parameter of DFCNN must be .* Got 0"),
        ({"n_outputs": 1.5}, r"'n_outputs' parameter of DFCNN must be .* Got 1\.5"),
        ({"n_outputs": True}, r"'n_outputs' parameter of DFCNN must be .* Got True"),
        ({"hidden_widths": ()}, r"'hidden_widths' .* non-empty unless .* Got \(\)"),
        ({"hidden_widths": (3, 0)}, r"'hidden_widths' .* Got \(3, 0\)"),
        ({"hidden_widths": 7}, r"'hidden_widths' .* must be a sequence .* Got 7"),
        ({"activation": "cosine"}, r"'activation' .* 'tanh'.* Got 'cosine'"),
        ({"activation": nn.ReLU()}, r"'activation' .* class .* Got ReLU\(\)"),
        ({"activation": torch.relu}, r"'activation' .* class .* Got <built-in"),
    ],
)
def test_invalid_parameters(kwargs, match):
    with pytest.raises(ValueError, match=match):
        DFCNN(**kwargs)


# --- sizes ---------------------------------------------------------------------------


def test_data_sizes():
    X, images = np.zeros((6, 5)), np.zeros((6, 2, 3, 4))
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert data_sizes(DFCNNRegressor(), X, np.zeros(6)) == {
        "n_features": 5,
        "n_outputs": 1,
    }
    assert data_sizes(DFCNNRegressor(), images, np.zeros((6, 3))) == {
        "n_features": 24,
        "in_channels": 2,
        "n_outputs": 3,
    }
    assert data_sizes(DFCNNClassifier(), X, labels)["n_outputs"] == 3
    assert data_sizes(DFCNNClassifier(), X, torch.tensor(labels))["n_outputs"] == 3
    many = DFCNNClassifier(classes=range(10))
    assert data_sizes(many, X, labels)["n_outputs"] == 10
    assert data_sizes(DFCNNBinaryClassifier(), X, labels > 0)["n_outputs"] == 1
    plain = NeuralNet(DFCNN, criterion=nn.MSELoss)
    assert data_sizes(plain, X.tolist(), [[0.0, 1.0]] * 6) == {
        "n_features": 5,
        "n_outputs": 2,
    }


def test_data_sizes_of_a_dataset_are_left_out():
    dataset = torch.utils.data.TensorDataset(torch.zeros(3, 2), torch.zeros(3, 1))
    assert data_sizes(DFCNNRegressor(), dataset, None) == {}


def test_missing_sizes_respect_user_and_signature():
    X, y = np.zeros((6, 5)), np.zeros(6)
    given = NeuralNetRegressor(DFCNN, module__n_features=7)
    assert missing_sizes(given, X, y) == {"n_outputs": 1}
    assert missing_sizes(NeuralNetRegressor(nn.Linear), X, y) == {}
    assert missing_sizes(NeuralNetRegressor(DFCNN(n_features=5)), X, y) == {}


# --- nets ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_regression_learns_and_keeps_the_shape_of_y(shape, squeeze, dtype):
    """MSELoss broadcasts (n, 1) against (n,): R2 would stay near 0."""
    X, y = _regression_data()
    X, y = X.astype(dtype), y.astype(dtype).reshape(shape)
    net = DFCNNRegressor(module__squeeze_output=squeeze, max_epochs=60, batch_size=32)
    net.fit(X, y)
    assert net.score(X, y) > 0.9
    assert net.predict(X).shape == y.shape


def test_multi_output_regression():
    X, y = _regression_data()
    Y = np.column_stack([y, -y, X[:, 0]])
    net = DFCNNRegressor(max_epochs=60, batch_size=32).fit(X, Y)
    assert net.module_.n_outputs == 3
    assert net.score(X, Y) > 0.9


def test_classification():
    X, y = make_blobs(n_samples=90, centers=3, random_state=0, cluster_std=0.5)
    net = DFCNNClassifier(module__bias=True, max_epochs=60, batch_size=30)
    net.fit(X, y.astype(np.int32))
    assert net.module_.n_outputs == 3
    assert net.score(X, y) > 0.95
    np.testing.assert_array_equal(net.classes_, [0, 1, 2])
    # Probabilities, not logits; in float32.
    np.testing.assert_allclose(net.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


def test_binary_classification():
    X, y = make_blobs(n_samples=60, centers=2, random_state=0, cluster_std=0.5)
    net = DFCNNBinaryClassifier(module__bias=True, max_epochs=60).fit(X, y)
    assert net.module_.n_outputs == 1
    assert net.score(X, y) > 0.95


def test_images():
    X = np.random.default_rng(0).standard_normal((10, 1, 3, 3))
    net = DFCNNRegressor(max_epochs=1).fit(X, X[:, 0, 0, 0])
    assert net.module_.n_features == 9
    assert net.predict(X).shape == (10,)


def _own_params(net):
    """Parameters without those of the callbacks, which skorch clones at fit."""
    params = net.get_params()
    return {key: params[key] for key in params if not key.startswith("callbacks__")}


ALL_NETS = [DFCNNRegressor, DFCNNClassifier, DFCNNBinaryClassifier]


@pytest.mark.parametrize("cls", ALL_NETS)
def test_fit_leaves_the_parameters_alone(cls):
    X, y = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8) % 2
    net = cls(module__hidden_widths=(5,), max_epochs=1)
    before = _own_params(net)
    fitted = net.fit(X, y)
    assert fitted is net
    assert net.module_.n_features == 6
    after = _own_params(net)
    assert set(after) == set(before)
    assert all(after[key] is value for key, value in before.items())


@pytest.mark.parametrize("cls", ALL_NETS)
def test_clone_and_refit_on_another_width(cls):
    X, y = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8) % 2
    net = cls(module__hidden_widths=(5,), lr=0.5, max_epochs=1).fit(X, y)
    copy = clone(net)
    assert copy.get_params()["lr"] == 0.5
    assert copy.get_params()["module__hidden_widths"] == (5,)
    assert not hasattr(copy, "sizes_")
    assert copy.fit(X[:, :2], y).module_.n_features == 2
    assert net.fit(X[:, :3], y).module_.n_features == 3


@pytest.mark.parametrize("cls", ALL_NETS)
def test_set_params_after_fit_keeps_the_sizes(cls):
    X, y = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8) % 2
    net = cls(max_epochs=1).fit(X, y)
    net.set_params(module__hidden_widths=(7,))
    assert net.module_.hidden_widths == (7,)
    assert net.module_.n_features == 6
    net.set_params(module__n_features=2)
    assert net.module_.n_features == 2


@pytest.mark.parametrize("cls", ALL_NETS)
def test_pickle_of_a_fitted_net(cls):
    X, y = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8) % 2
    net = cls(max_epochs=1).fit(X, y)
    copy = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copy.predict(X), net.predict(X))
    np.testing.assert_array_equal(clone(copy).fit(X, y).predict(X).shape, (8,))


def test_sizes_given_by_the_user_win():
    net = DFCNNClassifier(module__n_outputs=4, max_epochs=1)
    net.fit(np.eye(3), np.arange(3))
    assert net.module_.n_outputs == 4
    assert net.sizes_ == {"n_features": 3}


def test_partial_fit_learns_sizes_once():
    X, y = _regression_data()
    net = DFCNNRegressor(max_epochs=1).partial_fit(X, y)
    module = net.module_
    assert net.partial_fit(X[:5], y[:5]).module_ is module
    assert module.n_features == 4


def test_warm_start_keeps_the_module():
    X, y = _regression_data()
    net = DFCNNRegressor(max_epochs=1, warm_start=True).fit(X, y)
    module = net.module_
    assert net.fit(X, y).module_ is module


def test_data_follow_the_dtype_of_a_double_module():
    X, y = _regression_data()
    net = DFCNNRegressor(max_epochs=1)
    net.fit(X, y)
    net.module_.double()
    expected = net.module_(torch.from_numpy(X)).detach().numpy()[:, 0]
    assert net.predict(X).dtype == np.float64
    # predict runs in batches; float64 sums of at most 50 terms in another order.
    np.testing.assert_allclose(net.predict(X), expected, rtol=0, atol=1e-13)
    assert net.get_dataset(X, y)[0][1].dtype == np.float64


def test_tensors_and_datasets_are_taken():
    X, y = (torch.from_numpy(values) for values in _regression_data())
    net = DFCNNRegressor(max_epochs=1).fit(X, y)
    assert net.module_.n_features == 4
    dataset = torch.utils.data.TensorDataset(X.float(), y.float())
    net = DFCNNRegressor(module__n_features=4, max_epochs=1).fit(dataset, None)
    assert net.predict(X).shape == (120, 1)


def test_a_module_of_the_users():
    X, y = _regression_data()
    net = DFCNNRegressor(
        nn.Linear, module__in_features=4, module__out_features=1, lr=0.1, max_epochs=60
    )
    assert net.fit(X, y).score(X, y) > 0.9


def test_grid_search():
    X, y = make_blobs(n_samples=60, centers=3, random_state=0, cluster_std=0.5)
    search = GridSearchCV(
        DFCNNClassifier(max_epochs=30, module__bias=True),
        {"module__hidden_widths": [(2,), (20,)]},
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_estimator_.module_.n_features == 2


@pytest.mark.parametrize(
    ("cls", "y", "match"),
    [
        (DFCNNClassifier, [0, 2, 2], r"'y' parameter of DFCNNClassifier.fit .* 0 to 1"),
        (DFCNNClassifier, ["a", "b", "a"], r"Got array\(\['a', 'b'\].*LabelEncoder"),
        (DFCNNClassifier, [0.5, 1.0, 0.0], r"integer labels from 0 to 2"),
        (DFCNNBinaryClassifier, [-1, 1, 1], r"DFCNNBinaryClassifier.fit .* 0 to 1"),
    ],
)
def test_labels_are_checked(cls, y, match):
    with pytest.raises(ValueError, match=match):
        cls().fit(np.eye(3), np.array(y))


def test_classes_may_be_absent_from_y():
    net = DFCNNClassifier(classes=[0, 1, 2], max_epochs=1)
    net.fit(np.eye(3), np.array([0, 2, 2]))
    assert net.predict_proba(np.eye(3)).shape == (3, 3)


def test_shape_mismatch_of_y_is_an_error():
    net = DFCNNRegressor(module__n_outputs=2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\). Got \(3,\) instead"):
        net.fit(np.eye(3), np.arange(3.0))
