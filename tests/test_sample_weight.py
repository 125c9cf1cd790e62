"""Weights of the rows and other labels: fit, and all questions about the set."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
)
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochScoring
from torch import nn

from sksetsens import SolutionSetEstimator, follow_path, linear_range, stability_report
from sksetsens.exceptions import UnsupportedObjectiveError

N = 50


class MLP(nn.Module):
    """Small, in float64: training by weights then equals that on repeated rows."""

    def __init__(self, n_in, n_out, activation=nn.Tanh, width=4):
        super().__init__()
        layers = nn.Linear(n_in, width), activation(), nn.Linear(width, n_out)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, X):
        return self.layers(X)


class Logit(MLP):
    """One output without an axis."""

    def forward(self, X):
        return super().forward(X)[:, 0]


def wine():
    X, y = load_wine(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(X))[:N]
    return scale(X)[rows][:, :6], y[rows]


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return scale(X)[:N, :5], scale(y.astype(float))[:N]


def model(kind="class", n_restarts=2, decay=0.02, **options):
    """A small estimator, trained in full batches unless told otherwise."""
    activation = options.pop("activation", nn.Tanh)
    backend = options.pop("restart_backend", "auto")
    settings = {
        "module__activation": activation,
        "optimizer": torch.optim.Adam,
        "optimizer__weight_decay": decay,
        "lr": 0.02,
        "max_epochs": 60,
        "batch_size": -1,
        "train_split": None,
        "verbose": 0,
        **options,
    }
    if kind == "class":
        settings |= {"module__n_in": 6, "module__n_out": 3}
        settings.setdefault("criterion", nn.CrossEntropyLoss)
        net = NeuralNetClassifier(settings.pop("module", MLP), **settings)
    elif kind == "binary":
        net = NeuralNetBinaryClassifier(
            Logit, module__n_in=6, module__n_out=1, **settings
        )
    else:
        net = NeuralNetRegressor(MLP, module__n_in=5, module__n_out=1, **settings)
    return SolutionSetEstimator(
        net, n_restarts=n_restarts, random_state=0, restart_backend=backend
    )


def data(kind):
    if kind == "regression":
        return diabetes()
    X, y = wine()
    return (X, (y == 1).astype(int)) if kind == "binary" else (X, y)


def integers():
    return np.random.default_rng(1).integers(0, 3, N).astype(float)


@pytest.fixture(scope="module")
def fitted():
    """One fitted set per kind of net."""
    found = {}

    def of(kind, activation=nn.Tanh):
        key = kind, activation
        if key not in found:
            found[key] = model(kind, activation=activation).fit(*data(kind))
        return found[key]

    return of


class TestFit:
    @pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
    @pytest.mark.parametrize("kind", ["class", "binary", "regression"])
    def test_weights_are_rows_left_out_and_repeated(self, kind, activation):
        X, y = data(kind)
        s = integers()
        rows = np.repeat(np.arange(N), s.astype(int))
        weighted = model(kind, activation=activation).fit(X, y, sample_weight=s)
        repeated = model(kind, activation=activation).fit(X[rows], y[rows])
        one, other = weighted.solution_set_, repeated.solution_set_
        assert one.trustworthy.all()
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-12)
        np.testing.assert_array_equal(one.n_kinks > 0, other.n_kinks > 0)

    def test_moduli_of_rows_left_out_and_repeated(self):
        X, y = wine()
        s = integers()
        rows = np.repeat(np.arange(N), s.astype(int))
        weighted = model().fit(X, y, sample_weight=s).sample_lipschitz_moduli_
        repeated = model().fit(X[rows], y[rows]).sample_lipschitz_moduli_
        # A row that counts twice moves the weights as its two copies do together.
        np.testing.assert_allclose(weighted[:, rows], repeated * s[rows], rtol=1e-6)
        assert not weighted[:, s == 0.0].any()

    @pytest.mark.parametrize(
        "options",
        [
            {"criterion__weight": torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)},
            {"criterion__label_smoothing": 0.1},
            {"criterion": nn.NLLLoss},
        ],
    )
    def test_class_weights_multiply(self, options):
        X, y = wine()
        s = integers()
        rows = np.repeat(np.arange(N), s.astype(int))
        if options.get("criterion") is nn.NLLLoss:
            options |= {"module": Softmax}
        weighted = model(**options).fit(X, y, sample_weight=s).solution_set_
        repeated = model(**options).fit(X[rows], y[rows]).solution_set_
        np.testing.assert_allclose(weighted.weights, repeated.weights, atol=1e-8)

    def test_the_scale_of_all_weights_does_not_matter(self):
        X, y = wine()
        s = integers()
        one = model().fit(X, y, sample_weight=s).solution_set_
        other = model().fit(X, y, sample_weight=7.3 * s).solution_set_
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-10)

    def test_weights_of_one_change_no_bit(self):
        X, y = wine()
        one = model().fit(X, y).solution_set_.weights
        other = model().fit(X, y, sample_weight=np.ones(N)).solution_set_.weights
        np.testing.assert_array_equal(one, other)

    def test_a_sum_is_weighted_without_a_division(self):
        X, y = diabetes()
        s = integers()
        rows = np.repeat(np.arange(N), s.astype(int))
        options = {"criterion__reduction": "sum", "lr": 0.002}
        weighted = model("regression", **options).fit(X, y, sample_weight=s)
        repeated = model("regression", **options).fit(X[rows], y[rows])
        one, other = weighted.solution_set_, repeated.solution_set_
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)

    def test_batches_carry_the_weights_of_their_rows(self):
        """In batches, the stack follows the separate trainings, weights included."""
        X, y = wine()
        s = integers()
        options = {"batch_size": 16, "max_epochs": 5}
        ways = [
            model(restart_backend=backend, **options).set_params(polish=False)
            for backend in ("joblib", "vectorized")
        ]
        one, other = (way.fit(X, y, sample_weight=s).solution_set_ for way in ways)
        plain = ways[0].fit(X, y).solution_set_
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)
        assert np.abs(one.weights - plain.weights).max() > 1e-3

    def test_the_mean_of_batches_is_the_weighted_mean(self):
        """One step of SGD per batch, at a learning rate so small that they add up."""
        X, y = diabetes()
        s = integers()
        options = {"optimizer": torch.optim.SGD, "lr": 1e-6, "max_epochs": 1}
        options |= {"batch_size": 10, "decay": 0.0}
        way = model("regression", n_restarts=1, **options).set_params(polish=False)
        fitted = way.fit(X, y, sample_weight=s)
        objective = fitted.solution_set_.objectives[0].untilted()
        w = fitted.solution_set_.weights[0]
        start = model("regression", n_restarts=1, **options | {"lr": 0.0})
        before = start.set_params(polish=False).fit(X, y).solution_set_.weights[0]
        moved = (before - w) / (5 * 1e-6)
        np.testing.assert_allclose(moved, objective.gradient(before), rtol=1e-4)

    def test_a_cached_restart_belongs_to_its_weights(self, tmp_path):
        X, y = wine()
        cached = model().set_params(memory=str(tmp_path))
        one = cached.fit(X, y, sample_weight=integers()).solution_set_.weights
        cached.fit(X, y)
        assert not cached.restart_report_["cached"].any()
        again = cached.fit(X, y, sample_weight=integers())
        assert again.restart_report_["cached"].all()
        np.testing.assert_array_equal(again.solution_set_.weights, one)

    def test_own_criterion_is_weighted_row_by_row(self):
        X, y = diabetes()
        s = integers()
        rows = np.repeat(np.arange(N), s.astype(int))
        options = {"criterion": Quartic}
        weighted = model("regression", **options).fit(X, y, sample_weight=s)
        repeated = model("regression", **options).fit(X[rows], y[rows])
        one, other = weighted.solution_set_, repeated.solution_set_
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)

    @pytest.mark.parametrize("criterion", ["Coupled", "Beside"])
    def test_a_loss_that_does_not_weigh_rows_is_refused(self, criterion):
        X, y = diabetes()
        net = model("regression", criterion=globals()[criterion])
        with pytest.raises(UnsupportedObjectiveError, match="does not weigh its rows"):
            net.fit(X, y, sample_weight=integers())

    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            (np.ones(N - 1), "one number per row, 50"),
            (np.ones((N, 1)), "one number per row"),
            (np.r_[-1.0, np.ones(N - 1)], "not negative. Got -1.0 at row 0"),
            (np.r_[np.nan, np.ones(N - 1)], "finite"),
            (np.zeros(N), "must leave a row"),
            (["a"] * N, "one number per row"),
            (np.ones(N) + 1j, "complex"),
            (np.r_[1e300, np.ones(N - 1)], "divide them by their mean"),
        ],
    )
    def test_bad_weights(self, weights, match, fitted):
        X, y = wine()
        with pytest.raises(ValueError, match=match):
            model().fit(X, y, sample_weight=weights)
        with pytest.raises(ValueError, match=match):
            fitted("class").sensitivity(sample_weight=weights)

    def test_a_class_without_rows_is_told(self, fitted):
        X, y = wine()
        s = (y != 2).astype(float)
        with pytest.warns(UserWarning, match="no row of 1 of 3 classes"):
            model(n_restarts=1).fit(X, y, sample_weight=s)
        with pytest.warns(UserWarning, match="no row of 1 of 3 classes"):
            fitted("class").sensitivity(sample_weight=s)


class Softmax(MLP):
    """Probabilities."""

    def forward(self, X):
        return super().forward(X).softmax(dim=1)


class Quartic(nn.Module):
    """A mean over rows that torch does not have."""

    def forward(self, outputs, y):
        e = outputs - y
        return (e**2 + 0.1 * e**4).mean()


class Coupled(nn.Module):
    """The square of a mean: no row has a loss of its own."""

    def forward(self, outputs, y):
        return ((outputs - y) ** 2).mean() ** 2


class Beside(nn.Module):
    """A sum that says nothing of it."""

    def forward(self, outputs, y):
        return ((outputs - y) ** 2).sum() / 50


def towards(s, size):
    """Weights moved by a share of the way from 1."""
    return 1.0 + size * (s - 1.0)


KINDS = [
    (kind, activation)
    for kind in ("class", "binary", "regression")
    for activation in (nn.Tanh, nn.ReLU)
]


class Learnt(nn.Module):
    """In float64, of sizes that are learnt from the data."""

    def __init__(self, n_features=1, n_outputs=1):
        super().__init__()
        layers = nn.Linear(n_features, 3), nn.Tanh(), nn.Linear(3, n_outputs)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, X):
        return self.layers(X)


@pytest.mark.parametrize("kind", [NeuralNetRegressor, NeuralNetClassifier])
def test_equivalence_by_scikit_learn(kind):
    options = {} if kind is NeuralNetRegressor else {"criterion": nn.CrossEntropyLoss}
    net = kind(
        Learnt,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=0.1,
        lr=0.02,
        max_epochs=50,
        batch_size=-1,
        train_split=None,
        verbose=0,
        **options,
    )
    estimator = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    check_sample_weight_equivalence_on_dense_data("SolutionSetEstimator", estimator)


class TestTraining:
    """Weights reach the loss whatever batches go through on their way."""

    def test_in_other_processes(self):
        X, y = wine()
        s = integers()
        one = model().fit(X, y, sample_weight=s).solution_set_.weights
        other = model().set_params(n_jobs=2).fit(X, y, sample_weight=s)
        np.testing.assert_array_equal(one, other.solution_set_.weights)

    def test_callbacks_that_score_on_other_data(self):
        X, y = wine()
        held_out = np.vstack([X, X]), np.r_[y, y]

        class Watch(Callback):
            def on_epoch_end(self, net, **kwargs):
                net.history.record("held_out", float(net.score(*held_out)))

        scoring = EpochScoring("accuracy", on_train=True, use_caching=False)
        callbacks = [("watch", Watch()), ("scoring", scoring)]
        net = model(n_restarts=1, callbacks=callbacks, batch_size=16, max_epochs=3)
        found = net.fit(X, y, sample_weight=integers())
        assert found.restart_report_["status"][0]
        assert "held_out" in found._kept[0].history[0]

    def test_targets_that_are_converted_on_the_way(self):
        X, y = diabetes()
        s = integers()
        options = {"n_restarts": 1, "batch_size": 16, "max_epochs": 3}
        plain = model("regression", **options).set_params(polish=False)
        own = model("regression", **options).set_params(polish=False)
        params = own.estimator.get_params(deep=False)
        own = own.set_params(estimator=Converting(**params))
        one, other = (
            net.fit(X, y, sample_weight=s).solution_set_.weights for net in (plain, own)
        )
        np.testing.assert_allclose(one, other, atol=1e-12)

    def test_workers_that_load_batches_are_refused(self):
        X, y = wine()
        net = model(n_restarts=1, iterator_train__num_workers=1)
        with pytest.raises(UnsupportedObjectiveError, match="num_workers.*must be 0"):
            net.fit(X, y, sample_weight=integers())

    def test_rows_that_the_criterion_ignores(self):
        X, y = wine()
        s = (y == 2).astype(float)
        net = model(n_restarts=1, criterion__ignore_index=2)
        with (
            pytest.warns(UserWarning, match="no row of 2 of 3 classes"),
            pytest.raises(ValueError, match="rows that the criterion counts"),
        ):
            net.fit(X, y, sample_weight=s)


class Converting(NeuralNetRegressor):
    """Whose targets lose whatever is attached to them."""

    def train_step_single(self, batch, **fit_params):
        X, y = batch
        return super().train_step_single((X, 1.0 * y.double()), **fit_params)


class TestSensitivity:
    def test_a_column_of_targets(self, fitted):
        estimator = fitted("regression")
        y = diabetes()[1] + 0.01
        one = estimator.sensitivity(y_perturbed=y)
        other = estimator.sensitivity(y_perturbed=y[:, None])
        np.testing.assert_array_equal(one.shift, other.shift)

    @pytest.mark.parametrize(("kind", "activation"), KINDS)
    def test_shift_is_the_derivative_of_retraining(self, kind, activation, fitted):
        estimator, h = fitted(kind, activation), 1e-4
        s = towards(integers(), h)
        predicted = estimator.sensitivity(sample_weight=s)
        retrained = estimator.retrain(sample_weight=s)
        moved = retrained.weights - estimator.solution_set_.weights
        gaps = np.linalg.norm(predicted.shift - moved, axis=1)
        assert predicted.trustworthy.all()
        assert retrained.trustworthy.all()
        assert (gaps <= 1e-3 * np.linalg.norm(moved, axis=1)).all()

    @pytest.mark.parametrize(("kind", "activation"), KINDS)
    def test_labels_move_by_weight(self, kind, activation, fitted):
        """A share of a row's weight goes from its label to the new one."""
        estimator = fitted(kind, activation)
        X, y = data(kind)
        new = y.copy()
        new[:3] = y[:3] + 1.0 if kind == "regression" else (y[:3] + 1) % (y.max() + 1)
        predicted = estimator.sensitivity(y_perturbed=new)
        objective = estimator.solution_set_.objectives[0]
        w = estimator.solution_set_.weights[0]
        changed = objective.with_data(X, encoded(estimator, new))
        b = changed.gradient(w) - objective.gradient(w)
        expected = -estimator.graphical_derivatives_[0].factor.apply(b)
        assert np.linalg.norm(expected) > 1e-3
        np.testing.assert_allclose(predicted.shift[0], expected, atol=1e-8)

    def test_weights_inputs_and_labels_move_together(self, fitted):
        estimator = fitted("class")
        X, y = wine()
        rng = np.random.default_rng(5)
        dX, s, new = rng.standard_normal(X.shape), integers(), y.copy()
        new[7] = (y[7] + 1) % 3
        h = 1e-5
        together = (
            estimator.sensitivity(X + h * dX, sample_weight=towards(s, h)).shift
            + estimator.sensitivity(y_perturbed=new).shift
        )
        objective = estimator.solution_set_.objectives[0]
        base = estimator.sensitivity(X + h * dX, new, sample_weight=towards(s, h)).shift
        np.testing.assert_allclose(together, base, rtol=1e-3, atol=2e-6)
        assert objective.n_samples == N

    def test_weights_of_one_are_the_fitted_ones(self, fitted):
        predicted = fitted("class").sensitivity(sample_weight=np.ones(N))
        assert not predicted.shift.any()

    def test_from_weights_to_equal_ones(self):
        """From a row left out to that row: the way back of leaving it out."""
        X, y = wine()
        s = np.ones(N)
        s[4] = 0.0
        without = model(n_restarts=1).fit(X, y, sample_weight=s)
        path = follow_path(without, sample_weight=np.ones(N))
        assert path.arrived.all()
        objective = without.solution_set_.objectives[0].weighted(None)
        there = path.solution_set.weights[0]
        assert np.linalg.norm(objective.gradient(there)) < 1e-10
        way = there - without.solution_set_.weights[0]
        assert np.linalg.norm(way) > 1e-3

    @pytest.mark.parametrize(("kind", "activation"), KINDS)
    def test_a_path_to_other_weights_ends_where_retraining_does(
        self, kind, activation, fitted
    ):
        estimator = fitted(kind, activation)
        s = np.ones(N)
        s[[3, 11]] = 0.0
        s[20] = 2.0
        path = follow_path(estimator, sample_weight=s)
        rows = np.repeat(np.arange(N), s.astype(int))
        X, y = data(kind)
        for arrived, w in zip(path.arrived, path.solution_set.weights, strict=True):
            if not arrived:
                continue
            objective = estimator.solution_set_.objectives[0].off_kinks()
            y_seen = encoded(estimator, y)
            there = objective.with_data(X[rows], y_seen[rows])
            assert there.loss(w) == pytest.approx(
                objective.weighted(s).loss(w), rel=1e-12
            )
            if activation is nn.Tanh:
                assert np.linalg.norm(there.gradient(w)) < 1e-10
        assert path.arrived.any()

    def test_a_path_to_other_labels(self, fitted):
        estimator = fitted("class")
        X, y = wine()
        new = y.copy()
        new[0] = (y[0] + 1) % 3
        path = follow_path(estimator, y_perturbed=new)
        assert path.arrived.all()
        objective = estimator.solution_set_.objectives[0].with_data(X, new)
        for w in path.solution_set.weights:
            assert np.linalg.norm(objective.gradient(w)) < 1e-10

    def test_report_and_range(self, fitted):
        estimator = fitted("class")
        s = towards(integers(), 0.05)
        report = stability_report(estimator, sample_weight=s)
        assert report.size == pytest.approx(np.linalg.norm(s - 1.0))
        assert (report.distance <= report.bound).all()
        found = linear_range(estimator, sample_weight=s)
        assert (found.fraction > 1e-2).all()
        np.testing.assert_allclose(report.holds_to, found.fraction, rtol=0.02)

    def test_the_bound_is_attained(self, fitted):
        estimator = fitted("class")
        gd = estimator.graphical_derivatives_[0]
        columns = gd.factor.apply(gd.objective.weight_jacobian(gd.weights))
        _, sizes, rows = np.linalg.svd(columns.T, full_matrices=False)
        assert gd.weight_modulus == pytest.approx(sizes[0], rel=1e-10)
        s = 1.0 + 1e-3 * rows[0]
        report = stability_report(estimator, sample_weight=s)
        assert report.slack[0] == pytest.approx(0.0, abs=1e-9 * report.bound[0])

    @pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
    @pytest.mark.parametrize("kind", ["class", "binary", "regression"])
    def test_weight_jacobian_holds_the_products(self, kind, activation, fitted):
        estimator = fitted(kind, activation)
        rng = np.random.default_rng(2)
        for objective in estimator.solution_set_.objectives:
            weighted = objective.weighted(rng.uniform(0.0, 2.0, N).round(1))
            w, ds = objective.weights, rng.standard_normal(N)
            found = ds @ weighted.weight_jacobian(w)
            np.testing.assert_allclose(
                found, weighted.weight_product(w, ds), atol=1e-12
            )
            h = 1e-6
            s = weighted.sample_weight
            ahead, behind = (weighted.weighted(s + t * ds).gradient(w) for t in (h, -h))
            np.testing.assert_allclose(found, (ahead - behind) / (2 * h), atol=1e-8)

    def test_unknown_labels(self, fitted):
        y = wine()[1].copy()
        y[0] = 9
        with pytest.raises(ValueError, match=r"Got \[9\] too"):
            fitted("class").sensitivity(y_perturbed=y)

    def test_nothing_changes(self, fitted):
        with pytest.raises(ValueError, match="Got None for all three"):
            fitted("class").sensitivity()


