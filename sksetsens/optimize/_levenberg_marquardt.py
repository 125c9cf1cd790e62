r"""Levenberg-Marquardt with the step taken in the dual: polishing at interpolation.

A step ``-A'(A A' + mu I)^-1 rho`` with ``A = S J``, ``S'S = Lambda``, solves a system
with one row per output, whatever the number of weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..linalg import KrylovInverse, KrylovSettings, probe
from ..objective import Objective, PointProducts
from ._stationarity import STILL_SHRINKING, stationarity

__all__ = ["is_quadratic_interpolation", "levenberg_marquardt"]

Array = NDArray[np.float64]
# (damping, right-hand side) -> step
Solve = Callable[[float, Array], Array]

_MAX_ITER = 60
# Share of the working memory up to which the outputs' Jacobian is formed.
_JACOBIAN_SHARE = 0.5
# Relative residual of steps by products: an inexact step is as good while far away.
_STEP_TOL = 1e-6
_STEP_MAX_ITER = 300


def is_quadratic_interpolation(objective: Objective, w: Array) -> bool:
    """Fewer outputs than weights, no penalty, and Lambda > 0 the same everywhere."""
    m = objective.n_equations
    if m >= objective.n_params or objective.is_tilted or objective.is_penalised(w):
        return False
    if not objective.is_separable(w):
        return False
    here, there = objective.output_hessian(w), objective.output_hessian(1.1 * w + 0.1)
    constant = bool(np.allclose(here, there, rtol=1e-10))
    return constant and float(np.linalg.eigvalsh(here).min()) > 0.0


def levenberg_marquardt(
    objective: Objective, w: Array, tol: float
) -> tuple[Array, int]:
    """Drive the residuals of a quadratic loss to zero.

    Parameters
    ----------
    objective : Objective
        As `is_quadratic_interpolation` asks.
    w : ndarray of shape (p,)
        Start.
    tol : float
        Relative stationarity asked for; near it steps go on while they halve |rho|.

    Returns
    -------
    w : ndarray of shape (p,)
    n_iter : int
    """
    # rho = S^-T r makes the loss |rho|^2 / 2.
    lower = np.linalg.cholesky(objective.output_hessian(w))
    blocks = np.asarray(lower.transpose(0, 2, 1), dtype=np.float64)

    def residual(at: Array) -> Array:
        r = objective.output_gradient(at)
        rho = np.linalg.solve(blocks.transpose(0, 2, 1), r[..., None])
        return np.asarray(rho.ravel(), dtype=np.float64)

    rho, mu, n_iter = residual(w), 1e-3, 0
    first = np.linalg.norm(rho)
    while n_iter < _MAX_ITER:
        n_iter += 1
        solve = _steps(objective, w, blocks)
        accepted = False
        while not accepted and mu < 1e8:
            try:
                candidate = w - solve(mu, rho)
            except np.linalg.LinAlgError:
                mu *= 10.0
                continue
            moved = residual(candidate)
            accepted = bool(np.linalg.norm(moved) < np.linalg.norm(rho))
            mu = max(mu / 10.0, 1e-15) if accepted else mu * 10.0
        if not accepted:
            break
        shrank = np.linalg.norm(moved) < STILL_SHRINKING * np.linalg.norm(rho)
        w, rho = candidate, moved
        # |H| costs several gradients: ask only where the answer can be yes.
        near = np.linalg.norm(rho) <= np.sqrt(tol) * first
        if not shrank and near:
            norm = float(np.linalg.norm(objective.gradient(w)))
            if stationarity(objective, w, norm) <= tol:
                break
    return w, n_iter


def _steps(objective: Objective, w: Array, blocks: Array) -> Solve:
    """Damped steps at one point: by a Cholesky factor, or by products."""
    needed = 8 * objective.n_equations * objective.n_params
    if needed <= objective.budget(_JACOBIAN_SHARE):
        return _factorised_steps(objective, w, blocks)
    return _iterated_steps(objective, w, blocks)


def _factorised_steps(objective: Objective, w: Array, blocks: Array) -> Solve:
    factor = (blocks @ objective.jacobian(w)).reshape(-1, objective.n_params)
    gram = factor @ factor.T
    scale = float(np.trace(gram)) / len(gram)

    def solve(mu: float, rho: Array) -> Array:
        damped = gram + mu * scale * np.eye(len(gram))
        lower = scipy.linalg.cho_factor(damped, lower=True)
        return factor.T @ scipy.linalg.cho_solve(lower, rho)

    return solve


def _iterated_steps(objective: Objective, w: Array, blocks: Array) -> Solve:
    products = PointProducts(objective, w)

    def pull(u: Array) -> Array:
        rows = blocks.transpose(0, 2, 1) @ u.reshape(*blocks.shape[:2], 1)
        return products.jacobian_adjoint(rows[..., 0])

    def gram(u: Array) -> Array:
        return (blocks @ products.jacobian(pull(u))[..., None]).ravel()

    # The mean eigenvalue, from one random vector.
    z = probe(objective.n_equations)
    scale = float(z @ gram(z)) / len(z)
    settings = KrylovSettings(_STEP_TOL, _STEP_MAX_ITER, objective.budget(0.5))

    def solve(mu: float, rho: Array) -> Array:
        inverse = KrylovInverse(
            lambda u: gram(u) + mu * scale * u, len(rho), settings=settings
        )
        return pull(inverse.least_squares(rho).value)

    return solve
