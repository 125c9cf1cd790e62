"""What is told of a solution: findings by name, and estimates as such."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sksetsens import GraphicalDerivative, SolutionSet, SolutionSetEstimator
from sksetsens.datasets import make_degenerate_product, make_saddle
from sksetsens.networks import DFCNNRegressor
from sksetsens.objective import Objective, initialised_net
from sksetsens.sensitivity import Finding, diagnose
from sksetsens.sensitivity._fading import _of_entries


def fitted(solver, weight_decay):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((10, 3))
    net = DFCNNRegressor(
        module__hidden_widths=(8,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=20,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0, solver=solver)
    return model.fit(X, np.sin(X[:, 0]) + 0.3 * X[:, 1])


@pytest.mark.parametrize("solver", ["eigh", "minres"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_rank_that_is_estimated_is_told_as_such(solver, weight_decay, tmp_path):
    solutions = fitted(solver, weight_decay).solution_set_
    known = solver == "eigh" or weight_decay > 0.0
    solutions.save(tmp_path / "set")
    for found in (solutions, SolutionSet.load(tmp_path / "set")):
        assert found.ranks_are_exact[0] == known
        assert ("~" in repr(found)) != known
        assert ("(estimated)" in found.status[0]) != known


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (make_saddle, Finding.SADDLE),
        (lambda: make_degenerate_product(random_state=0), Finding.RANK_CHANGES),
    ],
)
def test_findings_have_names(make, finding):
    data = make()
    net = DFCNNRegressor(data.module, module__start=(0.0, 0.0))
    objective = Objective(initialised_net(net, {}, 0), data.X, data.y[:, None])
    gd = GraphicalDerivative(objective, np.zeros(2))
    diagnosis = diagnose(gd, is_stationary=True, polish_status="")
    assert diagnosis.findings == (finding,)
    assert diagnosis.status == finding.value.format(negative=gd.factor.inertia[0])
    assert not diagnosis.is_trustworthy


def test_what_is_not_stationary_is_told_first():
    gd = fitted("eigh", 0.1).graphical_derivatives_[0]
    diagnosis = diagnose(gd, is_stationary=False, polish_status="{far} off")
    assert diagnosis.findings == (Finding.NOT_STATIONARY,)
    assert diagnosis.status == "{far} off"
    assert not diagnosis.is_stationary


class Step(torch.nn.Module):
    """``height * tanh(slope * x + offset)``."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(3))

    def forward(self, X):
        slope, offset, height = self.weights
        return height * torch.tanh(slope * X + offset)


# A step at 0, which rows beside it want higher and rows further out lower: the longer
# the slope the better.
ROWS = np.array([-2.0, -1.0, 1.0, 2.0])
TARGETS = np.array([-0.9, -1.1, 1.1, 0.9])


@pytest.mark.parametrize("solver", ["eigh", "minres"])
def test_a_unit_saturated_on_all_rows_has_no_minimiser(solver):
    gd, diagnosis = at_step(ROWS, TARGETS, slope=14.0, solver=solver)
    assert np.linalg.norm(gd.objective.gradient(gd.weights)) < 1e-12
    assert Finding.NO_MINIMISER in diagnosis.findings


def test_a_step_that_holds_a_row_on_its_flank_has_no_minimiser():
    """No entry of R is left alone: each has a part of the row that is held."""
    X, y = 1.0 + np.append(ROWS, 0.0), np.append(TARGETS, 0.3)
    gd, diagnosis = at_step(X, y, slope=14.0, solver="eigh")
    assert gd.kernel.dim == 1
    R = gd.objective.gradient(gd.weights)
    assert np.linalg.norm(R) < 1e-12
    assert _of_entries(gd, R) == 0.0
    assert Finding.NO_MINIMISER in diagnosis.findings


def test_a_step_that_is_as_steep_as_it_should_be_is_a_minimiser():
    """The same rows with targets near those of a slope of 1."""
    y = np.tanh(ROWS) + np.array([0.02, -0.03, 0.01, -0.02])
    gd, diagnosis = at_step(ROWS, y, slope=1.0, solver="eigh", fixed=())
    assert 0.5 < gd.weights[0] < 2.0
    assert not diagnosis.findings


def test_weights_that_stopped_short_are_no_weights_at_infinity():
    """A tolerance that was loosened leaves a slope, too."""
    y = np.tanh(ROWS) + np.array([0.02, -0.03, 0.01, -0.02])
    gd, _ = at_step(ROWS, y, slope=1.0, solver="eigh", fixed=())
    for size in 10.0 ** np.arange(-12, 0):
        near = GraphicalDerivative(gd.objective, gd.weights * (1.0 + size))
        found = diagnose(near, is_stationary=True, polish_status="").findings
        assert Finding.NO_MINIMISER not in found


def at_step(X, y, slope, solver, fixed=(0,)):
    """At the minimiser in all weights but the fixed ones, by Newton's method."""
    net = NeuralNetRegressor(Step, train_split=None, verbose=0)
    X, y = X[:, None], y[:, None]
    objective = Objective(initialised_net(net, {}, 0), X, y)
    w, free = np.array([slope, 0.0, 1.0]), np.delete(np.arange(3), fixed)
    w[1] = -slope * X.mean()
    for _ in range(30):
        H, R = objective.hessian(w), objective.gradient(w)
        w[free] -= np.linalg.lstsq(H[np.ix_(free, free)], R[free], rcond=1e-9)[0]
    gd = GraphicalDerivative(objective, w, solver=solver)
    return gd, diagnose(gd, is_stationary=True, polish_status="")
