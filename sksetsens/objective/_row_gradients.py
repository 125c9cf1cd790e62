"""Gradients of directions of rows' outputs: a matrix of outer products, not formed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["RowGradients"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class RowGradients:
    """A of shape (k, p): row j is the gradient of ``directions[j] . f(x[rows[j]])``.

    Within a layer it is the outer product of what is propagated back to its units and
    what the layer receives: a product with A costs less than a pass through the net.

    Attributes
    ----------
    inputs : list of Tensor of shape (n_rows, n_in)
        What each layer receives, a column of ones for the bias.
    deltas : list of Tensor of shape (k, n_units)
        What is propagated back to each layer.
    places : list of Tensor of shape (n_units, n_in)
        Of each layer's weights among all.
    rows : Tensor of int of shape (k,)
    n_params : int
    """

    inputs: list[Tensor]
    deltas: list[Tensor]
    places: list[Tensor]
    rows: Tensor
    n_params: int

    def gram(self) -> Tensor:
        """``A A'``."""
        total = self.inputs[0].new_zeros((len(self.rows), len(self.rows)))
        for h, delta in zip(self.inputs, self.deltas, strict=True):
            total += (delta @ delta.T) * (h @ h.T)[self.rows][:, self.rows]
        return total

    def push(self, v: Tensor) -> Tensor:
        """``A v`` for v of shape (p,)."""
        total = v.new_zeros(len(self.rows))
        for h, delta, places in zip(self.inputs, self.deltas, self.places, strict=True):
            along = h @ v[places].T
            total += (delta * along[self.rows]).sum(dim=1)
        return total

    def pull(self, u: Tensor) -> Tensor:
        """``A'u`` for u of shape (k,)."""
        found = u.new_zeros(self.n_params)
        for h, delta, places in zip(self.inputs, self.deltas, self.places, strict=True):
            of_rows = u.new_zeros((len(h), delta.shape[1]))
            of_rows.index_add_(0, self.rows, delta * u[:, None])
            found[places] = of_rows.T @ h
        return found
