"""Restarts: one seed, many in parallel, stacked, cached, surviving dead workers.

May import: sensitivity, perturbation, and what is below.
"""

from ._restart import Restart, RestartTask
from ._restarts import keep_successful, rebuilt_net, report, run_restarts
from ._seeds import draw_seeds, perturbation_seed, seed_sequence
from ._steps import continue_solutions, linearise_restarts, prepare, warn_of_train_split

__all__ = [
    "Restart",
    "RestartTask",
    "continue_solutions",
    "draw_seeds",
    "keep_successful",
    "linearise_restarts",
    "perturbation_seed",
    "prepare",
    "rebuilt_net",
    "report",
    "run_restarts",
    "seed_sequence",
    "warn_of_train_split",
]
