"""Restarts: one seed, many in parallel, stacked, cached, surviving dead workers.

May import: sensitivity, perturbation, and what is below.
"""

from ._fitted import check_fitted_nets
from ._held_out import rows_of_split
from ._restart import Restart, RestartTask
from ._restarts import keep_successful, rebuilt_net, report, run_restarts
from ._seeds import draw_seeds, perturbation_seed, seed_sequence
from ._steps import (
    continue_solutions,
    linearise_restarts,
    prepare,
    prepare_fitted,
    warn_of_mismatches,
)

__all__ = [
    "Restart",
    "RestartTask",
    "check_fitted_nets",
    "continue_solutions",
    "draw_seeds",
    "keep_successful",
    "linearise_restarts",
    "perturbation_seed",
    "prepare",
    "prepare_fitted",
    "rebuilt_net",
    "report",
    "rows_of_split",
    "run_restarts",
    "seed_sequence",
    "warn_of_mismatches",
]
