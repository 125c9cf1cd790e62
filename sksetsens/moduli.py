r"""Lipschitz moduli by level: data set, rows, features and layers of the net.

All are norms of parts of one matrix, :math:`H^+ B`: columns for rows and features of
the data; for a layer, the matrix of the problem in which that layer alone moves. Each
factorisation is made once, whatever the number of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import aslinearoperator

from ._peeling import peel
from .derivatives import GraphicalDerivative
from .linalg import CONSISTENCY_TOL, operator_norm

__all__ = ["feature_moduli", "layer_moduli", "lipschitz_modulus", "sample_moduli"]

Array = NDArray[np.float64]

_LEVELS = ("dataset", "sample", "feature", "layer")
_METHODS = ("coderivative",)


def lipschitz_modulus(
    estimator: Any, *, level: str = "dataset", method: str = "coderivative"
) -> float | Array:
    """Lipschitz modulus of the solution set, as a whole or by parts of the data or net.

    Parameters
    ----------
    estimator : SolutionSetEstimator, Pipeline or search
        Fitted.

    level : {"dataset", "sample", "feature", "layer"}, default="dataset"
        What may move: all rows, one row, one feature in all rows; or all rows while
        only one layer's weights answer.

    method : {"coderivative"}, default="coderivative"
        Exact, ``|H^+ B|_2``.

    Returns
    -------
    modulus : float, or ndarray of shape (n_solutions, n_parts)
        Euclidean movement of the weights per Frobenius norm of the perturbation. A
        float, the largest over the solutions, for the data set. inf where the
        Lipschitz-like property fails or cannot be certified.
    """
    final, _ = peel(estimator, caller="lipschitz_modulus")
    for name, value, known in (("level", level, _LEVELS), ("method", method, _METHODS)):
        if value not in known:
            raise ValueError(
                f"The {name!r} parameter of lipschitz_modulus must be one of {known}. "
                f"Got {value!r} instead."
            )
    if level == "dataset":
        return final.lipschitz_modulus_
    return getattr(final, f"{level}_lipschitz_moduli_")


def sample_moduli(gd: GraphicalDerivative) -> Array:
    """Modulus of each row's perturbations alone, shape (n_samples,)."""
    reduced = gd.reduced_map()
    blocks = reduced.transpose(1, 0, 2)
    return _certified(gd, _block_norms(blocks), axis=1)


def feature_moduli(gd: GraphicalDerivative) -> Array:
    """Modulus of each feature's perturbations in all rows, shape (n_inputs,)."""
    reduced = gd.reduced_map()
    blocks = reduced.transpose(2, 0, 1)
    return _certified(gd, _block_norms(blocks), axis=0)


def layer_moduli(gd: GraphicalDerivative) -> dict[str, float]:
    """Modulus of each parameter tensor when it alone may move.

    Where a tensor cannot follow the data (range B_h not in range H_h), the modulus is
    infinite.
    """
    found = {}
    for name, part in gd.objective.parameter_slices.items():
        factor, B = gd.restricted(part)
        flat = B.reshape(len(B), -1)
        leak = np.linalg.norm(factor.kernel.project(flat.T))
        follows = leak <= CONSISTENCY_TOL * np.linalg.norm(flat)
        mapped = factor.apply(flat.T)
        found[name] = operator_norm(aslinearoperator(mapped))[0] if follows else np.inf
    return found


def _block_norms(blocks: Array) -> Array:
    """Spectral norm of each matrix of a stack, by its smaller Gram matrix."""
    _, rows, columns = blocks.shape
    short = blocks if rows <= columns else blocks.transpose(0, 2, 1)
    gram = short @ short.transpose(0, 2, 1)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[:, -1], 0.0))


def _certified(gd: GraphicalDerivative, norms: Array, axis: int) -> Array:
    """Infinite where a block of B leaves range H; the dual's never does.

    ``axis`` of the data (rows, inputs) is summed over within a block.
    """
    if gd.kernel.dim == 0 or gd.solver_ == "dual":
        return norms
    objective, w = gd.objective, gd.weights
    inside = objective.cross_adjoints(w, gd.kernel.spanning_basis().T)
    leak = np.sqrt((inside**2).sum(axis=0).sum(axis=axis))
    # For z standard normal, E|b'z|^2 = |b|^2: the blocks' Frobenius norms.
    probes = np.random.RandomState(0).standard_normal((8, len(w)))
    scale = np.sqrt((objective.cross_adjoints(w, probes) ** 2).mean(axis=0).sum(axis))
    return np.where(leak > CONSISTENCY_TOL * scale, np.inf, norms)
