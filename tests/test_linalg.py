"""Singular solves against dense NumPy and the Penrose conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from sksetsens.linalg import (
    DefiniteInverse,
    GramPseudoInverse,
    Subspace,
    SymmetricPseudoInverse,
    operator_norm,
    symmetric_inverse,
)

SEEDS = st.integers(0, 2**31 - 1)


def symmetric(rng, p, rank, n_negative=0):
    """Symmetric matrix with eigenvalues between 0.5 and 2 in absolute value."""
    q, _ = np.linalg.qr(rng.standard_normal((p, p)))
    eigenvalues = np.zeros(p)
    eigenvalues[:rank] = rng.uniform(0.5, 2.0, rank)
    eigenvalues[:n_negative] *= -1
    return (q * eigenvalues) @ q.T


class TestSymmetric:
    @settings(max_examples=30)
    @given(SEEDS, st.integers(1, 12), st.integers(0, 12), st.integers(0, 3))
    def test_penrose_conditions_rank_and_inertia(self, seed, p, rank, n_negative):
        rank, n_negative = min(rank, p), min(n_negative, rank, p)
        rng = np.random.RandomState(seed)
        H = symmetric(rng, p, rank, n_negative)
        inverse = SymmetricPseudoInverse(H)
        X = inverse.apply(np.eye(p))
        # Condition 4: rounding of about 10 eps |H| |H^+|.
        for left, right in [(H @ X @ H, H), (X @ H @ X, X), (H @ X, (H @ X).T)]:
            np.testing.assert_allclose(left, right, atol=1e-13)
        assert inverse.rank == rank
        assert inverse.inertia == (n_negative, p - rank, rank - n_negative)
        assert inverse.has_clear_cutoff
        assert inverse.kernel.dim == p - rank

    @settings(max_examples=30)
    @given(SEEDS, st.integers(2, 12))
    def test_solution_is_the_shortest(self, seed, p):
        rng = np.random.RandomState(seed)
        H = symmetric(rng, p, p - 1)
        inverse = SymmetricPseudoInverse(H)
        b = H @ rng.standard_normal(p)
        solved = inverse.solve(b)
        np.testing.assert_allclose(solved.value, -np.linalg.pinv(H) @ b, atol=1e-12)
        assert solved.is_consistent
        assert solved.status == "solved"
        assert np.linalg.norm(inverse.kernel.project(solved.value)) < 1e-12

    def test_spectrum_without_gap_reports_what_rcond_decides(self):
        inverse = SymmetricPseudoInverse(np.diag([1.0, 3e-8, 3e-9]), rcond=1e-8)
        assert not inverse.has_clear_cutoff
        assert inverse.gap == pytest.approx(10.0)
        solved = inverse.solve(np.array([1.0, 3e-8, 0.0]))
        # A decade up drops the second direction, of equal weight in the solution.
        assert solved.cutoff_change == pytest.approx(np.sqrt(0.5))
        assert "depends on rcond" in solved.status

    def test_noise_widens_the_default_cutoff_only(self):
        H = np.diag([1.0, 1e-9])
        assert SymmetricPseudoInverse(H).rank == 2
        assert SymmetricPseudoInverse(H, noise=1e-8).rank == 1
        assert SymmetricPseudoInverse(H, noise=1e-8, rcond=1e-12).rank == 2

    def test_eigenvalues_within_the_noise_deny_a_clear_cutoff(self):
        """1e-11 is neither rounding nor known to differ from zero at noise 1e-8."""
        assert not SymmetricPseudoInverse(
            np.diag([1.0, 1e-11]), noise=1e-8
        ).has_clear_cutoff
        assert SymmetricPseudoInverse(
            np.diag([1.0, 1e-16]), noise=1e-8
        ).has_clear_cutoff

    def test_known_rank_overrides_the_cutoff(self):
        H = np.diag([1.0, -1e-2, 1e-3])
        inverse = SymmetricPseudoInverse(H, rank=1)
        assert inverse.rank == 1
        np.testing.assert_allclose(inverse.apply(np.ones(3)), [1.0, 0.0, 0.0])
        assert GramPseudoInverse(np.diag([1.0, 1e-2]), rank=1).rank == 1


class TestGram:
    @settings(max_examples=30)
    @given(SEEDS, st.integers(1, 6), st.integers(0, 8))
    def test_equals_the_dense_form(self, seed, m, extra):
        rng = np.random.RandomState(seed)
        A = rng.standard_normal((m, m + extra))
        A[-1] = A[0]  # a repeated row: rank m - 1 for m > 1
        gram, dense = GramPseudoInverse(A), SymmetricPseudoInverse(A.T @ A)
        assert gram.rank == dense.rank == np.linalg.matrix_rank(A)
        rho = rng.standard_normal(m)
        solved = gram.solve_factored(rho)
        scale = np.linalg.norm(np.linalg.pinv(A))
        np.testing.assert_allclose(
            solved.value, -np.linalg.pinv(A) @ rho, atol=1e-12 * scale
        )
        np.testing.assert_allclose(
            gram.solve(A.T @ rho).value, solved.value, atol=1e-11 * scale**2
        )
        v = rng.standard_normal(m + extra)
        np.testing.assert_allclose(
            gram.apply_factored_adjoint(v) @ rho, v @ gram.apply_factored(rho)
        )

    def test_sees_directions_that_the_dense_hessian_loses(self):
        """Singular values 1 and 1e-9: eigenvalues 1 and 1e-18, below rounding."""
        A = np.array([[1.0, 0.0, 0.0], [0.0, 1e-9, 0.0]])
        assert GramPseudoInverse(A).rank == 2
        assert SymmetricPseudoInverse(A.T @ A).rank == 1

    def test_rcond_refers_to_eigenvalues(self):
        A = np.diag([1.0, 1e-3])
        assert GramPseudoInverse(A, rcond=1e-5).rank == 1
        assert GramPseudoInverse(A, rcond=1e-7).rank == 2


class TestSubspace:
    @settings(max_examples=30)
    @given(SEEDS, st.integers(1, 8), st.integers(0, 8), st.booleans())
    def test_projector(self, seed, p, k, is_complement):
        rng = np.random.RandomState(seed)
        basis, _ = np.linalg.qr(rng.standard_normal((p, min(k, p))))
        space = Subspace(basis, is_complement)
        P = space.project(np.eye(p))
        np.testing.assert_allclose(P @ P, P, atol=1e-13)
        np.testing.assert_allclose(P, P.T, atol=1e-13)
        assert np.trace(P) == pytest.approx(space.dim, abs=1e-10)
        v = rng.standard_normal((3, p))
        np.testing.assert_allclose(
            space.complement_norm(v), np.linalg.norm(v - v @ P, axis=1), atol=1e-12
        )
        spanning = space.spanning_basis()
        np.testing.assert_allclose(spanning @ spanning.T, P, atol=1e-12)

    def test_ball_samples_are_inside_and_fill_it(self):
        space = Subspace(np.eye(4)[:, :2])
        points = space.sample_ball(4000, 2.0, np.random.RandomState(0))
        radii = np.linalg.norm(points, axis=1)
        assert radii.max() <= 2.0
        assert (points[:, 2:] == 0).all()
        # Uniform in the disc: half the points within 2 / sqrt(2); 5 sigma = 0.04.
        assert np.mean(radii < np.sqrt(2.0)) == pytest.approx(0.5, abs=0.04)

    def test_containment(self):
        line, plane = Subspace(np.eye(3)[:, :1]), Subspace(np.eye(3)[:, :2])
        assert plane.contains(line)
        assert not line.contains(plane)
        assert not line.contains(Subspace(np.eye(3)[:, 1:2]))


@pytest.mark.parametrize("shape", [(3, 50), (50, 3), (80, 90), (90, 80)])
def test_operator_norm(shape):
    A = np.random.RandomState(0).standard_normal(shape)
    norm, direction = operator_norm(aslinearoperator(A))
    assert norm == pytest.approx(np.linalg.norm(A, 2), rel=1e-12)
    assert np.linalg.norm(A @ direction) == pytest.approx(norm, rel=1e-12)


def test_norm_of_a_large_zero_operator():
    """ARPACK raises on a start in the kernel."""
    norm, direction = operator_norm(aslinearoperator(np.zeros((80, 90))))
    assert norm == 0.0
    assert np.linalg.norm(direction) == 1.0


class TestDefiniteInverse:
    @staticmethod
    def spectrum(smallest, p=450):
        rng = np.random.RandomState(0)
        Q = np.linalg.qr(rng.standard_normal((p, p)))[0]
        eigenvalues = np.geomspace(smallest, 1.0, p)
        return (Q * eigenvalues) @ Q.T, eigenvalues

    def test_agrees_with_the_eigendecomposition(self):
        H, eigenvalues = self.spectrum(1e-6)
        fast, full = symmetric_inverse(H), SymmetricPseudoInverse(H)
        assert isinstance(fast, DefiniteInverse)
        assert (fast.rank, fast.kernel_dim, fast.inertia) == (450, 0, (0, 0, 450))
        np.testing.assert_allclose(fast.eigenvalues, eigenvalues[[0, -1]], rtol=1e-2)
        assert fast.gap == pytest.approx(full.gap, rel=0.02)
        b = np.random.RandomState(1).standard_normal((3, 450))
        np.testing.assert_allclose(fast.apply(b), full.apply(b), rtol=1e-6, atol=1e-4)
        solved = fast.solve(b[0])
        assert solved.is_consistent
        assert solved.residual < 1e-9
        assert fast.weakest[0] == pytest.approx(1e-6, rel=1e-6)
        basis, kept = fast.range_basis()
        np.testing.assert_allclose((basis * kept) @ basis.T, H, atol=1e-12)

    def test_the_matrix_stands_beside_its_factor(self):
        H, eigenvalues = self.spectrum(1e-6)
        before = H.copy()
        inverse = DefiniteInverse.make(H)
        np.testing.assert_array_equal(H, before)
        H[:] = 0.0
        np.testing.assert_allclose(inverse.matrix, before, atol=1e-16)
        V = np.random.RandomState(1).standard_normal((450, 3))
        np.testing.assert_allclose(inverse.product(V), before @ V, atol=1e-12)
        np.testing.assert_allclose(inverse.product(V[:, 0]), before @ V[:, 0])
        value, vector = inverse.weakest
        np.testing.assert_allclose(before @ vector, value * vector, atol=1e-9)
        assert np.linalg.norm(vector) == pytest.approx(1.0)
        near = inverse.nearby
        v = near.root(near.root_adjoint(V[:, 0]))
        np.testing.assert_allclose(v, inverse.apply(V[:, 0]), rtol=1e-6)
        np.testing.assert_allclose(near.solve(V[:, 0]), v, rtol=1e-6)
        assert near.lift < eigenvalues[0]

    @pytest.mark.parametrize("smallest", [1e-12, 1e-16])
    def test_doubt_takes_the_spectrum(self, smallest):
        """Near the cut-off, and where an eigenvalue is zero or negative."""
        H, _ = self.spectrum(smallest)
        assert isinstance(symmetric_inverse(H), SymmetricPseudoInverse)
        assert isinstance(symmetric_inverse(-H), SymmetricPseudoInverse)
        assert isinstance(symmetric_inverse(H, rank=300), SymmetricPseudoInverse)

    def test_noise_widens_the_doubt(self):
        H, _ = self.spectrum(1e-6)
        assert isinstance(symmetric_inverse(H, noise=1e-6), SymmetricPseudoInverse)
        assert isinstance(symmetric_inverse(H, rcond=1e-3), SymmetricPseudoInverse)
