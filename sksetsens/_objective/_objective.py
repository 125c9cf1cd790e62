"""The training objective of a skorch net as a function of flat weights and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, jacrev, jvp, vmap

from .._compat import predict_nonlinearity, skeleton_net
from ._decay import weight_decay

Array = NDArray[np.float64]
Tensor = torch.Tensor

# Forward-over-reverse with a block of tangents keeps about three copies of every
# activation per tangent; blocks are sized so that this stays below the budget.
_TANGENT_BUDGET_BYTES = 64 * 2**20
_COPIES_PER_TANGENT = 3


class _NetFunction(torch.nn.Module):
    """What skorch evaluates while training, with the net's parameters exchangeable.

    ``functional_call`` swaps the parameters of ``module`` in place for the call, so
    a ``get_loss`` that reads ``self.module_.parameters()`` (skorch's documented way
    to add an L1 penalty) sees the swapped values and is differentiated correctly.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.module = net.module_
        self.net = net

    def forward(self, task: str, *args: Tensor) -> Tensor:
        if task == "outputs":
            return self.net.infer(args[0])
        outputs, x, y = args
        return self.net.get_loss(outputs, y, X=x, training=True)


def _push(
    function: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple
) -> tuple[Any, Any]:
    """Value and directional derivative along those tangents that are not None.

    The targets (last primal) always get a tangent where they are real-valued: torch
    cannot push MSELoss's backward forward with a symbolic zero for its target.
    """
    if tangents[-1] is None and primals[-1].is_floating_point() and len(primals) > 2:
        tangents = (*tangents[:-1], torch.zeros_like(primals[-1]))
    active = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def restricted(*moving: Tensor) -> Any:
        arguments = list(primals)
        for i, value in zip(active, moving, strict=True):
            arguments[i] = value
        return function(*arguments)

    return jvp(
        restricted,
        tuple(primals[i] for i in active),
        tuple(tangents[i] for i in active),
    )


