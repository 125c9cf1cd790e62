"""An oracle of its own: sensitivity of small nets by dense derivatives and Newton.

Nothing here comes from the library. A problem is a torch module, a loss of its outputs
and a penalty on flat weights, all in float64. Derivatives are torch.autograd's, dense,
reverse over reverse. Ranks are judged by the largest gap of the spectrum of the matrix
scaled to a unit diagonal, so that the units of the columns do not decide; shifts are
the shortest solutions in the weights as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

EPS = float(np.finfo(np.float64).eps)
# Scaled eigenvalues below this are rounding: some thousand accumulated terms.
ROUNDING = 2000.0 * EPS
# What is kept must stand this far above what is dropped for a rank to exist.
CLEAR = 1e3
# Share of a right-hand side outside range H from which no shift exists.
OUTSIDE = 1e-6
# Relative step at which Newton has reached the rounding of R.
STILL = 1e-13


@dataclass(frozen=True)
class Problem:
    """``L(x, w) = loss(net(x; w), y) + penalty(w) + decay |w|^2 / 2 - <tilt, w>``."""

    module: torch.nn.Module
    loss: object
    X: np.ndarray
    y: np.ndarray
    decay: float = 0.0
    penalty: object = None
    tilt: np.ndarray | None = None

    def objective(self, w, X):
        sizes = {name: p.shape for name, p in self.module.named_parameters()}
        pieces = w.split([shape.numel() for shape in sizes.values()])
        pairs = zip(sizes.items(), pieces, strict=True)
        state = {name: piece.reshape(shape) for (name, shape), piece in pairs}
        value = self.loss(functional_call(self.module, state, (X,)), self.target)
        value = value + 0.5 * self.decay * (w @ w)
        if self.penalty is not None:
            value = value + self.penalty(w)
        if self.tilt is not None:
            value = value - torch.from_numpy(self.tilt) @ w
        return value

    def outputs(self, w, X):
        free = replace(self, loss=lambda f, _: f, penalty=None, decay=0.0, tilt=None)
        return free.objective(w, X)

    @cached_property
    def target(self):
        return torch.from_numpy(self.y)

    @property
    def inputs(self):
        return torch.from_numpy(np.ascontiguousarray(self.X, dtype=np.float64))

    def value(self, w):
        return self.objective(torch.from_numpy(w), self.inputs).item()

    def R(self, w, X=None):
        weights = torch.from_numpy(w).requires_grad_()
        X = self.inputs if X is None else X
        (gradient,) = torch.autograd.grad(self.objective(weights, X), weights)
        return gradient.numpy()

    def H(self, w):
        X = self.inputs
        found = hessian(lambda v: self.objective(v, X), torch.from_numpy(w)).numpy()
        return 0.5 * (found + found.T)

    def B(self, w):
        """Cross derivative of shape (p, n, d)."""

        def residual(X):
            weights = torch.from_numpy(w).requires_grad_()
            value = self.objective(weights, X)
            return torch.autograd.grad(value, weights, create_graph=True)[0]

        return jacobian(residual, self.inputs).numpy()

    def gauss_newton(self, w):
        """``J' Lambda J`` and the penalty's part, for a decay alone."""
        X = self.inputs
        f = self.outputs(torch.from_numpy(w), X)
        Lambda = hessian(lambda g: self.loss(g, self.target), f).numpy()
        J = self.J(w)
        Lambda = Lambda.reshape(len(J), len(J))
        return J.T @ Lambda @ J + self.decay * np.eye(w.size)

    def J(self, w):
        """Outputs' derivative in the weights, (n * c, p)."""
        X = self.inputs
        rows = jacobian(lambda v: self.outputs(v, X), torch.from_numpy(w)).numpy()
        return rows.reshape(-1, w.size)

    def tilted(self, w):
        """The problem of which these weights are stationary."""
        return replace(self, tilt=replace(self, tilt=None).R(w))

    def on(self, X):
        return replace(self, X=X)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a symmetric matrix scaled to a unit diagonal, split by its gap."""

    values: np.ndarray
    vectors: np.ndarray
    scale: np.ndarray  # the diagonal matrix D of D H D
    kept: np.ndarray
    gap: float

    @property
    def is_clear(self):
        return self.gap >= CLEAR

    @property
    def rank(self):
        return int(self.kept.sum())

    @property
    def dropped(self):
        """Largest dropped magnitude, of a matrix of norm about one."""
        return float(np.abs(self.values[~self.kept]).max(initial=0.0))

    @property
    def n_negative(self):
        return int((self.values[self.kept] < 0).sum())

    @cached_property
    def kernel(self):
        """Orthonormal basis of ker H in the weights as they are, (p, dim)."""
        directions = self.scale[:, None] * self.vectors[:, ~self.kept]
        lengths = np.linalg.norm(directions, axis=0)
        basis, _ = np.linalg.qr(directions / np.where(lengths > 0, lengths, 1.0))
        return basis

    def project(self, v):
        return self.kernel @ (self.kernel.T @ v)

    def range_residual(self, b):
        """Share of each column of b outside range H."""
        norms = np.linalg.norm(b, axis=0)
        outside = np.linalg.norm(self.kernel.T @ b, axis=0)
        return np.divide(outside, norms, out=np.zeros_like(norms), where=norms > 0)

    def shortest(self, b):
        """Shortest least-squares-in-range solution of ``H v = -b``, b in range H."""
        vectors, values = self.vectors[:, self.kept], self.values[self.kept]
        scaled = (self.scale * b.T).T
        particular = (self.scale * (vectors @ ((vectors.T @ scaled).T / values).T).T).T
        return -(particular - self.project(particular))


def split_by_gap(magnitudes):
    """Which magnitudes are kept, and the factor between kept and dropped."""
    order = np.argsort(-magnitudes)
    floor = max(magnitudes.max(initial=0.0), 1e-300) * ROUNDING
    ladder = np.append(np.maximum(magnitudes[order], floor), floor)
    ratios = ladder[:-1] / ladder[1:]
    kept = np.zeros(len(magnitudes), dtype=bool)
    if not ratios.size or magnitudes.max() == 0.0:
        return kept, np.inf
    at = int(ratios.argmax())
    kept[order[: at + 1]] = True
    return kept, float(ratios[at])


def spectrum(H):
    """Eigenvalues of H in its own units, and the rank that they show."""
    scale = np.ones(len(H))
    for _ in range(6):  # Ruiz: rows and columns of about one length
        size = np.linalg.norm(scale[:, None] * H * scale, axis=0)
        scale = scale / np.sqrt(np.where(size > 0, size, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * H * scale)
    kept, gap = split_by_gap(np.abs(values))
    return Spectrum(values, vectors, scale, kept, gap)


def factored_spectrum(A):
    """The same of ``A'A`` by singular values, which see twice as deep."""
    size = np.linalg.norm(A, axis=0)
    scale = 1.0 / np.where(size > 0, size, 1.0)
    _, sigma, vt = np.linalg.svd(A * scale, full_matrices=True)
    sigma = np.append(sigma, np.zeros(A.shape[1] - len(sigma)))
    kept, gap = split_by_gap(sigma)
    return Spectrum(sigma**2, vt.T, scale, kept, gap)


