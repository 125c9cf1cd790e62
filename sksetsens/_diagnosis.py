"""What a solution is, and whether first-order sensitivity may be trusted there.

Four things break the formulas without changing their output: a point that is no
minimum, a spectrum without a gap at the cut-off, a rank that changes along the
solution set, and a kink of the objective. Each is looked for and put into words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .derivatives import GraphicalDerivative

__all__ = ["Diagnosis", "diagnose"]

Array = NDArray[np.float64]

# Smooth objectives have a relative second difference of order h at step h; on a kink
# it is the share of the curvature that jumps, whatever h. 1e-2 lies between for
# h = 1e-4 unless third derivatives exceed the curvature a hundredfold.
_KINK_STEP = 1e-4
_KINK_TOL = 1e-2
_N_KINK_DIRECTIONS = 4

# Steps along ker H, relative to 1 + |w|, from which the set must be reached again.
_KERNEL_STEPS = (1e-2, 1e-3)
_N_CHORD_STEPS = 30
# On a manifold the distance left after the correction is far below the step taken;
# where the rank changes it is of the step's own size.
_OBSTRUCTION_TOL = 1e-2
# |R| / (|H| (1 + |w|)) below this is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Diagnosis:
    """Evidence about one solution.

    Attributes
    ----------
    is_stationary, is_minimum, has_clear_cutoff, has_constant_rank, is_smooth : bool
        The conditions under which shift and modulus mean what they say.

    kink_jump : float
        Relative jump of the curvature along random directions.

    obstruction : float
        Distance to the set after a step along ker H and its correction, over the
        step: near 0 on a manifold.

    status : str
        One sentence for the reader.
    """

    is_stationary: bool
    is_minimum: bool
    has_clear_cutoff: bool
    has_constant_rank: bool
    is_smooth: bool
    kink_jump: float
    obstruction: float
    status: str

    @property
    def is_trustworthy(self) -> bool:
        """Whether all conditions hold."""
        return (
            self.is_stationary
            and self.is_minimum
            and self.has_clear_cutoff
            and self.has_constant_rank
            and self.is_smooth
        )


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
    negative = gd.factor.inertia[0]
    clear = gd.factor.has_clear_cutoff
    jump = _kink_jump(gd)
    smooth = jump <= _KINK_TOL
    obstruction = _obstruction(gd) if smooth and clear and is_stationary else 0.0
    constant = obstruction <= _OBSTRUCTION_TOL
    findings = [
        ("" if is_stationary else polish_status),
        _saddle_sentence(gd, negative),
        (
            ""
            if clear
            else f"the spectrum has no gap at the cut-off {gd.factor.cutoff:.2g}: rank "
            "and shift depend on rcond; add weight decay, or set rcond where the "
            "spectrum has a gap"
        ),
        (
            ""
            if constant
            else "the rank of H changes along the solution set here (degenerate "
            "point): first order does not describe how the set moves"
        ),
        "" if smooth else _kink_sentence(gd, jump),
        _neglect_sentence(gd),
    ]
    told = "; ".join(text for text in findings if text)
    return Diagnosis(
        is_stationary,
        negative == 0,
        clear,
        constant,
        smooth,
        jump,
        obstruction,
        told or _kind(gd),
    )


def _saddle_sentence(gd: GraphicalDerivative, negative: int) -> str:
    if not negative:
        return ""
    if gd.objective.is_tilted:
        return (
            f"early-stopped with {negative} negative eigenvalues: no minimum of the "
            "tilted objective, training would have moved on; train longer, or polish"
        )
    return (
        f"a saddle: {negative} negative eigenvalues, no minimum; train from another "
        "start"
    )


def _kind(gd: GraphicalDerivative) -> str:
    if gd.factor.kernel_dim == 0:
        return "isolated minimum: H is positive definite"
    return f"minimum in a set of dimension {gd.factor.kernel_dim} (ker H)"


def _kink_sentence(gd: GraphicalDerivative, jump: float) -> str:
    kinked, total = gd.objective.kinked_preactivations(gd.weights)
    where = f" ({kinked} of {total} pre-activations sit on it)" if kinked else ""
    return (
        f"the objective has a kink here{where}: the curvature jumps by {jump:.0%} and "
        "H is one of several; use a smooth activation (tanh, softplus)"
    )


def _neglect_sentence(gd: GraphicalDerivative) -> str:
    if gd.neglected_curvature <= 1e-2:
        return ""
    return (
        "solver='dual' neglects curvature of "
        f"{gd.neglected_curvature:.2g} times the smallest kept eigenvalue: the net "
        "does not interpolate, use solver='eigh'"
    )


def _directions(gd: GraphicalDerivative, n: int) -> Array:
    v = np.random.RandomState(0).standard_normal((n, gd.weights.size))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _kink_jump(gd: GraphicalDerivative) -> float:
    """Largest ``|R(w+hv) + R(w-hv) - 2R(w)| / (h |Hv|)`` that does not fall with h."""
    gradient = gd.objective.gradient
    h = _KINK_STEP * (1.0 + float(np.linalg.norm(gd.weights)))
    here = gradient(gd.weights)
    noise = _ROUNDING * gd.hessian_norm * (1.0 + float(np.linalg.norm(gd.weights)))
    jumps = [0.0]
    for v in _directions(gd, _N_KINK_DIRECTIONS):
        slope = float(np.linalg.norm(gd.H.matvec(v)))
        if slope <= noise:
            continue
        coarse, fine = (
            float(
                np.linalg.norm(
                    gradient(gd.weights + s * v)
                    + gradient(gd.weights - s * v)
                    - 2.0 * here
                )
            )
            / (s * slope)
            for s in (h, h / 10.0)
        )
        # A smooth remainder falls tenfold with h; a kink at the point does not.
        jumps.append(coarse if fine > 0.3 * coarse else 0.0)
    return max(jumps)


def _obstruction(gd: GraphicalDerivative) -> float:
    """Lyapunov-Schmidt test of constant rank: a manifold along ker H, or not.

    From ``w + rho z``, z in ker H, the chord iteration ``w -= H^+ R(w)`` solves the
    range part of R = 0. What stays is the reduced equation's value; it vanishes for
    all small z exactly where the zeros of R form a manifold tangent to ker H, that
    is, where the rank is constant on it.
    """
    if gd.kernel.dim == 0:
        return 0.0
    worst = []
    scale = 1.0 + float(np.linalg.norm(gd.weights))
    for rho in _KERNEL_STEPS:
        distances = [
            _distance_left(gd, rho * scale, z) for z in _kernel_directions(gd, 2)
        ]
        worst.append(max(distances))
    # A step that is merely too long fails at the larger size only.
    return min(worst)


def _kernel_directions(gd: GraphicalDerivative, n: int) -> Array:
    z = gd.kernel.project(_directions(gd, n))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _distance_left(gd: GraphicalDerivative, rho: float, z: Array) -> float:
    w = gd.weights + rho * z
    for _ in range(_N_CHORD_STEPS):
        step = gd.newton_step(w)
        w = w + step
        if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(w):
            break
    left = gd.objective.gradient(w)
    norm = float(np.linalg.norm(left))
    at_start = float(np.linalg.norm(gd.objective.gradient(gd.weights)))
    floor = _ROUNDING * gd.hessian_norm * (1.0 + float(np.linalg.norm(w)))
    if norm <= floor + 10.0 * at_start:
        return 0.0
    curvature = float(np.linalg.norm(gd.objective.hessian_product(w, left / norm)))
    return np.inf if curvature == 0.0 else norm / (curvature * rho)
