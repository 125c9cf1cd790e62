"""Symmetries of networks, and the alignment of solutions modulo them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from sksetsens.linalg import Subspace
from sksetsens.networks import DFCNN
from sksetsens.sets import HiddenLayer, NetworkSymmetry

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "id": nn.Identity, "gelu": nn.GELU}


def mlp(*widths, activation=nn.Tanh, bias=True, tail=()):
    leaves = []
    for n_in, n_out in itertools.pairwise(widths):
        leaves += [nn.Linear(n_in, n_out, bias=bias), activation()]
    return nn.Sequential(*leaves[:-1], *tail).double().eval()


def outputs(module, w, X):
    """The module's function at flat weights, in the library's order."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    pieces = torch.split(torch.as_tensor(w), [p.numel() for p in trained.values()])
    shaped = {
        n: x.reshape(p.shape) for (n, p), x in zip(trained.items(), pieces, strict=True)
    }
    return functional_call(module, shaped, (torch.as_tensor(X),))


def planted(symmetry, w, rng):
    """A copy of `w` by random orders, signs and scales, made entry by entry."""
    w = w.copy()
    for layer in symmetry.hidden_layers:
        old = w.copy()
        for i, j in enumerate(rng.permutation(len(layer.incoming))):
            c = rng.choice([-1, 1]) if layer.is_odd else 1
            c = c * np.exp(rng.normal()) if layer.is_homogeneous else c
            for k, place in enumerate(layer.incoming[i]):
                w[place] = c * old[layer.incoming[j, k]]
            for k, place in enumerate(layer.outgoing[i]):
                w[place] = old[layer.outgoing[j, k]] / c
    return w


@pytest.mark.parametrize("widths", [(3, 6, 2), (3, 5, 4, 2), (3, 5, 6, 4, 1)])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("scalings", [True, False])
def test_planted_copies_are_recovered(widths, name, scalings):
    module = mlp(*widths, activation=ACTIVATIONS[name])
    symmetry = NetworkSymmetry.of(module, scalings=scalings)
    assert len(symmetry.hidden_layers) == len(widths) - 2
    for seed in range(2):
        rng = np.random.RandomState(seed)
        w = rng.standard_normal(symmetry.n_params)
        copy = planted(symmetry, w, rng)
        X = rng.standard_normal((7, 3))
        assert np.linalg.norm(copy - w) > 0.1
        np.testing.assert_allclose(outputs(module, copy, X), outputs(module, w, X))
        alignment = symmetry.align(copy, w)
        np.testing.assert_allclose(alignment.weights, w, rtol=0, atol=1e-12)
        assert alignment.distance <= 1e-12
        assert alignment.is_orthogonal or (scalings and name in {"relu", "id"})


@pytest.mark.parametrize(
    "module",
    [
        mlp(2, 4, 4, 1, activation=nn.ReLU),
        mlp(2, 4, 4, 4, 2, activation=nn.Identity),
        mlp(2, 5, 1, tail=[nn.Sigmoid()]),
        DFCNN(n_features=2, hidden_widths=(4, 3, 5)).double(),
        DFCNN(n_features=2, hidden_widths=(4,), train_output=True).double(),
    ],
)
def test_copies_have_the_same_function_and_are_never_farther(module):
    symmetry = NetworkSymmetry.of(module)
    for seed in range(5):
        rng = np.random.RandomState(seed)
        w, reference = rng.standard_normal((2, symmetry.n_params))
        X = rng.standard_normal((7, 2))
        alignment = symmetry.align(w, reference)
        distance = np.linalg.norm(alignment.weights - reference)
        assert alignment.distance == distance < np.linalg.norm(w - reference)
        np.testing.assert_allclose(
            outputs(module, alignment.weights, X), outputs(module, w, X), atol=1e-9
        )
        np.testing.assert_array_equal(alignment.apply(w), alignment.weights)
        assert sorted(alignment.source) == list(range(symmetry.n_params))
        exact = symmetry.without_scalings().align(w, reference)
        assert exact.is_orthogonal
        assert exact.distance <= np.linalg.norm(w - reference)


