"""Pseudo-inverses by products alone, against dense ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import minres

from sksetsens.linalg import (
    FullRowRankInverse,
    GramOperatorInverse,
    GramPseudoInverse,
    KrylovInverse,
    KrylovSettings,
    SymmetricPseudoInverse,
    gram_inverse,
)
from sksetsens.linalg._lanczos import Lanczos
from sksetsens.linalg._minimum_residual import minimise_residual


def symmetric(n, rank, n_negative=0, seed=0, spread=2.0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    eigenvalues = np.zeros(n)
    eigenvalues[:rank] = 10.0 ** rng.uniform(-spread, 0.0, rank)
    eigenvalues[:n_negative] *= -1.0
    H = (Q * eigenvalues) @ Q.T
    return 0.5 * (H + H.T), rng


class TestLanczos:
    def test_relation_and_orthogonality(self):
        H, rng = symmetric(40, 40, 10)
        space = Lanczos(rng.standard_normal(40))
        for _ in range(25):
            space.extend(H @ space.newest)
        V = np.vstack([space.basis, space.newest])
        np.testing.assert_allclose(V @ V.T, np.eye(26), atol=1e-13)
        np.testing.assert_allclose(
            space.basis @ H, space.tridiagonal().T @ V, atol=1e-13
        )

    def test_finds_an_invariant_space(self):
        H, rng = symmetric(30, 4)
        space = Lanczos(H @ rng.standard_normal(30))
        while not space.is_invariant:
            space.extend(H @ space.newest)
        assert space.n_steps == 4
        expected = np.linalg.eigvalsh(H)
        np.testing.assert_allclose(space.ritz()[0], expected[expected > 1e-9])

    def test_stays_beside_a_subspace(self):
        H, rng = symmetric(30, 30)
        W = np.linalg.eigh(H)[1][:, -5:]
        space = Lanczos(rng.standard_normal(30), beside=W)
        for _ in range(10):
            space.extend(H @ space.newest)
        assert np.abs(space.basis @ W).max() < 1e-13


class TestMinimumResidual:
    def test_iterates_are_those_of_minres(self):
        """SciPy's MINRES with the same number of steps gives the same residual."""
        H, rng = symmetric(50, 50, 20)
        b = rng.standard_normal(50)
        for steps in (1, 5, 12):
            run = minimise_residual(
                b,
                lambda v, _: H @ v,
                target=0.0,
                max_steps=steps,
                null_tol=0.0,
                rcond=0.0,
            )
            theirs = minres(H, b, rtol=1e-30, maxiter=steps)[0]
            np.testing.assert_allclose(run.value, theirs, rtol=1e-6)


