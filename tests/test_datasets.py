"""Every closed form of the generators against autograd, pinv and finite differences."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.utils import Bunch

from sksetsens.datasets import (
    LinearNetwork,
    MatrixFactorisation,
    ProductNetwork,
    make_dead_feature,
    make_degenerate_product,
    make_fold,
    make_isolated_minimum,
    make_matrix_factorisation,
    make_product,
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
    "factors": partial(make_product, random_state=0),
    "matrices": partial(make_matrix_factorisation, random_state=0),
    "fold": partial(make_fold, random_state=0),
}
RANDOM = [name for name, maker in MAKERS.items() if isinstance(maker, partial)]
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
    if data.module is MatrixFactorisation:
        sizes = data.matrix.shape
        return MatrixFactorisation(*sizes, rank=data.rank).double()
    if data.module is ProductNetwork:
        return ProductNetwork(data.n_factors).double()
    keys = {"coupling"} & data.keys()
    return data.module(**{key: data[key] for key in keys}).double()


def _targets(data):
    """As the criterion gets them: of the shape of the outputs."""
    return torch.from_numpy(data.y.reshape(len(data.y), -1))


def _loss(data, module, X, w):
    """The objective, by the Bunch's own module and criterion, at flat weights."""
    parameters, start = {}, 0
    for name, parameter in module.named_parameters():
        size = parameter.numel()
        parameters[name] = w[start : start + size].reshape(parameter.shape)
        start += size
    outputs = torch.func.functional_call(module, parameters, (X,))
    loss = data.criterion()(outputs, _targets(data))
    return loss + data.get("weight_decay", 0.0) / 2 * w @ w


def _tensors(X, w):
    return tuple(torch.as_tensor(values, dtype=torch.float64) for values in (X, w))


def _gradient(data, X, w):
    X, w = _tensors(X, w)
    return torch.func.grad(partial(_loss, data, _module(data)), 1)(X, w).numpy()


def _derivatives(data, w, X=None):
    """H and B at (X, w), by default of the Bunch's X, by autograd."""
    X, w = _tensors(data.X if X is None else X, w)
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
    assert data.X.dtype == data.y.dtype == data.weights.dtype == np.float64
    assert data.X.ndim == 2
    # A single output is a vector, as scikit-learn wants it.
    assert data.y.shape == (len(data.X),) or data.y.shape[1] > 1
    np.testing.assert_array_equal(data.X + data.dX, data.X_perturbed)
    assert sum(p.numel() for p in _module(data).parameters()) == len(data.weights)
    assert _module(data)(torch.from_numpy(data.X)).shape == _targets(data).shape


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


@pytest.mark.parametrize("name", RANDOM)
def test_random_state(name):
    maker = MAKERS[name].func
    np.testing.assert_array_equal(maker(random_state=3).X, maker(random_state=3).X)
    assert not np.array_equal(maker(random_state=3).X, maker(random_state=4).X)


@pytest.mark.parametrize(
    "name", ["underdetermined", "dead", "isolated", "factors", "matrices"]
)
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


# --- product of scalars --------------------------------------------------------------


def _random_start_on_the_product(rng, n_factors, product):
    """Weights of either sign with this product, other than the generator's."""
    w = rng.uniform(0.5, 2.0, n_factors) * rng.choice([-1.0, 1.0], n_factors)
    w[0] = product / np.prod(w[1:])
    return w


@pytest.mark.parametrize("n_factors", [2, 3, 4, 6])
def test_product_closed_forms_on_the_whole_set(n_factors):
    data = make_product(n_factors, product=1.5, random_state=1)
    rng = np.random.default_rng(0)
    assert np.prod(data.weights) == pytest.approx(1.5, rel=1e-12)
    assert (data.weights > 0).all()
    assert data.kernel_dim == n_factors - 1
    others = [_random_start_on_the_product(rng, n_factors, 1.5) for _ in range(3)]
    for w in [data.weights, *others]:
        assert np.linalg.norm(_gradient(data, data.X, w)) < ATOL
        H, B = _derivatives(data, w)
        assert data.lipschitz_modulus(w) == pytest.approx(_modulus(H, B), rel=1e-10)
        shift = data.shift(w, data.dX)
        np.testing.assert_allclose(shift, _pinv_shift(H, B, data.dX), atol=ATOL)
        assert 80 < _second_order(data, w, data.dX, shift) < 120


