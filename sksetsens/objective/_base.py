"""A skorch net and its data as tensors, and the objective's value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from .._compat import predict_nonlinearity, skeleton_net
from ..exceptions import UnsupportedObjectiveError
from ._layerwise import linear_layers
from ._movement import Movement
from ._net_weights import NetWeights, Weights, as_tensor
from ._operators import PLAIN, Operators, OperatorsSeen
from ._ramps import Gating

Array = NDArray[np.float64]
Tensor = torch.Tensor

# Shares of the working memory. All rows pass through the module at once where one copy
# of their activations stays below the first (about 30 000 rows of a net of 1000 units
# in 1024 MiB), otherwise as many as do: batches cost one more forward pass.
_PASS_SHARE = 1 / 4
# Blocks of tangents: forward-over-reverse keeps about three copies of every activation
# per tangent. Larger blocks gain nothing, the cache is left behind.
_TANGENT_SHARE = 1 / 16
COPIES_PER_TANGENT = 3
# A recorded gradient keeps between 1.3 (tanh) and 3.6 copies of every activation.
_COPIES_PER_GRAPH = 4
# What the loss may differ by where operators are replaced, in double and from single.
_SAME_VALUE = {"decomposes": 1e-9, "keeps_double": 1e-4}


class ObjectiveBase(NetWeights):
    """Weights, data and penalty of an objective, and its value at flat weights."""

    def __init__(
        self,
        net: Any,
        X: NDArray[Any],
        y: NDArray[Any],
        *,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float64,
        working_memory: float | None = None,
        operators: Operators | None = None,
    ) -> None:
        super().__init__(net, X, dtype=dtype, operators=operators or PLAIN)
        self._tilt: Tensor | None = None
        # Of the targets, and the row of each target where some rows have several.
        self._sample_weight: Tensor | None = None
        self._target_rows: Tensor | None = None
        self._gating: Gating | None = None
        # What the outputs belong to that were evaluated last, their weights, they.
        self._kept_outputs: tuple[Any, Any, Any] = ((), None, None)
        # What the last gradient belongs to, its weights, the value and itself.
        self._kept_gradient: tuple[Any, Any, float, Any] = ((), None, 0.0, None)
        self.batch_size = batch_size
        self._set_data(X, y)
        self._count_outputs()
        self._measure()
        self.working_memory = working_memory
        if operators is None:
            self.note_operators()

    def _measure(self) -> None:
        """Whether it attends, which layers hold the weights, what a row costs."""
        self._core.note_attention(self._x[:2])
        self._layers = linear_layers(self._core, self._x[:2])
        self._activations = self._activations_per_row()

    # Variants of the same objective ------------------------------------------

    def with_trainable(self, names: tuple[str, ...]) -> Self:
        """The same objective as a function of the named parameters.

        Parameters
        ----------
        names : tuple of str
            Parameters of the module that are weights; the others are constants.

        Raises
        ------
        UnsupportedObjectiveError
            If none is named, or one that the optimiser does not hold.
        """
        if set(names) == set(self.trainable):
            return self
        if not names or not self._decays.keys() >= set(names):
            raise UnsupportedObjectiveError(
                "The parameters that the net trains in the end must be some that its "
                f"optimizer holds. Got {list(names)} instead: see which of them a "
                "callback freezes or unfreezes."
            )
        other = copy.copy(self)
        net, module = self._core.net, self.module
        for name, p in module.named_parameters():
            p.requires_grad_(name in names)
        other._core = self._core.around(skeleton_net(net, module, net.criterion_))
        other._tilt = None  # It belongs to other weights.
        other._split_parameters()
        other._kept_outputs = ((), None, None)
        other._kept_gradient = ((), None, 0.0, None)
        other._measure()
        return other

    def _set_data(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        self._x = self._tensor(X)
        targets = as_tensor(y)
        dtype = self._dtype if targets.is_floating_point() else targets.dtype
        self._y = targets.to(self._device, dtype, copy=True)
        self.n_samples = self._x.shape[0]

    def with_data(self, X: NDArray[Any], y: NDArray[Any] | None = None) -> Self:
        """The same net, penalty, tilt and weights of the rows on other data.

        Weights belong to as many rows as there are: on other numbers they are gone, and
        where further labels were given by `with_labels`, on other targets.
        """
        other = copy.copy(self)
        other._set_data(X, self._y.cpu().numpy() if y is None else y)
        relabelled = y is not None and self._target_rows is not None
        if relabelled or len(other._y) != len(self._y):
            other._sample_weight = other._target_rows = None
        if other._x.shape[1:] != self._x.shape[1:]:
            other._count_outputs()
        return other

    def weighted(self, sample_weight: Array | None) -> Self:
        """The same objective with weights of the rows.

        Parameters
        ----------
        sample_weight : ndarray of shape (n_targets,) or None
            One for each row, or for each label where rows have several. None for equal
            ones.
        """
        other = copy.copy(self)
        other._sample_weight = None
        if sample_weight is not None:
            other._sample_weight = self._tensor(sample_weight)
        return other

    def with_labels(self, rows: NDArray[np.int64], labels: NDArray[Any]) -> Self:
        """The same objective with further labels of some rows, of weight 0.

        `weighted` moves weight from one label of a row to another: the way between
        two labels, along which there is a derivative.

        Parameters
        ----------
        rows : ndarray of int of shape (k,)
        labels : ndarray of shape (k, ...)
            As the criterion sees them.
        """
        other = copy.copy(self)
        n = len(self._y)
        own = torch.arange(n) if self._target_rows is None else self._target_rows
        more = torch.as_tensor(rows, device=self._device)
        other._target_rows = torch.cat([own.to(self._device), more])
        added = as_tensor(labels).to(self._device, self._y.dtype)
        other._y = torch.cat([self._y, added])
        return other.weighted(np.concatenate([self.sample_weight, np.zeros(len(rows))]))

    @property
    def sample_weight(self) -> Array:
        """Weights of the targets, shape (n_targets,); ones where they are equal."""
        if self._sample_weight is None:
            return np.ones(len(self._y))
        return self._numpy(self._sample_weight)

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights."""
        return self._sample_weight is not None

    def moved(self, movement: Movement, t: float = 1.0) -> Self:
        """The same objective where the data has moved by a share of a movement."""
        y = None if movement.dy is None else self.targets + t * movement.dy
        other = self.with_data(self.inputs + t * movement.dX, y)
        if movement.ds is None:
            return other
        return other.weighted(self.sample_weight + t * movement.ds)

    def _count_outputs(self) -> None:
        one_row = self._forward(self._tensor(self.weights), self._x[:1])
        self.n_outputs = one_row.numel()

    def tilted(self, tilt: Array) -> Self:
        """The objective minus ``<tilt, w>``: stationary where the gradient is tilt.

        Early-stopped weights are stationary for the objective tilted by their own
        gradient, with the same H and B (compare the proximal Bregman objective of
        Bae et al., 2022, arXiv 2209.05364).
        """
        other = copy.copy(self)
        other._tilt = self._tensor(tilt)
        return other

    def untilted(self) -> Self:
        """The objective without its linear term."""
        other = copy.copy(self)
        other._tilt = None
        return other

    @property
    def is_tilted(self) -> bool:
        """Whether a linear term was subtracted."""
        return self._tilt is not None

    @property
    def inputs(self) -> Array:
        """Copy of the data X, shape (n_samples, ...)."""
        return self._numpy(self._x).copy()

    @property
    def targets(self) -> NDArray[Any]:
        """Copy of the targets y as the criterion sees them."""
        return self._y.cpu().numpy().copy()

    @property
    def n_equations(self) -> int:
        """Number of outputs over all rows, n*c; rows of weight 0 do not count."""
        n_rows = self.n_samples
        if self._sample_weight is not None:
            n_rows = len(np.unique(self._rows_of_targets[self.sample_weight > 0.0]))
        return n_rows * self.n_outputs

    @property
    def _rows_of_targets(self) -> NDArray[np.int64]:
        if self._target_rows is None:
            return np.arange(self.n_samples)
        return self._target_rows.cpu().numpy()

    def note_operators(self) -> None:
        """Look for operators that stand in the way, to be replaced.

        Where what replaces them gives the same value at the weights: to rounding, which
        is that of float32 where the code names it.
        """
        w, core = self._tensor(self.weights), self._core
        with OperatorsSeen() as seen:
            value = self._loss_there(self._evaluated(w), w)
        for name, rtol in _SAME_VALUE.items():
            before = core.operators
            if getattr(before, name) or not getattr(seen.operators, name):
                continue
            core.operators = replace(before, **{name: True})
            other = self._loss_there(self._evaluated(w), w)
            if not np.isclose(value, other, rtol=rtol, atol=1e-12):
                core.operators = before

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the data, (n_samples, ...)."""
        return tuple(self._x.shape)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of the targets as the criterion sees them."""
        return tuple(self._y.shape)

    @property
    def has_real_targets(self) -> bool:
        """Whether targets are real numbers, along which derivatives exist."""
        return bool(self._y.is_floating_point())

    # Building blocks on tensors ------------------------------------------------

    def _call(self, w: Weights, *args: Any, rows: Any = None, s: Any = None) -> Tensor:
        constants = self._constants
        dtype = w.dtype if isinstance(w, Tensor) else w[0].dtype
        if dtype != self._dtype:
            constants = {
                name: t.to(dtype) if t.is_floating_point() else t
                for name, t in constants.items()
            }
        values = {**self._unflatten(w), **constants}
        with self._core.turn:
            return self._core.called_with(
                values, *args, gating=self._gating, rows=rows, sample_weight=s
            )

    def _forward(self, w: Weights, x: Tensor, rows: Any = None) -> Tensor:
        """Outputs of x, which holds those rows of the data; None for all."""
        return self._call(w, "outputs", x, rows=rows)

    def _loss(
        self, outputs: Tensor, w: Tensor, x: Tensor, y: Tensor, s: Tensor | None = None
    ) -> Tensor:
        return self._data_term(outputs, w, x, y, s) + 0.5 * (self.decay * w * w).sum()

    def _data_term(
        self, outputs: Tensor, w: Weights, x: Tensor, y: Tensor, s: Tensor | None = None
    ) -> Tensor:
        """The loss short of the optimizer's weight decay."""
        s = self._sample_weight if s is None else s
        if self._target_rows is not None:
            outputs, x = outputs[self._target_rows], x[self._target_rows]
        return self._call(w, "loss", outputs, x, y, s=s)

    def _outer(
        self, outputs: Tensor, w: Tensor, x: Tensor, y: Tensor, s: Tensor | None = None
    ) -> Tensor:
        loss = self._loss(outputs, w, x, y, s)
        return loss if self._tilt is None else loss - self._tilt @ w

    def _total(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self._outer(self._forward(w, x), w, x, y)

    def _batches(self) -> Iterator[slice]:
        for start in range(0, self.n_samples, self._batch_rows):
            yield slice(start, start + self._batch_rows)

    @property
    def _batch_rows(self) -> int:
        """Rows per pass through the module."""
        automatic = self.budget(_PASS_SHARE) // self._bytes_per_row
        return min(self.batch_size or max(1, automatic), self.n_samples)

    @property
    def _bytes_per_row(self) -> int:
        """One copy of a row's activations."""
        return self._dtype.itemsize * self._activations

    def budget(self, share: float = 1.0) -> int:
        """Bytes that a share of the working memory allows."""
        mebibytes = self.working_memory
        if mebibytes is None:
            mebibytes = sklearn.get_config()["working_memory"]
        return int(share * mebibytes * 2**20)

    def check_working_memory(self) -> None:
        """Refuse a working memory in which not even one row fits.

        Raises
        ------
        ValueError
            With the least that would do.
        """
        if self.budget(_PASS_SHARE) >= self._bytes_per_row:
            return
        least = self._bytes_per_row / (_PASS_SHARE * 2**20)
        given = self.budget() / 2**20
        raise ValueError(
            "The 'working_memory' parameter of SolutionSetEstimator (None: scikit-"
            f"learn's setting) must be at least {least:.3g} MiB, so that one row of "
            f"this net fits. Got {given:.3g} MiB instead."
        )

    def _fits_recorded(self, itemsize: int) -> bool:
        """Whether a recorded gradient of all rows fits the working memory."""
        floats = _COPIES_PER_GRAPH * self.n_samples * self._activations
        floats += 3 * self.n_params
        return self.batch_size is None and itemsize * floats <= self.budget()

    def _tangent_rows(self, floats_per_tangent: int) -> int:
        """Tangents to push forward at once."""
        bytes_per_tangent = 8 * COPIES_PER_TANGENT * max(1, floats_per_tangent)
        return max(1, self.budget(_TANGENT_SHARE) // bytes_per_tangent)

    @property
    def _one_batch(self) -> bool:
        return self._batch_rows >= self.n_samples

    def _outputs(self, w: Tensor) -> Tensor:
        """Outputs of all rows, kept for questions about the same weights."""
        owners, at, outputs = self._kept_outputs
        asked = self._x, self._constants, self._gating
        same = all(one is other for one, other in zip(owners, asked, strict=False))
        if owners and same and torch.equal(at, w):
            return outputs
        outputs = self._evaluated(w)
        self._kept_outputs = asked, w.detach().clone(), outputs
        return outputs

    def _evaluated(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [self._forward(w, self._x[b], b) for b in self._batches()]
            return torch.cat(parts)

    def _on_rows(self, X: NDArray[Any]) -> Self:
        other = copy.copy(self)
        other._gating = None  # It belongs to the data.
        other._x = self._tensor(X)
        other.n_samples = other._x.shape[0]
        return other

    def _activations_per_row(self) -> int:
        """Floats that autograd keeps for one row: two rows' count less one row's."""
        w = self._tensor(self.weights).requires_grad_()
        counts = []
        for n_rows in (1, 2):
            kept: list[int] = []

            def pack(tensor: Tensor, kept: list[int] = kept) -> Tensor:
                kept.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                self._forward(w, self._x[:1].expand(n_rows, *self._x.shape[1:]))
            counts.append(sum(kept))
        return max(1, counts[1] - counts[0])

    def _kept(self, weights: Array) -> tuple[float, Array] | None:
        """Value and gradient where the last ones answer the same question."""
        # Read once: other threads may ask this objective too.
        owners, at, value, gradient = self._kept_gradient
        same = len(owners) and all(
            one is other for one, other in zip(owners, self._owners, strict=True)
        )
        return (value, gradient) if same and np.array_equal(at, weights) else None

    @property
    def _owners(self) -> tuple[Any, ...]:
        return (
            self._x,
            self._y,
            self._constants,
            self.decay,
            self._tilt,
            self._gating,
            self._sample_weight,
            self._target_rows,
        )

    # Values ----------------------------------------------------------------------

    def outputs(self, weights: Array, X: NDArray[Any] | None = None) -> Array:
        """Module outputs f(X, w) of shape (n_samples, ...), on the data or on X."""
        objective = self if X is None else self._on_rows(X)
        return self._numpy(objective._outputs(self._tensor(weights)))

    def predictions(self, weights: Array, X: NDArray[Any]) -> Array:
        """Outputs on X after skorch's ``predict_nonlinearity`` (probabilities)."""
        outputs = self._on_rows(X)._outputs(self._tensor(weights))
        return self._numpy(predict_nonlinearity(self._core.net)(outputs))

    def loss_shape(self, weights: Array) -> tuple[int, ...]:
        """Shape of what the criterion returns; () for a number."""
        w = self._tensor(weights)
        return tuple(self._loss(self._outputs(w), w, self._x, self._y).shape)

    def loss(self, weights: Array) -> float:
        """Objective value, penalty included and tilt left out."""
        kept = None if self.is_tilted else self._kept(weights)
        if kept is not None:
            return kept[0]
        w = self._tensor(weights)
        return self._loss_there(self._outputs(w), w)

    def loss_at_outputs(self, outputs: Array, weights: Array) -> float:
        """Objective value at given outputs, with the penalty of the weights."""
        return self._loss_there(self._tensor(outputs), self._tensor(weights))

    def _loss_there(self, outputs: Tensor, w: Tensor) -> float:
        # A get_loss may skip frozen weights by their requires_grad, as skorch sees it.
        w = w.detach().requires_grad_()
        return float(self._loss(outputs, w, self._x, self._y).detach())
