"""A linear subspace that is only known by its projector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImplicitSubspace"]

Array = NDArray[np.float64]


class ImplicitSubspace:
    """Subspace of R^p by its orthogonal projector: what `Subspace` is without a basis.

    Parameters
    ----------
    n_dims : int
        Dimension p of the surrounding space.

    dim : int
        Dimension of the subspace, known or estimated.

    project : callable
        Orthogonal projection of vectors in the last axis.
    """

    def __init__(
        self, n_dims: int, dim: int, project: Callable[[Array], Array]
    ) -> None:
        self.n_dims, self.dim = n_dims, dim
        self.project = project

    def complement(self) -> ImplicitSubspace:
        """The orthogonal complement."""
        return ImplicitSubspace(
            self.n_dims, self.n_dims - self.dim, lambda v: v - self.project(v)
        )

    def complement_norm(self, v: Array) -> NDArray[np.float64]:
        """Euclidean distance from ``v`` (vectors in the last axis) to the subspace."""
        return np.linalg.norm(v - self.project(v), axis=-1)

    def sample_ball(
        self, n_samples: int, radius: float | Array, rng: np.random.RandomState
    ) -> Array:
        """Vectors uniform in the ball of ``radius``, shape (n_samples, p)."""
        directions = self.project(rng.standard_normal((n_samples, self.n_dims)))
        uniform = rng.uniform(size=(n_samples, 1))
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        return directions / norms * radius * uniform ** (1.0 / self.dim)

    def spanning_basis(self) -> Array:
        """Not available.

        Raises
        ------
        ValueError
        """
        raise ValueError(
            "A basis of ker H needs a factorisation, and this system is solved by "
            "products alone. Use solver='eigh' or solver='dual'."
        )

    @property
    def basis(self) -> Array:
        """Not available, as `spanning_basis`."""
        return self.spanning_basis()
