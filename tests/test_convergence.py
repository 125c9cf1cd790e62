"""Convergence of solution sets and the Lipschitz inclusion, against brute force."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from skorch import NeuralNetRegressor

import sksetsens.optimize._warm_start
from sksetsens import SolutionSetEstimator, lipschitz_inclusion, set_convergence
from sksetsens.datasets import (
    make_dead_feature,
    make_degenerate_product,
    make_isolated_minimum,
    make_product,
    make_saddle,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNNRegressor

SHARES = (0.02, 0.01, 0.005)


def fitted(problem, n_restarts=1, max_epochs=2, **params):
    net = NeuralNetRegressor(
        problem.module, train_split=None, lr=0.02, max_epochs=max_epochs, **params
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
    return model.fit(problem.X, problem.y)


def tanh_model(seed, n, weight_decay=0.0):
    rng = np.random.RandomState(seed)
    net = DFCNNRegressor(
        module__hidden_widths=(5,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=10,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=seed)
    return model.fit(rng.standard_normal((n, 2)), rng.standard_normal(n))


@pytest.fixture(scope="module")
def toy():
    return make_toy_network()


@pytest.fixture(scope="module")
def at_paper_point(toy):
    return fitted(toy, module__start=(1.0, 2.0))


@pytest.fixture(scope="module")
def degenerate():
    problem = make_degenerate_product(random_state=0)
    with pytest.warns(IllPosedWarning, match="degenerate"):
        return problem, fitted(problem, module__start=(0.0, 0.0))


@pytest.fixture(scope="module")
def dead():
    problem = make_dead_feature(random_state=0)
    return problem, fitted(problem, module__n_features=problem.X.shape[1])


@pytest.fixture(scope="module")
def plane():
    """An affine set of dimension 2, exactly."""
    problem = make_underdetermined_linear(5, 7, random_state=1)
    return problem, fitted(problem, module__n_features=7)


# --- the truth, by hand --------------------------------------------------------------


def hyperbola_line(w):
    """Tangent to ``w1 w2 = const`` at w and its normal, of length 1."""
    tangent = np.array([w[0], -w[1]]) / np.linalg.norm(w)
    return tangent, np.array([w[1], w[0]]) / np.linalg.norm(w)


def sampled_line_excess(w, other, center, radius):
    """``e(line at w n U, line at other)`` over dense points of the first."""
    tangent, _ = hyperbola_line(w)
    _, normal = hyperbola_line(other)
    reach = radius + np.linalg.norm(w - center)
    points = w + np.linspace(-reach, reach, 40_001)[:, None] * tangent
    inside = points[np.linalg.norm(points - center, axis=1) <= radius]
    return np.abs((inside - other) @ normal).max(initial=0.0)


def on_hyperbola(product, center, radius):
    w1 = np.linspace(max(center[0] - 2.0 * radius, 1e-3), center[0] + 2 * radius, 2001)
    return np.column_stack([w1, product / w1])


def curve_excess(product, other, center, radius):
    """``e({w1 w2 = product} n U, {w1 w2 = other})`` over dense points of both."""
    points = on_hyperbola(product, center, radius)
    points = points[np.linalg.norm(points - center, axis=1) <= radius]
    target = on_hyperbola(other, center, 2.0 * radius)
    gaps = np.linalg.norm(points[:, None] - target[None], axis=2)
    return gaps.min(axis=1).max()


# --- convergence ---------------------------------------------------------------------


def test_toy_network_is_lipschitz(at_paper_point, toy):
    sequence = [(1.0 - s) * toy.X for s in SHARES]
    found = set_convergence(at_paper_point, sequence, radius=0.1)
    sizes = np.array(SHARES) * np.linalg.norm(toy.X)
    np.testing.assert_allclose(found.sizes, sizes, rtol=1e-9)
    assert found.order == pytest.approx(1.0, abs=0.01)
    assert found.converges.all()
    assert found.status[0].startswith("converges with order 1.0")
    assert found.radius == 0.1
    np.testing.assert_array_equal(
        found.distance, np.maximum(found.outer_excess, found.inner_excess)
    )


def test_excesses_of_the_pieces_by_dense_sampling(at_paper_point, toy):
    sequence = [(1.0 - s) * toy.X for s in (0.02, 0.01)]
    retrained = [at_paper_point.retrain(X).weights[0] for X in sequence]
    products = [w.prod() for w in retrained]
    np.testing.assert_allclose(products, [2.0 / 0.98, 2.0 / 0.99], rtol=1e-9)
    w = toy.weights
    for radius in (0.02, 0.3):
        found = set_convergence(at_paper_point, sequence, radius=radius)
        outer = [sampled_line_excess(new, w, w, radius) for new in retrained]
        inner = [sampled_line_excess(w, new, w, radius) for new in retrained]
        np.testing.assert_allclose(found.outer_excess[:, 0], outer, rtol=1e-3)
        np.testing.assert_allclose(found.inner_excess[:, 0], inner, rtol=1e-3)
        # Sampled points are points of the pieces: none lies beyond the excess.
        assert (outer <= found.outer_excess[:, 0] * (1 + 1e-9)).all()
        assert (inner <= found.inner_excess[:, 0] * (1 + 1e-9)).all()


def test_excesses_of_the_curves_themselves(at_paper_point, toy):
    """In a small ball the pieces stand for the hyperbolas ``w1 w2 = 2 / (1 - s)``."""
    radius, shares = 0.05, (0.02, 0.01)
    sequence = [(1.0 - s) * toy.X for s in shares]
    found = set_convergence(at_paper_point, sequence, radius=radius)
    for k, s in enumerate(shares):
        product = 2.0 / (1.0 - s)
        outer = curve_excess(product, 2.0, toy.weights, radius)
        inner = curve_excess(2.0, product, toy.weights, radius)
        assert found.outer_excess[k, 0] == pytest.approx(outer, rel=0.02)
        assert found.inner_excess[k, 0] == pytest.approx(inner, rel=0.02)


def test_new_sets_outside_the_ball_do_not_stick_out(at_paper_point, toy):
    """``S(x_k) n U`` is empty where the set left U; all of the old one is lost."""
    sequence = [0.8 * toy.X, 0.9 * toy.X]
    found = set_convergence(at_paper_point, sequence, radius=0.01)
    np.testing.assert_array_equal(found.outer_excess, [[0.0], [0.0]])
    assert (found.inner_excess > 0.08).all()


def test_product_of_three_factors():
    data = make_product(3, random_state=0)
    model = fitted(data, max_epochs=20)
    sequence = [(1.0 - s) * data.X for s in SHARES]
    found = set_convergence(model, sequence, radius=0.1)
    np.testing.assert_allclose(found.order, 1.0, atol=0.05)
    assert found.converges.all()
    assert found.distance.shape == (len(SHARES), 1)
    # At the least the solution itself has to move: |v0| = product s / |g|.
    w = model.solution_set_.weights
    g = np.linalg.norm(data.product / w, axis=1)
    least = np.array(SHARES)[:, None] * data.product / g
    assert (found.distance >= 0.9 * least).all()


def test_isolated_minima_converge_like_points():
    data = make_isolated_minimum(random_state=0)
    model = fitted(data, module__n_features=5, optimizer__weight_decay=0.1)
    sequence = [data.X + s * data.dX for s in (1.0, 0.1)]
    found = set_convergence(model, sequence, radius=1.0)

    def ridge(X):
        n, d = X.shape
        H = 2 / n * X.T @ X + 0.1 * np.eye(d)
        return np.linalg.solve(H, 2 / n * X.T @ data.y)

    gaps = [[np.linalg.norm(ridge(X) - ridge(data.X))] for X in sequence]
    np.testing.assert_allclose(found.outer_excess, gaps, rtol=1e-8)
    np.testing.assert_allclose(found.inner_excess, gaps, rtol=1e-8)


def test_degenerate_point_moves_like_a_square_root(degenerate):
    """``{w1 w2 = -s}`` is ``sqrt(2 s)`` away from (0, 0)."""
    problem, model = degenerate
    shares = np.array([1.0, 0.1, 0.01])
    sequence = [problem.X + s * problem.dX for s in shares]
    found = set_convergence(model, sequence, radius=0.5)
    assert found.order == pytest.approx(0.5, abs=0.01)
    assert found.converges.all()
    assert "order 0.50 only: no Lipschitz bound holds" in found.status[0]
    nearest = np.sqrt(2.0 * shares * 0.1)
    assert (found.distance[:, 0] >= nearest * (1 - 1e-6)).all()
    np.testing.assert_allclose(found.distance[:, 0], nearest, rtol=0.02)


def test_points_that_stay_have_infinite_order():
    saddle = make_saddle()
    with pytest.warns(IllPosedWarning, match="saddle"):
        model = fitted(saddle, module__start=(0.0, 0.0))
    found = set_convergence(model, [1.1 * saddle.X, 1.01 * saddle.X], radius=0.1)
    np.testing.assert_array_equal(found.distance, np.zeros((2, 1)))
    assert np.isinf(found.order).all()


def dead_solutions(problem, sequence):
    """Unique least-squares weights once the dead column is none: far away."""
    return [np.linalg.lstsq(X, problem.y, rcond=None)[0] for X in sequence]


def test_dead_feature_coming_alive_does_not_converge(dead):
    """The line of solutions becomes one point that runs to infinity as dX -> 0."""
    problem, model = dead
    sequence = [problem.X + s * problem.dX_dead for s in (0.1, 0.01, 0.001)]
    w = model.solution_set_.weights[0]
    away = [np.linalg.norm(v - w) for v in dead_solutions(problem, sequence)]
    assert away == sorted(away)
    assert away[0] > 10.0
    found = set_convergence(model, sequence, radius=0.1)
    assert not found.converges.any()
    assert "Lipschitz" not in found.status[0]
    # Nothing of the new set is in U, and the nearest point to any old one is far.
    np.testing.assert_array_equal(found.outer_excess, np.zeros((3, 1)))
    assert (found.inner_excess[:, 0] >= np.array(away) * (1 - 1e-6)).all()


def test_live_features_converge(dead):
    problem, model = dead
    sequence = [problem.X + s * problem.dX_live for s in SHARES]
    found = set_convergence(model, sequence, radius=0.1)
    assert found.order == pytest.approx(1.0, abs=0.05)
    assert "Lipschitz" in found.status[0]


class TestRetrainingThatFails:
    @staticmethod
    def fail_at(monkeypatch, failing):
        """Let polishing end before it is stationary, on the data sets given."""
        polish = sksetsens.optimize._warm_start.polish

        def stopped(objective, weights, **options):
            polished = polish(objective, weights, **options)
            fails = any(np.array_equal(objective.inputs, X) for X in failing)
            return replace(polished, converged=polished.converged and not fails)

        monkeypatch.setattr(sksetsens.optimize._warm_start, "polish", stopped)

    def test_is_left_out_of_the_order(self, monkeypatch, at_paper_point, toy):
        sequence = [(1.0 - s) * toy.X for s in SHARES]
        self.fail_at(monkeypatch, sequence[1:2])
        found = set_convergence(at_paper_point, sequence, radius=0.1)
        assert np.isnan(found.distance[:, 0]).tolist() == [False, True, False]
        assert found.order == pytest.approx(1.0, abs=0.01)

    def test_leaves_the_order_unknown(self, monkeypatch, at_paper_point, toy):
        sequence = [(1.0 - s) * toy.X for s in SHARES]
        self.fail_at(monkeypatch, sequence[1:])
        found = set_convergence(at_paper_point, sequence, radius=0.1)
        assert np.isnan(found.order).all()
        assert not found.converges.any()
        assert found.status[0].startswith("unknown: ")
        assert "stationar" in found.status[0]

    def test_leaves_the_inclusion_unknown(self, monkeypatch, at_paper_point, toy):
        moved = 0.99 * toy.X
        self.fail_at(monkeypatch, [moved])
        found = lipschitz_inclusion(at_paper_point, moved, radius=0.1)
        assert np.isnan(found.excess).all()
        assert np.isnan(found.slack).all()
        assert not found.holds.any()
        assert found.status[0] == "unknown: retraining did not become stationary"


@pytest.mark.parametrize(
    "shares", [(), (0.1,), (0.1, 0.1), (0.1, 0.2), (0.1, 0.0), (0.0, 0.1), (0.0,)]
)
def test_sequences_that_do_not_shrink(at_paper_point, toy, shares):
    sequence = [(1.0 - s) * toy.X for s in shares]
    sentence = "'X_sequence' parameter of set_convergence must hold at least two .* Got"
    with pytest.raises(ValueError, match=sentence):
        set_convergence(at_paper_point, sequence, radius=0.1)


def test_members_of_another_shape(at_paper_point, toy):
    with pytest.raises(ValueError, match=r"shape of the training X, \(2, 1\)"):
        set_convergence(at_paper_point, [0.9 * toy.X, toy.X[:1]], radius=0.1)


BAD_RADII = [0, 0.0, -1.0, np.inf, np.nan, "0.1", True]


@pytest.mark.parametrize("radius", BAD_RADII)
def test_radius_of_convergence(at_paper_point, toy, radius):
    sentence = "'radius' parameter of set_convergence must be a positive number. Got"
    with pytest.raises(ValueError, match=sentence):
        set_convergence(at_paper_point, [0.8 * toy.X, 0.9 * toy.X], radius=radius)


@pytest.mark.parametrize("radius", BAD_RADII)
def test_radius_of_the_inclusion(at_paper_point, toy, radius):
    sentence = "'radius' parameter of lipschitz_inclusion must be a positive number"
    with pytest.raises(ValueError, match=sentence):
        lipschitz_inclusion(at_paper_point, 0.9 * toy.X, radius=radius)


# --- the Lipschitz inclusion ---------------------------------------------------------


@cache
def random_model(seed):
    """A well-posed model of one of four kinds, on random data."""
    kind = seed % 4
    if kind == 0:
        return tanh_model(seed, 8)
    if kind == 1:
        return tanh_model(seed, 20, weight_decay=0.05)
    if kind == 2:
        data = make_product(3, random_state=seed)
        return fitted(data, max_epochs=20)
    data = make_underdetermined_linear(4, 9, random_state=seed)
    return fitted(data, module__n_features=9)


@pytest.mark.parametrize("seed", range(4))
def test_no_set_leaves_the_neighbourhood_by_more_than_second_order(seed):
    model = random_model(seed)
    rng = np.random.RandomState(seed)
    X, y = model.X_train_, model.y_train_
    dX, dy = rng.standard_normal(X.shape), rng.standard_normal(y.shape)
    for size, radius, moved in ((0.01, 0.5, y + 0.01 * dy), (0.1, 1.0, y)):
        found = lipschitz_inclusion(model, X + size * dX, moved, radius=radius)
        assert (found.excess <= found.bound + found.second_order + 1e-12).all()
        np.testing.assert_array_equal(found.slack, found.bound - found.excess)
        checked = np.isfinite(found.slack)
        np.testing.assert_array_equal(found.holds[checked], found.slack[checked] >= 0)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_called_second_order_is(seed):
    """A tenth of the perturbation, in a tenth of the ball, leaves a hundredth."""
    model = random_model(seed)
    X = model.X_train_
    dX = np.random.RandomState(seed).standard_normal(X.shape)
    errors = [
        lipschitz_inclusion(model, X + size * dX, radius=10 * size).second_order[0]
        for size in (1e-3, 1e-4)
    ]
    assert errors[1] <= 0.03 * errors[0] + 1e-12


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.1, 1.0])
def test_affine_sets(plane, scale):
    """e of the planes ``{X' w = y}`` in U and ``{X w = y}`` by dense points."""
    problem, model = plane
    w = model.solution_set_.weights[0]
    radius = 0.1
    moved = problem.X + scale * problem.dX
    found = lipschitz_inclusion(model, moved, radius=radius)
    size = scale * np.linalg.norm(problem.dX)
    assert found.bound == pytest.approx(problem.lipschitz_modulus(w) * size)
    # The new plane's point nearest to w, and the circle of its points in U.
    step = np.linalg.pinv(moved) @ (problem.y - moved @ w)
    room = np.sqrt(radius**2 - step @ step)
    basis = np.linalg.svd(moved)[2][5:]
    angles = np.linspace(0, 2 * np.pi, 2001)
    circle = np.column_stack([np.cos(angles), np.sin(angles)]) @ basis
    gaps = [problem.distance(w + step + room * c) for c in circle]
    # Retraining to tol = 1e-10 is what the smallest perturbation resolves.
    assert found.excess == pytest.approx(max(gaps), rel=1e-3)
    assert found.holds.all()
    # No point of the ball is longer than |w| + radius.
    length = np.linalg.norm(w)
    assert (found.excess <= found.bound * (length + radius) / length).all()


def test_worst_case_direction_of_an_affine_set(plane):
    """Attained up to the ball's size: at longer weights data moves outputs more."""
    problem, model = plane
    w = model.solution_set_.weights[0]
    # |X^+ dX w| is largest for dX = u w' with u the weakest left singular vector.
    u = np.linalg.svd(problem.X)[0][:, -1]
    direction = np.outer(u, w) / np.linalg.norm(w)
    found = lipschitz_inclusion(model, problem.X + 1e-6 * direction, radius=1e-4)
    assert found.excess == pytest.approx(found.bound[0], rel=1e-3)
    assert found.second_order <= 1e-3 * found.bound


def test_worst_case_of_the_toy_network_exceeds_within_second_order(at_paper_point, toy):
    found = lipschitz_inclusion(at_paper_point, 0.99 * toy.X, radius=0.05)
    assert found.bound == pytest.approx(0.4 * 0.01 * np.sqrt(5.0), rel=1e-9)
    new = at_paper_point.retrain(0.99 * toy.X).weights[0]
    by_hand = sampled_line_excess(new, toy.weights, toy.weights, 0.05)
    assert found.excess == pytest.approx(by_hand, rel=1e-3)
    assert (-found.second_order <= found.slack + 1e-14).all()
    assert (found.slack < 0).all()
    assert not found.holds.any()
    assert "within the second-order term" in found.status[0]
    smaller = lipschitz_inclusion(at_paper_point, 0.9999 * toy.X, radius=5e-4)
    assert (-smaller.slack <= 0.02 * -found.slack).all()


def test_perturbed_targets_have_their_own_modulus(at_paper_point, toy):
    """``w1 w2 = 2 (1 + s)`` for ``y (1 + s)``: ``kappa_y = 1 / (|x| |g|) = 0.2``."""
    moved = lipschitz_inclusion(at_paper_point, toy.X, 1.001 * toy.y, radius=0.01)
    assert moved.bound == pytest.approx(0.2 * 1e-3 * np.linalg.norm(toy.y))
    assert moved.excess == pytest.approx(moved.bound[0], rel=0.02)


def test_without_a_certified_modulus_there_is_nothing_to_check(degenerate, dead):
    saddle = make_saddle()
    with pytest.warns(IllPosedWarning, match="saddle"):
        at_saddle = fitted(saddle, module__start=(0.0, 0.0))
    cases = [(saddle, at_saddle), degenerate]
    for problem, model in cases:
        found = lipschitz_inclusion(model, problem.X_perturbed, radius=0.1)
        assert np.isinf(found.bound).all()
        assert "no finite modulus is certified" in found.status[0]
    problem, model = dead
    found = lipschitz_inclusion(model, problem.X_perturbed_dead, radius=0.1)
    assert np.isinf(found.bound).all()
    assert "no finite modulus is certified" in found.status[0]


def test_new_sets_are_not_invented_in_the_ball(dead):
    """The dead column came alive: S(x') is one point far away, none of it in U."""
    problem, model = dead
    moved = problem.X_perturbed_dead
    away = dead_solutions(problem, [moved])[0] - model.solution_set_.weights[0]
    assert np.linalg.norm(away) > 1.0
    found = lipschitz_inclusion(model, moved, radius=0.1)
    assert (found.excess <= 0.0).all()


def test_nothing_moved(at_paper_point, toy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lipschitz_inclusion(at_paper_point, toy.X, radius=0.1)
    np.testing.assert_allclose(found.excess, [0.0], atol=1e-14)
    np.testing.assert_array_equal(found.bound, [0.0])