def test_scales_that_settle_linearly_still_come_close():
    """From a copy with noise, coordinate descent ends at a minimum over all scales."""
    symmetry = NetworkSymmetry.of(mlp(3, 4, 4, 4, 1, activation=nn.ReLU))
    rng = np.random.RandomState(0)
    w = rng.standard_normal(symmetry.n_params)
    copy = planted(symmetry, w, rng) + 1e-3 * rng.standard_normal(symmetry.n_params)
    alignment = symmetry.align(copy, w)
    for layer in symmetry.hidden_layers:
        # Stationary: the derivative of |c a - a'|^2 + |b / c - b'|^2 at c = 1.
        a, b = alignment.weights[layer.incoming], alignment.weights[layer.outgoing]
        gain = np.sum(a * (a - w[layer.incoming]), axis=1)
        loss = np.sum(b * (b - w[layer.outgoing]), axis=1)
        np.testing.assert_allclose(gain, loss, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Identity])
def test_no_sweep_increases_the_distance(activation, monkeypatch):
    symmetry = NetworkSymmetry.of(mlp(2, 4, 5, 1, activation=activation))
    w, reference = np.random.RandomState(0).standard_normal((2, symmetry.n_params))
    sweep, changes = NetworkSymmetry._sweep, []

    def recorded(self, start, *args, **kwargs):
        end = sweep(self, start, *args, **kwargs)
        before, after = (np.linalg.norm(w[s] * f - reference) for s, f in (start, end))
        if not kwargs:  # the start by incoming weights is no descent
            changes.append(after / before)
        return end

    monkeypatch.setattr(NetworkSymmetry, "_sweep", recorded)
    symmetry.align(w, reference)
    assert len(changes) >= 7  # six starts and the best one again
    assert max(changes) <= 1 + 1e-14


@pytest.mark.parametrize("name", ["tanh", "gelu"])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_one_hidden_layer_is_exact(name, width):
    symmetry = NetworkSymmetry.of(mlp(2, width, 2, activation=ACTIVATIONS[name]))
    (layer,) = symmetry.hidden_layers
    rng = np.random.RandomState(width)
    w, reference = rng.standard_normal((2, symmetry.n_params))
    choices = [-1, 1] if layer.is_odd else [1]
    signs = list(itertools.product(choices, repeat=width))
    copies = []
    for order in itertools.permutations(range(width)):
        for sign in signs:
            copy = w.copy()
            for places in (layer.incoming, layer.outgoing):
                copy[places] = w[places[list(order)]] * np.array(sign)[:, None]
            copies.append(copy)
    distances = np.linalg.norm(np.array(copies) - reference, axis=1)
    alignment = symmetry.align(w, reference)
    np.testing.assert_array_equal(alignment.weights, copies[distances.argmin()])
    assert alignment.distance == pytest.approx(distances.min(), rel=1e-14)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_scales_are_exact_minima(activation):
    """One unit: against the roots of the quartic, over many orders of magnitude."""
    symmetry = NetworkSymmetry.of(mlp(2, 1, 2, activation=activation, bias=False))
    rng = np.random.RandomState(0)
    for _ in range(300):
        sizes = 10.0 ** rng.uniform(-3, 3, size=(2, 2)).repeat(2, axis=1)
        w, reference = sizes * rng.standard_normal((2, 4))
        a, b = w[:2], w[2:]
        P, Q = a @ reference[:2], b @ reference[2:]
        roots = np.roots([a @ a, -P, 0, Q, -b @ b])
        c = roots.real[np.abs(roots.imag) <= 1e-6 * np.abs(roots)]
        c = c[c > 0] if activation is nn.ReLU else c
        copies = np.hstack([np.outer(c, a), np.outer(1 / c, b)])
        best = np.linalg.norm(copies - reference, axis=1).min()
        assert symmetry.align(w, reference).distance == pytest.approx(best, rel=1e-7)


def test_dead_units_keep_their_scale_or_take_the_attained_one():
    symmetry = NetworkSymmetry.of(mlp(1, 1, 1, activation=nn.ReLU, bias=False))
    reference = [3.0, 5.0]
    for w, expected in [
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 0.0], [3.0, 0.0]),
        ([0.0, 1.0], [0.0, 5.0]),
        ([-1.0, 0.0], [-1.0, 0.0]),
        ([0.0, -1.0], [0.0, -1.0]),
    ]:
        alignment = symmetry.align(w, reference)
        np.testing.assert_allclose(alignment.weights, expected, rtol=1e-15)
        assert np.all(alignment.factor != 0)
        assert np.isfinite(alignment.factor).all()


# What is known of modules --------------------------------------------------------


