"""Linear subspaces of weight space, stored by the thinner of two bases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Subspace:
    """Subspace V of R^p, by an orthonormal basis of V or of its complement.

    A wide net that interpolates has ``dim ker H`` near p: its kernel is stored by
    the basis of the range, which has only as many columns as the rank.

    Parameters
    ----------
    basis : ndarray of shape (p, k)
        Orthonormal columns.

    is_complement : bool, default=False
        Whether the columns span the orthogonal complement of V instead of V.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import Subspace
    >>> line = Subspace(np.array([[0.6], [0.8]]))
    >>> line.project(np.array([1.0, 0.0])).round(2)
    array([0.36, 0.48])
    >>> round(float(line.complement_norm(np.array([0.8, -0.6]))), 2)
    1.0
    """

    basis: Array
    is_complement: bool = False

    @property
    def n_dims(self) -> int:
        """Dimension p of the surrounding space."""
        return self.basis.shape[0]

    @property
    def dim(self) -> int:
        """Dimension of the subspace."""
        k = self.basis.shape[1]
        return self.n_dims - k if self.is_complement else k

    def project(self, v: Array) -> Array:
        """Orthogonal projection onto V of vectors in the last axis of ``v``."""
        inside = (v @ self.basis) @ self.basis.T
        return v - inside if self.is_complement else inside

    def complement(self) -> Subspace:
        """The orthogonal complement of V."""
        return Subspace(self.basis, not self.is_complement)

    def complement_norm(self, v: Array) -> NDArray[np.float64]:
        """Euclidean distance from ``v`` (vectors in the last axis) to V.

        Where the complement's basis is stored, its coordinates give the distance
        without the cancellation of ``v - project(v)``.
        """
        if self.is_complement:
            return np.linalg.norm(v @ self.basis, axis=-1)
        return np.linalg.norm(v - self.project(v), axis=-1)

    def contains(self, other: Subspace, tol: float = 1e-6) -> bool:
        """Whether ``other`` lies in V up to principal angles of ``tol`` radians."""
        if other.dim > self.dim:
            return False
        if other.dim == 0 or self.dim == self.n_dims:
            return True
        return bool(np.all(self.complement_norm(other.spanning_basis().T) <= tol))

    def spanning_basis(self) -> Array:
        """Orthonormal basis of V itself, shape (p, dim)."""
        if not self.is_complement:
            return self.basis
        q, _ = np.linalg.qr(self.basis, mode="complete")
        return q[:, self.basis.shape[1] :]

    def sample_ball(
        self, n_samples: int, radius: float | Array, rng: np.random.RandomState
    ) -> Array:
        """Vectors uniform in the ball of ``radius`` in V, shape (n_samples, p)."""
        directions = self.project(rng.standard_normal((n_samples, self.n_dims)))
        uniform = rng.uniform(size=(n_samples, 1))
        if self.dim == 0:
            return np.zeros((n_samples, self.n_dims))
        # Twice: of a draw orthogonal to V only rounding is left, outside V. (The draws
        # of a seed that also made the data are its rows, which lie in range H.)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions = self.project(directions)
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        return directions / norms * radius * uniform ** (1.0 / self.dim)
