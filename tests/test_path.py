"""Following solution sets along a path of data, against closed forms and retraining."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSet, SolutionSetEstimator, follow_path
from sksetsens.datasets import (
    make_dead_feature,
    make_degenerate_product,
    make_fold,
    make_isolated_minimum,
    make_product,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNNRegressor


def fitted(problem, n_restarts=1, *, polish=True, max_epochs=2, **params):
    net = NeuralNetRegressor(
        problem.module, train_split=None, lr=0.02, max_epochs=max_epochs, **params
    )
    model = SolutionSetEstimator(
        net, n_restarts=n_restarts, polish=polish, random_state=0
    )
    return model.fit(problem.X, problem.y)


def tanh_net(width, weight_decay=0.0, max_epochs=10):
    return DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=max_epochs,
    )


def check_track(track):
    assert track.t[0] == 0.0
    assert (np.diff(track.t) > 0.0).all()
    assert track.t[-1] <= 1.0
    assert len(track.weights) == len(track.smallest_eigenvalues) == len(track.t)
    assert track.t[-1] == 1.0 or not track.arrived
    assert track.n_factorisations >= len(track.t) - 1


@pytest.fixture(scope="module")
def toy():
    return make_toy_network()


@pytest.fixture(scope="module")
def at_paper_point(toy):
    return fitted(toy, module__start=(1.0, 2.0))


@pytest.fixture(scope="module")
def restarted(toy):
    return fitted(toy, n_restarts=2, max_epochs=10)


@pytest.fixture(scope="module")
def ridge():
    return make_isolated_minimum(perturbation_size=2.0, random_state=0)


@pytest.fixture(scope="module")
def at_ridge(ridge):
    return fitted(
        ridge, module__n_features=5, optimizer__weight_decay=ridge.weight_decay
    )


@pytest.fixture(scope="module")
def fold():
    return make_fold(random_state=0)


@pytest.fixture(scope="module")
def at_left_well(fold):
    return fitted(fold, module__start=fold.weights.item())


# --- sets that stay sets: closed forms -----------------------------------------------


def test_hyperbola(at_paper_point, toy):
    """``w1 w2 = 2 / (1 - 0.7 t)`` at every step, not only at the end."""
    path = follow_path(at_paper_point, 0.3 * toy.X)
    assert repr(path).startswith("<SolutionPath: 1 of 1 solutions arrived, ")
    assert repr(path.tracks[0]).startswith("<SolutionTrack: ")
    (track,) = path.tracks
    check_track(track)
    assert path.arrived.all()
    assert path.n_steps[0] > 1
    assert path.stopped_at.tolist() == [1.0]
    assert path.status[0] == f"arrived in {path.n_steps[0]} steps"
    for t, w in zip(track.t, track.weights, strict=True):
        assert w.prod() == pytest.approx(2.0 / (1.0 - 0.7 * t), abs=1e-10)
    assert path.solution_set.weights[0].prod() == pytest.approx(2 / 0.3, abs=1e-10)


def test_hyperbola_with_moving_targets(restarted, toy):
    """Each restart on its branch; ``w1 w2 = 2 c_y / c_x``."""
    path = follow_path(restarted, 0.8 * toy.X, 2.0 * toy.y)
    assert path.arrived.all()
    products = path.solution_set.weights.prod(axis=1)
    np.testing.assert_allclose(products, 5.0, atol=1e-10)
    signs = np.sign(restarted.solution_set_.weights)
    np.testing.assert_array_equal(np.sign(path.solution_set.weights), signs)


def test_product_of_three_factors():
    """Data that moves at random leaves a residual, and a product by least squares."""
    data = make_product(3, perturbation_size=0.5, random_state=0)
    model = fitted(data, max_epochs=20)
    path = follow_path(model, data.X_perturbed)
    (track,) = path.tracks
    check_track(track)
    assert path.arrived.all()
    assert path.solution_set.kernel_dims.tolist() == [2]
    for t, w in zip(track.t, track.weights, strict=True):
        x = data.X[:, 0] + t * data.dX[:, 0]
        assert w.prod() == pytest.approx(x @ data.y / (x @ x), abs=1e-10)
    end = path.solution_set.weights[0].prod()
    assert end == pytest.approx(data.product_perturbed, abs=1e-10)


def test_underdetermined_linear_model():
    data = make_underdetermined_linear(perturbation_size=2.0, random_state=0)
    model = fitted(data, module__n_features=9)
    path = follow_path(model, data.X_perturbed)
    end = path.solution_set
    assert path.arrived.all()
    assert data.distance(end.weights[0], data.X_perturbed) <= 1e-10
    np.testing.assert_allclose(
        data.X_perturbed @ end.kernels[0].spanning_basis(), 0.0, atol=1e-12
    )


def test_path_of_the_predicted_shifts(toy, at_paper_point):
    """Its first instant is the graphical derivative: ``dw/dt = v0``."""
    path = follow_path(at_paper_point, 0.3 * toy.X)
    shift = at_paper_point.graphical_derivatives_[0](-0.7 * toy.X).shift
    assert path.tracks[0].speeds[0] == pytest.approx(np.linalg.norm(shift))


# --- isolated minima -----------------------------------------------------------------


def ridge_weights(X, y, weight_decay, tilt=0.0):
    """Zero of ``(2/n) X'(X w - y) + weight_decay w - tilt``."""
    n, d = X.shape
    H = 2 / n * X.T @ X + weight_decay * np.eye(d)
    return np.linalg.solve(H, 2 / n * X.T @ y + tilt)