def widths_of(symmetry):
    return [len(layer.incoming) for layer in symmetry.hidden_layers]


def test_fixed_output_weights_hold_the_last_layer():
    def symmetry(*widths, **params):
        net = DFCNN(n_features=2, hidden_widths=widths, **params)
        return NetworkSymmetry.of(net)

    assert widths_of(symmetry(4)) == []
    assert widths_of(symmetry(4, 3)) == [4]
    assert widths_of(symmetry(4, 3, 5)) == [4, 3]
    assert widths_of(symmetry(4, 3, train_output=True, bias=True)) == [4, 3]
    assert widths_of(symmetry(train_output=True)) == []
    w, reference = np.arange(8.0), np.ones(8)
    np.testing.assert_array_equal(symmetry(4).align(w, reference).weights, w)


def test_places_of_the_weights():
    net = DFCNN(n_features=2, hidden_widths=(3,), bias=True, train_output=True)
    (layer,) = NetworkSymmetry.of(net).hidden_layers
    np.testing.assert_array_equal(layer.incoming, [[0, 1, 6], [2, 3, 7], [4, 5, 8]])
    np.testing.assert_array_equal(layer.outgoing, [[9], [10], [11]])


def test_frozen_neighbours_hold_a_layer():
    for frozen, expected in [
        ("0.weight", [5, 6]),
        ("0.bias", [5, 6]),
        ("2.weight", [6]),
        ("2.bias", [4, 6]),
        ("6.bias", [4, 5, 6]),
    ]:
        module = mlp(3, 4, 5, 6, 1)
        module.get_parameter(frozen).requires_grad_(False)
        symmetry = NetworkSymmetry.of(module)
        assert widths_of(symmetry) == expected
        rng = np.random.RandomState(0)
        w = rng.standard_normal(symmetry.n_params)
        copy, X = planted(symmetry, w, rng), rng.standard_normal((4, 3))
        assert np.linalg.norm(copy - w) > 0.1
        np.testing.assert_allclose(outputs(module, copy, X), outputs(module, w, X))


FLAGS = [
    ([nn.Tanh()], (True, False)),
    ([nn.Softsign()], (True, False)),
    ([nn.Tanhshrink()], (True, False)),
    ([nn.Softshrink(0.3)], (True, False)),
    ([nn.Hardshrink(0.3)], (True, False)),
    ([nn.Hardtanh(-2.0, 2.0)], (True, False)),
    ([nn.Hardtanh(-1.0, 2.0)], (False, False)),
    ([nn.ReLU()], (False, True)),
    ([nn.LeakyReLU(0.2)], (False, True)),
    ([nn.RReLU()], (False, True)),
    ([], (True, True)),
    ([nn.Identity(), nn.Dropout(), nn.Flatten(), nn.AlphaDropout()], (True, True)),
    ([nn.Tanh(), nn.Dropout()], (True, False)),
    ([nn.Sequential(nn.Tanh(), nn.ReLU())], (False, False)),
    *(
        ([activation()], (False, False))
        for activation in (
            nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.ELU, nn.SELU,
            nn.CELU, nn.Mish, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid,
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("between", "flags"), FLAGS)
def test_flags_of_activations(between, flags):
    module = nn.Sequential(nn.Linear(2, 3), *between, nn.Linear(3, 1)).double().eval()
    (layer,) = NetworkSymmetry.of(module).hidden_layers
    assert (layer.is_odd, layer.is_homogeneous) == flags
    z = torch.linspace(-3, 3, 49, dtype=torch.float64)[:, None]
    s = nn.Sequential(*between).eval()
    assert torch.allclose(s(-z), -s(z)) == flags[0]
    assert torch.allclose(s(4 * z), 4 * s(z)) == flags[1]
    (layer,) = NetworkSymmetry.of(module, scalings=False).hidden_layers
    assert (layer.is_odd, layer.is_homogeneous) == (flags[0], False)


class _Squeeze(nn.Module):
    def forward(self, X):
        return X.squeeze(-1)


class _Plain(nn.Sequential):
    """Names its layers and computes nothing else."""


class _Residual(nn.Sequential):
    def forward(self, X):
        return X + super().forward(X)


class _NoisyLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("module", "widths"),
    [
        (nn.Linear(3, 2), []),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), []),
        (mlp(2, 3, 2, tail=[nn.LogSoftmax(dim=1)]), [3]),
        (mlp(2, 3, 1, tail=[_Squeeze()]), [3]),
        (nn.Sequential(nn.Softmax(1), mlp(2, 3, 4, 1), nn.Sigmoid()), [3, 4]),
        (_Plain(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), [3]),
        (nn.Sequential(), []),
    ],
)
def test_known_modules(module, widths):
    assert widths_of(NetworkSymmetry.of(module)) == widths


