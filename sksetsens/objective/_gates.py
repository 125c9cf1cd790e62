"""Gates of a net's ramps: read, smoothed, or held at the kinks of a solution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._ramps import Gating

__all__ = ["NO_KINKS", "Held", "Kinks", "Plain", "Recorder", "Smoothed"]

Tensor = torch.Tensor
Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Kinks:
    """Ramps on whose kinks a solution sits, and ramps that stay at 0 with others.

    A ramp is told by the number of its operation in the evaluation of the net (below
    0: in ``get_loss``) and its place in the flattened input of that operation.

    Attributes
    ----------
    calls, places : ndarray of int of shape (n_kinks,)
        Kinks: ramps whose input is 0 and whose gate is solved for.
    gates : ndarray of shape (n_kinks,)
        Their gates, between 0 and 1.
    fixed_calls, fixed_places : ndarray of int of shape (n_fixed,)
        Ramps whose inputs are 0 with those of kinks, or with all weights of a dead
        unit, and whose gate is not solved for.
    fixed_gates : ndarray of shape (n_fixed,)
    leaders : ndarray of int of shape (n_fixed, 2)
        Operation and place of the kink whose input that of a fixed ramp is a multiple
        of, as where a maximum is taken of a unit and its opposite: they share a gate,
        or have opposite ones. A place of -1 stands for none.
    follows : ndarray of bool of shape (n_fixed,)
        Whether the multiple is positive.
    n_dead_units : int
    n_dead_ramps : int
        So many of the fixed ramps, the first ones, belong to dead units.
    """

    calls: Indices
    places: Indices
    gates: Array
    fixed_calls: Indices
    fixed_places: Indices
    fixed_gates: Array
    leaders: Indices
    follows: NDArray[np.bool_]
    n_dead_units: int = 0
    n_dead_ramps: int = 0

    @classmethod
    def at(cls, calls: Indices, places: Indices, gates: Array) -> Kinks:
        """Kinks alone."""
        nothing = np.zeros(0, dtype=np.int64)
        leaders, follows = np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=bool)
        return cls(
            calls, places, gates, nothing, nothing, np.zeros(0), leaders, follows
        )

    @classmethod
    def none(cls) -> Kinks:
        """No kinks and no dead units."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls.at(nothing, nothing, np.zeros(0))

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def holds(self) -> bool:
        """Whether any gate is held."""
        return len(self.calls) + len(self.fixed_calls) > 0

    def with_gates(self, gates: Array) -> Kinks:
        """The same kinks with other gates."""
        fixed_gates, led = self.fixed_gates.copy(), self.led
        of_leader = np.asarray(gates, dtype=np.float64)[led[led >= 0]]
        follows = self.follows[led >= 0]
        fixed_gates[led >= 0] = np.where(follows, of_leader, 1.0 - of_leader)
        return replace(self, gates=np.asarray(gates), fixed_gates=fixed_gates)

    @property
    def led(self) -> Indices:
        """Position of each fixed ramp's leader among the kinks, -1 for none."""
        found = np.full(len(self.leaders), -1, dtype=np.int64)
        (led,) = np.nonzero(self.leaders[:, 1] >= 0)
        if len(led):
            position = {
                (int(c), int(p)): k
                for k, (c, p) in enumerate(zip(self.calls, self.places, strict=True))
            }
            pairs = self.leaders[led].tolist()
            found[led] = [position.get((c, p), -1) for c, p in pairs]
        return found

    def keep(self, kept: NDArray[np.bool_]) -> Kinks:
        """Some of the kinks; ramps that others led are no longer fixed."""
        led = self.led
        held = led < 0
        held[~held] = kept[led[~held]]
        return replace(
            self,
            calls=self.calls[kept],
            places=self.places[kept],
            gates=self.gates[kept],
            fixed_calls=self.fixed_calls[held],
            fixed_places=self.fixed_places[held],
            fixed_gates=self.fixed_gates[held],
            leaders=self.leaders[held],
            follows=self.follows[held],
        )

    def joined_by(self, calls: Indices, places: Indices, gates: Array) -> Kinks:
        """These kinks and others, in the order of operations and places."""
        calls = np.concatenate([self.calls, calls])
        places = np.concatenate([self.places, places])
        gates = np.concatenate([self.gates, gates])
        order = np.lexsort((places, calls))
        return replace(
            self, calls=calls[order], places=places[order], gates=gates[order]
        )

    def fixing(
        self,
        kept: NDArray[np.bool_],
        gates: Array,
        leaders: Indices | None = None,
        follows: NDArray[np.bool_] | None = None,
    ) -> Kinks:
        """Some of the kinks; the others fixed at given gates, or to their leaders."""
        rest, n = ~kept, int((~kept).sum())
        if leaders is None:
            leaders = np.full((n, 2), -1, dtype=np.int64)
        follows = np.ones(n, dtype=bool) if follows is None else follows
        found = replace(
            self.keep(kept),
            fixed_calls=np.concatenate([self.fixed_calls, self.calls[rest]]),
            fixed_places=np.concatenate([self.fixed_places, self.places[rest]]),
            fixed_gates=np.concatenate([self.fixed_gates, gates]),
            leaders=np.concatenate([self.leaders, leaders]),
            follows=np.concatenate([self.follows, follows]),
        )
        return found.with_gates(found.gates)

    def fixing_only(self, kept: NDArray[np.bool_]) -> Kinks:
        """The same kinks with some of the fixed ramps; those of dead units stay."""
        return replace(
            self,
            fixed_calls=self.fixed_calls[kept],
            fixed_places=self.fixed_places[kept],
            fixed_gates=self.fixed_gates[kept],
            leaders=self.leaders[kept],
            follows=self.follows[kept],
        )

    @property
    def fixed(self) -> Kinks:
        """Fixed ramps as kinks."""
        return self._fixed(slice(None))

    def _fixed(self, part: slice) -> Kinks:
        calls, places = self.fixed_calls[part], self.fixed_places[part]
        return Kinks.at(calls, places, self.fixed_gates[part])

    @property
    def twins(self) -> Kinks:
        """Fixed ramps of units that are not dead, as kinks."""
        return self._fixed(slice(self.n_dead_ramps, None))

    @property
    def dead_ramps(self) -> Kinks:
        """Fixed ramps of dead units, as kinks."""
        return self._fixed(slice(self.n_dead_ramps))

    def taken(self, values: dict[int, Array]) -> Array:
        """What arrays by operation hold at the kinks, shape (n_kinks,)."""
        pairs = zip(self.calls, self.places, strict=True)
        return np.array([values[int(c)].flat[p] for c, p in pairs])

    def of_call(self, call: int) -> tuple[Indices, Indices]:
        """Places of one operation's kinks, and of its fixed ramps."""
        fixed = self.fixed_places[self.fixed_calls == call]
        return self.places[self.calls == call], fixed


