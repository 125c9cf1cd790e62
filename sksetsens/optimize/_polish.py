"""From trained weights to stationary ones: full-batch second-order polishing.

The theory speaks of zeros of the first-order residual R. Stochastic optimisers stop
far from them, and a prediction from weights with R != 0 is worthless at every
perturbation size, so each training is followed by one of

- Levenberg-Marquardt with the step taken in the dual, where a quadratic loss has
  fewer outputs than weights (interpolation);
- trust-region Newton on the exact Hessian, dense or on Krylov spaces;
- L-BFGS, before Newton from a cold start: in the scales of the curvature where a
  Hessian costs hundreds of gradients, from Gauss-Newton's matrix where it does not fit;
- a homotopy to the kinks of nets with ramps, and Newton on these.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..exceptions import UnsupportedObjectiveError
from ..linalg import PseudoInverse, probe
from ..objective import Kinks, Objective, PointProducts
from ._active_set import ActiveSet
from ._kink_newton import KinkSolution
from ._kinks import continued_on_kinks, minimised_on_kinks
from ._lbfgs import lbfgs
from ._levenberg_marquardt import is_quadratic_interpolation
from ._plan import LBFGS_OF_FREE, is_free, planned_steps
from ._stationarity import Place, runs_away, stationarity
from ._trust_region import SMALL

__all__ = [
    "Polished",
    "check_curvature",
    "polish",
    "stationarity",
]

Array = NDArray[np.float64]

# Weights up to which the kinks of minimisers are solved for.
MAX_ON_KINKS = 20_000
# Relative gradient below which no step of Newton's gains anything.
_AT_ROUNDING = 1e-15
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
    return not (is_free(objective, w) or runs_away(objective, w))


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
    here = Place.of(gated, w)
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
    descended, n_iter = lbfgs(objective, start, tol, LBFGS_OF_FREE[1])
    candidates = [start, descended, found.weights]
    losses = [objective.loss(v) for v in candidates]
    w = candidates[int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))]
    here = Place.of(objective, w)
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
    for name, step in planned_steps(objective, start, warm, keep_index, nearby):
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
                here = Place.of(objective, w)
                if here.relative <= min(tol, _AT_ROUNDING):
                    break
        else:
            here = Place.of(objective, w)
            if here.relative <= tol:
                break
    here = here or Place.of(objective, w)
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
    if not is_free(objective, w) or is_quadratic_interpolation(objective, w):
        return False
    return Place.of(objective, w).relative > _NEAR


def _report(
    objective: Objective,
    w: Array,
    initial: float,
    n_iter: int,
    method: str,
    tol: float,
    here: Place,
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
