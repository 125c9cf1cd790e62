"""From trained weights to stationary ones: full-batch second-order polishing.

The theory speaks of zeros of the first-order residual R. Stochastic optimisers stop
far from them, and a prediction from weights with R != 0 is worthless at every
perturbation size, so each training is followed by one of

- Levenberg-Marquardt with the step taken in the dual, where a quadratic loss has
  fewer outputs than weights (interpolation);
- trust-region Newton on the exact Hessian, up to `NEWTON_MAX_PARAMS` weights;
- L-BFGS, before Newton from a cold start, and alone beyond that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from ._objective import Objective
from .linalg import PseudoInverse, SymmetricPseudoInverse

__all__ = ["NEWTON_MAX_PARAMS", "Polished", "polish", "stationarity"]

Array = NDArray[np.float64]

NEWTON_MAX_PARAMS = 3000
_LM_MAX_ITER = 60
_NEWTON_MAX_ITER = 30
_CHORD_MAX_ITER = 200
_LBFGS_MAX_ITER = 2000
# Before Newton, L-BFGS only has to reach its neighbourhood: closer where a Hessian
# costs as much as a thousand gradients.
_LBFGS_BEFORE_NEWTON = {"small": (1e-4, 300), "large": (1e-8, 3000)}
_SMALL = 300
# Relative stationarity at which no step can gain anything: rounding.
_ROUNDING = 1e-15
# Polishing goes on below tol while a step still shrinks |R| by this factor: the last
# quadratically convergent steps are what takes |R| from 1e-10 to rounding.
_STILL_SHRINKING = 0.5
# Iterations without a new smallest |R| after which the iteration has stalled.
_PATIENCE = 6


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


def stationarity(objective: Objective, weights: Array, gradient_norm: float) -> float:
    r"""Relative stationarity :math:`|R| / (|H|_2 (1 + |w|))`.

    The numerator over :math:`|H|_2` is the length of the Newton step along the
    stiffest direction, so that the ratio compares movements of the weights: it does
    not change with the loss's scale, the batch size or duplicated rows, and it does
    not fall when loss and Hessian vanish together (separable classes without a
    penalty), where the weights run to infinity. 0/0 counts as 0.
    """
    if gradient_norm == 0.0:
        return 0.0
    scale = objective.hessian_norm(weights) * (1.0 + float(np.linalg.norm(weights)))
    return gradient_norm / scale if scale > 0 else np.inf


def polish(
    objective: Objective,
    weights: Array,
    *,
    tol: float,
    warm: bool = False,
    keep_index: bool = False,
    nearby: PseudoInverse | None = None,
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
        Factorised Hessian at a point close by. Where it is nonsingular, the solution
        is locally unique and steps with this one factorisation reach it.

    Returns
    -------
    polished : Polished
    """
    start = np.asarray(weights, dtype=np.float64)
    initial = float(np.linalg.norm(objective.gradient(start)))
    w, n_iter, methods = start, 0, []
    for name, step in _plan(objective, start, warm, keep_index, nearby):
        w, iterations = step(objective, w, tol)
        n_iter += iterations
        methods.append(name)
        if name == "lbfgs":
            # L-BFGS is followed by Newton, except towards infinity.
            if _runs_away(objective, w):
                break
        elif _relative(objective, w) <= tol:
            break
    return _report(objective, w, initial, n_iter, "+".join(methods), tol)


def _plan(
    objective: Objective,
    w: Array,
    warm: bool,
    keep_index: bool,
    nearby: PseudoInverse | None,
) -> list:
    plan: list = []
    if nearby is not None and nearby.kernel_dim == 0:
        plan.append(("chord", partial(_chord, nearby)))
    if keep_index and objective.n_params <= NEWTON_MAX_PARAMS:
        return [*plan, ("newton-root", _newton_root)]
    if _is_quadratic_interpolation(objective, w):
        plan.append(("levenberg-marquardt", _levenberg_marquardt))
    if objective.n_params > NEWTON_MAX_PARAMS:
        return [*plan, ("lbfgs", _lbfgs)]
    if not warm:
        plan.append(("lbfgs", _coarse_lbfgs))
    return [*plan, ("newton", _newton)]


def _relative(objective: Objective, w: Array) -> float:
    return stationarity(objective, w, float(np.linalg.norm(objective.gradient(w))))


def _report(
    objective: Objective, w: Array, initial: float, n_iter: int, method: str, tol: float
) -> Polished:
    norm = float(np.linalg.norm(objective.gradient(w)))
    relative = stationarity(objective, w, norm)
    converged = bool(relative <= tol)
    status = "stationary" if converged else _why_not(objective, w, relative, tol)
    return Polished(
        w,
        objective.loss(w),
        norm,
        initial,
        relative,
        n_iter,
        method,
        converged,
        status,
    )