def test_ridge(at_ridge, ridge):
    path = follow_path(at_ridge, ridge.X_perturbed)
    (track,) = path.tracks
    check_track(track)
    assert path.arrived.all()
    assert path.n_steps[0] > 1
    for t, w in zip(track.t, track.weights, strict=True):
        exact = ridge_weights(ridge.X + t * ridge.dX, ridge.y, ridge.weight_decay)
        np.testing.assert_allclose(w, exact, atol=1e-11)
    np.testing.assert_allclose(
        path.solution_set.weights, [ridge.weights_perturbed], atol=1e-11
    )


def test_ridge_with_moving_targets(at_ridge, ridge):
    y = ridge.y + np.random.RandomState(0).standard_normal(ridge.y.shape)
    path = follow_path(at_ridge, ridge.X_perturbed, y)
    exact = ridge_weights(ridge.X_perturbed, y, ridge.weight_decay)
    np.testing.assert_allclose(path.solution_set.weights, [exact], atol=1e-11)
    # In the targets alone the problem is linear, whatever the length.
    alone = follow_path(at_ridge, ridge.X, 100.0 * y)
    exact = ridge_weights(ridge.X, 100.0 * y, ridge.weight_decay)
    np.testing.assert_allclose(alone.solution_set.weights, [exact], rtol=1e-10)


def test_least_squares():
    data = make_isolated_minimum(perturbation_size=1.0, random_state=1)
    path = follow_path(fitted(data, module__n_features=5), data.X_perturbed)
    exact = np.linalg.lstsq(data.X_perturbed, data.y, rcond=None)[0]
    assert path.arrived.all()
    np.testing.assert_allclose(path.solution_set.weights, [exact], atol=1e-11)


def test_early_stopped_weights_follow_the_tilted_objective(ridge):
    """The gradient that training left stays what it was."""
    model = fitted(
        ridge, polish=False, module__n_features=5, optimizer__weight_decay=0.1
    )
    w = model.solution_set_.weights[0]
    H = 2 / 30 * ridge.X.T @ ridge.X + 0.1 * np.eye(5)
    tilt = H @ w - 2 / 30 * ridge.X.T @ ridge.y
    assert np.linalg.norm(tilt) > 0.1
    path = follow_path(model, ridge.X_perturbed)
    exact = ridge_weights(ridge.X_perturbed, ridge.y, 0.1, tilt)
    np.testing.assert_allclose(path.solution_set.weights, [exact], atol=1e-11)
    assert path.solution_set.converged.all()


