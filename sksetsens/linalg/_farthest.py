r"""The point of a ball in one affine set that is farthest from another affine set.

With V the subspace of the ball and a the offset of its centre, seen from the target and
freed of the target's directions, the squared distance of the point ``centre + z`` is
:math:`|a + A z|^2` with :math:`A = P_\perp` restricted to V: a convex quadratic,
maximised over :math:`|z| \le \rho`. This is a trust-region problem, nonconvex and still
solved exactly by its secular equation (Conn, Gould and Toint, "Trust-Region Methods"
(2000), Section 7.3): with :math:`A'A = E \,\mathrm{diag}(\lambda) E'` and
:math:`g = E'a` the maximiser is :math:`E (\mu - \lambda)^{-1} g` for the one
:math:`\mu \ge \lambda_{max}` that puts it on the sphere.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from ._subspace import Subspace

__all__ = ["FarthestPoint"]

Array = NDArray[np.float64]

# Sines of principal angles below this are rounding of a subspace's basis.
_PARALLEL = 1e-13


class FarthestPoint:
    """Farthest points of balls in ``c + V`` from sets ``o + W``, factorised once.

    Parameters
    ----------
    moving : Subspace
        V, the directions of the ball.

    target : Subspace
        W, the directions of the affine set.

    Examples
    --------
    Of a disc of radius 2 in a plane, seen from a line in it at distance 1:

    >>> import numpy as np
    >>> from sksetsens.linalg import FarthestPoint, Subspace
    >>> plane, line = Subspace(np.eye(2)), Subspace(np.array([[1.0], [0.0]]))
    >>> distance, z = FarthestPoint(plane, line)(np.array([0.0, 1.0]), 2.0)
    >>> round(distance, 12), z.round(12) + 0.0
    (3.0, array([0., 2.]))
    """

    def __init__(self, moving: Subspace, target: Subspace) -> None:
        self._across = target.complement()
        if moving.is_complement and target.is_complement:
            A = moving.project(target.basis.T).T
            axes, sines, _ = scipy.linalg.svd(A, full_matrices=False)
        else:
            V = moving.spanning_basis()
            A = self._across.project(V.T).T
            _, sines, coordinates = scipy.linalg.svd(A, full_matrices=False)
            axes = V @ coordinates.T
        # Ascending; not by a Gram matrix, whose rounding would pass for small angles.
        kept = np.flatnonzero(sines > _PARALLEL)[::-1]
        self._squares, self._axes = sines[kept] ** 2, axes[:, kept]

    def __call__(self, offset: Array, radius: float) -> tuple[float, Array]:
        """Distance of the farthest point and where it is.

        Parameters
        ----------
        offset : ndarray of shape (p,)
            Centre of the ball minus a point of the target.
        radius : float
            Euclidean.

        Returns
        -------
        distance : float
            Euclidean, from the target.
        z : ndarray of shape (p,)
            Displacement in V from the centre, of length ``radius`` unless V is parallel
            to the target.
        """
        a = self._across.project(offset)
        if radius <= 0.0 or not self._squares.size:
            return float(np.linalg.norm(a)), np.zeros_like(offset)
        g = self._axes.T @ a
        c = self._coordinates(g, radius)
        gained = 2.0 * g @ c + (self._squares * c**2).sum()
        return float(np.sqrt(a @ a + max(gained, 0.0))), self._axes @ c

    def _coordinates(self, g: Array, radius: float) -> Array:
        """Maximiser of ``2 g'c + c' diag(squares) c`` on ``|c| = radius``."""
        gaps = self._squares[-1] - self._squares

        def coordinates(tau: float) -> Array:
            return g / (gaps + tau)

        def excess_length(tau: float) -> float:
            return float(np.linalg.norm(coordinates(tau))) - radius

        # |c| <= |g| / tau ends the bracket; below the lower end tau is rounding.
        high = 1.001 * float(np.linalg.norm(g)) / radius
        low = 4.0 * np.finfo(float).eps * float(self._squares[-1])
        if high > low and excess_length(low) > 0.0:
            tau = scipy.optimize.brentq(
                excess_length, low, high, xtol=np.finfo(float).tiny, rtol=1e-14
            )
            c = coordinates(tau)
            return c * (radius / np.linalg.norm(c))
        # The hard case: g has no part along the longest axes, which fill the sphere.
        c = np.divide(g, gaps, out=np.zeros_like(g), where=gaps > low)
        room = radius**2 - float(c @ c)
        c[-1] = np.sqrt(max(room, 0.0)) * (1.0 if g[-1] >= 0 else -1.0)
        return c
