"""Displays: what is drawn is what the public functions compute."""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import (
    SensitivityCurve,
    SolutionSet,
    SolutionSetEstimator,
    lipschitz_modulus,
    sensitivity_curve,
)
from sksetsens.datasets import (
    LinearNetwork,
    make_dead_feature,
    make_saddle,
    make_toy_network,
)
from sksetsens.inspection import (
    HessianSpectrumDisplay,
    LipschitzModulusDisplay,
    SensitivityCurveDisplay,
    SolutionSetDisplay,
)
from sksetsens.inspection._plane import filter_directions
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)


DISPLAYS = [
    HessianSpectrumDisplay,
    LipschitzModulusDisplay,
    SensitivityCurveDisplay,
    SolutionSetDisplay,
]
TOY = make_toy_network()
_RNG = np.random.RandomState(0)
X = pd.DataFrame(_RNG.standard_normal((12, 3)), columns=["age", "height", "weight"])
y = _RNG.standard_normal(12)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def _fit(module, X, y, *, net_params=None, **params):
    net = NeuralNetRegressor(module, train_split=None, max_epochs=3, lr=0.02)
    net.set_params(**(net_params or {}))
    settings = {"n_restarts": 1, "perturbation": "random", "random_state": 0}
    return SolutionSetEstimator(net, **{**settings, **params}).fit(X, y)