class Softmax(nn.Module):
    """Three classes from two features, without an intercept."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)

    def forward(self, X):
        return self.linear(X)


def test_softmax_regression():
    rng = np.random.RandomState(0)
    X, dX = rng.standard_normal((2, 40, 2))
    y = (X[:, 0] + 0.8 * rng.standard_normal(40) > 0).astype(int) + (X[:, 1] > 0.8)
    net = NeuralNetClassifier(
        Softmax,
        criterion=nn.CrossEntropyLoss,
        optimizer__weight_decay=0.05,
        lr=0.5,
        max_epochs=10,
        train_split=None,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    path = follow_path(model, X + dX)
    # L = mean loss + penalty / 2 |w|^2 is 1 / (n C) with C of LogisticRegression.
    exact = LogisticRegression(
        C=1 / (0.05 * 40), fit_intercept=False, tol=1e-12, solver="newton-cg"
    ).fit(X + dX, y)
    np.testing.assert_allclose(
        path.solution_set.weights[0].reshape(3, 2), exact.coef_, atol=1e-8
    )


def test_penalised_net_agrees_with_warm_retraining():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    model = SolutionSetEstimator(tanh_net(6, 0.05), n_restarts=1, random_state=0)
    moved = model.fit(X, y).X_train_ + 0.3 * rng.standard_normal(X.shape)
    path, retrained = follow_path(model, moved), model.retrain(moved)
    assert path.arrived.all()
    assert (path.n_steps > 1).all()
    gaps = path.solution_set.piece_distances(retrained).diagonal()
    movement = np.linalg.norm(retrained.weights - model.solution_set_.weights, axis=1)
    assert (movement > 0.1).all()
    assert (gaps <= 1e-8 * movement).all()
    np.testing.assert_allclose(path.solution_set.losses, retrained.losses, rtol=1e-12)


def test_interpolating_net_keeps_interpolating():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((8, 3)), rng.standard_normal(8)
    model = SolutionSetEstimator(tanh_net(8), n_restarts=1, random_state=0).fit(X, y)
    path = follow_path(model, X + 0.3 * rng.standard_normal(X.shape))
    end = path.solution_set
    assert path.arrived.all()
    assert (path.n_steps > 1).all()
    assert end.ranks.tolist() == model.solution_set_.ranks.tolist() == [8]
    assert (end.gradient_norms <= 1e-10).all()
    assert end.trustworthy.all()
    np.testing.assert_allclose(end.predict(end.objectives[0].inputs), [y], atol=1e-9)


# --- where paths end -----------------------------------------------------------------


def test_fold(at_left_well, fold):
    """Along the branch to where it ends; H and speed as derived by hand."""
    path = follow_path(at_left_well, fold.X_perturbed)
    (track,) = path.tracks
    check_track(track)
    assert not path.arrived.any()
    assert path.stopped_at[0] == pytest.approx(fold.fold_fraction, abs=1e-4)
    assert path.status[0].startswith("the set folds at 0.5: an eigenvalue of H falls")
    assert len(track.speeds) == len(track.t)
    for i, t in enumerate(track.t):
        w = track.weights[i]
        np.testing.assert_allclose(w, fold.branch(t), rtol=0, atol=1e-8)
        H = 6 * w.item() ** 2 - 2 + fold.coupling
        assert track.smallest_eigenvalues[i] == pytest.approx(H, rel=1e-10)
        # H dw/dt = coupling * mean(dX).
        speed = fold.coupling * fold.dX.mean() / H
        assert track.speeds[i] == pytest.approx(speed, rel=1e-10)


def test_short_of_the_fold(at_left_well, fold):
    share = 0.99 * fold.fold_fraction
    path = follow_path(at_left_well, fold.X + share * fold.dX)
    assert path.arrived.all()
    np.testing.assert_allclose(
        path.solution_set.weights[0], fold.branch(share), rtol=0, atol=1e-10
    )


def test_dead_feature_is_empty_at_once():
    data = make_dead_feature(random_state=0)
    model = fitted(data, module__n_features=6)
    path = follow_path(model, data.X_perturbed_dead)
    assert not path.arrived.any()
    assert path.stopped_at.tolist() == [0.0]
    assert path.n_steps.tolist() == [0]
    assert path.status[0].startswith("the set becomes empty at 0: ")
    assert "leaves range H" in path.status[0]
    np.testing.assert_array_equal(
        path.solution_set.weights, model.solution_set_.weights
    )
    # The other features may move; the dead one's weight stays where it was.
    live = data.X + 10.0 * data.dX_live
    end = follow_path(model, live).solution_set.weights[0]
    exact = np.linalg.lstsq(live[:, :-1], data.y, rcond=None)[0]
    np.testing.assert_allclose(end[:-1], exact, atol=1e-10)
    assert end[-1] == pytest.approx(model.solution_set_.weights[0, -1], abs=1e-12)


def test_duplicated_rows_that_come_apart():
    """13 equations in the place of 10, from the start: no solution is close by."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((10, 3))
    X = np.r_[X, X[:3]]
    model = SolutionSetEstimator(tanh_net(40), n_restarts=1, random_state=0)
    with pytest.warns(IllPosedWarning, match="rank of H changes"):
        model.fit(X, np.sin(X[:, 0]) + X[:, 1])
    moved = X.copy()
    moved[10:] += 0.3 * np.random.RandomState(5).standard_normal((3, 3))
    path = follow_path(model, moved)
    assert not path.arrived.any()
    assert path.stopped_at.tolist() == [0.0]
    assert "the rank of H changes" in path.status[0]
    np.testing.assert_array_equal(
        path.solution_set.weights, model.solution_set_.weights
    )


