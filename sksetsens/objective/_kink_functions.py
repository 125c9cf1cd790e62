"""The kinks of a net as functions of weights and data, and objectives at given gates.

A kink is a ramp whose input t is 0 (`Kinks`). Its input is a function of weights and
data like an output, with gradients Z in the weights and D in the data; its force is the
derivative of the loss along the ramp's value.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import vmap

from ._base import Array, Tensor
from ._gates import NO_KINKS, Held, Kinks, Plain, Recorder, Smoothed
from ._net_function import push
from ._output_derivatives import OutputDerivatives
from ._ramps import Gating

__all__ = ["KinkFunctions", "Ramps"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ramps:
    """All ramps of a net at some weights.

    Attributes
    ----------
    inputs : dict of int to ndarray
        Of each operation, in its own shape.
    forces : dict of int to ndarray
        Derivative of the loss along the ramps' values.
    row_weights : ndarray of shape (n_samples,), default=None
        None for equal ones.
    """

    inputs: dict[int, Array]
    forces: dict[int, Array]
    row_weights: Array | None = None

    def mean_square(self, call: int) -> Array:
        """Of the inputs of an operation over the rows, in the shape of one row."""
        t, s = self.inputs[call], self.row_weights
        if s is None or len(t) != len(s):  # Penalties are of no row.
            return np.asarray(np.mean(t**2, axis=0))
        return np.asarray(np.tensordot(s, t**2, axes=1) / s.sum())

    @property
    def largest_force(self) -> float:
        """Largest absolute force; 0 without ramps."""
        sizes = [float(np.abs(f).max(initial=0.0)) for f in self.forces.values()]
        return max(sizes, default=0.0)

    def at(self, kinks: Kinks) -> tuple[Array, Array]:
        """Inputs and forces of some kinks, shape (n_kinks,) each."""
        return kinks.taken(self.inputs), kinks.taken(self.forces)


class KinkFunctions(OutputDerivatives):
    """What an objective knows of its ramps."""

    _kinks: Kinks | None = None
    # Operations that have ramps.
    _known_calls: tuple[int, ...] | None = None
    # Number of rows they belong to, and number of ramps of each operation.
    _known_ramp_sizes: tuple[int, dict[int, int]] | None = None

    # Objectives at other gates -----------------------------------------------------

    def _gated(self, gating: Gating | None, kinks: Kinks | None) -> Self:
        other = copy.copy(self)
        other._gating, other._kinks = gating, kinks
        return other

    def smoothed(self, eps: float, scales: dict[int, Array]) -> Self:
        """The objective with rounded kinks, see `Smoothed`."""
        return self._gated(Smoothed(eps, scales), None)

    def on_kinks(self, kinks: Kinks, pattern: dict[int, Mask] | None = None) -> Self:
        """The objective with the gates of kinks held: smooth where they are all.

        Parameters
        ----------
        kinks : Kinks
        pattern : dict of int to ndarray of bool, default=None
            Gates of all other ramps; None to let them follow the signs.
        """
        if not kinks.holds and pattern is None:
            return self.off_kinks()
        return self._gated(self._held(kinks, pattern), kinks)

    def off_kinks(self) -> Self:
        """The objective as it is, no gate held."""
        return self if self._gating is None else self._gated(None, None)

    @property
    def kinks(self) -> Kinks:
        """Kinks whose gates are held."""
        return NO_KINKS if self._kinks is None else self._kinks

    def _held(self, kinks: Kinks, pattern: dict[int, Mask] | None) -> Held:
        sizes = self._ramp_sizes
        gates: dict[int, tuple[Tensor, Tensor]] = {}
        for call, size in sizes.items():
            held, values = np.zeros(size, dtype=bool), np.zeros(size)
            if pattern is not None:
                held[:], values[:] = True, pattern[call].ravel()
            on, fixed = kinks.of_call(call)
            held[on], held[fixed] = True, True
            values[on] = kinks.gates[kinks.calls == call]
            values[fixed] = kinks.fixed_gates[kinks.fixed_calls == call]
            if held.any():
                mask = torch.as_tensor(held, device=self._device)
                gates[call] = mask, self._tensor(values)
        return Held(gates, self.n_samples)

    @property
    def _ramp_sizes(self) -> dict[int, int]:
        # The shapes of the operations do not change with weights and data.
        known = self._known_ramp_sizes
        if known is None or known[0] != self.n_samples:
            recorder = self._recorded(self._tensor(self.weights))
            sizes = {call: t.numel() for call, t in recorder.inputs.items()}
            known = self.n_samples, sizes
            self._known_ramp_sizes = known
        return known[1]

    # Ramps ----------------------------------------------------------------------------

    @property
    def has_ramps(self) -> bool:
        """Whether the net or its loss has piecewise-linear operations."""
        return bool(self._calls_with_ramps)

    @property
    def has_ramps_in_loss(self) -> bool:
        """Whether ``get_loss`` has, as absolute errors and L1 penalties do."""
        return any(call < 0 for call in self._calls_with_ramps)

    @property
    def fits_ramps(self) -> bool:
        """Whether the ramps of all rows fit the working memory at once."""
        return self._fits_recorded(self._dtype.itemsize)

    @property
    def _calls_with_ramps(self) -> tuple[int, ...]:
        # Two rows show them: what operations there are does not change.
        if self._known_calls is None:
            recorder, w = Recorder(Plain()), self._tensor(self.weights)
            noted, outputs = self._gated(recorder, None), self._outputs(w)
            with torch.no_grad():
                noted._forward(w, self._x[:2], slice(2))
                noted._loss(outputs, w, self._x, self._y)
            self._known_calls = tuple(recorder.inputs)
        return self._known_calls

    def _recorded(self, w: Tensor, *, moved: bool = False) -> Recorder:
        recorder = Recorder(self._gating or Plain(), moved=moved)
        with torch.set_grad_enabled(moved):
            value = self._gated(recorder, None)._total(w, self._x, self._y)
            offsets = list(recorder.offsets.values())
            if offsets:
                forces = torch.autograd.grad(value, offsets, materialize_grads=True)
                recorder.offsets = dict(zip(recorder.offsets, forces, strict=True))
        return recorder

    def ramps(self, weights: Array) -> Ramps:
        """Inputs and forces of all ramps, at the gates of this objective."""
        recorder = self._recorded(self._tensor(weights), moved=True)
        inputs = {call: self._numpy(t) for call, t in recorder.inputs.items()}
        forces = {call: self._numpy(t) for call, t in recorder.offsets.items()}
        return Ramps(inputs, forces, self._row_weights)

    @property
    def _row_weights(self) -> Array | None:
        """Weights of all targets of each row together; None for equal ones."""
        if self._sample_weight is None:
            return None
        rows = self._rows_of_targets
        return np.bincount(rows, self.sample_weight, self.n_samples).astype(np.float64)

    def ramp_tangents(
        self, weights: Array, dw: Array, dX: Any = None, dy: Any = None
    ) -> dict[int, Array]:
        """Movement of all ramps' inputs as weights and data move."""
        calls: list[int] = []

        def inputs(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            recorder = Recorder(self._gating or Plain())
            self._gated(recorder, None)._total(w, x, y)
            calls[:] = recorder.inputs
            return tuple(recorder.inputs.values())

        moved = push(inputs, self._primals(weights), self._tangents(dw, dX, dy))[1]
        return {call: self._numpy(t) for call, t in zip(calls, moved, strict=True)}

    def _primals(self, weights: Array) -> tuple[Tensor, Tensor, Tensor]:
        return self._tensor(weights), self._x, self._y

    def _tangents(self, dw: Any, dX: Any, dy: Any) -> tuple[Tensor | None, ...]:
        dw_t = None if dw is None else self._tensor(dw)
        dx_t = None if dX is None else self._tensor(dX).reshape(self._x.shape)
        return dw_t, dx_t, None if dy is None else self._target_tangent(dy)

    # Kinks ----------------------------------------------------------------------------

    def _inputs_at(self, kinks: Kinks, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Inputs of the kinks' ramps, shape (n_kinks,)."""
        recorder = Recorder(self._gating or Plain())
        gated = self._gated(recorder, None)
        outputs = gated._forward(w, x)
        if (kinks.calls < 0).any():
            gated._outer(outputs, w, x, y)
        parts = []
        for call in dict.fromkeys(kinks.calls.tolist()):
            places = torch.as_tensor(kinks.places[kinks.calls == call])
            parts.append(recorder.inputs[call].reshape(-1)[places.to(w.device)])
        return torch.cat(parts) if parts else w.new_zeros(0)

    def kink_jacobian(self, weights: Array, kinks: Kinks | None = None) -> Array:
        """Z, gradients of the kinks' inputs in w, shape (n_kinks, n_params).

        Of other ramps than the objective's kinks where they are given.
        """
        kinks = self.kinks if kinks is None else kinks
        w, x, y = self._primals(weights)
        w = w.requires_grad_()
        with torch.enable_grad():
            t = self._inputs_at(kinks, w, x, y)
        return self._pulled_back(t, w, self.n_params)

    def kink_forces(self, weights: Array, Z: Array) -> Array:
        """Forces of the kinks, with those of the ramps that they lead.

        ``dR/ds = force * Z'`` along a gate s and all that go with it.

        Parameters
        ----------
        weights : ndarray of shape (n_params,)
        Z : ndarray of shape (n_kinks, n_params)
            `kink_jacobian` there.

        Returns
        -------
        forces : ndarray of shape (n_kinks,)
        """
        kinks, ramps = self.kinks, self.ramps(weights)
        forces = ramps.at(kinks)[1]
        led = kinks.led[kinks.n_dead_ramps :]
        if not (led >= 0).any():
            return forces
        twins = kinks.twins.keep(led >= 0)
        led = led[led >= 0]
        along = (self.kink_jacobian(weights, twins) * Z[led]).sum(axis=1)
        multiples = np.abs(along) / (Z[led] ** 2).sum(axis=1)
        np.add.at(forces, led, multiples * ramps.at(twins)[1])
        return forces

    def kink_input_jacobian(self, weights: Array, kinks: Kinks | None = None) -> Array:
        """D, gradients of the kinks' inputs in X, (n_kinks, n_samples, n_inputs)."""
        kinks = self.kinks if kinks is None else kinks
        w, x, y = self._primals(weights)
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            t = self._inputs_at(kinks, w, x, y)
        size = self._x[0].numel()
        return self._pulled_back(t, x, x.numel()).reshape(-1, self.n_samples, size)

    def _pulled_back(self, t: Tensor, leaf: Tensor, size: int) -> Array:
        if not (len(t) and t.requires_grad):
            return np.zeros((len(t), size))

        def row(u: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(
                t, leaf, u, retain_graph=True, materialize_grads=True
            )
            return found.reshape(-1)

        units = torch.eye(len(t), dtype=t.dtype, device=t.device)
        try:
            rows = [vmap(row)(block) for block in units.split(64)]
        except RuntimeError:
            rows = [torch.stack([row(u) for u in units])]
        return self._numpy(torch.cat(rows))

    def kink_tangent(self, weights: Array, dX: Any = None, dy: Any = None) -> Array:
        """Movement of the kinks' inputs with the data, shape (n_kinks,)."""
        tangents = self._tangents(None, dX, dy)
        if all(t is None for t in tangents):
            return np.zeros(len(self.kinks))
        inputs = partial(self._inputs_at, self.kinks)
        return self._numpy(push(inputs, self._primals(weights), tangents)[1])

    def kink_adjoint(self, weights: Array, u: Array) -> Array:
        """D'u for u of shape (n_kinks,), in the shape of X."""
        return self._kink_adjoint(weights, u, 1)

    def kink_target_adjoint(self, weights: Array, u: Array) -> Array:
        """The same for the gradients in real-valued targets, in the shape of y."""
        return self._kink_adjoint(weights, u, 2)

    def _kink_adjoint(self, weights: Array, u: Array, argnum: int) -> Array:
        primals = list(self._primals(weights))
        leaf = primals[argnum] = primals[argnum].detach().clone().requires_grad_()
        with torch.enable_grad():
            t = self._inputs_at(self.kinks, *primals)
            if not t.requires_grad:
                return self._numpy(torch.zeros_like(leaf))
            (found,) = torch.autograd.grad(
                t, leaf, self._tensor(u), materialize_grads=True
            )
        return self._numpy(found)