def _mlp(weight_decay, n_restarts=3, **params):
    net = DFCNNRegressor(
        module__hidden_widths=(6,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=5,
    )
    settings = {"perturbation": "random", "perturbation_size": 1e-3, "random_state": 0}
    return SolutionSetEstimator(net, n_restarts=n_restarts, **{**settings, **params})


@pytest.fixture(scope="module")
def toy():
    start = {"module__start": (1.0, 2.0)}
    return _fit(TOY.module, TOY.X, TOY.y, net_params=start)


@pytest.fixture(scope="module")
def wide():
    """31 weights on 12 rows: ker H has 19 dimensions."""
    return _mlp(0.0).fit(X, y)


@pytest.fixture(scope="module")
def decayed():
    return _mlp(0.05).fit(X, y)


@pytest.fixture(scope="module")
def dead():
    data = make_dead_feature(random_state=0)
    size = {"module__n_features": data.X.shape[1]}
    return _fit(LinearNetwork, data.X, data.y, net_params=size, n_restarts=2), data


# --- Solution sets: the toy network, by hand -----------------------------------------


def test_two_weights_are_their_own_plane(toy):
    display = SolutionSetDisplay.from_estimator(toy, TOY.X_perturbed, radius=0.2)
    retrained = toy.retrain(TOY.X_perturbed)
    # Newton's steps end at |R| below 1e-10, a distance of about 1e-12.
    near = {"atol": 1e-9, "rtol": 0}
    np.testing.assert_allclose(display.original_.get_offsets(), [[1, 2]], **near)
    np.testing.assert_allclose(display.predicted_.get_offsets(), [[1.16, 2.08]], **near)
    np.testing.assert_array_equal(display.retrained_.get_offsets(), retrained.weights)
    # ker H is spanned by (1, -2) / sqrt(5).
    along = 0.2 * np.array([1.0, -2.0]) / np.sqrt(5.0)
    (ends,) = display.segments_.get_segments()
    ends = ends[np.argsort(ends[:, 0])]
    np.testing.assert_allclose(
        ends, [[1.16, 2.08] - along, [1.16, 2.08] + along], **near
    )
    assert display.ax_.get_xlabel() == "weight w1"
    assert display.figure_ is display.ax_.figure


def test_the_landscape_is_that_of_the_perturbed_data(toy):
    display = SolutionSetDisplay.from_estimator(toy, TOY.X_perturbed, grid_resolution=7)
    u, v = np.meshgrid(display.x, display.y)
    # Half the sum of squares of 2 - 0.8 w1 w2 and of twice that.
    expected = 2.5 * (2.0 - 0.8 * u * v) ** 2
    np.testing.assert_allclose(display.landscape, expected, **CLOSE)


def test_the_span_is_the_half_width(toy):
    display = SolutionSetDisplay.from_estimator(
        toy, TOY.X_perturbed, span=0.7, grid_resolution=5, retrain=False
    )
    center = 0.5 * (display.original + display.predicted)[0]
    expected = center[:, None] + [-0.7, 0.7]
    np.testing.assert_allclose([display.x[[0, -1]], display.y[[0, -1]]], expected)
    np.testing.assert_allclose(display.ax_.get_xlim(), expected[0])
    assert display.retrained_ is None


def test_all_solutions_of_two_weights_are_drawn():
    model = _fit(TOY.module, TOY.X, TOY.y, n_restarts=3)
    display = SolutionSetDisplay.from_estimator(model, grid_resolution=5)
    weights = model.solution_set_.weights
    np.testing.assert_array_equal(display.original_.get_offsets(), weights)
    assert len(display.segments_.get_segments()) == 3


def test_an_axes_and_its_options_are_respected(toy):
    _, ax = plt.subplots()
    display = SolutionSetDisplay.from_estimator(
        toy, grid_resolution=5, ax=ax, colorbar=False, legend=False, cmap="cividis"
    )
    assert display.ax_ is ax
    assert display.colorbar_ is None
    assert ax.get_legend() is None
    assert display.contours_.get_cmap().name == "cividis"
    assert "objective" in display.plot().colorbar_.ax.get_ylabel()


# --- Solution sets: planes of more weights -------------------------------------------


def test_the_plane_of_shift_and_kernel(wide):
    predicted = wide.sensitivity(moved := wide.perturb())
    retrained = wide.retrain(moved)
    display = SolutionSetDisplay.from_solution_sets(
        predicted, retrained, solution=1, grid_resolution=5
    )
    length = predicted.shift_norm[1]
    near = {"rtol": 1e-6, "atol": 1e-9}
    np.testing.assert_allclose(display.original, [[0, 0]], **CLOSE)
    np.testing.assert_allclose(display.predicted, [[length, 0]], **near)
    # Retraining went along ker H by as much as the picture says.
    away = retrained.weights[1] - predicted.weights[1]
    along = np.linalg.norm(predicted.kernels[1].project(away))
    np.testing.assert_allclose(display.retrained[0, 1], along, **near)
    # Projections and distances from the plane make up the whole way.
    way = np.linalg.norm(retrained.weights[1] - wide.solution_set_.weights[1])
    off = display.off_plane["retrained"]
    np.testing.assert_allclose(np.hypot(np.hypot(*display.retrained[0]), off), way)
    # The drawn piece stands upright on the shift.
    (ends,) = display.segments
    np.testing.assert_allclose(ends[:, 0], [length, length], **near)
    e1, e2 = predicted.shift[1] / length, predicted.kernels[1].project(away) / along
    corner = predicted.base.weights[1] + display.x[4] * e1 + display.y[0] * e2
    value = predicted.objectives[1].loss(corner)
    np.testing.assert_allclose(display.landscape[0, 4], value, rtol=1e-6)
    assert "Euclidean distance" in display.ax_.get_xlabel()
    assert "ker H" in display.ax_.get_ylabel()
    labels = [t.get_text() for t in display.ax_.get_legend().get_texts()]
    assert any("off the plane" in label for label in labels)


def test_without_a_kernel_the_second_direction_is_random(decayed):
    display = SolutionSetDisplay.from_estimator(decayed, grid_resolution=3)
    assert display.segments.shape == (0, 2, 2)
    assert "random" in display.ax_.get_ylabel()
    assert display.off_plane["predicted"] < 1e-9
    other = SolutionSetDisplay.from_estimator(
        decayed, grid_resolution=3, random_state=1
    )
    assert not np.allclose(other.landscape, display.landscape, rtol=1e-9)


def test_the_plane_through_three_solutions(wide):
    display = SolutionSetDisplay.from_estimator(
        wide, directions="solutions", solution=1, grid_resolution=3
    )
    weights = wide.solution_set_.weights[[1, 2, 0]]
    assert display.off_plane["original"] < 1e-9
    points = display.original_.get_offsets()
    for i in range(3):  # distances in the plane are those in weight space
        np.testing.assert_allclose(
            np.linalg.norm(points - points[i], axis=1),
            np.linalg.norm(weights - weights[i], axis=1),
            rtol=1e-9,
            atol=1e-9,
        )


def test_given_directions_are_orthonormalised(wide):
    directions = np.zeros((2, wide.solution_set_.weights.shape[1]))
    directions[0, 0] = 2.0
    directions[1, :2] = 3.0
    display = SolutionSetDisplay.from_estimator(
        wide, directions=directions, grid_resolution=3
    )
    shift = wide.sensitivity(wide.perturb()).shift[0]
    np.testing.assert_allclose(display.predicted[0], shift[:2], **CLOSE)


class _ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(8, 1)

    def forward(self, X):
        return self.linear(torch.tanh(self.norm(self.conv(X))).flatten(1))


@pytest.fixture(scope="module")
def conv():
    images = np.random.RandomState(0).standard_normal((10, 1, 3, 3))
    params = {"optimizer__weight_decay": 0.05}
    return _fit(_ConvNet, images, y[:10], net_params=params)


def test_filters_keep_their_norms_and_biases_stay(conv):
    objective = conv.solution_set_.objectives[0]
    w = conv.solution_set_.weights[0]
    directions = filter_directions(objective, w, 2, np.random.RandomState(0))
    parts = objective.parameter_slices
    for name in ("conv.bias", "norm.weight", "norm.bias", "linear.bias"):
        assert not directions[:, parts[name]].any()
    for name, n_filters in (("conv.weight", 2), ("linear.weight", 1)):
        filters = w[parts[name]].reshape(n_filters, -1)
        for direction in directions:
            drawn = direction[parts[name]].reshape(n_filters, -1)
            np.testing.assert_allclose(
                np.linalg.norm(drawn, axis=1), np.linalg.norm(filters, axis=1), **CLOSE
            )


def test_buffers_are_kept_in_the_landscape(conv):
    display = SolutionSetDisplay.from_estimator(
        conv, directions="filter", grid_resolution=3, retrain=False, span=1e-9
    )
    module, w = conv.estimators_[0].module_.eval(), conv.solution_set_.weights[0]
    with torch.no_grad():
        outputs = module(torch.as_tensor(conv.perturb(), dtype=torch.float32))
    mean_square = np.mean((outputs.numpy()[:, 0] - y[:10]) ** 2)
    # The picture is no wider than rounding; the module holds its weights in float32.
    np.testing.assert_allclose(
        display.landscape, mean_square + 0.025 * w @ w, rtol=1e-4
    )
    assert module.norm.num_batches_tracked > 0


def test_the_default_span_of_filter_directions_is_their_norm(decayed):
    display = SolutionSetDisplay.from_estimator(
        decayed, directions="filter", grid_resolution=3
    )
    base = decayed.solution_set_
    is_matrix = ["weight" in n for n in decayed.layer_names_]
    parts = base.objectives[0].parameter_slices.values()
    w = base.weights[0]
    norm = np.linalg.norm(
        np.concatenate([w[p] for p, m in zip(parts, is_matrix, strict=True) if m])
    )
    np.testing.assert_allclose(0.5 * np.ptp(display.x), norm, rtol=1e-9)


def test_tilted_objectives_are_drawn_tilted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _mlp(0.05, n_restarts=1, polish=False).fit(X, y)
        display = SolutionSetDisplay.from_estimator(
            model, grid_resolution=3, retrain=False, span=1e-3
        )
    predicted = model.sensitivity(model.perturb())
    objective, w = predicted.objectives[0], predicted.base.weights[0]
    assert objective.is_tilted
    e1 = predicted.shift[0] / predicted.shift_norm[0]
    center = w + display.x[1] * e1
    expected = objective.value_and_gradient(center)[0]
    assert display.y[1] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(display.landscape[1, 1], expected, **CLOSE)
    assert abs(expected - objective.loss(center)) > 1e-6


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_empty_predictions_are_named(dead):
    model, data = dead
    display = SolutionSetDisplay.from_estimator(
        model, data.X + data.dX_dead, grid_resolution=3
    )
    assert np.isnan(display.predicted).all()
    labels = [t.get_text() for t in display.ax_.get_legend().get_texts()]
    assert any("1 empty" in label for label in labels)


def test_named_features_and_pipelines(wide, decayed):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="X ")
        SolutionSetDisplay.from_estimator(wide, grid_resolution=2)
    pipeline = make_pipeline(StandardScaler(), _mlp(0.05, n_restarts=1)).fit(X, y)
    moved = X * 1.001
    display = SolutionSetDisplay.from_estimator(
        pipeline, moved, grid_resolution=2, retrain=False
    )
    inner = pipeline[-1].sensitivity(pipeline[0].transform(moved))
    np.testing.assert_allclose(display.predicted[0, 0], inner.shift_norm[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"directions": "pca"}, r"'directions' parameter.*one of .*'pca'"),
        ({"directions": "weights"}, r"not be 'weights' for a net of 31 weights"),
        ({"directions": np.ones((2, 3))}, r"an array of shape \(2, 31\)"),
        ({"directions": np.ones((2, 31))}, r"must span a plane"),
        ({"directions": np.zeros((2, 31))}, r"must span a plane"),
        ({"solution": 3}, r"'solution' parameter.*0 to 2\. Got 3"),
        ({"solution": True}, r"'solution' parameter.*Got True"),
        ({"grid_resolution": 1}, r"'grid_resolution' parameter.*at least 2"),
        ({"span": 0.0}, r"'span' parameter.*positive"),
        ({"radius": -1.0}, r"'radius' parameter.*positive"),
    ],
)
def test_bad_planes_are_refused(wide, params, message):
    with pytest.raises(ValueError, match=message):
        SolutionSetDisplay.from_estimator(wide, retrain=False, **params)


