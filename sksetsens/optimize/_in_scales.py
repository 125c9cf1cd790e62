"""Descent and Newton's steps along z with ``w = w0 + R z``, where curvature is even."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..linalg import minimise_residual
from ._lbfgs import descended
from ._some_weights import Function
from ._stationarity import STILL_SHRINKING

__all__ = [
    "DenseScales",
    "Scales",
    "descended_in_scales",
    "gain",
    "settled",
    "without_stiff_part",
]

Array = NDArray[np.float64]

# Steps of Newton at the end, products of each, and what they leave of the gradient.
_LAST, _MAX_PRODUCTS, _FORCING = 5, 60, 1e-4
# Steps without products, and what is no rise of the loss, relative to it.
_CHORDS, _ROUNDING = 10, 1e-14


class Scales(Protocol):
    """A matrix R with ``R'H R`` near one."""

    def root(self, z: Array) -> Array:
        """``R z``."""

    def root_adjoint(self, v: Array) -> Array:
        """``R'v``."""


class DenseScales:
    """R as a matrix of shape (p, p)."""

    def __init__(self, R: Array) -> None:
        self._R = R

    def root(self, z: Array) -> Array:
        """``R z``."""
        return np.asarray(self._R @ z)

    def root_adjoint(self, v: Array) -> Array:
        """``R'v``."""
        return np.asarray(v @ self._R)


def gain(value: float, gradient: Array, scales: Scales) -> float:
    """Squared Newton decrement relative to the loss: twice what Newton's step gains.

    Boyd and Vandenberghe, "Convex Optimization" (2004), section 9.5.1, with R R' for
    the inverse of H. ``gradient`` has shape (p,).
    """
    along = scales.root_adjoint(gradient)
    return float(along @ along) / max(abs(value), np.finfo(float).tiny)


def descended_in_scales(
    function: Function, start: Array, scales: Scales, max_iter: int
) -> tuple[Array, int]:
    """Where L-BFGS along z takes the weights; iterations."""

    def scaled(z: Array) -> tuple[float, Array]:
        value, gradient = function.value_and_gradient(start + scales.root(z))
        return value, scales.root_adjoint(gradient)

    z, n_iter = descended(scaled, np.zeros(start.size), max_iter)
    return start + scales.root(z), n_iter


def without_stiff_part(
    function: Function, w: Array, scales: Scales
) -> tuple[Array, Array]:
    """Steps ``-R R' grad`` while they halve the gradient, which is returned too.

    What descent leaves of it lies along stiff directions, where rounding of the loss
    hides it.
    """
    value, gradient = function.value_and_gradient(w)
    for _ in range(_CHORDS):
        there = w - scales.root(scales.root_adjoint(gradient))
        new_value, moved = function.value_and_gradient(there)
        shrank = np.linalg.norm(moved) < STILL_SHRINKING * np.linalg.norm(gradient)
        if not (shrank and new_value <= value + _ROUNDING * abs(value)):
            break
        w, value, gradient = there, new_value, moved
    return w, gradient


def settled(
    function: Function, w: Array, gradient: Array, scales: Scales, enough: float = 0.0
) -> Array:
    """Newton by products with H, which is near one in these scales.

    To rounding, or until ``|R|`` is enough. It ends where a step shrinks the gradient
    no more, or curvature is negative.
    """
    b = -scales.root_adjoint(gradient)
    for _ in range(_LAST):
        norm = float(np.linalg.norm(b))
        if not float(np.linalg.norm(gradient)) > enough:
            return w
        run = minimise_residual(
            b,
            partial(_product, function.products(w), scales),
            target=_FORCING * norm,
            max_steps=_MAX_PRODUCTS,
            null_tol=0.0,
            rcond=0.0,
        )
        if not run.space.ritz()[0].min() > 0.0:
            return w
        candidate = w + scales.root(run.value)
        gradient = function.gradient(candidate)
        moved = -scales.root_adjoint(gradient)
        if not np.linalg.norm(moved) < STILL_SHRINKING * norm:
            return w
        w, b = candidate, moved
    return w


def _product(
    product: Callable[[Array], Array], scales: Scales, z: Array, _: float
) -> Array:
    return scales.root_adjoint(product(scales.root(z)))
