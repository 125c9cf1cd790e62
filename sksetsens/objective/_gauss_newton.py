r"""The part of Gauss-Newton's matrix that matters, by products and a small Gram matrix.

With ``Lambda = sum_k lambda_k u_k u_k'`` over directions of the rows' outputs,
:math:`J' \Lambda J = A'A` where row k of A is the gradient of
:math:`\sqrt{\lambda_k}\, u_k \cdot f` in the weights. Few rows of a trained classifier
carry most of Lambda. In linear layers such a gradient is an outer product of what the
layer receives and what is propagated back, so that ``A A'`` costs a few products of
matrices with one row for each direction, and A itself is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._base import Array
from ._products import PointProducts

__all__ = ["GaussNewtonFactor", "gauss_newton_factor"]

# Share of Lambda's trace that the chosen directions must hold, and that is enough.
_LEAST_SHARE, _NEARLY_ALL = 0.8, 0.99999

# Relative size of negative values that are rounding.
_NEGATIVE = 1e-10
# Relative error of a product by which the Gram matrix is checked.
_PRODUCT_TOL = 1e-8


@dataclass(frozen=True)
class GaussNewtonFactor:
    """A with ``A'A`` near ``J' Lambda J``.

    Attributes
    ----------
    gram : ndarray of shape (k, k)
        ``A A'``.
    share : float
        Of the trace of Lambda that the k directions hold.
    """

    gram: Array
    share: float
    _rows: NDArray[np.int64]
    _directions: Array
    _products: PointProducts
    _n_rows: int

    @property
    def is_consistent(self) -> bool:
        """Whether the Gram matrix is that of the products, by one of them.

        It is not where weights act outside their layer's call (tied ones, hooks),
        and holds no numbers where the net does not.
        """
        if not np.isfinite(self.gram).all():
            return False
        u = np.random.default_rng(0).standard_normal(len(self.gram))
        expected = self.push(self.pull(u))
        gap = float(np.linalg.norm(self.gram @ u - expected))
        return gap <= _PRODUCT_TOL * float(np.linalg.norm(expected))

    def push(self, v: Array) -> Array:
        """A v for v of shape (n_params,)."""
        moved = self._products.jacobian(v)[self._rows]
        return np.asarray((self._directions * moved).sum(axis=1))

    def pull(self, u: Array) -> Array:
        """A'u for u of shape (k,)."""
        along = np.zeros((self._n_rows, self._directions.shape[1]))
        np.add.at(along, self._rows, self._directions * u[:, None])
        return self._products.jacobian_adjoint(along)


def gauss_newton_factor(
    objective: Any, weights: Array, most: int
) -> GaussNewtonFactor | None:
    """The directions of largest curvature, at most so many, or nearly all of it.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (n_params,)
    most : int

    Returns
    -------
    factor : GaussNewtonFactor or None
        None where weights sit in other layers than linear ones, the criterion couples
        rows, its curvature in the outputs is negative somewhere, as many directions do
        not hold most of it, or a product tells that weights act in other ways.
    """
    layers = objective._layers
    if layers is None or objective._gating is not None:
        return None
    if not objective.is_separable(weights):
        return None
    values, vectors = np.linalg.eigh(objective.output_hessian(weights))
    if not np.isfinite(values).all() or values.min() < -_NEGATIVE * values.max():
        return None
    sizes = np.clip(values, 0.0, None).ravel()
    order = np.argsort(-sizes, kind="stable")[:most]
    shares = np.cumsum(sizes[order]) / max(sizes.sum(), np.finfo(np.float64).tiny)
    order = order[: 1 + np.searchsorted(shares, _NEARLY_ALL)]
    chosen = np.sort(order[sizes[order] > 0.0])
    if not sizes[chosen].sum() > _LEAST_SHARE * sizes.sum():
        return None
    rows, which = np.divmod(chosen, values.shape[1])
    directions = vectors[rows, :, which] * np.sqrt(sizes[chosen])[:, None]
    kept, positions = np.unique(rows, return_inverse=True)
    at = torch.as_tensor(kept, device=objective._device)
    gram = layers.gradient_gram(
        partial(objective._forward, objective._tensor(weights), rows=at),
        objective._x[at],
        torch.as_tensor(positions, device=objective._device),
        objective._tensor(directions),
    )
    factor = GaussNewtonFactor(
        objective._numpy(gram),
        float(sizes[chosen].sum() / sizes.sum()),
        rows,
        directions,
        PointProducts(objective, weights),
        objective.n_samples,
    )
    return factor if factor.is_consistent else None
