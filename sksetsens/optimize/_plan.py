"""Which steps take trained weights to stationary ones, in which order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..linalg import KrylovInverse, PseudoInverse, SymmetricPseudoInverse
from ..objective import Objective
from ._gauss_newton_lbfgs import gauss_newton_lbfgs, row_scaled_lbfgs
from ._lbfgs import lbfgs
from ._levenberg_marquardt import is_quadratic_interpolation, levenberg_marquardt
from ._scaled_lbfgs import scaled_lbfgs
from ._stationarity import STILL_SHRINKING, Place
from ._trust_region import MAX_DENSE, SMALL, trust_region_newton

__all__ = ["LBFGS_OF_FREE", "is_free", "planned_steps"]

Array = NDArray[np.float64]
# (objective, weights, tol) -> weights, iterations
Step = Callable[[Objective, Array, float], tuple[Array, int]]

_ROOT_MAX_ITER = 30
_CHORD_MAX_ITER = 200
# Before Newton, L-BFGS only has to reach its neighbourhood; less where it goes on in
# the scales of the curvature.
_LBFGS_BEFORE_NEWTON = {
    "small": (1e-4, 300),
    "scaled": (1e-4, 100),
    "large": (1e-8, 3000),
}
# Relative gain of a step at which the second descent of a large net ends.
_LEAST_GAIN = 1e-14
# Iterations by products, and with dense Hessians, where one costs hundreds of
# gradients or thousands.
_KRYLOV, _FEW_HESSIANS = 40, 2
# Newton's steps from a solution nearby, before descent in the scales of the curvature.
_FEW_WARM = 2
_LBFGS_BETWEEN_KINKS = (1e-6, 500)
# Of large ReLU nets that nothing holds: few of them have a minimiser.
LBFGS_OF_FREE = (1e-8, 1000)


def planned_steps(
    objective: Objective,
    w: Array,
    warm: bool,
    keep_index: bool,
    nearby: PseudoInverse | None,
) -> list[tuple[str, Step]]:
    """Steps by name; the first that ends stationary is the last.

    Parameters
    ----------
    objective : Objective
    w : ndarray of shape (p,)
        Start.
    warm, keep_index, nearby
        As of `polish`.
    """
    plan: list[tuple[str, Step]] = []
    interpolates = is_quadratic_interpolation(objective, w)
    if nearby is not None and _serves(nearby, interpolates, keep_index):
        plan.append(("chord", partial(_chord, nearby)))
    if keep_index and objective.n_params <= MAX_DENSE:
        return [*plan, ("newton-root", _newton_root)]
    if interpolates:
        plan.append(("levenberg-marquardt", levenberg_marquardt))
    if interpolates and objective.has_ramps:
        # Descent finds the way between kinks that steps on outputs do not; Newton on
        # R, which jumps there, would not find it either.
        descent = partial(_lbfgs, *_LBFGS_BETWEEN_KINKS)
        descents = [] if warm else [("lbfgs", descent)]
        return [*plan, *descents, ("levenberg-marquardt", levenberg_marquardt)]
    # H has the rank of the outputs at most, beside what the net's own curvature adds.
    large = objective.n_params > SMALL and objective.has_ramps
    free = large and is_free(objective, w)
    if not warm:
        of_free = partial(_lbfgs, *LBFGS_OF_FREE)
        scaled = not free and _wants_scales(objective)
        # What nothing holds is looked at after a few plain steps: it may run away.
        by_rows = objective.n_params > SMALL and objective.is_penalised(w)
        if not (scaled and by_rows):
            plan.append(("lbfgs", of_free if free else _coarse_lbfgs))
        if scaled:
            plan.append(("scaled", partial(_scaled, by_rows)))
    if not free and _forms_late(objective):
        krylov = partial(trust_region_newton, by_products=True, max_iter=_KRYLOV)
        last = partial(trust_region_newton, max_iter=_FEW_HESSIANS)
        return [*plan, ("krylov", krylov), ("newton", last)]
    if warm and _wants_scales(objective) and objective.is_penalised(w):
        # Beyond the range of linearity lie curved valleys, as on the cold way. Where
        # nothing holds the weights, the nearest of many solutions is looked for.
        few = partial(trust_region_newton, max_iter=_FEW_WARM)
        plan += [("newton", few), ("scaled", partial(_scaled, False))]
    if not warm and not free and objective.n_params > MAX_DENSE:
        return [*plan, ("newton", _newton_after_descent)]
    return [*plan, ("newton", partial(trust_region_newton, by_products=free))]


def _serves(nearby: PseudoInverse, interpolates: bool, keep_index: bool) -> bool:
    """Whether chord steps come before Newton's.

    Along ker H they stay where they are; Newton's would drift with the rounding of null
    eigenvalues. Where H is definite and known by its products, a chord step is a solve
    to its end, and one of Newton's goes only as far as it is worth.
    """
    if isinstance(nearby, KrylovInverse) and nearby.kernel_dim == 0 and not keep_index:
        return False
    return not (interpolates and nearby.kernel_dim)


def is_free(objective: Objective, w: Array) -> bool:
    """Whether the weights can give every row its output, and nothing holds them.

    Forces on kinks then vanish with the residual; and where the loss has no smallest
    value, as cross-entropy, nor is there a finite minimiser.
    """
    enough = objective.n_equations < objective.n_params
    return enough and not objective.is_tilted and not objective.is_penalised(w)


# Chord, L-BFGS and Newton ----------------------------------------------------------


def _chord(
    nearby: PseudoInverse, objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """``w -= H^+ R(w)`` with H from nearby, while it shrinks |R|.

    In the scales in which H was decomposed.
    """
    S = nearby.scales
    gradient = objective.gradient(w)
    n_iter = 0
    while n_iter < _CHORD_MAX_ITER:
        candidate = w - nearby.apply(gradient)
        moved = objective.gradient(candidate)
        n_iter += 1
        if not np.linalg.norm(S * moved) < 0.8 * np.linalg.norm(S * gradient):
            break
        w, gradient = candidate, moved
    return w, n_iter


def _lbfgs(
    coarse: float, max_iter: int, objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    return lbfgs(objective, w, max(tol, coarse), max_iter)


def _newton_after_descent(
    objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """Newton by products; where soft directions keep it small, descent and it again."""
    w, n_iter = trust_region_newton(objective, w, tol)
    if Place.of(objective, w).relative <= tol:
        return w, n_iter
    w, descended = gauss_newton_lbfgs(objective, w, _LEAST_GAIN)
    if not descended:
        return w, n_iter
    w, more = trust_region_newton(objective, w, tol)
    return w, n_iter + descended + more


def _wants_scales(objective: Objective) -> bool:
    """Whether a Hessian costs hundreds of gradients, and not tens."""
    quick = objective.n_params <= SMALL and objective.has_quick_hessian
    return objective.n_params <= MAX_DENSE and not quick


def _forms_late(objective: Objective) -> bool:
    """Whether H costs so much that steps by products come before dense ones."""
    large = SMALL < objective.n_params <= MAX_DENSE
    return large and not objective.has_quick_hessian


def _scaled(
    by_rows: bool, objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """In the scales of Gauss-Newton's rows, and in those of H where that ends short.

    Of small nets H costs no more.
    """
    n_iter = 0
    if by_rows:
        found = row_scaled_lbfgs(objective, w)
        if found is not None and Place.of(objective, found[0]).relative <= tol:
            return found
        w, n_iter = found or _coarse_lbfgs(objective, w, tol)
    w, more = scaled_lbfgs(objective, w)
    return w, n_iter + more


def _coarse_lbfgs(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    if objective.n_params > MAX_DENSE:
        scaled, n_iter = gauss_newton_lbfgs(objective, w)
        if n_iter:
            return scaled, n_iter
    size = "small" if objective.n_params <= SMALL else "large"
    if _wants_scales(objective):
        size = "scaled"
    coarse, max_iter = _LBFGS_BEFORE_NEWTON[size]
    return _lbfgs(coarse, max_iter, objective, w, tol)


def _newton_root(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    """Newton on R = 0 with the pseudo-inverse, whatever the sign of curvature."""
    gradient = objective.gradient(w)
    n_iter = 0
    while n_iter < _ROOT_MAX_ITER:
        n_iter += 1
        step = -SymmetricPseudoInverse(objective.hessian(w)).apply(gradient)
        norm, t = float(np.linalg.norm(gradient)), 1.0
        while t > 1e-6:
            moved = objective.gradient(w + t * step)
            if np.linalg.norm(moved) < norm:
                break
            t *= 0.5
        else:
            break
        w, gradient = w + t * step, moved
        shrank = np.linalg.norm(gradient) < STILL_SHRINKING * norm
        if not shrank and Place.of(objective, w).relative <= tol:
            break
    return w, n_iter