NO_KINKS = Kinks.none()


class Plain:
    """Ramps as they are: ReLU."""

    def ramp(self, call: int, rows: Any, t: Tensor) -> Tensor:
        """See `Gating`."""
        return torch.relu(t)


class Smoothed:
    r"""Ramps with a rounded kink, :math:`(t + \sqrt{t^2 + \epsilon^2}) / 2`.

    Their gates :math:`(1 + t / \sqrt{t^2 + \epsilon^2}) / 2` lie strictly between 0
    and 1: minimisers of the smoothed objective follow a central path to one on the
    kinks, as of an interior-point method.

    Parameters
    ----------
    eps : float
        Relative to the scale of the operation's inputs.
    scales : dict of int to ndarray
        Of each operation, in a shape that broadcasts to any rows of its inputs.
    """

    def __init__(self, eps: float, scales: dict[int, Array]) -> None:
        self.eps, self._scales = eps, scales
        self._widths: dict[int, Tensor] = {}

    def _width(self, call: int, t: Tensor) -> Tensor:
        """Epsilon in the units of an operation's inputs."""
        if call not in self._widths:
            width = self.eps * np.asarray(self._scales.get(call, 1.0))
            self._widths[call] = torch.as_tensor(width, dtype=t.dtype, device=t.device)
        return self._widths[call]

    def ramp(self, call: int, rows: Any, t: Tensor) -> Tensor:
        """See `Gating`."""
        eps = self._width(call, t)
        root = torch.sqrt(t * t + eps * eps)
        # Below 0 the sum cancels; above, the difference would be 0.
        below = 0.5 * eps * eps / (root - t.clamp(max=0.0))
        return torch.where(t > 0, 0.5 * (t + root), below)


class Held:
    """Ramps with some gates held at given values; the others follow their sign.

    Parameters
    ----------
    gates : dict of int to (Tensor of bool, Tensor)
        Which gates of an operation are held, flattened over all rows, and at what.
    n_samples : int
    """

    def __init__(self, gates: dict[int, tuple[Tensor, Tensor]], n_samples: int) -> None:
        self._gates, self._n_samples = gates, n_samples

    def ramp(self, call: int, rows: Any, t: Tensor) -> Tensor:
        """See `Gating`."""
        if call not in self._gates:
            return torch.relu(t)
        held, values = (self._of_rows(g, rows, t) for g in self._gates[call])
        return torch.where(held, values * t, torch.relu(t))

    def _of_rows(self, flat: Tensor, rows: Any, t: Tensor) -> Tensor:
        if flat.numel() == t.numel():
            return flat.reshape(t.shape)
        return flat.reshape(self._n_samples, -1)[rows].reshape(t.shape)


class Recorder:
    """Another gating, with the inputs of all ramps noted.

    Parameters
    ----------
    gating : Gating
    moved : bool, default=False
        Whether zeros that require gradients are added to the ramps: the derivatives
        along them are the ramps' forces.
    """

    def __init__(self, gating: Gating, *, moved: bool = False) -> None:
        self._gating, self._moved = gating, moved
        self.inputs: dict[int, Tensor] = {}
        self.offsets: dict[int, Tensor] = {}

    def ramp(self, call: int, rows: Any, t: Tensor) -> Tensor:
        """See `Gating`."""
        self.inputs[call] = t
        value = self._gating.ramp(call, rows, t)
        if not self._moved:
            return value
        offset = torch.zeros_like(t, requires_grad=True)
        self.offsets[call] = offset
        return value + offset
