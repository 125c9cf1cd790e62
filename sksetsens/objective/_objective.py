"""The training objective of a skorch net as a function of flat weights and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch.func import grad, grad_and_value

from ._base import Array, Tensor
from ._kinks import KinkCounter
from ._movement import Movement
from ._net_function import map_rows, push
from ._products import PointProducts
from ._recorded_hessian import recorded_hessian
from ._row_functions import RowFunctions

# Share of the root mean square by which inputs and weights move to see which ties of
# maxima stay: far above rounding, far below what switches other units.
_TIE_STEP = 1e-7
# Two exact products in float64 differ by rounding, about 1e-13; by more where
# the gradient itself is rounding, and then the general way is taken.
_PRODUCT_TOL = 1e-9
# Weights from which products are bound by arithmetic, and float32 halves their time.
SINGLE_FROM = 5_000


class Objective(RowFunctions):
    r"""Full-batch objective :math:`L(x, w)` of a skorch net and its derivatives.

    .. math:: L(x, w) = \ell(f(x, w), y) + \tfrac12 \sum_j \lambda_j w_j^2
              - \langle t, w \rangle

    where :math:`\ell` is the net's own ``get_loss`` on all rows at once, in eval
    mode, :math:`\lambda` the optimiser's weight decay and :math:`t` the tilt, zero
    unless :meth:`tilted` was called. Rows pass through the module in batches, but
    :math:`\ell` always sees all outputs, so that criteria which are no plain mean
    over rows (class weights, custom ones) are exact for every batch size.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised net. It is read, never changed: module and criterion are copied.

    X : ndarray of shape (n_samples, ...)
        Inputs.

    y : ndarray of shape (n_samples, ...)
        Targets in the form the criterion expects.

    batch_size : int, default=None
        Rows per pass through the module; None for all rows at once, or as many as
        keep their activations in a quarter of the working memory.

    dtype : torch.dtype, default=torch.float64
        Floating type of the analysis.

    working_memory : float, default=None
        MiB for activations, tangents and recorded graphs; None for scikit-learn's
        setting of that name, 1024. Results depend on it by rounding only.

    operators : Operators, default=None
        Operators of the module that are replaced by others with all derivatives; None
        to look which.

    Attributes
    ----------
    n_params, n_samples, n_outputs : int
        Length p of the flat weights, rows n and outputs per row c.

    decay : Tensor of shape (n_params,)
        Coefficient of each weight's quadratic penalty.
    """

    # Value and gradient ----------------------------------------------------------

    def value_and_gradient(self, weights: Array) -> tuple[float, Array]:
        """L (tilt included) and the first-order residual R, shape (n_params,)."""
        kept = self._kept(weights)
        if kept is None:
            value, (residual,) = self._gradients(self._tensor(weights), (0,))
            kept = float(value.detach()), self._numpy(residual)
            self._kept_gradient = self._owners, np.array(weights), *kept
        return kept[0], kept[1].copy()

    def gradient(self, weights: Array) -> Array:
        """First-order residual R(x, w), shape (n_params,)."""
        return self.value_and_gradient(weights)[1]

    def input_gradient(self, weights: Array) -> Array:
        """Gradient of L in the data, shape of X."""
        return self._numpy(self._gradients(self._tensor(weights), (1,))[1][0])

    def _gradients(
        self, w: Tensor, wrt: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """L and (grad_w L, grad_x L)[wrt]."""
        if self._one_batch:
            # Plain autograd: torch.func costs half as much again on small nets.
            with torch.enable_grad():
                weights = w.detach().requires_grad_()
                x = self._x.detach().requires_grad_(1 in wrt)
                value = self._total(weights, x, self._y)
                gradients = torch.autograd.grad(
                    value, [(weights, x)[k] for k in wrt], materialize_grads=True
                )
            return value, gradients
        (r, *direct), value = grad_and_value(self._outer, argnums=(0, 1, 2))(
            self._outputs(w), w, self._x, self._y
        )
        rows = (
            grad(partial(self._pairing, b), argnums=wrt)(w, self._x[b], r[b])
            for b in self._batches()
        )
        return value, self._sum_up(direct, rows, wrt)

    @staticmethod
    def _sum_up(
        direct: list[Tensor], rows: Iterable[tuple[Tensor, ...]], wrt: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """Direct terms plus the batches' own: summed for w, joined for x."""
        totals = [direct[k] for k in wrt]
        joined: list[list[Tensor]] = [[] for _ in wrt]
        for row in rows:
            for i, k in enumerate(wrt):
                if k == 0:
                    totals[i] = totals[i] + row[i]
                else:
                    joined[i].append(row[i])
        return tuple(
            total + torch.cat(parts) if parts else total
            for total, parts in zip(totals, joined, strict=True)
        )

    # Second derivatives ------------------------------------------------------------

    def _tangent(
        self,
        w: Tensor,
        dw: Tensor | None = None,
        dx: Tensor | None = None,
        dy: Tensor | None = None,
        *,
        wrt: tuple[int, ...] = (0,),
    ) -> tuple[Tensor, ...]:
        """Derivative of (grad_w L, grad_x L)[wrt] along (dw, dx, dy); w or x moves.

        One rule gives H dw + B dx (``wrt=(0,)``) and B' dw (``wrt=(1,)``). The
        batched form differentiates, per batch, ``<f(x_b, w), r_b>`` with r moving
        too; r is the gradient of the loss in ALL outputs.
        """
        if self._one_batch:
            gradient = grad(self._total, argnums=wrt)
            return push(gradient, (w, self._x, self._y), (dw, dx, dy))[1]
        outputs, moved = self._pushed_outputs(w, dw, dx)
        (r, *_), (dr, *direct) = push(
            grad(self._outer, argnums=(0, 1, 2)),
            (outputs, w, self._x, self._y),
            (moved, dw, dx, dy),
        )
        rows = (
            push(
                grad(partial(self._pairing, b), argnums=wrt),
                (w, self._x[b], r[b]),
                (dw, None if dx is None else dx[b], dr[b]),
            )[1]
            for b in self._batches()
        )
        return self._sum_up(direct, rows, wrt)

    def _pushed_outputs(
        self, w: Tensor, dw: Tensor | None, dx: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of all rows and their derivative."""
        parts = [
            push(
                partial(self._forward, rows=b),
                (w, self._x[b]),
                (dw, None if dx is None else dx[b]),
            )
            for b in self._batches()
        ]
        outputs, moved = zip(*parts, strict=True)
        return torch.cat(outputs), torch.cat(moved)

    def hessian_product(self, weights: Array, v: Array) -> Array:
        """H v for v of shape (n_params,) or (n_params, k)."""
        w, v_t = self._tensor(weights), self._tensor(v)
        if v_t.ndim == 1:
            return self._numpy(self._tangent(w, v_t)[0])
        return self._hessian_rows(w, v_t.T).T

    def products(self, weights: Array) -> Callable[[Array], Array]:
        """``v -> H v`` at some weights, any number of times."""
        return PointProducts(self, weights).hessian

    def cross_product(
        self, weights: Array, dX: NDArray[Any], dy: NDArray[Any] | None = None
    ) -> Array:
        """B dX (plus the derivative along dy where given), shape (n_params,)."""
        dy_t = None if dy is None else self._target_tangent(dy)
        dx_t = self._tensor(dX).reshape(self._x.shape)
        return self._numpy(self._tangent(self._tensor(weights), None, dx_t, dy_t)[0])

    def data_product(self, weights: Array, movement: Movement) -> Array:
        """Derivative of R along a movement of the data, shape (n_params,)."""
        found = np.zeros(self.n_params)
        if movement.dy is not None or np.any(movement.dX):
            found = self.cross_product(weights, movement.dX, movement.dy)
        if movement.ds is not None:
            found = found + self.weight_product(weights, movement.ds)
        return found

    def cross_adjoint(self, weights: Array, v: Array) -> Array:
        """B' v for v of shape (n_params,), returned in the shape of X."""
        w, v_t = self._tensor(weights), self._tensor(v)
        return self._numpy(self._tangent(w, v_t, wrt=(1,))[0])

    def target_adjoint(self, weights: Array, v: Array) -> Array:
        """Adjoint of ``dy -> cross_product(weights, 0, dy)``, in the shape of y."""
        w, v_t = self._tensor(weights), self._tensor(v)
        outputs, moved = self._pushed_outputs(w, v_t, None)
        return self._numpy(
            push(
                grad(self._outer, argnums=3),
                (outputs, w, self._x, self._y),
                (moved, v_t, None, None),
            )[1]
        )

    def cross_adjoints(self, weights: Array, V: Array) -> Array:
        """B' v for each row v of V, shape (len(V), n_samples, n_inputs)."""
        w, directions = self._tensor(weights), self._tensor(V)

        def one(v: Tensor) -> Tensor:
            return self._tangent(w, v, wrt=(1,))[0]

        if not len(V):
            return np.zeros((0, self.n_samples, self._x[0].numel()))
        blocks = torch.split(directions, self._tangent_block())
        rows = [self._numpy(map_rows(one, block)) for block in blocks]
        return np.concatenate(rows).reshape(len(V), self.n_samples, -1)

    def hessian(self, weights: Array) -> Array:
        """Dense exact Hessian H, shape (n_params, n_params), symmetrised.

        Through the layers where all weights sit in linear ones, otherwise from a
        recorded gradient, or by one directional derivative per weight.
        """
        for way in (self._hessian_by_layers, self._hessian_recorded):
            found = way(weights)
            if found is not None:
                return found
        identity = torch.eye(self.n_params, device=self._device, dtype=self._dtype)
        dense = self._hessian_rows(self._tensor(weights), identity)
        return 0.5 * (dense + dense.T)

    @property
    def has_quick_hessian(self) -> bool:
        """Whether all weights sit in linear layers, through which H costs little."""
        return self._layers is not None

    def _hessian_by_layers(self, weights: Array) -> Array | None:
        """H by the chain rule through linear layers, checked by one product.

        None where the net or the criterion does not allow it: rows that influence each
        other, or penalties inside ``get_loss``, fail the check.
        """
        if self._layers is None or not self.is_separable(weights):
            return None
        w = self._tensor(weights)
        H = self._layers.hessian(
            partial(self._forward, w),
            self._x,
            self._tensor(self.output_gradient(weights)),
            self._tensor(self.output_hessian(weights)),
        )
        return self._decayed(H, w)

    def _hessian_recorded(self, weights: Array) -> Array | None:
        """H from one recorded gradient, checked by one product; None if it fails."""
        if not self._fits_recorded(self._dtype.itemsize):
            return None
        w = self._tensor(weights)
        pieces = torch.split(w, self._sizes)
        H = recorded_hessian(self.recorded_gradient, pieces, self._tangent_block())
        return None if H is None else self._decayed(H, w)

    def _decayed(self, H: Tensor, w: Tensor) -> Array | None:
        """With the decay's part, where one product is that of H."""
        H.diagonal().add_(self.decay)
        v = self._tensor(np.random.default_rng(0).standard_normal(self.n_params))
        expected = self._tangent(w, v)[0]
        gap = float(torch.linalg.vector_norm(H @ v - expected))
        if not gap <= _PRODUCT_TOL * float(torch.linalg.vector_norm(expected)):
            return None
        dense: Array = H.to("cpu", torch.float64).numpy()
        return dense

    def recorded_gradient(self, pieces: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of the loss short of decay and tilt, by parameter, to be differentiated."""
        with torch.enable_grad():
            outputs = self._forward(pieces, self._x)
            value = self._data_term(outputs, pieces, self._x, self._y)
            return torch.autograd.grad(
                value, pieces, create_graph=True, materialize_grads=True
            )

    def _hessian_rows(self, w: Tensor, directions: Tensor) -> Array:
        blocks = torch.split(directions, self._tangent_block())
        return np.concatenate(
            [
                self._numpy(map_rows(lambda v: self._tangent(w, v)[0], block))
                for block in blocks
            ]
        )

    def _tangent_block(self) -> int:
        rows = self._tangent_rows(self._batch_rows * self._activations)
        return min(self.n_params, rows)

    def gradients_of(self, many: Array, sample_weights: Array) -> Array:
        """R at each of many weights, with weights of the rows of its own, (k, p)."""
        if not len(many):
            return many
        if self._gating is not None or not self._one_batch:
            pairs = zip(many, sample_weights, strict=True)
            found = [self.weighted(s).gradient(w) for w, s in pairs]
            return np.reshape(found, many.shape)

        def at(w: Tensor, s: Tensor) -> Tensor:
            def value(w_: Tensor) -> Tensor:
                outputs = self._forward(w_, self._x)
                return self._outer(outputs, w_, self._x, self._y, s)

            return grad(value)(w)

        others = self._tensor(sample_weights)
        return self._at_many(at, many, others, rows=self.n_samples)

    # Evidence ----------------------------------------------------------------------

    def hessian_norm(self, weights: Array, n_iter: int = 20) -> float:
        """|H|_2 to about one per cent, by Lanczos iteration from a fixed start.

        It scales the stationarity test, where a factor near one is harmless: nets of
        many weights are evaluated in float32.
        """
        start = np.random.default_rng(0).standard_normal(self.n_params)
        products = PointProducts(self, weights, single=self.n_params >= SINGLE_FROM)
        return _lanczos_norm(products.hessian, start, n_iter)

    def kinked_preactivations(self, weights: Array) -> tuple[int, int]:
        """Pre-activations that sit on a kink, and the number of all that could.

        Counts inputs of piecewise smooth operators (ReLU, ELU, hardtanh, clamp, ...;
        modules and functions alike) that are nearer to a kink than 1e-4 of the root
        mean square of that operator's inputs, ties of maxima (max pooling, ``amax``,
        ``maximum``) where they are that near, and errors at the corners of Huber and
        smooth L1 losses. Ties that stay where inputs and weights move, such as those
        among units that are off, are none.
        """
        w = self._tensor(weights)
        with KinkCounter() as counter:
            outputs = self._evaluated(w)
            with torch.no_grad():
                self._loss(outputs, w, self._x, self._y)
        if not counter.has_ties:
            return counter.near, counter.total
        rng = np.random.default_rng(0)
        moved = copy.copy(self)
        moved._x = self._moved(self._x, rng)
        with KinkCounter() as elsewhere:
            moved._evaluated(self._moved(w, rng))
        return counter.near + counter.ties_broken_by(elsewhere), counter.total

    def _moved(self, tensor: Tensor, rng: np.random.Generator) -> Tensor:
        scale = _TIE_STEP * (float(tensor.square().mean().sqrt()) or 1.0)
        return tensor + scale * self._tensor(rng.standard_normal(tuple(tensor.shape)))


def _lanczos_norm(
    product: Callable[[Array], Array], start: Array, n_iter: int
) -> float:
    """Spectral norm of a symmetric matrix from below.

    Three-term recurrence; lost orthogonality repeats extreme Ritz values and does not
    move them. It stops where the Ritz residual is 1 per cent of the Ritz value.
    """
    q, previous, beta = start / np.linalg.norm(start), None, 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    norm = 0.0
    for _ in range(min(n_iter, start.size)):
        z = product(q)
        diagonal.append(float(q @ z))
        z = z - diagonal[-1] * q
        if previous is not None:
            z = z - beta * previous
        beta = float(np.linalg.norm(z))
        if not np.isfinite(beta):
            return beta
        ritz, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal)
        top = int(np.argmax(np.abs(ritz)))
        norm = float(abs(ritz[top]))
        if beta * abs(vectors[-1, top]) <= 0.01 * norm:
            break
        off_diagonal.append(beta)
        previous, q = q, z / beta
    return norm
