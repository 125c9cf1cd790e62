"""Whether derivatives mean what they say: compared with differences, once.

Autograd differentiates the operations that it saw. Where ``forward`` or ``get_loss``
cut some off (``torch.no_grad``, ``detach``), and at the tip of a cone, where there is
no derivative, it returns numbers that no formula can tell from derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..linalg import probe, probe_generator
from ..objective import PointProducts
from ._graphical_derivative import GraphicalDerivative
from ._undifferentiable import column_sizes

__all__ = ["DerivativeFindings", "Disagreement", "check_derivatives"]

Array = NDArray[np.float64]

# Steps relative to the size of what moves. The first is enough where derivatives are
# right; the others tell truncation, which falls with the step, and rounding, which
# grows, from a disagreement, which stays.
_STEPS = (1e-4, 1e-5, 1e-6, 1e-7)
# A jump must stay at this one too, where a steep slope has become one.
_JUMP_STEP = 1e-9
# Relative gap from which a difference and a derivative disagree. Truncation at the
# first step is about 1e-8, and float32 inside a net makes 1e-3.
_GAP_TOL = 2e-3
# Share of the gap by which differences at two steps may be apart.
_STEADY = 0.1
# A movement of R this far below that of all weights by their own length is none.
_NOTHING = 1e-15
# Of a loss, relative: a sum over many rows; and relative to the outputs.
_ROUNDING = 1e-13
_OUTPUT_ROUNDING = 4.0 * float(np.finfo(np.float64).eps)
# Where R = 0 nothing can be compared: the loss's gradient is taken at weights that are
# moved by this share of each.
_MOVE = 1e-2
# Weights that are zero move by this share of the root mean square.
_LEAST_MOVE = 1e-3


# Second differences of the loss: share of the loss that the longer of two steps may
# change by H, and its length relative to 1 + |w| at most, and at least (a loss of
# rounding, as at interpolation, tells nothing); what they may miss of H, what
# rounding leaves of them, and how far two misses of one cut may lie apart: what is left
# of a smooth loss falls with the square of the step.
_LOSS_SHARE, _LONGEST, _SHORTEST = 1e-4, 3e-3, 1e-6
_CURVATURE_TOL = 1e-4
_LOSS_ROUNDING = 1e-14
_SAME_MISS = 0.1


class Disagreement(Enum):
    """What is wrong with a derivative. The value is the sentence for the reader."""

    LOSS = (
        "the gradient is not that of the loss: forward or get_loss cuts weights off "
        "from differentiation (torch.no_grad, detach); take the cut out, or freeze "
        "these weights by requires_grad=False"
    )
    HESSIAN = (
        "H is not the derivative of the gradient: forward or get_loss cuts part of the "
        "gradient off from differentiation (torch.no_grad, detach, a custom backward); "
        "take the cut out"
    )
    CURVATURE = (
        "H is not the curvature of the loss: forward or get_loss cuts weights off from "
        "differentiation that do not move the loss at first order here "
        "(torch.no_grad, detach); take the cut out"
    )
    CONE = (
        "the loss is not differentiable at this solution: its gradient jumps there (a "
        "cone, as of the root of a mean square or an unsquared norm at zero), and H "
        "means nothing; square the norm, or add a small constant under the root"
    )
    NOT_FINITE = (
        "H or B is not finite: an operation of forward or get_loss has no second "
        "derivative here (a root or a norm at zero, an overflow); replace it"
    )
    DATA = (
        "B is not the derivative of the gradient in the data: forward cuts the data "
        "off from differentiation (torch.no_grad, x.detach()); take the cut out"
    )
    DATA_JUMP = (
        "the gradient jumps as the data moves (a rounding, an integer or a threshold "
        "inside forward): no derivative in the data exists here"
    )


# What a comparison of H and of B means.
_HESSIAN = {
    None: None,
    "differs": Disagreement.HESSIAN,
    "jumps": Disagreement.CONE,
    "not finite": Disagreement.NOT_FINITE,
}
_DATA = {
    None: None,
    "differs": Disagreement.DATA,
    "jumps": Disagreement.DATA_JUMP,
    "not finite": Disagreement.NOT_FINITE,
}


@dataclass(frozen=True)
class DerivativeFindings:
    """What the comparison of derivatives with differences found at one solution.

    Attributes
    ----------
    reasons : tuple of Disagreement
    """

    reasons: tuple[Disagreement, ...]

    @property
    def agree(self) -> bool:
        """Whether all derivatives are what they are called."""
        return not self.reasons

    @property
    def sentence(self) -> str:
        """All reasons; "" for none."""
        return "; ".join(reason.value for reason in self.reasons)


def check_derivatives(
    gd: GraphicalDerivative, *, is_smooth: bool
) -> DerivativeFindings:
    """Compare R with differences of the loss, and H and B with differences of R.

    Along one random direction each, at about eight gradients.

    Parameters
    ----------
    gd : GraphicalDerivative
    is_smooth : bool
        False where H is known to jump: it is then not compared, and what it is not is
        told as a kink.

    Returns
    -------
    findings : DerivativeFindings
    """
    with np.errstate(all="ignore"):
        found = [_loss(gd), _hessian(gd) if is_smooth else None]
        if found[1] not in (Disagreement.CONE, Disagreement.NOT_FINITE):
            found.append(_data(gd))  # Otherwise B means no more than H.
    return DerivativeFindings(tuple(reason for reason in found if reason))


def _loss(gd: GraphicalDerivative) -> Disagreement | None:
    """R v against the loss at weights nearby, where R is not zero.

    Two directions must agree that they do not: one number may be steady by chance.
    """
    objective = gd.smooth.untilted()
    rng = probe_generator(3)
    reach = np.abs(gd.weights)
    reach = reach + _LEAST_MOVE * (float(np.sqrt(np.mean(reach**2))) or 1.0)
    w = gd.weights + _MOVE * reach * rng.standard_normal(reach.size)
    R = objective.gradient(w)
    # A loss of classes far apart is a difference of their outputs.
    largest = float(np.abs(objective.outputs(w)).max(initial=0.0))
    rounding = _ROUNDING * abs(objective.loss(w)) + _OUTPUT_ROUNDING * largest

    def slope(v: Array, h: float) -> Array:
        change = objective.loss(w + h * v) - objective.loss(w - h * v)
        return np.array([change / (2.0 * h)])

    for _ in range(2):
        v = reach * rng.standard_normal(reach.size)
        compared = _compare(
            partial(slope, v),
            np.array([R @ v]),
            # Random signs may cancel.
            least=float(np.linalg.norm(R * v)),
            rounding=rounding,
        )
        if compared is None:
            return None
    return Disagreement.LOSS


def _hessian(gd: GraphicalDerivative) -> Disagreement | None:
    gradient, w = gd.smooth.gradient, gd.weights
    v = probe(w.size, stream=4)
    v *= (1.0 + float(np.linalg.norm(w))) / np.linalg.norm(v)
    compared = _compare(
        lambda h: (gradient(w + h * v) - gradient(w - h * v)) / (2.0 * h),
        PointProducts(gd.smooth, w).hessian(v),
    )
    disagreement = _HESSIAN[compared]
    if disagreement is None and not _is_curvature_of_loss(gd):
        return Disagreement.CURVATURE
    return disagreement


def _is_curvature_of_loss(gd: GraphicalDerivative) -> bool:
    """Whether second differences of the loss are what H says.

    A cut gradient is the derivative of nothing, but may agree with itself: where what
    is cut off vanishes with the weights, R and H are those of another function. Two
    steps must agree that the loss curves otherwise while R does not, and both stand out
    from rounding.
    """
    objective, w = gd.smooth, gd.weights
    v = probe(w.size, stream=6)
    v *= (1.0 + float(np.linalg.norm(w))) / np.linalg.norm(v)
    expected = float(v @ PointProducts(objective, w).hessian(v))
    here, missed = objective.loss(w), []
    change = max(abs(expected), np.finfo(float).tiny)
    longest = min(_LONGEST, float(np.sqrt(2.0 * _LOSS_SHARE * abs(here) / change)))
    if longest < _SHORTEST:
        return True
    for h in (longest, longest / 3.0):
        ahead, behind = objective.loss(w + h * v), objective.loss(w - h * v)
        rounding = _LOSS_ROUNDING * max(abs(here), abs(ahead)) / h**2
        miss = (ahead + behind - 2.0 * here) / h**2 - expected
        if not abs(miss) > _CURVATURE_TOL * abs(expected) + rounding:
            return True
        # Kinks between here and there bend R as they bend the loss.
        bend = objective.gradient(w + h * v) - objective.gradient(w - h * v)
        if not abs(v @ bend / (2.0 * h) - expected) <= _SAME_MISS * abs(miss):
            return True
        missed.append(miss)
    return not abs(missed[0] - missed[1]) <= _SAME_MISS * abs(missed[1])


def _data(gd: GraphicalDerivative) -> Disagreement | None:
    """B dx against R, where X is not known to lack a derivative.

    Rows with a kink stay where they are, however small it is for the outputs: it may be
    larger for R.
    """
    objective = gd.smooth
    x = objective.inputs
    flat = x.reshape(len(x), -1)
    dx = column_sizes(flat) * probe(*flat.shape, stream=5)
    missing = gd.undifferentiable
    still = missing.jumps | missing.bent_rows[:, None]
    dx = np.where(still, 0.0, dx).reshape(x.shape)
    if not dx.any():
        return None

    def residual(h: float) -> Array:
        return objective.with_data(x + h * dx).gradient(gd.weights)

    compared = _compare(
        lambda h: (residual(h) - residual(-h)) / (2.0 * h),
        PointProducts(objective, gd.weights).cross(dx),
        # Where all units are dead, products of their weights are denormal.
        least=_NOTHING * gd.hessian_norm * (1.0 + float(np.linalg.norm(gd.weights))),
    )
    return _DATA[compared]


def _compare(
    difference: Callable[[float], Array],
    derivative: Array,
    *,
    least: float = 0.0,
    rounding: float = 0.0,
) -> str | None:
    """None where a derivative is that of central differences, or nothing can be told.

    Otherwise "not finite", of the derivative; "differs", where differences agree with
    each other; or "jumps", where they grow as the step falls, in the same direction.
    """
    if not np.isfinite(derivative).all():
        return "not finite"
    found = []
    for h in _STEPS:
        found.append(difference(h))
        gap = float(np.linalg.norm(found[-1] - derivative))
        sizes = (float(np.linalg.norm(v)) for v in (found[-1], derivative))
        if not gap > max(_GAP_TOL * max(*sizes, least), rounding / h):
            return None
    *_, coarsest, coarse, fine = found
    if _same_jump(coarse * _STEPS[-2], fine * _STEPS[-1]):
        finest = difference(_JUMP_STEP) * _JUMP_STEP
        return "jumps" if _same_jump(fine * _STEPS[-1], finest) else None
    spread = max(float(np.linalg.norm(fine - v)) for v in (coarsest, coarse))
    return "differs" if spread <= _STEADY * gap else None


def _same_jump(one: Array, other: Array) -> bool:
    size = float(np.linalg.norm(one))
    return size > 0.0 and float(np.linalg.norm(other - one)) <= _STEADY * size
