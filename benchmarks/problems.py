"""Linear systems ``H v = -B dx`` that the benchmarks share, with references.

- At: digits (1000 x 64), tanh MLP 64-32-10, cross-entropy, weight decay 1e-3: positive
  definite. A: the same with ReLU, whose minimisers sit on kinks. A0: A without decay,
  saturated, so that the answer is the choice of the cut-off.
- B: digits, tanh MLP 64-256-256-10 without decay, as trained, slightly indefinite.
  Bs: its kind with 64-32-32-10. Bd: B with ``H + 1e-3 I`` at the same weights.
- C: diabetes (442 x 10), tanh MLP 10-64-1, squared loss, interpolating: rank 442 of
  769.

Solutions and references are kept in ``benchmarks/results``, which git ignores; delete
the folder to compute them anew. Each problem has a tiny version, which is not kept.

Run: ``python benchmarks/problems.py [--smoke]`` builds all of them and prints evidence.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, minres
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale

from sksetsens.networks import DFCNNClassifier, DFCNNRegressor, missing_sizes
from sksetsens.objective import (
    Objective,
    check_objective,
    initialised_net,
    shape_targets,
)
from sksetsens.optimize import stationarity
from sksetsens.perturbation._directions import (
    choose_rows,
    gradient_directions,
    perturbed,
)
from sksetsens.training import RestartTask, run_restarts

RESULTS = Path(__file__).parent / "results" / "problems"
N_PERTURBED, SIZE = 10, 0.1
# Of the reference where the system is too large for a dense solve.
_KRYLOV_TOL = 1e-12


@dataclass(frozen=True)
class Recipe:
    """A net, its data, and how the reference is found."""

    data: str
    widths: tuple[int, ...]
    activation: str = "tanh"
    decay: float = 0.0
    epochs: int = 50
    polish: bool = True
    reference: str = ""
    weights_of: str = ""
    n_rows: int = 1000


RECIPES = {
    "At": Recipe("digits", (32,), decay=1e-3, reference="dense"),
    "A": Recipe("digits", (32,), "relu", decay=1e-3),
    "A0": Recipe("digits", (32,), "relu"),
    "B": Recipe("digits", (256, 256), epochs=200, polish=False),
    "Bs": Recipe("digits", (32, 32), epochs=200, polish=False),
    "Bd": Recipe("digits", (256, 256), decay=1e-3, reference="krylov", weights_of="B"),
    "C": Recipe("diabetes", (64,), reference="svd"),
}
_TINY_WIDTHS = {(32,): (4,), (256, 256): (8, 8), (32, 32): (8, 8), (64,): (16,)}
_TINY_ROWS = 40
_OF_POINT = ("weights", "converged", "status")


@dataclass(frozen=True)
class Problem:
    """One system at one solution.

    Attributes
    ----------
    name : str
    objective : Objective
        On the training data; of early-stopped weights tilted by their gradient.
    weights : ndarray of shape (n_params,)
    stationarity : float
        Relative gradient of the objective before any tilt.
    decay : float
        Of every weight, part of H.
    dX : ndarray of the shape of X
    reference : ndarray of shape (n_params,)
        Solution for dX; NaN where there is none to compare with.
    evidence : str
        How well the reference solves the system.
    converged, status
        What polishing says of the weights.
    """

    name: str
    objective: Objective
    weights: np.ndarray
    stationarity: float
    decay: float
    dX: np.ndarray
    reference: np.ndarray
    evidence: str
    converged: bool
    status: str

    @property
    def is_tiny(self) -> bool:
        """Whether this is the version for smoke runs."""
        return self.objective.n_samples == _TINY_ROWS

    @cached_property
    def b(self) -> np.ndarray:
        """B dx."""
        return self.objective.cross_product(self.weights, self.dX)

    def error(self, v: np.ndarray) -> float:
        """Relative distance to the reference."""
        gap = np.linalg.norm(v - self.reference)
        return float(gap / np.linalg.norm(self.reference))

    def perturbation(self, seed: int) -> np.ndarray:
        """dX of other rows."""
        return perturbation(self.objective, self.weights, seed)

    @cached_property
    def module(self) -> torch.nn.Module:
        """The net in float64 at these weights, for other libraries."""
        module = self.objective.module
        state = self.objective.state(self.weights)
        module.load_state_dict({k: torch.as_tensor(v) for k, v in state.items()})
        return module

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """X and y."""
        o = self.objective
        return torch.as_tensor(o.inputs), torch.as_tensor(o.targets)

    @property
    def criterion(self) -> type[torch.nn.Module]:
        """The loss without the decay."""
        real = self.objective.has_real_targets
        return torch.nn.MSELoss if real else torch.nn.CrossEntropyLoss


def perturbation(objective: Objective, weights: np.ndarray, seed: int) -> np.ndarray:
    """Ten rows moved along the gradient of the loss."""
    rng = np.random.RandomState(seed)
    rows = choose_rows(N_PERTURBED, objective.n_samples, rng)
    directions = gradient_directions([objective], weights[None])
    X = objective.inputs
    return perturbed(X, directions, rows, SIZE) - X


def load(data: str, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """X and y as they are trained on."""
    if data == "diabetes":
        X, y = map(scale, load_diabetes(return_X_y=True))
    else:
        X, y = load_digits(return_X_y=True)
        X = X / 16.0
    return X[:n_rows], y[:n_rows]


def estimator(recipe: Recipe):
    """The unfitted skorch net of a recipe."""
    kind = DFCNNRegressor if recipe.data == "diabetes" else DFCNNClassifier
    return kind(
        module__hidden_widths=recipe.widths,
        module__activation=recipe.activation,
        module__bias=True,
        module__train_output=True,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=recipe.decay,
        lr=0.01 if max(recipe.widths) < 100 else 1e-3,
        max_epochs=recipe.epochs,
        batch_size=64,
        train_split=None,
        verbose=0,
    )


def restart_task(recipe: Recipe) -> tuple[Objective, RestartTask]:
    """Objective at its initial weights, and the training."""
    X, y = load(recipe.data, recipe.n_rows)
    net = estimator(recipe)
    params = {f"module__{k}": v for k, v in missing_sizes(net, X, y).items()}
    trial = initialised_net(net, params, 0)
    X_net = X.astype(np.float32)
    targets = shape_targets(trial, X_net, y)
    y_net = targets.astype(np.float32) if targets.dtype.kind == "f" else targets
    objective = check_objective(trial, X_net, y_net).with_data(X, targets)
    return objective, RestartTask(
        net, params, X, targets, X_net, y_net, polish=recipe.polish, tol=1e-10
    )


@cache
def build(name: str, *, smoke: bool = False, seed: int = 0) -> Problem:
    """A problem by name, its solution trained or read from the results.

    Parameters
    ----------
    name : {"At", "A", "A0", "B", "Bd", "C"}
    smoke : bool, default=False
        Whether to build the tiny version.
    seed : int, default=0
        Of the training.
    """
    recipe = RECIPES[name]
    if smoke:
        recipe = replace(
            recipe,
            widths=_TINY_WIDTHS[recipe.widths],
            n_rows=_TINY_ROWS,
            epochs=min(recipe.epochs, 100),
            reference=recipe.reference.replace("krylov", "dense"),
        )
    objective, task = restart_task(recipe)
    origin = recipe.weights_of
    file = RESULTS / f"{name}-{seed}.npz"
    if not smoke and file.exists():
        kept = dict(np.load(file))
    elif origin:
        found = build(origin, smoke=smoke, seed=seed)
        kept = {name: getattr(found, name) for name in _OF_POINT}
    else:
        found = run_restarts(task, [seed], n_jobs=None, verbose=0)[0].polished
        kept = {name: getattr(found, name) for name in _OF_POINT}
    return _completed(name, recipe, objective, kept, None if smoke else file)


def _completed(
    name: str, recipe: Recipe, objective: Objective, kept: dict, file: Path | None
) -> Problem:
    """With perturbation and reference, kept in the file."""
    w = kept["weights"]
    gradient = objective.gradient(w)
    relative = stationarity(objective, w, float(np.linalg.norm(gradient)))
    if relative > 1e-8 and (recipe.weights_of or not recipe.polish):
        objective = objective.tilted(gradient)
    if "dX" not in kept:
        kept["dX"] = perturbation(objective, w, 0)
        reference, kept["evidence"] = REFERENCES[recipe.reference](
            objective, w, kept["dX"]
        )
        kept["reference"] = reference
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, **kept)
    return Problem(
        name,
        objective,
        w,
        relative,
        recipe.decay,
        kept["dX"],
        kept["reference"],
        str(kept["evidence"]),
        bool(kept["converged"]),
        str(kept["status"]),
    )


# References --------------------------------------------------------------------------


def _no_reference(objective, w, dX):
    return np.full_like(w, np.nan), "no reference"


def _dense_reference(objective, w, dX):
    H, b = objective.hessian(w), objective.cross_product(w, dX)
    eigenvalues = np.linalg.eigvalsh(H)
    v = -np.linalg.solve(H, b)
    v -= np.linalg.solve(H, H @ v + b)  # refined once
    left = np.linalg.norm(H @ v + b) / np.linalg.norm(b)
    ends = f"{eigenvalues[0]:.2g} to {eigenvalues[-1]:.2g}"
    condition = eigenvalues[-1] / eigenvalues[0]
    return v, f"residual {left:.1e}, eigenvalues {ends}, condition {condition:.1e}"


def _svd_reference(objective, w, dX):
    J = objective.jacobian(w).reshape(-1, w.size)
    D = objective.input_jacobian(w)
    moved = (D @ dX.reshape(len(dX), -1, 1)).ravel()
    u, sigma, vt = np.linalg.svd(J, full_matrices=False)
    v = -vt.T @ ((u.T @ moved) / sigma)
    left = np.linalg.norm(J @ v + moved) / np.linalg.norm(moved)
    rank = int((sigma > 1e-12 * sigma[0]).sum())
    ends = f"{sigma[-1]:.2g} to {sigma[0]:.2g}"
    return v, f"residual of J {left:.1e}, singular values {ends}, rank {rank}"


def _krylov_reference(objective, w, dX):
    b, p = objective.cross_product(w, dX), w.size
    H = LinearOperator(
        (p, p), lambda v: objective.hessian_product(w, np.ravel(v)), dtype=np.float64
    )
    lowest = eigsh(H, k=1, which="SA", tol=1e-2, return_eigenvectors=False)[0]
    v = minres(H, -b, rtol=1e-14, maxiter=1000)[0]
    v += minres(H, -(H @ v + b), rtol=1e-6, maxiter=1000)[0]  # refined once
    left = np.linalg.norm(H @ v + b) / np.linalg.norm(b)
    found = "verified" if left <= _KRYLOV_TOL else "NOT REACHED"
    return v, f"residual {left:.1e} ({found}), smallest eigenvalue {lowest:.2g}"


REFERENCES = {
    "": _no_reference,
    "dense": _dense_reference,
    "svd": _svd_reference,
    "krylov": _krylov_reference,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny versions")
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        start = time.process_time()
        problem = build(name, smoke=arguments.smoke)
        print(
            f"{name:3} p = {problem.weights.size}, loss "
            f"{problem.objective.loss(problem.weights):.3g}, relative gradient "
            f"{problem.stationarity:.1e}; {problem.evidence} "
            f"({time.process_time() - start:.1f} CPU s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
