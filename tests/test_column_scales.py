"""Columns of very different scale without a penalty: other units, the same answer.

A linear model on ``X diag(s)`` has the minimiser ``w / s``: every weight, shift and
rank follows from the problem in better units, which least squares by QR solves.
"""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor

from sksetsens import SolutionSetEstimator, mordukhovich_criterion
from sksetsens.linalg import ScaledPseudoInverse, SymmetricPseudoInverse
from sksetsens.sensitivity import GraphicalDerivative, diagnose

SCALES = [
    (1e-7, 1.0, 1.0, 1.0),
    (1e-7, 1.0, 1e-3, 1.0),
    (1.0, 1e7, 1.0, 1.0),
    (1e-5, 1e3, 1.0, 1.0),
]


class Linear(torch.nn.Module):
    def __init__(self, n_features=4, n_outputs=1):
        super().__init__()
        self.layer = torch.nn.Linear(n_features, n_outputs)

    def forward(self, X):
        return self.layer(X)


def data(seed=3, n=60):
    rng = np.random.RandomState(seed)
    Z = rng.standard_normal((n, 4))
    return Z, Z @ [2.0, 1.0, -1.0, 0.5] + 0.3 * rng.standard_normal(n), rng


def least_squares(Z, y):
    Q, R = np.linalg.qr(np.column_stack([Z, np.ones(len(Z))]))
    return np.linalg.solve(R, Q.T @ y)


def regressor(**params):
    net = NeuralNetRegressor(Linear, train_split=None, max_epochs=1, lr=1e-17)
    return SolutionSetEstimator(net, n_restarts=1, random_state=0, **params)


@pytest.mark.parametrize("scales", SCALES)
class TestLeastSquares:
    def test_solution_shift_and_rank(self, scales):
        Z, y, rng = data()
        model = regressor().fit(Z * scales, y)
        found = model.solution_set_
        exact = least_squares(Z, y)
        units = np.append(scales, 1.0)
        np.testing.assert_allclose(found.weights[0] * units, exact, rtol=1e-8)
        assert found.kernel_dims[0] == 0
        assert found.trustworthy[0]
        assert model.score(Z * scales, y) == pytest.approx(
            1.0
            - np.sum((np.column_stack([Z, np.ones(60)]) @ exact - y) ** 2)
            / np.sum((y - y.mean()) ** 2)
        )
        dZ, h = rng.standard_normal(Z.shape), 1e-5
        moved = model.sensitivity((Z + h * dZ) * scales)
        slope = least_squares(Z + h * dZ, y) - least_squares(Z - h * dZ, y)
        np.testing.assert_allclose(
            moved.shift[0] * units, slope / 2.0, atol=1e-5 * np.linalg.norm(slope)
        )
        assert moved.trustworthy[0]

    def test_moduli_are_finite_and_exact(self, scales):
        Z, y, _ = data()
        model = regressor().fit(Z * scales, y)
        gd = model.graphical_derivatives_[0]
        # H^+ B by central differences of the exact solution, entry by entry.
        columns, h = [], 1e-5
        for i, j in np.ndindex(Z.shape):
            E = np.zeros_like(Z)
            E[i, j] = h
            slope = least_squares(Z + E, y) - least_squares(Z - E, y)
            columns.append(slope / (2.0 * h * scales[j]) / np.append(scales, 1.0))
        exact = np.column_stack(columns)
        assert np.all(gd.column_range_residuals == 0.0)
        assert model.lipschitz_moduli_[0] == pytest.approx(
            np.linalg.norm(exact, 2), rel=1e-5
        )
        per_column = np.linalg.norm(exact, axis=0).reshape(Z.shape)
        reduced = np.linalg.norm(gd.reduced_map(), axis=0)
        np.testing.assert_allclose(reduced, per_column, rtol=1e-4)

    def test_retraining_finds_the_new_minimiser(self, scales):
        Z, y, rng = data()
        model = regressor().fit(Z * scales, y)
        Z2 = Z + 0.01 * rng.standard_normal(Z.shape)
        again = model.retrain(Z2 * scales)
        units = np.append(scales, 1.0)
        np.testing.assert_allclose(
            again.weights[0] * units, least_squares(Z2, y), rtol=1e-7
        )
        assert again.trustworthy[0]


