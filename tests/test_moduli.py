"""Coderivative and moduli by level, against dense linear algebra."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from skorch import NeuralNetRegressor

from sksetsens import (
    Coderivative,
    SolutionSetEstimator,
    lipschitz_modulus,
    mordukhovich_criterion,
)
from sksetsens.datasets import make_dead_feature, make_toy_network
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor

LEVELS = ("sample", "feature", "layer")


def fitted(n=12, d=3, width=8, weight_decay=0.0):
    """A tanh net on random data: 41 weights, interpolating for n = 12."""
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
def interpolating():
    return fitted()


@pytest.fixture(scope="module")
def penalised():
    return fitted(n=30, weight_decay=0.01)


@pytest.fixture(params=["interpolating", "penalised"])
def model(request):
    return request.getfixturevalue(request.param)


def dense_map(gd):
    """H^+ B as an array of shape (p, n, d)."""
    shape = gd.objective.input_shape
    return (gd.solution_operator @ np.eye(np.prod(shape))).reshape(-1, *shape)


def norm(block):
    return np.linalg.norm(block.reshape(len(block), -1), 2)


def test_coderivative_is_the_adjoint(model):
    rng = np.random.RandomState(1)
    for gd in model.graphical_derivatives_:
        cd = Coderivative(gd)
        # A functional in range H; the coderivative of any other is empty.
        p = gd.H.matvec(rng.standard_normal(gd.weights.size))
        dX = rng.standard_normal(gd.objective.input_shape)
        left, right = p @ gd(dX).shift, (cd(p).value * dX).sum()
        assert left == pytest.approx(right, rel=1e-11)
        assert not cd(p).is_empty


def test_coderivative_of_a_functional_on_the_kernel_is_empty(interpolating):
    gd = interpolating.graphical_derivatives_[0]
    p = gd.kernel.project(np.ones(gd.weights.size))
    answer = Coderivative(gd)(p)
    assert answer.is_empty
    assert np.isnan(answer.value).all()
    assert "leaves range H" in answer.status


def test_coderivative_refuses_other_shapes(interpolating):
    cd = Coderivative(interpolating.graphical_derivatives_[0])
    with pytest.raises(ValueError, match=r"'p' parameter .* shape \(41,\)"):
        cd(np.ones(3))


def test_samples_and_features(model):
    for i, gd in enumerate(model.graphical_derivatives_):
        full = dense_map(gd)
        n, d = full.shape[1:]
        rows = [norm(full[:, k]) for k in range(n)]
        columns = [norm(full[:, :, j]) for j in range(d)]
        np.testing.assert_allclose(model.sample_lipschitz_moduli_[i], rows, rtol=1e-8)
        np.testing.assert_allclose(
            model.feature_lipschitz_moduli_[i], columns, rtol=1e-8
        )
        whole = model.lipschitz_moduli_[i]
        assert max(*rows, *columns) <= whole * (1 + 1e-10)


def test_layers(penalised):
    """The problem in which one parameter tensor alone may move."""
    gd = penalised.graphical_derivatives_[0]
    p, N = gd.B.shape
    H, B = gd.H @ np.eye(p), gd.B @ np.eye(N)
    slices = gd.objective.parameter_slices
    assert penalised.layer_names_ == list(slices)
    expected = [
        np.linalg.norm(np.linalg.pinv(H[s, s], hermitian=True) @ B[s], 2)
        for s in slices.values()
    ]
    np.testing.assert_allclose(
        penalised.layer_lipschitz_moduli_[0], expected, rtol=1e-8
    )


def test_layers_at_interpolation(interpolating):
    """One tensor alone need not hold all labels: first-order points of L in it."""
    gd = interpolating.graphical_derivatives_[0]
    p, N = gd.B.shape
    A, B = gd.H @ np.eye(p), gd.B @ np.eye(N)
    for s, found in zip(
        gd.objective.parameter_slices.values(),
        interpolating.layer_lipschitz_moduli_[0],
        strict=True,
    ):
        # The dense form squares the condition of J.
        expected = np.linalg.norm(np.linalg.pinv(A[s, s], rcond=1e-11) @ B[s], 2)
        assert found == pytest.approx(expected, rel=1e-5)


def test_dead_feature_alone_is_infinite():
    problem = make_dead_feature(random_state=0)
    net = NeuralNetRegressor(
        problem.module,
        module__n_features=problem.X.shape[1],
        train_split=None,
        max_epochs=2,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    moduli = model.fit(problem.X, problem.y).feature_lipschitz_moduli_[0]
    assert np.isinf(moduli[problem.dead_feature])
    assert np.isfinite(np.delete(moduli, problem.dead_feature)).all()


def test_toy_network_rows():
    """|H^+ B e_k| = |x_k| 2 |g| / (|x|^2 |g|^2) with g = (2, 1), |x|^2 = 5."""
    toy = make_toy_network()
    net = NeuralNetRegressor(
        toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=2
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(toy.X, toy.y)
    expected = 2.0 * toy.X[:, 0] / (5.0 * np.sqrt(5.0))
    np.testing.assert_allclose(model.sample_lipschitz_moduli_, [expected], rtol=1e-12)


def test_function_form(penalised):
    assert lipschitz_modulus(penalised) == penalised.lipschitz_modulus_
    for level in LEVELS:
        values = lipschitz_modulus(penalised, level=level)
        np.testing.assert_array_equal(
            values, getattr(penalised, f"{level}_lipschitz_moduli_")
        )


def movement(gd, direction):
    return np.linalg.norm(gd(direction).shift)


def test_worst_case_directions_attain_the_moduli(model):
    """Each is of norm 1 and moves the weights by its modulus."""
    shape = model.X_train_.shape
    value, direction = lipschitz_modulus(model, return_direction=True)
    worst = int(np.argmax(model.lipschitz_moduli_))
    gd = model.graphical_derivatives_[worst]
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    assert movement(gd, direction) == pytest.approx(value, rel=1e-8)

    rows, along_rows = lipschitz_modulus(model, level="sample", return_direction=True)
    assert along_rows.shape == (2, *shape)
    columns, along_columns = lipschitz_modulus(
        model, level="feature", return_direction=True
    )
    assert along_columns.shape == (2, shape[1], shape[0])
    for i, gd in enumerate(model.graphical_derivatives_):
        for k in (0, 5):
            dX = np.zeros(shape)
            dX[k] = along_rows[i, k]
            assert movement(gd, dX) == pytest.approx(rows[i, k], rel=1e-8)
        dX = np.zeros(shape)
        dX[:, 1] = along_columns[i, 1]
        assert movement(gd, dX) == pytest.approx(columns[i, 1], rel=1e-8)


def test_layer_direction_moves_that_layer(penalised):
    values, directions = lipschitz_modulus(
        penalised, level="layer", return_direction=True
    )
    gd = penalised.graphical_derivatives_[0]
    part = next(iter(gd.objective.parameter_slices.values()))
    moved = gd.restricted_map(part)[0] @ directions[0, 0].ravel()
    assert np.linalg.norm(moved) == pytest.approx(values[0, 0], rel=1e-8)


def test_groups_of_rows(model):
    n = len(model.X_train_)
    labels = np.array(["b", "a", "c"])[np.arange(n) % 3]
    values, directions = lipschitz_modulus(
        model, level="group", groups=labels, return_direction=True
    )
    full = dense_map(model.graphical_derivatives_[0])
    expected = [norm(full[:, labels == g]) for g in "abc"]
    np.testing.assert_allclose(values[0], expected, rtol=1e-8)
    for group, value in zip("abc", values[0], strict=True):
        only = np.where((labels == group)[:, None], directions[0], 0.0)
        assert np.linalg.norm(only) == pytest.approx(1.0)
        gd = model.graphical_derivatives_[0]
        assert movement(gd, only) == pytest.approx(value, rel=1e-8)
    one_each = lipschitz_modulus(model, level="group", groups=np.arange(n))
    np.testing.assert_allclose(one_each, model.sample_lipschitz_moduli_, rtol=1e-8)


def test_targets(model):
    """|H^+ B_y| with B_y = dR/dy, column by column."""
    value, direction = lipschitz_modulus(model, level="target", return_direction=True)
    zero, y = np.zeros_like(model.X_train_), model.targets_
    norms = []
    for gd in model.graphical_derivatives_:
        units = np.eye(y.size).reshape(-1, *y.shape)
        shifts = np.stack([gd(zero, unit).shift for unit in units])
        norms.append(np.linalg.norm(shifts, 2))
        adjoint = gd.target_operator.rmatvec(shifts[0])
        assert adjoint @ direction.ravel() == pytest.approx(
            shifts[0] @ gd.target_operator.matvec(direction.ravel()), rel=1e-9
        )
    assert value == pytest.approx(max(norms), rel=1e-8)
    worst = model.graphical_derivatives_[int(np.argmax(norms))]
    assert np.linalg.norm(worst(zero, direction).shift) == pytest.approx(value)


class TestClosedForm:
    """Theorem 2 on a small bias-free ReLU network that interpolates."""

    @staticmethod
    def dfcnn(seed, n=20, d=5):
        rng = np.random.RandomState(seed)
        net = DFCNNRegressor(module__hidden_widths=(50, 50), max_epochs=50)
        model = SolutionSetEstimator(net, n_restarts=1, random_state=seed)
        return model.fit(rng.standard_normal((n, d)), rng.standard_normal(n))

    @pytest.mark.parametrize("seed", range(20))
    def test_lower_bound_of_the_exact_modulus(self, seed):
        """Rows with all layers, and each layer alone, row by row."""
        model = self.dfcnn(seed)
        gd = model.graphical_derivatives_[0]
        J = gd.objective.jacobian(gd.weights)[:, 0]
        steepness = np.linalg.norm(
            gd.objective.input_jacobian(gd.weights)[:, 0], axis=1
        )

        rows = lipschitz_modulus(model, level="sample", method="closed_form")
        by_hand = steepness / np.linalg.norm(J, axis=1)
        np.testing.assert_allclose(rows[0], by_hand, rtol=1e-12)
        assert (rows <= model.sample_lipschitz_moduli_ * (1 + 1e-10)).all()
        whole = lipschitz_modulus(model, method="closed_form")
        assert whole == rows.max() <= model.lipschitz_modulus_

        layers = lipschitz_modulus(model, level="layer", method="closed_form")
        for i, part in enumerate(gd.objective.parameter_slices.values()):
            single = steepness / np.linalg.norm(J[:, part], axis=1)
            exact = steepness * np.linalg.norm(np.linalg.pinv(J[:, part]), axis=0)
            assert (single <= exact * (1 + 1e-10)).all()
            assert layers[0, i] == pytest.approx(single.max(), rel=1e-12)
        assert (layers <= model.layer_lipschitz_moduli_ * (1 + 1e-10)).all()

    def test_one_row_is_exact(self):
        """Without other rows to hold, the bound is attained."""
        model = self.dfcnn(0, n=1)
        closed = lipschitz_modulus(model, level="layer", method="closed_form")
        np.testing.assert_allclose(closed, model.layer_lipschitz_moduli_, rtol=1e-10)

    def test_other_nets_are_refused(self, interpolating):
        with pytest.raises(ValueError, match="layers have biases.*Theorem 2 needs"):
            lipschitz_modulus(interpolating, method="closed_form")
        toy = make_toy_network()
        net = NeuralNetRegressor(toy.module, train_split=None, max_epochs=5, lr=0.01)
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
        with pytest.raises(ValueError, match="the net is a ToyNetwork"):
            lipschitz_modulus(model.fit(toy.X, toy.y), method="closed_form")

    def test_levels_it_does_not_speak_of(self, interpolating):
        with pytest.raises(ValueError, match="'level' .*Theorem 2 speaks of rows"):
            lipschitz_modulus(interpolating, level="feature", method="closed_form")

    @pytest.mark.filterwarnings("ignore::sksetsens.exceptions.StationarityWarning")
    @pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
    def test_without_interpolation_it_is_nan(self):
        rng = np.random.RandomState(0)
        X, y = rng.standard_normal((40, 2)), rng.standard_normal(40)
        net = DFCNNRegressor(module__hidden_widths=(3,), max_epochs=5)
        model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
        with pytest.warns(IllPosedWarning, match="1 of 1 solutions miss"):
            values = lipschitz_modulus(model, level="sample", method="closed_form")
        assert np.isnan(values).all()


class TestEmpirical:
    def test_worst_case_attains_the_modulus(self, model):
        value, direction, evidence = lipschitz_modulus(
            model, method="empirical", return_direction=True, return_evidence=True
        )
        assert 0.95 * model.lipschitz_modulus_ <= value
        assert np.linalg.norm(direction) == pytest.approx(1.0)
        assert max(found.values[0] for found in evidence) == value
        for found, exact in zip(evidence, model.lipschitz_moduli_, strict=True):
            assert found.n_failed == 0
            assert found.values[0] <= exact + found.second_order[0]
            assert found.second_order[0] <= 0.03 * exact

    @pytest.mark.parametrize("level", ["sample", "feature"])
    def test_parts(self, penalised, level):
        exact = lipschitz_modulus(penalised, level=level)
        found = lipschitz_modulus(
            penalised, level=level, method="empirical", n_directions=1
        )
        np.testing.assert_allclose(found, exact, rtol=0.05)

    def test_random_directions_alone_stay_below(self, penalised):
        """A group direction is random within the group only."""
        labels = np.arange(30) % 2
        exact = lipschitz_modulus(penalised, level="group", groups=labels)
        found, directions = lipschitz_modulus(
            penalised,
            level="group",
            groups=labels,
            method="empirical",
            size=1e-7,
            return_direction=True,
        )
        assert (found <= exact * 1.001).all()
        in_group = directions[0][labels == 1]
        assert np.linalg.norm(in_group) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        "bad", [{"n_directions": -1}, {"n_directions": 1.5}, {"size": 0}, {"size": "a"}]
    )
    def test_bad_sampling(self, penalised, bad):
        with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter .* Got"):
            lipschitz_modulus(penalised, method="empirical", **bad)

    def test_layers_are_refused(self, penalised):
        with pytest.raises(ValueError, match="'level' .*retraining moves all weights"):
            lipschitz_modulus(penalised, level="layer", method="empirical")


def test_criterion_with_evidence():
    problem = make_dead_feature(random_state=0)
    net = NeuralNetRegressor(
        problem.module,
        module__n_features=problem.X.shape[1],
        train_split=None,
        max_epochs=2,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    gd = model.fit(problem.X, problem.y).graphical_derivatives_[0]
    dead = problem.dead_feature

    whole = mordukhovich_criterion(gd)
    assert not whole.holds
    # Up to a factor the columns of the dead feature are r_i e_dead + w_dead x_i, of
    # which e_dead is in ker H.
    w = gd.weights
    r = problem.X @ w - problem.y
    outside = np.abs(r) / np.hypot(r, w[dead] * np.linalg.norm(problem.X, axis=1))
    assert whole.range_residual == pytest.approx(outside.max())
    assert whole.worst_entry[0] == outside.argmax()
    assert whole.worst_entry[1] == dead
    assert f"feature {dead} leaves range H by" in whole.status
    assert whole.has_clear_cutoff
    assert whole.rank == gd.factor.rank

    alive = np.arange(problem.X.shape[1]) != dead
    some = mordukhovich_criterion(gd, features=alive)
    assert some.holds
    assert some.margin > 1e3
    assert not mordukhovich_criterion(gd, rows=[3]).holds
    assert mordukhovich_criterion(gd, rows=[3], features=np.flatnonzero(alive)).holds


def test_criterion_residuals_are_those_of_the_dense_matrices():
    """Against |P_ker b| / |b| in NumPy, for a linear model with collinear features."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((15, 3))
    X = np.column_stack([X, X[:, 0] + X[:, 1]])
    net = DFCNNRegressor(
        module__hidden_widths=(),
        module__train_output=True,
        module__bias=False,
        max_epochs=2,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    gd = model.fit(X, rng.standard_normal(15)).graphical_derivatives_[0]
    kernel = np.array([1.0, 1.0, 0.0, -1.0]) / np.sqrt(3.0)
    B = gd.B @ np.eye(X.size)
    residuals = np.abs(kernel @ B) / np.linalg.norm(B, axis=0)
    np.testing.assert_allclose(gd.column_range_residuals.ravel(), residuals, atol=1e-10)
    assert mordukhovich_criterion(gd).range_residual == pytest.approx(residuals.max())


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", [12]), ("rows", [0.5]), ("features", []), ("features", [True] * 4)],
)
def test_criterion_refuses_what_does_not_exist(interpolating, name, value):
    gd = interpolating.graphical_derivatives_[0]
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        mordukhovich_criterion(gd, **{name: value})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"level": "group"}, "'groups' parameter .* must be given"),
        ({"groups": np.zeros(30)}, "'groups' parameter .* only then"),
        ({"level": "group", "groups": np.zeros(7)}, "one label per training row, 30"),
        ({"level": "group", "groups": [[0, 1]]}, r"Got an array of shape \(1, 2\)"),
        ({"level": "group", "groups": "all"}, r"Got an array of shape \(\)"),
        ({"method": "closed_form", "level": "target"}, "'level' parameter"),
    ],
)
def test_bad_groups_and_levels(penalised, bad, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_modulus(penalised, **bad)


def test_labels_of_a_classifier_have_no_modulus():
    rng = np.random.RandomState(0)
    net = DFCNNClassifier(
        module__hidden_widths=(),
        module__train_output=True,
        optimizer__weight_decay=0.1,
        max_epochs=2,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    model.fit(rng.standard_normal((12, 2)), np.arange(12) % 2)
    with pytest.raises(ValueError, match="labels have no small change"):
        lipschitz_modulus(model, level="target")


@pytest.mark.parametrize("bad", [{"level": "neuron"}, {"method": "guess"}])
def test_unknown_level_or_method(penalised, bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"'{name}' parameter .* Got '{value}'"):
        lipschitz_modulus(penalised, **bad)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="lipschitz_modulus must end in .* Got Ridge"):
        lipschitz_modulus(Ridge())
