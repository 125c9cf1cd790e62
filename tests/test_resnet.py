"""ResNet against counts known in closed form and a second construction; its net."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.func import functional_call, jacrev, vmap

from sksetsens.networks import ResNet, ResNetClassifier, missing_sizes

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _n_weights(net):
    return sum(parameter.numel() for parameter in net.parameters())


def _images(n_samples=12, channels=2, size=8):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, channels, size, size))
    return X, np.arange(n_samples) % 3


def _small(**kwargs):
    return ResNet(depth=8, width=3, in_channels=2, n_outputs=3, **kwargs)


# --- the module ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "in_channels", "n_weights"),
    [(20, 3, 269_722), (56, 3, 853_018), (56, 1, 852_730)],
)
def test_number_of_weights(depth, in_channels, n_weights):
    """0.27 M and 0.85 M, as in He et al. (2016), Table 6."""
    assert _n_weights(ResNet(depth=depth, in_channels=in_channels)) == n_weights


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_the_layers_with_weights(depth):
    layers = [m for m in ResNet(depth=depth).modules() if _has_depth(m)]
    assert len(layers) == depth


def _has_depth(module):
    return isinstance(module, (nn.Conv2d, nn.Linear))


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (9, 7), (1, 1)])
def test_images_of_any_size(size):
    net = ResNet(depth=8, width=4, n_outputs=6).eval()
    assert net(torch.randn(2, 3, *size)).shape == (2, 6)


def test_forward_against_functional_form():
    net = _small().double().train()
    net(torch.randn(20, 2, 8, 8, dtype=torch.float64))  # statistics other than 0 and 1
    net.eval()
    X = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    state = net.state_dict()

    def layer(X, convolution, norm, stride=1):
        X = nn.functional.conv2d(
            X, state[f"{convolution}.weight"], stride=stride, padding=1
        )
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{norm}.{n}"][:, None, None] for n in names)
        return (X - mean) / torch.sqrt(var + 1e-5) * weight + bias

    h = layer(X, "stem.0", "stem.1").relu()
    for index, stride in enumerate((1, 2, 2)):
        name = f"blocks.{index}.residual"
        inner = layer(h, f"{name}.0", f"{name}.1", stride).relu()
        shortcut = torch.zeros_like(inner)
        shortcut[:, : h.shape[1]] = h[:, :, ::stride, ::stride]
        h = (shortcut + layer(inner, f"{name}.3", f"{name}.4")).relu()
    expected = h.mean((2, 3)) @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(net(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "cls"),
    [("relu", nn.ReLU), ("tanh", nn.Tanh), ("softplus", nn.Softplus)],
)
def test_activations_are_modules_used_once(activation, cls):
    """One module per place: hooks see every pre-activation once."""
    net = _small(activation=activation).eval()
    calls = []
    for module in net.modules():
        if isinstance(module, cls):
            module.register_forward_hook(lambda *args: calls.append(args[0]))
    net(torch.randn(1, 2, 8, 8))
    assert len(calls) == len(set(map(id, calls))) == 7


def test_rows_do_not_touch_in_evaluation():
    net = _small().double().eval()
    X = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    rows = torch.cat([net(row[None]) for row in X])
    torch.testing.assert_close(net(X), rows, rtol=1e-12, atol=1e-12)


def test_jacobians_of_single_rows():
    net = _small().double().eval()
    X = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    weights = {name: value.detach() for name, value in net.named_parameters()}

    def outputs(weights, row):
        return functional_call(net, weights, (row[None],))[0]

    jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(weights, X)
    net(X)[1, 2].backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(jacobians[name][1, 2], parameter.grad)


def test_frozen_statistics_stay_in_training():
    net = _small().freeze_statistics().train()
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    X = torch.randn(6, 2, 8, 8)
    outputs = net(X)
    assert net.training
    assert all(torch.equal(value, buffers[n]) for n, value in net.named_buffers())
    torch.testing.assert_close(outputs, net.eval()(X))
    outputs.sum().backward()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(module.weight.grad is not None for module in norms)


def test_statistics_move_again_after_thawing():
    net = _small().train().freeze_statistics().freeze_statistics(False)
    before = net.stem[1].running_mean.clone()
    net(torch.randn(6, 2, 8, 8))
    assert not torch.equal(net.stem[1].running_mean, before)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"depth": 54}, r"'depth' parameter of ResNet must be 6 k \+ 2 .* Got 54"),
        ({"depth": 2}, r"'depth' .* Got 2"),
        ({"depth": 20.0}, r"'depth' .* Got 20\.0"),
        ({"in_channels": 0}, r"'in_channels' .* positive integer\. Got 0"),
        ({"n_outputs": "10"}, r"'n_outputs' .* Got '10'"),
        ({"width": True}, r"'width' .* Got True"),
        ({"activation": "gelu"}, r"'activation' .* 'softplus'.* Got 'gelu'"),
        ({"activation": nn.ReLU}, r"'activation' .* Got <class"),
    ],
)
def test_invalid_parameters(kwargs, match):
    with pytest.raises(ValueError, match=match):
        ResNet(**kwargs)


@pytest.mark.parametrize("shape", [(5, 64), (2, 8, 8), (5, 1, 8, 8)])
def test_invalid_images(shape):
    with pytest.raises(ValueError, match=r"shape \(n_samples, 2, .*'in_channels'"):
        _small()(torch.zeros(shape))


# --- the net -------------------------------------------------------------------------


def _net(**kwargs):
    return ResNetClassifier(module__depth=8, module__width=4, **kwargs)


def test_classification_of_images():
    X, y = _images()
    net = _net(max_epochs=30, lr=0.01).fit(X, y.astype(np.int32))
    assert net.sizes_ == {"in_channels": 2, "n_outputs": 3}
    assert net.module_.in_channels == 2
    assert net.module_.output.weight.dtype == torch.float32
    assert net.score(X, y) == 1.0
    np.testing.assert_array_equal(net.classes_, [0, 1, 2])


def test_sizes_given_by_the_user_win():
    X, y = _images()
    net = ResNetClassifier(module__n_outputs=5, module__in_channels=4)
    assert missing_sizes(net, X, y) == {}
    assert _net(max_epochs=1, classes=range(7)).fit(X, y).module_.n_outputs == 7


def test_clone_pickle_and_refit():
    X, y = _images()
    net = _net(max_epochs=1).fit(X, y)
    copy = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copy.predict_proba(X), net.predict_proba(X))
    assert clone(net).fit(X[:, :1], y).module_.in_channels == 1


def test_training_goes_on_with_frozen_statistics():
    X, y = _images()
    net = _net(max_epochs=2).fit(X, y)
    mean = net.module_.stem[1].running_mean
    net.module_.freeze_statistics()
    before, weight = mean.clone(), net.module_.output.weight.detach().clone()
    net.partial_fit(X, y)
    assert torch.equal(net.module_.stem[1].running_mean, before)
    assert not torch.equal(net.module_.output.weight, weight)


def test_labels_beyond_the_outputs_are_refused():
    X, y = _images()
    with pytest.raises(ValueError, match=r"ResNetClassifier\.fit must hold integer"):
        _net().fit(X, y + 1)
