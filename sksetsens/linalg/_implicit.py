"""A linear subspace that is only known by its projector."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ._subspace import Subspace

__all__ = ["ImplicitSubspace"]

Array = NDArray[np.float64]


class ImplicitSubspace:
    """Subspace of R^p by its orthogonal projector: what `Subspace` is without a basis.

    Parameters
    ----------
    n_dims : int
        Dimension p of the surrounding space.

    find_dim : callable
        Gives the dimension of the subspace, known or estimated, when it is first asked
        for; 0 only where the subspace is known to be trivial.

    project : callable
        Orthogonal projection of vectors in the last axis.
    """

    def __init__(
        self,
        n_dims: int,
        find_dim: Callable[[], int],
        project: Callable[[Array], Array],
    ) -> None:
        self.n_dims = n_dims
        self._find_dim, self._project = find_dim, project

    @cached_property
    def dim(self) -> int:
        """Dimension of the subspace, known where it is 0, otherwise estimated."""
        return self._find_dim()

    def project(self, v: Array) -> Array:
        """Orthogonal projection onto the subspace of vectors in the last axis."""
        return self._project(v) if self.dim else np.zeros_like(v)

    def complement(self) -> ImplicitSubspace:
        """The orthogonal complement."""
        return ImplicitSubspace(self.n_dims, self._find_codim, self._project_out)

    def _find_codim(self) -> int:
        return self.n_dims - self.dim

    def _project_out(self, v: Array) -> Array:
        return v - self.project(v)

    def complement_norm(self, v: Array) -> NDArray[np.float64]:
        """Euclidean distance from ``v`` (vectors in the last axis) to the subspace."""
        return np.linalg.norm(v - self.project(v), axis=-1)

    def contains(self, other: Subspace | ImplicitSubspace, tol: float = 1e-6) -> bool:
        """Whether ``other`` lies in the subspace up to angles of ``tol`` radians.

        Raises
        ------
        ValueError
            If only a basis of ``other``, which has none, could tell.
        """
        if other.dim > self.dim:
            return False
        basis = other.spanning_basis().T
        return bool(np.all(self.complement_norm(basis) <= tol))

    def sample_ball(
        self, n_samples: int, radius: float | Array, rng: np.random.RandomState
    ) -> Array:
        """Vectors uniform in the ball of ``radius``, shape (n_samples, p)."""
        directions = rng.standard_normal((n_samples, self.n_dims))
        uniform = rng.uniform(size=(n_samples, 1))
        if self.dim == 0:
            return np.zeros((n_samples, self.n_dims))
        directions = self.project(directions)
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        return directions / norms * radius * uniform ** (1.0 / self.dim)

    def spanning_basis(self) -> Array:
        """Orthonormal basis, shape (p, 0): only of the trivial subspace.

        Raises
        ------
        ValueError
            For any other.
        """
        if self.dim:
            raise ValueError(
                "A basis of ker H needs a factorisation, and this system is solved by "
                "products alone. Use solver='eigh' or solver='dual'."
            )
        return np.zeros((self.n_dims, 0))

    @property
    def basis(self) -> Array:
        """As `spanning_basis`."""
        return self.spanning_basis()

    @property
    def is_complement(self) -> bool:
        """Whether `basis` spans the complement: never."""
        return False
