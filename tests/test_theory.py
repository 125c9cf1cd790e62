"""The mathematics, through the public estimator, against closed forms."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import (
    make_dead_feature,
    make_degenerate_product,
    make_isolated_minimum,
    make_saddle,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.exceptions import (
    IllPosedWarning,
    NonlinearityWarning,
    StationarityWarning,
)
from sksetsens.networks import DFCNNRegressor

SMOOTH_STEPS = {"lr": 0.02, "max_epochs": 20}


def fitted(problem, n_restarts=1, *, start=None, weight_decay=0.0, **params):
    """Estimator on a problem of sksetsens.datasets, seeded."""
    if start is not None:
        params["module__start"] = start
    options = {
        k: params.pop(k) for k in ("solver", "rcond", "perturbation") if k in params
    }
    net = NeuralNetRegressor(
        problem.module,
        criterion=problem.criterion,
        train_split=None,
        optimizer__weight_decay=weight_decay,
        **SMOOTH_STEPS,
        **params,
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0, **options)
    return model.fit(problem.X, problem.y)


class TestToyNetwork:
    """The paper's toy example; reference values from its own mathematics."""

    @pytest.fixture(scope="class")
    @classmethod
    def toy(cls):
        return make_toy_network()

    @pytest.fixture(scope="class")
    @classmethod
    def at_paper_point(cls, toy):
        return fitted(toy, start=(1.0, 2.0))

    def test_solution_and_hessian(self, toy, at_paper_point):
        (gd,) = at_paper_point.graphical_derivatives_
        np.testing.assert_allclose(gd.H @ np.eye(2), toy.H, rtol=1e-12)
        np.testing.assert_allclose(gd.B @ np.eye(2), toy.B, rtol=1e-12)
        np.testing.assert_allclose(gd.factor.eigenvalues, [0, 25], atol=1e-12)
        assert at_paper_point.solution_set_.kernel_dims.tolist() == [1]

    def test_modulus(self, toy, at_paper_point):
        assert at_paper_point.lipschitz_modulus_ == pytest.approx(0.4, abs=1e-12)
        radius = at_paper_point.lipschitz_modulus_ * np.linalg.norm(toy.dX)
        assert radius == pytest.approx(0.178885, abs=1e-6)

    def test_shift_and_losses(self, toy, at_paper_point):
        predicted = at_paper_point.sensitivity(toy.X_perturbed)
        np.testing.assert_allclose(predicted.shift, [[0.16, 0.08]], atol=1e-12)
        assert predicted.shift_norm == pytest.approx(0.178885, abs=1e-6)
        assert predicted.base_losses == pytest.approx(0.4, abs=1e-12)
        # 5/2 (2 - 0.8 * 1.16 * 2.08)^2
        assert predicted.losses == pytest.approx(0.0121661, abs=1e-6)
        assert predicted.residual == pytest.approx(0.0, abs=1e-12)

    def test_losses_over_the_estimated_set_in_the_ball(self, toy, at_paper_point):
        predicted = at_paper_point.sensitivity(toy.X_perturbed)
        points = predicted.sample(2000, 0.2, random_state=0, center="base")[0]
        base = at_paper_point.solution_set_.weights
        assert np.linalg.norm(points - base, axis=1).max() <= 0.2 + 1e-12
        products = points.prod(axis=1)
        losses = 2.5 * (2 - 0.8 * products) ** 2
        assert losses.min() == pytest.approx(0.0104, abs=1e-4)
        assert losses.max() == pytest.approx(0.0160, abs=1e-4)

    def test_true_distance_by_retraining_from_the_nearest_point(self, toy):
        """The perturbed set is w1 w2 = 2.5; its nearest point is the generator's."""
        assert toy.true_distance == pytest.approx(0.215027, abs=1e-6)
        np.testing.assert_allclose(toy.true_nearest, [1.1873, 2.1056], atol=1e-4)
        assert toy.true_nearest.prod() == pytest.approx(2.5)

    def test_restarts_sample_the_curve_on_both_branches(self, toy):
        model = fitted(toy, n_restarts=12)
        weights = model.solution_set_.weights
        np.testing.assert_allclose(weights.prod(axis=1), 2.0, atol=1e-9)
        assert (weights[:, 0] > 0).any()
        assert (weights[:, 0] < 0).any()
        retrained = model.retrain(toy.X_perturbed)
        np.testing.assert_allclose(retrained.weights.prod(axis=1), 2.5, atol=1e-9)

    def test_worst_case_attains_the_modulus(self, toy):
        model = fitted(toy, start=(1.0, 2.0), perturbation="worst_case")
        model.set_params(perturbation_size=1e-3)
        X_perturbed = model.perturb()
        size = np.linalg.norm(X_perturbed - toy.X)
        assert size == pytest.approx(1e-3 * np.sqrt(2))
        shift = model.sensitivity(X_perturbed).shift_norm
        assert shift == pytest.approx(0.4 * size, rel=1e-10)