def test_solutions_that_run_to_infinity(at_paper_point, toy):
    """The data passes 0 at t = 1/3: ``w1 w2 = 2 / (1 - 3 t)``, up to there."""
    path = follow_path(at_paper_point, -2.0 * toy.X, max_steps=10)
    (track,) = path.tracks
    assert not path.arrived.any()
    assert 0.3 < track.t[-1] < 1 / 3
    for t, w in zip(track.t, track.weights, strict=True):
        assert w.prod() * (1.0 - 3.0 * t) == pytest.approx(2.0, abs=1e-9)


class TwoFactorsAndSlope(nn.Module):
    """Outputs ``(a b x_1, c x_2)``; with weight decay, a = b = 0 may be a minimum."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))
        self.c = nn.Parameter(torch.zeros(()))

    def forward(self, X):
        return torch.stack([self.a * self.b * X[:, 0], self.c * X[:, 1]], dim=1)


@pytest.fixture(scope="module")
def at_pitchfork():
    """A model at a = b = 0, a minimum that becomes a saddle as ``x_1`` grows.

    With decay 1 and labels 1 the block of H in (a, b) is ``[[1, -m], [-m, 1]]``, m the
    mean of ``x_1``: positive definite for m < 1. The slope c is a ridge regression.
    """
    X = np.array([[0.4, 2.0], [0.6, 2.0]])
    problem = SimpleNamespace(module=TwoFactorsAndSlope, X=X, y=np.ones((2, 2)))
    return fitted(problem, optimizer__weight_decay=1.0)


def beyond_the_pitchfork(second):
    """From means of 0.5 and 2 to 1.7 and ``second``, the first being 1 at 5/12."""
    return np.array([[1.5, second], [1.9, second]])


@pytest.mark.parametrize("second", [2.0, 1.6])
def test_pitchfork(at_pitchfork, second):
    """R = 0 has a solution on either side, but what arrives is no minimum."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = follow_path(at_pitchfork, beyond_the_pitchfork(second))
    (track,) = path.tracks
    check_track(track)
    assert not path.arrived.any()
    for t, (a, b, c) in zip(track.t, track.weights, strict=True):
        assert t < 5 / 12
        assert a == b == 0.0
        x = 2.0 + t * (second - 2.0)
        assert c == pytest.approx(x / (x**2 + 1.0), abs=1e-12)
    assert path.stopped_at[0] == pytest.approx(5 / 12, abs=1e-3)
    assert "an eigenvalue of H falls to 0 and branches meet" in path.status[0]


