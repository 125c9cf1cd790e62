"""Kinks of nets beyond dense sizes: by products with H, as dense matrices say."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

from sksetsens import Coderivative, follow_path
from sksetsens.linalg import KrylovTangentInverse, TangentInverse
from sksetsens.optimize import _kink_newton
from tests.test_relu_networks import PROBLEMS, moved_rows, problem


@pytest.fixture(scope="module")
def fits():
    """The same solutions with dense matrices and with products, and their data."""
    model, X, y = problem(*PROBLEMS["wine 16"], n_restarts=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = model.fit(X, y)
        free = clone(model).set_params(solver="minres", solver_tol=1e-12).fit(X, y)
    return dense, free, X, y


def test_inverse_on_tangents_equals_the_dense_one():
    rng = np.random.RandomState(0)
    A = rng.standard_normal((12, 12))
    H, Z = A @ A.T, rng.standard_normal((4, 12))
    H[:, 3] = H[3] = 0.0
    Z[:, 3] = 0.0
    dense, free = TangentInverse(H, Z), KrylovTangentInverse(H.__matmul__, Z)
    assert free.rank == dense.rank == 7
    assert free.inertia == dense.inertia == (0, 1, 7)
    b, c = rng.standard_normal(12), rng.standard_normal(4)
    b[3] = 0.0
    np.testing.assert_allclose(
        free.solve(b, c).value, dense.solve(b, c).value, atol=1e-10
    )
    np.testing.assert_allclose(
        free.kernel.project(rng.standard_normal(12))[[0, 5]], 0.0, atol=1e-8
    )
    b[3] = 1.0
    assert not free.solve(b, c).is_consistent


def test_products_see_what_dense_matrices_do(fits):
    dense, free, X, _ = fits
    assert [gd.solver_ for gd in free.graphical_derivatives_] == ["minres"]
    np.testing.assert_array_equal(free.solution_set_.n_kinks > 0, True)
    np.testing.assert_array_equal(free.solution_set_.trustworthy, True)
    sentences = [list(m.solution_set_.status) for m in (dense, free)]
    assert sentences[0] == sentences[1]
    assert sentences[0][0].startswith("minimum on 5 kinks: positive definite")
    one, other = (m.sensitivity(X + 1e-4 * moved_rows(X)) for m in (dense, free))
    np.testing.assert_allclose(other.weights, one.weights, rtol=0.0, atol=1e-11)
    np.testing.assert_allclose(other.first_break, one.first_break, rtol=1e-5)
    np.testing.assert_allclose(
        free.lipschitz_modulus_, dense.lipschitz_modulus_, rtol=1e-6
    )


def test_questions_backwards_and_along_paths(fits):
    dense, free, X, _ = fits
    moved = X + 0.02 * moved_rows(X)
    one, other = (follow_path(m, moved) for m in (dense, free))
    assert other.arrived.all()
    ends = [path.solution_set.weights for path in (one, other)]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-9)
    one, other = (
        [
            Coderivative(gd)(np.ones(gd.objective.n_params)).value
            for gd in m.graphical_derivatives_
        ]
        for m in (dense, free)
    )
    np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-10)


def test_newton_by_products_ends_where_dense_newton_does(fits, monkeypatch):
    model, _, X, y = fits
    dense = model.solution_set_
    monkeypatch.setattr(_kink_newton, "by_products", lambda objective: True)
    free = clone(model).fit(X, y).solution_set_
    assert free.trustworthy.all()
    assert free.stationarity.max() <= 1e-12
    np.testing.assert_array_equal(free.n_kinks, dense.n_kinks)
    np.testing.assert_allclose(free.weights, dense.weights, atol=1e-10)
