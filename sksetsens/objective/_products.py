"""Products with H, B and J at one point on autograd graphs that are kept.

Differentiating the residual R once more costs one and a half gradients where its graph
is recorded once, against three to seven for forward-over-reverse from scratch. The
graph is kept where it fits the objective's working memory; otherwise, and for operators
without a second reverse derivative, every product starts anew in row batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._base import Array, Tensor
from ._memory import is_out_of_memory
from ._net_function import push

__all__ = ["PointProducts"]

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class PointProducts:
    """H v, B dx, B'v, J v and J'u at one point, any number of times.

    Parameters
    ----------
    objective : Objective

    weights : ndarray of shape (n_params,)

    single : bool, default=False
        Whether the net is evaluated in float32: products then carry a relative error
        of about 1e-7, at less than half the time. The loss stays in float64.

    Attributes
    ----------
    is_recorded : bool
        Whether graphs are kept.
    """

    def __init__(self, objective: Any, weights: Array, *, single: bool = False) -> None:
        self._objective = objective
        self._at = weights
        self._weights = objective._tensor(weights)
        self._dtype = torch.float32 if single else objective._dtype
        self.is_recorded = objective._fits_recorded(self._dtype.itemsize)
        self._residual: tuple[Tensor, Tensor] | None = None
        self._outputs: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._crossed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without graphs: pickled, they would come back as constants."""
        graphs = dict.fromkeys(("_residual", "_outputs", "_crossed"))
        return {**vars(self), **graphs}

    def _recorded(self, product: Callable[[Array], Array], v: Array) -> Array | None:
        """What a product on recorded graphs gives; None where there are none."""
        if not self.is_recorded:
            return None
        try:
            return product(v)
        except (NotImplementedError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            self.is_recorded = False
            return None

    def hessian(self, v: Array) -> Array:
        """H v for v of shape (n_params,); penalty included."""
        found = self._recorded(self._recorded_hessian, v)
        if found is not None:
            return found
        o = self._objective
        return o._numpy(o._tangent(self._weights, o._tensor(v))[0])

    def cross(self, dx: Array) -> Array:
        """B dx, shape (n_params,)."""
        found = self._recorded(self._recorded_cross, dx)
        return self._objective.cross_product(self._at, dx) if found is None else found

    def cross_adjoint(self, v: Array) -> Array:
        """B'v for v of shape (n_params,), in the shape of X."""
        found = self._recorded(self._recorded_cross_adjoint, v)
        return self._objective.cross_adjoint(self._at, v) if found is None else found

    def _recorded_cross(self, dx: Array) -> Array:
        _, _, u, pulled = self._cross_graphs()
        if not pulled.requires_grad:
            return self._numpy(torch.zeros_like(u))
        along = self._tensor(dx).reshape(pulled.shape)
        return self._numpy(self._derivative(pulled, u, along))

    def _recorded_cross_adjoint(self, v: Array) -> Array:
        x, R, _, _ = self._cross_graphs()
        if not R.requires_grad:
            return self._numpy(torch.zeros_like(x))
        return self._numpy(self._derivative(R, x, self._tensor(v)))

    def _cross_graphs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, R(x, w), u and the recorded ``B'u``, which is linear in u."""
        if self._crossed is None:
            x = self._objective._x.detach().to(self._dtype).requires_grad_()
            _, R = self._record_residual(x)
            with torch.enable_grad():
                u = torch.zeros_like(R, requires_grad=True)
                (pulled,) = torch.autograd.grad(
                    R, x, u, create_graph=True, materialize_grads=True
                )
            self._crossed = x, R, u, pulled
        return self._crossed

    def _recorded_hessian(self, v: Array) -> Array:
        if self._residual is None:
            self._residual = self._record_residual()
        w, R = self._residual
        if not R.requires_grad:
            return self._numpy(torch.zeros_like(w))
        return self._numpy(self._derivative(R, w, self._tensor(v)))

    def _record_residual(self, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        o = self._objective
        with torch.enable_grad():
            w, outputs = self._record_outputs(x)
            seen = o._x if x is None else x.to(o._dtype)
            value = o._outer(outputs.to(o._dtype), w.to(o._dtype), seen, o._y)
            (R,) = torch.autograd.grad(value, w, create_graph=True)
        return w, R

    def _record_outputs(self, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        o = self._objective
        w = self._weights.detach().to(self._dtype).requires_grad_()
        return w, o._forward(w, o._x.to(self._dtype) if x is None else x)

    # The outputs' Jacobian -----------------------------------------------------------

    def jacobian(self, v: Array) -> Array:
        """J v, shape (n_samples, n_outputs)."""
        o = self._objective
        if self.is_recorded:
            _, _, u, pulled = self._graphs()
            moved = self._derivative(pulled, u, self._tensor(v))
        else:
            moved = o._pushed_outputs(self._weights, o._tensor(v), None)[1]
        return self._numpy(moved).reshape(o.n_samples, o.n_outputs)

    def jacobian_adjoint(self, u: Array) -> Array:
        """J'u for u of shape (n_samples, n_outputs), shape (n_params,)."""
        o = self._objective
        if self.is_recorded:
            w, outputs, _, _ = self._graphs()
            return self._numpy(
                self._derivative(outputs, w, self._tensor(u).reshape(outputs.shape))
            )
        with torch.enable_grad():
            w = self._weights.detach().requires_grad_()
            total = torch.zeros_like(w)
            rows = o._tensor(u)
            for b in o._batches():
                outputs = o._forward(w, o._x[b], b)
                total += self._derivative(outputs, w, rows[b].reshape(outputs.shape))
        return self._numpy(total)

    def row_gradients(
        self, rows: NDArray[np.int64], directions: Array
    ) -> NDArray[np.floating]:
        """Gradients in w of some outputs, or of combinations of a row's outputs.

        Parameters
        ----------
        rows : ndarray of int of shape (k,)
            Sorted.
        directions : ndarray of shape (k, n_outputs)

        Returns
        -------
        gradients : ndarray of shape (k, n_params)
            Of ``directions[j] . f(x_rows[j], w)``, in the dtype of the products.
        """
        o = self._objective
        w = self._weights.detach().to(self._dtype).requires_grad_()
        found = np.empty((len(rows), o.n_params), _NUMPY[self._dtype])
        for row in np.unique(rows):
            with torch.enable_grad():
                one = slice(row, row + 1)
                f = o._forward(w, o._x[one].to(self._dtype), one).reshape(-1)
            for j in np.flatnonzero(rows == row):
                along = self._tensor(directions[j])
                found[j] = self._derivative(f, w, along).cpu().numpy()
        return found

    def input_jacobian(self, dx: Array) -> Array:
        """D dx, the outputs' movement with the data, shape (n_samples, n_outputs)."""
        o = self._objective
        direction = o._tensor(dx).reshape(o._x.shape)
        moved = [
            push(
                partial(o._forward, self._weights, rows=b), (o._x[b],), (direction[b],)
            )[1]
            for b in o._batches()
        ]
        return o._numpy(torch.cat(moved)).reshape(o.n_samples, o.n_outputs)

    def input_jacobian_adjoint(self, u: Array) -> Array:
        """D'u for u of shape (n_samples, n_outputs), in the shape of X."""
        o = self._objective
        rows = o._tensor(u)
        with torch.enable_grad():
            parts = []
            for b in o._batches():
                x = o._x[b].detach().requires_grad_()
                outputs = o._forward(self._weights, x, b)
                if not outputs.requires_grad:  # Cut off from the data altogether.
                    parts.append(torch.zeros_like(x))
                    continue
                parts.append(
                    self._derivative(outputs, x, rows[b].reshape(outputs.shape))
                )
        return o._numpy(torch.cat(parts))

    def _graphs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w, f(w), u and the recorded ``J'u``, which is linear in u."""
        if self._outputs is None:
            with torch.enable_grad():
                w, outputs = self._record_outputs()
                u = torch.zeros_like(outputs, requires_grad=True)
                (pulled,) = torch.autograd.grad(outputs, w, u, create_graph=True)
            self._outputs = w, outputs, u, pulled
        return self._outputs

    @staticmethod
    def _derivative(of: Tensor, at: Tensor, along: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(
            of, at, along, retain_graph=True, materialize_grads=True
        )
        return found

    def _tensor(self, array: NDArray) -> Tensor:
        return self._objective._tensor(array).to(self._dtype)

    def _numpy(self, tensor: Tensor) -> Array:
        return self._objective._numpy(tensor)
