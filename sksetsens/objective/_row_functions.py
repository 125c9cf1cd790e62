"""An objective row by row, along its rows' weights, and at many weights at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import grad, vmap

from .._compat import predict_nonlinearity
from ._base import Array, Tensor
from ._isolation import DERIVATIVES
from ._kink_functions import KinkFunctions
from ._net_function import pushed
from ._row_weights import row_shares

__all__ = ["RowFunctions"]


class RowFunctions(KinkFunctions):
    """What an objective knows of single rows and of their weights."""

    # Along the rows' weights ----------------------------------------------------------

    def weight_product(self, weights: Array, ds: Array) -> Array:
        """Derivative of R along the targets' weights, shape (n_params,).

        Parameters
        ----------
        weights : ndarray of shape (n_params,)
        ds : ndarray of shape (n_targets,)
        """
        w = self._tensor(weights)
        direct, dr, _ = self._weight_tangent(w, ds)
        rows = (
            grad(partial(self._pairing, b))(w, self._x[b], dr[b])
            for b in self._batches()
        )
        for row in rows:
            direct = direct + row
        return self._numpy(direct)

    def output_weight_product(self, weights: Array, ds: Array) -> Array:
        """Derivative of r along the targets' weights, shape (n_samples, n_outputs)."""
        moved = self._weight_tangent(self._tensor(weights), ds)[1]
        return self._numpy(moved).reshape(self.n_samples, self.n_outputs)

    def _weight_tangent(self, w: Tensor, ds: Array) -> tuple[Tensor, ...]:
        """Derivatives along weights of grad_w at fixed outputs, r, and grad_x."""
        outputs, x = self._outputs(w), self._x
        s, along = self._tensor(self.sample_weight), self._tensor(ds)

        def gradients(s_: Tensor) -> tuple[Tensor, ...]:
            wrt = (1, 0, 2)
            return grad(self._outer, argnums=wrt)(outputs, w, x, self._y, s_)

        with DERIVATIVES:
            moved: tuple[Tensor, ...] = pushed(gradients, (s,), (along,))[1]
        return moved

    def weight_jacobian(self, weights: Array) -> Array:
        """Derivative of R in each target's weight, shape (n_targets, n_params).

        A row each of what `weight_product` adds up.
        """
        w = self._tensor(weights)
        unit = self.weighted(np.ones(len(self._y)))
        of_rows = self._row_gradients(w, unit._r_of_targets(w))
        criterion, s = self.criterion, self._tensor(self.sample_weight)
        shares = row_shares(criterion, self._y).to(w)
        if getattr(criterion, "reduction", "mean") == "sum":
            return self._numpy(of_rows)
        of_rows *= shares.sum() / (s * shares).sum()
        mean = s @ of_rows
        of_rows -= torch.outer(shares / (s * shares).sum(), mean)
        return self._numpy(of_rows)

    def _r_of_targets(self, w: Tensor) -> Tensor:
        """r of each target alone, (n_targets, n_outputs)."""
        outputs = self._outputs(w)
        if self._target_rows is not None:
            outputs = outputs[self._target_rows]
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            x = self._x if self._target_rows is None else self._x[self._target_rows]
            value = self._call(w, "loss", leaf, x, self._y, s=self._sample_weight)
            (r,) = torch.autograd.grad(value, leaf)
        return r.reshape(len(self._y), self.n_outputs)

    # Row by row -----------------------------------------------------------------------

    def loss_jacobian(self, weights: Array, X: NDArray[Any], y: NDArray[Any]) -> Array:
        """Gradients in w of each point's own loss, shape (n_points, n_params)."""
        w, there = self._tensor(weights), self.with_data(X, y)
        with torch.enable_grad():
            leaf = there._outputs(w).detach().requires_grad_()
            losses = there._call(w, "losses", leaf, there._x, there._y)
            (r,) = torch.autograd.grad(losses.sum(), leaf)
        r = r.reshape(there.n_samples, self.n_outputs)
        return self._numpy(there._row_gradients(w, r))

    def _row_gradients(self, w: Tensor, r: Tensor) -> Tensor:
        """``J_i' r_i`` for each target, shape (n_targets, n_params)."""

        def pairing(w_: Tensor, x: Tensor, along: Tensor, row: Tensor) -> Tensor:
            f = self._forward(w_, x[None], row[None])
            return (f.reshape(-1) * along).sum()

        one = grad(pairing)
        rows = torch.as_tensor(self._rows_of_targets, device=w.device)
        parts = []
        step = self._tangent_rows(self.n_params + self._activations)
        for some, along in zip(rows.split(step), r.split(step), strict=True):
            x = self._x[some]
            try:
                parts.append(vmap(one, in_dims=(None, 0, 0, 0))(w, x, along, some))
            except RuntimeError:  # an operator without a batching rule
                each = zip(x, along, some, strict=True)
                parts.append(torch.stack([one(w, *triple) for triple in each]))
        return torch.cat(parts)

    def row_curvature_products(
        self, weights: Array, rows: NDArray[np.int64], V: Array
    ) -> Array:
        """Hessian of each row's share of the loss, times its vector: (k, p).

        Parameters
        ----------
        weights : ndarray of shape (n_params,)
        rows : ndarray of int of shape (k,)
        V : ndarray of shape (k, n_params)
        """
        plain = self.off_kinks()
        w = self._tensor(weights)
        s = self._tensor(self.sample_weight)
        whole = torch.ones_like(s).sum()
        if getattr(self.criterion, "reduction", "mean") != "sum":
            s = s * row_shares(self.criterion, self._y).to(s)
            whole = s.sum()
        else:
            whole = torch.ones_like(whole)

        def along(v: Tensor, row: Tensor) -> Tensor:
            x, y = plain._x[row][None], plain._y[row][None]

            def own(w_: Tensor) -> Tensor:
                outputs = plain._forward(w_, x)
                return plain._call(w_, "losses", outputs, x, y)[0]

            moved: Tensor = pushed(grad(own), (w,), (v,))[1]
            return moved * s[row] / whole

        at = torch.as_tensor(rows, device=self._device)
        with DERIVATIVES:
            return self._at_many(along, V, at)

    def jacobian_products(
        self, weights: Array, V: Array, rows: NDArray[np.int64]
    ) -> Array:
        """``J_i V`` for some rows i, shape (k, n_outputs, V.shape[1]).

        Through the layers where all weights sit in linear ones: J is a product of outer
        products there, which saves a factor of the number of outputs.
        """
        w = self._tensor(weights)
        if self._layers is None or self._gating is not None:
            return self.jacobian(weights, rows) @ V
        at = torch.as_tensor(rows, device=self._device)
        forward = partial(self._forward, w)
        return self._numpy(
            self._layers.jacobian_products(forward, self._x[at], self._tensor(V))
        )

    # At many weights at once ----------------------------------------------------------

    def losses_of(self, many: Array, X: NDArray[Any], y: NDArray[Any]) -> Array:
        """Each point's own loss at each of many weights, penalties left out.

        Parameters
        ----------
        many : ndarray of shape (k, n_params)
        X, y : ndarray of shape (n_points, ...)
            Targets as the criterion sees them.

        Returns
        -------
        losses : ndarray of shape (k, n_points)
        """
        there = self.off_kinks().with_data(X, y)

        def at(w: Tensor) -> Tensor:
            outputs = there._forward(w, there._x)
            return there._call(w, "losses", outputs, there._x, there._y)

        return there._at_many(at, many)

    def predictions_of(self, many: Array, X: NDArray[Any]) -> Array:
        """Predictions of X at each of many weights, shape (k, n_points, ...)."""
        there = self.off_kinks()._on_rows(X)
        nonlinearity = predict_nonlinearity(self._core.net)
        return there._at_many(lambda w: nonlinearity(there._forward(w, there._x)), many)

    def own_losses_of(self, many: Array, rows: NDArray[np.int64]) -> Array:
        """The loss of row ``rows[j]`` at weights j, shape (k,)."""
        plain = self.off_kinks()

        def at(w: Tensor, row: Tensor) -> Tensor:
            x, y = plain._x[row][None], plain._y[row][None]
            return plain._call(w, "losses", plain._forward(w, x), x, y)[0]

        return plain._at_many(at, many, torch.as_tensor(rows, device=self._device))

    def _at_many(
        self,
        function: Callable[..., Tensor],
        many: Array,
        *others: Tensor,
        rows: int | None = None,
    ) -> Array:
        """A function of each of many weights, in blocks that fit."""
        W, parts = self._tensor(many), []
        rows = rows or (1 if others else self.n_samples)
        step = self._tangent_rows(rows * self._activations)
        for start in range(0, len(W), step):
            block = [t[start : start + step] for t in (W, *others)]
            try:
                with torch.no_grad():
                    parts.append(self._numpy(vmap(function)(*block)))
            except RuntimeError:  # an operator without a batching rule
                each = zip(*block, strict=True)
                with torch.no_grad():
                    parts.append(
                        self._numpy(torch.stack([function(*one) for one in each]))
                    )
        return np.concatenate(parts)