@pytest.mark.parametrize(("n_samples", "n_features"), [(5, 9), (40, 200)])
def test_underdetermined_linear(n_samples, n_features):
    problem = make_underdetermined_linear(n_samples, n_features, random_state=1)
    model = fitted(problem, n_restarts=2, module__n_features=n_features)
    solutions = model.solution_set_
    assert (solutions.kernel_dims == n_features - n_samples).all()
    predicted = model.sensitivity(problem.X_perturbed)
    for w, shift, kappa in zip(
        solutions.weights, predicted.shift, model.lipschitz_moduli_, strict=True
    ):
        assert problem.distance(w) <= 1e-10
        np.testing.assert_allclose(shift, problem.shift(w, problem.dX), atol=1e-8)
        assert kappa == pytest.approx(problem.lipschitz_modulus(w), rel=1e-8)


class TestDeadFeature:
    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        return make_dead_feature(random_state=0)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, problem):
        return fitted(problem, n_restarts=2, module__n_features=problem.X.shape[1])

    def test_modulus_is_infinite(self, model):
        assert np.isinf(model.lipschitz_moduli_).all()
        assert np.isinf(model.lipschitz_modulus_)

    def test_dead_column_empties_the_set(self, model, problem):
        with pytest.warns(IllPosedWarning, match="empty at 2 of 2"):
            predicted = model.sensitivity(problem.X_perturbed_dead)
        assert predicted.is_empty.all()
        assert np.isnan(predicted.weights).all()
        assert np.isinf(predicted.shift_norm).all()
        assert all("leaves range H" in sentence for sentence in predicted.status)

    def test_live_columns_have_a_finite_answer(self, model, problem):
        predicted = model.sensitivity(problem.X_perturbed_live)
        assert not predicted.is_empty.any()
        expected = problem.shift(problem.dX_live)
        np.testing.assert_allclose(predicted.shift, [expected] * 2, atol=1e-8)


class TestIsolatedMinimum:
    def test_ridge(self):
        problem = make_isolated_minimum(random_state=0)
        model = fitted(
            problem,
            module__n_features=problem.X.shape[1],
            weight_decay=problem.weight_decay,
        )
        np.testing.assert_allclose(
            model.solution_set_.weights[0], problem.weights, atol=1e-10
        )
        assert model.solution_set_.kernel_dims[0] == 0
        assert model.lipschitz_modulus_ == pytest.approx(problem.lipschitz_modulus)
        shift = model.sensitivity(problem.X_perturbed).shift[0]
        np.testing.assert_allclose(shift, problem.shift(problem.dX), atol=1e-10)

    def test_softmax_regression_is_the_influence_function(self):
        X, y = load_wine(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        penalty = 0.01
        model = softmax_model(penalty).fit(X, y)
        rng = np.random.RandomState(0)
        dX = rng.standard_normal(X.shape)
        size = 1e-4
        shift = model.sensitivity(X + size * dX).shift[0]
        weights = model.solution_set_.weights[0].reshape(3, -1)
        influence = softmax_influence(X, y, weights, penalty, size * dX)
        assert np.linalg.norm(shift - influence) <= 1e-8 * np.linalg.norm(influence)
        # L = mean loss + penalty / 2 |w|^2 is 1 / (n C) with C of LogisticRegression.
        C = 1.0 / (penalty * len(X))
        before, after = (
            logistic_weights(data, y, C) for data in (X - size * dX, X + size * dX)
        )
        difference = (after - before) / 2
        gap = np.linalg.norm(shift - difference) / np.linalg.norm(difference)
        assert gap <= 1e-3


class Softmax(nn.Module):
    """Multinomial logistic regression without an intercept."""

    def __init__(self, n_features=1, n_outputs=1):
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs, bias=False)

    def forward(self, X):
        return self.linear(X)


class Probabilities(Softmax):
    """For NeuralNetClassifier's default NLLLoss."""

    def forward(self, X):
        return torch.softmax(super().forward(X), dim=1)


