r"""Pseudo-inverse by products in the scales of a matrix near H, if H proves definite.

With :math:`P^{-1} = R R'` near the inverse of H the spectrum of :math:`R' H R` is
narrow, and its inertia that of H (Sylvester). A Lanczos run of k steps from a random
start on n dimensions then bounds the smallest eigenvalue: it lies below the smallest
Ritz value by more than :math:`\epsilon` times the width of the spectrum with a
probability of at most :math:`1.648 \sqrt n \exp(-(2k - 1) \sqrt\epsilon)`
(J. Kuczynski and H. Wozniakowski, SIAM J. Matrix Anal. Appl. 13, 1992, Theorem 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._krylov import KrylovInverse
from ._lanczos import Lanczos
from ._lifted import Lifted
from ._minimum_residual import Run, minimise_residual
from ._probed_spectrum import ProbedSpectrum
from ._pseudoinverse import DECADE

__all__ = ["PreconditionedInverse"]

Array = NDArray[np.float64]
Product = Callable[[Array], Array]

# Steps in the scales until H proves definite, and the first that is asked.
_MOST, _FIRST = 40, 10
# Probability with which the proof may fail: at any step, and at either end of the
# spectrum.
_FAILS = 1e-6
_FAILS_ONCE = _FAILS / (2 * (_MOST - _FIRST + 1))
# Steps with H itself, which show |H| to some per cent.
_NORM_STEPS = 8


class PreconditionedInverse(KrylovInverse):
    """A `KrylovInverse` that solves in the scales of a matrix near H.

    Only where H proves to be definite there, in a few products; everything else is as
    without.

    Parameters
    ----------
    product : callable
        ``v -> H v``.
    n : int
    near : callable
        Makes the matrix near H when it is first needed, or None.
    **options
        Of `KrylovInverse`.
    """

    def __init__(
        self,
        product: Product,
        n: int,
        *,
        near: Callable[[], Lifted | None],
        **options: Any,
    ) -> None:
        super().__init__(product, n, **options)
        self._near = near

    @cached_property
    def _proof(self) -> _Proof | None:
        """That H is definite, if a few products in the scales show it."""
        P = self._near()
        if P is None:
            return None
        # By exact products: what float32 leaves of H's image has no bound.
        space = Lanczos(self._start)
        while space.n_steps < min(_MOST, self._dim, self._fits):
            space.extend(P.root_adjoint(self._exact(P.root(space.newest))))
            if space.is_invariant:
                return None
            if space.n_steps < _FIRST:
                continue
            values, vectors, _ = space.ritz()
            least = _lower_bound(values, space.n_steps, self._dim)
            # No eigenvalue of H is below the lift times the smallest one here.
            largest = float(values[-1]) * (P.norm + P.lift)
            if least * P.lift > DECADE * self.rcond * largest:
                weakest = P.root(vectors[:, 0] @ space.basis)
                weakest /= np.linalg.norm(weakest)
                curvature = float(weakest @ self._exact(weakest))
                if curvature < least * P.lift:
                    return None  # P is not what it should be.
                return _Proof(P, least * P.lift, weakest)
            if _steps_needed(values, self._dim) > _MOST:
                return None
        return None

    @cached_property
    def _probe(self) -> ProbedSpectrum:
        if self._proof is None:
            return super()._probe
        space = Lanczos(self._start)
        for _ in range(_NORM_STEPS):
            space.extend(self._exact(space.newest))
        values, vectors, errors = space.ritz()
        return _DefiniteSpectrum.of(
            ProbedSpectrum(values, errors, vectors[0] ** 2, space, self.rcond),
            self._proof,
            self._exact,
        )

    @property
    def _deflation(self) -> tuple[Array, Array]:
        return super()._deflation if self._proof is None else self._nothing

    def _pass(self, residual: Array, target: float, *others: Any) -> Run:
        if self._proof is None:
            return super()._pass(residual, target, *others)
        max_steps, rough, _, on_step = others
        P, norm = self._proof.near, float(np.linalg.norm(residual))
        b = P.root_adjoint(residual)
        ending = 0.5 * target / norm * float(np.linalg.norm(b))
        product = self._product(ending, rough)
        run = minimise_residual(
            b,
            lambda v, left: P.root_adjoint(product(P.root(v), left)),
            target=ending,
            max_steps=min(max_steps, self._fits),
            null_tol=0.0,
            rcond=0.0,
            on_step=on_step,
        )
        return replace(run, value=P.root(run.value))


@dataclass(frozen=True)
class _Proof:
    """The matrix near H, a bound below H's eigenvalues, and a vector of weak ones."""

    near: Lifted
    least: float
    weakest: Array


@dataclass(frozen=True)
class _DefiniteSpectrum(ProbedSpectrum):
    """What is seen of a spectrum of which a positive lower bound is known."""

    weakest_vector: Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(
        cls, seen: ProbedSpectrum, proof: _Proof, product: Product
    ) -> _DefiniteSpectrum:
        v = proof.weakest
        values = np.concatenate([[float(v @ product(v))], seen.values])
        errors = np.concatenate([[np.inf], seen.errors])
        errors = np.minimum(errors, values - proof.least)
        shares = np.concatenate([[0.0], seen.weights])
        return cls(values, errors, shares, seen.space, seen.rcond, weakest_vector=v)

    def weakest(self) -> tuple[float, Array]:
        return float(self.values[0]), self.weakest_vector


def _logarithm(n: int) -> float:
    return float(np.log(1.648 * np.sqrt(n) / _FAILS_ONCE))


def _lower_bound(values: Array, k: int, n: int) -> float:
    """Of the smallest eigenvalue, from Ritz values; -inf where nothing is known.

    The bound holds for the largest one too, and with both for the width.
    """
    share = (_logarithm(n) / (2 * k - 1)) ** 2
    if share >= 0.5:
        return -np.inf
    width = float(values[-1] - values[0]) / (1.0 - 2.0 * share)
    return float(values[0]) - share * width


def _steps_needed(values: Array, n: int) -> float:
    """Steps after which such Ritz values would prove H definite."""
    if not values[0] > 0.0:
        return np.inf
    # Where the bound of the smallest eigenvalue is zero.
    ratio = float(values[-1] - values[0]) / float(values[0])
    share = 1.0 / (ratio + 2.0)
    return 0.5 * (_logarithm(n) / np.sqrt(share) + 1.0)
