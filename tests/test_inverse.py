"""The inverse question: least squares in NumPy, and retraining, as oracles."""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from skorch import NeuralNetRegressor

from sksetsens import SolutionSetEstimator, target_perturbation
from sksetsens.datasets import make_underdetermined_linear
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor


def fitted(weight_decay=0.01, n=30, d=3, width=8):
    rng = np.random.RandomState(0)
    net = DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=5,
    )
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    return model.fit(rng.standard_normal((n, d)), rng.standard_normal(n))


@pytest.fixture(scope="module")
def penalised():
    return fitted()


@pytest.fixture(scope="module")
def interpolating():
    return fitted(weight_decay=0.0, n=12)


@pytest.fixture(scope="module")
def softmax():
    X, y = load_wine(return_X_y=True)
    net = DFCNNClassifier(
        module__hidden_widths=(),
        module__train_output=True,
        module__bias=True,
        optimizer__weight_decay=0.01,
        max_epochs=5,
    )
    return SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(scale(X), y)


def moved(model, size, seed=1):
    """Weights that a data perturbation of this norm leads to from solution 0."""
    rng = np.random.RandomState(seed)
    direction = rng.standard_normal(model.X_train_.shape)
    direction *= size / np.linalg.norm(direction)
    return model.retrain(model.X_train_ + direction).weights[0]


@pytest.fixture(params=["penalised", "interpolating"])
def model(request):
    return request.getfixturevalue(request.param)


class TestWeights:
    def test_reached_after_retraining(self, model):
        """A target that some perturbation leads to is reached by none longer."""
        target = moved(model, 1e-4)
        answer = target_perturbation(model, target, solution=0)
        assert answer.unreachable < 1e-6
        assert answer.size <= 1e-4 * 1.01
        assert answer.error < 0.01
        assert answer.status.startswith(
            "to first order the target is within reach; ret"
        )
        np.testing.assert_array_equal(answer.X_perturbed, model.X_train_ + answer.dX)
        assert np.linalg.norm(answer.size_per_row) == pytest.approx(answer.size)
        retrained = model.retrain(answer.X_perturbed)
        np.testing.assert_allclose(retrained.weights[0], answer.weights, atol=1e-9)

    def test_corrections_square_the_error(self, penalised):
        target = moved(penalised, 1e-2)
        plain = target_perturbation(penalised, target, solution=0)
        corrected = target_perturbation(penalised, target, solution=0, n_corrections=1)
        assert corrected.error < 10 * plain.error**2 + 1e-9
        assert corrected.error < plain.error

    def test_shortest_least_squares(self, penalised):
        """Against NumPy on the dense H^+ B, with rows and features that are fixed."""
        gd = penalised.graphical_derivatives_[1]
        rng = np.random.RandomState(2)
        target = gd.weights + 1e-3 * rng.standard_normal(gd.weights.size)
        n, d = penalised.X_train_.shape
        dense = gd.solution_operator @ np.eye(n * d)
        movable = np.zeros((n, d), dtype=bool)
        movable[np.ix_([2, 5, 7, 20], [0, 2])] = True
        A = -dense[:, movable.ravel()]
        expected, *_ = np.linalg.lstsq(A, target - gd.weights, rcond=None)
        with pytest.warns(IllPosedWarning, match="of the target is out of reach"):
            answer = target_perturbation(
                penalised, target, solution=1, rows=[2, 5, 7, 20], features=[0, 2]
            )
        np.testing.assert_allclose(answer.dX[movable], expected, rtol=1e-8)
        assert not answer.dX[~movable].any()
        left = np.linalg.norm(A @ expected - (target - gd.weights))
        requested = np.linalg.norm(target - gd.weights)
        assert answer.unreachable == pytest.approx(left / requested)
        assert answer.requested == pytest.approx(requested)
        # What the first order says is out of reach is what retraining misses.
        assert answer.error == pytest.approx(answer.unreachable, abs=0.02)

    def test_what_the_set_holds_already_costs_nothing(self, interpolating):
        """Along ker H the set reaches the target as it is."""
        gd = interpolating.graphical_derivatives_[0]
        target = gd.weights + gd.kernel.project(np.ones(gd.weights.size))
        answer = target_perturbation(interpolating, target, solution=0)
        assert answer.size == 0.0
        assert answer.error == 0.0
        assert "contains the target as it is" in answer.status

    def test_closed_form(self):
        """x w = y with one row: dx = -x^+ ... moves the set to a parallel plane.

        {w : x w = y} reaches a target v iff (x + dx) v = y to first order at w,
        dx w = -x (v - w); the shortest is -x (v - w) w' / |w|^2.
        """
        data = make_underdetermined_linear(n_samples=1, n_features=4, random_state=0)
        net = NeuralNetRegressor(
            data.module, module__n_features=4, train_split=None, max_epochs=2
        )
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        model.fit(data.X, data.y)
        w = model.solution_set_.weights[0]
        v = w + 1e-3 * np.array([1.0, -2.0, 0.5, 3.0])
        answer = target_perturbation(model, v)
        expected = -(data.X[0] @ (v - w)) * w / (w @ w)
        np.testing.assert_allclose(answer.dX[0], expected, rtol=1e-8)

    def test_nearest_solution_is_taken(self, penalised):
        for i, w in enumerate(penalised.solution_set_.weights):
            assert target_perturbation(penalised, w + 1e-6).solution == i

    def test_softmax_regression(self, softmax):
        """Class weights sum to zero there: the rest of a target is out of reach."""
        w = softmax.solution_set_.weights[0]
        u = np.random.RandomState(0).standard_normal(w.size)
        columns = u[:39].reshape(3, 13)
        columns -= columns.mean(axis=0)
        bias = u[39:] - u[39:].mean()
        step = np.concatenate([columns.ravel(), bias])
        target = w + 1e-3 * step / np.linalg.norm(step)
        answer = target_perturbation(softmax, target)
        assert answer.unreachable < 0.05
        assert answer.error < answer.unreachable + 0.01
        off = np.concatenate([np.ones(39), np.zeros(3)])
        with pytest.raises(
            ValueError, match="out of reach: no perturbation of the 178"
        ):
            target_perturbation(softmax, w + 1e-3 * off)