def _why_not(objective: Objective, w: Array, relative: float, tol: float) -> str:
    head = f"not stationary: relative gradient {relative:.2g} > tol {tol:.2g}"
    if not np.isfinite(relative):
        return f"{head}; the loss is not finite, lower the learning rate"
    if _runs_away(objective, w):
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


def _runs_away(objective: Objective, w: Array) -> bool:
    """Whether scaling the weights up by half at least halves the loss."""
    if objective.is_tilted or objective.decay.any():
        return False
    here, further = objective.loss(w), objective.loss(1.5 * w)
    return bool(further < 0.5 * here and here > np.finfo(float).eps)


# Levenberg-Marquardt in the dual -------------------------------------------------


def _is_quadratic_interpolation(objective: Objective, w: Array) -> bool:
    """Fewer outputs than weights, no penalty, and Lambda > 0 the same everywhere."""
    m = objective.n_samples * objective.n_outputs
    if m >= objective.n_params or objective.is_tilted or objective.is_penalised(w):
        return False
    if not objective.is_separable(w):
        return False
    here, there = objective.output_hessian(w), objective.output_hessian(1.1 * w + 0.1)
    constant = bool(np.allclose(here, there, rtol=1e-10))
    return constant and float(np.linalg.eigvalsh(here).min()) > 0.0


