"""ReLU networks with weight decay, exact on their kinks.

Stationarity is judged by plain torch code of its own, movements by retraining, by
finite differences of exact solutions, and by bisection.
"""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import (
    Coderivative,
    SolutionSet,
    SolutionSetEstimator,
    follow_path,
    linear_range,
    lipschitz_modulus,
    stability_report,
    target_perturbation,
)
from sksetsens.inspection import HessianSpectrumDisplay
from sksetsens.networks import DFCNNClassifier
from sksetsens.optimize import _kinks, _plan

torch.set_num_threads(1)


class ReLUNet(nn.Module):
    def __init__(self, n_in, widths, n_out):
        super().__init__()
        sizes = [n_in, *widths, n_out]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, X):
        for layer in self.layers[:-1]:
            X = torch.relu(layer(X))
        return self.layers[-1](X)


def problem(name, widths, decay, **options):
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
        X, y = scale(X[:200]), scale(y[:200])
        kind, n_out, criterion = NeuralNetRegressor, 1, nn.MSELoss
    else:
        X, y = load_wine(return_X_y=True)
        X = scale(X)
        kind, n_out, criterion = NeuralNetClassifier, 3, nn.CrossEntropyLoss
    net = kind(
        ReLUNet,
        module__n_in=X.shape[1],
        module__widths=widths,
        module__n_out=n_out,
        criterion=criterion,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=decay,
        lr=0.005,
        max_epochs=200,
        batch_size=-1,
        train_split=None,
        verbose=0,
    )
    return SolutionSetEstimator(net, random_state=0, **options), X, y


PROBLEMS = {
    "diabetes 16": ("diabetes", (16,), 0.05),
    "wine 16": ("wine", (16,), 0.005),
    "wine 8-8": ("wine", (8, 8), 0.005),
    "diabetes 12": ("diabetes", (12,), 0.02),
}
# The largest of them is of the kind of the last.
each_problem = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "diabetes 16" else name
        for name in PROBLEMS
    ],
)


def moved_rows(X, delta=1.0):
    u = np.random.RandomState(5).standard_normal(X.shape)
    return delta * u / np.linalg.norm(u, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def fitted():
    """Each problem's fitted model with its data, trained when first asked for."""
    kept = {}

    def get(name):
        if name not in kept:
            model, X, y = problem(*PROBLEMS[name], n_restarts=2)
            kept[name] = model.fit(X, y), X, y
        return kept[name]

    return get


def clarke_residual(model, X, y, decay, w):
    """|grad L_s| with the best gates in [0, 1] on inputs that are 0, by projected
    least squares; plain torch, forward written out."""
    shapes = [p.shape for p in model.estimators_[0].module_.parameters()]
    sizes = [shape.numel() for shape in shapes]
    X, flat = torch.from_numpy(X), torch.from_numpy(w).requires_grad_()
    weights = [
        piece.reshape(shape)
        for piece, shape in zip(flat.split(sizes), shapes, strict=True)
    ]
    h, gates, leaves = X, [], []
    for k in range(0, len(weights) - 2, 2):
        z = h @ weights[k].T + weights[k + 1]
        on = z.detach().abs() < 1e-11
        offset = torch.zeros_like(z, requires_grad=True)
        h = torch.where(on, torch.zeros_like(z), z.clamp(min=0)) + offset
        gates.append((z, on))
        leaves.append(offset)
    f = h @ weights[-2].T + weights[-1]
    if np.issubdtype(y.dtype, np.integer):
        loss = nn.functional.cross_entropy(f, torch.from_numpy(y))
    else:
        loss = ((f[:, 0] - torch.from_numpy(y)) ** 2).mean()
    loss = loss + 0.5 * decay * (flat @ flat)
    forces = torch.autograd.grad(loss, [flat, *leaves], retain_graph=True)
    columns = []
    for (z, on), force in zip(gates, forces[1:], strict=True):
        for i, u in on.nonzero():
            (row,) = torch.autograd.grad(z[i, u], flat, retain_graph=True)
            columns.append((force[i, u] * row).numpy())
    G, g = np.array(columns).reshape(-1, w.size).T, forces[0].numpy()
    live = np.linalg.norm(G, axis=0) > 1e-13
    s = np.linalg.lstsq(G[:, live], -g, rcond=None)[0]
    return float(np.linalg.norm(g + G[:, live] @ s)), s


@each_problem
def test_solutions_are_exact_on_their_kinks(fitted, name):
    """One layer: gates enter R linearly, so that least squares finds them."""
    model, X, y = fitted(name)
    s = model.solution_set_
    assert s.converged.all()
    assert s.trustworthy.all(), s.status
    assert (s.n_kinks > 0).all()
    assert s.stationarity.max() <= 1e-12
    if len(PROBLEMS[name][1]) > 1:
        return
    for w in s.weights:
        residual, gates = clarke_residual(model, X, y, PROBLEMS[name][2], w)
        assert residual <= 1e-12
        assert gates.min() > 0.0
        assert gates.max() < 1.0


def test_gates_in_two_layers_are_exact(fitted):
    """R at the gates that the solution holds, by a forward written out."""
    model, X, y = fitted("wine 8-8")
    for gd in model.graphical_derivatives_:
        kinks, w = gd.kinks, torch.from_numpy(gd.weights).requires_grad_()
        shapes = [p.shape for p in model.estimators_[0].module_.parameters()]
        pieces = w.split([shape.numel() for shape in shapes])
        P = [p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)]
        h = torch.from_numpy(X)
        for k in range(2):
            z = h @ P[2 * k].T + P[2 * k + 1]
            gate = (z.detach() > 0).double()
            flat = gate.reshape(-1)
            on, fixed = kinks.of_call(k)
            flat[on] = torch.from_numpy(kinks.gates[kinks.calls == k])
            flat[fixed] = torch.from_numpy(kinks.fixed_gates[kinks.fixed_calls == k])
            assert z.detach().reshape(-1)[on].abs().max() < 1e-13
            h = flat.reshape(z.shape) * z
        f = h @ P[4].T + P[5]
        loss = nn.functional.cross_entropy(f, torch.from_numpy(y)) + 0.0025 * (w @ w)
        (R,) = torch.autograd.grad(loss, w)
        assert float(R.norm()) <= 1e-12
        assert kinks.gates.min() > 0.0
        assert kinks.gates.max() < 1.0


