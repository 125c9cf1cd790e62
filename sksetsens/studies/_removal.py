r"""Where a solution goes when rows of its training data go.

With R the residual without the rows and M what is left of H, the step is
:math:`-M^{-1} R`. For a single row M is H less the row's Gauss-Newton term,
:math:`M = H - J'\Lambda J`, whose inverse follows from that of H by Woodbury's formula:

.. math:: M^{-1} b = P b + P J' \Lambda (I - J P J' \Lambda)^{-1} J P b, \qquad P = H^+.

For least squares this is exact: the factor :math:`1 / (1 - h)` of a row's leverage h
(R. D. Cook, "Detection of influential observation in linear regression", 1977; D.
Pregibon, "Logistic regression diagnostics", 1981). H of the rows that are left may be
indefinite; it is never solved with. For many rows M is the Gauss-Newton matrix of those
that are left.

On kinks all this happens in their tangent space. A row that goes takes its own kinks
along, whose equations then hold no longer: with the columns L of the inverse of the KKT
matrix that belong to them, :math:`P = T + L (L'HL)^{-1} L'`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from .._progress import progress
from ..linalg import SymmetricPseudoInverse, TangentInverse
from ..objective import Objective
from ..optimize import continued
from ..sensitivity import HOLDS_TOL, GraphicalDerivative
from ._softness import softened
from ._without_rows import ALONE, WithoutRows

__all__ = ["Removal"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

# Share of the working memory for the Jacobians of some rows.
_SHARE = 0.25
# A residual up to this share of |H| (1 + |w|) is rounding: nothing moves.
_ROUNDING = 1e-14
# Chord steps to the solution without a row: their number, the share of the last one
# that a step may be.
_N_STEPS, _CONTRACTION = 25, 0.6
# Relative length of a next step that is worth taking, that counts as little, and how
# many more are taken in between.
_SHORTER, _LITTLE, _N_CORRECTIONS = 0.5, 0.01, 4
# Norm of R, relative to |H| (1 + |w|), at which the solution without a row is one.
_EXACT = 1e-12


class Removal:
    """A solution's steps when rows go.

    Parameters
    ----------
    gd : GraphicalDerivative
    tol : float
        Relative stationarity asked of retraining.
    """

    def __init__(self, gd: GraphicalDerivative, tol: float) -> None:
        self.gd, self._tol = gd, tol
        self._o, self._w = gd.objective, gd.weights
        self._weights = self._o.sample_weight
        self._c = self._o.n_outputs
        self._factor: Any = gd.factor

    @property
    def interpolates(self) -> bool:
        """Whether the rows' losses have no gradient, so that nothing moves."""
        return self.gd.solver_ in ("dual", "lsmr")

    @cached_property
    def _own(self) -> Array:
        """``-R`` without each row alone, up to a positive factor: (n, p)."""
        G: Array = self._o.weight_jacobian(self._w)
        return G * self._weights[:, None]

    @cached_property
    def _curvature(self) -> Array:
        found: Array = self._o.output_hessian(self._w)
        return found

    def _apply(self, b: Array) -> Array:
        """``P b`` for vectors in the rows of b."""
        if not self.gd.is_matrix_free:
            return self._factor.apply(b)
        return np.stack([self._factor.apply(v) for v in b])

    # Kinks of rows -------------------------------------------------------------------

    @cached_property
    def _kink_rows(self) -> Rows:
        """The row that each kink belongs to, and goes with; -1 for none."""
        kinks = self.gd.kinks
        found = np.full(len(kinks), -1)
        if not len(kinks):
            return found
        inputs = self._o.ramps(self._w).inputs
        found = _rows_of(kinks, inputs, self._o.n_samples)
        led, of_twins = kinks.led, _rows_of(kinks.fixed, inputs, self._o.n_samples)
        # What another row holds as well stays.
        for k, row in zip(led[led >= 0], of_twins[led >= 0], strict=True):
            if row != found[k]:
                found[k] = -1
        return found

    @cached_property
    def _columns(self) -> Array:
        """Columns L of the KKT matrix' inverse, (n_kinks, p)."""
        lift = self._factor.lift(np.eye(len(self.gd.kinks)))
        found: Array = lift - self._factor.apply(self.gd.curved(lift))
        return found

    def _released(self, kinks: Rows, b: Array) -> Array:
        """``P b`` where the equations of some kinks hold no longer."""
        found = self._apply(b)
        if not len(kinks):
            return found
        L = self._columns[kinks]
        W = L @ self.gd.curved(L).T
        return found + np.linalg.solve(W, L @ b.T).T @ L

    # Single rows ----------------------------------------------------------------------

    def first_order(self, rows: Rows) -> Array:
        """``v0`` of the weights' movement, (k, p)."""
        return self._apply(self._own[rows])

    def low_rank(self, rows: Rows) -> Array:
        """By Woodbury's formula, (k, p)."""
        if self.interpolates:
            return self.first_order(rows)
        parts = [inverse(self._own[part]) for part, inverse in self._blocks(rows)]
        return np.concatenate(parts)

    def _blocks(self, rows: Rows) -> Iterator[tuple[Rows, WithoutRows]]:
        """Some rows at a time, with the inverses without each of them."""
        floats = 4 * self._c * len(self._w)
        step = max(1, int(self._o.budget(_SHARE) // (8 * floats)))
        for start in progress(range(0, len(rows), step), description="removals"):
            part = rows[start : start + step]
            yield part, self._without_each(part)

    def _without_each(self, rows: Rows) -> WithoutRows:
        if self._halves is not None:
            V, d = self._halves
            J = self._o.jacobian_products(self._w, V, rows)
            return WithoutRows(J, J / d, self._curvature[rows], V, d)
        J = self._o.jacobian(self._w, rows)
        U = self._apply(J.reshape(-1, J.shape[-1])).reshape(J.shape)
        gone = rows[:, None] == self._kink_rows
        for j in np.flatnonzero(gone.any(axis=1)):
            U[j] = self._released(np.flatnonzero(gone[j]), J[j])
        return WithoutRows(J, U, self._curvature[rows], applied=self._off_kinks(gone))

    @cached_property
    def _halves(self) -> tuple[Array, Array] | None:
        """V and d with ``P = V diag(1 / d) V'``, where it is solved by such."""
        halves = getattr(self._factor, "halves", None)
        return None if halves is None else halves()

    def _off_kinks(self, gone: Any) -> Any:
        """``P b`` for each row without the kinks that go with it, and others."""

        def applied(b: Array, leaving: Any = None) -> Array:
            found, left = self._apply(b), gone
            if leaving is not None:
                left = gone | leaving
            for j in np.flatnonzero(left.any(axis=1)):
                found[j] = self._released(np.flatnonzero(left[j]), b[j][None])[0]
            return found

        return applied

    # Groups ---------------------------------------------------------------------------

    def by_groups(self, groups: list[Rows]) -> tuple[Array, Array]:
        """A Gauss-Newton step without each group, corrected once, and its error."""
        shift, errors = np.empty((len(groups), len(self._w))), np.empty(len(groups))
        steps = self._gauss_newton(groups)
        pairs = zip(groups, steps, strict=True)
        for j, (rows, (v, factor)) in enumerate(progress(pairs, len(groups), "groups")):
            left, e = self._next_of_group(rows, v, factor)
            better = e < _SHORTER
            shift[j] = v - left if better else v
            errors[j] = e
        return shift, errors

    def errors_of_groups(self, groups: list[Rows], shift: Array) -> Array:
        """The same of other steps."""
        triples = zip(groups, shift, self._gauss_newton(groups), strict=True)
        found = [self._next_of_group(rows, v, f)[1] for rows, v, (_, f) in triples]
        return np.array(found)

    def _next_of_group(self, rows: Rows, v: Array, factor: Any) -> tuple[Array, float]:
        """``M^{-1} R(w + v)``, and its length over that of v."""
        R, off, leaving = self.residuals([rows], v[None])
        if leaving.any():
            return 0.0 * v, np.inf  # It ends on other kinks.
        if float(np.linalg.norm(R)) <= self._floor:
            return 0.0 * v, 0.0
        left = factor.apply(R[0])
        if off.shape[1]:
            left = left + off[0] @ self._columns
        length = float(np.linalg.norm(v))
        return left, float(np.linalg.norm(left)) / length if length > 0.0 else np.inf

    def _gauss_newton(self, groups: list[Rows]) -> Iterator[tuple[Array, Any]]:
        """The step without each group, and what inverts its matrix."""
        Z = self._o.kink_jacobian(self._w) if len(self.gd.kinks) else None
        A = _roots(self._curvature) @ self._o.jacobian(self._w)
        total = A.reshape(-1, A.shape[-1]).T @ A.reshape(-1, A.shape[-1])
        penalty = self._o.penalty_hessian(self._w)
        for rows in groups:
            objective = self.without(rows)
            R = objective.gradient(self._w)
            gone = A[rows].reshape(-1, A.shape[-1])
            M = (total - gone.T @ gone) * self._rescaled(objective)
            M = M if penalty is None else M + penalty
            kept = ~np.isin(self._kink_rows, rows)
            if Z is not None and kept.any():
                factor: Any = TangentInverse(M, Z[kept])
            else:
                factor = SymmetricPseudoInverse(M)
            yield -factor.apply(R), factor

    def _rescaled(self, objective: Objective) -> float:
        """Factor of the other rows' curvature: a mean is over fewer of them."""
        before, after = self._curvature, objective.output_hessian(self._w)
        kept = objective.sample_weight > 0.0
        whole = float(np.abs(before[kept]).sum())
        return float(np.abs(after[kept]).sum()) / whole if whole > 0.0 else 1.0

    # Evidence -------------------------------------------------------------------------

    def without(self, rows: Rows) -> Objective:
        """The objective without some rows, at the kinks' gates."""
        weights = self._weights.copy()
        weights[rows] = 0.0
        return self._o.weighted(weights)

    def residuals(self, sets: list[Rows], shift: Array) -> tuple[Array, Array, Any]:
        """R without the rows at ``w + v``, (n_sets, p), and kinks' inputs there.

        At gates that have moved with the weights: those of the solution without the
        rows, to first order. Kinks whose gates would leave [0, 1] are told: the
        solution leaves them.
        """
        found, kinks = np.full_like(shift, np.nan), self.gd.kinks
        off = np.zeros((len(sets), len(kinks)))
        gates = leaving = np.zeros((len(sets), 0))
        if len(kinks):
            moved = kinks.gates + self._gate_tangents(sets, shift)
            gates = np.clip(moved, 0.0, 1.0)
            leaving = gates != moved
        known = np.flatnonzero(np.isfinite(shift).all(axis=1))
        if not len(kinks):
            weights = np.repeat(self._weights[None], len(known), axis=0)
            for of_row, of_set in zip(weights, (sets[k] for k in known), strict=True):
                of_row[of_set] = 0.0
            found[known] = self._o.gradients_of(self._w + shift[known], weights)
            return found, off, leaving > 0.0
        for j in known:
            there = self.without(sets[j]).on_kinks(kinks.with_gates(gates[j]))
            off[j] = there.ramps(self._w + shift[j]).at(kinks)[0]
            off[j, np.isin(self._kink_rows, sets[j])] = 0.0
            found[j] = there.gradient(self._w + shift[j])
        return found, off, leaving > 0.0

    def _gate_tangents(self, sets: list[Rows], shift: Array) -> Array:
        """Movement of the gates with each shift, by what it leaves along Z."""
        forces = self.gd.kink_forces
        rest = np.stack(
            [
                self.without(rows).gradient(self._w)
                + self.gd.curved(np.nan_to_num(v)[None])[0]
                for rows, v in zip(sets, shift, strict=True)
            ]
        )
        for j, rows in enumerate(sets):
            if len(rows) == 1:
                J, Lam = self._o.jacobian(self._w, rows)[0], self._curvature[rows[0]]
                rest[j] -= J.T @ (Lam @ (J @ np.nan_to_num(shift[j])))
        found: Array = -self._factor.multipliers(rest) / forces
        return found

    def corrected(self, rows: Rows) -> tuple[Array, Array]:
        """`low_rank` and a few steps more, (k, p), and the errors left, (k,).

        The error of a step is the next one's length over its own, which is taken where
        it is the shorter one, until little is left. What the steps miss is more where
        they shrink slowly, or where H without the row is softer than M.
        """
        if self.interpolates:
            shift = self.first_order(rows)
            return shift, self._next(rows, shift, None)[1]
        parts = []
        for part, inverse in self._blocks(rows):
            shift, errors = self._once_more(part, inverse(self._own[part]), inverse)
            ratio = np.zeros(len(part))
            for _ in range(_N_CORRECTIONS):
                again = np.flatnonzero((errors > _LITTLE) & (errors < _SHORTER))
                if not len(again):
                    break
                some = part[again]
                found = self._once_more(some, shift[again], self._without_each(some))
                ratio[again] = found[1] / errors[again]
                shift[again], errors[again] = found
            # What is left of a sequence of steps that shrink by this ratio.
            slow = np.where(ratio < 1.0, 1.0 / np.maximum(1.0 - ratio, ALONE), np.inf)
            errors = np.where(errors > 0.0, errors * slow, errors)
            # What is not trusted anyhow needs no further evidence.
            sure = (errors > 0.0) & (errors <= HOLDS_TOL)
            errors[sure] *= self._softened(part[sure], shift[sure])
            parts.append((shift, errors))
        shifts, found = zip(*parts, strict=True)
        return np.concatenate(shifts), np.concatenate(found)

    def _once_more(self, rows: Rows, shift: Array, inverse: Any) -> tuple[Array, Array]:
        """Shifts after the next step, and its relative length."""
        left, errors = self._next(rows, shift, inverse)
        better = errors < _SHORTER
        return np.where(better[:, None], shift - np.nan_to_num(left), shift), errors

    def _softened(self, rows: Rows, shift: Array) -> Array:
        """By how much H without a row may be softer than H, (k,); inf of a saddle."""
        if self._halves is None or not len(rows):
            return np.ones(len(rows))
        sets = [rows[j : j + 1] for j in range(len(rows))]
        return softened(
            self._o,
            self._w,
            self._halves,
            rows,
            lambda z: self.residuals(sets, shift + z)[0],
        )

    def errors(self, rows: Rows, shift: Array) -> Array:
        """``|M^{-1} R(w + v)| / |v|`` for single rows, (k,)."""
        if self.interpolates:
            return self._next(rows, shift, None)[1]
        found, start = [], 0
        for part, inverse in self._blocks(rows):
            of_part = shift[start : start + len(part)]
            found.append(self._next(part, of_part, inverse)[1])
            start += len(part)
        return np.concatenate(found)

    def _next(self, rows: Rows, shift: Array, inverse: Any) -> tuple[Array, Array]:
        """The next step of the same kind, (k, p), and its relative length, (k,)."""
        R, off, leaving = self.residuals(
            [rows[j : j + 1] for j in range(len(rows))], shift
        )
        lengths, floor = np.linalg.norm(shift, axis=1), self._floor
        sizes = np.linalg.norm(R, axis=1)
        if inverse is None:
            return 0.0 * shift, np.where(sizes <= 1e3 * floor, 0.0, np.inf)
        left = inverse(R, leaving) if leaving.shape[1] else inverse(R)
        if off.shape[1]:
            left = left + np.where(leaving, 0.0, off) @ self._columns
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.linalg.norm(left, axis=1) / lengths
        found[sizes <= floor] = 0.0
        return left, np.where(np.isfinite(found), found, np.inf)

    @property
    def _floor(self) -> float:
        length = 1.0 + float(np.linalg.norm(self._w))
        return _ROUNDING * self.gd.residual_scale * length

    # Exactly --------------------------------------------------------------------------

    def retrained(self, rows: Rows, start: Array) -> tuple[Array, bool]:
        """The solution without the rows, from predicted weights; whether it is one."""
        objective = self.without(rows)
        found = None if len(rows) != 1 else self._by_chords(objective, rows, start)
        if found is not None:
            return found, True
        there = self.gd.on_other_kinks(objective, start)
        if there is not None:
            return there.weights, True
        gd = self.gd
        polished = continued(
            gd.weights,
            gd.factor,
            objective.off_kinks(),
            tol=self._tol,
            active=gd.active,
        )
        return polished.weights, polished.converged

    def _by_chords(
        self, objective: Objective, rows: Rows, start: Array
    ) -> Array | None:
        """By steps with M alone; None where they do not contract, or on kinks."""
        if len(self.gd.kinks) or not np.isfinite(start).all() or self.interpolates:
            return None
        inverse = self._without_each(rows)
        w, last = start, np.inf
        value, R = objective.value_and_gradient(w)
        lowest = objective.loss(self._w)
        enough = _EXACT * self.gd.residual_scale * (1.0 + float(np.linalg.norm(w)))
        for _ in range(_N_STEPS):
            if float(np.linalg.norm(R)) <= enough:
                # A step that lands higher than it began is none of a descent.
                return w if value <= lowest + abs(lowest) * 1e-12 else None
            step = inverse(R[None])[0]
            length = float(np.linalg.norm(step))
            if not length <= _CONTRACTION * last:
                return None
            w, last = w - step, length
            value, R = objective.value_and_gradient(w)
        return None

    # Sets -----------------------------------------------------------------------------

    @property
    def knows_sets(self) -> bool:
        """Whether it is known what rows hold alone: not by products with J."""
        return self.gd.solver_ != "lsmr"

    def alone(self, sets: list[Rows]) -> NDArray[np.bool_]:
        """Which sets of rows hold a direction of the weights that nothing else holds.

        Without them the solutions extend along it, and no step is theirs. At
        interpolation all do, and nothing moves (`freed`).
        """
        found = np.zeros(len(sets), dtype=bool)
        if self.interpolates or self._o.decays_everywhere:
            return found
        single = np.array([len(rows) == 1 for rows in sets])
        if single.any():
            rows = np.array([rows[0] for rows in sets if len(rows) == 1])
            parts = [inverse.alone for _, inverse in self._blocks(rows)]
            found[single] = np.concatenate(parts)
        groups = [rows for rows in sets if len(rows) > 1]
        if groups:
            factors = (factor for _, factor in self._gauss_newton(groups))
            dims = [factor.kernel_dim for factor in factors]
            found[~single] = np.array(dims) > self._factor.kernel_dim
        return found

    def freed(self, rows: Rows) -> Array:
        """Directions that nothing but these rows held, orthonormal, (k, p)."""
        nothing = np.zeros((0, len(self._w)))
        left_basis = getattr(self._factor, "left_basis", None)
        if left_basis is None:
            return nothing
        U = left_basis()[0].reshape(self._o.n_samples, -1, self._factor.rank)
        block = U[rows].reshape(-1, self._factor.rank)
        leverages, vectors = np.linalg.eigh(block @ block.T)
        chosen = vectors[:, leverages > 1.0 - 1e-6].T
        if not len(chosen):
            return nothing
        rho = np.zeros((len(chosen), *U.shape[:2]))
        rho[:, rows] = chosen.reshape(len(chosen), len(rows), -1)
        along = self._factor.apply_factored(rho.reshape(len(chosen), -1))
        return scipy.linalg.orth(along.T).T


def _rows_of(kinks: Any, inputs: dict[int, Array], n_samples: int) -> Rows:
    """The row of the data that each ramp belongs to; -1 for penalties."""
    found = np.full(len(kinks), -1)
    for k, (call, place) in enumerate(zip(kinks.calls, kinks.places, strict=True)):
        t = inputs[int(call)]
        if len(t) == n_samples:
            found[k] = place // (t.size // n_samples)
    return found


def _roots(blocks: Array) -> Array:
    """S with ``S'S = Lambda`` per row, negative curvature left out."""
    eigenvalues, vectors = np.linalg.eigh(blocks)
    sizes = np.sqrt(np.maximum(eigenvalues, 0.0))
    found: Array = sizes[..., None] * vectors.transpose(0, 2, 1)
    return found
