"""Dense Hessian of any net from one recorded gradient, parameter by parameter.

The gradient's graph is recorded once, in the parameters one by one. A row of H belongs
to one weight; the entries that its mirror images give are not computed, and the
backward pass stops where those that are left do: at the parameter of that weight. The
weights of a net's last layer, often most of all, then cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ._memory import is_out_of_memory

__all__ = ["recorded_hessian"]

Tensor = torch.Tensor

# Rows of H per backward pass: more of them gain nothing, and take memory.
_BLOCK = 32


def recorded_hessian(
    gradient: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
    pieces: tuple[Tensor, ...],
    block: int,
) -> Tensor | None:
    """Hessian of a function of the weights, shape (p, p).

    Parameters
    ----------
    gradient : callable
        By parameter, recorded.
    pieces : tuple of Tensor
        Weights of each parameter, flat.
    block : int
        Rows of H whose backward passes fit in memory together.

    Returns
    -------
    H : Tensor or None
        None where an operator cannot be differentiated backwards twice.
    """
    pieces = tuple(piece.detach().clone().requires_grad_() for piece in pieces)
    try:
        return _assembled(gradient(pieces), pieces, min(block, _BLOCK))
    except (NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return None


def _assembled(
    gradient: tuple[Tensor, ...], pieces: tuple[Tensor, ...], block: int
) -> Tensor:
    """The upper block triangle row by row, and its mirror image."""
    sizes = [piece.numel() for piece in pieces]
    p, first = sum(sizes), 0
    H = pieces[0].new_zeros((p, p))
    for k, (R, size) in enumerate(zip(gradient, sizes, strict=True)):
        if R.requires_grad:
            units = torch.eye(size, dtype=R.dtype, device=R.device)
            for start in range(0, size, block):
                rows = units[start : start + block]
                found = _rows(R, pieces[k:], rows)
                H[first + start : first + start + len(rows), first:] = found
        first += size
    first = 0
    for size in sizes:
        last = first + size
        own = H[first:last, first:last]
        H[first:last, first:last] = 0.5 * (own + own.T)
        H[last:, first:last] = H[first:last, last:].T
        first = last
    return H


def _rows(R: Tensor, pieces: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    def derivative(along: Tensor, batched: bool) -> Tensor:
        found = torch.autograd.grad(
            R,
            pieces,
            along,
            retain_graph=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )
        return torch.cat(found, dim=-1)

    try:
        return derivative(rows, batched=True)
    except RuntimeError:
        # One by one where an operator's derivative has no batching rule.
        return torch.stack([derivative(row, batched=False) for row in rows])
