"""Every closed form of the generators against autograd, pinv and finite differences."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from sksetsens.datasets import (
    LinearNetwork,
    make_dead_feature,
    make_degenerate_product,
    make_isolated_minimum,
    make_saddle,
    make_toy_network,
    make_underdetermined_linear,
)

torch.set_num_threads(1)

MAKERS = {
    "toy": make_toy_network,
    "saddle": make_saddle,
    "product": partial(make_degenerate_product, random_state=0),
    "underdetermined": partial(make_underdetermined_linear, random_state=0),
    "dead": partial(make_dead_feature, random_state=0),
    "isolated": partial(make_isolated_minimum, random_state=0),
}
# Closed forms and autograd differ by rounding of float64 sums of some tens of terms.
ATOL = 1e-12
# Singular values of H below this share of the largest are its exact zeros in rounding.
RCOND = 1e-10


@pytest.fixture(params=MAKERS, ids=str)
def data(request):
    return MAKERS[request.param]()


def _module(data):
    if data.module is LinearNetwork:
        return LinearNetwork(data.X.shape[1]).double()
    return data.module().double()


def _loss(data, module, X, w):
    """The objective, by the Bunch's own module and criterion, at flat weights."""
    parameters, start = {}, 0
    for name, parameter in module.named_parameters():
        size = parameter.numel()
        parameters[name] = w[start : start + size].reshape(parameter.shape)
        start += size
    outputs = torch.func.functional_call(module, parameters, (X,))
    loss = data.criterion()(outputs, torch.from_numpy(data.y)[:, None])
    return loss + data.get("weight_decay", 0.0) / 2 * w @ w


def _tensors(X, w):
    return tuple(torch.as_tensor(values, dtype=torch.float64) for values in (X, w))


def _gradient(data, X, w):
    X, w = _tensors(X, w)
    return torch.func.grad(partial(_loss, data, _module(data)), 1)(X, w).numpy()


def _derivatives(data, w):
    """H and B at (data.X, w) by autograd."""
    X, w = _tensors(data.X, w)
    R = torch.func.grad(partial(_loss, data, _module(data)), 1)
    B = torch.func.jacrev(R, 0)(X, w).reshape(len(w), -1)
    return torch.func.jacrev(R, 1)(X, w).numpy(), B.numpy()


def _pinv_shift(H, B, dX):
    return -np.linalg.pinv(H, rcond=RCOND, hermitian=True) @ B @ np.ravel(dX)


def _modulus(H, B):
    return np.linalg.norm(np.linalg.pinv(H, rcond=RCOND, hermitian=True) @ B, ord=2)


def _second_order(data, w, dX, shift):
    """|R(x + t dx, w + t shift)| at t = 1e-3 over that at t = 1e-4."""
    small, large = (
        np.linalg.norm(_gradient(data, data.X + t * dX, w + t * shift))
        for t in (1e-4, 1e-3)
    )
    return large / small


# --- all generators ------------------------------------------------------------------


def test_contents(data):
    n_samples = len(data.X)
    assert data.X.dtype == data.y.dtype == data.weights.dtype == np.float64
    assert data.X.ndim == 2
    assert data.y.shape == (n_samples,)
    np.testing.assert_array_equal(data.X + data.dX, data.X_perturbed)
    assert sum(p.numel() for p in _module(data).parameters()) == len(data.weights)
    assert _module(data)(torch.from_numpy(data.X)).shape == (n_samples, 1)


def test_the_gradient_vanishes_at_the_weights(data):
    assert np.linalg.norm(_gradient(data, data.X, data.weights)) < ATOL


def test_derivatives_against_autograd(data):
    H, B = _derivatives(data, data.weights)
    np.testing.assert_allclose(data.H, H, rtol=0, atol=ATOL)
    if "B" in data:
        np.testing.assert_allclose(data.B, B, rtol=0, atol=ATOL)


def test_kernel_dim(data):
    spectrum = np.abs(np.linalg.eigvalsh(data.H))
    # H = 0 at the degenerate product: an absolute floor beside the relative one.
    cut = RCOND * max(spectrum.max(), 1.0)
    assert data.kernel_dim == np.sum(spectrum < cut)


def test_pickle(data):
    copy = pickle.loads(pickle.dumps(data))
    assert copy.keys() == data.keys()
    np.testing.assert_array_equal(copy.X, data.X)