def test_product_moves_as_told():
    data = make_product(4, random_state=1)
    w = data.weights.copy()
    w[0] *= data.product_perturbed / data.product
    assert np.linalg.norm(_gradient(data, data.X_perturbed, w)) < ATOL
    H, _ = _derivatives(data, w, data.X_perturbed)
    assert np.linalg.eigvalsh(H).min() > -ATOL


def test_two_factors_are_the_toy_network():
    toy, data = make_toy_network(), make_product(2, 2, random_state=0)
    data = Bunch(**data | {"X": toy.X, "y": toy.y})
    for ours, theirs in zip(
        _derivatives(data, toy.weights), (toy.H, toy.B), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=ATOL)


# --- product of matrices -------------------------------------------------------------


def _regauged(data, G):
    """Another element of the solution set: (W1 G, G^-1 W2)."""
    d, c = data.matrix.shape
    W1 = data.weights[: d * data.rank].reshape(d, data.rank)
    W2 = data.weights[d * data.rank :].reshape(data.rank, c)
    return np.concatenate([(W1 @ G).ravel(), np.linalg.solve(G, W2).ravel()])


@pytest.mark.parametrize(
    ("sizes", "rank"), [((8, 4, 3), 2), ((5, 5, 2), 2), ((7, 3, 4), 1), ((6, 3, 3), 3)]
)
def test_matrix_factorisation_on_the_whole_set(sizes, rank):
    data = make_matrix_factorisation(*sizes, rank=rank, random_state=1)
    assert data.kernel_dim == rank**2
    rng = np.random.default_rng(0)
    gauges = [np.eye(rank) + 0.3 * rng.standard_normal((rank, rank)) for _ in range(3)]
    for G in [np.eye(rank), *gauges]:
        w = _regauged(data, G)
        assert np.linalg.norm(_gradient(data, data.X, w)) < ATOL
        # The generator's weights are the shortest of the set.
        assert np.linalg.norm(w) >= np.linalg.norm(data.weights) * (1 - ATOL)
        H, B = _derivatives(data, w)
        spectrum = np.linalg.eigvalsh(H)
        assert np.sum(spectrum > RCOND * spectrum.max()) == len(w) - rank**2
        # pinv of H squares the condition of J.
        assert data.lipschitz_modulus(w) == pytest.approx(_modulus(H, B), rel=1e-9)
        shift = data.shift(w, data.dX)
        np.testing.assert_allclose(shift, _pinv_shift(H, B, data.dX), atol=1e-10)
        assert 80 < _second_order(data, w, data.dX, shift) < 120


def test_modulus_of_balanced_factors():
    """In M's singular bases a shift E of M costs sum E_ij^2 / (s_i + s_j).

    With ``W1 = U sqrt(S)`` and ``W2 = sqrt(S) V'`` the shortest (A, B) with
    ``A W2 + W1 B = E`` is ``A = Z W2'``, ``B = W1' Z`` where ``Z S' + S Z = E`` entry
    by entry, and ``E = -X^+ dX M`` gives
    ``kappa = max_j s_j |diag(s_i + s_j)^(-1/2) U' X^+|_2``.
    """
    data = make_matrix_factorisation(9, 4, 3, rank=2, random_state=2)
    U, s, _ = np.linalg.svd(data.matrix)
    np.testing.assert_allclose(s, [2, 1, 0], atol=ATOL)
    rows = U.T @ np.linalg.pinv(data.X)
    s = np.append(s, 0.0)
    expected = max(
        s[j] * np.linalg.norm(rows / np.sqrt(s + s[j])[:, None], ord=2)
        for j in range(data.rank)
    )
    assert data.lipschitz_modulus(data.weights) == pytest.approx(expected, rel=1e-12)


def test_matrix_moves_as_told():
    data = make_matrix_factorisation(random_state=1)
    U, s, Vt = np.linalg.svd(data.matrix_perturbed, full_matrices=False)
    assert np.sum(s > RCOND * s[0]) == data.rank
    roots = np.sqrt(s[: data.rank])
    W1, W2 = U[:, : data.rank] * roots, roots[:, None] * Vt[: data.rank]
    w = np.concatenate([W1.ravel(), W2.ravel()])
    assert np.linalg.norm(_gradient(data, data.X_perturbed, w)) < ATOL
    # The network is at its global minimum: none of many others is below.
    loss = partial(_loss, data, _module(data))
    lowest = loss(*_tensors(data.X_perturbed, w)).item()
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1.0):
        for step in size * rng.standard_normal((20, len(w))):
            assert loss(*_tensors(data.X_perturbed, w + step)).item() > lowest


