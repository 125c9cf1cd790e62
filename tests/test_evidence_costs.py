"""Evidence asks for no more solves than it needs."""

import numpy as np
import pytest

from sksetsens import GraphicalDerivative, SolutionSetEstimator
from sksetsens.linalg import Subspace
from sksetsens.networks import DFCNNRegressor
from sksetsens.sets import PredictedSolutionSet, SolutionSet


class Counting:
    """A kernel that counts how often a distance is asked of it."""

    def __init__(self, kernel):
        self.kernel, self.n_vectors = kernel, 0

    def complement_norm(self, v):
        self.n_vectors += np.size(v) // np.shape(v)[-1]
        return self.kernel.complement_norm(v)


def test_relative_gaps_ask_each_piece_for_its_own_solution_only():
    rng = np.random.default_rng(7)
    n, p = 5, 4
    kernels = [Counting(Subspace(np.eye(p)[:, :1])) for _ in range(n)]
    predicted = PredictedSolutionSet.__new__(PredictedSolutionSet)
    retrained = SolutionSet.__new__(SolutionSet)
    predicted.weights, retrained.weights = rng.standard_normal((2, n, p))
    predicted.kernels = kernels
    predicted.shift_norm, predicted.is_empty = np.full(n, 2.0), np.zeros(n, bool)
    retrained.converged = np.ones(n, bool)
    gaps = predicted.relative_gaps(retrained)
    across = (retrained.weights - predicted.weights)[:, 1:]
    np.testing.assert_allclose(gaps, np.linalg.norm(across, axis=1) / 2.0)
    assert [kernel.n_vectors for kernel in kernels] == [1] * n


def _fitted(weight_decay, **params):
    """A net solved by products: isolated with a penalty, a manifold without."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((10, 3))
    y = np.sin(X[:, 0]) + 0.3 * X[:, 1]
    net = DFCNNRegressor(
        module__hidden_widths=(8,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=20,
    )
    settings = {"n_restarts": 2, "random_state": 0, "solver": "minres", **params}
    model = SolutionSetEstimator(net, **settings).fit(X, y)
    return model, X + 1e-3 * rng.standard_normal(X.shape)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_evidence_about_a_prediction_costs_no_more_than_it(weight_decay):
    model, moved = _fitted(weight_decay)
    factors = [gd.factor for gd in model.graphical_derivatives_]
    model.sensitivity(moved)  # The spectrum is looked at once.
    before = sum(factor.n_products for factor in factors)
    predicted = model.sensitivity(moved)
    spent = sum(factor.n_products for factor in factors) - before
    answer = int(predicted.n_products.sum())
    assert answer > 0
    # One product of each solution checks the solve that the shift error asks for.
    assert spent <= 2 * answer + 2 * len(factors)


def test_no_perturbation_is_solved_for_to_word_a_status(monkeypatch):
    model, moved = _fitted(0.1)
    asked = []
    original = GraphicalDerivative.along

    def counted(gd, *perturbation):
        asked.append(perturbation)
        return original(gd, *perturbation)

    monkeypatch.setattr(GraphicalDerivative, "along", counted)
    retrained = model.retrain(moved)
    assert retrained.converged.all()
    assert not asked
    model.stability_report(moved)
    assert len(asked) == len(retrained)