@pytest.mark.parametrize("name", ["product", "underdetermined", "dead", "isolated"])
def test_random_state(name):
    maker = MAKERS[name].func
    np.testing.assert_array_equal(maker(random_state=3).X, maker(random_state=3).X)
    assert not np.array_equal(maker(random_state=3).X, maker(random_state=4).X)


@pytest.mark.parametrize("name", ["underdetermined", "dead", "isolated"])
def test_perturbation_size_is_per_row(name):
    data = MAKERS[name](perturbation_size=0.3)
    for key in {"dX", "dX_dead", "dX_live"} & data.keys():
        np.testing.assert_allclose(np.linalg.norm(data[key], axis=1), 0.3, rtol=1e-12)


# --- toy network ---------------------------------------------------------------------


def test_toy_network_reference_values():
    """The paper's table, recomputed (shared numbers of the method's page)."""
    data = make_toy_network()
    np.testing.assert_array_equal(data.H, [[20, 10], [10, 5]])
    np.testing.assert_array_equal(data.B, [[4, 8], [2, 4]])
    np.testing.assert_allclose(data.shift, [0.16, 0.08], rtol=1e-14)
    np.testing.assert_allclose(data.dX[:, 0], [-0.2, -0.4], rtol=1e-14)
    assert (data.product, data.product_perturbed) == (2.0, 2.5)
    assert data.shift_norm == pytest.approx(0.178885, abs=5e-7)
    assert data.lipschitz_modulus == pytest.approx(0.4, rel=1e-14)
    assert data.loss_before == pytest.approx(0.4, rel=1e-12)
    # (5/2) (2 - 0.8 * 1.16 * 2.08)^2; the paper prints 0.012.
    assert data.loss_predicted == pytest.approx(0.012166144, rel=1e-12)
    assert data.true_distance == pytest.approx(0.215027, abs=5e-7)
    np.testing.assert_allclose(data.true_nearest, [1.1873, 2.1056], atol=5e-5)


@pytest.mark.parametrize("size", [0.01, 0.2, 0.7])
def test_toy_network_against_pinv_and_search(size):
    data = make_toy_network(perturbation_size=size)
    H, B = _derivatives(data, data.weights)
    np.testing.assert_allclose(data.shift, _pinv_shift(H, B, data.dX), atol=ATOL)
    assert data.lipschitz_modulus == pytest.approx(_modulus(H, B), rel=1e-12)
    for w, loss in [
        (data.weights, data.loss_before),
        (data.weights + data.shift, data.loss_predicted),
    ]:
        X, w = _tensors(data.X_perturbed, w)
        assert _loss(data, _module(data), X, w).item() == pytest.approx(loss, rel=1e-12)

    def squared_distance(w1):
        return (w1 - 1) ** 2 + (data.product_perturbed / w1 - 2) ** 2

    found = minimize_scalar(
        squared_distance, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-10}
    )
    # The search stops at 1e-10 in w1, which enters the distance quadratically.
    assert data.true_distance == pytest.approx(np.sqrt(found.fun), rel=1e-10)
    assert np.prod(data.true_nearest) == pytest.approx(data.product_perturbed, 1e-12)


def test_toy_network_shift_is_first_order():
    data = make_toy_network()
    assert 80 < _second_order(data, data.weights, data.dX, data.shift) < 120


def test_toy_network_products_are_the_solution_sets():
    data = make_toy_network()
    for w1 in (-3.0, 0.5, 1.0):
        for X, product in [
            (data.X, data.product),
            (data.X_perturbed, data.product_perturbed),
        ]:
            assert np.abs(_gradient(data, X, [w1, product / w1])).max() < ATOL


def test_toy_trainings_land_on_both_branches():
    data = make_toy_network()
    X, y = torch.from_numpy(data.X), torch.from_numpy(data.y)[:, None]
    signs = set()
    for seed in range(8):
        torch.manual_seed(seed)
        module = _module(data)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(500):
            optimizer.zero_grad()
            data.criterion()(module(X), y).backward()
            optimizer.step()
        # 500 steps of 0.05 are far more than the way; Adam still jitters a little.
        assert (module.w1 * module.w2).item() == pytest.approx(2, abs=1e-2)
        signs.add(np.sign(module.w1.item()))
    assert signs == {-1.0, 1.0}


# --- degenerate problems -------------------------------------------------------------


