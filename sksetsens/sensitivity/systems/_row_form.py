"""What the dual forms share: one equation per output, right-hand sides in row space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from ...linalg import Solution
from ...objective import Movement, Objective
from ._point import ZeroOfR, matrix_shape, operator

__all__ = ["RowForm"]

Array = NDArray[np.float64]


class RowForm(ZeroOfR, ABC):
    """``A v = -rho`` with ``A = S J`` and ``rho = S D dx``, for S of each form.

    ``A'`` sends the rows' rho to ``B dx``, and so B lies in the range of H.
    """

    _objective: Objective
    _w: Array
    factor: Any

    @abstractmethod
    def _moved(self, dX: Any) -> Array:
        """``S D dx`` per row, shape (n_samples, k, 1)."""

    @abstractmethod
    def _to_input(self, rho: Array) -> Array:
        """``D' S' rho``, flat."""

    @abstractmethod
    def _whitened(self, r: Array) -> Array:
        """rho per row, (n_samples, k, 1), that stands for a gradient r in outputs."""

    @abstractmethod
    def _unwhitened(self, rho: Array) -> Array:
        """The adjoint of `_whitened`, shape (n_samples, n_outputs)."""

    def _rho(self, movement: Movement) -> Array:
        o, w = self._objective, self._w
        rho = self._moved(movement.dX)
        if movement.dy is not None:
            rho = rho + self._whitened(o.output_target_product(w, movement.dy))
        if movement.ds is not None:
            rho = rho + self._whitened(o.output_weight_product(w, movement.ds))
        return rho.ravel()

    def solve(self, movement: Movement) -> Solution:
        return self.factor.solve_factored(self._rho(movement))

    def column_range_residuals(self) -> Array:
        return np.zeros(matrix_shape(self._objective))

    target_range_residual = 0.0

    def _moved_often(self, dX: Any) -> Array:
        """The same as `_moved`, where many more are to come."""
        return self._moved(dX)

    def _from_input(self, left: Any, left_adjoint: Any) -> LinearOperator:
        shape = (self._objective.n_params, int(np.prod(self._objective.input_shape)))
        return operator(
            shape,
            lambda dx: left(self._moved_often(dx).ravel()),
            lambda v: self._to_input(left_adjoint(v)),
        )

    @property
    def solution_operator(self) -> LinearOperator:
        factor = self.factor
        return self._from_input(factor.apply_factored, factor.apply_factored_adjoint)

    @property
    def target_operator(self) -> LinearOperator:
        o, w, factor = self._objective, self._w, self.factor

        def forward(dy: Array) -> Array:
            r = o.output_target_product(w, dy)
            return factor.apply_factored(self._whitened(r).ravel())

        def adjoint(v: Array) -> Array:
            r = self._unwhitened(factor.apply_factored_adjoint(v))
            return o.target_output_product(w, r).ravel()

        return operator((o.n_params, int(np.prod(o.target_shape))), forward, adjoint)
