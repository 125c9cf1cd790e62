"""Pseudo-inverse of a symmetric operator that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .._progress import progress_bar
from ._implicit import ImplicitSubspace
from ._lanczos import Lanczos
from ._minimum_residual import Run, minimise_residual
from ._outcome import KrylovSettings, Outcome, assemble
from ._probed_spectrum import ProbedSpectrum
from ._probes import probe
from ._pseudoinverse import DECADE, InCommonUnits, Solution, gap_at

__all__ = ["KrylovInverse"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]
Beside = tuple[Array, Array]

# Error of a float32 product relative to |H| |v|, as it accumulates over a run: measured
# at 4e-6 of the residual at which float32 sets in.
_SINGLE_NOISE = 1e-5
# What float32 leaves of null eigenvalues, and of the image of a null residual,
# relative to |H|: in a run that used it smaller ones count as zero.
_SINGLE_NULL = 1e-6
# |H r| / (|H| |r|) over rcond up to which an exact product confirms a null residual.
_CONFIRMED = 10.0
# Relative rounding of a residual norm.
_ROUNDING = 1e-12
# A pass that shrinks the residual by less has stagnated.
_STAGNANT = 0.5
# Steps from a random start that show the spectrum: extreme eigenvalues to some per
# cent, whether any are negative, and what share of them is zero. As many again, and so
# often, while an eigenvalue seen may be zero or not.
_PROBE_STEPS, _PROBES = 60, 8
# Blocks of steps for which the smallest Ritz value must stay, and what staying is: it
# may sit among many equal eigenvalues, with one below that is slow to show.
_CONFIRMING, _STAYED = 2, 0.9
# Ritz pairs whose residual is below this share of their value are eigenpairs for
# deflation: the true residual of each solve corrects what that leaves.
_EIGENPAIR = 1e-7
_MAX_DEFLATED = 64


class KrylovInverse(InCommonUnits):
    """``H^+`` of a symmetric, possibly singular and indefinite operator, by products.

    Solves are iterative: each reports its residual by an exact product, its
    iterations and why it stopped. Spectral evidence comes from a Lanczos run with a
    random start, whose eigenpairs speed up solves, whichever comes first. It sees
    the ends of the spectrum: a smallest Ritz value that lies above its own error
    bound, and stays there for a hundred steps more, says that H is definite. That
    is evidence and no proof: an eigenvector of which the start has next to no part
    may not have shown. Otherwise ``inertia`` counts the negative eigenvalues seen
    only, ``rank`` and ``kernel_dim`` are estimates, and `has_clear_cutoff` is False
    unless the null eigenvalues stand apart.

    Parameters
    ----------
    product : callable
        ``v -> H v`` for v of shape (n,), exact.

    n : int

    rcond : float, default=None
        Eigenvalues up to ``rcond * |H|_2`` count as zero; None for ``n * eps``, at
        least 1e-10.

    settings : KrylovSettings, default=KrylovSettings()

    rough : callable, default=None
        The product in float32, used where its error is harmless.

    Examples
    --------
    >>> import numpy as np
    >>> from sksetsens.linalg import KrylovInverse
    >>> H = np.array([[20.0, 10.0], [10.0, 5.0]])
    >>> inverse = KrylovInverse(H.__matmul__, 2)
    >>> inverse.solve(np.array([-4.0, -2.0])).value.round(6)
    array([0.16, 0.08])
    >>> inverse.solve(np.array([1.0, -2.0])).is_consistent
    False
    >>> inverse.kernel.project(np.array([1.0, 0.0])).round(6)
    array([ 0.2, -0.4])
    """

    def __init__(
        self,
        product: Product,
        n: int,
        *,
        rcond: float | None = None,
        settings: KrylovSettings | None = None,
        rough: Product | None = None,
    ) -> None:
        self._exact, self._rough, self._n = product, rough, n
        self.settings = settings or KrylovSettings()
        eps = float(np.finfo(np.float64).eps)
        self.rcond = max(n * eps, 1e-10) if rcond is None else rcond
        self.n_products = 0
        # Solves so far that ended before their tolerance.
        self.n_unsolved = 0
        self._start, self._dim = probe(n), n

    # Solves --------------------------------------------------------------------------

    def least_squares(
        self, b: Array, beside: Beside | None = None, *, noise: float = 0.0
    ) -> Outcome:
        """Shortest least-squares solution of ``H x = b`` with its evidence.

        ``beside`` are eigenvectors (n, k) and their eigenvalues, if any are known;
        ``noise`` is the norm of the error of b: no residual below it is asked for.
        """
        size = float(np.linalg.norm(b))
        if size == 0.0:
            return Outcome(np.zeros(self._n), 0.0, False, 0, "converged")
        with progress_bar(self.settings.max_iter, "solve") as advance:
            target = max(self.settings.tol * size, noise)
            known = beside or self._nothing
            return self._in_passes(b, size, target, known, lambda: advance(1))

    def _in_passes(
        self,
        b: Array,
        size: float,
        target: float,
        beside: Beside,
        on_step: Callable[[], None],
    ) -> Outcome:
        x, residual = np.zeros(self._n), np.array(b, dtype=np.float64)
        n_iter, norm, image, stop = 0, size, np.inf, "max_iter"
        while n_iter < self.settings.max_iter:
            max_steps = self.settings.max_iter - n_iter
            rough = self._rough if n_iter == 0 else None
            run = self._pass(residual, target, max_steps, rough, beside, on_step)
            candidate = x + run.value
            left = b - self._exact(candidate)
            n_iter += run.space.n_steps + 1
            self.n_products += run.space.n_steps + 1
            previous, norm_left = norm, float(np.linalg.norm(left))
            # A null part of the residual stays, while what is beside it shrinks.
            if norm_left <= norm * (1.0 + _ROUNDING):
                x, residual, norm = candidate, left, norm_left
            if norm <= 2.0 * target:
                stop = "converged"
                break
            # Outside range H: confirmed by an exact product with what is left.
            last, image = image, float(np.linalg.norm(self._exact(residual)))
            scale = max(self._scale, run.space.scale)
            if image <= _CONFIRMED * self.rcond * scale * norm:
                stop = "least_squares"
                break
            ended = run.space.n_steps >= self._fits
            still = norm > _STAGNANT * previous and image > _STAGNANT * last
            if rough is None and still and not ended:
                stop = "stagnated"
                break
        if stop == "least_squares":
            # The only null vector in the space is the residual.
            x = x - (x @ residual) / (residual @ residual) * residual
        return Outcome(x, norm / size, stop == "least_squares", n_iter, stop)

    def _pass(
        self,
        residual: Array,
        target: float,
        max_steps: int,
        rough: Product | None,
        beside: Beside,
        on_step: Callable[[], None],
    ) -> Run:
        """One run from the true residual, beside known eigenvectors."""
        W, theta = beside
        inside = W.T @ residual
        rest = residual - W @ inside
        known = W @ (inside / theta)
        norm = float(np.linalg.norm(rest))
        least = self.rcond if rough is None else max(self.rcond, _SINGLE_NULL)
        if norm <= 0.5 * target:
            return Run(known, 0.0, False, Lanczos(residual))
        run = minimise_residual(
            rest,
            self._product(0.5 * target, rough),
            target=0.5 * target,
            max_steps=min(max_steps, self._fits),
            null_tol=least,
            rcond=least,
            scale=self._scale,
            beside=W if W.size else None,
            on_step=on_step,
        )
        return replace(run, value=known + run.value)

    def _product(
        self, target: float, rough: Product | None
    ) -> Callable[[Array, float], Array]:
        def product(v: Array, residual: float) -> Array:
            if rough is not None and residual * _SINGLE_NOISE <= target:
                return rough(v)
            return self._exact(v)

        return product

    @cached_property
    def _scale(self) -> float:
        """A lower bound of |H|_2: a right-hand side in ker H shows nothing of H."""
        image = self._exact(self._start)
        return float(np.linalg.norm(image) / np.linalg.norm(self._start))

    @property
    def _nothing(self) -> Beside:
        return np.empty((self._n, 0)), np.empty(0)

    @cached_property
    def _deflation(self) -> Beside:
        """Eigenvectors (n, k) and eigenvalues, of the random start's run alone.

        What earlier solves have found would make an answer depend on them.
        """
        probe = self._probe
        if probe.space.is_invariant or probe.space.n_steps == self._dim:
            # The run has seen all of H: solves are as short as it was.
            return self._nothing
        theta, vectors, errors = probe.space.ritz()
        size = np.abs(theta)
        found = (errors <= _EIGENPAIR * size) & (size > DECADE * probe.cutoff)
        chosen = [i for i in np.argsort(-size) if found[i]][:_MAX_DEFLATED]
        return np.linalg.qr(probe.space.basis.T @ vectors[:, chosen])[0], theta[chosen]

    def apply(self, b: Array, *, noise: float = 0.0) -> Array:
        """``H^+ b`` for vectors in the last axis of b, to the solver's tolerance."""
        flat = b.reshape(-1, b.shape[-1])
        values = [self.solved(row, noise=noise).value for row in flat]
        return np.stack(values).reshape(b.shape)

    def solved(self, b: Array, *, noise: float = 0.0) -> Outcome:
        """Least-squares solution; counted where its tolerance is missed."""
        outcome = self.least_squares(b, self._deflation, noise=noise)
        self.n_unsolved += not outcome.is_solved
        return outcome

    def solve(self, b: Array) -> Solution:
        """Shortest solution of ``H v = -b`` with its evidence."""
        return assemble(self.solved(-b), self.settings)

    # Evidence ------------------------------------------------------------------------

    @cached_property
    def _probe(self) -> ProbedSpectrum:
        """Steps until more would tell no more of what matters, or as many as allowed.

        Some eigenvalue is zero or negative; or none may be, and the smallest Ritz value
        has stayed where it was.
        """
        space, least, since = Lanczos(self._start), np.inf, 0
        most = min(_PROBES * _PROBE_STEPS, self._dim, self._fits)
        while space.n_steps < most and not space.is_invariant:
            space.extend(self._exact(space.newest))
            if space.n_steps % _PROBE_STEPS:
                continue
            seen = self._seen(space)
            if seen.is_singular:
                return seen
            smallest = float(np.abs(seen.values).min())
            if seen.unresolved.any() or not smallest >= _STAYED * least:
                least, since = smallest, space.n_steps
            elif space.n_steps - since >= _CONFIRMING * _PROBE_STEPS:
                return seen
        is_whole = space.is_invariant or space.n_steps == self._dim
        return replace(self._seen(space), is_certain=is_whole)

    def _seen(self, space: Lanczos) -> ProbedSpectrum:
        values, vectors, errors = space.ritz()
        return ProbedSpectrum(values, errors, vectors[0] ** 2, space, self.rcond)

    @property
    def _fits(self) -> int:
        return self.settings.steps_that_fit(self._n)

    @property
    def eigenvalues(self) -> Array:
        """Ritz values of the random start, ascending: a sample of the spectrum."""
        return self._probe.values

    @property
    def cutoff(self) -> float:
        """Eigenvalues of absolute value up to this count as zero."""
        return self._probe.cutoff

    @cached_property
    def kernel_dim(self) -> int:
        """Dimension of ker H: 0 where H is definite, otherwise an estimate.

        The share of a random vector in the null space is ``dim / n`` on average. It
        has at least as many dimensions as null Ritz values were seen, and leaves room
        for those that are not.
        """
        probe = self._probe
        estimate = round(probe.null_share * self._dim)
        return min(max(estimate, probe.n_null), self._dim - probe.n_kept)

    @property
    def rank(self) -> int:
        """n less the dimension of ker H."""
        return self._dim - self.kernel_dim

    @property
    def inertia(self) -> tuple[int, int, int]:
        """Numbers of negative (seen), zero and all other eigenvalues."""
        negative = int((self.eigenvalues < -self.cutoff).sum())
        return negative, self.kernel_dim, self.rank - negative

    @property
    def gap(self) -> float:
        """Smallest kept over largest dropped Ritz value, of those seen."""
        eps = float(np.finfo(np.float64).eps)
        magnitudes = np.abs(self.eigenvalues)
        return gap_at(magnitudes, self.cutoff, eps * magnitudes.max(initial=0.0))

    @property
    def has_clear_cutoff(self) -> bool:
        """Whether all Ritz values are told from the cut-off, whatever their errors."""
        return self._probe.is_certain and not self._probe.unresolved.any()

    @cached_property
    def kernel(self) -> ImplicitSubspace:
        """ker H, by the projector ``v - H^+ H v``."""
        return ImplicitSubspace(self._n, self._find_dim, self._null_part)

    def _null_part(self, v: Array) -> Array:
        return v - self.apply(self._image(v))

    @property
    def is_rank_exact(self) -> bool:
        """Whether H is definite, or the random start's run has seen all of it."""
        whole = self._probe.space.n_steps == self._dim
        return self.has_clear_cutoff and (whole or self.kernel_dim == 0)

    def _find_dim(self) -> int:
        """0 only where H is definite; an estimate is at least 1."""
        known = self.kernel_dim == 0 and self.has_clear_cutoff
        return 0 if known else max(1, self.kernel_dim)

    def _image(self, v: Array) -> Array:
        flat = v.reshape(-1, v.shape[-1])
        return np.stack([self._exact(row) for row in flat]).reshape(v.shape)

    @property
    def weakest(self) -> tuple[float, Array]:
        """Smallest kept absolute Ritz value and its vector of shape (n,)."""
        return self._probe.weakest()

    def range_basis(self) -> tuple[Array, Array]:
        """Not available: a basis of range H is what this form does without."""
        raise ValueError(
            "A basis of range H needs a factorisation, and this system is solved by "
            "products alone. Use solver='eigh' or solver='dual'."
        )
