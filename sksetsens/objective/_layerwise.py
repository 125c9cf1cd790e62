r"""Exact Hessian of nets of linear layers, layer by layer.

Where all trained weights sit in ``nn.Linear`` layers, a row's outputs depend on them
through the pre-activations :math:`s_l = W_l h_{l-1} + b_l`. Let
:math:`\epsilon` be a movement added to all pre-activations of the row, E numbers. The
derivatives in the weights follow from those in :math:`\epsilon` by the chain rule,

.. math::
    \frac{\partial^2 L}{\partial W_l\,\partial W_m} = \sum_i
    \frac{\partial^2 L}{\partial \epsilon_l\,\partial \epsilon_m} \otimes h_{l-1}
    \otimes h_{m-1} + \frac{\partial L}{\partial \epsilon_l} \otimes
    \frac{\partial h_{l-1}}{\partial \epsilon_m} \otimes h_{m-1},

the last term for :math:`m < l` only (Bishop, "Exact calculation of the Hessian matrix
for the multilayer perceptron", 1992). E directional derivatives, one per unit and for
all rows at once, replace one per weight; the rest is matrix products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import grad, vmap

from ._isolation import DERIVATIVES
from ._layer_blocks import Layer, LayerBlocks
from ._net_function import NetFunction, pushed
from ._row_gradients import RowGradients

__all__ = ["LinearLayers", "linear_layers"]

Tensor = torch.Tensor

# Floats of the derivatives in epsilon that are kept at once: 128 MB in float64.
_MAX_FLOATS = 2**24


def linear_layers(core: NetFunction, x: Tensor) -> LinearLayers | None:
    """The layers of a net whose trained weights all are in linear layers.

    Parameters
    ----------
    core : NetFunction
    x : Tensor of shape (n_rows, ...)
        A few rows, on which calls are counted.

    Returns
    -------
    layers : LinearLayers or None
        None where another layer has trained weights, or a layer is called more than
        once, or not on one vector per row.
    """
    places, end = {}, 0
    for p in core.parameters():
        if p.requires_grad:
            if id(p) in places:
                return None
            indices = torch.arange(end, end + p.numel(), device=p.device)
            places[id(p)] = indices.reshape(p.shape)
            end += p.numel()
    calls = _calls(core, x)
    names = {module: name for name, module in core.named_modules()}
    layers, n_units, covered = [], 0, 0
    for module, shape in calls:
        parts = [p for p in (module.weight, module.bias) if p is not None]
        trained = [p for p in parts if id(p) in places]
        if not trained:
            continue
        once = sum(other is module for other, _ in calls) == 1
        if len(trained) < len(parts) or not once or shape[:-1] != x.shape[:1]:
            return None
        columns = [places[id(p)].reshape(module.out_features, -1) for p in parts]
        units = slice(n_units, n_units + module.out_features)
        layer = Layer(
            names[module],
            module.in_features,
            module.bias is not None,
            torch.cat(columns, dim=1),
            units,
        )
        layers.append(layer)
        n_units += module.out_features
        covered += sum(p.numel() for p in parts)
    return LinearLayers(core, layers, end) if covered == end and layers else None


def _calls(core: NetFunction, x: Tensor) -> list[tuple[nn.Linear, torch.Size]]:
    """Calls of linear layers in order, with the shapes of their inputs."""
    found: list[tuple[nn.Linear, torch.Size]] = []

    def note(module: nn.Linear, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        found.append((module, inputs[0].shape))

    modules = [m for m in core.modules() if type(m) is nn.Linear]
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        with torch.no_grad():
            core("outputs", x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class LinearLayers:
    """Derivatives of a net through the pre-activations of its linear layers.

    Parameters
    ----------
    core : NetFunction
    layers : list of Layer
        In the order in which they are called.
    n_params : int
    """

    def __init__(self, core: NetFunction, layers: list[Layer], n_params: int) -> None:
        self._core, self._layers, self._n_params = core, layers, n_params
        self._n_units = layers[-1].units.stop

    def hessian(self, forward: Any, x: Tensor, r: Tensor, curvature: Tensor) -> Tensor:
        """Hessian of the loss in the weights, penalties left out, shape (p, p).

        Parameters
        ----------
        forward : callable
            Outputs at fixed weights of x and the rows of the data that it holds.
        x : Tensor of shape (n_rows, ...)
        r : Tensor of shape (n_rows, n_outputs)
            Gradient of the loss in the outputs.
        curvature : Tensor of shape (n_rows, n_outputs, n_outputs)
            Its second derivative, row by row.
        """
        blocks = LayerBlocks(self._layers, self._n_params, x)
        step = self._n_rows(x)
        with DERIVATIVES, self._core.turn:
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                of_rows = partial(forward, rows=rows)
                inputs, moved = self._moved_outputs(of_rows, x[rows])
                dr = torch.einsum("ncd,nde->enc", curvature[rows], moved)
                derivatives = self._second_derivatives(of_rows, x[rows], r[rows], dr)
                blocks.add(inputs, *derivatives)
        return blocks.matrix()

    def jacobian_products(self, forward: Any, x: Tensor, V: Tensor) -> Tensor:
        """``J_i V`` for each row, shape (n_rows, n_outputs, V.shape[1]).

        Parameters
        ----------
        forward : callable
            Outputs at fixed weights.
        x : Tensor of shape (n_rows, ...)
        V : Tensor of shape (n_params, r)
        """
        found = []
        widest = max(layer.units.stop - layer.units.start for layer in self._layers)
        step = max(1, _MAX_FLOATS // (widest * V.shape[1]))
        for rows in x.split(step):
            with DERIVATIVES, self._core.turn:
                inputs, moved = self._moved_outputs(forward, rows)
            total = V.new_zeros((*moved.shape[:2], V.shape[1]))
            for layer, h in zip(self._layers, inputs, strict=True):
                n_units, n_in = layer.places.shape
                of_layer = V[layer.places.reshape(-1)].reshape(n_units, n_in, -1)
                along = h @ of_layer.permute(1, 0, 2).reshape(n_in, -1)
                along = along.reshape(len(h), n_units, -1)
                total += moved[:, :, layer.units] @ along
            found.append(total)
        return torch.cat(found)

    def row_gradients(
        self, forward: Any, x: Tensor, rows: Tensor, directions: Tensor
    ) -> RowGradients:
        """Gradients of ``directions[j] . f(x[rows[j]])`` in the weights.

        Parameters
        ----------
        forward : callable
            Outputs of x at fixed weights.
        x : Tensor of shape (n_rows, ...)
        rows : Tensor of int of shape (k,)
            Sorted.
        directions : Tensor of shape (k, n_outputs)
        """
        inputs, deltas = self._propagated_back(forward, x, rows, directions)
        return RowGradients(
            inputs,
            [deltas[:, layer.units].contiguous() for layer in self._layers],
            [layer.places for layer in self._layers],
            rows,
            self._n_params,
        )

    def _propagated_back(
        self, forward: Any, x: Tensor, rows: Tensor, directions: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Inputs of the layers; gradients in epsilon, shape (k, E).

        As many backward passes as there are directions of one row at most.
        """
        firsts = torch.searchsorted(rows, rows)
        places = torch.arange(len(rows), device=rows.device) - firsts
        deltas = x.new_empty((len(rows), self._n_units))
        with DERIVATIVES, self._core.turn, torch.enable_grad():
            eps = x.new_zeros((len(x), self._n_units)).requires_grad_()
            with self._moved_by(eps) as seen:
                outputs = forward(x).reshape(len(x), -1)
            for place in range(int(places.max()) + 1):
                of_place = places == place
                along = torch.zeros_like(outputs)
                along[rows[of_place]] = directions[of_place]
                (found,) = torch.autograd.grad(outputs, eps, along, retain_graph=True)
                deltas[of_place] = found[rows[of_place]]
        return self._with_ones([h.detach() for h in seen], len(x)), deltas

    def _n_rows(self, x: Tensor) -> int:
        """Rows whose derivatives in epsilon, and pairs of inputs, fit the budget."""
        widths = [layer.places.shape[1] for layer in self._layers]
        per_row = self._n_units * (self._n_units + sum(widths)) + max(widths) ** 2
        return max(1, min(len(x), _MAX_FLOATS // per_row))

    def _moved_outputs(self, forward: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of the layers, a column of ones for the bias; df/deps (n, c, E)."""
        still = x.new_zeros((len(x), self._n_units))

        def outputs(eps: Tensor) -> Tensor:
            with self._moved_by(eps):
                return forward(x).reshape(len(x), -1)

        def along(unit: Tensor) -> Tensor:
            return pushed(outputs, (still,), (unit.expand_as(still),))[1]

        with torch.no_grad(), self._moved_by(still) as seen:
            forward(x)
        units = torch.eye(self._n_units, dtype=x.dtype, device=x.device)
        moved = vmap(along)(units).permute(1, 2, 0)
        return self._with_ones(seen, len(x)), moved

    def _with_ones(self, seen: list[Tensor], n_rows: int) -> list[Tensor]:
        """What the layers received, a column of ones for the bias."""
        return [
            torch.cat([h, h.new_ones((n_rows, 1))], dim=1) if layer.has_bias else h
            for layer, h in zip(self._layers, seen, strict=True)
        ]

    def _second_derivatives(
        self, forward: Any, x: Tensor, r: Tensor, dr: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """dL/deps (n, E), d2L/deps2 (n, E, E), and dh_l/deps (n, n_in, E) each."""
        still = x.new_zeros((len(x), self._n_units))

        def pairing(eps: Tensor, r_: Tensor) -> tuple[Tensor, list[Tensor]]:
            with self._moved_by(eps) as seen:
                outputs = forward(x).reshape(len(x), -1)
            return (outputs * r_).sum(), seen

        def both(eps: Tensor, r_: Tensor) -> tuple[Tensor, ...]:
            delta, seen = grad(pairing, has_aux=True)(eps, r_)
            return (delta, *seen)

        def along(unit: Tensor, dr_: Tensor) -> tuple[Tensor, ...]:
            return pushed(both, (still, r), (unit.expand_as(still), dr_))[1]

        units = torch.eye(self._n_units, dtype=x.dtype, device=x.device)
        delta = both(still, r)[0]
        second, *dh = vmap(along)(units, dr)
        return delta, second.permute(1, 2, 0), [t.permute(1, 2, 0) for t in dh]

    @contextlib.contextmanager
    def _moved_by(self, eps: Tensor) -> Iterator[list[Tensor]]:
        """Add epsilon to the pre-activations; collect the layers' inputs."""
        seen: list[Tensor] = []

        def hook(units: slice) -> Any:
            def add(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
                seen.append(inputs[0])
                return out + eps[:, units]

            return add

        handles = [
            self._core.get_submodule(layer.name).register_forward_hook(
                hook(layer.units)
            )
            for layer in self._layers
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()