@pytest.mark.parametrize("scales", SCALES)
def test_logistic_regression(scales):
    Z, y, rng = data()
    labels = (y + 3.0 * rng.standard_normal(len(y)) > 0).astype(int)
    net = NeuralNetClassifier(
        Linear,
        module__n_outputs=2,
        criterion=torch.nn.CrossEntropyLoss,
        train_split=None,
        max_epochs=1,
        lr=1e-17,
    )
    dZ = 1e-3 * rng.standard_normal(Z.shape)
    answers = []
    for s in (np.ones(4), np.array(scales)):
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        model.fit(Z * s, labels)
        assert model.solution_set_.kernel_dims[0] == 5
        assert model.solution_set_.trustworthy[0]
        moved = model.sensitivity((Z + dZ) * s)
        # The softmax sees differences of the classes' weights only; the shortest shift
        # has no part along what it ignores.
        shift = moved.shift[0]
        layer, bias = shift[:8].reshape(2, 4), shift[8:]
        assert np.linalg.norm(layer[0] + layer[1]) <= 1e-7 * np.linalg.norm(shift)
        answers.append(np.append((layer[1] - layer[0]) * s, bias[1] - bias[0]))
    size = np.linalg.norm(answers[0])
    assert np.linalg.norm(answers[1] - answers[0]) <= 1e-6 * size


def test_a_dead_column_stays_a_kernel():
    Z, y, _ = data()
    scales = np.array([1e-7, 0.0, 1.0, 1.0])
    model = regressor().fit(Z * scales, y)
    found = model.solution_set_
    exact = least_squares(Z[:, [0, 2, 3]], y)
    np.testing.assert_allclose(
        found.weights[0][[0, 2, 3, 4]] * [1e-7, 1.0, 1.0, 1.0], exact, rtol=1e-8
    )
    kernel = model.graphical_derivatives_[0].kernel
    assert found.kernel_dims[0] == 1
    axis = np.abs(kernel.spanning_basis()[:, 0])
    np.testing.assert_allclose(axis, np.eye(5)[1], atol=1e-12)
    residuals = model.graphical_derivatives_[0].column_range_residuals
    assert np.all(residuals[:, [0, 2, 3]] <= 1e-10)
    assert found.trustworthy[0]


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0, 1.0), *SCALES, (1, 1e8, 1, 1)])
class TestVerdictsDoNotDependOnUnits:
    """A dead column leaves range H, however large another one is."""

    @staticmethod
    def fitted(scales):
        Z, y, rng = data()
        X = np.column_stack([Z * scales, np.zeros(len(Z))])
        moved = X.copy()
        moved[:, 4] = 1e-3 * rng.standard_normal(len(Z))
        net = NeuralNetRegressor(
            Linear, module__n_features=5, train_split=None, max_epochs=1, lr=1e-20
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        return model.fit(X, y), moved

    @pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
    def test_moving_the_dead_column_is_ill_posed(self, scales):
        model, moved = self.fitted(scales)
        assert model.solution_set_.trustworthy[0]
        predicted = model.sensitivity(moved)
        assert predicted.is_empty[0]
        assert predicted.residual[0] > 1e-2
        assert np.isinf(model.lipschitz_modulus_)
        (criterion,) = mordukhovich_criterion(model)
        assert criterion.is_certified
        assert not criterion.holds
        assert criterion.worst_entry[1] == 4
        np.testing.assert_array_equal(
            np.isinf(model.feature_lipschitz_moduli_[0]), [False] * 4 + [True]
        )

    def test_the_live_columns_are_as_without_it(self, scales):
        model, _ = self.fitted(scales)
        Z, y, rng = data()
        dZ = rng.standard_normal(Z.shape)
        alone = regressor().fit(Z * scales, y)
        moved = np.column_stack([(Z + 1e-5 * dZ) * scales, np.zeros(len(Z))])
        predicted = model.sensitivity(moved)
        expected = alone.sensitivity((Z + 1e-5 * dZ) * scales)
        assert predicted.trustworthy[0]
        np.testing.assert_allclose(
            predicted.shift[0][[0, 1, 2, 3, 5]] * [*scales, 1.0],
            expected.shift[0] * [*scales, 1.0],
            rtol=1e-6,
            atol=1e-9 * np.linalg.norm(expected.shift[0] * [*scales, 1.0]),
        )


class Unbiased(torch.nn.Module):
    def __init__(self, n_features=4):
        super().__init__()
        self.layer = torch.nn.Linear(n_features, 1, bias=False)

    def forward(self, X):
        return self.layer(X)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0, 1.0), *SCALES])
def test_a_layer_of_all_weights_has_the_modulus_of_the_net(scales):
    Z, y, _ = data()
    net = NeuralNetRegressor(Unbiased, train_split=None, max_epochs=1, lr=1e-17)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(Z * scales, y)
    (layer,) = model.layer_lipschitz_moduli_[0]
    assert layer == pytest.approx(model.lipschitz_modulus_, rel=1e-8)
    assert np.isfinite(layer)


