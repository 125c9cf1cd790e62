"""Sets of solutions with their affine pieces: the library's answer type."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._validation import check_count, check_positive, check_rows, real_points
from ..linalg import ImplicitSubspace, Subspace
from ..objective import Objective
from ._copies import nearest_copies, objective_symmetry, partners_of, retilted
from ._html import html_table
from ._storage import (
    read_arrays,
    restored_kernel,
    restored_objective,
    write_arrays,
)
from ._symmetries import Alignment, NetworkSymmetry

__all__ = ["SolutionSet"]

Array = NDArray[np.float64]


class SolutionSet:
    """Solutions of one training problem, each with the affine piece through it.

    The set is the union over i of ``weights[i] + ker H_i``: to first order, all
    minimisers near the ones that training found.

    Parameters
    ----------
    weights : ndarray of shape (n_solutions, n_params)
        Flat weights in the order of the net's trainable parameters.

    evidence : dict of str to ndarray
        Per-solution arrays named in `EVIDENCE`.

    kernels : sequence of Subspace
        ker H at each solution.

    objectives : sequence of Objective, default=None
        What evaluates the net with each solution's buffers; None after loading
        without an estimator, when `predict` is not available.

    Attributes
    ----------
    weights : ndarray of shape (n_solutions, n_params), float64

    losses : ndarray of shape (n_solutions,)
        Objective on this set's data, penalty included.

    gradient_norms : ndarray of shape (n_solutions,)
        Euclidean norm of the first-order residual R (of the tilted objective where
        ``polish=False``).

    stationarity : ndarray of shape (n_solutions,)
        ``|R| / (|H|_2 (1 + |w|))``.

    converged : ndarray of bool of shape (n_solutions,)
        Whether stationarity meets the tolerance.

    ranks : ndarray of int of shape (n_solutions,)
        Rank of H.

    kernel_dims : ndarray of int of shape (n_solutions,)
        Dimension of ker H.

    ranks_are_exact : ndarray of bool of shape (n_solutions,)
        Whether these are known. Solvers by products estimate them, unless H proves to
        be definite.

    gaps : ndarray of shape (n_solutions,)
        Smallest kept over largest dropped absolute eigenvalue.

    inertias : ndarray of int of shape (n_solutions, 3)
        Numbers of negative, zero and positive eigenvalues of H.

    n_kinks : ndarray of int of shape (n_solutions,)
        Inputs of piecewise-linear operations (ReLU, maxima, absolute errors, ...) on
        whose kink the solution sits. Rank, gap and inertia are then those of H at
        their gates, on the tangent space of the kinks.

    n_dead_units : ndarray of int of shape (n_solutions,)
        Units whose inputs are 0 in all rows, with all their weights.

    trustworthy : ndarray of bool of shape (n_solutions,)
        Whether first-order sensitivity means what it says there.

    status : ndarray of str of shape (n_solutions,)
        One sentence each.
    """

    EVIDENCE: tuple[str, ...] = (
        "losses",
        "gradient_norms",
        "stationarity",
        "converged",
        "ranks",
        "kernel_dims",
        "ranks_are_exact",
        "gaps",
        "inertias",
        "n_kinks",
        "n_dead_units",
        "trustworthy",
        "status",
    )

    # Classes by name, for `load`.
    _kinds: ClassVar[dict[str, type[SolutionSet]]] = {}

    losses: Array
    gradient_norms: Array
    stationarity: Array
    converged: NDArray[np.bool_]
    ranks: NDArray[np.int64]
    kernel_dims: NDArray[np.int64]
    ranks_are_exact: NDArray[np.bool_]
    gaps: Array
    inertias: NDArray[np.int64]
    n_kinks: NDArray[np.int64]
    n_dead_units: NDArray[np.int64]
    trustworthy: NDArray[np.bool_]
    status: NDArray[np.str_]

    def __init__(
        self,
        weights: Array,
        evidence: dict[str, NDArray[Any]],
        kernels: Sequence[Subspace | ImplicitSubspace],
        objectives: Sequence[Objective] | None = None,
    ) -> None:
        self.weights = np.asarray(weights, dtype=np.float64)
        for name in self.EVIDENCE:
            setattr(self, name, np.asarray(evidence[name]))
        self.kernels = list(kernels)
        self.objectives = None if objectives is None else list(objectives)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        SolutionSet._kinds[cls.__name__] = cls

    # Container ------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Self:
        """Solutions by integer, slice, integer array or mask; always a set again."""
        return self._take(self._positions(key))

    def _positions(self, key: Any) -> NDArray[np.int64]:
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            if not -len(self) <= key < len(self):
                raise IndexError(
                    f"Solution {key} does not exist: the set has {len(self)} solutions."
                )
            return np.array([int(key) % len(self)])
        positions = np.arange(len(self))[key]
        if positions.ndim != 1:
            raise IndexError(
                "Solutions are indexed by an integer, a slice, an array of integers or "
                f"a mask of shape ({len(self)},). Got {key!r} instead."
            )
        return positions

    def _take(self, positions: NDArray[np.int64]) -> Self:
        taken = object.__new__(type(self))
        taken.weights = self.weights[positions]
        for name in self.EVIDENCE:
            setattr(taken, name, getattr(self, name)[positions])
        taken.kernels = [self.kernels[i] for i in positions]
        taken.objectives = (
            None if self.objectives is None else [self.objectives[i] for i in positions]
        )
        return taken

    def __repr__(self) -> str:
        dims = np.unique(self.kernel_dims)
        about = "" if self.ranks_are_exact.all() else "~"
        dims_text = "/".join(str(d) for d in dims[:3]) + (
            "..." if len(dims) > 3 else ""
        )
        return (
            f"<{type(self).__name__}: {len(self)} solutions in R^"
            f"{self.weights.shape[1]}, kernel dimension {about}{dims_text}, "
            f"{int(np.sum(self.trustworthy))} trustworthy>"
        )

    def _repr_html_(self) -> str:
        return html_table(
            repr(self)[1:-1], *self._columns(), self.status, self.trustworthy
        )

    def _columns(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Heads, and what stands below them for each solution."""
        exact = zip(self.ranks_are_exact, self.kernel_dims, strict=True)
        dims = [f"{'' if sure else '~'}{dim}" for sure, dim in exact]
        numbers = zip(self.losses, self.stationarity, dims, self.n_kinks, strict=True)
        heads = ("solution", "loss", "stationarity", "kernel dimension", "kinks")
        return heads, [
            [str(i), f"{loss:.4g}", f"{relative:.1e}", dim, str(kinks)]
            for i, (loss, relative, dim, kinks) in enumerate(numbers)
        ]

    # Geometry ---------------------------------------------------------------------

    def sample(
        self,
        n_samples: int,
        radius: float,
        random_state: Any = None,
    ) -> Array:
        """Points of the local set within ``radius`` of each solution.

        Parameters
        ----------
        n_samples : int
            Points per solution.

        radius : float
            Euclidean radius of the ball around each solution.

        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        points : ndarray of shape (n_solutions, n_samples, n_params)
            Uniform in the ball of ``weights[i] + ker H_i``; NaN for an empty piece.
        """
        check_count("sample", "n_samples", n_samples, low=1)
        check_positive("sample", "radius", radius)
        rng = check_random_state(random_state)
        balls = [kernel.sample_ball(n_samples, radius, rng) for kernel in self.kernels]
        offsets = np.reshape(balls, (len(self), n_samples, self.weights.shape[1]))
        return self.weights[:, None, :] + offsets

    def distance(self, points: ArrayLike) -> Array:
        """Euclidean distance from each point to the nearest affine piece.

        Parameters
        ----------
        points : array-like of shape (n_points, n_params) or SolutionSet
            Weights; of a set, its solutions.

        Returns
        -------
        distances : ndarray of shape (n_points,)
            inf where every piece is empty, NaN for a point that is not finite (an
            empty predicted solution).
        """
        pieces, cloud = self.piece_distances(points), self._cloud(points)
        nearest = np.min(
            np.where(np.isnan(pieces), np.inf, pieces), axis=-1, initial=np.inf
        )
        return np.where(np.isfinite(cloud).all(axis=-1), nearest, np.nan)

    def piece_distances(self, points: ArrayLike) -> Array:
        """Distance from each point to each piece, shape (n_points, n_solutions)."""
        cloud = self._cloud(points)
        pieces = np.empty((*cloud.shape[:-1], len(self)))
        for i, (kernel, w) in enumerate(zip(self.kernels, self.weights, strict=True)):
            pieces[..., i] = kernel.complement_norm(cloud - w)
        return pieces

    def _cloud(self, points: ArrayLike) -> Array:
        """Points as an array of weights, shape (n_points, n_params)."""
        cloud = real_points("points", points)
        if cloud.ndim == 1:
            cloud = cloud[None, :]
        p = self.weights.shape[1]
        if cloud.ndim == 0 or cloud.shape[-1] != p:
            raise ValueError(
                f"The 'points' parameter must have {p} weights in its last axis. Got "
                f"shape {cloud.shape} instead."
            )
        return cloud

    @property
    def symmetry(self) -> NetworkSymmetry:
        """Transformations of the weights that change neither outputs nor objective.

        Raises
        ------
        ValueError
            If the set was loaded without a net, or its symmetries are not known.
        """
        objective = self._objectives("tell its symmetries")[0]
        return objective_symmetry(objective, self.weights[0])

    def aligned_to(
        self,
        reference: SolutionSet,
        *,
        pairwise: bool | ArrayLike = False,
        symmetry: NetworkSymmetry | None = None,
    ) -> Self:
        """The same solutions as the copies nearest to those of another set.

        Hidden units are put into the order (and given the signs and scales) that bring
        each solution nearest to the reference; its affine piece moves along.

        Parameters
        ----------
        reference : SolutionSet
            Of the same net.

        pairwise : bool or array-like of int of shape (n_solutions,), default=False
            Whether solution i goes to the reference's solution i, instead of to the one
            that it comes nearest to. Integers say which solution each goes to, -1
            the one that it comes nearest to.

        symmetry : NetworkSymmetry, default=None
            None for the net's own.

        Returns
        -------
        aligned : SolutionSet
            Of the same class, with the same functions in the same order.
        """
        if not isinstance(reference, SolutionSet):
            raise ValueError(
                "The 'reference' parameter of aligned_to must be a SolutionSet. Got "
                f"{type(reference).__name__} instead."
            )
        symmetry = self.symmetry if symmetry is None else symmetry
        partners = partners_of(len(self), len(reference), pairwise)
        found = nearest_copies(self.weights, reference.weights, symmetry, partners)
        return self._transformed(found)

    def _transformed(self, maps: Sequence[Alignment]) -> Self:
        """A copy in other coordinates of weight space, one map per solution."""
        moved = self._take(np.arange(len(self)))
        pairs = list(zip(maps, self.weights, strict=True))
        moved.weights = np.stack([m.apply(w) for m, w in pairs])
        moved.kernels = [
            m.apply_to_subspace(kernel)
            for m, kernel in zip(maps, self.kernels, strict=True)
        ]
        if moved.objectives is not None:
            moved.objectives = [
                retilted(objective, w)
                for objective, w in zip(moved.objectives, moved.weights, strict=True)
            ]
        return moved

    def _objectives(self, caller: str) -> list[Objective]:
        """What evaluates the net, or an error that names what needs it."""
        if self.objectives is None:
            raise ValueError(
                f"This solution set was loaded without a net and cannot {caller}. Pass "
                "estimator=<a fitted SolutionSetEstimator> to SolutionSet.load."
            )
        if not len(self):
            raise ValueError(
                f"This solution set holds no solutions and cannot {caller}."
            )
        return self.objectives

    def predict(self, X: ArrayLike) -> Array:
        """Each solution's prediction: real values, or probabilities of a classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        predictions : ndarray of shape (n_solutions, n_samples[, n_outputs])
            The last axis is left out for a single output. NaN where a predicted
            piece is empty.

        Raises
        ------
        ValueError
            If the set was loaded without an estimator, is empty, or X does not have
            the features of the training data.
        """
        objectives = self._objectives("predict")
        X = rows_for(objectives[0], X, "predict")
        pairs = zip(objectives, self.weights, strict=True)
        try:
            predictions = np.stack([o.predictions(w, X) for o, w in pairs])
        except IndexError as error:
            raise ValueError(
                "The 'X' parameter of predict must hold codes that the net has rows "
                f"for. Got others ({error})."
            ) from error
        single = predictions.ndim > 2 and predictions.shape[-1] == 1
        return predictions[..., 0] if single else predictions

    # Storage ------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a file of plain arrays (NumPy's npz, no pickle).

        Of kernels that are known by products alone (matrix-free solvers) the dimension
        is stored; a loaded set then has no distances and no samples.

        Parameters
        ----------
        path : path-like
            Written as given, no suffix is added.
        """
        write_arrays(path, type(self).__name__, self._to_arrays(""))

    @classmethod
    def load(cls, path: str | os.PathLike[str], estimator: Any = None) -> SolutionSet:
        """Read a set written by `save`; nothing in the file is executed.

        Parameters
        ----------
        path : path-like

        estimator : SolutionSetEstimator, default=None
            Fitted estimator with the same net, which lets the set `predict`.

        Returns
        -------
        solution_set : SolutionSet or PredictedSolutionSet
            Of the class that was saved.

        Raises
        ------
        ValueError
            If the file is no such set, is damaged, or belongs to another net, or if
            the estimator is not fitted.
        """
        kind, arrays = read_arrays(path)
        template = None
        if estimator is not None:
            check_is_fitted(estimator, "solution_set_")
            template = estimator.solution_set_.objectives[0]
        try:
            return cls._kinds[kind]._from_arrays("", arrays, template)
        except KeyError as error:
            raise ValueError(f"{path} is incomplete: {error} is missing.") from error

    def _to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        arrays = {prefix + "weights": self.weights}
        arrays |= {prefix + name: getattr(self, name) for name in self.EVIDENCE}
        for i, kernel in enumerate(self.kernels):
            if isinstance(kernel, ImplicitSubspace) and kernel.dim:
                arrays[f"{prefix}kernel_dim/{i}"] = np.array(kernel.dim)
                continue
            arrays[f"{prefix}kernel/{i}"] = kernel.basis
            arrays[f"{prefix}is_complement/{i}"] = np.array(kernel.is_complement)
        for i, objective in enumerate(self.objectives or []):
            for name, value in objective.state(self.weights[i]).items():
                arrays[f"{prefix}state/{i}/{name}"] = value
        return arrays

    @classmethod
    def _from_arrays(
        cls, prefix: str, arrays: dict[str, NDArray[Any]], template: Objective | None
    ) -> Self:
        weights = arrays[prefix + "weights"]
        kernels = [restored_kernel(prefix, arrays, i) for i in range(len(weights))]
        loaded = cls.__new__(cls)
        objectives = None
        if template is not None:
            objectives = [
                restored_objective(
                    template, arrays, f"{prefix}state/{i}/", weights.shape[1]
                )
                for i in range(len(weights))
            ]
        SolutionSet.__init__(
            loaded, weights, {n: arrays[prefix + n] for n in cls.EVIDENCE}, kernels
        )
        loaded.objectives = objectives
        return loaded


SolutionSet._kinds["SolutionSet"] = SolutionSet


def rows_for(objective: Objective, X: Any, caller: str) -> Array:
    """Rows of other data as an objective takes them; several arrays side by side."""
    if objective.layout is not None:
        return objective.layout.pack(X)
    return check_rows(X, objective.input_shape[1:], caller)
