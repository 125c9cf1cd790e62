"""Moduli of a linearised solution set, each computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sensitivity import GraphicalDerivative, Linearisation
from ._modulus import Modulus, modulus
from ._parts import (
    PartModuli,
    dataset_modulus,
    feature_moduli,
    group_moduli,
    infinite_moduli,
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
        self._worst: dict[bytes, Modulus | None] = {}

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
            labels = len(np.unique(groups))
            return [
                group_moduli(gd, groups) if ok else infinite_moduli(gd, level, labels)
                for gd, ok in self._judged
            ]
        if level not in self._by_level:
            compute = _LEVELS[level]
            self._by_level[level] = [
                compute(gd) if ok else infinite_moduli(gd, level)
                for gd, ok in self._judged
            ]
        return self._by_level[level]

    def worst(self, rows: NDArray[Any]) -> Modulus | None:
        """The largest modulus over the trustworthy solutions where only some rows move.

        None without such a solution. Sizes come and go, as in a search or a curve; the
        direction stays.
        """
        key = rows.tobytes()
        if key not in self._worst:
            found = [modulus(gd, rows) for gd, ok in self._judged if ok]
            self._worst[key] = max(found, key=lambda m: m.value, default=None)
        return self._worst[key]

    @property
    def _judged(self) -> list[tuple[GraphicalDerivative, bool]]:
        """The derivatives, and whether first order may be trusted there."""
        kept = self._linearisation
        trusted = (diagnosis.is_trustworthy for diagnosis in kept.diagnoses)
        return list(zip(kept.derivatives, trusted, strict=True))
