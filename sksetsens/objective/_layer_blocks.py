"""Hessian of linear layers as sums over rows of outer products, by pairs of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["Layer", "LayerBlocks"]

Tensor = torch.Tensor

# Floats of a block that are spread out at once: 16 MB in float64.
_SPREAD = 2**21


@dataclass(frozen=True)
class Layer:
    """One linear layer: its name, and where its weights and its units are."""

    name: str  # of its module, which belongs to the core alone
    n_in: int
    has_bias: bool
    places: Tensor  # (n_units, n_in [+ 1]) in the flat weights, the bias last
    units: slice  # in epsilon

    @property
    def parts(self) -> list[tuple[slice, int]]:
        """Columns of `places` that lie side by side in the flat weights, and where."""
        columns = [slice(0, self.n_in)]
        if self.has_bias:
            columns.append(slice(self.n_in, self.n_in + 1))
        return [(part, int(self.places[0, part.start])) for part in columns]


class _Block(Protocol):
    def of_units(self, units: slice) -> Tensor:
        """Rows of some units, shape (n_units, n_in, n_other_units, n_other_in)."""


class LayerBlocks:
    """The sums, and the matrix that they make.

    Parameters
    ----------
    layers : sequence of Layer
    n_params : int
    like : Tensor
        Of the dtype and on the device of the sums.
    """

    def __init__(self, layers: Sequence[Layer], n_params: int, like: Tensor) -> None:
        self._layers, self._n_params, self._like = layers, n_params, like
        self._own = [_Own.of(layer, like) for layer in layers]
        self._beside = {
            (i, j): _Beside.of(layer, other, like)
            for i, layer in enumerate(layers)
            for j, other in enumerate(layers[:i])
        }

    def add(
        self, inputs: list[Tensor], delta: Tensor, second: Tensor, dh: list[Tensor]
    ) -> None:
        """Add some rows, given what each layer receives, and derivatives in epsilon.

        Parameters
        ----------
        inputs : list of Tensor of shape (n_rows, n_in [+ 1])
        delta : Tensor of shape (n_rows, E)
            Of the loss.
        second : Tensor of shape (n_rows, E, E)
            Second ones of the loss.
        dh : list of Tensor of shape (n_rows, n_in, E)
            Of what the layers receive.
        """
        for i, layer in enumerate(self._layers):
            self._own[i].add(second[:, layer.units, layer.units], inputs[i])
            for j, other in enumerate(self._layers[:i]):
                block = self._beside[i, j]
                block.add(second[:, layer.units, other.units], inputs[i], inputs[j])
                block.add_through(
                    delta[:, layer.units], dh[i][:, :, other.units], inputs[j]
                )

    def matrix(self) -> Tensor:
        """The symmetric matrix of shape (n_params, n_params)."""
        full = self._like.new_empty((self._n_params, self._n_params))
        for layer, own in zip(self._layers, self._own, strict=True):
            _spread(own, layer, layer, full)
        for (i, j), block in self._beside.items():
            _spread(block, self._layers[i], self._layers[j], full)
        return full


@dataclass(frozen=True)
class _Own:
    """``sum_r second[r,a,c] h[r,b] h[r,d]`` over pairs a >= c and b >= d."""

    total: Tensor
    units: Tensor
    inputs: Tensor
    place_of_units: Tensor
    place_of_inputs: Tensor

    @classmethod
    def of(cls, layer: Layer, like: Tensor) -> _Own:
        units, place_of_units = _pairs(layer.places.shape[0], like.device)
        inputs, place_of_inputs = _pairs(layer.places.shape[1], like.device)
        total = like.new_zeros((units.shape[1], inputs.shape[1]))
        return cls(total, units, inputs, place_of_units, place_of_inputs)

    def add(self, second: Tensor, h: Tensor) -> None:
        left = second[:, self.units[0], self.units[1]]
        right = h[:, self.inputs[0]] * h[:, self.inputs[1]]
        self.total.addmm_(left.T, right)

    def of_units(self, units: slice) -> Tensor:
        places = self.place_of_units[units]
        found = self.total[places][:, :, self.place_of_inputs]  # (a, c, b, d)
        return found.permute(0, 2, 1, 3)


@dataclass(frozen=True)
class _Beside:
    """The same of a layer and an earlier one, and what the first receives from it.

    That is ``sum_r delta[r,a] dh[r,b,c] k[r,d]``.
    """

    total: Tensor  # (a, c, b, d)
    through: Tensor  # (a, d, b, c), b short of the bias

    @classmethod
    def of(cls, layer: Layer, other: Layer, like: Tensor) -> _Beside:
        (A, B), (C, D) = layer.places.shape, other.places.shape
        return cls(like.new_zeros((A, C, B, D)), like.new_zeros((A, D, layer.n_in, C)))

    def add(self, second: Tensor, h: Tensor, k: Tensor) -> None:
        A, C, B, D = self.total.shape
        self.total.view(A * C, B * D).addmm_(second.flatten(1).T, _products(h, k))

    def add_through(self, delta: Tensor, dh: Tensor, k: Tensor) -> None:
        A, D, B, C = self.through.shape
        self.through.view(A * D, B * C).addmm_(_products(delta, k).T, dh.flatten(1))

    def of_units(self, units: slice) -> Tensor:
        found = self.total[units].permute(0, 2, 1, 3).contiguous()
        found[:, : self.through.shape[2]] += self.through[units].permute(0, 2, 3, 1)
        return found


def _spread(block: _Block, layer: Layer, other: Layer, full: Tensor) -> None:
    """Write a block where its weights are, and its transpose."""
    n_units, n_others = layer.places.shape[0], other.places.shape[0]
    per_unit = layer.places.shape[1] * other.places.numel()
    step = max(1, _SPREAD // max(1, per_unit))
    for start in range(0, n_units, step):
        units = slice(start, min(start + step, n_units))
        found = block.of_units(units)
        for columns, first in layer.parts:
            width = columns.stop - columns.start
            rows = slice(first + units.start * width, first + units.stop * width)
            for other_columns, other_first in other.parts:
                wide = other_columns.stop - other_columns.start
                others = slice(other_first, other_first + n_others * wide)
                part = found[:, columns, :, other_columns].reshape(
                    rows.stop - rows.start, others.stop - others.start
                )
                full[rows, others] = part
                if layer is not other:
                    full[others, rows] = part.T


def _products(h: Tensor, k: Tensor) -> Tensor:
    """``h[i,b] k[i,d]`` as (i, (b, d))."""
    return (h[:, :, None] * k[:, None, :]).flatten(1)


def _pairs(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices (2, n_pairs) of pairs a >= c; the place of each (a, c), (n, n)."""
    pairs = torch.tril_indices(n, n, device=device)
    places = torch.empty((n, n), dtype=torch.int64, device=device)
    places[pairs[0], pairs[1]] = torch.arange(pairs.shape[1], device=device)
    places[pairs[1], pairs[0]] = places[pairs[0], pairs[1]]
    return pairs, places