@each_problem
def test_predictions_are_those_of_retraining(fitted, name):
    """And the classical influence function's are not."""
    model, X, _ = fitted(name)
    dX = moved_rows(X, 1e-4)
    predicted, retrained = model.sensitivity(X + dX), model.retrain(X + dX)
    assert retrained.converged.all()
    gaps = predicted.relative_gaps(retrained)
    assert ((gaps <= 0.01) | (predicted.first_break < 1.0)).all()
    assert (gaps <= 0.01).any()
    for i, gd in enumerate(model.graphical_derivatives_):
        plain = gd.objective.off_kinks()
        b = plain.cross_product(gd.weights, dX)
        H = plain.hessian(gd.weights)
        influence = -np.linalg.pinv(H, rcond=1e-10, hermitian=True) @ b
        moved = retrained.weights[i] - gd.weights
        assert np.linalg.norm(influence - moved) > 0.2 * np.linalg.norm(moved)


@pytest.mark.parametrize("n_directions", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_finite_differences_of_exact_solutions(fitted, n_directions):
    """Central differences of retrained solutions along random directions."""
    model, X, _ = fitted("wine 16")
    gd = model.graphical_derivatives_[0]
    rng = np.random.RandomState(0)
    for _ in range(n_directions):
        dX = 1e-5 * rng.standard_normal(X.shape)
        shift = gd(dX).shift
        assert model.sensitivity(X + dX).first_break[0] > 1.0
        ahead, behind = (model.retrain(X + s * dX).weights[0] for s in (1.0, -1.0))
        slope = 0.5 * (ahead - behind)
        assert np.linalg.norm(slope - shift) <= 1e-4 * np.linalg.norm(shift)


@pytest.mark.parametrize("name", ["wine 16", "diabetes 12"])
def test_the_first_exchange_is_where_it_is_predicted(fitted, name):
    """Bisection over delta for the first change of kinks of retrained solutions."""
    model, X, _ = fitted(name)
    dX = moved_rows(X)
    predicted = model.sensitivity(X + 1e-5 * dX)
    gd, share = model.graphical_derivatives_[0], predicted.first_break[0]
    before = {*zip(gd.kinks.calls.tolist(), gd.kinks.places.tolist(), strict=True)}

    def same(t):
        there = gd.on_other_kinks(
            gd.objective.with_data(X + t * 1e-5 * dX),
            gd.weights + t * gd(1e-5 * dX).shift,
        )
        found = {*zip(there.kinks.calls, there.kinks.places, strict=True)}
        return found == before

    low, high = 0.5 * share, 1.5 * share
    assert same(low)
    assert not same(high)
    while high - low > 1e-3 * share:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if same(middle) else (low, middle)
    assert low == pytest.approx(share, rel=0.02)


# --- Every question is answered -------------------------------------------------------


def dense_map(gd):
    """``dX -> shift`` column by column."""
    n, d = gd.objective.input_shape
    columns = np.empty((gd.weights.size, n * d))
    for j in range(n * d):
        e = np.zeros(n * d)
        e[j] = 1.0
        columns[:, j] = gd(e.reshape(n, d)).shift
    return columns


@pytest.fixture(scope="session")
def small():
    """40 rows of diabetes, two hidden layers."""
    model, X, y = problem("diabetes", (4, 3), 0.05, n_restarts=1)
    return model.fit(X[:40], y[:40]), X[:40], y[:40]


def test_moduli_are_those_of_the_dense_map(small):
    model, X, _ = small
    assert model.solution_set_.trustworthy.all(), model.solution_set_.status
    gd = model.graphical_derivatives_[0]
    M = dense_map(gd)
    assert model.lipschitz_modulus_ == pytest.approx(np.linalg.norm(M, 2), rel=1e-8)
    n, d = X.shape
    blocks = M.reshape(-1, n, d)
    rows = [np.linalg.norm(blocks[:, i], 2) for i in range(n)]
    np.testing.assert_allclose(model.sample_lipschitz_moduli_[0], rows, rtol=1e-7)
    features = [np.linalg.norm(blocks[:, :, j], 2) for j in range(d)]
    np.testing.assert_allclose(model.feature_lipschitz_moduli_[0], features, rtol=1e-7)
    p = np.random.RandomState(0).standard_normal(gd.weights.size)
    np.testing.assert_allclose(Coderivative(gd)(p).value.ravel(), M.T @ p, atol=1e-10)
    basis, reduced = gd.range_map()
    np.testing.assert_allclose(-basis @ reduced.reshape(len(reduced), -1), M, atol=1e-9)


def test_target_moduli_are_those_of_finite_differences(small):
    model, X, y = small
    gd = model.graphical_derivatives_[0]
    value, direction = lipschitz_modulus(model, level="target", return_direction=True)
    dy = 1e-6 * np.reshape(direction, -1)
    moved = model.retrain(X, y + dy).weights[0] - gd.weights
    assert np.linalg.norm(moved) / 1e-6 == pytest.approx(value, rel=1e-3)


def test_the_worst_case_is_attained(small):
    model, X, _ = small
    modulus, direction = lipschitz_modulus(model, return_direction=True)
    direction = np.reshape(direction, X.shape)
    t = min(1e-4, 0.5 * model.sensitivity(X + direction).first_break[0])
    moved = model.retrain(X + t * direction).weights[0] - model.solution_set_.weights[0]
    assert np.linalg.norm(moved) >= 0.95 * t * modulus


def test_moduli_of_layers_are_those_of_their_own_equations(small):
    """By the bordered matrix of one tensor's weights; inf where its rows depend."""
    model, *_ = small
    gd = model.graphical_derivatives_[0]
    o, w = gd.objective, gd.weights
    H, Z = o.hessian(w), o.kink_jacobian(w)
    B = o.cross_adjoints(w, np.eye(len(w))).reshape(len(w), -1)
    D = o.kink_input_jacobian(w).reshape(len(Z), -1)
    finite = []
    for part, found in zip(
        o.parameter_slices.values(), model.layer_lipschitz_moduli_[0], strict=True
    ):
        rows = Z[:, part]
        if np.linalg.matrix_rank(rows, tol=1e-10) < len(rows):
            assert np.isinf(found)
            continue
        k, m = rows.shape[1], len(rows)
        K = np.block([[H[part, part], rows.T], [rows, np.zeros((m, m))]])
        solved = np.linalg.solve(K, np.concatenate([B[part], D]))[:k]
        assert found == pytest.approx(np.linalg.norm(solved, 2), rel=1e-7)
        finite.append(found)
    assert finite


@pytest.mark.parametrize(
    "name", ["diabetes 12", pytest.param("wine 16", marks=pytest.mark.slow)]
)
def test_a_path_crosses_exchanges(fitted, name):
    model, X, _ = fitted(name)
    far = X + moved_rows(X, 0.01)
    path = follow_path(model, far)
    assert path.arrived.any(), path.status
    retrained = model.retrain(far)
    n_breaks = [track.n_breaks for track in path.tracks]
    assert max(n_breaks) >= 3
    w = path.solution_set.weights
    gaps = np.linalg.norm(w - retrained.weights, axis=1)[path.arrived]
    assert gaps.min() <= 1e-8
    corrected = model.sensitivity(far, n_corrections=1)
    ends = np.linalg.norm(corrected.weights - w, axis=1)[path.arrived]
    assert ends.min() <= 1e-8


def test_the_linear_range_ends_at_the_first_exchange(fitted):
    model, X, _ = fitted("diabetes 12")
    far = X + moved_rows(X, 0.01)
    found = linear_range(model, far, tol=1.0)
    breaks = model.sensitivity(far).first_break
    assert (found.fraction <= breaks * (1 + 1e-12)).all()
    assert found.fraction == pytest.approx(breaks, rel=1e-6)


def test_beyond_a_break_the_error_is_the_distance_to_the_truth(fitted):
    model, X, _ = fitted("diabetes 12")
    far = X + moved_rows(X, 0.01)
    predicted, retrained = model.sensitivity(far), model.retrain(far)
    gaps = predicted.relative_gaps(retrained)
    beyond = (predicted.first_break < 1.0) & np.isfinite(predicted.shift_error)
    assert beyond.any()
    np.testing.assert_allclose(predicted.shift_error[beyond], gaps[beyond], rtol=0.05)
    assert "kinks change from" in predicted.status[beyond][0]


def test_reports_and_pictures_speak_of_kinks(fitted):
    model, X, _ = fitted("wine 16")
    report = stability_report(model, X + moved_rows(X, 1e-4))
    assert np.isfinite(report.distance).all()
    n, dead = model.solution_set_.n_kinks[0], model.solution_set_.n_dead_units[0]
    status = model.solution_set_.status[0]
    assert status.startswith(f"minimum on {n} kinks")
    assert f"{dead} dead units" in status
    gd = model.graphical_derivatives_[0]
    display = HessianSpectrumDisplay.from_derivative(gd)
    assert len(display.eigenvalues) == gd.weights.size - n
    assert (display.eigenvalues > 0).all()


def test_kinks_travel(fitted, tmp_path):
    """Through pickles, files and copies of the set."""
    model, X, _ = fitted("wine 16")
    dX = moved_rows(X, 1e-4)
    again = pickle.loads(pickle.dumps(model))
    expected = model.sensitivity(X + dX)
    found = again.sensitivity(X + dX)
    np.testing.assert_array_equal(found.shift, expected.shift)
    expected.save(tmp_path / "set.npz")
    loaded = SolutionSet.load(tmp_path / "set.npz", estimator=model)
    np.testing.assert_array_equal(loaded.n_kinks, expected.n_kinks)
    np.testing.assert_array_equal(loaded.first_break, expected.first_break)
    assert loaded[0].n_dead_units.tolist() == expected.n_dead_units[:1].tolist()


def test_cached_and_stacked_restarts_keep_their_kinks(tmp_path):
    options = {"n_restarts": 2, "memory": str(tmp_path)}
    model, X, y = problem("wine", (6,), 0.02, **options)
    first = model.fit(X, y).solution_set_
    again = model.fit(X, y)
    assert again.restart_report_["cached"].all()
    np.testing.assert_array_equal(again.solution_set_.weights, first.weights)
    np.testing.assert_array_equal(again.solution_set_.n_kinks, first.n_kinks)
    assert again.solution_set_.trustworthy.all()
    stacked = model.set_params(memory=None, restart_backend="vectorized").fit(X, y)
    assert stacked.solution_set_.converged.all()
    assert stacked.solution_set_.trustworthy.all()
    found = stacked.set_params(n_jobs=2, restart_backend="joblib").fit(X, y)
    np.testing.assert_array_equal(found.solution_set_.weights, first.weights)


def test_a_target_of_a_prediction_is_reached(small):
    model, X, _ = small
    found = target_perturbation(model, X=X[:1], prediction_change=[1e-4])
    assert "to first order the target is within reach" in found.status


def test_a_loss_that_falls_for_ever_is_left_at_once(monkeypatch):
    """Separable classes without a penalty: no Hessian of 2650 weights is formed."""

    def no_newton(*args, **kwargs):
        raise AssertionError("a Hessian was formed")

    monkeypatch.setattr(_kinks, "trust_region_newton", no_newton)
    monkeypatch.setattr(_plan, "trust_region_newton", no_newton)
    X = np.random.RandomState(0).uniform(size=(30, 3))
    y = np.arange(30) % 3
    model = SolutionSetEstimator(
        DFCNNClassifier(max_epochs=30), n_restarts=1, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = model.fit(X, y).solution_set_
    assert not s.converged.any()
    assert "weights grow" in s.status[0]


@pytest.mark.slow
def test_no_direction_of_dead_units_leads_down():
    """Units that die in the homotopy come back: none of a minimum's would."""
    model, X, y = problem("wine", (8, 8), 1e-3, n_restarts=1)
    s = model.fit(X, y).solution_set_
    assert s.trustworthy.all()
    rng = np.random.RandomState(0)
    for gd, w in zip(model.graphical_derivatives_, s.weights, strict=True):
        plain, loss = gd.objective.off_kinks(), gd.objective.loss(gd.weights)
        dead = np.abs(w) <= 1e-10 * np.abs(w).max()
        for size in np.repeat([1e-1, 1e-2, 1e-3], 100):
            moved = w.copy()
            moved[dead] += size * rng.standard_normal(int(dead.sum()))
            assert plain.loss(moved) >= loss * (1.0 - 1e-14)
