"""Moduli of a linearised solution set, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ..sensitivity import GraphicalDerivative, Linearisation
from ._modulus import Modulus, modulus
from ._parts import (
    PartModuli,
    dataset_modulus,
    feature_moduli,
    group_moduli,
    layer_moduli,
    sample_moduli,
    target_modulus,
)

__all__ = ["KeptModuli"]

_LEVELS = {
    "dataset": dataset_modulus,
    "sample": sample_moduli,
    "feature": feature_moduli,
    "layer": layer_moduli,
    "target": target_modulus,
}


class KeptModuli:
    """The moduli at the solutions of one fit, kept as they are asked for.

    Parameters
    ----------
    linearisation : Linearisation
    """

    def __init__(self, linearisation: Linearisation) -> None:
        self._linearisation = linearisation
        self._by_level: dict[str, list[PartModuli]] = {}
        self._worst: dict[bytes, Modulus] = {}

    def by_part(
        self, level: str, groups: NDArray[Any] | None = None
    ) -> list[PartModuli]:
        """Moduli by part at each solution; inf where the solution is not trustworthy.

        Parameters
        ----------
        level : {"dataset", "sample", "feature", "layer", "target"}
        groups : ndarray of shape (n_samples,), default=None
            Labels of groups of rows, which are then the parts. These are not kept.
        """
        if groups is not None:
            return self._certified(lambda gd: group_moduli(gd, groups))
        if level not in self._by_level:
            self._by_level[level] = self._certified(_LEVELS[level])
        return self._by_level[level]

    def worst(self, rows: NDArray[Any]) -> Modulus:
        """The largest modulus over the solutions where only some rows move.

        Sizes come and go, as in a search or a curve; the direction stays.
        """
        key = rows.tobytes()
        if key not in self._worst:
            found = [modulus(gd, rows) for gd in self._linearisation.derivatives]
            self._worst[key] = max(found, key=lambda m: m.value)
        return self._worst[key]

    def _certified(
        self, function: Callable[[GraphicalDerivative], PartModuli]
    ) -> list[PartModuli]:
        pairs = zip(
            self._linearisation.derivatives, self._linearisation.diagnoses, strict=True
        )
        return [
            parts if diagnosis.is_trustworthy else parts.uncertified()
            for parts, diagnosis in ((function(gd), d) for gd, d in pairs)
        ]