def test_short_of_the_pitchfork(at_pitchfork):
    X = at_pitchfork.X_train_
    path = follow_path(at_pitchfork, X + 0.4 * (beyond_the_pitchfork(1.6) - X))
    assert path.arrived.all()
    assert path.solution_set.inertias.tolist() == [[0, 0, 3]]


def test_degenerate_points_do_not_arrive_at_saddles():
    """w = 0 stays stationary, but H is ``2 mean(dx) [[0, 1], [1, 0]]`` there."""
    data = make_degenerate_product(random_state=0)
    with pytest.warns(IllPosedWarning, match="degenerate"):
        model = fitted(data, module__start=(0.0, 0.0))
    path = follow_path(model, data.X_perturbed)
    end = path.solution_set.weights[0]
    H = path.solution_set.objectives[0].hessian(end)
    is_minimum = np.linalg.eigvalsh(H)[0] > -1e-8
    assert is_minimum or not path.arrived[0]


# --- limits that are asked for -------------------------------------------------------


def test_max_steps(at_left_well, fold):
    path = follow_path(at_left_well, fold.X_perturbed, max_steps=2)
    (track,) = path.tracks
    check_track(track)
    assert path.n_steps.tolist() == [2]
    assert path.stopped_at.tolist() == [track.t[-1]]
    assert path.status[0].startswith("max_steps=2 were not enough: stopped at 0.")
    # The evidence is that of the last data reached.
    end = path.solution_set
    reached = fold.X + track.t[-1] * fold.dX
    np.testing.assert_allclose(end.objectives[0].inputs, reached, rtol=1e-14)
    np.testing.assert_array_equal(end.weights[0], track.weights[-1])
    assert end.converged.all()


def test_max_steps_that_are_just_enough(at_paper_point, toy):
    n_steps = int(follow_path(at_paper_point, 0.7 * toy.X).n_steps[0])
    for max_steps, arrives in ((n_steps, True), (n_steps - 1, False)):
        path = follow_path(at_paper_point, 0.7 * toy.X, max_steps=max_steps)
        assert path.arrived.tolist() == [arrives]


def test_min_step(at_left_well, fold):
    """Well before the fold, where no rank changes: what stops it is the step asked."""
    path = follow_path(at_left_well, fold.X_perturbed, min_step=0.2)
    (track,) = path.tracks
    least = 0.2 * np.maximum(track.t[:-1], 0.2)
    assert (np.diff(track.t) >= least - 1e-12).all()
    assert not path.arrived.any()
    assert track.t[-1] < 0.48
    assert path.stopped_at.tolist() == [track.t[-1]]
    assert "min_step" in path.status[0]
    assert "rank" not in path.status[0]


def test_last_step_may_be_as_short_as_is_left(at_ridge, ridge):
    path = follow_path(at_ridge, ridge.X_perturbed, min_step=0.1)
    assert path.arrived.all()


def test_smaller_tolerances_take_more_steps(at_paper_point, toy):
    steps = [
        int(follow_path(at_paper_point, 0.5 * toy.X, tol=tol).n_steps[0])
        for tol in (0.5, 0.1)
    ]
    assert steps[0] < steps[1]


def test_every_point_has_a_speed(at_paper_point, toy):
    """As documented: one per share of the path, like the eigenvalues."""
    (track,) = follow_path(at_paper_point, 0.5 * toy.X).tracks
    assert len(track.speeds) == len(track.t)


