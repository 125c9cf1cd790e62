"""Symmetries of multilayer perceptrons, and alignment of solutions modulo them.

Independently trained nets differ by the order of their hidden units, by signs where
the activation is odd and by positive scales where it is positively homogeneous: each
such exchange acts on flat weights as a linear map ``w -> factor * w[source]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from ..linalg import ImplicitSubspace, Subspace
from ._architecture import HiddenLayer, hidden_layers

__all__ = ["Alignment", "HiddenLayer", "NetworkSymmetry"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Map = tuple[Indices, Array]  # source and factor

# Of several hidden layers: random orders of the units that the descent starts from.
N_RANDOM_STARTS = 4
START_SEED = 2209_04836
# Orders and signs settle in a few sweeps, which tell the starts apart; scales converge
# linearly. From the best start it ends where a sweep gains less than this fraction of
# the distance, far below what a distance is read for.
FIRST_SWEEPS, MAX_SWEEPS = 10, 100
LEAST_GAIN = 1e-9


@dataclass(frozen=True, eq=False)
class Alignment:
    """A copy of weights near a reference, and the linear map T that made it.

    Attributes
    ----------
    weights : ndarray of shape (n_params,)
        The copy, ``factor * w[source]`` of the weights w that were aligned.

    distance : float
        Euclidean distance from the copy to the reference.

    source : ndarray of int of shape (n_params,)
        A permutation.

    factor : ndarray of shape (n_params,)
        Nowhere 0.
    """

    weights: Array
    distance: float
    source: Indices
    factor: Array

    @property
    def is_orthogonal(self) -> bool:
        """Whether T only permutes weights and changes signs."""
        return bool(np.all(np.abs(self.factor) == 1))

    def apply(self, v: ArrayLike) -> Array:
        """T v of vectors in the last axis of ``v``, shape (..., n_params)."""
        v = np.asarray(v, dtype=np.float64)
        if v.shape[-1:] != self.source.shape:
            raise ValueError(
                f"The 'v' parameter of apply must have {len(self.source)} entries in "
                f"its last axis. Got shape {v.shape} instead."
            )
        return v[..., self.source] * self.factor

    def apply_to_subspace(self, kernel: Subspace | ImplicitSubspace) -> Subspace:
        """The image T V of a subspace V, by a basis of V or its complement as given.

        Where T is a symmetry of the objective it takes ker H at w to ker H at T w.
        Scales are no symmetries of an objective with weight decay.
        """
        # x is orthogonal to V iff T^{-T} x is orthogonal to T V.
        inverse = replace(self, factor=1 / self.factor)
        basis = (inverse if kernel.is_complement else self).apply(kernel.basis.T).T
        if not self.is_orthogonal:
            basis, _ = np.linalg.qr(basis)
        return Subspace(basis, kernel.is_complement)


@dataclass(frozen=True, eq=False)
class NetworkSymmetry:
    """Exchanges of hidden units that leave the function of a network unchanged.

    Parameters
    ----------
    n_params : int
        Number of flat weights: the trained parameters, one after the other in the
        order of ``module.named_parameters()``.

    hidden_layers : tuple of HiddenLayer

    Notes
    -----
    Scales are symmetries of the function, not of an objective with weight decay: see
    `without_scalings`. Of the linear symmetries of an identity layer only orders, signs
    and positive scales are considered.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa, "Git Re-Basin: Merging Models modulo
       Permutation Symmetries", ICLR 2023, :arxiv:`2209.04836`, Section 3.2.

    Examples
    --------
    Two units change places and one its sign, ``3 tanh(x) = -3 tanh(-x)``:

    >>> from torch import nn
    >>> from sksetsens.sets._symmetries import NetworkSymmetry
    >>> first, last = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    >>> symmetry = NetworkSymmetry.of(nn.Sequential(first, nn.Tanh(), last))
    >>> alignment = symmetry.align([-2.0, 1.0, -4.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    >>> alignment.weights, alignment.distance
    (array([1., 2., 3., 4.]), 0.0)
    """

    n_params: int
    hidden_layers: tuple[HiddenLayer, ...]

    def __post_init__(self) -> None:
        for layer in self.hidden_layers:
            shapes = np.shape(layer.incoming), np.shape(layer.outgoing)
            places = np.concatenate(
                [np.ravel(layer.incoming), np.ravel(layer.outgoing)]
            )
            matrices = [len(shape) for shape in shapes] == [2, 2]
            distinct = len(set(places) & set(range(self.n_params))) == len(places)
            if not (matrices and distinct and shapes[0][0] == shapes[1][0]):
                raise ValueError(
                    "The 'hidden_layers' parameter of NetworkSymmetry must hold layers "
                    "with one row per unit in 'incoming' and 'outgoing', of distinct "
                    f"places below n_params={self.n_params}. Got places {places} in "
                    f"arrays of shape {shapes[0]} and {shapes[1]} instead."
                )

    @classmethod
    def of(cls, module: nn.Module, *, scalings: bool = True) -> Self:
        """The symmetries of a module in evaluation mode.

        Parameters
        ----------
        module : nn.Module
            `DFCNN`, ``nn.Sequential`` (nested ones too) or ``nn.Linear``. Between two
            ``nn.Linear`` may stand activations of torch.nn that act on single entries,
            ``Identity``, ``Flatten`` and dropout; before the first and after the last
            one anything without parameters.

        scalings : bool, default=True
            Whether positive scales count, as in the function, or not, as in an
            objective with weight decay.

        Returns
        -------
        symmetry : NetworkSymmetry
            Without the hidden layers next to frozen parameters or to the fixed output
            weights of a `DFCNN`.

        Raises
        ------
        ValueError
            If the symmetries of the module are not known.
        """
        found = cls(*hidden_layers(module))
        return found if scalings else found.without_scalings()

    def without_scalings(self) -> Self:
        """Orders and signs alone, whose maps are orthogonal."""
        layers = [replace(layer, is_homogeneous=False) for layer in self.hidden_layers]
        return replace(self, hidden_layers=tuple(layers))

    def align(self, weights: ArrayLike, reference: ArrayLike) -> Alignment:
        """The copy of ``weights`` nearest to ``reference``, as far as it is found.

        One hidden layer is one assignment problem, whose costs are exact minima over
        sign and scale, and the copy is the nearest one. (The infimum over the scale of
        a unit with no incoming or no outgoing weights but 0 may not be attained; such
        a unit keeps its own.) Several layers are matched in turn, from a few
        deterministic starts, as long as the distance decreases: ``distance`` is an
        upper bound of the distance modulo symmetries, at most that of ``weights``.

        Parameters
        ----------
        weights, reference : array-like of shape (n_params,)

        Returns
        -------
        alignment : Alignment
        """
        w, target = self._check("weights", weights), self._check("reference", reference)
        found = [
            self._descend(start, w, target, FIRST_SWEEPS)
            for start in self._starts(w, target)
        ]
        best = min(found, key=lambda alignment: alignment.distance)
        return self._descend((best.source, best.factor), w, target, MAX_SWEEPS)

    def _check(self, name: str, value: ArrayLike) -> Array:
        w = np.asarray(value, dtype=np.float64)
        if w.shape == (self.n_params,) and np.isfinite(w).all():
            return w
        raise ValueError(
            f"The {name!r} parameter of align must be a finite array of shape "
            f"({self.n_params},). Got shape {w.shape} with "
            f"{np.sum(~np.isfinite(w))} NaN or infinite entries instead."
        )

    def _starts(self, weights: Array, reference: Array) -> Iterator[Map]:
        identity = np.arange(self.n_params), np.ones(self.n_params)
        yield identity
        if len(self.hidden_layers) > 1:
            # By incoming weights alone, from the inputs on: undoes every exchange of
            # units that differ in them.
            yield self._sweep(identity, weights, reference, by_outgoing=0.0)
            rng = np.random.RandomState(START_SEED)
            for _ in range(N_RANDOM_STARTS):
                start = identity
                for layer in self.hidden_layers:
                    units = rng.permutation(len(layer.incoming))
                    start = _exchange(start, layer, units, np.ones(len(units)))
                yield start

    def _descend(
        self, start: Map, weights: Array, reference: Array, n_sweeps: int
    ) -> Alignment:
        best = _transform(start, weights, reference)
        for _ in range(n_sweeps):
            start = self._sweep(start, weights, reference)
            previous, found = best.distance, _transform(start, weights, reference)
            best = found if found.distance < previous else best
            if not found.distance < (1 - LEAST_GAIN) * previous:
                break
        return best

    def _sweep(
        self, start: Map, weights: Array, reference: Array, by_outgoing: float = 1.0
    ) -> Map:
        """Match each layer once, the others as they are."""
        for layer in self.hidden_layers:
            moved = _transform(start, weights, reference).weights
            units, scales = _match(layer, moved, reference, by_outgoing)
            start = _exchange(start, layer, units, scales)
        return start


def _exchange(first: Map, layer: HiddenLayer, units: Indices, scales: Array) -> Map:
    """The map `first`, then ``scales[i]`` times unit ``units[i]`` as unit i."""
    source, factor = first[0].copy(), first[1].copy()
    for places, scale in [(layer.incoming, scales), (layer.outgoing, 1 / scales)]:
        source[places] = first[0][places[units]]
        factor[places] = first[1][places[units]] * scale[:, None]
    return source, factor


def _transform(how: Map, weights: Array, reference: Array) -> Alignment:
    moved = weights[how[0]] * how[1]
    return Alignment(moved, float(np.linalg.norm(moved - reference)), *how)


def _match(
    layer: HiddenLayer, weights: Array, reference: Array, by_outgoing: float
) -> Map:
    """Units and scales of one layer that come nearest to the reference.

    Unit j in place of unit i at scale c adds ``|c a_j - a_i'|^2 + |b_j / c - b_i'|^2``
    to the squared distance, for incoming weights a and outgoing weights b.
    """
    a, b = weights[layer.incoming], weights[layer.outgoing] * by_outgoing
    A, B = np.sum(a * a, axis=1), np.sum(b * b, axis=1)
    P, Q = reference[layer.incoming] @ a.T, reference[layer.outgoing] @ b.T

    def candidates(sign: float) -> Array:
        if not layer.is_homogeneous:
            return np.full((1, *P.shape), sign)
        return sign * _scales(A, sign * P, B, sign * Q)

    c = np.concatenate([candidates(1.0), *([candidates(-1.0)] * layer.is_odd)])
    costs = A * c**2 - 2 * P * c + B / c**2 - 2 * Q / c
    rows, units = linear_sum_assignment(costs.min(axis=0))
    return units, c[costs[:, rows, units].argmin(axis=0), rows, units]


def _scales(A: Array, P: Array, B: Array, Q: Array) -> Array:
    r"""Scales c > 0, the best for ``A c^2 - 2 P c + B / c^2 - 2 Q / c`` among them.

    With :math:`c = g s, g = (B/A)^{1/4}`, the critical points are the roots of
    :math:`q(s) = s^4 - \alpha s^3 + \beta s - 1`, and minima are its largest and its
    smallest positive root. The largest is found if it is at least :math:`\alpha/2`, and
    through 1/s, which swaps :math:`\alpha` and :math:`\beta`, the smallest if it is at
    most :math:`2/\beta`. Of several roots both are so: up to :math:`\alpha/2`, q is
    concave and q(0) < 0. And so is a single root r in one of the two: otherwise
    :math:`q(r) = 0 \leq q'(r)` gives :math:`r + r^{-3} < \alpha \leq (3r + r^{-3})/2`,
    hence r > 1, and in 1/r the same gives r < 1.
    """
    with np.errstate(all="ignore"):
        g = (B / A) ** 0.25
        alpha, beta = P / (A * g), Q * g / B
        c = np.stack([g * _largest_root(alpha, beta), g / _largest_root(beta, alpha)])
        # Where A or B vanishes, a square in 1/c or in c is left.
        c = np.where(B == 0, P / A, np.where(A == 0, B / Q, c))
        return np.where((c > 1e-99) & (c < 1e99), c, 1.0)  # squares must not overflow


def _largest_root(alpha: Array, beta: Array) -> Array:
    """Largest root of ``s^4 - alpha s^3 + beta s - 1``, if it is at least alpha / 2.

    From there on the polynomial is convex, so that Newton's method from above descends
    to the root. If the root is smaller, any positive number is returned.
    """
    # Roots are below 2 max |a_{4-k}|^(1/k) over the negative coefficients.
    s = 2 * np.maximum(1, np.maximum(alpha, np.cbrt(-beta)))
    for _ in range(64):  # steps of at least s/4 while far away, then quadratic
        previous, value = s, ((s - alpha) * s * s + beta) * s - 1
        slope = (4 * s - 3 * alpha) * s * s + beta
        s = np.clip(s - value / slope, np.maximum(alpha / 2, 0), s)
        if np.array_equal(s, previous, equal_nan=True):
            break
    return s
