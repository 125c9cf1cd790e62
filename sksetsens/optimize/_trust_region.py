"""Newton's method on the exact Hessian in a trust region, dense or by products."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Protocol, cast

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from .._progress import progress
from ..linalg import Lanczos, Lifted, ResidualNorms, probe
from ..objective import Objective, PointProducts
from ._gauss_newton_lbfgs import lifted_gauss_newton
from ._scales import weight_scales
from ._some_weights import Function
from ._stationarity import STILL_SHRINKING

__all__ = ["MAX_DENSE", "SMALL", "trust_region_newton"]

Array = NDArray[np.float64]

_NEWTON_MAX_ITER = 30
# Iterations of a net of ramps that is close to a solution, or never will be.
_FEW = 8
# Iterations where the gradient must be small, whatever they cost.
_PATIENT = 200
# Weights up to which a Hessian costs milliseconds, and iterations are plentiful.
SMALL = 300
# Weights up to which H is formed; beyond it is projected on a Krylov space.
MAX_DENSE = 3000
# Products per projected step, and what they leave of |R|: a tenth from afar, less the
# nearer the solution is, for superlinear convergence (Eisenstat and Walker 1996).
_KRYLOV_STEPS = 200
_FORCING = 0.1
# Products of one step from which the matrix whose scales it took is no longer near H.
_STALE = 40
# Relative stationarity at which no step can gain anything: rounding; and at which none
# is worth the hundreds of products that it takes where H does not fit.
_ROUNDING, _ENOUGH_BY_PRODUCTS = 1e-15, 1e-12
# Relative step below which Newton, at quadratic convergence, has arrived.
_STILL = 1e-8
# An iteration that has used its budget goes on, a third of it at a time and up to so
# many times as long, while each part leaves this share of |R| or less.
_EXTENSIONS = 4
_WORTH_MORE = 0.1
# Steps with the last Hessian, one gradient each; they end where they gain nothing.
_LAST_STEPS = 10
# Eigenvalues of the last Hessian below this share, and this many times the relative
# stationarity, of |H| are noise: no step is taken along them.
_NULL = 1000 * float(np.finfo(np.float64).eps)
_NULL_PER_STATIONARITY = 100.0
# Relative fall of the loss that is progress; of a smoothed net, whose valleys are as
# narrow as epsilon.
_FALL, _SMALL_FALL = 1e-6, 1e-12
# Iterations without progress after which the iteration has stalled.
_PATIENCE = 6


def trust_region_newton(
    objective: Function,
    w: Array,
    tol: float,
    *,
    enough: float = 0.0,
    by_products: bool = False,
    max_iter: int | None = None,
) -> tuple[Array, int]:
    """Trust-region Newton on the exact Hessian, with exact subproblems.

    Above 3000 weights the subproblems are those on a Krylov space of the gradient, in
    the scales of Gauss-Newton's matrix where that has a cheap form. Below, the last
    Hessian serves for a few steps more, to rounding; and where weights differ in scale
    by decades, the iteration goes on in their own scales, since the gradient's norm is
    blind to those of small scale.

    Conn, Gould and Toint, "Trust-Region Methods" (2000), Algorithm 6.1.1: negative
    curvature is followed downhill, and valleys are taken in few steps.

    Parameters
    ----------
    objective : Objective or SomeWeights
    w : ndarray of shape (p,)
        Start.
    tol : float
        Relative stationarity asked for; the iteration goes on below it while steps
        still move the weights, to rounding.
    enough : float, default=0.0
        Where positive, ``|R|`` at which it ends, whatever the tolerance.
    by_products : bool, default=False
        Solve on Krylov spaces whatever the size, as where H is of low rank.
    max_iter : int, default=None
        Iterations after which it must shrink the gradient at a pace to go on. None for
        as many as the size and what is asked for are worth.

    Returns
    -------
    w : ndarray of shape (p,)
        Point with the smallest gradient.
    n_iter : int
    """
    problem = _Problem(objective, by_products=by_products)
    if by_products and max_iter is None and objective.n_params <= MAX_DENSE:
        max_iter = _FEW
    w, n_iter, model = _iterate(problem, w, tol, enough, max_iter=max_iter)
    if enough or not isinstance(model, _QuadraticModel):
        return w, n_iter
    scales = weight_scales(cast(Objective, objective), model.at, model.H)
    if scales is None:
        return w, n_iter
    u, more, _ = _iterate(_Problem(objective, scales), w / scales, tol)
    return u * scales, n_iter + more


class _Problem:
    """The objective as a function of ``u = w / scales``.

    Parameters
    ----------
    objective : Objective
    scales : ndarray of shape (p,), default=None
        None for the weights as they are.
    by_products : bool, default=False
    """

    def __init__(
        self,
        objective: Function,
        scales: Array | None = None,
        *,
        by_products: bool = False,
    ) -> None:
        self._objective, self._scales = objective, scales
        self.n_params = objective.n_params
        self._by_products = by_products or self.n_params > MAX_DENSE
        self._near: Lifted | None = None
        self._has_near = self.n_params > MAX_DENSE

    def value_and_gradient(self, u: Array) -> tuple[float, Array]:
        if self._scales is None:
            return self._objective.value_and_gradient(u)
        value, gradient = self._objective.value_and_gradient(u * self._scales)
        return value, gradient * self._scales

    def model(self, gradient: Array, u: Array) -> _Model:
        if self._scales is not None:
            S = self._scales
            H = self._objective.hessian(u * S) * S[:, None] * S
            return _QuadraticModel(H, gradient, u)
        if self._by_products:
            return self._krylov_model(gradient, u)
        return _QuadraticModel(self._objective.hessian(u), gradient, u)

    def _krylov_model(self, gradient: Array, u: Array) -> _KrylovModel:
        objective = cast(Objective, self._objective)
        if self._has_near and self._near is None:
            self._near = lifted_gauss_newton(objective, u)
            self._has_near = self._near is not None
        model = _KrylovModel(objective, gradient, u, self._near)
        if model.n_steps > _STALE:
            self._near = None
        return model


def _iterate(
    problem: _Problem,
    w: Array,
    tol: float,
    enough: float = 0.0,
    *,
    max_iter: int | None = None,
) -> tuple[Array, int, _Model | None]:
    """The iteration in the problem's own units, and its last model."""
    value, gradient = problem.value_and_gradient(w)
    norm = best_norm = float(np.linalg.norm(gradient))
    if norm <= enough:
        return w, 0, None
    best, since_best = w, 0
    radius = np.inf
    usual = _PATIENT if enough else _newton_budget(problem.n_params)
    budget = max_iter or usual
    limit, landmark, n_iter, done = budget, norm, 0, False
    for _ in progress(range(_EXTENSIONS * budget), budget, "newton"):
        if n_iter == limit:
            if best_norm > _WORTH_MORE * landmark:
                break
            limit, landmark = limit + budget // 3, best_norm
        n_iter += 1
        model = problem.model(gradient, w)
        previous, start, radius = value, w, min(radius, model.size)
        w, value, gradient, radius = _trusted_step(problem, model, w, value, radius)
        if isinstance(model, _QuadraticModel) and model.is_definite and not enough:
            w, value, gradient = _chord_steps(problem, model, w, value, gradient)
        norm = float(np.linalg.norm(gradient))
        shrank = norm < STILL_SHRINKING * best_norm
        # In a curved valley |R| rises while the loss falls: that is progress too.
        worth = _FALL if not enough else _SMALL_FALL
        advanced = norm < best_norm or previous - value > worth * abs(previous)
        since_best = 0 if advanced else since_best + 1
        if norm < best_norm:
            best, best_norm = w, norm
        relative = best_norm / max(
            model.norm * (1.0 + float(np.linalg.norm(best))), np.finfo(float).tiny
        )
        length = float(np.linalg.norm(w - start)) / (1.0 + float(np.linalg.norm(w)))
        still = length <= _STILL or not shrank
        large = problem.n_params > MAX_DENSE
        least = _ENOUGH_BY_PRODUCTS if large else _ROUNDING
        done = relative <= tol and (relative <= least or still)
        if enough:
            done = best_norm <= enough
        if done or since_best >= _PATIENCE or radius == 0.0 or norm == 0.0:
            break
    if not enough and done and isinstance(model, _QuadraticModel):
        best, more = _last_steps(problem, model, best)
        n_iter += more
    return best, n_iter, model


