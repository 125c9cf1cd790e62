"""Rank changes are found though some columns of B leave range H."""

import numpy as np
import pytest
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens.linalg import probe
from sksetsens.objective import Objective, initialised_net
from sksetsens.sensitivity import GraphicalDerivative, diagnose


def problem(seed, dead):
    """Least squares whose rows 0 and 1 are the same row, met exactly.

    They have features of their own. Rows 2 to 7 are overdetermined; with ``dead`` the
    residuals they leave make the columns of the features they lack leave range H.
    """
    rng = np.random.RandomState(seed)
    X = np.zeros((8, 5))
    X[0, :3] = X[1, :3] = rng.standard_normal(3)
    X[2:, 3] = rng.standard_normal(6)
    y = np.append([1.0, 1.0], X[2:, 3])
    if dead:
        y[2:] += rng.standard_normal(6)
    return X, y


def derivative(X, y, **settings):
    """Of linear least squares at its shortest solution, in closed form."""
    net = NeuralNetRegressor(
        nn.Linear,
        module__in_features=X.shape[1],
        module__out_features=1,
        module__bias=False,
    )
    objective = Objective(initialised_net(net, {}, 0), X, y[:, None])
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    return GraphicalDerivative(objective, w, **settings)


def examined(gd):
    return diagnose(gd, is_stationary=True, polish_status="")


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("solver", ["eigh", "minres"])
@pytest.mark.parametrize("seed", [0, 1])
def test_duplicated_rows_are_found(seed, dead, solver):
    X, y = problem(seed, dead)
    # Oracle: apart by 1e-6, the rows move the shortest solution by much more.
    apart = X.copy()
    apart[0, :3] += 1e-6 * np.array([1.0, -1.0, 0.5])
    here, there = (np.linalg.lstsq(Z, y, rcond=1e-12)[0] for Z in (X, apart))
    assert np.linalg.norm(there - here) > 1e-2
    found = examined(derivative(X, y, solver=solver))
    assert not found.is_trustworthy
    assert not found.has_constant_rank


@pytest.mark.parametrize("solver", ["eigh", "minres"])
def test_a_dead_feature_alone_keeps_its_rank(solver):
    X, y = problem(0, dead=True)
    gd = derivative(X[1:], y[1:], solver=solver)
    assert examined(gd).has_constant_rank


def test_the_probe_is_not_the_data_of_seed_zero():
    rows = np.random.RandomState(0).standard_normal((6, 4))
    other = np.random.default_rng(0).standard_normal((6, 4))
    drawn = probe(6, 4)
    np.testing.assert_array_equal(drawn, probe(6, 4))
    for data in (rows, other):
        cosine = np.sum(drawn * data) / np.linalg.norm(drawn) / np.linalg.norm(data)
        assert abs(cosine) < 0.5