def encoded(estimator, y):
    """Targets as the criterion sees them."""
    targets = estimator.targets_
    return np.asarray(y).astype(targets.dtype).reshape(targets.shape)


def test_losses_elsewhere_know_nothing_of_further_labels(fitted):
    """Of as many points as there are labels, and of as many as there are rows."""
    X, y = wine()
    plain = fitted("class").solution_set_.objectives[0]
    extended = plain.with_labels(np.array([0, 3]), np.array([1, 1]))
    w = plain.weights
    points, labels = np.vstack([X, X[:2]]), np.r_[y, y[:2]]
    for k in (N, N + 2):
        one, other = (
            o.with_data(points[:k], labels[:k]).loss(w) for o in (plain, extended)
        )
        assert one == other


def test_rows_of_weight_0_have_no_gradient_to_go_along():
    X, y = wine()
    s = integers()
    estimator = model(n_restarts=1).fit(X, y, sample_weight=s)
    moved = estimator.perturb() - X
    assert np.isfinite(moved).all()
    lengths = np.linalg.norm(moved, axis=1)
    np.testing.assert_allclose(lengths[s > 0.0], 0.1)


class TestInterpolation:
    """Removing a row of an interpolating net moves nothing, and frees its outputs."""

    @pytest.fixture(scope="class")
    def interpolating(self):
        X, y = diabetes()
        options = {"decay": 0.0, "max_epochs": 400, "module__width": 12}
        net = model("regression", n_restarts=2, **options)
        return net.fit(X[:20], y[:20])

    def test_the_kernel_grows_by_the_rank_of_the_row(self, interpolating):
        solutions = interpolating.solution_set_
        assert solutions.losses.max() < 1e-16
        s = np.ones(20)
        s[[1, 5]] = 0.0
        predicted = interpolating.sensitivity(sample_weight=s)
        assert predicted.shift_norm.max() < 1e-8
        np.testing.assert_array_equal(predicted.kernel_dims, solutions.kernel_dims + 2)
        again = interpolating.retrain(sample_weight=s)
        np.testing.assert_array_equal(again.kernel_dims, solutions.kernel_dims + 2)

    def test_a_fit_without_the_row_has_that_kernel(self, interpolating):
        X, y = diabetes()
        s = np.ones(20)
        s[1] = 0.0
        options = {"decay": 0.0, "max_epochs": 400, "module__width": 12}
        net = model("regression", n_restarts=1, **options)
        found = net.fit(X[:20], y[:20], sample_weight=s).solution_set_
        p = found.weights.shape[1]
        np.testing.assert_array_equal(found.kernel_dims, [p - 19])


def test_metadata_routing():
    import sklearn
    from sklearn.model_selection import cross_validate

    X, y = wine()
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = model(n_restarts=1).set_fit_request(sample_weight=True)
        estimator.set_score_request(sample_weight=False)
        found = cross_validate(
            estimator,
            X,
            y,
            cv=2,
            params={"sample_weight": integers() + 0.5},
            return_estimator=True,
            error_score="raise",
        )
    for fold in found["estimator"]:
        assert (fold.sample_weight_ != 1.0).any()
