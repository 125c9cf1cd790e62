"""The outputs' own derivatives J and D, and the loss's r and Lambda in the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import grad, jacrev, vmap

from .._compat import predict_nonlinearity
from ._base import Array, ObjectiveBase, Tensor
from ._net_function import map_rows, push

# Relative size of negative curvature in the outputs that is rounding.
_NEGATIVE = 1e-10


class OutputDerivatives(ObjectiveBase):
    """J = df/dw and D = df/dx row by row; r and Lambda; terms beside the outputs.

    r and Lambda hold the criterion's own 1/n: where weights enter the loss through
    the outputs only, ``H = J' Lambda J + sum_k r_k grad_w^2 f_k``.
    """

    def _per_row(
        self,
        w: Tensor,
        argnum: int,
        after: Callable[[Tensor], Tensor] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> Array:
        """Jacobian of each row's outputs, or of what ``after`` makes of them."""

        def one_row(w_: Tensor, x_: Tensor, row: Tensor) -> Tensor:
            outputs = self._forward(w_, x_.unsqueeze(0), row.unsqueeze(0))
            return (outputs if after is None else after(outputs)).reshape(-1)

        def jacobians(some: Tensor) -> Tensor:
            x = self._x[some]
            try:
                together = jacrev(one_row, argnums=argnum)
                return vmap(together, in_dims=(None, 0, 0))(w, x, some)
            except RuntimeError:  # an operator without a batching rule
                single = jacrev(one_row, argnums=argnum, chunk_size=1)
                pairs = zip(x, some, strict=True)
                return torch.stack([single(w, *pair) for pair in pairs])

        asked = np.arange(self.n_samples) if rows is None else rows
        size = self.n_params if argnum == 0 else self._x[0].numel()
        step = self._tangent_rows(self.n_outputs * (size + self._activations))
        numbers = torch.as_tensor(asked, device=self._device)
        blocks = [self._numpy(jacobians(some)) for some in numbers.split(step)]
        return np.concatenate(blocks).reshape(len(asked), -1, size)

    def jacobian(self, weights: Array, rows: NDArray[np.int64] | None = None) -> Array:
        """J = df/dw, shape (n_samples, n_outputs, n_params); of some rows alone."""
        return self._per_row(self._tensor(weights), 0, rows=rows)

    def curvature_rows(self, weights: Array, most: int) -> Array | None:
        """Rows A with ``A'A`` near ``J' Lambda J``, the loss's part of Gauss-Newton.

        Parameters
        ----------
        weights : ndarray of shape (n_params,)
        most : int
            Rows of A. Where there are more, the data's rows of largest curvature stand
            for all of it, a random choice among equals.

        Returns
        -------
        A : ndarray of shape (k, n_params) or None
            None where the criterion couples rows, is curved downwards or not at all.
        """
        if not self.is_separable(weights):
            return None
        values, vectors = np.linalg.eigh(self.output_hessian(weights))
        if not np.isfinite(values).all() or not values.max(initial=0.0) > 0.0:
            return None
        if values.min() < -_NEGATIVE * values.max():
            return None
        values = np.clip(values, 0.0, None)
        sizes = values.sum(axis=1)
        mixed = np.random.default_rng(0).permutation(len(sizes))
        order = mixed[np.argsort(-sizes[mixed], kind="stable")]
        rows = np.sort(order[: max(1, most // self.n_outputs)])
        rows = rows[sizes[rows] > 0.0]
        lifted = np.sqrt(values[rows] * sizes.sum() / sizes[rows].sum())
        roots = (vectors[rows] * lifted[:, None, :]).transpose(0, 2, 1)
        A = (roots @ self.jacobian(weights, rows)).reshape(-1, self.n_params)
        return A if np.isfinite(A).all() else None

    def prediction_jacobian(self, weights: Array, X: NDArray[Any]) -> Array:
        """Derivative of `predictions` on X in w, (n_rows, n_predicted, n_params)."""
        nonlinearity = predict_nonlinearity(self._core.net)
        return self._on_rows(X)._per_row(self._tensor(weights), 0, nonlinearity)

    def input_jacobian(self, weights: Array) -> Array:
        """Diagonal blocks of D = df/dx, shape (n_samples, n_outputs, n_inputs)."""
        return self._per_row(self._tensor(weights), 1)

    def _pairing(self, rows: slice, w: Tensor, x: Tensor, r: Tensor) -> Tensor:
        return (self._forward(w, x, rows) * r).sum()

    def output_gradient(self, weights: Array) -> Array:
        """Gradient r of the loss in the outputs, shape (n_samples, n_outputs)."""
        w = self._tensor(weights)
        return self._numpy(self._r(w, self._outputs(w)))

    def _r(self, w: Tensor, outputs: Tensor) -> Tensor:
        return self._recorded_r(w, outputs)[1].detach()

    def _recorded_r(self, w: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs as a leaf, and r with its graph, (n_samples, n_outputs)."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = self._outer(leaf, w, self._x, self._y)
            (r,) = torch.autograd.grad(value, leaf, create_graph=True)
        return leaf, r.reshape(self.n_samples, self.n_outputs)

    def is_curved_in_outputs(self, weights: Array) -> bool:
        """Whether Lambda is anything but zero, here or at generic outputs.

        A property of the criterion: outputs that are saturated, or far from their
        targets, may lie where a curved criterion is flat to rounding. Tried are the
        outputs at the weights, outputs of order one, probabilities, and outputs near
        the targets; the criterion need not be defined at all of them.
        """
        w = self._tensor(weights)
        outputs = self._outputs(w)
        rng = np.random.default_rng(0)
        noise = self._tensor(rng.standard_normal((self.n_samples, self.n_outputs)))
        near = noise.reshape(outputs.shape)
        points = [outputs, near, near.sigmoid()]
        if self.has_real_targets and self._y.numel() == outputs.numel():
            spread = self._y.std(correction=0)
            points.append(self._y.reshape(outputs.shape) + near * spread)
        # Random tangents: losses that a common shift leaves alone are flat along it.
        tangent = self._tensor(rng.standard_normal(noise.shape))
        return any(self._curves(w, point, tangent) for point in points)

    def _curves(self, w: Tensor, outputs: Tensor, tangent: Tensor) -> bool:
        try:
            moved = self._lambda_product(self._recorded_r(w, outputs), tangent)
        except (RuntimeError, ValueError):  # outside the criterion's domain
            return False
        return bool(moved.isfinite().all() and moved.any())

    def is_linear_in_outputs(self, weights: Array) -> bool:
        """Whether r is one constant, as for NLLLoss of log-probabilities.

        Piecewise linear criteria (absolute values, hinges) have Lambda = 0 as well,
        but another r far away on either side.
        """
        w = self._tensor(weights)
        outputs = self._outputs(w)
        reach = 1.0 + outputs.abs().max()
        if self._y.is_floating_point():
            reach = reach + self._y.abs().max()
        # Each output another way: a common shift leaves differences of outputs alone.
        rng = np.random.default_rng(0)
        ways = self._tensor(rng.standard_normal(tuple(outputs.shape)))
        far = reach * (ways + ways.sign())
        r = self._r(w, outputs)
        return all(
            bool(torch.equal(self._r(w, outputs + step), r)) for step in (far, -far)
        )

    def is_squared_error(self, weights: Array) -> bool:
        """Whether r is ``c (f - y)`` with one constant c for all rows."""
        if not self.has_real_targets:
            return False
        w = self._tensor(weights)
        outputs = self._outputs(w)
        if outputs.numel() != self._y.numel():
            return False
        # Random, so that no other criterion agrees by accident.
        rng = np.random.default_rng(0)
        offset = self._tensor(rng.standard_normal((self.n_samples, self.n_outputs)))
        targets = self._y.reshape(outputs.shape)
        r = self._r(w, targets + offset.reshape(outputs.shape))
        c = (r * offset).sum() / (offset * offset).sum()
        return bool(torch.allclose(r, c * offset, rtol=1e-10, atol=0.0))

    def output_hessian(self, weights: Array) -> Array:
        """Row blocks of Lambda, shape (n_samples, n_outputs, n_outputs).

        Exact for criteria that add up over rows (`is_separable`).
        """
        w = self._tensor(weights)
        recorded = self._recorded_r(w, self._outputs(w))
        columns = [
            self._lambda_product(recorded, unit.expand(self.n_samples, -1))
            for unit in torch.eye(self.n_outputs, device=w.device, dtype=w.dtype)
        ]
        return self._numpy(torch.stack(columns, dim=-1))

    def output_target_product(self, weights: Array, dy: NDArray[np.floating]) -> Array:
        """Derivative of r along the targets, shape (n_samples, n_outputs)."""
        w = self._tensor(weights)
        outputs = self._outputs(w)
        moved = push(
            grad(self._outer),
            (outputs, w, self._x, self._y),
            (torch.zeros_like(outputs), None, None, self._target_tangent(dy)),
        )[1]
        return self._numpy(moved).reshape(self.n_samples, self.n_outputs)

    def target_output_product(self, weights: Array, v: Array) -> Array:
        """Derivative of ``grad_y loss`` along a movement of the outputs, shape of y.

        The adjoint of `output_target_product`; v of shape (n_samples, n_outputs).
        """
        w = self._tensor(weights)
        outputs = self._outputs(w)
        moved = push(
            grad(self._outer, argnums=3),
            (outputs, w, self._x, self._y),
            (self._tensor(v).reshape(outputs.shape), None, None, None),
        )[1]
        return self._numpy(moved)

    def _target_tangent(self, dy: NDArray[np.floating]) -> Tensor:
        if not self._y.is_floating_point():
            raise ValueError(
                "The 'dy' parameter must be None for class labels, along which no "
                f"derivative exists. Got targets of type {self._y.dtype} instead."
            )
        return self._tensor(dy).reshape(self._y.shape)

    def _lambda_product(self, recorded: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
        """Lambda v; Lambda is symmetric, so that one more reverse pass gives it."""
        outputs, r = recorded
        if not r.requires_grad:  # a criterion that is linear in the outputs
            return torch.zeros_like(r)
        (moved,) = torch.autograd.grad(
            r, outputs, v, retain_graph=True, materialize_grads=True
        )
        return moved.reshape(self.n_samples, self.n_outputs)

    def curvature_along(self, weights: Array, v: Array) -> Array:
        """Lambda v for v of shape (n_samples, n_outputs)."""
        w = self._tensor(weights)
        recorded = self._recorded_r(w, self._outputs(w))
        return self._numpy(self._lambda_product(recorded, self._tensor(v)))

    def is_separable(self, weights: Array) -> bool:
        """Whether Lambda couples no two rows: moving even rows leaves odd r alone."""
        w = self._tensor(weights)
        # Random, because constants lie in the kernel of softmax criteria's Lambda.
        rng = np.random.default_rng(0)
        v = self._tensor(rng.standard_normal((self.n_samples, self.n_outputs)))
        v[1::2] = 0.0
        moved = self._lambda_product(self._recorded_r(w, self._outputs(w)), v)
        return self.n_samples < 2 or not bool(moved[1::2].any())

    # Beside the outputs --------------------------------------------------------------

    def penalty_hessian(self, weights: Array) -> Array | None:
        """Hessian in w at fixed outputs, (n_params, n_params); None where zero."""
        w = self._tensor(weights)
        if not self._depends_on_weights_directly(w):
            return None
        outputs = self._outputs(w)
        identity = torch.eye(self.n_params, device=w.device, dtype=w.dtype)
        return self._numpy(
            map_rows(lambda v: self._penalty_product(w, outputs, v), identity)
        )

    def penalty_product(self, weights: Array, v: Array) -> Array:
        """Hessian in w at fixed outputs times v of shape (n_params,)."""
        w = self._tensor(weights)
        outputs = self._outputs(w)
        return self._numpy(self._penalty_product(w, outputs, self._tensor(v)))

    def _penalty_product(self, w: Tensor, outputs: Tensor, v: Tensor) -> Tensor:
        return push(
            grad(self._outer, argnums=1),
            (outputs, w, self._x, self._y),
            (torch.zeros_like(outputs), v, None, None),
        )[1]

    def is_penalised(self, weights: Array) -> bool:
        """Whether L depends on w other than through the outputs and the tilt."""
        return self._depends_on_weights_directly(self._tensor(weights))

    def _depends_on_weights_directly(self, w: Tensor) -> bool:
        if bool(self.decay.any()):
            return True
        outputs = self._outputs(w)

        def direct(at: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = at.detach().requires_grad_()
                value = self._loss(outputs, leaf, self._x, self._y)
                return torch.autograd.grad(value, leaf, materialize_grads=True)[0]

        # At w + 1 too: the gradient of |w|^2 vanishes at w = 0.
        return any(bool(direct(at).any()) for at in (w, w + 1.0))