def test_the_dual_form():
    # Fewer rows than weights: the shortest shift moves the weights of large columns.
    rng = np.random.RandomState(1)
    Z, y = rng.standard_normal((3, 4)), rng.standard_normal(3)
    X = Z * (1e-7, 1.0, 1.0, 1.0)
    model = regressor(solver="dual").fit(X, y)
    w, dX, h = model.solution_set_.weights[0], rng.standard_normal(X.shape), 1e-6
    A = np.column_stack([X, np.ones(3)])
    shift = model.sensitivity(X + h * dX).shift[0]
    exact = -np.linalg.pinv(A) @ (h * dX @ w[:4])
    assert np.linalg.norm(shift - exact) <= 1e-9 * np.linalg.norm(exact)


def test_what_is_not_resolved_is_not_trusted():
    Z, y, _ = data()
    X = Z * (1e-7, 1.0, 1.0, 1.0)
    model = regressor().fit(X, y)
    gd = model.graphical_derivatives_[0]
    off = gd.weights.copy()
    off[0] *= 0.5  # stationary to 1e-14 in the norm of R, half of the solution away
    there = GraphicalDerivative(gd.objective, off, stationarity=1e-14)
    told = diagnose(there, is_stationary=True, polish_status="")
    assert not told.is_trustworthy


class TestScaledPseudoInverse:
    @staticmethod
    def problem(signs, seed=0):
        """H = S^-1 K S^-1 with K of rank 4 and S over fourteen decades."""
        rng = np.random.RandomState(seed)
        p = 7
        U = np.linalg.qr(rng.standard_normal((p, p)))[0][:, : len(signs)]
        K = (U * (np.array(signs) * rng.uniform(1, 2, len(signs)))) @ U.T
        scales = np.exp2(rng.randint(0, 24, p).astype(float))
        return K / scales[:, None] / scales, K, scales

    @pytest.mark.parametrize("signs", [(1, 1, 1, 1), (1, -1, 1, 1)])
    def test_penrose_in_the_units_of_the_problem(self, signs):
        H, _, S = self.problem(signs)
        inverse = ScaledPseudoInverse(H, S)
        n_negative = sum(s < 0 for s in signs)
        assert inverse.inertia == (n_negative, 3, 4 - n_negative)
        basis = inverse.kernel.spanning_basis()
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
        # H Z = 0, each entry against the sum of the terms that cancel.
        assert np.all(np.abs(H @ basis) <= 1e-10 * (np.abs(H) @ np.abs(basis)))
        X = inverse.apply(np.eye(7))
        np.testing.assert_allclose(
            S[:, None] * (H @ X @ H) * S, S[:, None] * H * S, atol=1e-6
        )
        assert np.abs(basis.T @ X).max() <= 1e-12 * np.abs(X).max()
        np.testing.assert_allclose(X, X.T, rtol=0, atol=1e-10 * np.abs(X).max())

    def test_eigenvalues_and_vectors(self):
        d = np.exp2(-np.array([0.0, 10.0, 30.0, 60.0, 80.0]))
        inverse = ScaledPseudoInverse(np.diag(d), 1.0 / np.sqrt(d))
        np.testing.assert_allclose(inverse.eigenvalues, np.sort(d), rtol=1e-12)
        value, vector = inverse.weakest
        assert value == pytest.approx(2.0**-80)
        assert abs(vector[4]) == pytest.approx(1.0)
        assert inverse.cutoff < value

    def test_equals_the_plain_one_where_scales_agree(self):
        rng = np.random.RandomState(0)
        A = rng.standard_normal((4, 6))
        H, b = A.T @ A, rng.standard_normal(6)
        plain, scaled = SymmetricPseudoInverse(H), ScaledPseudoInverse(H, np.ones(6))
        np.testing.assert_allclose(scaled.apply(b), plain.apply(b), atol=1e-10)
        np.testing.assert_allclose(
            scaled.eigenvalues, plain.eigenvalues, atol=1e-12 * plain.eigenvalues.max()
        )
        inside = A.T @ rng.standard_normal(4)
        assert scaled.solve(inside).is_consistent
        assert not scaled.solve(b).is_consistent


@pytest.mark.parametrize("small", [1e-7, 1.0])
def test_solvers_by_products_trust_no_kernel_beside_columns_far_apart(small):
    """What is called kernel may be the curvature of a small column."""
    Z, y, _ = data()
    s = np.array([small, 1.0, 1.0, 0.0])  # The last one is dead: a kernel in any case.
    net = NeuralNetRegressor(
        Linear, max_epochs=1, lr=1e-17, train_split=None, module__n_outputs=1
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, solver="minres")
    found = model.fit(Z * s, y).solution_set_
    assert found.kernel_dims[0] > 0
    assert found.trustworthy[0] == (small == 1.0)
    assert ("standardise X" in found.status[0]) == (small != 1.0)