class Objective:
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
        Rows per pass through the module; None for all rows at once.

    dtype : torch.dtype, default=torch.float64
        Floating type of the analysis.

    Attributes
    ----------
    n_params, n_samples, n_outputs : int
        Length p of the flat weights, rows n and outputs per row c.

    decay : Tensor of shape (n_params,)
        Coefficient of each weight's quadratic penalty.
    """

    def __init__(
        self,
        net: Any,
        X: NDArray[Any],
        y: NDArray[Any],
        *,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        module = copy.deepcopy(net.module_).to(dtype).eval()
        criterion = copy.deepcopy(net.criterion_)
        if isinstance(criterion, torch.nn.Module):
            criterion = criterion.to(dtype).eval()
        self._core = _NetFunction(skeleton_net(net, module, criterion))
        self._device, self._dtype = torch.device(net.device), dtype
        trainable = {
            name: p for name, p in self._core.named_parameters() if p.requires_grad
        }
        self._shapes = {name: p.shape for name, p in trainable.items()}
        self._sizes = [p.numel() for p in trainable.values()]
        self.n_params = sum(self._sizes)
        self._constants = {
            name: tensor.detach()
            for name, tensor in [
                *self._core.named_buffers(),
                *self._core.named_parameters(),
            ]
            if name not in trainable
        }
        self.weights = self._numpy(
            torch.cat([p.detach().reshape(-1) for p in trainable.values()])
        )
        self.decay = weight_decay(net).to(self._device, dtype)
        self._tilt: Tensor | None = None
        self.batch_size = batch_size
        self._set_data(X, y)

    # Variants of the same objective ------------------------------------------

    def _set_data(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        self._x = torch.as_tensor(X, device=self._device).to(self._dtype)
        self._y = torch.as_tensor(y, device=self._device)
        if self._y.is_floating_point():
            self._y = self._y.to(self._dtype)
        self.n_samples = self._x.shape[0]
        one_row = self._forward(self._tensor(self.weights), self._x[:1])
        self.n_outputs = one_row.numel()

    def with_data(self, X: NDArray[Any], y: NDArray[Any] | None = None) -> Objective:
        """The same net, penalty and tilt on other data."""
        other = copy.copy(self)
        other._set_data(X, self._y.cpu().numpy() if y is None else y)
        return other

    def with_state(self, state: dict[str, NDArray[Any]]) -> Objective:
        """The same objective with the weights and buffers of ``state``.

        Parameters
        ----------
        state : dict of str to ndarray
            The module's ``state_dict`` as NumPy arrays.
        """
        other = copy.copy(self)
        other._constants = {
            name: torch.as_tensor(
                state[name.removeprefix("module.")], device=self._device
            ).to(tensor.dtype)
            for name, tensor in self._constants.items()
        }
        other.weights = np.concatenate(
            [
                np.asarray(state[name.removeprefix("module.")], np.float64).ravel()
                for name in self._shapes
            ]
        )
        return other

    def tilted(self, tilt: Array) -> Objective:
        """The objective minus ``<tilt, w>``: stationary where the gradient is tilt.

        Early-stopped weights are stationary for the objective tilted by their own
        gradient, with the same H and B (compare the proximal Bregman objective of
        Bae et al., 2022, arXiv 2209.05364).
        """
        other = copy.copy(self)
        other._tilt = self._tensor(tilt)
        return other

    def untilted(self) -> Objective:
        """The objective without its linear term."""
        other = copy.copy(self)
        other._tilt = None
        return other

    @property
    def is_tilted(self) -> bool:
        """Whether a linear term was subtracted."""
        return self._tilt is not None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the data, (n_samples, ...)."""
        return tuple(self._x.shape)

    def state(self, weights: Array) -> dict[str, Array]:
        """The module's ``state_dict`` at ``weights``, as NumPy arrays."""
        state = {**self._unflatten(self._tensor(weights)), **self._constants}
        return {
            name.removeprefix("module."): tensor.detach().cpu().numpy()
            for name, tensor in state.items()
        }

    @property
    def parameter_slices(self) -> dict[str, slice]:
        """Where each parameter of the module lies in the flat weights."""
        ends = np.cumsum(self._sizes)
        return {
            name.removeprefix("module."): slice(int(end - size), int(end))
            for name, size, end in zip(self._shapes, self._sizes, ends, strict=True)
        }

    # Building blocks on tensors ------------------------------------------------

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, device=self._device).to(self._dtype)

    def _numpy(self, tensor: Tensor) -> Array:
        return tensor.detach().cpu().numpy().astype(np.float64)

    def _unflatten(self, w: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(w, self._sizes)
        return {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def _call(self, w: Tensor, *args: Any) -> Tensor:
        return functional_call(
            self._core, {**self._unflatten(w), **self._constants}, args
        )

    def _forward(self, w: Tensor, x: Tensor) -> Tensor:
        return self._call(w, "outputs", x)

    def _loss(self, outputs: Tensor, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        data_term = self._call(w, "loss", outputs, x, y)
        return data_term + 0.5 * (self.decay * w * w).sum()

    def _outer(self, outputs: Tensor, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        loss = self._loss(outputs, w, x, y)
        return loss if self._tilt is None else loss - self._tilt @ w

    def _total(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._outer(self._forward(w, x), w, x, y)

    def _batches(self) -> Iterator[slice]:
        step = self.batch_size or self.n_samples
        for start in range(0, self.n_samples, step):
            yield slice(start, start + step)

    @property
    def _one_batch(self) -> bool:
        return self.batch_size is None or self.batch_size >= self.n_samples

    def _outputs(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._forward(w, self._x[b]) for b in self._batches()])

    # Value and gradient ----------------------------------------------------------

    def outputs(self, weights: Array, X: NDArray[Any] | None = None) -> Array:
        """Module outputs f(X, w) of shape (n_samples, ...), on the data or on X."""
        objective = self if X is None else self._on_rows(X)
        return self._numpy(objective._outputs(self._tensor(weights)))

    def _on_rows(self, X: NDArray[Any]) -> Objective:
        other = copy.copy(self)
        other._x = self._tensor(X)
        other.n_samples = other._x.shape[0]
        return other

    def predictions(self, weights: Array, X: NDArray[Any]) -> Array:
        """Outputs on X after skorch's ``predict_nonlinearity`` (probabilities)."""
        outputs = self._on_rows(X)._outputs(self._tensor(weights))
        return self._numpy(predict_nonlinearity(self._core.net)(outputs))

    def loss(self, weights: Array) -> float:
        """Objective value, penalty included and tilt left out."""
        w = self._tensor(weights)
        with torch.no_grad():
            return float(self._loss(self._outputs(w), w, self._x, self._y))

    def value_and_gradient(self, weights: Array) -> tuple[float, Array]:
        """L (tilt included) and the first-order residual R, shape (n_params,)."""
        w = self._tensor(weights)
        with torch.no_grad():
            value = float(self._outer(self._outputs(w), w, self._x, self._y))
        return value, self._numpy(self._joint_gradient(w)[0])

    def gradient(self, weights: Array) -> Array:
        """First-order residual R(x, w), shape (n_params,)."""
        return self._numpy(self._joint_gradient(self._tensor(weights))[0])

    def input_gradient(self, weights: Array) -> Array:
        """Gradient of L in the data, shape of X."""
        return self._numpy(self._joint_gradient(self._tensor(weights))[1])

    def _joint_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        if self._one_batch:
            return grad(self._total, argnums=(0, 1))(w, self._x, self._y)
        outputs = self._outputs(w)
        r, gw, gx = grad(self._outer, argnums=(0, 1, 2))(outputs, w, self._x, self._y)
        rows = []
        for b in self._batches():
            in_w, in_x = grad(self._pairing, argnums=(0, 1))(w, self._x[b], r[b])
            gw = gw + in_w
            rows.append(in_x)
        return gw, gx + torch.cat(rows)

    def _pairing(self, w: Tensor, x: Tensor, r: Tensor) -> Tensor:
        return (self._forward(w, x) * r).sum()

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
        """Derivative of (grad_w L, grad_x L)[wrt] along (dw, dx, dy).

        One rule gives H dw + B dx (``wrt=(0,)``) and B' dw (``wrt=(1,)``). The
        batched form differentiates, per batch, ``<f(x_b, w), r_b>`` with r moving
        too; r is the gradient of the loss in ALL outputs.
        """
        if self._one_batch:
            gradient = grad(self._total, argnums=wrt)
            return _push(gradient, (w, self._x, self._y), (dw, dx, dy))[1]
        parts = [
            _push(
                self._forward,
                (w, self._x[b]),
                (dw, None if dx is None else dx[b]),
            )
            if (dw is not None or dx is not None)
            else (self._forward(w, self._x[b]), None)
            for b in self._batches()
        ]
        outputs = torch.cat([part[0] for part in parts])
        moved = None if parts[0][1] is None else torch.cat([part[1] for part in parts])
        (r, *_), (dr, *direct) = _push(
            grad(self._outer, argnums=(0, 1, 2)),
            (outputs, w, self._x, self._y),
            (moved, dw, dx, dy),
        )
        rows = [
            _push(
                grad(self._pairing, argnums=wrt),
                (w, self._x[b], r[b]),
                (dw, None if dx is None else dx[b], dr[b]),
            )[1]
            for b in self._batches()
        ]
        join = {0: lambda i: sum(row[i] for row in rows)}
        join[1] = lambda i: torch.cat([row[i] for row in rows])
        return tuple(direct[k] + join[k](i) for i, k in enumerate(wrt))

    def hessian_product(self, weights: Array, v: Array) -> Array:
        """H v for v of shape (n_params,) or (n_params, k)."""
        w, v_t = self._tensor(weights), self._tensor(v)
        if v_t.ndim == 1:
            return self._numpy(self._tangent(w, v_t)[0])
        return self._columns(w, v_t.T, wrt=0).T

    def cross_product(
        self, weights: Array, dX: NDArray[Any], dy: NDArray[Any] | None = None
    ) -> Array:
        """B dX (plus the derivative along dy where given), shape (n_params,)."""
        dy_t = None if dy is None else self._tensor(dy).reshape(self._y.shape)
        dx_t = self._tensor(dX).reshape(self._x.shape)
        return self._numpy(self._tangent(self._tensor(weights), None, dx_t, dy_t)[0])

    def cross_adjoint(self, weights: Array, v: Array) -> Array:
        """B' v for v of shape (n_params,), returned in the shape of X."""
        w, v_t = self._tensor(weights), self._tensor(v)
        return self._numpy(self._tangent(w, v_t, wrt=(1,))[0])

    def hessian(self, weights: Array) -> Array:
        """Dense exact Hessian H, shape (n_params, n_params), symmetrised."""
        identity = torch.eye(self.n_params, device=self._device, dtype=self._dtype)
        dense = self._columns(self._tensor(weights), identity, wrt=0)
        return 0.5 * (dense + dense.T)

    def _columns(self, w: Tensor, directions: Tensor, *, wrt: int) -> Array:
        one = vmap(lambda v: self._tangent(w, v, wrt=(wrt,))[0])
        blocks = torch.split(directions, self._tangent_block())
        return np.concatenate([self._numpy(one(block)) for block in blocks])

    def _tangent_block(self) -> int:
        rows = min(self.batch_size or self.n_samples, self.n_samples)
        per_tangent = 8 * _COPIES_PER_TANGENT * rows * self._activations_per_row()
        return max(1, min(self.n_params, _TANGENT_BUDGET_BYTES // max(per_tangent, 1)))

    def _activations_per_row(self) -> int:
        """Floats that autograd keeps for one row: two rows' count less one row's."""
        w = self._tensor(self.weights).requires_grad_()
        counts = []
        for n_rows in (1, 2):
            kept: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
            ):
                self._forward(w, self._x[:1].expand(n_rows, *self._x.shape[1:]))
            counts.append(sum(kept))
        return max(1, counts[1] - counts[0])

    # The outputs' own derivatives: J, D, r, Lambda --------------------------------

    def _per_row(self, w: Tensor, argnum: int) -> Array:
        def one_row(w_: Tensor, x_: Tensor) -> Tensor:
            return self._forward(w_, x_.unsqueeze(0)).reshape(-1)

        row_jacobian = vmap(jacrev(one_row, argnums=argnum), in_dims=(None, 0))
        size = self.n_params if argnum == 0 else self._x[0].numel()
        floats = self.n_outputs * size + self.n_outputs * self._activations_per_row()
        step = max(1, _TANGENT_BUDGET_BYTES // (8 * _COPIES_PER_TANGENT * floats))
        blocks = [self._numpy(row_jacobian(w, rows)) for rows in self._x.split(step)]
        return np.concatenate(blocks).reshape(self.n_samples, self.n_outputs, size)

    def jacobian(self, weights: Array) -> Array:
        """J = df/dw, shape (n_samples, n_outputs, n_params)."""
        return self._per_row(self._tensor(weights), 0)

    def input_jacobian(self, weights: Array) -> Array:
        """Diagonal blocks of D = df/dx, shape (n_samples, n_outputs, n_inputs)."""
        return self._per_row(self._tensor(weights), 1)

    def output_gradient(self, weights: Array) -> Array:
        """Gradient r of the loss in the outputs, shape (n_samples, n_outputs)."""
        w = self._tensor(weights)
        r = grad(self._outer)(self._outputs(w), w, self._x, self._y)
        return self._numpy(r).reshape(self.n_samples, self.n_outputs)

    def output_hessian(self, weights: Array) -> Array:
        """Row blocks of Lambda, shape (n_samples, n_outputs, n_outputs).

        Exact for criteria that add up over rows (`is_separable`).
        """
        w = self._tensor(weights)
        outputs = self._outputs(w)
        columns = [
            self._lambda_product(w, outputs, unit.expand(self.n_samples, -1))
            for unit in torch.eye(self.n_outputs, device=w.device, dtype=w.dtype)
        ]
        return self._numpy(torch.stack(columns, dim=-1))

    def output_target_product(self, weights: Array, dy: NDArray[Any]) -> Array:
        """Derivative of r along the targets, shape (n_samples, n_outputs)."""
        w = self._tensor(weights)
        tangent = self._tensor(dy).reshape(self._y.shape)
        moved = _push(
            grad(self._outer),
            (self._outputs(w), w, self._x, self._y),
            (None, None, None, tangent),
        )[1]
        return self._numpy(moved).reshape(self.n_samples, self.n_outputs)

    def _lambda_product(self, w: Tensor, outputs: Tensor, v: Tensor) -> Tensor:
        moved = _push(
            grad(self._outer),
            (outputs, w, self._x, self._y),
            (v.reshape(outputs.shape), None, None, None),
        )[1]
        return moved.reshape(self.n_samples, self.n_outputs)

    def is_separable(self, weights: Array) -> bool:
        """Whether Lambda couples no two rows: moving even rows leaves odd r alone."""
        w = self._tensor(weights)
        v = torch.ones((self.n_samples, self.n_outputs), device=w.device, dtype=w.dtype)
        v[1::2] = 0.0
        moved = self._lambda_product(w, self._outputs(w), v)
        return self.n_samples < 2 or not bool(moved[1::2].any())

    def penalty_hessian(self, weights: Array) -> Array | None:
        """Hessian in w at fixed outputs, (n_params, n_params); None where zero."""
        w = self._tensor(weights)
        if not self._depends_on_weights_directly(w):
            return None
        outputs = self._outputs(w)
        one = vmap(
            lambda v: _push(
                grad(self._outer, argnums=1),
                (outputs, w, self._x, self._y),
                (None, v, None, None),
            )[1]
        )
        return self._numpy(one(torch.eye(self.n_params, dtype=w.dtype)))

    def is_penalised(self, weights: Array) -> bool:
        """Whether L depends on w other than through the outputs and the tilt."""
        return self._depends_on_weights_directly(self._tensor(weights))

    def _depends_on_weights_directly(self, w: Tensor) -> bool:
        if bool(self.decay.any()):
            return True
        outputs = self._outputs(w)
        return bool(grad(self._loss, argnums=1)(outputs, w, self._x, self._y).any())

    # Evidence ----------------------------------------------------------------------

    def hessian_norm(self, weights: Array, n_iter: int = 20) -> float:
        """|H|_2 to a few per cent, by power iteration from a fixed start.

        It scales the stationarity test only, where a factor near one is harmless.
        """
        w = self._tensor(weights)
        v = self._tensor(np.random.default_rng(0).standard_normal(self.n_params))
        norm = 0.0
        for _ in range(n_iter):
            v = self._tangent(w, v / torch.linalg.vector_norm(v))[0]
            previous, norm = norm, float(torch.linalg.vector_norm(v))
            if norm == 0.0 or abs(norm - previous) < 0.01 * norm:
                break
        return norm

    def kinked_preactivations(self, weights: Array) -> tuple[int, int]:
        """Pre-activations that sit on a kink, and the number of all that could.

        Counts inputs of piecewise linear activation modules with absolute value
        below 1e-4 of that layer's root mean square.
        """
        counts = [0, 0]

        def count(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            a = inputs[0].detach().abs()
            counts[0] += int((a <= 1e-4 * a.square().mean().sqrt()).sum())
            counts[1] += a.numel()

        handles = [
            m.register_forward_pre_hook(count)
            for m in self._core.modules()
            if isinstance(m, _PIECEWISE_LINEAR)
        ]
        try:
            self._outputs(self._tensor(weights))
        finally:
            for handle in handles:
                handle.remove()
        return counts[0], counts[1]


_PIECEWISE_LINEAR = (
    torch.nn.ReLU,
    torch.nn.ReLU6,
    torch.nn.LeakyReLU,
    torch.nn.PReLU,
    torch.nn.RReLU,
)
