r"""Newton's method on the active kinks, with exchange of those that were guessed wrong.

At a minimiser of a net with ramps some ramps sit on their kink. With their gates s as
unknowns and all other gates fixed, :math:`K(w, s) = (\nabla_w L_s, t_A)` is smooth and
has as many equations as unknowns (partial smoothness: A. S. Lewis, "Active sets,
nonsmoothness, and sensitivity", 2002; Newton on the identified manifold: G. Bareilles,
F. Iutzeler, J. Malick, arXiv 2106.04350). Its zero is a solution where the gates lie
between 0 and 1 and all other ramps are on the side that their gates say; a kink that
violates this is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..linalg import KrylovSettings, KrylovTangentInverse, TangentInverse, probe
from ..objective import Kinks, Objective, PointProducts
from ._active_set import ActiveSet, independent
from ._trust_region import MAX_DENSE, SMALL
from ._violations import Violations

__all__ = ["KinkSolution", "by_products", "newton_on_kinks"]

Array = NDArray[np.float64]

# Steps at most; the share of the last one that a step may be, and up to which the same
# factorisation serves again.
_MAX_STEPS, _CONTRACTION, _CHORD = 30, 0.5, 0.1
# Relative steps (of weights and gates) that have converged, and that are rounding.
_CONVERGED, _ARRIVED = 1e-9, 1e-15
# Relative residual of iterative solves, and products that they may take.
_KRYLOV_TOL, _KRYLOV_STEPS = 1e-10, 3000
# Times the first movement within which exchanges must end.
_REACH = 4.0
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class KinkSolution:
    """Where Newton on K ended.

    Attributes
    ----------
    weights : ndarray of shape (p,)
    active : ActiveSet
    residual : float
        Largest of the last step, of the weights relative to ``1 + |w|`` or of a gate,
        and of R relative to what it is made of.
    largest_force : float
        Largest gradient in the weights that a kink balances.
    off_kinks : float
        Distance to where the kinks' inputs are 0, relative to ``1 + |w|``.
    is_consistent : bool
        Whether gates and signs are those of a stationary point.
    is_minimum : bool
        Whether no curvature is negative on the tangent space.
    n_iter : int
    """

    weights: Array
    active: ActiveSet
    residual: float
    largest_force: float
    off_kinks: float
    is_consistent: bool
    is_minimum: bool
    n_iter: int

    @classmethod
    def none(cls, weights: Array, active: ActiveSet, n_iter: int) -> KinkSolution:
        """Weights at which no zero of K was looked for."""
        return cls(weights, active, np.inf, 0.0, np.inf, False, True, n_iter)

    @property
    def kinks(self) -> Kinks:
        """Kinks with their gates, and dead units."""
        return self.active.kinks

    @property
    def is_minimum_on_kinks(self) -> bool:
        """Whether it is what was looked for."""
        return self.is_consistent and self.is_minimum

    def after(self, n_iter: int) -> KinkSolution:
        """The same after another number of iterations in all."""
        return replace(self, n_iter=n_iter)


def newton_on_kinks(
    objective: Objective,
    weights: Array,
    active: ActiveSet,
    *,
    max_rounds: int = 20,
    near: float = 0.0,
) -> KinkSolution:
    """Newton on K from a guess of the active kinks, exchanged until they are right.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    active : ActiveSet
    max_rounds : int, default=20
        Exchanges at most.
    near : float, default=0.0
        Length that the movement may have, a few times over; the first movement
        where that is longer.

    Returns
    -------
    solution : KinkSolution
        Of the last round.
    """
    start, reach = weights, np.inf
    seen: set[bytes] = set()
    n_iter, at_once, rounds = 0, True, 0
    while True:
        active = independent(objective, weights, active)
        found = _newton(objective, weights, active)
        n_iter, rounds = n_iter + found.n_iter, rounds + 1
        violations = Violations.of(objective, found.weights, found.active)
        moved = float(np.linalg.norm(found.weights - start))
        if rounds == 1:
            reach = _REACH * max(moved, near)
        # Further away lie other minima.
        arrived = found.residual <= _CONVERGED and moved <= reach
        consistent = arrived and not violations
        # Gates on their way out keep it from arriving: kinks behind them lose force.
        astray = not (arrived or (violations.gates and moved <= reach))
        if consistent or astray or rounds > max_rounds:
            return replace(found, is_consistent=consistent, n_iter=n_iter)
        active = violations.exchanged(objective, found.weights, found.active, at_once)
        if active.signature in seen:
            if not at_once:
                return replace(found, n_iter=n_iter)
            at_once, seen = False, set()
        seen.add(active.signature)
        weights = found.weights


def by_products(objective: Objective) -> bool:
    """Whether H is not to be formed: more weights than a few, minutes each."""
    p = objective.n_params
    return p > MAX_DENSE or (p > SMALL and not objective.has_quick_hessian)


@dataclass(frozen=True)
class _System:
    """H at fixed gates and its inverse on the tangent space.

    Attributes
    ----------
    curved : callable
        ``v -> H v``.
    curvature : float
        A norm of H.
    factor : TangentInverse or KrylovTangentInverse
    """

    curved: Callable[[Array], Array]
    curvature: float
    factor: TangentInverse | KrylovTangentInverse

    @classmethod
    def at(cls, gated: Objective, w: Array, Z: Array) -> _System | None:
        """None where H is not finite."""
        if by_products(gated) and len(Z) < w.size:
            product = PointProducts(gated, w).hessian
            if not np.isfinite(product(probe(w.size))).all():
                return None
            memory = gated.budget(0.5)
            settings = KrylovSettings(_KRYLOV_TOL, _KRYLOV_STEPS, memory)
            factor = KrylovTangentInverse(product, Z, settings=settings)
            return cls(product, gated.hessian_norm(w), factor)
        H = gated.hessian(w)
        if not np.isfinite(H).all():
            return None
        return cls(H.__matmul__, float(np.linalg.norm(H)), TangentInverse(H, Z))


def _newton(objective: Objective, w: Array, active: ActiveSet) -> KinkSolution:
    """The zero of K with this active set, wherever gates and signs end."""
    kinks, last, n_iter, off = active.kinks, np.inf, 0, np.inf
    factor, forces, is_minimum, largest, curvature = None, np.zeros(0), True, 0.0, 0.0
    while n_iter < _MAX_STEPS:
        n_iter += 1
        gated = objective.on_kinks(kinks, active.pattern)
        g, t = gated.gradient(w), gated.ramps(w).at(kinks)[0]
        if not (np.isfinite(g).all() and np.isfinite(t).all()):
            is_minimum, last = False, np.inf
            break
        fresh = factor is None
        if factor is None:
            Z = gated.kink_jacobian(w)
            system = _System.at(gated, w, Z)
            if system is None:
                is_minimum, last = False, np.inf
                break
            curved, curvature = system.curved, system.curvature
            factor, phi = system.factor, gated.kink_forces(w, Z)
            forces = np.where(phi == 0.0, np.inf, phi)
            is_minimum = factor.inertia[0] == 0
            balanced = np.abs(phi) * np.linalg.norm(Z, axis=1)
            largest = float(balanced.max(initial=0.0))
        lifted = factor.lift(t)
        v = -factor.apply(g - curved(lifted)) - lifted
        with np.errstate(over="ignore"):  # Of kinks that have lost their force.
            ds = -factor.multipliers(g + curved(v)) / forces
        whole = 1.0 + float(np.linalg.norm(w))
        length = float(np.linalg.norm(v)) / whole
        off = float(np.linalg.norm(lifted)) / whole
        size = max(length, float(np.abs(ds).max(initial=0.0)))
        if not size < _CONTRACTION * last:
            if fresh or last <= _CONVERGED:
                break
            factor = None
            continue
        w, kinks = w + v, kinks.with_gates(kinks.gates + ds)
        if size <= _ARRIVED:
            last = size
            break
        if not size <= _CHORD * last:
            factor = None
        last = size
    there = replace(active, kinks=kinks)
    # Along the kernel no step is taken, whatever R is there.
    left = float(np.linalg.norm(there.fixed(objective).gradient(w)))
    scale = max(curvature * (1.0 + float(np.linalg.norm(w))), largest, _TINY)
    last = max(last, left / scale)
    return KinkSolution(w, there, last, largest, off, False, is_minimum, n_iter)