# --- what comes back, and what stays -------------------------------------------------


def test_nothing_moved(at_ridge, ridge):
    path = follow_path(at_ridge, ridge.X)
    assert path.arrived.all()
    np.testing.assert_allclose(
        path.solution_set.weights, at_ridge.solution_set_.weights, atol=1e-13
    )


def test_the_end_is_a_solution_set_on_the_perturbed_data(restarted, toy):
    moved = 0.5 * toy.X
    path = follow_path(restarted, moved)
    end = path.solution_set
    assert type(end) is SolutionSet
    assert len(end) == 2
    for name in SolutionSet.EVIDENCE:
        assert len(getattr(end, name)) == 2
    for objective, w, loss in zip(end.objectives, end.weights, end.losses, strict=True):
        np.testing.assert_array_equal(objective.inputs, moved)
        by_hand = 0.5 * ((toy.y - w.prod() * moved[:, 0]) ** 2).sum()
        assert loss == pytest.approx(by_hand, abs=1e-20)
    assert end.converged.all()
    assert end.kernel_dims.tolist() == [1, 1]
    # ker H is the tangent of the new hyperbola, (w1, -w2).
    for w, kernel in zip(end.weights, end.kernels, strict=True):
        tangent = np.array([w[0], -w[1]]) / np.linalg.norm(w)
        assert kernel.complement_norm(tangent) <= 1e-10
    np.testing.assert_allclose(end.predict(moved), [toy.y] * 2, atol=1e-10)
    for i, track in enumerate(path.tracks):
        np.testing.assert_array_equal(
            track.weights[0], restarted.solution_set_.weights[i]
        )
        np.testing.assert_array_equal(track.weights[-1], end.weights[i])


def test_the_end_is_as_trustworthy_as_the_start(at_paper_point, toy):
    """An eigenvalue of 25 and one that is rounding: the rank is beyond doubt."""
    end = follow_path(at_paper_point, 0.5 * toy.X).solution_set
    assert at_paper_point.solution_set_.trustworthy.all()
    assert (end.gaps > 1e10).all()
    assert end.trustworthy.all()
    assert end.status.tolist() == at_paper_point.solution_set_.status.tolist()


def test_global_random_states_and_the_model_stay(at_ridge, ridge):
    before = at_ridge.solution_set_.weights.copy()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = follow_path(at_ridge, ridge.X + 0.3 * ridge.dX)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(at_ridge.solution_set_.weights, before)
    again = follow_path(at_ridge, ridge.X + 0.3 * ridge.dX)
    assert again.tracks[0].t == first.tracks[0].t
    np.testing.assert_array_equal(again.tracks[0].weights, first.tracks[0].weights)


@pytest.mark.parametrize("name", ["tol", "min_step"])
@pytest.mark.parametrize("value", [0, -0.1, 1.5, np.nan, np.inf, "0.1", True, None])
def test_shares_that_are_none(at_paper_point, toy, name, value):
    sentence = rf"'{name}' parameter of follow_path must be a number in \(0, 1.0\]. Got"
    with pytest.raises(ValueError, match=sentence):
        follow_path(at_paper_point, toy.X_perturbed, **{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, np.nan, "3", True, None])
def test_max_steps_that_are_no_count(at_paper_point, toy, value):
    sentence = "'max_steps' parameter of follow_path must be an integer of at least 1"
    with pytest.raises(ValueError, match=sentence):
        follow_path(at_paper_point, toy.X_perturbed, max_steps=value)


def test_data_of_another_shape(at_paper_point, toy):
    with pytest.raises(ValueError, match=r"shape of the training X, \(2, 1\)"):
        follow_path(at_paper_point, toy.X[:1])
    with pytest.raises(ValueError, match=r"shape of the training y, \(2,\)"):
        follow_path(at_paper_point, toy.X, toy.y[:1])
