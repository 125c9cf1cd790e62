"""Sets of solutions with their affine pieces: what the library answers with.

Solution sets, predicted sets, symmetries of nets, distances between sets, storage. May
import: objective, linalg, and what is below.
"""

from ._distance import distance_to_set, excess, excess_bounds, pompeiu_hausdorff
from ._html import html_table
from ._predicted_set import PredictedSolutionSet, PredictionChange
from ._solution_set import SolutionSet
from ._storage import read_arrays, write_arrays
from ._symmetries import HiddenLayer, NetworkSymmetry

__all__ = [
    "HiddenLayer",
    "NetworkSymmetry",
    "PredictedSolutionSet",
    "PredictionChange",
    "SolutionSet",
    "distance_to_set",
    "excess",
    "excess_bounds",
    "html_table",
    "pompeiu_hausdorff",
    "read_arrays",
    "write_arrays",
]
