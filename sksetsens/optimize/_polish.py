"""From trained weights to stationary ones: full-batch second-order polishing.

The theory speaks of zeros of the first-order residual R. Stochastic optimisers stop
far from them, and a prediction from weights with R != 0 is worthless at every
perturbation size, so each training is followed by one of

- Levenberg-Marquardt with the step taken in the dual, where a quadratic loss has
  fewer outputs than weights (interpolation);
- trust-region Newton on the exact Hessian, dense or on Krylov spaces;
- L-BFGS, before Newton from a cold start, and in the scales of the curvature where a
  Hessian costs hundreds of gradients;
- a homotopy to the kinks of nets with ramps, and Newton on these.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..exceptions import UnsupportedObjectiveError
from ..linalg import PseudoInverse, SymmetricPseudoInverse, probe
from ..objective import Kinks, Objective, PointProducts
from ._active_set import ActiveSet
from ._gauss_newton_lbfgs import gauss_newton_lbfgs
from ._kink_newton import KinkSolution
from ._kinks import continued_on_kinks, minimised_on_kinks
from ._lbfgs import lbfgs
from ._levenberg_marquardt import is_quadratic_interpolation, levenberg_marquardt
from ._scaled_lbfgs import scaled_lbfgs
from ._stationarity import STILL_SHRINKING, runs_away, stationarity
from ._trust_region import MAX_DENSE, SMALL, trust_region_newton

__all__ = [
    "Polished",
    "check_curvature",
    "polish",
    "stationarity",
]

Array = NDArray[np.float64]

# Weights up to which the kinks of minimisers are solved for.
MAX_ON_KINKS = 20_000
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
# Relative gradient below which no step of Newton's gains anything.
_AT_ROUNDING = 1e-15
_LBFGS_BETWEEN_KINKS = (1e-6, 500)
# Of large ReLU nets that nothing holds: few of them have a minimiser.
_LBFGS_OF_FREE = (1e-8, 1000)
# Share of the initial curvature below which gradient and Hessian vanished together.
_SATURATED = 1e-8
_SATURATION = (
    "degenerate: gradient and curvature vanished together (saturated by separable "
    "classes or unscaled features, or a fold of the solution set), so that first order "
    "means nothing; standardise X, and add weight decay to the optimizer"
)
# Weights up to this size are 0: their squares are below every rounding.
_VANISHED = 1e-20
# Relative stationarity from which Newton's method is worth its Hessians.
_NEAR = 1e-6
# Growth of the weights' norm from which L-BFGS has left the scale of the training.
_STRAYED = 10.0


@dataclass(frozen=True)
class Polished:
    """Weights after polishing, with how and how far they became stationary.

    Attributes
    ----------
    weights : ndarray of shape (p,)
    loss : float
        Objective, penalty included.
    gradient_norm, initial_gradient_norm : float
        Euclidean |R| after and before.
    stationarity : float
        Relative |R|, see `stationarity`.
    n_iter : int
    method : str
    converged : bool
        Whether ``stationarity <= tol``.
    status : str
        One sentence.
    kinks : Kinks
        On which the weights are stationary: R is then that at their gates.
    """

    weights: Array
    loss: float
    gradient_norm: float
    initial_gradient_norm: float
    stationarity: float
    n_iter: int
    method: str
    converged: bool
    status: str
    kinks: Kinks = field(default_factory=Kinks.none)


def polish(
    objective: Objective,
    weights: Array,
    *,
    tol: float,
    warm: bool = False,
    keep_index: bool = False,
    nearby: PseudoInverse | None = None,
    initial_curvature: float = 0.0,
    active: ActiveSet | None = None,
) -> Polished:
    """Bring weights to ``stationarity <= tol``, and on to rounding where cheap.

    Parameters
    ----------
    objective : Objective
    weights : ndarray of shape (p,)
    tol : float
    warm : bool, default=False
        Start from the neighbourhood of a solution: skip L-BFGS, which would leave
        the branch for a lower one.
    keep_index : bool, default=False
        Continue a point with negative curvature as the zero of R it is, instead of
        descending from it.
    nearby : PseudoInverse, default=None
        Factorised Hessian at a point close by. Steps with this one factorisation reach
        the solution next to it where the rank of H stays what it is.
    initial_curvature : float, default=0.0
        |H|_2 where training began: a solution with next to none of it is saturated.
    active : ActiveSet, default=None
        Kinks and gates of a solution close by, of a warm start.

    Returns
    -------
    polished : Polished

    Raises
    ------
    UnsupportedObjectiveError
        If H is not finite where it ends.
    """
    objective = objective.off_kinks()
    if _can_have_kinks(objective, weights, keep_index):
        if warm and active is None:
            active = ActiveSet.at(objective, weights)
        polished = _polished_on_kinks(objective, weights, active, tol)
    else:
        polished = _polished(
            objective, weights, tol, warm, keep_index, nearby, initial_curvature
        )
    check_curvature(objective.on_kinks(polished.kinks), polished.weights)
    return polished


def check_curvature(objective: Objective, weights: Array) -> None:
    """Refuse a solution at which the loss has no second derivative.

    Raises
    ------
    UnsupportedObjectiveError
        If H times a vector is not finite: no factorisation would end.
    """
    v = probe(weights.size)
    if np.isfinite(PointProducts(objective, weights).hessian(v)).all():
        return
    raise UnsupportedObjectiveError(
        "The Hessian is not finite at the solution: the loss has no second derivative "
        "there, as a root at zero has none. Use a criterion and a module that are "
        "smooth at the solution, for example the square of the root."
    )


def _can_have_kinks(objective: Objective, w: Array, keep_index: bool) -> bool:
    """Whether minimisers may sit on kinks that are to be solved for.

    Where a net interpolates, forces vanish with the residual.
    """
    if keep_index or objective.n_params > MAX_ON_KINKS:
        return False
    if not (objective.has_ramps and objective.fits_ramps):
        return False
    return not (_is_free(objective, w) or runs_away(objective, w))


def _is_free(objective: Objective, w: Array) -> bool:
    """Whether the weights can give every row its output, and nothing holds them.

    Forces on kinks then vanish with the residual; and where the loss has no smallest
    value, as cross-entropy, nor is there a finite minimiser.
    """
    enough = objective.n_equations < objective.n_params
    return enough and not objective.is_tilted and not objective.is_penalised(w)


def _polished_on_kinks(
    objective: Objective, start: Array, active: ActiveSet | None, tol: float
) -> Polished:
    initial = float(np.linalg.norm(objective.gradient(start)))
    if active is None:
        found = minimised_on_kinks(objective, start)
    else:
        found = continued_on_kinks(objective, start, active)
    # Weights of dead units end anywhere below rounding, down to denormal numbers.
    w = np.where(np.abs(found.weights) > _VANISHED, found.weights, 0.0)
    if not found.is_minimum_on_kinks:
        return _lowest(objective, start, found, initial, tol)
    if not w.any():
        # Units that all die together leave no scale by which any is small.
        found = replace(found, active=ActiveSet.of_zero(objective, w))
    gated = found.active.fixed(objective)
    here = _Place.of(gated, w)
    scale = here.hessian_norm * (1.0 + float(np.linalg.norm(w)))
    scale = max(scale, found.largest_force, np.finfo(np.float64).tiny)
    relative = here.gradient_norm / scale
    relative = max(relative, found.off_kinks)
    converged = bool(relative <= tol)
    return Polished(
        w,
        objective.loss(w),
        here.gradient_norm,
        initial,
        relative,
        found.n_iter,
        "kinks",
        converged,
        "stationary" if converged else _why_not(objective, w, relative, tol),
        found.kinks,
    )


def _lowest(
    objective: Objective, start: Array, found: KinkSolution, initial: float, tol: float
) -> Polished:
    """The lowest weights seen where no minimum was found: never above the start."""
    descended, n_iter = lbfgs(objective, start, tol, _LBFGS_OF_FREE[1])
    candidates = [start, descended, found.weights]
    losses = [objective.loss(v) for v in candidates]
    w = candidates[int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))]
    here = _Place.of(objective, w)
    kinked, total = objective.kinked_preactivations(w)
    status = (
        f"not stationary: relative gradient {here.relative:.2g}, and no minimum was "
        f"found on the kinks nearby ({kinked} of {total} pre-activations sit on one); "
        "train longer, add weight decay, or use a smooth activation (tanh, softplus)"
    )
    if runs_away(objective, w):
        status = _why_not(objective, w, here.relative, tol)
    return Polished(
        w,
        objective.loss(w),
        here.gradient_norm,
        initial,
        here.relative,
        found.n_iter + n_iter,
        "kinks",
        False,
        status,
    )


def _polished(
    objective: Objective,
    weights: Array,
    tol: float,
    warm: bool,
    keep_index: bool,
    nearby: PseudoInverse | None,
    initial_curvature: float,
) -> Polished:
    start = np.asarray(weights, dtype=np.float64)
    initial = float(np.linalg.norm(objective.gradient(start)))
    w, n_iter, methods, here = start, 0, [], None
    for name, step in _plan(objective, start, warm, keep_index, nearby):
        w, iterations = step(objective, w, tol)
        here = None
        n_iter += iterations
        methods.append(name)
        if name in ("lbfgs", "scaled"):
            # L-BFGS is followed by Newton, except towards infinity; from the start
            # where a long step took it to another scale of weights.
            if runs_away(objective, w) or _falls_for_ever(objective, w):
                break
            if np.linalg.norm(w) > _STRAYED * (1.0 + np.linalg.norm(start)):
                w = start
            elif name == "scaled":
                # Which ends at rounding where the minimum is an ordinary one.
                here = _Place.of(objective, w)
                if here.relative <= min(tol, _AT_ROUNDING):
                    break
        else:
            here = _Place.of(objective, w)
            if here.relative <= tol:
                break
    here = here or _Place.of(objective, w)
    report = _report(objective, w, initial, n_iter, "+".join(methods), tol, here)
    if here.hessian_norm < _SATURATED * initial_curvature:
        return replace(report, converged=False, status=_SATURATION)
    return report


def _falls_for_ever(objective: Objective, w: Array) -> bool:
    """Whether descent that has not come near a minimiser of a large net never will.

    Rows of equal inputs and unequal classes keep a loss from falling to 0 that has no
    minimiser all the same. Of ReLU nets: R jumps too often for Newton to tell.
    """
    if objective.n_params <= SMALL or not objective.has_ramps:
        return False
    if not _is_free(objective, w) or is_quadratic_interpolation(objective, w):
        return False
    return _Place.of(objective, w).relative > _NEAR


def _plan(
    objective: Objective,
    w: Array,
    warm: bool,
    keep_index: bool,
    nearby: PseudoInverse | None,
) -> list:
    plan: list = []
    interpolates = is_quadratic_interpolation(objective, w)
    # Along ker H chord steps stay where they are; Newton's would drift with the
    # rounding of null eigenvalues.
    if nearby is not None and not (interpolates and nearby.kernel_dim):
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
    free = large and _is_free(objective, w)
    if not warm:
        of_free = partial(_lbfgs, *_LBFGS_OF_FREE)
        plan.append(("lbfgs", of_free if free else _coarse_lbfgs))
        if not free and _wants_scales(objective):
            plan.append(("scaled", _scaled))
    if not free and _forms_late(objective):
        krylov = partial(trust_region_newton, by_products=True, max_iter=_KRYLOV)
        last = partial(trust_region_newton, max_iter=_FEW_HESSIANS)
        return [*plan, ("krylov", krylov), ("newton", last)]
    if not warm and not free and objective.n_params > MAX_DENSE:
        return [*plan, ("newton", _newton_after_descent)]
    return [*plan, ("newton", partial(trust_region_newton, by_products=free))]


@dataclass(frozen=True)
class _Place:
    """Norms of R and H at some weights, and how stationary they are."""

    gradient_norm: float
    hessian_norm: float
    relative: float

    @classmethod
    def of(cls, objective: Objective, w: Array) -> Self:
        R, H = float(np.linalg.norm(objective.gradient(w))), objective.hessian_norm(w)
        return cls(R, H, stationarity(objective, w, R, H))


def _report(
    objective: Objective,
    w: Array,
    initial: float,
    n_iter: int,
    method: str,
    tol: float,
    here: _Place,
) -> Polished:
    converged = bool(here.relative <= tol)
    status = "stationary" if converged else _why_not(objective, w, here.relative, tol)
    return Polished(
        w,
        objective.loss(w),
        here.gradient_norm,
        initial,
        here.relative,
        n_iter,
        method,
        converged,
        status,
    )


def _why_not(objective: Objective, w: Array, relative: float, tol: float) -> str:
    head = f"not stationary: relative gradient {relative:.2g} > tol {tol:.2g}"
    if not np.isfinite(objective.loss(w)):
        return f"{head}; the loss is not finite, lower the learning rate"
    if runs_away(objective, w):
        return (
            f"{head}; the loss still falls as the weights grow (separable data has no "
            "finite minimiser): add weight decay to the optimizer"
        )
    kinked, total = objective.kinked_preactivations(w)
    if kinked:
        return (
            f"{head}; {kinked} of {total} pre-activations sit on a kink, where R "
            "jumps: use a smooth activation (tanh, softplus)"
        )
    return f"{head}; train longer, add weight decay, or loosen tol"


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
    if _Place.of(objective, w).relative <= tol:
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


def _scaled(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    return scaled_lbfgs(objective, w)


def _coarse_lbfgs(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    if objective.n_params > MAX_DENSE:
        scaled, n_iter = gauss_newton_lbfgs(objective, w)
        if n_iter:
            return scaled, n_iter
    size = "small" if objective.n_params <= SMALL else "large"
    if _wants_scales(objective):
        size = "scaled"
    return _lbfgs(*_LBFGS_BEFORE_NEWTON[size], objective, w, tol)


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
        if not shrank and _Place.of(objective, w).relative <= tol:
            break
    return w, n_iter
