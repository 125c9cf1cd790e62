"""What is told of a solution: findings by name, and estimates as such."""

import numpy as np
import pytest

from sksetsens import GraphicalDerivative, SolutionSet, SolutionSetEstimator
from sksetsens.datasets import make_degenerate_product, make_saddle
from sksetsens.networks import DFCNNRegressor
from sksetsens.objective import Objective, initialised_net
from sksetsens.sensitivity import Finding, diagnose


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