def test_an_activation_used_twice_counts_twice():
    tanh = nn.Tanh()
    module = nn.Sequential(
        nn.Linear(2, 3), tanh, nn.Linear(3, 4), tanh, nn.Linear(4, 1)
    )
    layers = NetworkSymmetry.of(module).hidden_layers
    assert [layer.is_homogeneous for layer in layers] == [False, False]


def hidden(*leaves):
    return nn.Sequential(nn.Linear(2, 3), *leaves, nn.Linear(3, 1))


def tied():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def hooked():
    module = hidden(nn.Tanh())
    module[0].register_forward_hook(lambda m, x, y: y.cumsum(-1))
    return module


def patched():
    module = hidden(nn.Tanh())
    module.forward = lambda X: X
    return module


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("net", "Got 'net' instead"),
        (nn.Tanh(), "Got Tanh instead"),
        (_Squeeze(), "Got _Squeeze instead"),
        (nn.Conv1d(2, 3, 1), "Got Conv1d instead"),
        (hidden(nn.PReLU()), "Got PReLU instead"),
        (hidden(nn.BatchNorm1d(3)), "Got BatchNorm1d instead"),
        (hidden(nn.BatchNorm1d(3, affine=False)), "Got BatchNorm1d between Linear"),
        (hidden(nn.Softmax(1)), "Got Softmax between Linear layers instead"),
        (hidden(_Squeeze()), "Got _Squeeze between Linear layers instead"),
        (hidden(type("MyTanh", (nn.Tanh,), {})()), "Got MyTanh between"),
        (hidden(_Residual(nn.Linear(3, 3))), "Got _Residual instead"),
        (hidden(DFCNN(n_features=3, n_outputs=3)), "Got DFCNN instead"),
        (hidden(_NoisyLinear(3, 3)), "Got _NoisyLinear instead"),
        (hidden(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), "Linear inst"),
        (hidden(nn.Flatten(), nn.Linear(6, 3)), "out_features=3.*in_features=6"),
        (type("Mine", (DFCNN,), {"forward": lambda self, X: X})(), "Got Mine instead"),
        (DFCNN(activation=nn.PReLU), "Got PReLU instead"),
        (tied(), "Got shared parameters instead"),
        (hooked(), "Got Linear with a hook"),
        (patched(), "Got Sequential with a hook or a forward of its own"),
    ],
)
def test_unknown_modules_are_refused(module, found):
    with pytest.raises(ValueError, match=f"of known symmetries.*{found}.*by hand"):
        NetworkSymmetry.of(module)


# Maps of directions and subspaces ----------------------------------------------------


def loss_hessian(module, w, X, y):
    def loss(w):
        return ((outputs(module, w, X) - y) ** 2).sum()

    return hessian(loss)(torch.as_tensor(w)).numpy()


def kernel_of(matrix, is_complement):
    values, vectors = np.linalg.eigh(matrix)
    null = np.abs(values) <= 1e-9 * np.abs(values).max()
    return Subspace(vectors[:, null != is_complement], is_complement)


@pytest.mark.parametrize("is_complement", [False, True])
@pytest.mark.parametrize(
    ("widths", "activation"), [((2, 4, 1), nn.Tanh), ((2, 3, 3, 1), nn.ReLU)]
)
def test_kernels_move_with_the_weights(widths, activation, is_complement):
    module = mlp(*widths, activation=activation)
    symmetry = NetworkSymmetry.of(module)
    rng = np.random.RandomState(1)
    w, reference = rng.standard_normal((2, symmetry.n_params))
    X = torch.as_tensor(rng.standard_normal((5, 2)))
    y = outputs(module, w, X)  # w interpolates: H = 2 J'J
    kernel = kernel_of(loss_hessian(module, w, X, y), is_complement)
    alignment = symmetry.align(w, reference)
    assert alignment.is_orthogonal == (activation is nn.Tanh)
    expected = kernel_of(loss_hessian(module, alignment.weights, X, y), is_complement)
    image = alignment.apply_to_subspace(kernel)
    assert image.is_complement == is_complement
    k = kernel.basis.shape[1]
    np.testing.assert_allclose(image.basis.T @ image.basis, np.eye(k), atol=1e-12)
    assert image.dim == expected.dim == kernel.dim > 0
    assert image.contains(expected)
    assert expected.contains(image)
    v = kernel.project(rng.standard_normal((3, symmetry.n_params)))
    assert np.all(image.complement_norm(alignment.apply(v)) <= 1e-10)


