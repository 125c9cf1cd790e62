"""The dual with its Gram matrix assembled in blocks: the Jacobian need not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...objective import Objective
from ._matrix_free_dual import MatrixFreeDual
from ._point import Point

__all__ = ["AssembledDual", "assembled_gram"]

Array = NDArray[np.float64]

# Share of the working memory for the two blocks of the Jacobian that are held.
_BLOCKS_SHARE = 0.5


class AssembledDual(MatrixFreeDual):
    """``A A'`` as a matrix with one row per output, A by products.

    Solves iterate on the matrix, so that each further one costs next to nothing, at
    half the digits of the decomposed Jacobian: eigenvalues of ``A A'`` below rounding
    of its largest are lost.
    """

    name = "dual"

    def _gram_products(self, point: Point) -> tuple[Any, Any]:
        return assembled_gram(point.objective, point.weights, self._S).__matmul__, None


def assembled_gram(objective: Objective, weights: Array, S: Array) -> Array:
    """``A A'`` for ``A = S J``, from per-row Jacobians in blocks of rows.

    Rows whose S is zero are skipped: their curvature is rounding beside the largest, so
    that H changes by at most ``10 c eps |Lambda| sum_i |J_i|^2`` over these rows.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
    S : ndarray of shape (n_samples, k, n_outputs)

    Returns
    -------
    gram : ndarray of shape (n_samples * k, n_samples * k)
    """
    n, k, c = S.shape
    active = np.flatnonzero(S.reshape(n, -1).any(axis=1))
    bytes_per_row = 8 * (k + c) * objective.n_params
    step = max(1, int(objective.budget(_BLOCKS_SHARE) // (2 * bytes_per_row)))
    blocks = [active[i : i + step] for i in range(0, len(active), step)]
    gram, every = np.zeros((n, k, n, k)), np.arange(k)
    for i, rows in enumerate(blocks):
        A = _block(objective, weights, S, rows)
        for others in blocks[: i + 1]:
            B = A if others is rows else _block(objective, weights, S, others)
            part = (A @ B.T).reshape(len(rows), k, len(others), k)
            gram[np.ix_(rows, every, others, every)] = part
            gram[np.ix_(others, every, rows, every)] = part.transpose(2, 3, 0, 1)
    return gram.reshape(n * k, n * k)


def _block(
    objective: Objective, weights: Array, S: Array, rows: NDArray[np.int64]
) -> Array:
    """Rows of A."""
    part = objective.with_data(objective.inputs[rows], objective.targets[rows])
    J = S[rows] @ part.jacobian(weights)
    return np.asarray(J.reshape(-1, objective.n_params), dtype=np.float64)
