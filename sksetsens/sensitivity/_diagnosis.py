"""What a solution is, and whether first-order sensitivity may be trusted there.

Six things break the formulas without changing their output: a point that is no
minimum, weights on their way to infinity, a spectrum without a gap at the cut-off, a
rank that changes along the solution set, a kink of the objective, and derivatives that
are none. Each is looked for and put into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe
from ..objective import SINGLE_FROM, Objective
from ..optimize import revival
from ._derivative_check import check_derivatives
from ._fading import fading_slope
from ._graphical_derivative import GraphicalDerivative
from ._manifold import OBSTRUCTION_TOL, ROUNDING, directions, felt, obstruction

__all__ = [
    "Diagnosis",
    "Finding",
    "diagnose",
]

Array = NDArray[np.float64]

# Smooth objectives have a relative second difference of order h at step h; on a kink
# it is the share of the curvature that jumps, whatever h. 1e-2 lies between for
# h = 1e-4 unless third derivatives exceed the curvature a hundredfold.
_KINK_STEP = 1e-4
_KINK_TOL = 1e-2
# One shows what there is in a net of many weights, where each costs minutes.
_N_KINK_DIRECTIONS = 4


# Ratio of columns' sizes whose square reaches the cut-off of solvers by products, which
# is 1e-10, within two decades.
_SCALES_APART = 1e4
# Neglected curvature over the smallest kept eigenvalue: the shift's relative error.
_NEGLECT_TOL = 1e-2


# Gates nearer to 0 or 1 are no longer what they are within any perturbation worth the
# name. Dead units with less of a slope share the work of live ones at no gain.
_STRICT, _ALIVE = 1e-6, 1e-4


class Finding(Enum):
    """What denies first order its trust at a solution.

    The value is the sentence for the reader, with fields that the evidence fills.
    """

    NOT_STATIONARY = "{why}"
    SADDLE = (
        "a saddle: {negative} negative eigenvalues, no minimum of the objective; train "
        "from another start"
    )
    STOPPED_AT_SADDLE = (
        "early-stopped with {negative} negative eigenvalues: no minimum of the tilted "
        "objective, training would have moved on; train longer, or polish"
    )
    NO_GAP = (
        "the spectrum has no gap at the cut-off {cutoff:.2g}: rank and shift depend on "
        "rcond; add weight decay, or set rcond where the spectrum has a gap"
    )
    SCALES_APART = (
        "columns of X differ in scale by {ratio:.1g}, and without a factorisation in "
        "their own scales small curvature passes for none: standardise X, add weight "
        "decay, or use solver='eigh' if the net is small enough"
    )
    RANK_CHANGES = (
        "the rank of H changes along the solution set here (degenerate point): first "
        "order does not describe how the set moves"
    )
    KINK = (
        "the objective has a kink here{where}: the curvature jumps by {jump:.0%} and H "
        "is one of several; use a smooth activation (tanh, softplus){loss}"
    )
    NOT_STRICT = (
        "a kink is about to change: its gate is within {strictness:.1g} of 0 or 1, "
        "where the solutions move differently to both sides; train from another start"
    )
    REVIVAL = (
        "a dead unit lowers the loss when it revives (slope {slope:.2g} of its "
        "curvature): no minimum; train from another start"
    )
    NO_MINIMISER = (
        "no finite minimiser: a slope of {slope:.2g} is left that fades as weights "
        "grow and vanishes nowhere, as of a unit that saturates; add weight decay to "
        "the optimizer"
    )
    HOLDS_OUTPUTS = (
        "{note}; H itself, whose kernel and signs would tell a minimum, is not "
        "examined: add weight decay for a minimiser that is isolated"
    )
    NEGLECTED_CURVATURE = (
        "{form} neglects curvature of {neglected:.2g} times the smallest kept "
        "eigenvalue: the net does not interpolate, use solver='eigh' with "
        "curvature='hessian'"
    )
    DERIVATIVES_DISAGREE = "{disagreement}"


@dataclass(frozen=True)
class Diagnosis:
    """Evidence about one solution.

    Attributes
    ----------
    findings : tuple of Finding
        What denies trust; none at a solution at which shift and modulus mean what they
        say.

    kink_jump : float
        Relative jump of the curvature along random directions.

    obstruction : float
        Distance to the set after a step along ker H and its correction, over the
        step: near 0 on a manifold. NaN where another finding keeps it from being
        examined.

    status : str
        One sentence for the reader.
    """

    findings: tuple[Finding, ...]
    kink_jump: float
    obstruction: float
    status: str

    @property
    def is_trustworthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def is_stationary(self) -> bool:
        """Whether the weights met the tolerance."""
        return Finding.NOT_STATIONARY not in self.findings

    @property
    def has_constant_rank(self) -> bool:
        """Whether the rank of H was examined, and is constant along the set."""
        return self.obstruction <= OBSTRUCTION_TOL


def diagnose(
    gd: GraphicalDerivative, *, is_stationary: bool, polish_status: str
) -> Diagnosis:
    """Examine a solution.

    Parameters
    ----------
    gd : GraphicalDerivative
        Factorised at the solution.

    is_stationary : bool
        Whether the weights met the tolerance.

    polish_status : str
        Why not, where they did not.

    Returns
    -------
    diagnosis : Diagnosis
    """
    found: dict[Finding, dict[str, Any]] = {}
    if not is_stationary:
        found[Finding.NOT_STATIONARY] = {"why": polish_status}
    negative = gd.factor.inertia[0]
    if negative:
        tilted = gd.objective.is_tilted
        saddle = Finding.STOPPED_AT_SADDLE if tilted else Finding.SADDLE
        found[saddle] = {"negative": negative}
    if not gd.factor.has_clear_cutoff:
        found[Finding.NO_GAP] = {"cutoff": gd.factor.cutoff}
    ratio = _unresolved_scales(gd)
    if ratio > _SCALES_APART:
        found[Finding.SCALES_APART] = {"ratio": ratio}
    if gd.strictness < _STRICT:
        found[Finding.NOT_STRICT] = {"strictness": max(gd.strictness, 0.0)}
    if is_stationary:
        slope = revival(gd.objective, gd.weights, gd.kinks).slope
        if slope < -_ALIVE:
            found[Finding.REVIVAL] = {"slope": slope}
        slope = fading_slope(gd)
        if slope > 0.0:
            found[Finding.NO_MINIMISER] = {"slope": slope}
    jump = _kink_jump(gd, gd.smooth)
    if _moves_dead_units(gd):
        jump = _kink_jump(gd, gd.objective.off_kinks())
    checked = check_derivatives(gd, is_smooth=jump <= _KINK_TOL)
    neglects = gd.neglected_curvature > _NEGLECT_TOL
    # A saddle has a rank, too: all else keeps it from being examined.
    others = set(found) - {Finding.SADDLE, Finding.STOPPED_AT_SADDLE}
    away = np.nan
    if not others and jump <= _KINK_TOL and checked.agree and not neglects:
        away = obstruction(gd)
        if away > OBSTRUCTION_TOL:
            found[Finding.RANK_CHANGES] = {}
    if jump > _KINK_TOL:
        found[Finding.KINK] = _about_kinks(gd, jump)
    if neglects and gd.note:
        found[Finding.HOLDS_OUTPUTS] = {"note": gd.note}
    elif neglects:
        form, neglected = _APPROXIMATION[gd.solver.curvature], gd.neglected_curvature
        found[Finding.NEGLECTED_CURVATURE] = {"form": form, "neglected": neglected}
    if not checked.agree:
        found[Finding.DERIVATIVES_DISAGREE] = {"disagreement": checked.sentence}
    told = [finding.value.format(**fields) for finding, fields in found.items()]
    return Diagnosis(tuple(found), jump, away, "; ".join(told) or _kind(gd))


def _unresolved_scales(gd: GraphicalDerivative) -> float:
    """Ratio of the columns' sizes where it may hide curvature as ker H; 1 elsewhere.

    Curvature goes by their square, and is lost at the cut-off of a Hessian that is not
    decomposed in the weights' own scales.
    """
    if gd.solver_ != "minres" or gd.solver.rcond is not None or gd.kernel.dim == 0:
        return 1.0
    columns = gd.objective.inputs.reshape(gd.objective.n_samples, -1)
    sizes = np.linalg.norm(columns, axis=0)
    sizes = sizes[sizes > 0.0]
    return float(sizes.max() / sizes.min()) if sizes.size else 1.0


_APPROXIMATION = {"hessian": "solver='dual'", "ggn": "curvature='ggn'"}


def _about_kinks(gd: GraphicalDerivative, jump: float) -> dict[str, Any]:
    kinked, total = gd.objective.kinked_preactivations(gd.weights)
    where = f" ({kinked} of {total} pre-activations sit on it)" if kinked else ""
    loss = "" if kinked else ", and a smooth loss (no norms or absolute values)"
    return {"where": where, "jump": jump, "loss": loss}


def _kind(gd: GraphicalDerivative) -> str:
    """What a trustworthy solution is."""
    told = ""
    n_dead = gd.kinks.n_dead_units
    if n_dead:
        told = f"; {n_dead} dead unit{'s' if n_dead > 1 else ''}"
    if gd.objective.is_tilted:
        told += " (early-stopped: of the objective tilted by the gradient left)"
    if gd.undifferentiable.sentence:
        told += f"; {gd.undifferentiable.sentence}"
    dim, n = gd.factor.kernel_dim, len(gd.kinks)
    if n:
        where = f"{n} kink{'s' if n > 1 else ''}"
        if dim == 0:
            return f"minimum on {where}: positive definite on their tangent space{told}"
        return f"minimum on {where}, in a set of dimension {dim}{told}"
    if dim == 0:
        return f"isolated minimum: H is positive definite{told}"
    estimated = "" if gd.factor.is_rank_exact else " or so (estimated)"
    return f"minimum in a set of dimension {dim}{estimated} (ker H){told}"


def _moves_dead_units(gd: GraphicalDerivative) -> bool:
    """Whether ramps that are 0 in all rows, without a force, move to first order.

    They are then no dead units: the curvature jumps to both sides.
    """
    dead = gd.kinks.dead_ramps
    if not len(dead):
        return False
    o = gd.objective
    dy = probe(*o.target_shape) if o.has_real_targets else None
    dX = probe(*o.input_shape)
    shift = gd(dX, dy).shift
    if not np.isfinite(shift).all():
        return False
    moved = dead.taken(o.ramp_tangents(gd.weights, shift, dX, dy))
    anyhow = directions(gd, 1)[0] * float(np.linalg.norm(shift))
    expected = dead.taken(o.ramp_tangents(gd.weights, anyhow))
    return bool(np.abs(moved).max() > _KINK_TOL * np.abs(expected).max())


def _kink_jump(gd: GraphicalDerivative, objective: Objective) -> float:
    """Largest ``|R(w+hv) + R(w-hv) - 2R(w)| / (h |Hv|)`` that does not fall with h.

    In the units in which H was decomposed: a step that is short for one column of the
    data may be long for another.
    """
    units, hessian_norm = gd.units

    def gradient(w: Array) -> Array:
        return units * objective.gradient(units * w)

    w = gd.weights / units
    h = _KINK_STEP * (1.0 + float(np.linalg.norm(felt(gd) / units)))
    here = gradient(w)
    noise = ROUNDING * hessian_norm * (1.0 + float(np.linalg.norm(w)))
    jumps = [0.0]
    large = gd.objective.n_params >= SINGLE_FROM
    for v in directions(gd, 1 if large else _N_KINK_DIRECTIONS):
        slope = float(np.linalg.norm(units * gd.H.matvec(units * v)))
        if slope <= noise:
            continue
        coarse, fine = (
            float(np.linalg.norm(gradient(w + s * v) + gradient(w - s * v) - 2 * here))
            / (s * slope)
            for s in (h, h / 10.0)
        )
        # A smooth remainder falls tenfold with h; a kink at the point does not.
        jumps.append(coarse if fine > 0.3 * coarse else 0.0)
    return max(jumps)