class TestPredictions:
    def test_reached_after_retraining(self, penalised):
        X_new = np.array([[0.5, -0.5, 1.0]])
        before = penalised.solution_set_.predict(X_new)[0]
        answer = target_perturbation(penalised, X=X_new, prediction_change=[1e-3])
        after = penalised.retrain(answer.X_perturbed).predict(X_new)[0]
        assert after - before == pytest.approx(1e-3, rel=0.02)
        assert answer.error < 0.02
        assert answer.error == answer.error_to_point
        fewer = target_perturbation(
            penalised, X=X_new, prediction_change=[1e-3], rows=np.arange(5)
        )
        assert fewer.size > answer.size
        assert not fewer.dX[5:].any()

    def test_probabilities(self, softmax):
        """What one class gains the others lose; labels keep the order of classes_."""
        X_new = softmax.X_train_[:1]
        before = softmax.predict_proba(X_new)[0]
        change = 1e-5 * np.array([[-1.0, 0.5, 0.5]])
        answer = target_perturbation(softmax, X=X_new, prediction_change=change)
        after = softmax.retrain(answer.X_perturbed).predict(X_new)[0, 0]
        np.testing.assert_allclose(after - before, change[0], rtol=0.05)

    def test_beyond_the_first_order_is_told(self, softmax):
        answer = target_perturbation(
            softmax,
            X=softmax.X_train_[:1],
            prediction_change=[[-0.3, 0.3, 0.0]],
            verify=False,
        )
        assert answer.holds_to < 1.0
        assert "the first order holds up to" in answer.status
        assert "not verified" in answer.status
        assert np.isnan(answer.error)

    def test_pipeline(self, penalised):
        rng = np.random.RandomState(0)
        X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
        pipeline = make_pipeline(
            StandardScaler(),
            SolutionSetEstimator(penalised.estimator, n_restarts=1, random_state=0),
        )
        pipeline.fit(X, y)
        answer = target_perturbation(
            pipeline, X=np.zeros((1, 3)), prediction_change=[1e-3]
        )
        assert answer.error < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either 'target_weights', or 'X'"),
        ({"X": np.zeros((1, 3))}, "prediction_change=None"),
        ({"target_weights": np.zeros(41), "X": np.zeros((1, 3))}, "either"),
        ({"target_weights": np.zeros(3)}, r"shape \(41,\). Got shape \(3,\)"),
        ({"target_weights": np.full(41, np.nan)}, "with 41 NaN or infinite"),
        ({"X": np.zeros((1, 2)), "prediction_change": [1.0]}, "features"),
        (
            {"X": np.zeros((2, 3)), "prediction_change": [1.0]},
            r"'prediction_change' .* shape \(2,\)",
        ),
        ({"X": np.zeros((1, 3)), "prediction_change": [np.inf]}, "1 NaN or infinite"),
        ({"target_weights": np.zeros(41), "rows": [30]}, "'rows' parameter"),
        ({"target_weights": np.zeros(41), "features": [-4]}, "'features' parameter"),
        ({"target_weights": np.zeros(41), "solution": 2}, "'solution' .* Got 2"),
        ({"target_weights": np.zeros(41), "solution": True}, "'solution' .* Got True"),
        ({"target_weights": np.zeros(41), "n_corrections": -1}, "'n_corrections'"),
    ],
)
def test_bad_input(penalised, arguments, message):
    with pytest.raises(ValueError, match=message):
        target_perturbation(penalised, **arguments)
