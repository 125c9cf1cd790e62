r"""The part of Gauss-Newton's matrix that matters, by products and a small Gram matrix.

With ``Lambda = sum_k lambda_k u_k u_k'`` over directions of the rows' outputs,
:math:`J' \Lambda J = A'A` where row k of A is the gradient of
:math:`\sqrt{\lambda_k}\, u_k \cdot f` in the weights. Few rows of a trained classifier
carry most of Lambda. In linear layers such a gradient is an outer product of what the
layer receives and what is propagated back, so that ``A A'`` costs a few products of
matrices with one row for each direction, products with A less than a gradient of the
net, and A itself is never formed.
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
from ._row_gradients import RowGradients

__all__ = ["GaussNewtonFactor", "gauss_newton_factor"]

# Share of Lambda's trace that the chosen directions must hold, and that is enough.
_LEAST_SHARE, _NEARLY_ALL = 0.8, 0.99999

# Relative size of negative values that are rounding.
_NEGATIVE = 1e-10
# Relative error of the products by which the factor is checked.
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
    _gradients: RowGradients
    _objective: Any

    def push(self, v: Array) -> Array:
        """A v for v of shape (n_params,)."""
        o = self._objective
        return np.asarray(o._numpy(self._gradients.push(o._tensor(v))))

    def pull(self, u: Array) -> Array:
        """A'u for u of shape (k,)."""
        o = self._objective
        return np.asarray(o._numpy(self._gradients.pull(o._tensor(u))))

    def is_that_of(
        self, products: PointProducts, rows: NDArray[np.int64], directions: Array
    ) -> bool:
        """Whether products with the net's Jacobian, one each way, are these.

        They are not where weights act outside their layer's call (tied ones, hooks);
        nor are there numbers where the net has none.
        """
        if not np.isfinite(self.gram).all():
            return False
        u = np.random.default_rng(0).standard_normal(len(self.gram))
        along = np.zeros((self._objective.n_samples, directions.shape[1]))
        np.add.at(along, rows, directions * u[:, None])
        pulled = products.jacobian_adjoint(along)
        pushed = (directions * products.jacobian(pulled)[rows]).sum(axis=1)
        return _near(self.pull(u), pulled) and _near(self.gram @ u, pushed)


def _near(found: Array, expected: Array) -> bool:
    gap = float(np.linalg.norm(found - expected))
    return gap <= _PRODUCT_TOL * float(np.linalg.norm(expected))


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
    gradients = layers.row_gradients(
        partial(objective._forward, objective._tensor(weights), rows=at),
        objective._x[at],
        torch.as_tensor(positions, device=objective._device),
        objective._tensor(directions),
    )
    factor = GaussNewtonFactor(
        objective._numpy(gradients.gram()),
        float(sizes[chosen].sum() / sizes.sum()),
        gradients,
        objective,
    )
    products = PointProducts(objective, weights)
    return factor if factor.is_that_of(products, rows, directions) else None
