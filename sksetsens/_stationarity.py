"""From trained weights to stationary ones: full-batch second-order polishing.

The theory speaks of zeros of the first-order residual R. Stochastic optimisers stop
far from them, and a prediction from weights with R != 0 is worthless at every
perturbation size, so each training is followed by one of

- Levenberg-Marquardt with the step taken in the dual, where a quadratic loss has
  fewer outputs than weights (interpolation);
- Newton on the exact Hessian, with ``|lambda| + mu`` where it is indefinite, up to
  `NEWTON_MAX_PARAMS` weights;
- L-BFGS, before Newton from a cold start, and alone beyond that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from ._objective import Objective
from .linalg import SymmetricPseudoInverse

__all__ = ["NEWTON_MAX_PARAMS", "Polished", "polish", "stationarity"]

Array = NDArray[np.float64]

NEWTON_MAX_PARAMS = 3000
_LM_MAX_ITER = 60
_NEWTON_MAX_ITER = 30
_LBFGS_MAX_ITER = 2000
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

    Returns
    -------
    polished : Polished
    """
    start = np.asarray(weights, dtype=np.float64)
    initial = float(np.linalg.norm(objective.gradient(start)))
    w, n_iter, methods = start, 0, []
    for name, step in _plan(objective, start, warm, keep_index):
        w, iterations = step(objective, w, tol)
        n_iter += iterations
        methods.append(name)
        if name == "lbfgs":
            # L-BFGS stops at tol; the Newton steps after it reach rounding.
            if _runs_away(objective, w):
                break
        elif _relative(objective, w) <= tol:
            break
    return _report(objective, w, initial, n_iter, "+".join(methods), tol)


def _plan(objective: Objective, w: Array, warm: bool, keep_index: bool) -> list:
    if keep_index and objective.n_params <= NEWTON_MAX_PARAMS:
        return [("newton-root", _newton_root)]
    plan: list = []
    if _is_quadratic_interpolation(objective, w):
        plan.append(("levenberg-marquardt", _levenberg_marquardt))
    newton = objective.n_params <= NEWTON_MAX_PARAMS
    if not (warm and newton):
        plan.append(("lbfgs", _lbfgs))
    if newton:
        plan.append(("newton", _newton))
    return plan


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
    return further < 0.5 * here and here > np.finfo(float).eps


# Levenberg-Marquardt in the dual -------------------------------------------------


def _is_quadratic_interpolation(objective: Objective, w: Array) -> bool:
    """Fewer outputs than weights, no penalty, and Lambda > 0 the same everywhere."""
    m = objective.n_samples * objective.n_outputs
    if m >= objective.n_params or objective.is_tilted or objective.is_penalised(w):
        return False
    if not objective.is_separable(w):
        return False
    here, there = objective.output_hessian(w), objective.output_hessian(1.1 * w + 0.1)
    if not np.allclose(here, there, rtol=1e-10):
        return False
    return bool(np.linalg.eigvalsh(here).min() > 0)


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


# L-BFGS and Newton -----------------------------------------------------------------


def _lbfgs(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    scale = objective.hessian_norm(w) * (1.0 + float(np.linalg.norm(w)))
    result = scipy.optimize.minimize(
        objective.value_and_gradient,
        w,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": _LBFGS_MAX_ITER,
            "maxfun": 2 * _LBFGS_MAX_ITER,
            "maxcor": 30,
            "ftol": 0.0,
            "gtol": tol * scale / np.sqrt(w.size),
        },
    )
    return (result.x if np.isfinite(result.fun) else w), int(result.nit)


def _newton(objective: Objective, w: Array, tol: float) -> tuple[Array, int]:
    """Newton with ``(|lambda| + mu)^-1``, mu the relative gradient times |H|_2.

    mu proportional to |R| keeps steps along ker H bounded and the convergence
    quadratic (Levenberg's choice); |lambda| turns negative curvature downhill.
    """
    value, gradient = objective.value_and_gradient(w)
    best, best_norm, since_best = w, float(np.linalg.norm(gradient)), 0
    n_iter = 0
    while n_iter < _NEWTON_MAX_ITER:
        n_iter += 1
        step = _newton_step(objective, w, gradient)
        w, value, gradient = _backtrack(objective, w, value, gradient, step)
        norm = float(np.linalg.norm(gradient))
        shrank = norm < _STILL_SHRINKING * best_norm
        since_best = 0 if norm < best_norm else since_best + 1
        if norm < best_norm:
            best, best_norm = w, norm
        done = stationarity(objective, best, best_norm) <= tol
        if (done and not shrank) or since_best >= _PATIENCE or best_norm == 0.0:
            break
    return best, n_iter


def _newton_step(objective: Objective, w: Array, gradient: Array) -> Array:
    H = objective.hessian(w)
    mu = float(np.linalg.norm(gradient)) / (1.0 + float(np.linalg.norm(w)))
    try:
        # Cholesky costs a tenth of the eigendecomposition, where H is positive.
        factor = scipy.linalg.cho_factor(H, lower=True)
        if np.diag(factor[0]).min() ** 2 > 1e-10 * np.abs(np.diag(H)).max():
            return -scipy.linalg.cho_solve(factor, gradient)
    except np.linalg.LinAlgError:
        pass
    eigenvalues, vectors = scipy.linalg.eigh(H, driver="evd")
    # The floor keeps rounding of null eigenvalues from blowing up noise in R.
    floor = max(mu, H.shape[0] * np.finfo(float).eps * np.abs(eigenvalues).max())
    return -vectors @ ((vectors.T @ gradient) / (np.abs(eigenvalues) + floor))


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


def _backtrack(
    objective: Objective, w: Array, value: float, gradient: Array, step: Array
) -> tuple[Array, float, Array]:
    """Halve the step until the loss, or near its rounding |R|, falls."""
    slope, norm = float(gradient @ step), float(np.linalg.norm(gradient))
    t = 1.0
    for _ in range(30):
        candidate = w + t * step
        new_value, new_gradient = objective.value_and_gradient(candidate)
        fell = new_value <= value + 1e-4 * t * slope
        flat = abs(new_value - value) <= 1e-12 * (1e-300 + abs(value))
        if fell or (flat and np.linalg.norm(new_gradient) < norm):
            break
        t *= 0.5
    return candidate, new_value, new_gradient