def _chord_steps(
    problem: _Problem, model: _QuadraticModel, w: Array, value: float, gradient: Array
) -> tuple[Array, float, Array]:
    """Steps with a definite Hessian again, while they shrink |R| and the loss falls.

    A Hessian costs tens to thousands of gradients, and each step one.
    """
    norm = float(np.linalg.norm(gradient))
    for _ in range(_LAST_STEPS):
        candidate = w - model.solve(gradient, 0.0)
        there, moved = problem.value_and_gradient(candidate)
        left = float(np.linalg.norm(moved))
        if not (left < STILL_SHRINKING * norm and there <= value):
            break
        w, value, gradient, norm = candidate, there, moved, left
    return w, value, gradient


def _last_steps(
    problem: _Problem, model: _QuadraticModel, w: Array
) -> tuple[Array, int]:
    """Steps with the last Hessian as long as they shrink |R|, which ends at rounding.

    What is left of R widens the cut-off under which eigenvalues count as zero, and
    each step costs one gradient.
    """
    gradient = problem.value_and_gradient(w)[1]
    norm = float(np.linalg.norm(gradient))
    for n_iter in range(_LAST_STEPS):
        length = model.norm * (1.0 + float(np.linalg.norm(w)))
        candidate = w - model.solve(gradient, norm / length)
        moved = problem.value_and_gradient(candidate)[1]
        if not float(np.linalg.norm(moved)) < STILL_SHRINKING * norm:
            return w, n_iter
        w, gradient, norm = candidate, moved, float(np.linalg.norm(moved))
    return w, _LAST_STEPS