def test_planes_that_do_not_exist_are_refused(toy):
    still = toy.sensitivity(TOY.X)
    with pytest.raises(ValueError, match="not be 'shift'.*solution 0 has none"):
        SolutionSetDisplay.from_solution_sets(still, directions="shift")
    with pytest.raises(ValueError, match="fewer than three"):
        SolutionSetDisplay.from_solution_sets(still, directions="solutions")
    with pytest.raises(ValueError, match="not be 'filter'.*without weight matrices"):
        SolutionSetDisplay.from_solution_sets(still, directions="filter")
    with pytest.raises(ValueError, match="must be a PredictedSolutionSet"):
        SolutionSetDisplay.from_solution_sets(toy.solution_set_)
    line = _fit(LinearNetwork, TOY.X, TOY.y)
    with pytest.raises(ValueError, match="at least 2 weights"):
        SolutionSetDisplay.from_estimator(line)


def test_sets_without_a_net_are_refused(toy, tmp_path):
    toy.sensitivity(TOY.X_perturbed).save(tmp_path / "set")
    loaded = SolutionSet.load(tmp_path / "set")
    with pytest.raises(ValueError, match="without a net and cannot be drawn"):
        SolutionSetDisplay.from_solution_sets(loaded)


# --- Sensitivity curves --------------------------------------------------------------


