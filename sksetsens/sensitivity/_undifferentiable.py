"""Entries of X along which the outputs have no derivative, and autograd says one.

Three kinds. A column that passes through integers (an index into an embedding, a
rounding, a threshold) has the derivative 0 and makes the outputs jump. An entry on a
kink of the net (``relu(x)`` at 0, a tie of a maximum) has one derivative to each side,
of which autograd names one or neither. Equal rows on a kink of a solution hold it
together; apart, one of them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe_generator
from ..objective import Objective, PointProducts

__all__ = ["Undifferentiable", "column_sizes", "named", "undifferentiable"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Step to both sides of X, relative to a column's root mean square. Smooth nets change
# their derivative by about this much; odds that a step crosses a kink by chance are 1
# in 10^8 for each pre-activation.
_KINK_STEP = 1e-8
# Share of a row's derivative by which an entry's must jump: as much as derivatives and
# differences may be apart.
_KINK_TOL = 2e-3
# The same for rows that comparisons leave out. Smooth nets change by 1e-8 times their
# relative curvature, and float32 inside a net rounds to 1e-7.
_BEND_TOL = 1e-5
# A row whose derivative is below this share of the largest is rounding.
_FLAT = 1e-6
# Rows on which a silent column is moved, and groups of columns that are told apart.
_N_PROBES = 3
_MAX_GROUPS = 64
# Halvings of a movement, and the share of the outputs' change that must be left at
# its end: a step of a rounding to that many digits. What is continuous leaves 1e-12
# times its steepness, and rounding of the outputs.
_HALVINGS = 40
_JUMP_TOL = 1e-9
_OUTPUT_ROUNDING = 1e-13
# Features that a sentence names.
_MAX_NAMED = 5


@dataclass(frozen=True)
class Undifferentiable:
    """Entries of X without a derivative.

    Attributes
    ----------
    jumps : ndarray of bool of shape (n_samples, n_inputs)
        True in columns that have the derivative 0 everywhere, and along which the
        outputs are not continuous.

    kinks : ndarray of bool of shape (n_samples, n_inputs)
        Where the derivatives to both sides differ.

    bent_rows : ndarray of bool of shape (n_samples,)
        Rows where they differ at all, however little.

    twins : ndarray of bool of shape (n_samples, n_inputs)
        Along which kinks part that move together in the weights: those of equal rows.
    """

    jumps: Mask
    kinks: Mask
    bent_rows: Mask
    twins: Mask

    @property
    def entries(self) -> Mask:
        """All kinds."""
        return self.jumps | self.kinks | self.twins

    @property
    def jumping_features(self) -> list[int]:
        """Features of the flattened row along which the outputs jump."""
        return [int(j) for j in np.flatnonzero(self.jumps.any(axis=0))]

    @property
    def sentence(self) -> str:
        """What moduli and perturbations do without; "" for nothing."""
        told = []
        if self.jumps.any():
            told.append(f"along features {named(self.jumping_features)} (outputs jump)")
        if self.kinks.any():
            told.append(f"in {self.kinks.any(axis=1).sum()} rows (entries on a kink)")
        if self.twins.any():
            told.append(
                f"in {self.twins.any(axis=1).sum()} rows (equal ones, whose kinks part)"
            )
        return f"no derivative in X {' and '.join(told)}" if told else ""


def named(features: Sequence[int]) -> str:
    """The first few features, in words.

    Parameters
    ----------
    features : sequence of int

    Returns
    -------
    names : str
    """
    shown = ", ".join(str(j) for j in features[:_MAX_NAMED])
    return shown + (", ..." if len(features) > _MAX_NAMED else "")


def undifferentiable(objective: Objective, weights: Array) -> Undifferentiable:
    """Look for entries of X without a derivative at some weights.

    At the price of two gradients; of forward passes on a few rows more where a column
    has no derivative at all.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)

    Returns
    -------
    found : Undifferentiable
    """
    x = objective.inputs.reshape(objective.n_samples, -1)
    sizes = column_sizes(x)
    rng = probe_generator(2)
    u = rng.standard_normal((objective.n_samples, objective.n_outputs))
    step = _KINK_STEP * sizes * rng.standard_normal(x.shape)
    ahead, behind = _both_sides(objective, weights, x, step, u)
    silent = np.flatnonzero(~((ahead != 0.0) | (behind != 0.0)).any(axis=0))
    kinks, bent_rows = _kinks(ahead, behind, sizes)
    if len(silent) and kinks.any():
        # A code that stands at its own edge changes what others are multiplied by.
        step[:, silent] = 0.0
        ahead, behind = _both_sides(objective, weights, x, step, u)
        kinks, bent_rows = _kinks(ahead, behind, sizes)
    if objective.layout is not None:  # What are codes is known.
        silent = silent[objective.layout.is_real[silent]]
    jumps = np.zeros(x.shape, dtype=bool)
    for group in np.array_split(silent, min(len(silent), _MAX_GROUPS) or 1):
        if len(group) and _jumps(objective, weights, x, group):
            jumps[:, group] = True
    return Undifferentiable(jumps, kinks, bent_rows, np.zeros_like(kinks))


def _both_sides(
    objective: Objective, weights: Array, x: Array, step: Array, u: Array
) -> tuple[Array, Array]:
    """Derivatives of ``u . f`` in the data, ahead and behind, (n_samples, n_inputs)."""
    moved = ((x + s).reshape(objective.input_shape) for s in (step, -step))
    products = (PointProducts(objective.with_data(X), weights) for X in moved)
    ahead, behind = (p.input_jacobian_adjoint(u).reshape(x.shape) for p in products)
    return ahead, behind


def _kinks(ahead: Array, behind: Array, sizes: Array) -> tuple[Mask, Mask]:
    """Entries whose derivatives to both sides differ, and rows where any do at all."""
    size = np.maximum(np.abs(ahead), np.abs(behind)) * sizes
    rows = size.max(axis=1, initial=0.0, keepdims=True)
    rows = np.maximum(rows, _FLAT * rows.max(initial=0.0))
    change = np.abs(ahead - behind) * sizes
    return change > _KINK_TOL * rows, (change > _BEND_TOL * rows).any(axis=1)


def column_sizes(x: Array) -> Array:
    """Root mean square of each column; of all columns, or 1, for one of zeros.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_inputs)

    Returns
    -------
    sizes : ndarray of shape (n_inputs,)
    """
    sizes = np.sqrt(np.mean(x**2, axis=0))
    whole = float(np.sqrt(np.mean(sizes**2))) or 1.0
    return np.where(sizes > 0.0, sizes, whole)


def _jumps(objective: Objective, w: Array, x: Array, group: NDArray[Any]) -> bool:
    """Whether the outputs jump as some columns move to values they take elsewhere.

    The half of the way on which the outputs change more is halved again and again. At
    a jump the change stays, elsewhere it goes to 0 with the way.
    """
    start, end = _ways(x, group)
    if not len(start):
        return False

    def outputs(rows: Array) -> Array:
        shape = (len(rows), *objective.input_shape[1:])
        return objective.outputs(w, rows.reshape(shape)).reshape(len(rows), -1)

    try:
        low, high = outputs(start), outputs(end)
        total = change = np.linalg.norm(high - low, axis=1)
        if not (total > 0.0).any():
            return False
        for _ in range(_HALVINGS):
            half = 0.5 * (start + end)
            middle = outputs(half)
            first = np.linalg.norm(middle - low, axis=1)
            second = np.linalg.norm(high - middle, axis=1)
            left = (first >= second)[:, None]
            start, end = np.where(left, start, half), np.where(left, half, end)
            low, high = np.where(left, low, middle), np.where(left, middle, high)
            change = np.maximum(first, second)
    except (IndexError, KeyError, ValueError, RuntimeError):
        # The net knows some values only: nothing to differentiate along.
        return True
    rounding = _OUTPUT_ROUNDING * np.maximum(
        np.linalg.norm(low, axis=1), np.linalg.norm(high, axis=1)
    )
    return bool((change > _JUMP_TOL * total + rounding)[total > 0.0].any())


def _ways(x: Array, group: NDArray[Any]) -> tuple[Array, Array]:
    """Rows, and the same rows with a group's values of other rows, (n_ways, n_inputs).

    Values that occur, because a net may know no others (the indices of an embedding).
    """
    values = x[:, group]
    start, end = [], []
    for row in np.unique(np.linspace(0, len(x) - 1, _N_PROBES).astype(int)):
        distance = np.linalg.norm(values - values[row], axis=1)
        others = np.flatnonzero(distance)
        if not len(others):
            continue
        # The nearest and the farthest of the others.
        for other in {others[distance[others].argmin()], int(distance.argmax())}:
            moved = x[row].copy()
            moved[group] = values[other]
            start.append(x[row])
            end.append(moved)
    return np.array(start), np.array(end)