def _levenberg_marquardt(
    objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """Gauss-Newton steps ``-A'(AA' + mu I)^-1 rho`` with ``A = SJ``, ``S'S = Lambda``.

    ``rho = S^-T r`` makes the loss ``|rho|^2 / 2``; the system has one row per
    output, whatever the number of weights.
    """
    blocks = np.linalg.cholesky(objective.output_hessian(w)).transpose(0, 2, 1)

    def residual(at: Array) -> Array:
        r = objective.output_gradient(at)
        return np.linalg.solve(blocks.transpose(0, 2, 1), r[..., None])[..., 0].ravel()

    rho, mu, n_iter = residual(w), 1e-3, 0
    while n_iter < _LM_MAX_ITER:
        n_iter += 1
        factor = blocks @ objective.jacobian(w)
        factor = factor.reshape(-1, objective.n_params)
        gram = factor @ factor.T
        scale = float(np.trace(gram)) / len(gram)
        accepted = False
        while not accepted and mu < 1e8:
            damped = gram + mu * scale * np.eye(len(gram))
            try:
                solve = scipy.linalg.cho_factor(damped, lower=True)
            except np.linalg.LinAlgError:
                mu *= 10.0
                continue
            candidate = w - factor.T @ scipy.linalg.cho_solve(solve, rho)
            moved = residual(candidate)
            accepted = bool(np.linalg.norm(moved) < np.linalg.norm(rho))
            mu = max(mu / 10.0, 1e-15) if accepted else mu * 10.0
        if not accepted:
            break
        shrank = np.linalg.norm(moved) < _STILL_SHRINKING * np.linalg.norm(rho)
        w, rho = candidate, moved
        if not shrank and _relative(objective, w) <= tol:
            break
    return w, n_iter


# Chord, L-BFGS and Newton ----------------------------------------------------------


def _chord(
    nearby: PseudoInverse, objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """``w -= H^-1 R(w)`` with H from nearby, while it shrinks |R|."""
    gradient = objective.gradient(w)
    n_iter = 0
    while n_iter < _CHORD_MAX_ITER:
        candidate = w - nearby.apply(gradient)
        moved = objective.gradient(candidate)
        n_iter += 1
        if not np.linalg.norm(moved) < 0.8 * np.linalg.norm(gradient):
            break
        w, gradient = candidate, moved
    return w, n_iter


def _coarse_lbfgs(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    size = "small" if objective.n_params <= _SMALL else "large"
    coarse, max_iter = _LBFGS_BEFORE_NEWTON[size]
    return _lbfgs(objective, w, max(tol, coarse), max_iter)


def _lbfgs(
    objective: Objective, w: Array, tol: float, max_iter: int = _LBFGS_MAX_ITER
) -> tuple[Array, int]:
    scale = objective.hessian_norm(w) * (1.0 + float(np.linalg.norm(w)))
    result = scipy.optimize.minimize(
        objective.value_and_gradient,
        w,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": max_iter,
            "maxfun": 2 * max_iter,
            "maxcor": 30,
            "ftol": 0.0,
            "gtol": tol * scale / np.sqrt(w.size),
        },
    )
    return (result.x if np.isfinite(result.fun) else w), int(result.nit)


def _newton(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    """Trust-region Newton on the exact Hessian, with exact subproblems.

    Conn, Gould and Toint, "Trust-Region Methods" (2000), Algorithm 6.1.1: negative
    curvature is followed downhill, and valleys are taken in few steps.
    """
    value, gradient = objective.value_and_gradient(w)
    norm = best_norm = float(np.linalg.norm(gradient))
    best, since_best, n_iter = w, 0, 0
    radius = 1.0 + float(np.linalg.norm(w))
    while n_iter < _newton_budget(objective.n_params) and norm > 0.0:
        n_iter += 1
        model = _QuadraticModel(objective.hessian(w), gradient, w)
        previous = value
        w, value, gradient, radius = _trusted_step(objective, model, w, value, radius)
        norm = float(np.linalg.norm(gradient))
        shrank = norm < _STILL_SHRINKING * best_norm
        # In a curved valley |R| rises while the loss falls: that is progress too.
        progress = norm < best_norm or previous - value > 1e-6 * abs(previous)
        since_best = 0 if progress else since_best + 1
        if norm < best_norm:
            best, best_norm = w, norm
        relative = stationarity(objective, best, best_norm)
        done = relative <= tol and (not shrank or relative <= _ROUNDING)
        if done or since_best >= _PATIENCE or radius == 0.0:
            break
    return best, n_iter


def _newton_budget(n_params: int) -> int:
    """Iterations allowed: many where an iteration costs milliseconds."""
    return _NEWTON_MAX_ITER * (5 if n_params <= _SMALL else 1)


class _QuadraticModel:
    """``g's + s'Hs / 2``, minimised over balls ``|s| <= radius``."""

    def __init__(self, H: Array, gradient: Array, w: Array) -> None:
        self.H, self.gradient = H, gradient
        # Levenberg's shift, proportional to |R|, bounds steps along ker H and keeps
        # the convergence quadratic; the floor keeps rounding of null eigenvalues from
        # blowing up noise in R.
        norm = float(np.linalg.norm(gradient))
        self._shift = norm / (1.0 + float(np.linalg.norm(w)))
        self._spectrum: tuple[Array, Array, Array] | None = None

    def minimiser(self, radius: float) -> Array:
        """Step of length at most ``radius``."""
        if self._spectrum is None:
            step = self._cholesky_step()
            if step is not None and np.linalg.norm(step) <= radius:
                return step
            eigenvalues, vectors = scipy.linalg.eigh(self.H, driver="evd")
            self._spectrum = eigenvalues, vectors, vectors.T @ self.gradient
        eigenvalues, vectors, g = self._spectrum
        eps = eigenvalues.size * np.finfo(float).eps * float(np.abs(eigenvalues).max())
        lowest = max(self._shift, eps, np.finfo(float).tiny)
        lowest += max(0.0, -float(eigenvalues[0]))
        excess = self._excess_length(lowest, radius)
        if excess > 0.0:
            # |s(sigma)| <= |g| / (sigma + lambda_min) ends the bracket.
            high = lowest + float(np.linalg.norm(g)) / radius
            lowest = scipy.optimize.brentq(
                self._excess_length, lowest, high, args=(radius,), rtol=1e-3
            )
        return -vectors @ (g / (eigenvalues + lowest))

    def _excess_length(self, sigma: float, radius: float) -> float:
        eigenvalues, _, g = self._spectrum  # type: ignore[misc]
        return float(np.linalg.norm(g / (eigenvalues + sigma))) - radius

    def _cholesky_step(self) -> Array | None:
        """Newton's step at a tenth of the eigendecomposition's cost, if H > 0."""
        try:
            factor = scipy.linalg.cho_factor(self.H, lower=True)
        except np.linalg.LinAlgError:
            return None
        if np.diag(factor[0]).min() ** 2 <= 1e-10 * np.abs(np.diag(self.H)).max():
            return None
        return -scipy.linalg.cho_solve(factor, self.gradient)

    def decrease(self, step: Array) -> float:
        """Decrease of the objective that the model promises."""
        return -float(self.gradient @ step + 0.5 * step @ (self.H @ step))


def _trusted_step(
    objective: Objective, model: _QuadraticModel, w: Array, value: float, radius: float
) -> tuple[Array, float, Array, float]:
    """Shrink the ball until the loss, or near its rounding |R|, falls."""
    norm = float(np.linalg.norm(model.gradient))
    while radius > 1e-14 * (1.0 + float(np.linalg.norm(w))):
        step = model.minimiser(radius)
        length = float(np.linalg.norm(step))
        new_value, new_gradient = objective.value_and_gradient(w + step)
        promised = model.decrease(step)
        ratio = (value - new_value) / promised if promised > 0 else 0.0
        rounding = abs(new_value - value) <= 1e-12 * (1e-300 + abs(value))
        better = rounding and float(np.linalg.norm(new_gradient)) < norm
        if ratio > 0.75 and length > 0.9 * radius:
            radius *= 2.0
        if ratio > 1e-4 or better:
            return w + step, new_value, new_gradient, radius
        radius = 0.25 * min(radius, length)
    return w, value, model.gradient, 0.0


def _newton_root(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    """Newton on R = 0 with the pseudo-inverse, whatever the sign of curvature."""
    gradient = objective.gradient(w)
    n_iter = 0
    while n_iter < _NEWTON_MAX_ITER:
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
        shrank = np.linalg.norm(gradient) < _STILL_SHRINKING * norm
        if not shrank and _relative(objective, w) <= tol:
            break
    return w, n_iter