@dataclass(frozen=True)
class Sensitivity:
    """Dense derivatives at given weights."""

    problem: Problem
    weights: np.ndarray
    factored: bool = False  # an interpolating solution of a squared loss

    @cached_property
    def H(self):
        return self.problem.H(self.weights)

    @cached_property
    def B(self):
        return self.problem.B(self.weights)

    @cached_property
    def R(self):
        return self.problem.R(self.weights)

    @cached_property
    def spectrum(self):
        if not self.factored:
            return spectrum(self.H)
        # H = 2 J'J / (number of outputs) of a mean square with nothing left.
        J = self.problem.J(self.weights)
        return factored_spectrum(J * np.sqrt(2.0 / len(J)))

    @property
    def stationarity(self):
        size = np.linalg.norm(self.H, 2) * (1.0 + np.linalg.norm(self.weights))
        return float(np.linalg.norm(self.R) / size) if size else 0.0

    def is_empty(self, dX):
        b = np.tensordot(self.B, dX, axes=dX.ndim)
        return bool(self.spectrum.range_residual(b[:, None])[0] > OUTSIDE)

    def shift(self, dX):
        return self.spectrum.shortest(np.tensordot(self.B, dX, axes=dX.ndim))

    @cached_property
    def map(self):
        """``H^+ B`` of shape (p, n, d), NaN in the columns outside range H."""
        columns = self.B.reshape(len(self.B), -1)
        solved = self.spectrum.shortest(columns)
        solved[:, self.spectrum.range_residual(columns) > OUTSIDE] = np.nan
        return solved.reshape(self.B.shape)

    def modulus(self, rows=slice(None), columns=slice(None)):
        """Spectral norm of the map on some entries; inf where one leaves range H."""
        part = self.map[:, rows][:, :, columns].reshape(len(self.map), -1)
        return np.inf if np.isnan(part).any() else float(np.linalg.norm(part, 2))

    @property
    def sample_moduli(self):
        return np.array([self.modulus(rows=[i]) for i in range(self.B.shape[1])])

    @property
    def feature_moduli(self):
        return np.array([self.modulus(columns=[j]) for j in range(self.B.shape[2])])


@dataclass(frozen=True)
class Stationary:
    weights: np.ndarray
    converged: bool


def newton(problem, w, *, n_iter=60):
    """Damped Newton on R by eigh, to rounding: the shortest step of the clear part.

    Descent where the curvature is negative, halved until the merit ``|R|`` in units of
    the scaled Hessian falls. Converged where the step has become rounding.
    """
    w = np.array(w, dtype=np.float64)
    for _ in range(n_iter):
        R, seen = problem.R(w), spectrum(problem.H(w))
        step = seen.shortest(R)
        size = np.linalg.norm(step) / (1.0 + np.linalg.norm(w))
        merit, t = np.linalg.norm(seen.scale * R), 1.0
        while t > 1e-6 and not (
            np.linalg.norm(seen.scale * problem.R(w + t * step))
            <= (1 - 0.1 * t) * merit
        ):
            t *= 0.5
        if t <= 1e-6:  # rounding, or no way down
            return Stationary(w, bool(size <= 1e-9))
        w = w + t * step
        if size <= STILL:
            return Stationary(w, True)
    return Stationary(w, bool(size <= 1e-9))


def retrained(problem, w, X):
    """The stationary point on other data that Newton reaches from w."""
    return newton(problem.on(X), w)