def test_saddle():
    data = make_saddle()
    np.testing.assert_allclose(np.linalg.eigvalsh(data.H), data.eigenvalues, atol=ATOL)
    assert data.eigenvalues[0] < 0 < data.eigenvalues[1]
    assert data.lipschitz_modulus == _modulus(data.H, data.B)
    np.testing.assert_array_equal(_gradient(data, data.X_perturbed, data.shift), 0)


def test_degenerate_product():
    data = make_degenerate_product(perturbation_size=0.02, random_state=0)
    root = np.sqrt(-data.product_perturbed)
    nearest = np.array([root, -root])
    assert np.abs(_gradient(data, data.X_perturbed, nearest)).max() < ATOL
    X, w = _tensors(data.X_perturbed, nearest)
    assert _loss(data, _module(data), X, w).item() < ATOL
    assert np.linalg.norm(nearest) == pytest.approx(data.true_distance, rel=1e-12)
    # Along the hyperbola w1 w2 = -c no point is nearer.
    t = np.geomspace(0.01, 10, 2001)
    assert np.hypot(t, root**2 / t).min() >= data.true_distance * (1 - 1e-12)
    assert data.formula_modulus == _modulus(data.H, data.B) == 0
    # The true answer moves like a square root: no modulus bounds it.
    finer = make_degenerate_product(perturbation_size=0.0002, random_state=0)
    assert data.true_distance / finer.true_distance == pytest.approx(10, rel=1e-12)


# --- underdetermined linear model ----------------------------------------------------


def test_underdetermined_closed_forms_on_the_whole_set():
    data = make_underdetermined_linear(random_state=1)
    rng = np.random.default_rng(0)
    kernel = np.linalg.svd(data.X)[2][len(data.X) :]
    for scale in (0.0, 1.0, 5.0):
        w = data.weights + scale * rng.standard_normal(data.kernel_dim) @ kernel
        assert data.distance(w) < ATOL
        assert np.linalg.norm(_gradient(data, data.X, w)) < ATOL
        H, B = _derivatives(data, w)
        assert data.lipschitz_modulus(w) == pytest.approx(_modulus(H, B), rel=1e-9)
        shift = data.shift(w, data.dX)
        # pinv of H squares the condition of X.
        np.testing.assert_allclose(shift, _pinv_shift(H, B, data.dX), atol=1e-10)
        assert 80 < _second_order(data, w, data.dX, shift) < 120


def test_underdetermined_distance_against_pinv():
    data = make_underdetermined_linear(random_state=1)
    w = np.random.default_rng(0).standard_normal(9)
    for X in (data.X, data.X_perturbed):
        nearest = w - np.linalg.pinv(X) @ (X @ w - data.y)
        expected = np.linalg.norm(nearest - w)
        assert data.distance(w, X) == pytest.approx(expected, rel=1e-12)
    assert data.distance(w) == data.distance(w, data.X)


def test_underdetermined_modulus_bounds_and_is_attained():
    data = make_underdetermined_linear(random_state=1)
    modulus = data.lipschitz_modulus(data.weights)
    u, s, _ = np.linalg.svd(data.X)
    # The worst dx turns w into the left singular vector of the smallest value.
    worst = np.outer(u[:, -1], data.weights) / np.linalg.norm(data.weights)
    for t, rel in [(1e-4, 1e-3), (1e-6, 1e-5)]:
        moved = data.distance(data.weights, data.X + t * worst)
        assert moved / t == pytest.approx(modulus, rel=rel * 10 / s[-1])
    ratio = data.distance(data.weights, data.X + 1e-6 * data.dX)
    assert ratio <= modulus * 1e-6 * np.linalg.norm(data.dX)


# --- dead feature --------------------------------------------------------------------


def test_dead_perturbation_leaves_the_range_and_live_does_not():
    data = make_dead_feature(random_state=0)
    H, B = _derivatives(data, data.weights)
    for dX, inside in [(data.dX_live, True), (data.dX_dead, False)]:
        move = B @ dX.ravel()
        rest = move + H @ _pinv_shift(H, B, dX)
        assert (np.linalg.norm(rest) < 1e-12 * np.linalg.norm(move)) == inside
    assert not data.X[:, data.dead_feature].any()
    assert not data.dX_live[:, data.dead_feature].any()
    assert not np.delete(data.dX_dead, data.dead_feature, axis=1).any()


