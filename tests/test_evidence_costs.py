"""Evidence asks for no more solves than it needs."""

import numpy as np

from sksetsens.linalg import Subspace
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