class TestKrylovInverse:
    @given(
        seed=st.integers(0, 100),
        n=st.integers(2, 60),
        share=st.floats(0.1, 1.0),
        negative=st.floats(0.0, 1.0),
    )
    @settings(max_examples=40)
    def test_equals_the_dense_pseudo_inverse(self, seed, n, share, negative):
        rank = max(1, int(share * n))
        H, rng = symmetric(n, rank, int(negative * rank), seed)
        b = H @ rng.standard_normal(n)
        krylov, dense = KrylovInverse(H.__matmul__, n), SymmetricPseudoInverse(H)
        for _ in range(2):  # the second time with the eigenpairs of the first
            found = krylov.solve(b)
            assert found.is_consistent
            assert found.converged
            assert found.status == "solved"
            # |error| <= |H^+| |residual|, with |H^+| up to 100.
            scale = 100.0 * np.linalg.norm(b)
            error = np.linalg.norm(found.value - dense.solve(b).value)
            assert error <= 2.1e-8 * scale

    @given(seed=st.integers(0, 100), n=st.integers(5, 60))
    @settings(max_examples=30)
    def test_inconsistent_systems_are_told_and_solved_in_least_squares(self, seed, n):
        H, rng = symmetric(n, n // 2, n // 5, seed)
        b = rng.standard_normal(n)
        krylov, dense = KrylovInverse(H.__matmul__, n), SymmetricPseudoInverse(H)
        found, expected = krylov.solve(b), dense.solve(b)
        assert not found.is_consistent
        assert found.status.startswith("empty")
        assert np.isnan(found.value).all()
        assert found.residual == pytest.approx(expected.residual, rel=1e-6)
        expected = dense.apply(b)
        error = np.linalg.norm(krylov.apply(b) - expected)
        assert error <= 1e-3 * np.linalg.norm(expected)

    def test_right_hand_side_within_the_kernel(self):
        H, rng = symmetric(40, 20)
        krylov = KrylovInverse(H.__matmul__, 40)
        b = SymmetricPseudoInverse(H).kernel.project(rng.standard_normal(40))
        assert krylov.solve(b).residual == pytest.approx(1.0)
        assert not krylov.solve(b).is_consistent
        assert krylov.solve(0 * b).value.tolist() == [0.0] * 40

    def test_inertia_and_kernel_where_the_space_is_exhausted(self):
        H, rng = symmetric(30, 20, 5)
        krylov, dense = KrylovInverse(H.__matmul__, 30), SymmetricPseudoInverse(H)
        assert krylov.inertia[0] == 5
        z = rng.standard_normal((3, 30))
        expected = dense.kernel.project(z)
        np.testing.assert_allclose(krylov.kernel.project(z), expected, atol=1e-6)
        distances = krylov.kernel.complement_norm(z)
        np.testing.assert_allclose(
            distances, dense.kernel.complement_norm(z), rtol=1e-6
        )
        ball = krylov.kernel.sample_ball(5, 0.5, np.random.RandomState(0))
        assert (np.linalg.norm(ball, axis=1) <= 0.5 + 1e-12).all()
        assert np.linalg.norm(ball @ H) <= 1e-6

    def test_definite_matrices_have_a_trivial_kernel(self):
        H, _ = symmetric(500, 500)
        krylov = KrylovInverse(H.__matmul__, 500)
        assert krylov.kernel_dim == 0
        assert krylov.kernel.dim == 0
        assert krylov.has_clear_cutoff
        assert krylov.inertia == (0, 0, 500)

    def test_doubt_about_the_kernel_is_told(self):
        """480 steps do not resolve the small end of eigenvalues over 12 decades."""
        H, _ = symmetric(1000, 1000, spread=12.0)
        assert not KrylovInverse(H.__matmul__, 1000).has_clear_cutoff

    def test_doubt_that_more_steps_clear_is_cleared(self):
        """60 steps see eigenvalues that may be zero; some hundred, that none is."""
        H, _ = symmetric(500, 500, spread=6.0)
        krylov = KrylovInverse(H.__matmul__, 500)
        assert krylov.has_clear_cutoff
        assert krylov.inertia == (0, 0, 500)
        assert krylov._probe.space.n_steps > 60

    @pytest.mark.parametrize(
        ("n", "cluster", "n_spread", "lone"),
        [(500, 1e-5, 300, -1e-5), (1000, 1e-4, 300, -1e-6), (1000, 1e-4, 300, 0.0)],
    )
    def test_a_lone_eigenvalue_below_many_equal_ones_is_not_overlooked(
        self, n, cluster, n_spread, lone
    ):
        """Weight decay makes such clusters, to which a Ritz value converges first."""
        for seed in range(20):
            values = np.full(n, cluster)
            values[:n_spread] += np.linspace(0.0, 1.0, n_spread)
            values[-1] = lone
            np.random.default_rng(seed).shuffle(values)
            krylov = KrylovInverse(values.__mul__, n)
            assert not (krylov.kernel_dim == 0 and krylov.has_clear_cutoff) or (
                krylov.inertia[0] > 0
            )

    def test_negative_curvature_is_seen(self):
        H, _ = symmetric(500, 500, 3)
        inertia = KrylovInverse(H.__matmul__, 500).inertia
        assert 1 <= inertia[0] <= 3

    def test_a_solve_that_ends_early_is_marked(self):
        H, rng = symmetric(300, 300, spread=4.0)
        limits = KrylovSettings(max_iter=10)
        found = KrylovInverse(H.__matmul__, 300, settings=limits).solve(
            rng.standard_normal(300)
        )
        assert not found.converged
        assert found.is_consistent
        assert found.n_iter <= 11
        for knob in ("solver_max_iter", "solver_tol", "weight decay"):
            assert knob in found.status

    def test_a_short_basis_is_begun_anew(self):
        H, rng = symmetric(200, 200)
        b = rng.standard_normal(200)
        short = KrylovSettings(memory=8 * 200 * 25)
        found = KrylovInverse(H.__matmul__, 200, settings=short).solve(b)
        assert found.converged
        error = np.linalg.norm(H @ found.value + b)
        assert error <= 2e-8 * np.linalg.norm(b)

    def test_rough_products_cost_no_accuracy(self):
        H, rng = symmetric(200, 200)
        H32, n_rough = H.astype(np.float32), []

        def rough(v):
            n_rough.append(1)
            return (H32 @ v.astype(np.float32)).astype(float)

        b = rng.standard_normal(200)
        mixed = KrylovInverse(H.__matmul__, 200, rough=rough).solve(b)
        exact = KrylovInverse(H.__matmul__, 200).solve(b)
        assert len(n_rough) > 0.3 * mixed.n_iter
        assert mixed.converged
        assert mixed.residual <= 2e-8
        assert mixed.n_iter <= 1.2 * exact.n_iter

    def test_rough_products_leave_the_kernel_alone(self):
        """Several solves with a singular H: none picks up noise along ker H."""
        rng = np.random.default_rng(0)
        Q = np.linalg.qr(rng.standard_normal((400, 400)))[0]
        e = np.concatenate([np.zeros(60), np.geomspace(1e-3, 1.0, 340)])
        H = (Q * e) @ Q.T
        H32 = H.astype(np.float32)
        krylov = KrylovInverse(
            H.__matmul__, 400, rough=lambda v: (H32 @ v.astype("f4")).astype(float)
        )
        for _ in range(3):
            b = H @ rng.standard_normal(400)
            exact = (Q[:, 60:] / e[60:]) @ (Q[:, 60:].T @ b)
            found = krylov.solve(-b)
            assert found.converged
            # Errors of 1e-7 |H| per product, over eigenvalues from 1e-3 |H| on.
            error = np.linalg.norm(found.value - exact)
            assert error <= 1e-4 * np.linalg.norm(exact)
        z = rng.standard_normal(400)
        expected = Q[:, :60] @ (Q[:, :60].T @ z)
        error = np.linalg.norm(krylov.kernel.project(z) - expected)
        assert error <= 1e-3 * np.linalg.norm(expected)

    @pytest.mark.parametrize("condition", [1e6, 1e8])
    def test_ill_conditioned_is_not_inconsistent(self, condition):
        rng = np.random.default_rng(0)
        Q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
        H = (Q * np.geomspace(1.0 / condition, 1.0, 60)) @ Q.T
        assert (
            KrylovInverse(H.__matmul__, 60).solve(rng.standard_normal(60)).is_consistent
        )

    def test_one_null_direction_among_many(self):
        e = np.concatenate([[0.0], np.geomspace(0.1, 1.0, 2999)])
        krylov = KrylovInverse(lambda v: e * v, 3000)
        assert krylov.kernel_dim >= 1
        assert krylov.kernel.dim >= 1
        unit = np.eye(1, 3000)[0]
        np.testing.assert_allclose(krylov.kernel.project(unit), unit, atol=1e-6)

    def test_known_eigenpairs_save_products_in_every_solve(self):
        rng = np.random.default_rng(0)
        Q = np.linalg.qr(rng.standard_normal((300, 300)))[0]
        eigenvalues = np.concatenate([np.geomspace(10.0, 1e4, 30), np.ones(270)])
        eigenvalues[30:] += 0.3 * rng.uniform(size=270)
        H = (Q * eigenvalues) @ Q.T
        krylov = KrylovInverse(H.__matmul__, 300)
        without = krylov.least_squares(rng.standard_normal(300))
        first, second = (krylov.solve(rng.standard_normal(300)) for _ in range(2))
        assert first.converged
        assert second.converged
        assert max(first.n_iter, second.n_iter) <= 0.5 * without.n_iter

    def test_what_needs_a_basis_is_refused(self):
        H, _ = symmetric(10, 5)
        krylov = KrylovInverse(H.__matmul__, 10)
        with pytest.raises(ValueError, match="needs a factorisation.*solver='eigh'"):
            krylov.range_basis()
        with pytest.raises(ValueError, match="basis of ker H needs a factorisation"):
            krylov.kernel.spanning_basis()


class TestGramOperatorInverse:
    @pytest.mark.parametrize("rank", [12, 7])
    def test_equals_the_factorised_form(self, rank):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((12, rank)) @ rng.standard_normal((rank, 40))
        free = GramOperatorInverse(A.__matmul__, A.T.__matmul__, A.shape)
        dense = GramPseudoInverse(A)
        rho, b = rng.standard_normal(12), A.T @ rng.standard_normal(12)
        for found, expected in [
            (free.solve_factored(rho).value, dense.solve_factored(rho).value),
            (free.solve(b).value, dense.solve(b).value),
            (free.apply_factored(rho), dense.apply_factored(rho)),
            (free.apply_factored_adjoint(b), dense.apply_factored_adjoint(b)),
            (free.kernel.project(b + 1.0), dense.kernel.project(b + 1.0)),
        ]:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
        if rank == 12:  # otherwise an estimate
            assert free.rank == 12
            assert free.kernel_dim == 28

    def test_small_singular_values_are_no_kernel(self):
        """A solve that could not finish says so; it is not called solved."""
        rng = np.random.default_rng(0)
        U = np.linalg.qr(rng.standard_normal((300, 300)))[0]
        V = np.linalg.qr(rng.standard_normal((600, 300)))[0]
        A = (U * np.geomspace(10**-4.5, 1.0, 300)) @ V.T
        free = GramOperatorInverse(A.__matmul__, A.T.__matmul__, A.shape)
        rho = rng.standard_normal(300)
        found, exact = free.solve_factored(rho), -np.linalg.pinv(A) @ rho
        error = np.linalg.norm(found.value - exact) / np.linalg.norm(exact)
        assert error <= 1e-3 or not found.converged

    def test_outputs_that_cannot_follow_leave_a_residual(self):
        A = np.array([[1.0, 0.0], [1.0, 0.0]])
        free = GramOperatorInverse(A.__matmul__, A.T.__matmul__, A.shape)
        found = free.solve_factored(np.array([-1.0, 0.0]))
        np.testing.assert_allclose(found.value, [0.5, 0.0], atol=1e-12)
        assert found.is_consistent
        assert found.residual == pytest.approx(np.sqrt(0.5))


class TestFullRowRankInverse:
    """The Cholesky form against singular values."""

    @pytest.mark.parametrize("condition", [10.0, 1e4])
    def test_equals_the_singular_values_form(self, condition):
        rng = np.random.default_rng(0)
        U = np.linalg.qr(rng.standard_normal((80, 80)))[0]
        V = np.linalg.qr(rng.standard_normal((120, 80)))[0]
        A = (U * np.geomspace(1.0, 1.0 / condition, 80)) @ V.T
        fast, full = FullRowRankInverse.make(A), GramPseudoInverse(A)
        assert fast.rank == full.rank == 80
        assert fast.inertia == full.inertia
        rho, b = rng.standard_normal((2, 80)), A.T @ rng.standard_normal(80)
        error = {"rtol": 1e-6, "atol": 1e-9 * condition}
        for found, expected in [
            (fast.apply_factored(rho), full.apply_factored(rho)),
            (fast.apply_factored_adjoint(b), full.apply_factored_adjoint(b)),
            (fast.solve_factored(rho[0]).value, full.solve_factored(rho[0]).value),
            (fast.kernel.project(b + 1.0), full.kernel.project(b + 1.0)),
            (fast.weakest[0], full.weakest[0]),
            (fast.eigenvalues, full.eigenvalues),
        ]:
            np.testing.assert_allclose(found, expected, **error)
        assert abs(fast.weakest[1] @ full.weakest[1]) == pytest.approx(1.0)
        single = FullRowRankInverse.make(A.astype(np.float32))
        if single is not None:
            found = single.solve_factored(rho[0])
            assert found.is_consistent
            expected = full.solve_factored(rho[0]).value
            error = np.linalg.norm(found.value - expected)
            assert error <= 1e-4 * condition * np.linalg.norm(expected)
        outside = fast.solve(b + full.kernel.project(rng.standard_normal(120)))
        assert not outside.is_consistent

    def test_doubt_takes_the_singular_values(self):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((80, 120))
        assert isinstance(gram_inverse(A), FullRowRankInverse)
        A[0] = A[1] + 1e-7 * rng.standard_normal(120)
        assert isinstance(gram_inverse(A), GramPseudoInverse)
        assert gram_inverse(A).rank == 80
        A[0] = A[1]
        assert gram_inverse(A).rank == 79
