"""Graphical derivative and modulus against dense linear algebra."""

import pickle

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sksetsens.datasets import make_toy_network
from sksetsens.linalg import DefiniteInverse
from sksetsens.moduli import modulus
from sksetsens.networks import DFCNN
from sksetsens.objective import Objective, initialised_net
from sksetsens.optimize import polish
from sksetsens.sensitivity import GraphicalDerivative
from sksetsens.sensitivity.systems import _choice, _matrix_free


def objective(n=12, d=3, width=8, weight_decay=0.0, seed=0):
    """A tanh net on random data; 41 weights, interpolating for n = 12."""
    rng = np.random.RandomState(seed)
    X, y = rng.standard_normal((n, d)), rng.standard_normal((n, 1))
    net = NeuralNetRegressor(
        DFCNN,
        module__n_features=d,
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=weight_decay,
        verbose=0,
    )
    problem = Objective(initialised_net(net, {}, seed), X, y)
    point = polish(problem, problem.weights, tol=1e-10)
    assert point.converged
    return problem, point


@pytest.fixture(scope="module")
def interpolating():
    return objective()


@pytest.fixture(scope="module")
def penalised():
    return objective(n=30, weight_decay=0.01)


def test_auto_takes_the_dual_at_interpolation(interpolating, penalised):
    problem, point = interpolating
    assert GraphicalDerivative(problem, point.weights).solver_ == "dual"
    problem, point = penalised
    assert GraphicalDerivative(problem, point.weights).solver_ == "eigh"


def test_auto_keeps_the_exact_hessian_before_interpolation(interpolating):
    """With residuals of a tenth the neglected curvature would be a wrong answer."""
    problem, point = interpolating
    moved = point.weights + 0.1 * np.random.RandomState(0).standard_normal(41)
    assert GraphicalDerivative(problem, moved).solver_ == "eigh"
    forced = GraphicalDerivative(problem, moved, solver="dual")
    assert forced.neglected_curvature > 1.0


def test_dual_refused_with_a_penalty(penalised):
    problem, point = penalised
    with pytest.raises(ValueError, match="'auto', 'eigh' or 'lsmr' .* penalty on"):
        GraphicalDerivative(problem, point.weights, solver="dual")


@pytest.mark.parametrize("kind", ["interpolating", "penalised"])
def test_modulus_is_the_norm_of_the_solution_map(kind, request):
    problem, point = request.getfixturevalue(kind)
    gd = GraphicalDerivative(problem, point.weights)
    found = modulus(gd)
    dense_map = gd.solution_operator @ np.eye(gd.B.shape[1])
    assert found.value == pytest.approx(np.linalg.norm(dense_map, 2), rel=1e-10)
    assert np.linalg.norm(found.direction) == pytest.approx(1.0)
    attained = np.linalg.norm(gd(found.direction).shift)
    assert attained == pytest.approx(found.value, rel=1e-9)


def test_modulus_of_some_rows(penalised):
    problem, point = penalised
    gd = GraphicalDerivative(problem, point.weights)
    rows = np.zeros(30, dtype=bool)
    rows[[2, 7]] = True
    found = modulus(gd, rows)
    dense_map = (gd.solution_operator @ np.eye(90)).reshape(41, 30, 3)
    expected = np.linalg.norm(dense_map[:, rows].reshape(41, -1), 2)
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert not found.direction[~rows].any()
    assert found.value <= modulus(gd).value


def test_targets_move_solutions(penalised):
    """Regression targets enter the right-hand side: finite difference of retraining."""
    problem, point = penalised
    gd = GraphicalDerivative(problem, point.weights)
    dy = np.random.RandomState(0).standard_normal((30, 1))
    X, y = problem._x.numpy(), problem._y.numpy()
    shift = gd(np.zeros_like(X), dy).shift
    h = 1e-5
    ends = [
        polish(problem.with_data(X, y + s * dy), point.weights, tol=1e-12, warm=True)
        for s in (h, -h)
    ]
    difference = (ends[0].weights - ends[1].weights) / (2 * h)
    # Central difference: relative error of order h^2 times third derivatives.
    assert np.linalg.norm(shift - difference) <= 1e-5 * np.linalg.norm(shift)


def test_corrections_keep_the_rank():
    """Off the set the null eigenvalues of H are not rounding; the rank is known."""
    toy = make_toy_network()
    net = NeuralNetRegressor(toy.module, module__start=(1.0, 2.0), verbose=0)
    problem = Objective(initialised_net(net, {}, 0), toy.X, toy.y[:, None])
    gd = GraphicalDerivative(problem, toy.weights)
    off = problem.with_data(toy.X_perturbed)
    assert gd.at(off, toy.weights + toy.shift, keep_rank=False).factor.rank == 2
    assert gd.at(off, toy.weights + toy.shift).factor.rank == 1


def test_dense_memory_error_names_the_other_solver(interpolating, monkeypatch):
    problem, point = interpolating
    monkeypatch.setattr(_choice, "factorisation_budget", lambda: 20_000.0)
    with pytest.raises(ValueError, match="0.0 GB are allowed.*'minres'.*'lsmr'"):
        GraphicalDerivative(problem, point.weights, solver="eigh")


def test_auto_factorises_larger_nets_that_are_definite(penalised, monkeypatch):
    """One Cholesky factor tells; points close by are solved for in its scales."""
    problem, point = penalised
    w = point.weights
    dense = GraphicalDerivative(problem, w)
    monkeypatch.setattr(_choice, "DENSE_MAX_PARAMS", 10)
    gd = GraphicalDerivative(problem, w)
    assert gd.solver_ == "eigh"
    assert isinstance(gd.factor, DefiniteInverse)
    v = np.random.default_rng(0).standard_normal(len(w))
    np.testing.assert_allclose(gd.H.matvec(v), problem.hessian_product(w, v), rtol=1e-9)
    np.testing.assert_allclose(gd.factor.apply(v), dense.factor.apply(v), rtol=1e-8)
    monkeypatch.setattr(_matrix_free, "SINGLE_FROM", 1)
    there = gd.at(problem, w + 1e-3 * v)
    pickle.loads(pickle.dumps(there))
    assert there.solver_ == "minres"
    assert there.at(problem, w).solver_ == "minres"
    truth = dense.at(problem, w + 1e-3 * v)
    np.testing.assert_allclose(
        there.newton_step(), truth.newton_step(), atol=1e-6 * np.linalg.norm(v)
    )
    assert there.factor.inertia == (0, 0, len(w))
    # Far from a minimum there is nothing that Cholesky could tell.
    far = w + 3.0 * v
    assert np.linalg.eigvalsh(problem.hessian(far))[0] < 0.0
    assert GraphicalDerivative(problem, far).solver_ == "minres"
    monkeypatch.setattr(_choice, "DEFINITE_SHARE", 0.0)
    assert GraphicalDerivative(problem, w).solver_ == "minres"


def test_auto_is_matrix_free_beyond_the_dense_limit(
    penalised, interpolating, monkeypatch
):
    monkeypatch.setattr(_choice, "DENSE_MAX_PARAMS", 10)
    monkeypatch.setattr(_choice, "DEFINITE_MAX_PARAMS", 10)
    problem, point = penalised
    assert GraphicalDerivative(problem, point.weights).solver_ == "minres"
    problem, point = interpolating
    assert GraphicalDerivative(problem, point.weights).solver_ == "dual"
    monkeypatch.setattr(_choice, "DUAL_MAX_EQUATIONS", 10)
    assert GraphicalDerivative(problem, point.weights).solver_ == "lsmr"
