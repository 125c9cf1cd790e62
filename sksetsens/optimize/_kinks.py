r"""To a minimiser on the kinks of a net: a smoothing homotopy, then Newton on K.

Descent on a net with ramps stalls at kinks, where R has no zero. Smoothed ramps
:math:`(t + \sqrt{t^2 + \epsilon^2}) / 2` have minimisers that follow a central path to
one on the kinks as :math:`\epsilon \to 0`, and their gates tell which ramps sit there.
From then on the kinks are equations (`newton_on_kinks`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe
from ..objective import Kinks, Objective
from ._active_set import ActiveSet, identified, ramp_scales
from ._gauss_newton_lbfgs import row_scaled_lbfgs
from ._kink_newton import KinkSolution, by_products, newton_on_kinks
from ._lbfgs import lbfgs
from ._revival import dead_weights, revival
from ._some_weights import SomeWeights
from ._stationarity import runs_away
from ._trust_region import SMALL, trust_region_newton

__all__ = ["continued_on_kinks", "minimised_on_kinks", "stationary_on_kinks"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Epsilon at the start, relative to each operation's inputs, from trained weights and
# from a solution on nearby data; how it falls; where the active kinks are first tried;
# and where it ends.
_FIRST, _WARM, _SHRINK, _TRIED, _LAST = 1e-1, 1e-3, 0.1**0.5, 2e-4, 1e-8
# Gradient of the smoothed net at each epsilon, relative to |H| (1 + |w|) at the first.
# Flat valleys, along which units die, are followed to their end; and inputs are known
# to a share of epsilon, which is what gates depend on.
_EXACT, _PER_EPS = 1e-9, 1e-2
# Units that are revived one after the other, in nets of up to so many weights and in
# larger ones; the slope that does; where on the ray their weights are put, relative to
# 1 + |w|, and which of these where the loss rises; epsilon from there, and how many
# units at once (None for all).
_REVIVALS, _FEW_REVIVALS, _MANY, _ALIVE = 10, 2, 1000, 1e-4
_RAY, _HELD = np.geomspace(1e-3, 1.0, 25), 8
_REVIVED = ((3e-3, None), (3e-3, 1), (3e-2, None))
# From there they grow to their size by L-BFGS, in so many rounds of so many iterations,
# epsilon relative to the inputs they have by then: Newton's steps would be as many, at
# tens of times the price.
_ROUNDS, _GROWING = 4, 200
# Streams of the probes by which weights are moved where the homotopy found no minimum,
# by this share of their root mean square; and epsilon from there.
_KICKS, _KICK, _KICKED = (11, 12, 13), 0.1, 1e-2
# Newton's steps of revived units at each epsilon, and the gradient, in terms of what is
# enough, at which they are stuck on their way.
_STEPS, _STUCK = 90, 100.0
# Epsilons one after the other at which they may be.
_PATIENCE = 5
# Kinks per weight, of which those that are none by chance are dropped; and bytes that
# their gradients may take.
_MOST, _MOST_BYTES = 4, 1e9
# L-BFGS before the first Newton steps.
_LBFGS_TOL, _LBFGS_MAX_ITER = 1e-4, 300
# For nets of more than a few hundred weights: at each epsilon above which the smoothed
# net is not stiff yet.
_LONG_MAX_ITER, _STIFF = 1000, 2e-3
# At all others, where H is not formed; and where kinks are first tried there, as each
# step on them costs more than another epsilon, and where epsilon ends.
_LONGEST, _TRIED_LATE, _SOON = 3000, 2e-5, 1e-6


def minimised_on_kinks(objective: Objective, weights: Array) -> KinkSolution:
    """A minimiser on the kinks, by homotopy from trained weights.

    Smoothed ramps have little gain where a unit is about to die, and units die that
    would lower the loss: those are revived, and the homotopy goes on from there.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)

    Returns
    -------
    solution : KinkSolution
        Consistent where it is one.
    """
    scales = ramp_scales(objective.ramps(weights))
    smoothed = objective.smoothed(_FIRST, scales)
    w, n_iter = lbfgs(smoothed, weights, _LBFGS_TOL, _LBFGS_MAX_ITER)
    solution = _homotopy(objective, w, _FIRST)
    n_iter += solution.n_iter
    small = weights.size <= _MANY and not by_products(objective)
    for stream in _KICKS if small else ():
        if solution.is_minimum_on_kinks or solution.residual == np.inf:
            break
        solution = _kicked(objective, w, stream)
        n_iter += solution.n_iter
    attempts = list(_REVIVED)
    for _ in range(_REVIVALS if small else _FEW_REVIVALS):
        if not solution.is_minimum_on_kinks:
            break
        found = revival(objective, solution.weights, solution.kinks)
        if not found.slope < -_ALIVE:
            break
        again = _revived(objective, solution, found.directions, attempts)
        if again is None:
            break
        n_iter += again.n_iter
        solution = again
    return solution.after(n_iter)


def _kicked(objective: Objective, w: Array, stream: int) -> KinkSolution:
    """The homotopy from elsewhere nearby, and from a smaller epsilon.

    Several ramps of one kink, rounded each to its own width, may hold smoothed weights
    where the loss itself falls to both sides.
    """
    length = _KICK * float(np.linalg.norm(w)) / np.sqrt(w.size)
    start, n_iter = lbfgs(
        objective,
        w + length * probe(w.size, stream=stream),
        _LBFGS_TOL,
        _LBFGS_MAX_ITER,
    )
    found = _homotopy(objective, start, _KICKED)
    return found.after(n_iter + found.n_iter)


def _revived(
    objective: Objective,
    solution: KinkSolution,
    directions: Array,
    attempts: list[tuple[float, int | None]],
) -> KinkSolution | None:
    """A lower minimum, from where units were revived; None without one.

    Of all of them at once, or of the first alone: together they may be in each other's
    way. The smaller epsilon, the narrower the cones that are not smoothed away. The
    attempt that finds it becomes the first one.
    """
    w, loss = solution.weights, objective.loss(solution.weights)
    n_iter = 0
    for attempt in list(attempts):
        eps, n_units = attempt
        start = _downhill(objective, w, directions[:n_units])
        start, n = _grown(objective, start, eps)
        again = _homotopy(objective, start, eps, by_unit=True, patience=1)
        n_iter += n + again.n_iter
        if again.is_minimum_on_kinks and objective.loss(again.weights) < loss:
            attempts.remove(attempt)
            attempts.insert(0, attempt)
            return again.after(n_iter)
    return None


def _downhill(objective: Objective, w: Array, directions: Array) -> Array:
    """The lowest of some points along each ray, one after the other."""
    whole = 1.0 + float(np.linalg.norm(w))
    for direction in directions:
        points = [w + t * whole * direction for t in _RAY]
        lowest = min(points, key=objective.loss)
        # Live kinks may hold against a straight way, and give way on a curved one.
        w = lowest if objective.loss(lowest) < objective.loss(w) else points[_HELD]
    return w


def _grown(objective: Objective, w: Array, eps: float) -> tuple[Array, int]:
    """Downhill from revived units, dead ones held, and the iterations it took."""
    free, n_iter = ~dead_weights(w), 0
    for _ in range(_ROUNDS):
        scales = ramp_scales(objective.ramps(w), by_unit=True)
        smoothed = SomeWeights(objective.smoothed(eps, scales), w, free)
        u, n = lbfgs(smoothed, w[free], _EXACT, _GROWING)
        w, n_iter = smoothed.whole(u), n_iter + n
    return w, n_iter


def _homotopy(
    objective: Objective,
    weights: Array,
    first: float,
    *,
    by_unit: bool = False,
    patience: int = _PATIENCE,
) -> KinkSolution:
    """A minimiser on the kinks near weights; the nearer, the smaller the first eps.

    Epsilon is relative to the inputs of whole operations, or of each unit: those that
    are about to die are smoothed away, or not. It is given up where minimisers of the
    smoothed net are not found at so many epsilons one after the other.
    """
    w, eps, previous, n_iter = weights, first, None, 0
    scales = ramp_scales(objective.ramps(weights), by_unit=by_unit)
    unit = objective.smoothed(eps, scales).hessian_norm(w)
    unit *= 1.0 + float(np.linalg.norm(w))
    # Units that stay dead while others revive are in nobody's way.
    free = ~dead_weights(w) if by_unit else np.ones(w.size, dtype=bool)
    costly, solution, stuck = by_products(objective), None, 0
    tried, last = (_TRIED_LATE, _SOON) if costly else (_TRIED, _LAST)
    while eps >= last:
        smoothed = objective.smoothed(eps, scales)
        enough = min(_EXACT, _PER_EPS * eps) * unit
        steps = _STEPS if patience == 1 else None
        w, n, left = _minimised(smoothed, w, free, enough, eps, steps)
        n_iter += n
        stuck = stuck + 1 if left > _STUCK * enough else 0
        if runs_away(objective, w) or stuck >= patience:
            return KinkSolution.none(w, ActiveSet.at(objective, w), n_iter)
        if eps <= tried:
            active = identified(smoothed, w, eps, scales)
            if len(active.kinks) <= _most_kinks(objective):
                solution = newton_on_kinks(objective, w, active)
                n_iter += solution.n_iter
                if solution.is_minimum_on_kinks:
                    break
        # Along the path weights are about linear in epsilon.
        onward = w if previous is None else w + _SHRINK * (w - previous)
        w, previous, eps = onward, w, eps * _SHRINK
    if solution is None:
        solution = KinkSolution.none(w, ActiveSet.at(objective, w), n_iter)
    return solution.after(n_iter)


def _most_kinks(objective: Objective) -> int:
    """How many are worth sorting out, and fit: their gradients are a dense matrix."""
    p = objective.n_params
    return int(min(_MOST * p, _MOST_BYTES / (8 * p)))


def _minimised(
    smoothed: Objective,
    w: Array,
    free: Mask,
    enough: float,
    eps: float,
    max_steps: int | None,
) -> tuple[Array, int, float]:
    """A minimiser in the free weights, the iterations it took, and |R| there."""
    function: Objective | SomeWeights = smoothed
    if not free.all():
        function = SomeWeights(smoothed, w, free)
    u, n_iter, costly = w[free], 0, by_products(smoothed)
    if costly or (u.size > SMALL and eps > _STIFF):
        # A step of Newton's costs as much as hundreds of gradients.
        most = _LONG_MAX_ITER if eps > _STIFF else _LONGEST
        found = row_scaled_lbfgs(function, u, enough) if costly else None
        u, n_iter = found or lbfgs(function, u, _EXACT, most)
    if not costly:
        u, n = trust_region_newton(function, u, 0.0, enough=enough, max_iter=max_steps)
        n_iter += n
    moved = w.copy()
    moved[free] = u
    return moved, n_iter, float(np.linalg.norm(function.gradient(u)))


def stationary_on_kinks(
    objective: Objective, weights: Array, active: ActiveSet, near: float
) -> tuple[Array, Kinks] | None:
    """The minimum next to weights by Newton on K alone, kinks exchanged.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    active : ActiveSet
        Of a solution nearby.
    near : float
        Distance within which it may lie, a few times over.

    Returns
    -------
    weights, kinks : ndarray of shape (p,), Kinks
        Or None where there is none so near.
    """
    found = newton_on_kinks(objective, weights, active, near=near)
    if not found.is_minimum_on_kinks:
        return None
    return found.weights, found.kinks


def continued_on_kinks(
    objective: Objective, weights: Array, active: ActiveSet
) -> KinkSolution:
    """A minimiser on the kinks next to one of nearby data.

    Parameters
    ----------
    objective : Objective
        On the new data.
    weights : ndarray of shape (p,)
        The solution on the old data, or what is predicted of the new one.
    active : ActiveSet
        Of the old solution.

    Returns
    -------
    solution : KinkSolution
    """
    solution = newton_on_kinks(objective, weights, active)
    if solution.is_minimum_on_kinks:
        return solution
    solution = _homotopy(objective, weights, _WARM, patience=1)
    if solution.is_minimum_on_kinks:
        return solution
    # On another branch, which is told where it lies beyond what was predicted.
    found = minimised_on_kinks(objective, weights)
    return found.after(solution.n_iter + found.n_iter)