def _curve(fails=(False, False, True), n_folds=2, **arrays):
    n = len(fails)
    values = np.outer(10.0 ** np.arange(n), np.arange(1.0, n_folds + 1.0))
    nonlinearity = np.full((n, n_folds), 0.1)
    nonlinearity[list(fails), -1] = 0.6
    settings = {
        "param_range": 10.0 ** np.arange(-n, 0),
        "perturbation_norms": values,
        "losses": values,
        "base_losses": 2.0 * values,
        "scores": 1.0 - 1e-3 * values,
        "base_scores": np.ones(n_folds),
        "shift_norms": values,
        "nonlinearity": nonlinearity,
        "shift_errors": nonlinearity,
    }
    settings.update(arrays)
    settings.setdefault(
        "trustworthy", (settings["nonlinearity"] < 0.5).astype(np.float64)
    )
    return SensitivityCurve(**settings)


def test_lines_are_means_over_the_folds():
    curve = _curve(retrained_shift_norms=np.full((3, 2), 7.0))
    display = SensitivityCurveDisplay.from_curve(curve)
    line = display.lines_["predicted"]
    np.testing.assert_array_equal(line.get_xdata(), curve.param_range)
    np.testing.assert_allclose(line.get_ydata(), [1.5, 15.0, 150.0])
    np.testing.assert_allclose(display.lines_["retrained"].get_ydata(), 7.0)
    (path,) = display.spreads_["predicted"].get_paths()
    assert {1.0, 2.0, 10.0, 20.0, 100.0, 200.0} <= set(path.vertices[:, 1].round(9))
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"
    assert "Euclidean" in display.ax_.get_xlabel()
    assert "Euclidean" in display.ax_.get_ylabel()


