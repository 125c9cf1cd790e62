"""Directions in which the rows of a problem's data move."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def random_directions(
    rng: np.random.RandomState, n_rows: int, n_columns: int
) -> NDArray[np.floating[Any]]:
    """Rows of Euclidean norm 1, uniformly distributed."""
    directions = rng.standard_normal((n_rows, n_columns))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
