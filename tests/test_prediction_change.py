"""First-order changes of predictions, against differences and closed forms."""

import warnings

import numpy as np
import pytest
from skorch import NeuralNetBinaryClassifier, NeuralNetRegressor

from sksetsens import PredictionChange, SolutionSet, SolutionSetEstimator
from sksetsens.datasets import (
    LinearNetwork,
    make_dead_feature,
    make_matrix_factorisation,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

NET = {
    "module__hidden_widths": (4,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
    "max_epochs": 10,
}


def fitted(problem, n_restarts=1, max_epochs=2, **params):
    net = NeuralNetRegressor(
        problem.module, train_split=None, lr=0.02, max_epochs=max_epochs, **params
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
    return model.fit(problem.X, problem.y)


def predictions(solutions, weights, X):
    """What a set of the same nets with other weights predicts."""
    moved = solutions[:]
    moved.weights = weights
    return moved.predict(X)


def slope(solutions, movement, X, h=1e-5):
    """Central difference of the predictions when the weights move."""
    w = solutions.weights
    after, before = (predictions(solutions, w + t * movement, X) for t in (h, -h))
    return (after - before) / (2 * h)


@pytest.fixture(scope="module")
def toy():
    return make_toy_network()


@pytest.fixture(scope="module")
def at_paper_point(toy):
    return fitted(toy, module__start=(1.0, 2.0))


@pytest.fixture(scope="module")
def plane():
    problem = make_underdetermined_linear(5, 7, random_state=1)
    return problem, fitted(problem, n_restarts=2, module__n_features=7)


@pytest.fixture(scope="module")
def regressor():
    rng = np.random.RandomState(0)
    net = DFCNNRegressor(**NET)
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    return model.fit(rng.standard_normal((8, 3)), rng.standard_normal(8))


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((30, 2))
    y = np.array(["a", "b", "c"])[(X[:, 0] > 0.3).astype(int) + (X[:, 1] > 0.5)]
    net = DFCNNClassifier(**NET, optimizer__weight_decay=0.02)
    return SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def binary():
    """Logistic regression with a dead feature: its weight is free."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((30, 3))
    y = (X[:, 0] + rng.standard_normal(30) > 0).astype(int)
    X[:, 2] = 0.0
    net = NeuralNetBinaryClassifier(
        LinearNetwork, module__n_features=3, train_split=None, lr=0.5, max_epochs=20
    )
    return SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def factors():
    data = make_matrix_factorisation(random_state=0)
    return data, fitted(data, module__start=data.weights)


def moved(model, size=1e-3):
    """Perturbed training data; a feature that is 0 stays so."""
    rng = np.random.RandomState(1)
    return model.X_train_ + size * rng.standard_normal(model.X_train_.shape) * (
        model.X_train_ != 0.0
    )


def points(model, n=6):
    rng = np.random.RandomState(2)
    return rng.standard_normal((n, *model.X_train_.shape[1:]))


# --- change along the shift ----------------------------------------------------------


@pytest.mark.parametrize("name", ["regressor", "classifier", "binary"])
def test_value_is_the_slope_of_the_predictions(name, request):
    model = request.getfixturevalue(name)
    predicted, X = model.sensitivity(moved(model)), points(model)
    change = predicted.prediction_change(X)
    expected = slope(model.solution_set_, predicted.shift, X, h=1e-2)
    assert change.value.shape == model.solution_set_.predict(X).shape
    scale = np.abs(expected).max()
    assert scale > 1e-5
    np.testing.assert_allclose(change.value, expected, rtol=0, atol=1e-6 * scale)
    np.testing.assert_array_equal(change.half_width, np.zeros_like(expected))
    np.testing.assert_array_equal(change.lower, change.value)
    np.testing.assert_array_equal(change.upper, change.value)


@pytest.mark.parametrize("name", ["regressor", "classifier", "binary"])
def test_small_perturbations_change_predictions_by_it(name, request):
    """As retraining would: by finite differences of the predicted sets."""
    model = request.getfixturevalue(name)
    predicted, X = model.sensitivity(moved(model, 1e-6)), points(model)
    change = predicted.prediction_change(X).value
    actual = predicted.predict(X) - model.solution_set_.predict(X)
    np.testing.assert_allclose(actual, change, rtol=0, atol=1e-3 * np.abs(change).max())


def test_retraining_changes_predictions_by_it(classifier):
    X = points(classifier)
    data = moved(classifier, 1e-4)
    change = classifier.sensitivity(data).prediction_change(X).value
    actual = classifier.retrain(data).predict(X) - classifier.solution_set_.predict(X)
    np.testing.assert_allclose(actual, change, rtol=0, atol=0.01 * np.abs(change).max())


def test_probabilities_keep_their_sum(classifier, binary):
    for model in (classifier, binary):
        predicted = model.sensitivity(moved(model))
        change = predicted.prediction_change(points(model), radius=0.1)
        n_classes = len(model.classes_)
        assert change.value.shape == change.half_width.shape == (1, 6, n_classes)
        np.testing.assert_allclose(change.value.sum(axis=-1), 0.0, atol=1e-16)


def test_one_output_has_no_axis_of_its_own(regressor, factors):
    data, at_factors = factors
    change = regressor.sensitivity(moved(regressor)).prediction_change(
        points(regressor), radius=0.1
    )
    assert change.value.shape == change.half_width.shape == (2, 6)
    assert change.lower.shape == change.upper.shape == (2, 6)
    change = at_factors.sensitivity(data.X + 1e-3 * data.dX).prediction_change(
        points(at_factors), radius=0.1
    )
    assert change.value.shape == change.half_width.shape == (1, 6, 3)
    single = at_factors.sensitivity(data.X).prediction_change(data.X[:1])
    assert single.value.shape == (1, 1, 3)


def test_matrix_factorisation(factors):
    """``d(x W1 W2) = x (dW1 W2 + W1 dW2)``."""
    data, model = factors
    predicted = model.sensitivity(data.X + 1e-3 * data.dX)
    X = points(model)
    W1, W2 = np.split(model.solution_set_.weights[0], [8])
    dW1, dW2 = np.split(predicted.shift[0], [8])
    W1, dW1 = W1.reshape(4, 2), dW1.reshape(4, 2)
    W2, dW2 = W2.reshape(2, 3), dW2.reshape(2, 3)
    change = predicted.prediction_change(X)
    np.testing.assert_allclose(
        change.value[0], X @ (dW1 @ W2 + W1 @ dW2), rtol=0, atol=1e-14
    )


def test_corrections_count(at_paper_point, toy):
    """The slope at the old weights, along the corrected movement."""
    predicted = at_paper_point.sensitivity(toy.X_perturbed, n_corrections=2)
    change = predicted.prediction_change(toy.X)
    by_hand = toy.X[:, 0] * (toy.weights[::-1] @ predicted.shift[0])
    np.testing.assert_allclose(change.value, [by_hand], rtol=1e-12)


def test_nothing_moved(regressor):
    predicted = regressor.sensitivity(regressor.X_train_)
    change = predicted.prediction_change(points(regressor))
    np.testing.assert_array_equal(change.value, np.zeros((2, 6)))


# --- width of the local set ----------------------------------------------------------


def test_toy_network_predicts_the_same_along_its_set(at_paper_point, toy):
    """J z = x (w2 z1 + w1 z2) vanishes for z along (w1, -w2)."""
    predicted = at_paper_point.sensitivity(toy.X_perturbed)
    X = np.array([[-3.0], [0.0], [0.5], [10.0]])
    for center in ("solution", "base"):
        change = predicted.prediction_change(X, radius=0.5, center=center)
        by_hand = 0.4 * X[:, 0]  # (2, 1) @ (0.16, 0.08)
        np.testing.assert_allclose(change.value, [by_hand], atol=1e-13)
        np.testing.assert_allclose(change.half_width, [np.zeros(4)], atol=1e-13)


@pytest.mark.parametrize("center", ["solution", "base"])
def test_underdetermined_linear_model(plane, center):
    """``x v0`` and ``room |P x|``, P the projector off the rows of X."""
    problem, model = plane
    dX = 0.1 * problem.dX
    predicted = model.sensitivity(problem.X + dX)
    X, radius = points(model), 0.3
    change = predicted.prediction_change(X, radius=radius, center=center)
    off_rows = X - X @ np.linalg.pinv(problem.X) @ problem.X
    for i, w in enumerate(model.solution_set_.weights):
        v0 = problem.shift(w, dX)
        # v0 lies in the rows of X: what is left of the base's ball, by Pythagoras.
        room = np.sqrt(radius**2 - v0 @ v0) if center == "base" else radius
        np.testing.assert_allclose(change.value[i], X @ v0, atol=1e-12)
        np.testing.assert_allclose(
            change.half_width[i], room * np.linalg.norm(off_rows, axis=1), rtol=1e-10
        )
    np.testing.assert_array_equal(change.lower, change.value - change.half_width)
    np.testing.assert_array_equal(change.upper, change.value + change.half_width)


def test_training_rows_are_held(plane):
    problem, model = plane
    predicted = model.sensitivity(problem.X + 0.1 * problem.dX)
    change = predicted.prediction_change(problem.X, radius=10.0)
    np.testing.assert_allclose(change.half_width, np.zeros((2, 5)), atol=1e-13)


@pytest.mark.parametrize("center", ["solution", "base"])
def test_samples_of_the_local_set_fill_the_interval(plane, center):
    """The model is linear: each sampled point's own change, without differences."""
    problem, model = plane
    predicted = model.sensitivity(problem.X + 0.3 * problem.dX)
    X, radius = points(model), 0.3
    change = predicted.prediction_change(X, radius=radius, center=center)
    sample = predicted.sample(20_000, radius, random_state=0, center=center)
    base = model.solution_set_.weights
    for i in range(len(base)):
        found = (sample[i] - base[i]) @ X.T
        assert (found <= change.upper[i] + 1e-12).all()
        assert (found >= change.lower[i] - 1e-12).all()
        width = 2 * change.half_width[i]
        assert (found.max(axis=0) - found.min(axis=0) >= 0.98 * width).all()


@pytest.mark.parametrize("name", ["regressor", "binary"])
def test_half_width_is_the_largest_change_in_the_kernel(name, request):
    """Over sampled vectors of norm 1 none is larger, and the best comes close.

    The derivative of the predictions is taken by differences along each weight, and
    the kernel by a dense decomposition of H.
    """
    model = request.getfixturevalue(name)
    solutions = model.solution_set_
    X, radius = points(model), 0.2
    change = model.sensitivity(moved(model)).prediction_change(X, radius=radius)
    p = solutions.weights.shape[1]
    J = np.stack([slope(solutions, unit, X) for unit in np.eye(p)], axis=-1)
    for i, gd in enumerate(model.graphical_derivatives_):
        eigenvalues, vectors = np.linalg.eigh(gd.H @ np.eye(p))
        kernel = vectors[:, np.abs(eigenvalues) < 1e-10 * eigenvalues[-1]]
        dim = kernel.shape[1]
        assert dim == solutions.kernel_dims[i] > 0
        c = np.random.RandomState(0).standard_normal((dim, 5000))
        sampled = radius * J[i] @ kernel @ (c / np.linalg.norm(c, axis=0))
        width = change.half_width[i]
        scale = width.max()
        assert (sampled.max(axis=-1) <= width + 1e-8 * scale).all()
        # In 13 dimensions the best of 5000 directions has a cosine of about 0.8.
        close = 1.0 if dim == 1 else 0.6
        assert (sampled.max(axis=-1) >= close * width - 1e-8 * scale).all()
        # The maximiser itself.
        exact = radius * np.linalg.norm(J[i] @ kernel, axis=-1)
        np.testing.assert_allclose(width, exact, rtol=0, atol=1e-7 * scale)


def test_binary_classifier_with_a_free_weight(binary):
    """``dp = p (1 - p) x dw``, by ``p (1 - p) |x_3| radius`` for the free weight."""
    w = binary.solution_set_.weights[0]
    predicted = binary.sensitivity(moved(binary))
    X = points(binary)
    change = predicted.prediction_change(X, radius=0.2)
    p = 1 / (1 + np.exp(-X @ w))
    slope_in_score = p * (1 - p)
    value = slope_in_score * (X @ predicted.shift[0])
    width = 0.2 * slope_in_score * np.abs(X[:, 2])
    np.testing.assert_allclose(change.value[0, :, 1], value, atol=1e-12)
    np.testing.assert_allclose(change.value[0, :, 0], -value, atol=1e-12)
    np.testing.assert_allclose(
        change.half_width[0], np.stack([width, width], axis=1), rtol=1e-9
    )


def test_isolated_minima_have_no_width(classifier):
    predicted = classifier.sensitivity(moved(classifier))
    change = predicted.prediction_change(points(classifier), radius=5.0)
    np.testing.assert_array_equal(change.half_width, np.zeros((1, 6, 3)))


def test_half_width_is_proportional_to_the_radius(regressor):
    predicted, X = regressor.sensitivity(moved(regressor)), points(regressor)
    small, large = (
        predicted.prediction_change(X, radius=radius) for radius in (0.1, 0.7)
    )
    np.testing.assert_allclose(large.half_width, 7 * small.half_width, rtol=1e-12)
    np.testing.assert_array_equal(large.value, small.value)


# --- centre of the ball --------------------------------------------------------------


def test_a_ball_around_the_old_solution_holds_less(regressor):
    """By Pythagoras; nothing where the piece misses the ball."""
    predicted = regressor.sensitivity(moved(regressor))
    X, norms = points(regressor), predicted.shift_norm
    radius = 1.5 * norms.max()
    whole = predicted.prediction_change(X, radius=radius)
    cut = predicted.prediction_change(X, radius=radius, center="base")
    shrunk = np.sqrt(1 - (norms / radius) ** 2)[:, None]
    np.testing.assert_allclose(cut.half_width, shrunk * whole.half_width, rtol=1e-9)
    # v0 has no part in ker H: the point nearest to the old solution is w + v0.
    np.testing.assert_allclose(cut.value, whole.value, rtol=0, atol=1e-12)
    missed = predicted.prediction_change(X, radius=0.5 * norms.min(), center="base")
    assert np.isnan(missed.half_width).all()
    assert np.isnan(missed.upper).all()


def test_center_of_corrected_sets(at_paper_point, toy):
    """After a correction the piece's nearest point to (1, 2) is no longer its own."""
    predicted = at_paper_point.sensitivity(toy.X_perturbed, n_corrections=1)
    w, base = predicted.weights[0], toy.weights
    tangent = np.array([w[0], -w[1]]) / np.linalg.norm(w)
    # The kernel is that of H at the corrected weights, close to the tangent there.
    assert predicted.kernels[0].complement_norm(tangent) <= 0.05
    change = predicted.prediction_change(toy.X, radius=0.5, center="base")
    z = predicted.kernels[0].spanning_basis()[:, 0]
    nearest = w + z * (z @ (base - w))
    g = base[::-1]
    np.testing.assert_allclose(
        change.value, [toy.X[:, 0] * (g @ (nearest - base))], rtol=1e-12
    )
    room = np.sqrt(0.25 - ((nearest - base) ** 2).sum())
    np.testing.assert_allclose(
        change.half_width, [room * np.abs(toy.X[:, 0] * (g @ z))], rtol=1e-10
    )


# --- sets that are empty, aligned, cut, stored ---------------------------------------


@pytest.fixture(scope="module")
def empty():
    data = make_dead_feature(random_state=0)
    model = fitted(data, module__n_features=6)
    with pytest.warns(IllPosedWarning, match="empty at 1 of 1"):
        predicted = model.sensitivity(data.X_perturbed_dead)
    return predicted, points(model)


@pytest.mark.parametrize(
    "limits", [{}, {"radius": 0.1}, {"radius": 0.1, "center": "base"}]
)
def test_empty_sets_have_no_change(empty, limits):
    predicted, X = empty
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        change = predicted.prediction_change(X, **limits)
    for found in (change.value, change.lower, change.upper):
        assert found.shape == (1, 6)
        assert np.isnan(found).all()


@pytest.mark.parametrize("center", ["solution", "base"])
def test_empty_sets_miss_every_ball(empty, center):
    predicted, X = empty
    change = predicted.prediction_change(X, radius=0.1, center=center)
    assert np.isnan(change.half_width).all()


def test_other_copies_of_a_net_change_alike(regressor):
    """Order and signs of hidden units are no matter of the predictions."""
    predicted, X = regressor.sensitivity(moved(regressor)), points(regressor)
    flipped = regressor.solution_set_[::-1]
    aligned = predicted.aligned_to(flipped, pairwise=True)
    assert not np.allclose(aligned.weights, predicted.weights)
    for center in ("solution", "base"):
        before, after = (
            s.prediction_change(X, radius=10.0, center=center)
            for s in (predicted, aligned)
        )
        np.testing.assert_allclose(after.value, before.value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(after.half_width, before.half_width, rtol=1e-8)


def test_parts_of_a_set(regressor):
    predicted, X = regressor.sensitivity(moved(regressor)), points(regressor)
    whole = predicted.prediction_change(X, radius=0.1)
    assert isinstance(whole, PredictionChange)
    for i in range(2):
        part = predicted[i].prediction_change(X, radius=0.1)
        np.testing.assert_array_equal(part.value, whole.value[[i]])
        np.testing.assert_array_equal(part.half_width, whole.half_width[[i]])
    few = predicted.prediction_change(X[:2], radius=0.1)
    np.testing.assert_allclose(few.value, whole.value[:, :2], rtol=1e-12)


def test_loaded_sets(regressor, tmp_path):
    predicted, X = regressor.sensitivity(moved(regressor)), points(regressor)
    predicted.save(tmp_path / "set.npz")
    loaded = SolutionSet.load(tmp_path / "set.npz", estimator=regressor)
    change, again = (s.prediction_change(X, radius=0.1) for s in (predicted, loaded))
    np.testing.assert_allclose(again.value, change.value, rtol=1e-12)
    np.testing.assert_allclose(again.half_width, change.half_width, rtol=1e-12)
    without = SolutionSet.load(tmp_path / "set.npz")
    with pytest.raises(ValueError, match="loaded without a net and cannot predict"):
        without.prediction_change(X)


def test_lists_of_rows(plane):
    problem, model = plane
    predicted = model.sensitivity(problem.X + 0.1 * problem.dX)
    X = points(model)
    as_list = predicted.prediction_change(X.tolist()).value
    np.testing.assert_array_equal(as_list, predicted.prediction_change(X).value)


# --- refused -------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, -0.1, np.nan, np.inf, "0.1", True])
def test_radius(at_paper_point, toy, radius):
    predicted = at_paper_point.sensitivity(toy.X_perturbed)
    sentence = "'radius' parameter of prediction_change must be a positive number. Got"
    with pytest.raises(ValueError, match=sentence):
        predicted.prediction_change(toy.X, radius=radius)


@pytest.mark.parametrize("center", ["origin", None, 1, ("solution",)])
def test_center(at_paper_point, toy, center):
    predicted = at_paper_point.sensitivity(toy.X_perturbed)
    sentence = r"'center' parameter of prediction_change must be one of \('solution'"
    with pytest.raises(ValueError, match=sentence):
        predicted.prediction_change(toy.X, radius=0.1, center=center)


def test_rows_of_another_shape(at_paper_point, toy):
    predicted = at_paper_point.sensitivity(toy.X_perturbed)
    sentence = (
        r"'X' parameter of prediction_change must have rows of shape \(1,\), as in "
        r"training. Got \(2,\)"
    )
    with pytest.raises(ValueError, match=sentence):
        predicted.prediction_change(np.ones((3, 2)))
    with pytest.raises(ValueError, match="X contains NaN"):
        predicted.prediction_change([[np.nan]])


def test_sets_without_solutions(at_paper_point, toy):
    none = at_paper_point.sensitivity(toy.X_perturbed)[[]]
    with pytest.raises(ValueError, match="holds no solutions and cannot predict"):
        none.prediction_change(toy.X)
