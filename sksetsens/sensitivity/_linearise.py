"""From stationary weights to a solution set with its evidence."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .._validation import user_stacklevel
from ..exceptions import IllPosedWarning, StationarityWarning
from ..objective import Objective
from ..optimize import Polished
from ..sets import SolutionSet
from ._diagnosis import Diagnosis, diagnose
from ._graphical_derivative import GraphicalDerivative
from .systems import Solver

__all__ = [
    "Linearisation",
    "collect",
    "kink_evidence",
    "linearise",
    "spectral_evidence",
    "warn_of",
]


@dataclass(frozen=True)
class Linearisation:
    """A solution set together with what was factorised at each solution."""

    solution_set: SolutionSet
    derivatives: list[GraphicalDerivative]
    diagnoses: list[Diagnosis]


def linearise(
    objectives: Sequence[Objective],
    polished: Sequence[Polished],
    solver: Solver,
    *,
    note: str = "",
) -> Linearisation:
    """Factorise H at every solution and examine it.

    Parameters
    ----------
    objectives : sequence of Objective
        One per solution, with its buffers and tilt.

    polished : sequence of Polished
        The solutions.

    solver : Solver

    note : str, default=""
        Added to the status of each solution.

    Returns
    -------
    linearisation : Linearisation
    """
    derivatives = [
        GraphicalDerivative(
            objective,
            point.weights,
            stationarity=point.stationarity,
            solver=solver,
        )
        for objective, point in zip(objectives, polished, strict=True)
    ]
    diagnoses = [
        diagnose(gd, is_stationary=point.converged, polish_status=point.status)
        for gd, point in zip(derivatives, polished, strict=True)
    ]
    if note:
        diagnoses = [replace(d, status=d.status + note) for d in diagnoses]
    return collect(derivatives, polished, diagnoses)


def collect(
    derivatives: Sequence[GraphicalDerivative],
    polished: Sequence[Polished],
    diagnoses: Sequence[Diagnosis],
) -> Linearisation:
    """Solutions that are factorised and examined already, as a set.

    Parameters
    ----------
    derivatives : sequence of GraphicalDerivative
    polished : sequence of Polished
    diagnoses : sequence of Diagnosis

    Returns
    -------
    linearisation : Linearisation
    """
    evidence = {
        "losses": np.array([point.loss for point in polished]),
        "gradient_norms": np.array([point.gradient_norm for point in polished]),
        "stationarity": np.array([point.stationarity for point in polished]),
        "converged": np.array([point.converged for point in polished]),
        "trustworthy": np.array([d.is_trustworthy for d in diagnoses]),
        "status": np.array([d.status for d in diagnoses]),
        **kink_evidence(derivatives),
        **spectral_evidence(derivatives),
    }
    weights = np.stack([point.weights for point in polished])
    kernels = [gd.kernel for gd in derivatives]
    objectives = [gd.objective for gd in derivatives]
    solutions = SolutionSet(weights, evidence, kernels, objectives)
    return Linearisation(solutions, list(derivatives), list(diagnoses))


def kink_evidence(derivatives: Sequence[GraphicalDerivative]) -> dict:
    """Kinks and dead units of each solution."""
    kinks = [gd.kinks for gd in derivatives]
    return {
        "n_kinks": np.array([len(k) for k in kinks]),
        "n_dead_units": np.array([k.n_dead_units for k in kinks]),
    }


def spectral_evidence(derivatives: Sequence[GraphicalDerivative]) -> dict:
    """Rank, kernel dimension, gap and inertia of each factorisation."""
    factors = [gd.factor for gd in derivatives]
    return {
        "ranks": np.array([f.rank for f in factors]),
        "kernel_dims": np.array([f.kernel_dim for f in factors]),
        "ranks_are_exact": np.array([f.is_rank_exact for f in factors]),
        "gaps": np.array([f.gap for f in factors]),
        "inertias": np.array([f.inertia for f in factors]),
    }


def warn_of(diagnoses: Sequence[Diagnosis]) -> None:
    """One warning per kind of trouble, with counts and the first sentences."""
    kinds = {
        StationarityWarning: [d for d in diagnoses if not d.is_stationary],
        IllPosedWarning: [
            d for d in diagnoses if d.is_stationary and not d.is_trustworthy
        ],
    }
    for category, found in kinds.items():
        if not found:
            continue
        sentences = Counter(d.status for d in found).most_common(3)
        told = "\n".join(f"- {count} x {sentence}" for sentence, count in sentences)
        warnings.warn(
            f"{len(found)} of {len(diagnoses)} solutions cannot be trusted for "
            f"sensitivity (see solution_set_.status):\n{told}",
            category,
            stacklevel=user_stacklevel(),
        )
