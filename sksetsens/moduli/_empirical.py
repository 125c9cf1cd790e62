"""Lower bounds of Lipschitz moduli from retraining on perturbed data.

Every solution w' on the data x' near x bounds the modulus from below by
``d(w', S(x)) / |x' - x|``, up to terms of second order in the perturbation. The
directions are the one that attains the exact modulus and random ones; the sizes are
small enough for the first order to hold, unless they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..objective import Movement
from ..optimize import continued
from ..sensitivity import GraphicalDerivative, reach

__all__ = ["EmpiricalModuli", "empirical_moduli", "unknown_moduli"]

Array = NDArray[np.float64]

# Error of the first order at the sizes that are chosen.
_SMALL = 0.01


@dataclass(frozen=True)
class EmpiricalModuli:
    """Ratios of movements at one solution, the largest per part.

    Attributes
    ----------
    values : ndarray of shape (n_parts,)
        Distance of the retrained weights from the old solution's affine piece per
        Frobenius norm of the perturbation; NaN where no retraining became stationary.

    directions : list of ndarray
        Perturbations of norm 1 that gave them, the moving entries of each part.

    second_order : ndarray of shape (n_parts,)
        Distance of the retrained weights from the predicted set per norm of the
        perturbation, the largest over the directions: by how much a value may exceed
        the exact modulus.

    sizes : ndarray of shape (n_parts,)
        Norm of the perturbation that gave them.

    n_failed : ndarray of int of shape (n_parts,)
        Retrainings that did not become stationary.
    """

    values: Array
    directions: list[Array]
    second_order: Array
    sizes: Array
    n_failed: NDArray[np.int64]

    def __post_init__(self) -> None:
        for array in (self.values, self.second_order, self.sizes, self.n_failed):
            array.setflags(write=False)


def empirical_moduli(
    gd: GraphicalDerivative,
    worst: Sequence[Array],
    embed: Callable[[int, Array], Array],
    *,
    n_directions: int,
    size: float | None,
    tol: float,
    rng: np.random.RandomState,
) -> EmpiricalModuli:
    """Retrain from a solution along each part's worst and some random directions.

    Parameters
    ----------
    gd : GraphicalDerivative
        At the solution.
    worst : sequence of ndarray
        The worst-case direction of each part, its moving entries; NaN for none.
    embed : callable
        ``embed(part, direction)``: the perturbation of X that a part's direction means.
    n_directions : int
        Random directions per part, beside the worst case.
    size : float or None
        Frobenius norm of the perturbations; None for sizes at which the first order
        errs by 1 per cent.
    tol : float
        Stationarity asked of the retrained weights.
    rng : RandomState

    Returns
    -------
    moduli : EmpiricalModuli
    """
    found = []
    for part, direction in enumerate(worst):
        random = rng.standard_normal((n_directions, *direction.shape))
        candidates = [u for u in (direction, *random) if np.isfinite(u).all()]
        units = [u / np.linalg.norm(u) for u in candidates if u.any()]
        ratios = [_ratio(gd, embed(part, u), size, tol) for u in units]
        found.append(_largest(ratios, units, direction))
    values, directions, second_order, sizes, n_failed = zip(*found, strict=True)
    return EmpiricalModuli(
        np.array(values),
        list(directions),
        np.array(second_order),
        np.array(sizes),
        np.array(n_failed),
    )


def unknown_moduli(worst: Sequence[Array]) -> EmpiricalModuli:
    """No answer, at a solution that is not trustworthy."""
    nothing = np.full(len(worst), np.nan)
    directions = [np.full(u.shape, np.nan) for u in worst]
    zero = np.zeros(len(worst), dtype=np.int64)
    return EmpiricalModuli(nothing, directions, nothing.copy(), nothing.copy(), zero)


def _ratio(
    gd: GraphicalDerivative, direction: Array, size: float | None, tol: float
) -> tuple[float, float, float]:
    """Movement and second-order term per size along a unit direction, and the size."""
    if size is None:
        farthest = float(np.linalg.norm(gd.objective.inputs))
        found = reach(
            gd, Movement(direction), tol=_SMALL, precision=0.5, farthest=farthest
        )
        size = min(found, farthest)
    if size == 0.0:
        return np.nan, np.nan, np.nan
    objective = gd.objective.with_data(gd.objective.inputs + size * direction)
    retrained = continued(gd.weights, gd.factor, objective, tol=tol, active=gd.active)
    if not retrained.converged:
        return np.nan, np.nan, size
    movement = retrained.weights - gd.weights
    beyond = movement - gd(size * direction).shift
    distance, error = gd.kernel.complement_norm(np.stack([movement, beyond])) / size
    return float(distance), float(error), size


def _largest(
    ratios: Sequence[tuple[float, float, float]], units: Sequence[Array], worst: Array
) -> tuple[float, Array, float, float, int]:
    table = np.array(ratios).reshape(-1, 3)
    failed = np.isnan(table[:, 0])
    if failed.all():
        return np.nan, np.full(worst.shape, np.nan), np.nan, np.nan, int(failed.sum())
    best = int(np.nanargmax(table[:, 0]))
    known = table[~np.isnan(table[:, 1]), 1]
    second_order = float(known.max()) if known.size else np.nan
    return table[best, 0], units[best], second_order, table[best, 2], int(failed.sum())