def test_sizes_where_the_first_order_fails_are_shaded():
    display = SensitivityCurveDisplay.from_curve(_curve())
    assert display.curve.first_order_fails.tolist() == [[False, False]] * 2 + [
        [False, True]
    ]
    (patch,) = display.shaded_
    left = patch.get_extents().transformed(display.ax_.transData.inverted()).x0
    assert left == pytest.approx(np.sqrt(1e-2 * 1e-1), rel=1e-6)
    apart = SensitivityCurveDisplay.from_curve(_curve((True, False, True)))
    assert len(apart.shaded_) == 2
    distrusted = _curve((False,) * 3, trustworthy=np.array([[1, 1], [1, 1], [1, 0.5]]))
    assert len(SensitivityCurveDisplay.from_curve(distrusted).shaded_) == 1
    unknown = _curve((False,) * 3, nonlinearity=np.full((3, 2), np.nan))
    assert len(SensitivityCurveDisplay.from_curve(unknown).shaded_) == 1
    assert not SensitivityCurveDisplay.from_curve(_curve((False,) * 3)).shaded_


def test_the_other_quantities():
    curve = _curve(gaps=np.full((3, 2), 0.3))
    loss = SensitivityCurveDisplay.from_curve(curve, quantity="loss")
    np.testing.assert_allclose(
        loss.lines_["old weights"].get_ydata(), [3.0, 30.0, 300.0]
    )
    gap = SensitivityCurveDisplay.from_curve(curve, quantity="gap")
    np.testing.assert_allclose(gap.lines_["retrained"].get_ydata(), 0.3)
    score = SensitivityCurveDisplay.from_curve(curve, quantity="score", score_name="R2")
    assert score.ax_.get_ylabel() == "R2"
    assert score.ax_.get_yscale() == "linear"


def test_sizes_of_zero_and_single_folds():
    sizes = np.array([0.1, 0.0, 1.0])
    shifts = np.array([[1.0], [0.0], [10.0]])
    curve = _curve(n_folds=1, param_range=sizes, shift_norms=shifts)
    display = SensitivityCurveDisplay.from_curve(curve)
    assert display.spreads_ == {}
    assert display.ax_.get_xscale() == "symlog"
    np.testing.assert_array_equal(
        display.lines_["predicted"].get_xdata(), [0.0, 0.1, 1.0]
    )


def test_curves_from_estimators(decayed):
    settings = {"param_range": [1e-3, 1e-2], "cv": "prefit"}
    display = SensitivityCurveDisplay.from_estimator(decayed, X, y, **settings)
    expected = sensitivity_curve(decayed, X, y, retrain=True, **settings)
    np.testing.assert_array_equal(display.curve.shift_norms, expected.shift_norms)
    assert set(display.lines_) == {"predicted", "retrained"}


def test_quantities_that_a_curve_does_not_hold_are_refused():
    with pytest.raises(ValueError, match=r"'quantity' parameter.*one of"):
        SensitivityCurveDisplay.from_curve(_curve(), quantity="bound")
    with pytest.raises(ValueError, match="'gap' needs retrain=True"):
        SensitivityCurveDisplay.from_curve(_curve(), quantity="gap")
    scoreless = _curve(scores=np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="a scorer that scores"):
        SensitivityCurveDisplay.from_curve(scoreless, quantity="score")


# --- Moduli --------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["feature", "layer", "sample"])
def test_markers_are_the_sorted_moduli(wide, level):
    display = LipschitzModulusDisplay.from_estimator(wide, level=level)
    table = lipschitz_modulus(wide, level=level)
    order = np.argsort(-table.max(axis=0))
    np.testing.assert_array_equal(display.order_, order)
    for markers, values in zip(display.markers_, table, strict=True):
        np.testing.assert_array_equal(markers.get_xdata(), values[order])
    assert not any(arrows.get_xdata().size for arrows in display.arrows_)
    names = {
        "feature": list(X.columns),
        "layer": wide.layer_names_,
        "sample": [f"row {i}" for i in range(12)],
    }[level]
    ticks = [t.get_text() for t in display.ax_.get_yticklabels()]
    assert ticks == [names[part] for part in order]
    assert "Frobenius" in display.ax_.get_xlabel()


