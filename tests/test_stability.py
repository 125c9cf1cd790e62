"""Stability reports and linear ranges, against closed forms of small problems."""

import copy
import html
import shutil
import subprocess
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor

from sksetsens import (
    SolutionSetEstimator,
    linear_range,
    lipschitz_modulus,
    stability_report,
)
from sksetsens.datasets import (
    make_dead_feature,
    make_degenerate_product,
    make_isolated_minimum,
    make_saddle,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.exceptions import IllPosedWarning, NonlinearityWarning
from sksetsens.networks import DFCNNRegressor


def fitted(problem, n_restarts=1, max_epochs=2, **params):
    net = NeuralNetRegressor(
        problem.module, train_split=None, lr=0.02, max_epochs=max_epochs, **params
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
    return model.fit(problem.X, problem.y)


@pytest.fixture(scope="module")
def toy():
    return make_toy_network()


@pytest.fixture(scope="module")
def at_paper_point(toy):
    return fitted(toy, module__start=(1.0, 2.0))


@pytest.fixture(scope="module")
def restarted(toy):
    return fitted(toy, n_restarts=3, max_epochs=5)


@pytest.fixture(scope="module")
def dead():
    return make_dead_feature(random_state=0)


@pytest.fixture(scope="module")
def at_dead_feature(dead):
    return fitted(dead, module__n_features=dead.X.shape[1])


@pytest.fixture(scope="module")
def ridge():
    return make_isolated_minimum(random_state=0)


@pytest.fixture(scope="module")
def at_ridge(ridge):
    return fitted(
        ridge,
        module__n_features=ridge.X.shape[1],
        optimizer__weight_decay=ridge.weight_decay,
    )


@pytest.fixture(scope="module")
def underdetermined():
    data = make_underdetermined_linear(random_state=1)
    return fitted(data, n_restarts=2, module__n_features=data.X.shape[1])


@pytest.fixture(scope="module")
def penalised():
    """A tanh net with an isolated minimum."""
    rng = np.random.RandomState(0)
    net = DFCNNRegressor(
        module__hidden_widths=(5,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=0.05,
        max_epochs=10,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    return model.fit(rng.standard_normal((20, 2)), rng.standard_normal(20))


# --- stability reports ---------------------------------------------------------------


def test_toy_network(at_paper_point, toy):
    """The paper's Algorithm 1: its direction is the worst one of the data set."""
    report = stability_report(at_paper_point, toy.X_perturbed)
    assert report.distance == pytest.approx(0.178885, abs=1e-6)
    assert report.distance == pytest.approx(toy.shift_norm, rel=1e-12)
    assert report.bound == pytest.approx(0.178885, abs=1e-6)
    assert report.bound == pytest.approx(toy.lipschitz_modulus * report.size)
    assert report.slack == pytest.approx(0.0, abs=1e-14)
    assert report.size == pytest.approx(np.linalg.norm(toy.dX))
    assert report.worst_distance == report.distance[0]
    assert report.worst_bound == report.bound[0]
    assert report.is_trustworthy
    nonlinearity, shift_error = toy_errors(toy, 1.0)
    assert report.nonlinearity == pytest.approx(nonlinearity, rel=1e-10)
    assert report.shift_error == pytest.approx(shift_error, rel=1e-10)


@pytest.mark.parametrize(
    "name", ["restarted", "underdetermined", "at_ridge", "penalised", "at_dead_feature"]
)
def test_no_perturbation_moves_more_than_the_bound(name, request):
    model = request.getfixturevalue(name)
    rng = np.random.RandomState(0)
    X, y = model.X_train_, model.y_train_
    for size, y_perturbed in ((1e-4, None), (0.5, y + rng.standard_normal(y.shape))):
        dX = rng.standard_normal(X.shape)
        if name == "at_dead_feature":
            dX[:, -1] = 0.0
        report = stability_report(model, X + size * dX, y_perturbed)
        assert (report.slack >= -1e-12).all()
        np.testing.assert_array_equal(report.slack, report.bound - report.distance)


@pytest.mark.parametrize("name", ["restarted", "underdetermined", "penalised"])
def test_worst_case_direction_leaves_no_slack(name, request):
    model = request.getfixturevalue(name)
    value, direction = lipschitz_modulus(model, return_direction=True)
    report = stability_report(model, model.X_train_ + 1e-3 * direction)
    worst = int(np.argmax(model.lipschitz_moduli_))
    assert report.distance[worst] == pytest.approx(1e-3 * value, rel=1e-10)
    assert report.slack[worst] == pytest.approx(0.0, abs=1e-12)
    assert report.worst_bound == pytest.approx(1e-3 * value, rel=1e-10)


def test_it_is_what_sensitivity_answers(restarted, toy):
    report = stability_report(restarted, toy.X_perturbed)
    predicted = restarted.sensitivity(toy.X_perturbed)
    for name in ("shift_norm", "nonlinearity", "shift_error", "status"):
        found, expected = getattr(report.predicted, name), getattr(predicted, name)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(report.distance, predicted.shift_norm)
    np.testing.assert_array_equal(report.status, predicted.status)
    np.testing.assert_array_equal(report.predicted.weights, predicted.weights)


def test_empty_set(at_dead_feature, dead):
    report = stability_report(at_dead_feature, dead.X_perturbed_dead)
    assert np.isinf(report.distance).all()
    assert np.isinf(report.bound).all()
    assert np.isnan(report.slack).all()
    assert (report.holds_to == 0.0).all()
    assert not report.is_trustworthy
    assert "leaves range H" in report.status[0]
    assert "inf" in str(report)


@pytest.mark.parametrize("make", [make_saddle, make_degenerate_product])
def test_points_without_a_certified_modulus(make):
    problem = make()
    with pytest.warns(IllPosedWarning):
        model = fitted(problem, module__start=(0.0, 0.0))
    report = stability_report(model, problem.X_perturbed)
    assert np.isinf(report.bound).all()
    assert np.isinf(report.slack).all()
    assert not report.is_trustworthy
    assert "from an untrustworthy solution" in report.status[0]


def test_perturbed_targets_add_their_own_bound(at_paper_point, toy):
    """``kappa_y = 1 / (|x| |g|) = 0.2``, attained by targets moving along x."""
    assert lipschitz_modulus(at_paper_point, level="target") == pytest.approx(0.2)
    dy = 0.03 * toy.X[:, 0]
    both = stability_report(at_paper_point, toy.X_perturbed, toy.y + dy)
    alone = stability_report(at_paper_point, toy.X, toy.y + dy)
    kappa_dX, kappa_dy = toy.shift_norm, 0.2 * np.linalg.norm(dy)
    assert both.bound == pytest.approx(kappa_dX + kappa_dy, rel=1e-12)
    assert alone.bound == pytest.approx(kappa_dy, rel=1e-12)
    assert alone.slack == pytest.approx(0.0, abs=1e-12)
    # Shrinking x and growing y both make the product grow: the movements add up.
    assert both.slack == pytest.approx(0.0, abs=1e-12)
    size = np.hypot(np.linalg.norm(toy.dX), np.linalg.norm(dy))
    assert both.size == pytest.approx(size)
    against = stability_report(at_paper_point, toy.X_perturbed, toy.y - dy)
    assert against.distance == pytest.approx(kappa_dX - kappa_dy, rel=1e-10)


def test_it_warns_of_nothing(at_paper_point, at_dead_feature, toy, dead):
    """Where `sensitivity` does."""
    far = 0.3 * toy.X
    with pytest.warns(NonlinearityWarning):
        at_paper_point.sensitivity(far)
    with pytest.warns(IllPosedWarning):
        at_dead_feature.sensitivity(dead.X_perturbed_dead)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = stability_report(at_paper_point, far).status[0]
        stability_report(at_dead_feature, dead.X_perturbed_dead)
        stability_report(at_paper_point, toy.X, 3.0 * toy.y)
    assert "outside the range of linearity" in told


def test_nothing_moved(at_paper_point, at_dead_feature, toy, dead):
    """Not even where the modulus is infinite."""
    for model, X in ((at_paper_point, toy.X), (at_dead_feature, dead.X)):
        report = stability_report(model, X)
        assert report.size == 0.0
        for found in (report.distance, report.bound, report.slack):
            np.testing.assert_array_equal(found, [0.0])
        np.testing.assert_array_equal(report.nonlinearity, [0.0])
        assert report.is_trustworthy


def test_pipelines_take_data_as_it_came(ridge):
    scaler = StandardScaler().fit(ridge.X)
    net = NeuralNetRegressor(
        ridge.module,
        module__n_features=ridge.X.shape[1],
        optimizer__weight_decay=ridge.weight_decay,
        train_split=None,
        max_epochs=2,
    )
    inner = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    piped = make_pipeline(StandardScaler(), inner).fit(ridge.X, ridge.y)
    report = stability_report(piped, ridge.X_perturbed)
    range_ = linear_range(piped, ridge.X_perturbed)
    plain = piped[-1]
    moved = scaler.transform(ridge.X_perturbed)
    assert report.size == pytest.approx(
        np.linalg.norm(moved - scaler.transform(ridge.X))
    )
    np.testing.assert_allclose(
        report.distance, plain.sensitivity(moved).shift_norm, rtol=1e-12
    )
    np.testing.assert_array_equal(range_.fraction, linear_range(plain, moved).fraction)


def test_printed_as_a_table(restarted, toy):
    report = stability_report(restarted, toy.X_perturbed)
    lines = str(report).splitlines()
    n = len(report.distance)
    assert n == 3
    assert lines[0].startswith("perturbation of norm 0.447")
    assert lines[1].split()[:4] == ["solution", "distance", "bound", "slack"]
    rows = [line.split() for line in lines[2 : 2 + n]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    for row, distance, bound in zip(rows, report.distance, report.bound, strict=True):
        assert row[1:3] == [f"{distance:.3g}", f"{bound:.3g}"]
    assert "the first order errs by 10%" in lines[2 + n]
    told = lines[3 + n :]
    assert len(told) == len(set(report.status))
    assert all(any(sentence in line for line in told) for sentence in report.status)


def test_each_sentence_is_printed_once(restarted, toy):
    report = stability_report(restarted, toy.X_perturbed)
    report = replace(report, status=np.array(["first", "second", "first"]))
    assert str(report).splitlines()[6:] == ["  0, 2: first", "  1: second"]


def test_notebooks_see_it_escaped(restarted, toy):
    report = stability_report(restarted, toy.X_perturbed)
    report = replace(report, status=np.array(["a < b & <script>", "b", "c"]))
    table = report._repr_html_()
    assert "<script>" not in table
    assert ">a &lt; b &amp; &lt;script&gt;</td>" in table
    assert table.count("<tr>") == 1 + len(report.distance)
    assert table.count("<td") == 7 * len(report.distance)
    assert "<strong>" not in table


def test_notebooks_see_at_once_what_must_not_be_trusted(restarted, toy):
    report = stability_report(restarted, toy.X_perturbed)
    predicted = copy.copy(report.predicted)
    predicted.trustworthy = np.array([True, False, True])
    report = replace(report, predicted=predicted, status=np.array(["a", "b", "c"]))
    table = report._repr_html_()
    assert "<strong>b</strong>" in table
    assert table.count("<strong>") == 1


def test_a_file_of_its_own(tmp_path, at_ridge, ridge):
    report = at_ridge.stability_report(1.01 * ridge.X)
    report.to_html(tmp_path / "a.html")
    report.to_html(tmp_path / "b.html", X_test=ridge.X[:3], y_test=ridge.y[:3])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page
    assert "<link" not in page
    assert "<script" not in page
    assert html.escape(report._summary()) in page
    moduli = lipschitz_modulus(at_ridge, level="sample").max(axis=0)
    most = int(np.argmax(moduli))
    assert f"<td>row {most}</td><td>{moduli[most]:.3g}</td>" in page
    assert "its own loss" in page
    assert "loss on the test rows" in (tmp_path / "b.html").read_text(encoding="utf-8")


@pytest.mark.deep
def test_a_browser_shows_the_file(tmp_path, at_ridge, ridge):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    report = at_ridge.stability_report(1.01 * ridge.X)
    report.to_html(tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--disable-background-networking", f"--user-data-dir={tmp_path}/user"]
    command = [browser, *options, "--dump-dom", f"file://{tmp_path}/report.html"]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=True
    ).stdout
    assert shown.count("<svg") == 3
    assert shown.count("<rect") == 2 * len(ridge.X) + ridge.X.shape[1]
    assert shown.count("<h2>") == 5
    assert "Not available" not in shown


def test_a_file_says_what_has_no_answer(tmp_path, at_dead_feature, dead):
    report = at_dead_feature.stability_report(dead.X + 1.0)
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.escape(str(report.status[0])) in page
    assert "All predictions may be trusted" not in page


def test_test_rows_come_with_their_targets(tmp_path, at_ridge, ridge):
    report = at_ridge.stability_report(1.01 * ridge.X)
    with pytest.raises(ValueError, match="The 'y_test' parameter of StabilityReport"):
        report.to_html(tmp_path / "report.html", X_test=ridge.X)
    assert not list(tmp_path.iterdir())


def test_the_method_is_the_function(restarted, toy):
    report = restarted.stability_report(toy.X_perturbed, tol=0.2)
    expected = stability_report(restarted, toy.X_perturbed, tol=0.2)
    assert repr(report) == str(report) == str(expected)
    assert report.tol == 0.2
    np.testing.assert_array_equal(report.holds_to, expected.holds_to)


@pytest.mark.parametrize("function", [stability_report, linear_range])
class TestWhatBothRefuse:
    @pytest.mark.parametrize("tol", [0, -0.1, 1.5, np.nan, np.inf, "0.1", True, None])
    def test_tol(self, function, tol, at_paper_point, toy):
        name = function.__name__
        sentence = rf"'tol' parameter of {name} must be a number in \(0, 1.0\]. Got "
        with pytest.raises(ValueError, match=sentence):
            function(at_paper_point, toy.X_perturbed, tol=tol)

    def test_data_of_another_shape(self, function, at_paper_point, toy):
        with pytest.raises(ValueError, match=r"shape of the training X, \(2, 1\)"):
            function(at_paper_point, toy.X[:1])

    def test_estimators_that_are_not_fitted(self, function, at_paper_point, toy):
        unfitted = SolutionSetEstimator(at_paper_point.estimator)
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            function(unfitted, toy.X_perturbed)

    def test_other_estimators(self, function, toy):
        other = LinearRegression().fit(toy.X, toy.y)
        sentence = f"'estimator' parameter of {function.__name__} must end in"
        with pytest.raises(TypeError, match=sentence):
            function(other, toy.X_perturbed)


# --- linear ranges -------------------------------------------------------------------


def toy_errors(toy, t):
    """Nonlinearity and shift error at ``x + t dx``: ``R = -(y - w1 w2 x)'x (w2, w1)``.

    Two samples make the mean squared error the paper's half sum of squares. The next
    step is one with H at the predicted weights and data, along the range of the old H.
    """
    x = toy.X[:, 0] + t * toy.dX[:, 0]

    def R(w):
        return -((toy.y - w.prod() * x) @ x) * w[::-1]

    w = toy.weights + t * toy.shift
    left = R(w)
    step = np.linalg.pinv(toy.H, rcond=1e-10, hermitian=True) @ left
    slope, missed = w[::-1], (toy.y - w.prod() * x) @ x
    H = (x @ x) * np.outer(slope, slope) - missed * np.eye(2)[::-1]
    u = np.linalg.eigh(toy.H)[1][:, -1]
    step *= max(1.0, (u @ toy.H @ u) / (u @ H @ u))
    return (
        np.linalg.norm(left) / np.linalg.norm(R(toy.weights)),
        np.linalg.norm(step) / np.linalg.norm(t * toy.shift),
    )


def toy_range(toy, tol):
    return brentq(lambda t: max(toy_errors(toy, t)) - tol, 1e-9, 0.8 / 0.2)


def check_toy_range(model, toy, tol):
    found = linear_range(model, toy.X_perturbed, tol=tol)
    exact = toy_range(toy, tol)
    assert found.fraction == pytest.approx(exact, rel=0.02)
    assert found.fraction <= exact * (1 + 1e-6)
    size = found.fraction * np.linalg.norm(toy.dX)
    np.testing.assert_allclose(found.size, size, rtol=1e-12)
    np.testing.assert_allclose(found.size_per_row, size / np.sqrt(2), rtol=1e-12)
    assert found.tol == tol


@pytest.mark.parametrize("tol", [1e-3, 0.01, 0.1])
def test_range_of_the_toy_network(at_paper_point, toy, tol):
    check_toy_range(at_paper_point, toy, tol)


@pytest.mark.parametrize("tol", [0.25, 0.4])
def test_range_beyond_the_perturbation(at_paper_point, toy, tol):
    """Fractions above 1, where the first order holds further than asked."""
    assert toy_range(toy, tol) > 1.0
    check_toy_range(at_paper_point, toy, tol)


def test_range_does_not_depend_on_the_length_of_the_direction(at_paper_point, toy):
    whole = linear_range(at_paper_point, toy.X_perturbed).size
    for share in (3.0, 0.05):
        moved = toy.X + share * toy.dX
        found = linear_range(at_paper_point, moved).size
        np.testing.assert_allclose(found, whole, rtol=0.02)


@pytest.mark.parametrize("tol", [0.02, 0.1])
@pytest.mark.parametrize("name", ["at_paper_point", "penalised"])
def test_sensitivity_measures_the_same_error(name, tol, request):
    model = request.getfixturevalue(name)
    X = model.X_train_
    dX = -0.6 * X
    (fraction,) = linear_range(model, X + dX, tol=tol).fraction
    assert 0.0 < fraction < 1.0

    def error(t):
        predicted = model.sensitivity(X + t * dX)
        return max(predicted.nonlinearity[0], predicted.shift_error[0])

    assert error(0.99 * fraction) <= tol < error(1.05 * fraction)


def test_report_says_how_far_it_holds(at_paper_point, toy):
    report = stability_report(at_paper_point, toy.X_perturbed, tol=0.05)
    assert report.tol == 0.05
    assert report.holds_to == pytest.approx(toy_range(toy, 0.05), rel=0.02)


def test_size_per_row_counts_moving_rows(at_ridge, ridge):
    moved = ridge.X.copy()
    moved[3] += ridge.dX[3]
    found = linear_range(at_ridge, moved, tol=1e-4)
    np.testing.assert_allclose(found.size_per_row, found.size, rtol=1e-12)
    np.testing.assert_allclose(
        found.size, found.fraction * np.linalg.norm(ridge.dX[3]), rtol=1e-9
    )


def test_targets_of_a_linear_model_have_no_limit(at_ridge, ridge):
    """R is linear in weights and targets together."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = linear_range(at_ridge, ridge.X, ridge.y + 1.0)
    assert np.isinf(found.fraction).all()
    assert np.isinf(found.size).all()
    assert not np.isnan(found.size_per_row).any()


def test_empty_sets_have_no_range(at_dead_feature, dead):
    found = linear_range(at_dead_feature, dead.X_perturbed_dead)
    for values in (found.fraction, found.size, found.size_per_row):
        np.testing.assert_array_equal(values, [0.0])
    live = linear_range(at_dead_feature, dead.X + 5.0 * dead.dX_live, tol=1e-3)
    assert (live.fraction > 0.0).all()


def test_range_needs_a_direction(at_paper_point, toy):
    sentence = "'X_perturbed' parameter of linear_range must differ from the training"
    with pytest.raises(ValueError, match=sentence):
        linear_range(at_paper_point, toy.X)
    with pytest.raises(ValueError, match=sentence):
        linear_range(at_paper_point, toy.X, toy.y)
