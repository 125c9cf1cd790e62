r"""Lipschitz moduli by level: data set, rows, features and layers of the net.

All are norms of parts of one matrix, :math:`H^+ B`: columns for rows and features of
the data; for a layer, the matrix of the problem in which that layer alone moves. Each
factorisation is made once, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import aslinearoperator

from ..linalg import CONSISTENCY_TOL, operator_norm
from ..sensitivity import GraphicalDerivative
from ._modulus import certified_norm, modulus

__all__ = [
    "PartModuli",
    "dataset_modulus",
    "feature_moduli",
    "group_moduli",
    "infinite_moduli",
    "layer_moduli",
    "sample_moduli",
    "target_modulus",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PartModuli:
    """Moduli at one solution, one per part of the data or of the net.

    Attributes
    ----------
    values : ndarray of shape (n_parts,)
        Euclidean movement of the weights per Frobenius norm of the perturbation; inf
        where the Lipschitz-like property fails, or where an entry of X that moves has
        no derivative.

    directions : ndarray of shape (n_parts, ...)
        Perturbations of Frobenius norm 1 that attain them, NaN for an infinite one.
        Of a row or a feature, the moving entries only; of groups, one array of the
        shape of X that holds each group's in its rows; otherwise of the shape of X.
    """

    values: Array
    directions: Array

    def __post_init__(self) -> None:
        # They are kept and handed out: nobody may write to them.
        self.values.setflags(write=False)
        self.directions.setflags(write=False)

    def __len__(self) -> int:
        return len(self.values)


def infinite_moduli(
    gd: GraphicalDerivative, level: str, n_groups: int = 0
) -> PartModuli:
    """What is told of a solution that is not trustworthy: all infinite, no directions.

    Parameters
    ----------
    gd : GraphicalDerivative
    level : {"dataset", "sample", "feature", "layer", "group", "target"}
    n_groups : int, default=0
        Of level "group".
    """
    shape = gd.objective.input_shape
    n_features = int(np.prod(shape[1:]))
    n_layers = len(gd.objective.parameter_slices)
    n_parts, of_directions = {
        "dataset": (1, (1, *shape)),
        "target": (1, (1, *gd.objective.target_shape)),
        "sample": (shape[0], shape),
        "group": (n_groups, shape),
        "feature": (n_features, (n_features, shape[0])),
        "layer": (n_layers, (n_layers, *shape)),
    }[level]
    return PartModuli(np.full(n_parts, np.inf), np.full(of_directions, np.nan))


def dataset_modulus(gd: GraphicalDerivative) -> PartModuli:
    """Modulus of all rows together, as one part."""
    found = modulus(gd)
    return PartModuli(np.array([found.value]), found.direction[None])


def target_modulus(gd: GraphicalDerivative) -> PartModuli:
    """Modulus of real-valued targets, all together as one part."""
    operator, residual = gd.target_operator, gd.target_range_residual
    value, direction = certified_norm(gd, operator, residual)
    shape = gd.objective.target_shape
    return PartModuli(np.array([value]), direction.reshape(1, *shape))


def sample_moduli(gd: GraphicalDerivative) -> PartModuli:
    """Modulus of each row's perturbations alone; directions (n_samples, ...)."""
    values, directions = _block_norms(gd.reduced_map().transpose(1, 0, 2))
    residuals = gd.column_range_residuals.max(axis=1, initial=0.0)
    return _certified(values, directions.reshape(gd.objective.input_shape), residuals)


def feature_moduli(gd: GraphicalDerivative) -> PartModuli:
    """Modulus of each feature in all rows; directions (n_features, n_samples)."""
    values, directions = _block_norms(gd.reduced_map().transpose(2, 0, 1))
    return _certified(
        values, directions, gd.column_range_residuals.max(axis=0, initial=0.0)
    )


def group_moduli(gd: GraphicalDerivative, groups: NDArray[Any]) -> PartModuli:
    """Modulus of each group of rows; parts in the order of the sorted labels.

    Parameters
    ----------
    gd : GraphicalDerivative
    groups : ndarray of shape (n_samples,)
        Label of each row.
    """
    reduced = gd.reduced_map()
    labels = np.unique(groups)
    values = np.empty(len(labels))
    directions = np.empty(reduced.shape[1:])
    for i, label in enumerate(labels):
        rows = groups == label
        block = reduced[:, rows].reshape(1, len(reduced), -1)
        (values[i],), (direction,) = _block_norms(block)
        residual = float(gd.column_range_residuals[rows].max())
        if residual > CONSISTENCY_TOL:
            values[i], direction = np.inf, np.full_like(direction, np.nan)
        directions[rows] = direction.reshape(int(rows.sum()), -1)
    return PartModuli(values, directions.reshape(gd.objective.input_shape))


def layer_moduli(gd: GraphicalDerivative) -> PartModuli:
    """Modulus of each parameter tensor when it alone may move.

    Where a tensor cannot follow the data (range B_h not in range H_h), or where entries
    of X have no derivative, the modulus is infinite.
    """
    shape = gd.objective.input_shape
    differentiable = not gd.undifferentiable.entries.any()
    values, directions = [], []
    for part in gd.objective.parameter_slices.values():
        moved, residuals = gd.restricted_map(part)
        if not differentiable or residuals.max(initial=0.0) > CONSISTENCY_TOL:
            value, direction = np.inf, np.full(moved.shape[1], np.nan)
        else:
            value, direction = operator_norm(aslinearoperator(moved))
        values.append(value)
        directions.append(direction.reshape(shape))
    return PartModuli(np.array(values), np.stack(directions))


def _block_norms(blocks: Array) -> tuple[Array, Array]:
    """Spectral norm of each matrix of a stack, and the direction that attains it.

    By the smaller Gram matrix. The sign makes the largest entry positive.
    """
    n_blocks, n_rows, n_columns = blocks.shape
    if n_rows == 0:  # H = 0: nothing moves, whatever the direction
        return np.zeros(n_blocks), np.zeros((n_blocks, n_columns))
    finite: NDArray[np.bool_] = np.all(np.isfinite(blocks), axis=(1, 2))
    if not finite.all():  # B has no number there: nothing bounds such a part.
        norms, directions = _block_norms(np.where(finite[:, None, None], blocks, 0.0))
        norms[~finite], directions[~finite] = np.inf, np.nan
        return norms, directions
    is_wide = n_rows <= n_columns
    gram = blocks @ blocks.transpose(0, 2, 1) if is_wide else None
    if gram is None:
        gram = blocks.transpose(0, 2, 1) @ blocks
    eigenvalues, vectors = np.linalg.eigh(gram)
    norms = np.sqrt(np.maximum(eigenvalues[:, -1], 0.0))
    directions = vectors[:, :, -1]
    if is_wide:
        directions = np.einsum("brc,br->bc", blocks, directions)
    largest = np.take_along_axis(
        directions, np.abs(directions).argmax(axis=1)[:, None], axis=1
    )
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.where(largest < 0, -lengths, lengths)
    return norms, np.divide(
        directions, lengths, out=np.zeros_like(directions), where=lengths != 0
    )


def _certified(values: Array, directions: Array, residuals: Array) -> PartModuli:
    fails = residuals > CONSISTENCY_TOL
    directions = directions.copy()
    directions[fails] = np.nan
    return PartModuli(np.where(fails, np.inf, values), directions)