@pytest.mark.parametrize("k", [0, 1, 9])
def test_trivial_subspaces(k):
    symmetry = NetworkSymmetry.of(mlp(1, 3, 1, activation=nn.ReLU, bias=False))
    assert symmetry.n_params == 6
    w, reference = np.random.RandomState(0).standard_normal((2, 6))
    alignment = symmetry.align(w, reference)
    for is_complement in (False, True):
        kernel = Subspace(np.eye(6)[:, :k], is_complement)
        assert alignment.apply_to_subspace(kernel).dim == kernel.dim


def test_apply_is_linear_in_the_last_axis():
    symmetry = NetworkSymmetry.of(mlp(2, 3, 3, 1, activation=nn.Identity))
    rng = np.random.RandomState(0)
    w, reference = rng.standard_normal((2, symmetry.n_params))
    alignment = symmetry.align(w, reference)
    T = alignment.apply(np.eye(symmetry.n_params)).T
    v = rng.standard_normal((2, 4, symmetry.n_params))
    np.testing.assert_allclose(alignment.apply(v), v @ T.T)
    assert abs(np.linalg.det(T)) > 0
    with pytest.raises(ValueError, match="'v' parameter of apply.*shape \\(3,\\)"):
        alignment.apply(np.zeros(3))


# Determinism and bad input --------------------------------------------------------


def test_alignment_is_deterministic_and_leaves_global_state():
    symmetry = NetworkSymmetry.of(mlp(2, 5, 5, 1))
    w, reference = np.random.RandomState(0).standard_normal((2, symmetry.n_params))
    inputs = w.copy(), reference.copy()
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        states = np.random.get_state()[1].copy(), torch.get_rng_state()
        results.append(symmetry.align(w, reference))
        np.testing.assert_array_equal(np.random.get_state()[1], states[0])
        assert torch.equal(torch.get_rng_state(), states[1])
    for name in ("weights", "source", "factor"):
        np.testing.assert_array_equal(*(getattr(r, name) for r in results))
    np.testing.assert_array_equal((w, reference), inputs)


def test_a_point_is_aligned_to_itself_by_the_identity():
    symmetry = NetworkSymmetry.of(mlp(2, 5, 5, 1, activation=nn.ReLU))
    for w in (np.zeros(symmetry.n_params), np.ones(symmetry.n_params)):
        alignment = symmetry.align(w, w)
        assert alignment.distance == 0
        np.testing.assert_array_equal(alignment.source, np.arange(symmetry.n_params))
        np.testing.assert_array_equal(alignment.factor, 1)


def test_align_refuses_bad_weights():
    symmetry = NetworkSymmetry.of(mlp(1, 2, 1))
    w = np.ones(7)
    with pytest.raises(
        ValueError, match=r"'weights' parameter of align.*\(7,\).*\(6,\)"
    ):
        symmetry.align(w[:6], w)
    with pytest.raises(ValueError, match="'reference' parameter.*shape \\(1, 7\\)"):
        symmetry.align(w, w[None])
    with pytest.raises(ValueError, match="'weights' parameter.*2 NaN or infinite"):
        symmetry.align([np.nan, np.inf, 1, 1, 1, 1, 1], w)


def test_layers_stated_by_hand_are_checked():
    layer = HiddenLayer(np.array([[0], [1]]), np.array([[2], [3]]))
    assert NetworkSymmetry(4, (layer,)).align([1, 2, 3, 4], [2, 1, 4, 3]).distance == 0
    for places in ([[2], [2]], [[2], [4]], [[2]], [2, 3], [[0], [3]], [[-1], [2]]):
        wrong = replace(layer, outgoing=np.array(places))
        with pytest.raises(ValueError, match="'hidden_layers' parameter.*Got places"):
            NetworkSymmetry(4, (wrong,))