def test_dead_feature_runs_away():
    """However small the dead column, its weight moves by a fixed amount or more."""
    data = make_dead_feature(random_state=0)
    for t in (1e-2, 1e-4):
        solution = np.linalg.lstsq(data.X + t * data.dX_dead, data.y, rcond=None)[0]
        assert np.linalg.norm(solution - data.weights) > 1


def test_live_shift():
    data = make_dead_feature(random_state=0)
    np.testing.assert_array_equal(data.X_perturbed, data.X_perturbed_live)
    H, B = _derivatives(data, data.weights)
    shift = data.shift(data.dX_live)
    np.testing.assert_allclose(shift, _pinv_shift(H, B, data.dX_live), atol=ATOL)
    assert shift[data.dead_feature] == 0
    assert 80 < _second_order(data, data.weights, data.dX_live, shift) < 120
    step = 1e-6
    X = data.X + step * data.dX_live
    moved = np.linalg.lstsq(X, data.y, rcond=None)[0] - data.weights
    # One-sided difference: an error of order step.
    np.testing.assert_allclose(moved / step, shift, atol=1e-5)


def test_the_weights_are_the_shortest_solution():
    data = make_dead_feature(random_state=0)
    expected = np.linalg.pinv(data.X) @ data.y
    np.testing.assert_allclose(data.weights, expected, rtol=0, atol=ATOL)


def test_shift_of_a_dead_perturbation_is_an_error():
    data = make_dead_feature(random_state=0)
    with pytest.raises(ValueError, match=r"'dX' parameter of shift must be 0 in the"):
        data.shift(data.dX_dead)


# --- isolated minimum ----------------------------------------------------------------


def test_isolated_minimum():
    data = make_isolated_minimum(random_state=0)
    H, B = _derivatives(data, data.weights)
    assert np.linalg.eigvalsh(H).min() >= data.weight_decay
    shift = data.shift(data.dX)
    expected = -np.linalg.inv(H) @ B @ data.dX.ravel()
    np.testing.assert_allclose(shift, expected, rtol=0, atol=ATOL)
    assert data.lipschitz_modulus == pytest.approx(_modulus(H, B), rel=1e-12)
    assert 80 < _second_order(data, data.weights, data.dX, shift) < 120
    moved = _gradient(data, data.X_perturbed, data.weights_perturbed)
    assert np.linalg.norm(moved) < ATOL


def test_weight_decay_is_the_optimizers():
    data = make_isolated_minimum(random_state=0)
    module = _module(data)
    sgd = torch.optim.SGD(module.parameters(), lr=1.0, weight_decay=data.weight_decay)
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(data.weights))
    outputs = module(torch.from_numpy(data.X))
    data.criterion()(outputs, torch.from_numpy(data.y)[:, None]).backward()
    sgd.step()
    weights = module.linear.weight.detach().numpy()[0]
    np.testing.assert_allclose(weights, data.weights, rtol=0, atol=ATOL)


# --- parameters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "kwargs", "match"),
    [
        (make_toy_network, {"perturbation_size": 1}, r"in \(0, 1\). Got 1 instead"),
        (make_saddle, {"perturbation_size": 0}, r"in \(0, 1\). Got 0 instead"),
        (make_degenerate_product, {"n_samples": 0}, r"'n_samples' .* Got 0 instead"),
        (make_degenerate_product, {"perturbation_size": -1}, r"Got -1 instead"),
        (make_underdetermined_linear, {"n_samples": 2.5}, r"'n_samples' .* Got 2\.5"),
        (make_underdetermined_linear, {"n_features": 5}, r"'n_features' .* least 6"),
        (make_underdetermined_linear, {"perturbation_size": "big"}, r"Got 'big'"),
        (make_dead_feature, {"n_features": 1}, r"of make_dead_feature .* least 2"),
        (make_dead_feature, {"n_samples": 5}, r"'n_samples' .* at least 6. Got 5"),
        (make_dead_feature, {"noise": 0.0}, r"'noise' .* Got 0\.0 instead"),
        (make_isolated_minimum, {"weight_decay": 0}, r"'weight_decay' .* Got 0"),
        (make_isolated_minimum, {"n_features": True}, r"'n_features' .* Got True"),
        (make_isolated_minimum, {"noise": np.nan}, r"'noise' .* Got nan"),
    ],
)
def test_invalid_parameters(maker, kwargs, match):
    with pytest.raises(ValueError, match=match):
        maker(**kwargs)
