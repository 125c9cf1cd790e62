"""Solves in the scales of a matrix near H, and the proof that H is definite."""

import numpy as np
import pytest

from sksetsens.linalg import (
    KrylovInverse,
    Lanczos,
    LiftedLowRank,
    PreconditionedInverse,
)
from sksetsens.linalg._preconditioned import _lower_bound

N, RANK = 400, 20


def problem(seed=0, small=()):
    """H = A'A + 1e-3 I plus something small, P = A'A + 1e-3 I."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((RANK, N))
    noise = rng.standard_normal((N, N))
    H = A.T @ A + 1e-3 * np.eye(N) + 1e-6 * (noise + noise.T)
    for value in small:
        v = rng.standard_normal(N)
        v -= A.T @ np.linalg.lstsq(A.T, v)[0]
        v /= np.linalg.norm(v)
        H += (value - v @ H @ v) * np.outer(v, v)
    return H, LiftedLowRank(A @ A.T, A.__matmul__, A.T.__matmul__, 1e-3)


def inverse_of(H, P, rough=None):
    return PreconditionedInverse(H.__matmul__, N, near=lambda: P, rough=rough)


@pytest.mark.parametrize("single", [False, True])
def test_definite_matrices_are_proved_and_solved_in_few_products(single):
    H, P = problem()

    def rough(v):
        product = H.astype(np.float32) @ v.astype(np.float32)
        return product.astype(np.float64)

    inverse = inverse_of(H, P, rough if single else None)
    b = np.random.default_rng(1).standard_normal(N)
    found = inverse.solve(b)
    np.testing.assert_allclose(found.value, -np.linalg.solve(H, b), rtol=1e-5, atol=0.1)
    assert found.residual <= 1e-8
    assert found.converged
    assert found.n_iter <= 25
    assert inverse.inertia == (0, 0, N)
    assert inverse.has_clear_cutoff
    assert inverse.is_rank_exact
    least = np.linalg.eigvalsh(H)[0]
    assert inverse._proof.least <= least
    value, v = inverse.weakest
    assert least <= value <= 3.0 * least
    assert v @ H @ v == pytest.approx(value)


@pytest.mark.parametrize("value", [-1e-2, -1e-4, 0.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_lone_eigenvalue_that_is_not_positive_is_never_overlooked(value, seed):
    H, P = problem(seed, small=[value])
    assert np.linalg.eigvalsh(H)[0] <= value + 1e-9
    assert inverse_of(H, P)._proof is None


def test_without_a_proof_all_is_as_without_a_preconditioner():
    H, P = problem(small=[-1e-2])
    b = np.random.default_rng(1).standard_normal(N)
    plain, other = KrylovInverse(H.__matmul__, N), inverse_of(H, P)
    np.testing.assert_array_equal(plain.solve(b).value, other.solve(b).value)
    assert plain.inertia == other.inertia
    assert inverse_of(H, None)._proof is None


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_holds_for_spectra_of_all_kinds(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.uniform(0.1, 3.0, 2000) ** rng.uniform(0.3, 4.0))
    start = rng.standard_normal(2000)
    space = Lanczos(start)
    for _ in range(40):
        space.extend(values * space.newest)
        theta = space.ritz()[0]
        assert _lower_bound(theta, space.n_steps, 2000) <= values[0] + 1e-12


def test_products_in_float32_prove_nothing():
    """They may hide that an eigenvalue is negative, by any amount."""
    H, P = problem(small=[-1e-2])
    definite, _ = problem()
    inverse = inverse_of(H, P, rough=definite.__matmul__)
    assert inverse._proof is None
    assert not inverse.has_clear_cutoff or inverse.inertia[0]