def test_groups_and_pipelines(decayed):
    groups = np.repeat(["a", "b"], 6)
    display = LipschitzModulusDisplay.from_estimator(
        make_pipeline(decayed), level="group", groups=groups
    )
    assert display.names == ["a", "b"]


def test_infinite_moduli_are_arrows_with_names(dead):
    model, _ = dead
    table = lipschitz_modulus(model, level="feature")
    (part,) = np.flatnonzero(np.isinf(table).all(axis=0))
    display = LipschitzModulusDisplay.from_estimator(model, level="feature", top_k=1)
    assert display.order_.tolist() == [part]
    full = LipschitzModulusDisplay.from_estimator(model, level="feature")
    assert full.order_[0] == part
    for arrows in full.arrows_:
        assert arrows.get_xdata().tolist() == [0.985]
        assert round(arrows.get_ydata()[0]) == 0
    assert full.ax_.get_yticklabels()[0].get_text() == f"feature {part} ($\\infty$)"
    labels = [t.get_text() for t in full.ax_.get_legend().get_texts()]
    assert labels == ["solution 0", "solution 1", "infinite"]


def test_top_k_keeps_infinite_ones_of_solutions_that_rank():
    moduli = np.array([[3.0, np.inf, 2.0, 1.0], [np.inf] * 4])
    display = LipschitzModulusDisplay(moduli=moduli, names="abcd", level="sample")
    assert display.plot().order_.tolist() == [1, 0, 2, 3]
    display.top_k = 2
    assert display.plot().order_.tolist() == [1, 0]
    assert "2 most fragile of 4 rows" in display.ax_.get_title()
    # The second solution's are drawn too, on every row shown.
    assert len(display.arrows_[1].get_xdata()) == 2


def test_unknown_and_zero_moduli_are_named():
    moduli = [[np.nan, 1.0, 0.0, 1e3]]
    display = LipschitzModulusDisplay(moduli=moduli, names="abcd", level="layer").plot()
    assert display.ax_.get_xscale() == "log"
    ticks = [t.get_text() for t in display.ax_.get_yticklabels()]
    assert ticks == ["d", "b", "c (0)", "a (not known)"]


def test_nothing_but_infinite_moduli():
    moduli = np.full((1, 2), np.inf)
    display = LipschitzModulusDisplay(moduli=moduli, names="ab", level="layer").plot()
    assert len(display.arrows_[0].get_xdata()) == 2
    assert not len(display.ax_.get_xticks())


def test_many_solutions_are_counted():
    moduli = np.arange(1.0, 21.0)[:, None]
    display = LipschitzModulusDisplay(moduli=moduli, names=["a"], level="layer").plot()
    labels = [t.get_text() for t in display.ax_.get_legend().get_texts()]
    assert labels[-1] == "... and 12 more"
    assert len(display.markers_) == 20


def test_bad_levels_and_names_are_refused(decayed):
    for level in ("dataset", "target", "weight", None):
        with pytest.raises(ValueError, match=r"'level' parameter.*one of.*Got"):
            LipschitzModulusDisplay.from_estimator(decayed, level=level)
    with pytest.raises(ValueError, match="'top_k' parameter.*at least 1"):
        LipschitzModulusDisplay.from_estimator(decayed, top_k=0)
    with pytest.raises(ValueError, match="one name per part, 2. Got 1"):
        LipschitzModulusDisplay(moduli=[[1.0, 2.0]], names="a", level="layer").plot()


# --- Spectra -------------------------------------------------------------------------


def _legend(display):
    legend = display.ax_.get_legend()
    return legend.get_title().get_text(), [t.get_text() for t in legend.get_texts()]


