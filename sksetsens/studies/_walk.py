"""One solution's way along a path of data, by prediction and correction.

From the solution at ``x + t dx`` the graphical derivative predicts the one at
``x + (t + h) dx``, and chord steps ``w -= H^+ R`` with the same factorisation correct
it. The step h is as long as the first order errs by a given tolerance (Allgower and
Georg, "Introduction to Numerical Continuation Methods" (2003), Chapters 3 and 6), and
ends where kinks change. Where no step is short enough, the spectrum tells why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..perturbation import Perturbation
from ..sensitivity import (
    AffineSet,
    GraphicalDerivative,
    beyond_break,
    first_break,
    reach,
)

__all__ = ["SolutionTrack", "Walk"]

Array = NDArray[np.float64]

# First step, as a share of the path, and by how much a step may exceed the last one.
_FIRST_STEP, _GROWTH = 0.1, 3.0
# Movements below this share of 1 + |w| need no relative accuracy: where the solution
# turns back its velocity passes through 0.
_NEGLIGIBLE = 1e-3
# What kept a step from being taken.
_TOO_CURVED, _SINGULAR, _NEW_RANK, _KINK = "curved", "singular", "rank", "kink"
# Chord steps that may correct one prediction; they shrink by about the prediction's
# error each.
_N_CHORD_STEPS = 40
# Relative chord step that ends the correction: rounding, but for badly conditioned H.
_ARRIVED = 1e-13
# A chord step above this share of the one before it does not converge fast enough.
_CONTRACTION = 0.7
# Share of the smallest kept eigenvalue, beside the start's, that counts as fallen to 0.
_COLLAPSED = 0.1
# Cosine between B dx and the vanishing eigenvector from which the set folds: below it
# the direction stays in range H, and branches meet.
_TRANSVERSAL = 1e-3
# Share of the predicted movement that a residual left by the chord steps means.
_LEFT = 1e-6


@dataclass(repr=False)
class SolutionTrack:
    """One solution along the path.

    Attributes
    ----------
    t : list of float
        Shares of the perturbation at which the set was computed, from 0.

    weights : list of ndarray of shape (n_params,)
        The solution at each of them.

    smallest_eigenvalues : list of float
        Smallest kept absolute eigenvalue of H at each: it falls to 0 at a fold.

    speeds : list of float
        Euclidean movement of the weights per share of the perturbation at each: it
        grows without bound at a fold.

    n_factorisations : int

    n_breaks : int
        Kinks that joined or left on the way.

    stopped_at : float
        Share at which the path ends: 1 where it arrives; at a fold, the share to which
        its approach extrapolates.

    arrived : bool

    status : str
        One sentence.
    """

    t: list[float] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    smallest_eigenvalues: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    n_factorisations: int = 0
    n_breaks: int = 0
    stopped_at: float = 0.0
    arrived: bool = False
    status: str = ""

    def __repr__(self) -> str:
        return f"<SolutionTrack: {len(self.t)} points, {self.status}>"


class Walk:
    """One solution's way along the path."""

    def __init__(
        self,
        gd: GraphicalDerivative,
        perturbation: Perturbation,
        floor: float,
        tol: float,
        min_step: float,
    ) -> None:
        self.here, self._perturbation, self._floor = gd, perturbation, floor
        self._tol, self._min_step = tol, min_step
        self._negative = gd.factor.inertia[0]
        self._obstacle = ""
        # Of the last step, but for those that a break made short.
        self._stride = _FIRST_STEP
        self.track = SolutionTrack()
        self._arrive(0.0, gd)

    def run(self, max_steps: int) -> None:
        """Go on to t = 1, or to where it ends."""
        perturbation, t = self._perturbation, 0.0
        affine = self.here.along(perturbation.movement)
        for _ in range(max_steps):
            self.track.speeds.append(float(np.linalg.norm(affine.shift)))
            if affine.is_empty:
                self.stop(t, f"the set becomes empty at {t:.3g}: {affine.status}")
                return
            # Longer steps than these could land on another branch unseen.
            longest = min(_GROWTH * self._stride, 1.0 - t)
            h, affine = self._step(t, longest, affine)
            if h == 0.0:
                self.stop(*self._why(t))
                return
            t = 1.0 if h >= 1.0 - t else t + h
            if t == 1.0:
                self.track.speeds.append(float(np.linalg.norm(affine.shift)))
                self.track.stopped_at, self.track.arrived = 1.0, True
                self.track.status = self._arrival()
                return
        self.stop(t, f"max_steps={max_steps} were not enough: stopped at {t:.3g}")

    def _step(
        self, t: float, longest: float, affine: AffineSet
    ) -> tuple[float, AffineSet]:
        """Take the longest step that can be corrected; its length, or 0."""
        perturbation, room = self._perturbation, 1.0 - t
        breaks = self._break(affine)
        if breaks < longest:
            return self._across(t, min(beyond_break(breaks), room), affine)
        within = reach(
            self.here,
            perturbation.movement,
            tol=self._tol,
            floor=self._floor,
            precision=0.3,
            farthest=longest,
            least_shift=self._least_shift(),
        )
        h = min(longest, within)
        # Relative to the way that is behind: a fold early on a long path is resolved as
        # well as a late one. The last step may be as short as is left.
        least = min(self._min_step * max(t, self._min_step), room)
        while h >= least:
            arrives = h >= room
            there = self._corrected(1.0 if arrives else t + h, h * affine.shift)
            if there is not None and there.strictness <= 0.0:
                there = self._exchanged(t + h, h, affine)
            if there is not None:
                onward = there.along(perturbation.movement)
                if self._on_the_branch(there, h, affine, onward):
                    self._arrive(1.0 if arrives else t + h, there)
                    self._stride = h
                    return h, onward
            h *= 0.5
            if self._obstacle == _NEW_RANK and h < self._min_step:
                break
        if within < least:
            self._obstacle = _TOO_CURVED
        return 0.0, affine

    def _break(self, affine: AffineSet) -> float:
        """Where the next kink joins or leaves, from here."""
        if not self.here.can_exchange:
            return np.inf
        return first_break(self.here, affine.shift, self._perturbation.movement)

    def _exchanged(
        self, t: float, h: float, affine: AffineSet
    ) -> GraphicalDerivative | None:
        """The derivative at t on the kinks that hold there; None where none is near."""
        objective = self._perturbation.objective(self.here.objective, t)
        self.track.n_factorisations += 1
        return self.here.on_other_kinks(objective, self.here.weights + h * affine.shift)

    def _across(self, t: float, h: float, affine: AffineSet) -> tuple[float, AffineSet]:
        """Go just beyond the next break, where other kinks hold."""
        perturbation, end = self._perturbation, min(t + h, 1.0)
        there = self._exchanged(end, h, affine)
        if there is None:
            self._obstacle = _KINK
            return 0.0, affine
        moved = there.length(there.weights - self.here.weights - h * affine.shift)
        # Of two breaks close together the way between them is no scale.
        expected = max(h, self._min_step) * there.length(affine.shift)
        if moved > self._tol * max(expected, h * self._least_shift()):
            self._obstacle = _KINK
            return 0.0, affine
        self.track.n_breaks += 1
        self._arrive(end, there)
        return h, there.along(perturbation.movement)

    def _least_shift(self) -> float:
        """Length of movements whose error is not worth a shorter step."""
        return _NEGLIGIBLE * (1.0 + self.here.length(self.here.weights))

    def _on_the_branch(
        self, there: GraphicalDerivative, h: float, here: AffineSet, onward: AffineSet
    ) -> bool:
        """Whether the velocities at both ends explain the movement between them."""
        if onward.is_empty:
            return True
        moved = there.weights - self.here.weights
        expected = 0.5 * h * (here.shift + onward.shift)
        left = (moved - expected) / there.factor.scales
        missed = float(there.factor.scaled.kernel.complement_norm(left))
        if missed <= self._tol * max(there.length(moved), self._least_shift()):
            return True
        self._obstacle = _TOO_CURVED
        return False

    def _corrected(self, t: float, shift: Array) -> GraphicalDerivative | None:
        """The derivative at the solution near the prediction; None without one."""
        gd = self.here
        objective = self._perturbation.objective(gd.objective, t)
        w = gd.weights + shift
        moved = gd.length(shift)
        last = np.inf
        self._obstacle = _TOO_CURVED
        for _ in range(_N_CHORD_STEPS):
            step = gd.newton_step(w, objective)
            w, length = w + step, gd.length(step)
            if length <= _ARRIVED * (1.0 + gd.length(w)):
                break
            if not length <= _CONTRACTION * last:
                return None
            last = length
        else:
            return None
        there = gd.at(objective, w)
        self.track.n_factorisations += 1
        if there.factor.inertia[0] != self._negative:
            self._obstacle = _SINGULAR
            return None
        left = there.residual_norm(objective, w)
        scale = there.residual_scale * max(moved, self._floor)
        if not self._same_rank(there) or left > 10.0 * self._floor + _LEFT * scale:
            self._obstacle = _NEW_RANK
            return None
        return there

    def _same_rank(self, there: GraphicalDerivative) -> bool:
        """Whether the spectrum still has its gap where the rank puts it."""
        return there.kernel.dim == 0 or there.factor.gap > 10.0

    def _arrive(self, t: float, gd: GraphicalDerivative) -> None:
        self.here = gd
        self.track.t.append(t)
        self.track.weights.append(gd.weights)
        self.track.smallest_eigenvalues.append(gd.factor.weakest[0])

    def _arrival(self) -> str:
        n = self.track.n_breaks
        across = f" across {n} change{'s' if n > 1 else ''} of kinks" if n else ""
        return f"arrived in {len(self.track.t) - 1} steps{across}"

    def stop(self, t: float, status: str) -> None:
        """End at t, for the reason given."""
        self.track.stopped_at, self.track.status = t, status

    def _why(self, t: float) -> tuple[float, str]:
        """What keeps the path from going on."""
        smallest = self.track.smallest_eigenvalues
        if self._obstacle == _KINK:
            return t, (
                f"kinks change at {t:.3g}, and no solution was found beyond next to "
                "this one (a kink of negative force ends a branch, say); retrain"
            )
        if self._obstacle != _SINGULAR and smallest[-1] > _COLLAPSED * smallest[0]:
            if self._obstacle == _NEW_RANK:
                return t, (
                    f"the rank of H changes at {t:.3g}: the solutions on both sides "
                    "are no one manifold (for example duplicated rows that come "
                    "apart); retrain, or add weight decay"
                )
            return t, (
                f"no step above min_step={self._min_step:g} could be corrected at "
                f"{t:.3g}: the set bends too much there; lower min_step, or take a "
                "shorter perturbation"
            )
        if self._is_transversal():
            end = self._extrapolated(np.array(self.track.speeds) ** -2.0)
            return end, (
                f"the set folds at {end:.3g}: an eigenvalue of H falls to 0 and the "
                "direction leaves range H; this branch ends there, retrain to find "
                "another"
            )
        end = self._extrapolated(np.array(smallest))
        return end, (
            f"the rank of H changes at {end:.3g}: an eigenvalue of H falls to 0 and "
            "branches meet; retrain beyond it"
        )

    def _extrapolated(self, falling: Array) -> float:
        """Where the last two values, linear in t, fall to 0.

        Near a fold w moves like sqrt(end - t), so that 1 / speed^2 does; where branches
        meet, the eigenvalue itself.
        """
        t = np.array(self.track.t)
        if len(t) < 2:
            return float(t[-1])
        slope = (falling[-1] - falling[-2]) / (t[-1] - t[-2])
        end = t[-1] - falling[-1] / slope if slope < 0 else t[-1]
        return float(np.clip(end, t[-1], 1.0))

    def _is_transversal(self) -> bool:
        gd = self.here
        b = gd.objective.data_product(gd.weights, self._perturbation.movement)
        _, z = gd.factor.weakest
        return abs(float(b @ z)) > _TRANSVERSAL * float(np.linalg.norm(b))
