"""Seeds of restarts and of perturbations, all from one random state."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["draw_seeds", "perturbation_seed", "seed_sequence"]

# Restart i has the spawn key (i,): no number of restarts reaches a key of length two.
_OF_PERTURBATIONS = (0, 0)


def seed_sequence(random_state: Any) -> np.random.SeedSequence:
    """What all seeds of a fit are drawn from.

    None takes fresh entropy from the system and leaves NumPy's global state alone.
    """
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31 - 1))
    return np.random.SeedSequence(random_state)


def draw_seeds(random_state: Any, n_seeds: int) -> list[int]:
    """Independent seeds, all drawn before any work begins.

    The first k do not depend on how many are drawn.

    Parameters
    ----------
    random_state : int, RandomState, SeedSequence or None
    n_seeds : int

    Returns
    -------
    seeds : list of int
    """
    root = random_state
    if not isinstance(root, np.random.SeedSequence):
        root = seed_sequence(random_state)
    return [_child(root, (i,)) for i in range(n_seeds)]


def perturbation_seed(root: np.random.SeedSequence) -> int:
    """Seed of `perturb`, whatever the number of restarts."""
    return _child(root, _OF_PERTURBATIONS)


def _child(root: np.random.SeedSequence, key: tuple[int, ...]) -> int:
    child = np.random.SeedSequence(root.entropy, spawn_key=key)
    return int(child.generate_state(1)[0])