def _newton_budget(n_params: int) -> int:
    """Iterations allowed: many where an iteration costs milliseconds."""
    return _NEWTON_MAX_ITER * (5 if n_params <= SMALL else 1)


class _Step(NamedTuple):
    """A step, its length in the model's units, and the decrease that it promises."""

    vector: Array
    length: float
    promised: float


class _Model(Protocol):
    gradient: Array
    # 1 + |w| in the units in which steps have their length.
    size: float

    @property
    def norm(self) -> float: ...

    def step(self, radius: float) -> _Step: ...


class _KrylovModel:
    """The quadratic model on the Krylov space of the gradient.

    Lanczos steps give H as a small tridiagonal matrix, on which the trust-region
    problem is solved exactly, negative curvature included (Gould, Lucidi, Roma and
    Toint, "Solving the trust-region subproblem using the Lanczos method", 1999). With
    ``(R R')^-1`` near H along z with ``w = R z``, in which they are few.
    """

    def __init__(
        self,
        objective: Objective,
        gradient: Array,
        w: Array,
        near: Lifted | None = None,
    ) -> None:
        self.gradient, self._near = gradient, near
        product = PointProducts(objective, w).hessian
        start = self._adjoint(gradient)
        norm, whole = float(np.linalg.norm(start)), 1.0 + float(np.linalg.norm(w))
        space, norms = Lanczos(start), ResidualNorms(norm)
        n_steps = min(_KRYLOV_STEPS, int(objective.budget(0.5) // (8 * w.size)))
        while space.n_steps < max(8, n_steps) and not space.is_invariant:
            space.extend(self._adjoint(product(self._scaled(space.newest))))
            norms.advance(space.last_alpha, space.last_beta)
            self.norm = space.scale if near is None else near.lift + near.norm
            stiff = max(self.norm * whole, np.finfo(float).tiny)
            relative = min(1.0, float(np.linalg.norm(gradient)) / stiff)
            forcing = float(np.sqrt(relative))
            if near is not None:  # No more than is asked for where H does not fit.
                forcing = max(forcing, 0.1 * _ENOUGH_BY_PRODUCTS / relative)
            if norms.residual <= norm * min(_FORCING, forcing):
                break
        self.n_steps, self._basis = space.n_steps, space.basis
        self.size = whole if near is None else whole * float(np.sqrt(self.norm))
        small = np.zeros(space.n_steps)
        small[0] = norm
        self._small = _QuadraticModel(space.tridiagonal()[:-1], small, w, self.size)

    def _scaled(self, z: Array) -> Array:
        return z if self._near is None else self._near.root(z)

    def _adjoint(self, v: Array) -> Array:
        return v if self._near is None else self._near.root_adjoint(v)

    def step(self, radius: float) -> _Step:
        """Of length at most ``radius`` within the space."""
        inside = self._small.step(radius)
        return inside._replace(vector=self._scaled(inside.vector @ self._basis))


class _QuadraticModel:
    """``g's + s'Hs / 2``, minimised over balls ``|s| <= radius``."""

    def __init__(
        self, H: Array, gradient: Array, w: Array, size: float | None = None
    ) -> None:
        self.H, self.gradient, self.at = H, gradient, w
        self.size = size or 1.0 + float(np.linalg.norm(w))
        # Length of the gradient as a step along the stiffest direction.
        self._relative = float(np.linalg.norm(gradient)) / self.size
        self._spectrum: tuple[Array, Array, Array] | None = None

        self._factor: tuple[Array, bool] | None = None

    @cached_property
    def norm(self) -> float:
        """|H|_2 to a few per cent, by power iteration."""
        v = probe(len(self.H))
        norm = 0.0
        for _ in range(30):
            v = self.H @ v
            norm = float(np.linalg.norm(v))
            if norm == 0.0:
                break
            v /= norm
        return norm

    def step(self, radius: float) -> _Step:
        """Of length at most ``radius``."""
        s = self._minimiser(radius)
        promised = -float(self.gradient @ s + 0.5 * s @ (self.H @ s))
        return _Step(s, float(np.linalg.norm(s)), promised)

    def _minimiser(self, radius: float) -> Array:
        if self._spectrum is None:
            step = self._cholesky_step()
            if step is not None and np.linalg.norm(step) <= radius:
                return step
            self._decompose()
        eigenvalues, vectors, g = self._spectrum  # type: ignore[misc]
        scale = max(float(np.abs(eigenvalues).max()), np.finfo(float).tiny)
        # Levenberg's shift |H| (|R| / |H|)^1.5 bounds steps along ker H and keeps the
        # convergence superlinear, also where H is badly scaled; the floor keeps
        # rounding of null eigenvalues from blowing up noise in R.
        shift = scale * min(self._relative / scale, 1.0) ** 1.5
        lowest = max(shift, eigenvalues.size * np.finfo(float).eps * scale)
        lowest += max(0.0, -float(eigenvalues[0]))
        excess = self._excess_length(lowest, radius)
        if excess > 0.0:
            # |s(sigma)| <= |g| / (sigma + lambda_min) ends the bracket.
            high = lowest + float(np.linalg.norm(g)) / radius
            lowest = scipy.optimize.brentq(
                self._excess_length, lowest, high, args=(radius,), rtol=1e-3
            )
        return -vectors @ (g / (eigenvalues + lowest))

    @property
    def is_definite(self) -> bool:
        """Whether Newton's step was taken by a Cholesky factor."""
        return self._factor is not None

    def _decompose(self) -> None:
        eigenvalues, vectors = scipy.linalg.eigh(self.H, driver="evd")
        self._spectrum = eigenvalues, vectors, vectors.T @ self.gradient

    def solve(self, b: Array, relative: float) -> Array:
        """``H^+ b`` where b is known up to ``relative`` of its scale."""
        if self._factor is not None:
            return np.asarray(scipy.linalg.cho_solve(self._factor, b))
        if self._spectrum is None:
            self._decompose()
        eigenvalues, vectors, _ = self._spectrum  # type: ignore[misc]
        sizes = np.abs(eigenvalues)
        least = max(_NULL, _NULL_PER_STATIONARITY * relative) * sizes.max(initial=0.0)
        kept = sizes > least
        return vectors[:, kept] @ ((b @ vectors[:, kept]) / eigenvalues[kept])

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
        self._factor = factor
        return -scipy.linalg.cho_solve(factor, self.gradient)


def _trusted_step(
    problem: _Problem, model: _Model, w: Array, value: float, radius: float
) -> tuple[Array, float, Array, float]:
    """Shrink the ball until the loss, or near its rounding |R|, falls."""
    norm = float(np.linalg.norm(model.gradient))
    while radius > 1e-14 * model.size:
        step, length, promised = model.step(radius)
        new_value, new_gradient = problem.value_and_gradient(w + step)
        ratio = (value - new_value) / promised if promised > 0 else 0.0
        rounding = abs(new_value - value) <= 1e-12 * (1e-300 + abs(value))
        better = rounding and float(np.linalg.norm(new_gradient)) < norm
        if ratio > 0.75 and length > 0.9 * radius:
            radius *= 2.0
        if ratio > 1e-4 or better:
            return w + step, new_value, new_gradient, radius
        radius = 0.25 * min(radius, length)
    return w, value, model.gradient, 0.0
