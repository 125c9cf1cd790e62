"""What leaving out rows changes: against closed forms, retraining and the interval."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skorch import NeuralNetRegressor
from test_sample_weight import N, data, diabetes, model, wine
from torch import nn

from sksetsens import SolutionSetEstimator, sample_influence
from sksetsens.exceptions import UnsupportedObjectiveError
from sksetsens.inspection import SampleInfluenceDisplay
from sksetsens.metrics import (
    linear_datamodeling_score,
    make_sensitivity_scorer,
    neg_removal_gap,
)


class Linear(nn.Linear):
    """Least squares, in float64."""

    def __init__(self, n_in):
        super().__init__(n_in, 1)
        self.double()


def least_squares(X, y, solver="auto"):
    net = NeuralNetRegressor(
        Linear,
        module__n_in=X.shape[1],
        lr=0.1,
        batch_size=-1,
        train_split=None,
        verbose=0,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, solver=solver)
    return model.fit(X, y)


@pytest.fixture(scope="module")
def fitted():
    found = {}

    def of(kind, activation=nn.GELU, **options):
        key = kind, activation, *options.items()
        if key not in found:
            net = model(kind, activation=activation, **{"decay": 0.05, **options})
            found[key] = net.fit(*data(kind))
        return found[key]

    return of


class TestLeastSquares:
    """The influence diagnostics of linear regression (Cook 1977)."""

    def test_low_rank_is_exact(self):
        X, y = diabetes()
        fitted = least_squares(X, y)
        A = np.column_stack([X, np.ones(N)])
        beta = np.linalg.lstsq(A, y, rcond=None)[0]
        hat = np.einsum("ij,ij->i", A @ np.linalg.inv(A.T @ A), A)
        residuals = y - A @ beta
        # Own prediction: residual e becomes e / (1 - h).
        own = sample_influence(fitted, samples=np.arange(N))
        assert f"{N} removals from {len(own.values)} solutions" in repr(own)
        left = residuals / (1.0 - hat)
        np.testing.assert_allclose(own.values[0], left**2 - residuals**2, atol=1e-8)
        # DFBETA: (A'A)^-1 a_i e_i / (1 - h_i) taken away.
        dfbeta = -np.linalg.solve(A.T @ A, A.T) * left
        found = sample_influence(fitted, X, of="prediction").values[0]
        np.testing.assert_allclose(found, A @ dfbeta, atol=1e-8)
        lengths = np.linalg.norm(dfbeta, axis=0)
        np.testing.assert_allclose(own.shift_norm[0], lengths, atol=1e-8)
        assert own.errors.max() < 1e-6

    def test_weights_count(self):
        """A row of weight 2 that goes takes both of its copies."""
        X, y = diabetes()
        s = np.ones(N)
        s[3] = 2.0
        fitted = least_squares(X, y).fit(X, y, sample_weight=s)
        rows = np.r_[np.arange(N), 3]
        A = np.column_stack([X, np.ones(N)])
        beta = np.linalg.lstsq(A[rows], y[rows], rcond=None)[0]
        without = np.linalg.lstsq(np.delete(A, 3, 0), np.delete(y, 3), rcond=None)[0]
        found = sample_influence(fitted, X, of="prediction", samples=[3]).values
        np.testing.assert_allclose(found[0, :, 0], A @ (without - beta), atol=1e-8)

    def test_a_row_that_alone_holds_a_direction_is_told(self):
        X, y = diabetes()
        X = np.column_stack([X, np.eye(N)[0]])
        fitted = least_squares(X, y)
        found = sample_influence(fitted)
        assert np.isnan(found.values[0, 0])
        assert not found.trustworthy[0, 0]
        assert found.trustworthy[0, 1:].all()

    @pytest.mark.parametrize("method", ["first_order", "retrain", "gauss_newton"])
    def test_whatever_the_method(self, method):
        X, y = diabetes()
        X = np.column_stack([X, np.eye(N)[0]])
        fitted = least_squares(X, y)
        found = sample_influence(
            fitted, X[:2], y[:2], groups=[[0], [0, 4], [1, 2]], method=method
        )
        assert np.isnan(found.values[0, :, :2]).all()
        assert found.trustworthy[0].tolist()[:2] == [False, False]
        assert found.kernel_dims[0].tolist() == [-1, -1, 0]
        assert np.isnan(found.range_within(1.0)[0][0, :, 0]).all()

    def test_all_rows_hold_a_direction(self):
        """As many rows as weights: each holds one, whatever the solver."""
        X, y = diabetes()
        fitted = least_squares(X[:6], y[:6], "eigh")
        found = sample_influence(fitted)
        assert not found.trustworthy.any()

    def test_lsmr_does_not_know_the_set(self):
        X, y = diabetes()
        fitted = least_squares(X[:4], y[:4], "lsmr")
        found = sample_influence(fitted, X[4:6], of="prediction")
        assert (found.kernel_dims == -1).all()
        assert np.isnan(found.range_within(1.0)[0]).all()


class TestNets:
    @pytest.mark.parametrize("kind", ["class", "binary", "regression"])
    def test_against_retraining(self, kind, fitted):
        estimator = fitted(kind)
        X, y = data(kind)
        rows = np.arange(0, N, 2)
        points = rows + 1
        predicted = sample_influence(estimator, X[points], y[points], samples=rows)
        truth = sample_influence(
            estimator, X[points], y[points], samples=rows, method="retrain"
        )
        assert truth.trustworthy.all()
        sure = predicted.trustworthy & truth.trustworthy
        assert sure.mean() > 0.3
        for i in range(len(estimator.solution_set_)):
            one, other = (v.values[i][:, sure[i]].ravel() for v in (predicted, truth))
            assert np.corrcoef(one, other)[0, 1] > 0.98
            assert np.polyfit(one, other, 1)[0] == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize("kind", ["class", "regression"])
    def test_retraining_is_that_of_the_estimator(self, kind, fitted):
        estimator = fitted(kind)
        X, y = data(kind)
        s = np.ones(N)
        s[5] = 0.0
        there = estimator.retrain(sample_weight=s)
        found = sample_influence(
            estimator, X[:4], of="prediction", samples=[5], method="retrain"
        )
        before = estimator.solution_set_.predict(X[:4])
        after = there.predict(X[:4])
        np.testing.assert_allclose(found.values[:, :, 0], after - before, atol=1e-8)

    @pytest.mark.parametrize("kind", ["class", "regression"])
    def test_first_order_is_the_derivative(self, kind, fitted):
        estimator = fitted(kind)
        X, _ = data(kind)
        found = sample_influence(
            estimator, X[:3], of="prediction", samples=[2, 7], method="first_order"
        )
        for j, row in enumerate([2, 7]):
            s = np.ones(N)
            s[row] = 0.0
            predicted = estimator.sensitivity(sample_weight=s)
            np.testing.assert_allclose(
                found.shift_norm[:, j], predicted.shift_norm, rtol=1e-8
            )
            moved = predicted.predict(X[:3]) - estimator.solution_set_.predict(X[:3])
            np.testing.assert_allclose(found.values[:, :, j], moved, atol=1e-10)

    @pytest.mark.parametrize("kind", ["class", "binary", "regression"])
    def test_own_losses_are_those_at_the_rows(self, kind, fitted):
        estimator = fitted(kind)
        X, y = data(kind)
        rows = np.array([1, 8, 30])
        own = sample_influence(estimator, samples=rows)
        everywhere = sample_influence(estimator, X[rows], y[rows], samples=rows)
        expected = np.einsum("ijj->ij", everywhere.values)
        np.testing.assert_allclose(own.values, expected, atol=1e-12)

    @pytest.mark.parametrize("kind", ["class", "regression"])
    def test_losses_are_the_criterion_at_each_point(self, kind, fitted):
        estimator = fitted(kind)
        X, y = data(kind)
        objective = estimator.solution_set_.objectives[0]
        w = estimator.solution_set_.weights[0]
        targets = estimator.targets_
        found = objective.losses_of(w[None], X, targets)[0]
        penalty = 0.5 * float(objective.decay @ torch.as_tensor(w**2))
        each = [
            objective.with_data(X[i : i + 1], targets[i : i + 1]).loss(w) - penalty
            for i in range(5)
        ]
        np.testing.assert_allclose(found[:5], each, atol=1e-12)

    def test_errors_are_told(self, fitted):
        estimator = fitted("class", decay=0.01)
        found = sample_influence(estimator)
        truth = sample_influence(estimator, method="retrain")
        for i in range(len(estimator.solution_set_)):
            gap = np.abs(found.shift_norm[i] - truth.shift_norm[i])
            sure = found.errors[i] < 0.1
            assert (gap[sure] <= 0.2 * truth.shift_norm[i][sure]).all()
            told = (found.errors[i] > 0.1).sum()
            assert (f"{told} of {N}" in found.status[i]) == (told > 0)

    @pytest.mark.parametrize(
        "kind", ["regression", pytest.param("class", marks=pytest.mark.slow)]
    )
    def test_relu_errors_are_told(self, kind, fitted):
        """Removals of whole rows exchange kinks: what is trusted is right."""
        estimator = fitted(kind, nn.ReLU)
        assert (estimator.solution_set_.n_kinks > 0).all()
        rows = np.arange(0, N, 10)
        X, y = data(kind)
        found = sample_influence(estimator, X, of="prediction", samples=rows)
        truth = sample_influence(
            estimator, X, of="prediction", samples=rows, method="retrain"
        )
        sure = found.trustworthy & truth.trustworthy
        assert sure.any() or all("above 0.1" in s for s in found.status)
        gaps = np.abs(found.shift_norm - truth.shift_norm)[sure]
        assert (gaps <= 0.2 * truth.shift_norm[sure]).all()

    def test_ignored_rows_have_no_loss(self):
        X, y = wine()
        options = {"criterion__ignore_index": 2, "decay": 0.1}
        estimator = model("class", n_restarts=1, **options).fit(X, y)
        own = sample_influence(estimator).values[0]
        assert np.isfinite(own).all()
        assert not own[y == 2].any()

    def test_trusted_movements_are_right(self):
        """Soft directions that only a row, or the movement, makes so are told."""
        rng = np.random.default_rng(0)
        n_sure = 0
        for seed in range(3):
            n = int(rng.integers(26, 36))
            X = rng.standard_normal((n, 5))
            y = X[:, 0] - X[:, 1] * X[:, 2] + 0.4 * rng.standard_normal(n)
            net = model("regression", n_restarts=1, activation=nn.GELU, decay=0.02)
            fitted = net.set_params(random_state=seed).fit(X, y)
            if not fitted.solution_set_.trustworthy.all():
                continue
            found = sample_influence(fitted)
            truth = sample_influence(fitted, method="retrain")
            sure = found.trustworthy[0]
            n_sure += sure.sum()
            gaps = np.abs(found.shift_norm - truth.shift_norm)[0, sure]
            assert (gaps <= 0.2 * truth.shift_norm[0, sure]).all()
        assert n_sure > 10

    def test_groups(self, fitted):
        estimator = fitted("class")
        X, y = wine()
        rng = np.random.default_rng(0)
        groups = [rng.choice(N, 4, replace=False) for _ in range(20)]
        found = sample_influence(estimator, X, y, groups=groups)
        truth = sample_influence(estimator, X, y, groups=groups, method="retrain")
        assert found.method == "gauss_newton"
        one, other = (v.mean.mean(axis=0) for v in (found, truth))
        # Of 8 per cent of the rows each.
        assert spearmanr(one, other).statistic > 0.6

    def test_one_group_is_a_row(self, fitted):
        estimator = fitted("regression")
        X, y = diabetes()
        group = sample_influence(estimator, X, y, groups=[[4]], method="first_order")
        row = sample_influence(estimator, X, y, samples=[4], method="first_order")
        np.testing.assert_allclose(group.values, row.values, atol=1e-12)

    @pytest.mark.parametrize("solver", ["minres"])
    def test_without_a_factorisation(self, solver, fitted):
        X, y = wine()
        rows = [0, 9]
        dense = fitted("class")
        free = model("class", decay=0.05, activation=nn.GELU, n_restarts=1)
        free = free.set_params(solver=solver, solver_tol=1e-10).fit(X, y)
        one = sample_influence(dense, X, y, samples=rows).values[:1]
        other = sample_influence(free, X, y, samples=rows).values
        np.testing.assert_allclose(one, other, atol=1e-7)

    def test_jobs_and_working_memory_change_nothing(self, fitted):
        estimator = fitted("class")
        X, y = wine()
        one = sample_influence(estimator, X, y)
        other = sample_influence(estimator, X, y, n_jobs=2)
        np.testing.assert_array_equal(one.values, other.values)
        small = model("class", decay=0.05, activation=nn.GELU)
        small = small.set_params(working_memory=0.5).fit(X, y)
        third = sample_influence(small, X, y)
        np.testing.assert_allclose(one.values, third.values, atol=1e-9)


class TestInterpolation:
    @pytest.fixture(scope="class")
    def interpolating(self):
        X, y = diabetes()
        net = model("regression", decay=0.0, max_epochs=400, module__width=12)
        return net.fit(X[:20], y[:20])

    def test_nothing_moves_and_the_set_grows(self, interpolating):
        X, y = diabetes()
        found = sample_influence(interpolating, X[20:25], of="prediction")
        assert np.abs(found.values).max() < 1e-8
        assert found.trustworthy.all()
        dims = interpolating.solution_set_.kernel_dims
        np.testing.assert_array_equal(found.kernel_dims, dims[:, None] + np.ones(20))
        lower, upper = found.range_within(0.1)
        assert (upper - lower > 1e-4).all()
        with pytest.raises(ValueError, match="radius"):
            found.range_within(0.0)

    def test_the_interval_is_that_of_the_predicted_set(self, interpolating):
        X, _ = diabetes()
        s = np.ones(20)
        s[3] = 0.0
        predicted = interpolating.sensitivity(sample_weight=s)
        change = predicted.prediction_change(X[20:25], radius=0.2)
        found = sample_influence(interpolating, X[20:25], of="prediction", samples=[3])
        lower, upper = found.range_within(0.2)
        half = 0.5 * (upper - lower)[:, :, 0]
        np.testing.assert_allclose(half, change.half_width, rtol=1e-6)

    def test_own_predictions_are_free_without_the_row(self, interpolating):
        X, _ = diabetes()
        found = sample_influence(interpolating, X[:3], of="prediction", samples=[1])
        lower, upper = found.range_within(0.1)
        widths = (upper - lower)[0, :, 0]
        assert widths[1] > 1e-3
        assert max(widths[0], widths[2]) < 1e-6 * widths[1]


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"of": "gradient"}, "'of' parameter"),
            ({"method": "newton"}, "'method' parameter"),
            ({"samples": [N]}, f"below {N}. Got {N}"),
            ({"samples": [0.5]}, "row numbers"),
            ({"samples": []}, "must name a row"),
            ({"groups": [[0], []]}, "empty one, number 1"),
            ({"groups": []}, "must hold a group"),
            ({"groups": [np.arange(N)]}, "leave rows with a weight"),
            ({"groups": [[0]], "samples": [1]}, "must be None with groups"),
            ({"groups": [[0, 1]], "method": "low_rank"}, "'low_rank' with groups"),
        ],
    )
    def test_what_is_asked(self, options, match, fitted):
        X, y = wine()
        with pytest.raises(ValueError, match=match):
            sample_influence(fitted("class"), X, y, **options)

    def test_points(self, fitted):
        X, y = wine()
        with pytest.raises(ValueError, match="'y' parameter.*of='loss'"):
            sample_influence(fitted("class"), X)
        with pytest.raises(ValueError, match="'X' parameter"):
            sample_influence(fitted("class"), of="prediction")
        with pytest.raises(ValueError, match="seen at fit"):
            sample_influence(fitted("class"), X, y + 5)

    def test_a_loss_that_does_not_weigh_rows(self):
        class Coupled(nn.Module):
            def forward(self, outputs, y):
                return ((outputs - y) ** 2).mean() ** 2

        X, y = diabetes()
        net = model("regression", n_restarts=1, criterion=Coupled).fit(X, y)
        with pytest.raises(UnsupportedObjectiveError, match="does not weigh"):
            sample_influence(net)


class TestScores:
    def test_datamodeling_score(self, fitted):
        estimator = fitted("class", decay=0.1)
        X, y = wine()
        found = linear_datamodeling_score(
            estimator, X[:12], y[:12], n_subsets=12, random_state=0
        )
        assert found.kept.shape == (12, N)
        np.testing.assert_array_equal(found.kept.sum(axis=1), N // 2)
        assert found.score == pytest.approx(np.nanmean(found.scores))
        assert found.score > 0.5
        # The first subset by hand.
        influence = sample_influence(estimator, X[:12], y[:12]).mean
        np.testing.assert_allclose(
            found.predicted[0], influence[:, ~found.kept[0]].sum(axis=1), atol=1e-12
        )
        there = estimator.retrain(sample_weight=found.kept[0].astype(float))
        probabilities = there.predict(X[:12])
        losses = -np.log(probabilities[:, np.arange(12), y[:12]])
        np.testing.assert_allclose(found.retrained[0], losses.mean(axis=0), atol=1e-8)

    def test_cold_truth(self, fitted):
        estimator = fitted("regression", decay=0.3)
        X, y = diabetes()
        found = [
            linear_datamodeling_score(
                estimator,
                X[:6],
                y[:6],
                n_subsets=4,
                warm_start=warm,
                random_state=0,
            )
            for warm in (True, False)
        ]
        np.testing.assert_array_equal(found[0].kept, found[1].kept)
        np.testing.assert_array_equal(found[0].predicted, found[1].predicted)
        assert np.corrcoef(*(f.retrained.ravel() for f in found))[0, 1] > 0.9

    @pytest.mark.parametrize(
        "options",
        [{"n_subsets": 1}, {"subset_fraction": 0.0}, {"subset_fraction": 1.0}],
    )
    def test_bad_settings(self, options, fitted):
        X, y = wine()
        with pytest.raises(ValueError, match=next(iter(options))):
            linear_datamodeling_score(fitted("class"), X, y, **options)

    def test_gap_where_rows_are_left_out(self, fitted):
        estimator = fitted("class")
        score = neg_removal_gap(estimator)
        scorer = make_sensitivity_scorer(
            lambda predicted, retrained: predicted.relative_gaps(retrained).max(),
            retrain=True,
            removed_fraction=0.01,
        )
        assert score == pytest.approx(-scorer(estimator))
        assert -1.0 < score < 0.0

    @pytest.mark.parametrize("fraction", [0.0, 1.0, "half"])
    def test_fractions_are_checked(self, fraction):
        with pytest.raises(ValueError, match="removed_fraction"):
            make_sensitivity_scorer(removed_fraction=fraction)

    def test_removed_or_perturbed(self):
        with pytest.raises(ValueError, match="left out or perturbed"):
            make_sensitivity_scorer(removed_fraction=0.1, perturbation_size=0.1)


class TestDisplay:
    def test_it_shows_the_extremes(self, fitted):
        pytest.importorskip("matplotlib").use("Agg")
        estimator = fitted("class")
        X, y = wine()
        display = SampleInfluenceDisplay.from_estimator(estimator, X[:5], y[:5])
        mean = sample_influence(estimator, X[:5], y[:5]).mean.mean(axis=0)
        order = np.argsort(mean)
        np.testing.assert_array_equal(display.shown_, np.r_[order[:5], order[-5:]])
        heights = [bar.get_width() for bar in display.bars_]
        np.testing.assert_allclose(heights, mean[display.shown_])
        assert len(display.points_.get_offsets()) == 10 * len(estimator.solution_set_)

    def test_an_output_is_chosen(self, fitted):
        pytest.importorskip("matplotlib").use("Agg")
        X, _ = wine()
        with pytest.raises(ValueError, match="'output' parameter"):
            SampleInfluenceDisplay.from_estimator(
                fitted("class"), X[:1], of="prediction"
            )
        SampleInfluenceDisplay.from_estimator(
            fitted("class"), X[:1], of="prediction", output=2, n_shown=3
        )