def test_the_spectrum_of_the_toy_network(toy):
    display = HessianSpectrumDisplay.from_estimator(toy)
    np.testing.assert_allclose(display.positive_.get_ydata(), [25.0], rtol=1e-6)
    n_null = len(display.dropped_.get_ydata()) + len(display.below_.get_ydata())
    assert n_null == 1
    assert not len(display.negative_.get_ydata())
    assert display.ax_.get_yscale() == "log"
    cutoff = toy.graphical_derivatives_[0].factor.cutoff
    np.testing.assert_allclose(display.cutoff_.get_ydata(), cutoff)
    title, labels = _legend(display)
    assert "rank 1, dim ker H 1" in title
    assert "gap" in title
    assert "positive: 1" in labels


@pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning")
def test_negative_eigenvalues_have_their_own_marker():
    data = make_saddle()
    start = {"module__start": tuple(data.weights)}
    model = _fit(data.module, data.X, data.y, net_params=start)
    display = HessianSpectrumDisplay.from_estimator(model)
    exact = np.linalg.eigvalsh(data.H)
    np.testing.assert_allclose(display.negative_.get_ydata(), [-exact[0]], rtol=1e-6)
    np.testing.assert_allclose(display.positive_.get_ydata(), [exact[1]], rtol=1e-6)
    assert display.negative_.get_marker() != display.positive_.get_marker()
    assert display.negative_.get_color() != display.positive_.get_color()


def test_every_eigenvalue_of_a_definite_hessian_is_drawn(decayed):
    gd = decayed.graphical_derivatives_[1]
    display = HessianSpectrumDisplay.from_derivative(gd)
    dense = np.linalg.eigvalsh(gd.objective.hessian(gd.weights))
    np.testing.assert_allclose(display.positive_.get_ydata(), dense[::-1], rtol=1e-9)


def test_the_dual_form_names_what_it_does_not_hold(wide):
    display = HessianSpectrumDisplay.from_estimator(wide, solution=2)
    assert "solver 'dual'" in display.ax_.get_title()
    assert len(display.positive_.get_ydata()) == 12
    assert "19 more are exactly zero" in _legend(display)[0]


@pytest.mark.parametrize(("solver", "weight_decay"), [("minres", 0.05), ("lsmr", 0.0)])
def test_ritz_values_are_named(solver, weight_decay):
    model = _mlp(weight_decay, n_restarts=1, solver=solver).fit(X, y)
    display = HessianSpectrumDisplay.from_estimator(model)
    assert "Ritz values" in display.ax_.get_title()
    assert "Ritz value" in display.ax_.get_ylabel()
    assert "rank about" in _legend(display)[0]


def test_bad_solutions_are_refused(decayed):
    for solution in (-1, 3, 0.0, "0"):
        with pytest.raises(ValueError, match=r"'solution' parameter.*from 0 to 2"):
            HessianSpectrumDisplay.from_estimator(decayed, solution=solution)


# --- All of them ---------------------------------------------------------------------


def _draw(display, estimator):
    if display is SensitivityCurveDisplay:
        return display.from_estimator(
            estimator, X, y, param_range=[1e-3], cv="prefit", retrain=False
        )
    return display.from_estimator(estimator)


@pytest.mark.parametrize("display", DISPLAYS)
def test_unfitted_and_other_estimators_are_refused(display):
    with pytest.raises(ValueError, match="not fitted yet"):
        _draw(display, _mlp(0.05))
    with pytest.raises(TypeError, match=r"must end in a SolutionSetEstimator.*Ridge"):
        _draw(display, Ridge())


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_missing_matplotlib_is_told_before_any_work(display, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    name = f"{display.__name__}.from_estimator"
    with pytest.raises(ImportError, match=rf"{name} requires matplotlib"):
        _draw(display, _mlp(0.05))


def test_plots_without_matplotlib_are_refused(monkeypatch):
    display = LipschitzModulusDisplay(moduli=[[1.0]], names="a", level="layer")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot requires matplotlib"):
        display.plot()


@pytest.mark.parametrize("display", DISPLAYS)
def test_displays_draw_into_given_axes_and_can_be_redrawn(display, decayed):
    drawn = _draw(display, decayed)
    _, ax = plt.subplots()
    again = drawn.plot(ax)
    assert again is drawn
    assert drawn.ax_ is ax
    assert drawn.figure_ is ax.figure
    assert ax.get_legend() is not None
    assert drawn.plot(legend=False).ax_.get_legend() is None