def softmax_model(penalty):
    net = NeuralNetClassifier(
        Softmax,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=penalty,
        lr=0.05,
        max_epochs=20,
        train_split=None,
    )
    return SolutionSetEstimator(net, n_restarts=1, random_state=0)


def softmax_influence(X, y, W, penalty, dX):
    """Influence function -H^-1 B dx of multinomial regression, in NumPy.

    R = X'(P - Y) / n + penalty W for weights W of shape (classes, features).
    """
    n, k = len(X), len(W)
    logits = X @ W.T
    P = np.exp(logits - logits.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    Lambda = np.einsum("ni,ij->nij", P, np.eye(k)) - np.einsum("ni,nj->nij", P, P)
    H = np.einsum("nij,na,nb->iajb", Lambda, X, X).reshape(W.size, W.size) / n
    H += penalty * np.eye(W.size)
    residual = P - np.eye(k)[y]
    dP = np.einsum("nij,nj->ni", Lambda, dX @ W.T)
    B_dX = (residual.T @ dX + dP.T @ X) / n
    return -np.linalg.solve(H, B_dX.ravel())


def logistic_weights(X, y, C):
    model = LogisticRegression(
        C=C, fit_intercept=False, tol=1e-12, max_iter=2000, solver="newton-cg"
    )
    return model.fit(X, y).coef_.ravel()


class TestWhereFirstOrderIsNotEnough:
    """The four cases, each recognised and told."""

    def test_rank_changes_at_the_point(self):
        problem = make_degenerate_product()
        with pytest.warns(IllPosedWarning, match="rank of H changes"):
            model = fitted(problem, start=(0.0, 0.0))
        assert "degenerate" in model.solution_set_.status[0]
        assert not model.solution_set_.trustworthy[0]
        assert np.isinf(model.lipschitz_modulus_)
        predicted = model.sensitivity(problem.X_perturbed)
        assert not predicted.trustworthy[0]
        assert "untrustworthy" in predicted.status[0]

    def test_saddle(self):
        problem = make_saddle()
        with pytest.warns(IllPosedWarning, match="saddle: 1 negative"):
            model = fitted(problem, start=(0.0, 0.0))
        assert model.solution_set_.inertias[0].tolist() == [1, 0, 1]

    def test_no_gap_at_the_cutoff(self):
        """A polynomial spectrum that rcond cuts in the middle."""
        rng = np.random.RandomState(0)
        scales = 10.0 ** -np.arange(0, 8, 0.5)
        q, _ = np.linalg.qr(rng.standard_normal((60, len(scales))))
        X = q * scales
        y = X @ rng.standard_normal(len(scales)) + 0.1 * rng.standard_normal(60)
        net = NeuralNetRegressor(
            make_underdetermined_linear().module, train_split=None, **SMOOTH_STEPS
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0, rcond=1e-8)
        with pytest.warns(IllPosedWarning, match="no gap at the cut-off"):
            model.fit(X, y)
        with pytest.warns(UserWarning):  # noqa: PT030 (empty or nonlinear: either way)
            predicted = model.sensitivity(X + 1e-3 * rng.standard_normal(X.shape))
        assert not predicted.trustworthy[0]
        assert predicted.cutoff_change[0] > 0.1

    def test_kink_at_the_point(self):
        """f = relu(w) x fitted to y = 0: the minimiser w = 0 is the kink."""
        X = np.array([[1.0], [2.0]])
        net = NeuralNetRegressor(ReluSlope, train_split=None, **SMOOTH_STEPS)
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        with pytest.warns(IllPosedWarning, match="kink here .* sit on it"):
            model.fit(X, np.zeros(2))
        assert "smooth activation" in model.solution_set_.status[0]

    def test_duplicated_rows_change_the_rank_as_the_data_moves(self):
        """Copies of a row share an equation until they come apart."""
        rng = np.random.RandomState(0)
        X = rng.standard_normal((10, 3))
        X = np.r_[X, X[:3]]
        net = DFCNNRegressor(
            module__hidden_widths=(40,),
            module__activation="tanh",
            module__bias=True,
            module__train_output=True,
            max_epochs=30,
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        with pytest.warns(IllPosedWarning, match="rank of H changes"):
            model.fit(X, np.sin(X[:, 0]) + X[:, 1])
        assert model.solution_set_.ranks[0] == 10
        assert np.isinf(model.lipschitz_modulus_)

    def test_badly_scaled_features_are_solved_or_told(self):
        """A column 1e5 times the others: its Hessian block must not hide theirs."""
        rng = np.random.RandomState(0)
        X = rng.standard_normal((40, 4)) * [1e5, 1, 1, 1]
        y = X @ [1e-5, 1, 1, 1] + 0.3 * rng.standard_normal(40)
        net = NeuralNetRegressor(
            make_underdetermined_linear().module,
            module__n_features=4,
            train_split=None,
            lr=1e-11,
            max_epochs=2,
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
        exact = np.linalg.lstsq(X, y, rcond=None)[0]
        error = np.linalg.norm(model.solution_set_.weights[0] - exact)
        assert error <= 1e-4 * np.linalg.norm(exact)
        assert model.solution_set_.kernel_dims[0] == 0

    def test_moduli_of_saddles_are_not_certified(self):
        problem = make_saddle()
        with pytest.warns(IllPosedWarning, match="saddle"):
            model = fitted(problem, start=(0.0, 0.0))
        assert np.isinf(model.lipschitz_modulus_)

    def test_small_dead_feature_beside_a_large_one(self):
        problem = make_dead_feature(random_state=0)
        X = problem.X.copy()
        X[:, 0] *= 1e4
        net = NeuralNetRegressor(
            problem.module,
            module__n_features=X.shape[1],
            train_split=None,
            lr=1e-10,
            max_epochs=2,
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        assert np.isinf(model.fit(X, problem.y).lipschitz_modulus_)

    def test_saturated_classifier_is_no_solution(self):
        """Unscaled data: the probabilities are 0 and 1, R and H exactly 0."""
        X, y = load_iris(return_X_y=True)
        X, y = 1000.0 * X[y < 2], y[y < 2]
        net = NeuralNetClassifier(Probabilities, train_split=None, max_epochs=5)
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        with pytest.warns(StationarityWarning, match="saturated by separable"):
            model.fit(X, y)
        assert not model.solution_set_.trustworthy[0]
        assert np.isinf(model.lipschitz_modulus_)

    def test_outside_the_range_of_linearity(self):
        toy = make_toy_network(perturbation_size=0.7)
        model = fitted(toy, start=(1.0, 2.0))
        with pytest.warns(NonlinearityWarning, match="outside the range of linearity"):
            predicted = model.sensitivity(toy.X_perturbed)
        assert predicted.nonlinearity[0] > 0.5
        assert "outside the range" in predicted.status[0]


class ReluSlope(nn.Module):
    """``f(x) = relu(w x) + w x / 2``: minimised at w = 0 for labels 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1))
        self.relu = nn.ReLU()

    def forward(self, X):
        a = X @ self.w
        return self.relu(a) + 0.5 * a


class TestInvariance:
    """Shift and modulus do not depend on how the computation is organised."""

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        return make_isolated_minimum(random_state=3)

    def model(self, problem, criterion=nn.MSELoss, decay=None, order=None, **params):
        decay = problem.weight_decay if decay is None else decay
        net = NeuralNetRegressor(
            problem.module,
            criterion=criterion,
            train_split=None,
            optimizer__weight_decay=decay,
            **{**SMOOTH_STEPS, **params},
        )
        model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
        order = slice(None) if order is None else order
        return model.fit(problem.X[order], problem.y[order])

    def answers(self, model, X_perturbed):
        predicted = model.sensitivity(X_perturbed)
        return np.append(predicted.shift[0], model.lipschitz_modulus_)

    def test_row_order(self, problem):
        order = np.random.RandomState(0).permutation(len(problem.X))
        plain = self.answers(self.model(problem), problem.X_perturbed)
        mixed = self.answers(
            self.model(problem, order=order), problem.X_perturbed[order]
        )
        np.testing.assert_allclose(mixed, plain, rtol=1e-9)

    def test_batch_size(self, problem):
        plain = self.answers(self.model(problem), problem.X_perturbed)
        small = self.answers(self.model(problem, batch_size=4), problem.X_perturbed)
        np.testing.assert_allclose(small, plain, rtol=1e-9)

    def test_scale_of_the_loss(self, problem):
        plain = self.answers(self.model(problem), problem.X_perturbed)
        scaled = self.model(
            problem, criterion=TenfoldMSE, decay=10 * problem.weight_decay, lr=0.002
        )
        np.testing.assert_allclose(
            self.answers(scaled, problem.X_perturbed), plain, rtol=1e-9
        )


class TenfoldMSE(nn.MSELoss):
    def forward(self, outputs, targets):
        return 10.0 * super().forward(outputs, targets)