def test_factors_start_where_they_are_told():
    product = make_product(3, random_state=0)
    module = ProductNetwork(start=product.weights)
    found = torch.stack(list(module.factors)).detach()
    np.testing.assert_allclose(found, product.weights, rtol=1e-6)
    data = make_matrix_factorisation(random_state=0)
    module = MatrixFactorisation(*data.matrix.shape, start=tuple(data.weights))
    found = (module.W1 @ module.W2).detach()
    np.testing.assert_allclose(found, data.matrix, atol=1e-6)
    with pytest.raises(ValueError, match=r"'start' .* multiple of .* = 7 .* Got 13"):
        MatrixFactorisation(*data.matrix.shape, start=data.weights[1:])


# --- fold ----------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("fold_fraction", [0.3, 0.9])
def test_fold(coupling, fold_fraction):
    options = {"coupling": coupling, "fold_fraction": fold_fraction}
    data = make_fold(5, **options, random_state=0)
    H, B = _derivatives(data, data.weights)
    assert data.lipschitz_modulus == pytest.approx(_modulus(H, B), rel=1e-12)
    shift = data.shift(data.dX)
    np.testing.assert_allclose(shift, _pinv_shift(H, B, data.dX), atol=ATOL)
    assert 80 < _second_order(data, data.weights, data.dX / 10, shift / 10) < 120
    # The Hessian falls to 0 along the branch, and the gradient stays 0.
    np.testing.assert_allclose(data.branch(0), data.weights, rtol=1e-14)
    np.testing.assert_allclose(data.branch(fold_fraction), data.fold_weights)
    curvatures = []
    for t in np.linspace(0, fold_fraction, 7):
        X = data.X + t * data.dX
        assert np.abs(_gradient(data, X, data.branch(t))).max() < 1e-11
        curvatures.append(_derivatives(data, data.branch(t), X)[0].item())
    assert (np.diff(curvatures) < 0).all()
    assert curvatures[-1] == pytest.approx(0, abs=ATOL)


def test_beyond_the_fold_only_the_other_minimiser_is_left():
    data = make_fold(random_state=0)
    assert np.isnan(data.branch(data.fold_fraction + 1e-9)).all()
    assert np.isnan(data.branch(-0.1)).all()
    grid = np.linspace(-3, 3, 300)  # without 0, where a root may lie
    for t, n_roots in [(0, 3), (0.99, 3), (1.01, 1), (1 / data.fold_fraction, 1)]:
        X = data.X + t * data.fold_fraction * data.dX
        slopes = [_gradient(data, X, [w]).item() for w in grid]
        assert np.sum(np.diff(np.sign(slopes)) != 0) == n_roots
    moved = data.weights_perturbed
    assert np.abs(_gradient(data, data.X_perturbed, moved)).max() < 1e-11
    assert moved[0] > 0


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
        (make_product, {"n_factors": 1}, r"'n_factors' .* at least 2. Got 1"),
        (make_product, {"product": -1.0}, r"'product' .* Got -1\.0 instead"),
        (make_matrix_factorisation, {"rank": 0}, r"'rank' .* Got 0 instead"),
        (make_matrix_factorisation, {"rank": 5}, r"'n_features' .* at least 5. Got 4"),
        (make_matrix_factorisation, {"n_samples": 3}, r"'n_samples' .* least 4. Got 3"),
        (make_matrix_factorisation, {"n_outputs": 1}, r"'n_outputs' .* least 2. Got 1"),
        (make_fold, {"coupling": 2}, r"'coupling' .* in \(0, 2\). Got 2 instead"),
        (make_fold, {"fold_fraction": 1.0}, r"in \(0, 1\). Got 1\.0 instead"),
    ],
)
def test_invalid_parameters(maker, kwargs, match):
    with pytest.raises(ValueError, match=match):
        maker(**kwargs)
