"""ReLU networks with weight decay: are their minimisers exact on their kinks?

First the table of trust: 24 nets (one and two hidden layers of 8 to 32 units) on four
data sets, with decay 1e-3 to 1e-1, squared loss, cross-entropy and binary
cross-entropy. Printed are the share of solutions that are trusted, their kinks and dead
units, the worst stationarity, seconds per restart beside those of the same net with
GELU, and what is said of solutions that are not trusted.

Then four problems with rows moved by delta: distance of warm retraining to the
predicted movement relative to it, beside that of the classical influence function
``-H^-1 B dx`` at the mask at hand, and how many solutions change kinks before delta.

Run: ``python benchmarks/bench_kinks.py [--smoke]``
"""

import argparse
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_wine,
)
from sklearn.preprocessing import scale
from skorch import (
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import nn

from sksetsens import SolutionSetEstimator

torch.set_num_threads(1)

LOADERS = {
    "diabetes": load_diabetes,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "iris": load_iris,
}
WIDTHS = ((16,), (8, 8))
OTHER_WIDTHS = {1e-2: ((32,), (16, 16))}
DECAYS = (1e-3, 1e-2, 1e-1)


class MLP(nn.Module):
    """Fully connected, with biases."""

    def __init__(self, n_in, widths, n_out, activation=nn.ReLU):
        super().__init__()
        layers, last = [], n_in
        for width in widths:
            layers += [nn.Linear(last, width), activation()]
            last = width
        self.layers = nn.Sequential(*layers, nn.Linear(last, n_out))

    def forward(self, X):
        return self.layers(X)


class Logit(MLP):
    """One output, without an axis, as binary cross-entropy wants it."""

    def forward(self, X):
        return super().forward(X)[:, 0]


@dataclass(frozen=True)
class Case:
    """A net and its data."""

    data: str
    widths: tuple[int, ...]
    decay: float
    n_rows: int | None = None
    activation: type = nn.ReLU

    def estimator(self, n_restarts, epochs=300):
        X, y = LOADERS[self.data](return_X_y=True)
        X, y = scale(X[: self.n_rows]), y[: self.n_rows]
        options = {
            "module__n_in": X.shape[1],
            "module__widths": self.widths,
            "module__activation": self.activation,
            "optimizer": torch.optim.Adam,
            "optimizer__weight_decay": self.decay,
            "lr": 0.005,
            "max_epochs": epochs,
            "batch_size": -1,
            "train_split": None,
            "verbose": 0,
        }
        if self.data == "diabetes":
            y = scale(y.astype(float))
            net = NeuralNetRegressor(MLP, module__n_out=1, **options)
        elif len(np.unique(y)) == 2:
            net = NeuralNetBinaryClassifier(Logit, module__n_out=1, **options)
        else:
            options |= {"criterion": nn.CrossEntropyLoss}
            n_out = len(np.unique(y))
            net = NeuralNetClassifier(MLP, module__n_out=n_out, **options)
        model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
        return model, X, y


def fitted(case, n_restarts, epochs=300):
    """The fitted estimator, its data, and seconds per restart."""
    model, X, y = case.estimator(n_restarts, epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    return model, X, float(np.mean(model.restart_report_["duration"]))


def cases(smoke):
    """The 24 nets."""
    found = [
        Case(data, widths, decay)
        for data in LOADERS
        for decay in DECAYS
        for widths in OTHER_WIDTHS.get(decay, WIDTHS)
    ]
    return found[:1] if smoke else found


def trust(n_restarts, smoke):
    """The first table."""
    columns = ("data", "widths", "decay", "trusted", "kinks", "dead", "stationarity")
    print("  ".join(columns), " s per restart (with GELU)")
    n_trusted = total = 0
    reasons = []
    for case in cases(smoke):
        model, _, seconds = fitted(case, n_restarts, 20 if smoke else 300)
        smooth = Case(case.data, case.widths, case.decay, activation=nn.GELU)
        beside = fitted(smooth, n_restarts, 20 if smoke else 300)[2]
        s = model.solution_set_
        n_trusted, total = n_trusted + int(s.trustworthy.sum()), total + len(s)
        print(
            f"{case.data:14}  {case.widths!s:8}  {case.decay:5g}  "
            f"{s.trustworthy.sum()} of {len(s)}  "
            f"{s.n_kinks.min():3}-{s.n_kinks.max():3}  "
            f"{s.n_dead_units.min():2}-{s.n_dead_units.max():2}  "
            f"{s.stationarity.max():8.1e}  {seconds:6.1f} ({beside:.1f})",
            flush=True,
        )
        reasons += [
            f"{case.data} {case.widths} {case.decay:g}: {sentence}"
            for sentence in s.status[~s.trustworthy]
        ]
    print(f"trusted: {n_trusted} of {total}")
    print("\n".join(reasons))


def classical(gd, dX):
    """``-H^+ B dx`` at the mask at hand."""
    plain = gd.objective.off_kinks()
    H = plain.hessian(gd.weights)
    b = plain.cross_product(gd.weights, dX)
    return -np.linalg.pinv(H, rcond=1e-10, hermitian=True) @ b


PROBLEMS = (
    Case("diabetes", (16,), 0.05, 200),
    Case("wine", (16,), 0.005),
    Case("wine", (8, 8), 0.005),
    Case("diabetes", (12,), 0.02, 200),
)


def movement(n_restarts, smoke):
    """The second table."""
    for case in PROBLEMS[1:2] if smoke else PROBLEMS:
        model, X, _ = fitted(case, n_restarts, 20 if smoke else 300)
        u = np.random.RandomState(5).standard_normal(X.shape)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        s = model.solution_set_
        print(f"{case.data} {case.widths} decay {case.decay:g}: {s.n_kinks} kinks")
        for delta in (1e-4, 1e-3, 1e-2):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                predicted = model.sensitivity(X + delta * u)
                elapsed = time.perf_counter() - start
                retrained = model.retrain(X + delta * u)
            gaps = predicted.relative_gaps(retrained)
            moved = retrained.weights - s.weights
            other = [
                np.linalg.norm(classical(gd, delta * u) - v) / np.linalg.norm(v)
                for gd, v in zip(model.graphical_derivatives_, moved, strict=True)
            ]
            print(
                f"  delta {delta:g}: gap median {np.nanmedian(gaps):.1e}, at most 0.01 "
                f"in {np.sum(gaps <= 0.01)} of {len(gaps)}; kinks change before delta "
                f"in {np.sum(predicted.first_break < 1.0)}; influence function "
                f"{np.nanmedian(other):.2f}; {elapsed:.2f} s for {len(gaps)}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one tiny case")
    smoke = parser.parse_args().smoke
    trust(2 if smoke else 4, smoke)
    movement(2 if smoke else 8, smoke)
