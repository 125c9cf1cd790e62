"""What a fit costs beside the net's own training, in gradients of that net.

One restart of several kinds of net, on one core: seconds of its own training, the whole
fit in units of one full-batch float64 gradient, and a warm retraining on moved data.

    python benchmarks/bench_fit.py [--smoke] [NAME ...]
"""

import argparse
import itertools
import time
import warnings

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, kind=nn.LSTM, width=5):
        super().__init__()
        self.cell = kind(3, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, X):
        return self.out(self.cell(X)[0][:, -1])


class Attention(nn.Module):
    """One encoder layer."""

    def __init__(self, width=16):
        super().__init__()
        self.up = nn.Linear(3, width)
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, 0.0, activation="gelu", batch_first=True
        )
        self.out = nn.Linear(width, 1)

    def forward(self, X):
        return self.out(self.layer(self.up(X)).mean(dim=1))


class Convolutions(nn.Module):
    """For images of 8 x 8."""

    def __init__(self, width=8, activation=nn.SiLU, pool=nn.AvgPool2d):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            activation(),
            pool(2),
            nn.Conv2d(width, width, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(16 * width, 6),
        )

    def forward(self, X):
        return self.layers(X)


class Dense(nn.Module):
    """Some hidden layers."""

    def __init__(self, widths=(10, 16, 1), activation=nn.Tanh):
        super().__init__()
        layers = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, X):
        return self.layers(X)


def problems(smoke):
    """Net, X and y by name."""
    rng = np.random.default_rng(0)
    sequences = rng.standard_normal((20 if smoke else 100, 8, 3))
    sums = np.tanh(sequences.sum(axis=(1, 2)) / 3)
    images, digits = load_digits(n_class=6, return_X_y=True)
    n = 24 if smoke else 500
    images, digits = (images[:n] / 16).reshape(-1, 1, 8, 8), digits[:n]
    X, y = map(scale, load_diabetes(return_X_y=True))
    many = rng.standard_normal((200 if smoke else 20_000, 30))
    target = np.sin(many[:, 0]) + 0.5 * many[:, 1] * many[:, 2]
    options = {
        "optimizer": torch.optim.Adam,
        "optimizer__weight_decay": 1e-3,
        "lr": 0.01,
        "max_epochs": 2 if smoke else 20,
        "batch_size": 32,
        "train_split": None,
        "verbose": 0,
    }

    def regressor(module, **more):
        return NeuralNetRegressor(module, **{**options, **more})

    def classifier(module, **more):
        options_ = {"criterion": nn.CrossEntropyLoss, **options, **more}
        return NeuralNetClassifier(module, **options_)

    kinked = {"module__activation": nn.ReLU, "module__pool": nn.MaxPool2d}
    wide = {"module__widths": (30, 4 if smoke else 44, 1)}
    ten = load_digits(return_X_y=True)
    ten = ten[0][: 40 if smoke else 1000] / 16, ten[1][: 40 if smoke else 1000]
    large = (64, 8, 10) if smoke else (64, 128, 10)
    larger = (64, 8, 8, 10) if smoke else (64, 256, 256, 10)
    return {
        "tanh": (regressor(Dense, optimizer__weight_decay=0.05), X, y),
        "LSTM": (regressor(Last), sequences, sums),
        "GRU": (regressor(Last, module__kind=nn.GRU), sequences, sums),
        "CNN": (classifier(Convolutions), images, digits),
        "CNN, ReLU": (classifier(Convolutions, **kinked), images, digits),
        "attention": (regressor(Attention), sequences, sums),
        "GELU, many rows": (
            regressor(Dense, module__activation=nn.GELU, batch_size=256, **wide),
            many,
            target,
        ),
        "9,610": (classifier(Dense, module__widths=large, batch_size=64), *ten),
        "85,002": (classifier(Dense, module__widths=larger, batch_size=64), *ten),
    }


def timed(call):
    """What it returns, and CPU seconds."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def measure(name, net, X, y):
    """One line."""
    single = X.astype(np.float32)
    target = y if y.dtype.kind == "i" else y[:, None].astype(np.float32)
    torch.manual_seed(0)
    trained, training = timed(lambda: clone(net).fit(single, target))
    objective = SolutionSetEstimator.from_fitted(trained, X, y)
    objective = objective.graphical_derivatives_[0].objective
    w, rng = objective.weights, np.random.default_rng(0)
    moved = [w + 1e-9 * rng.standard_normal(w.shape) for _ in range(10)]
    _, seconds = timed(lambda: [objective.gradient(v) for v in moved])
    g = seconds / len(moved)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    model, fit = timed(lambda: model.fit(X, y))
    there = X + 1e-3 * rng.standard_normal(X.shape)
    _, retraining = timed(lambda: model.retrain(there))
    found = model.solution_set_
    print(
        f"{name}; {w.size} weights; {len(X)} rows; {1e3 * g:.2f} ms a gradient; "
        f"training {training / g:.0f} g; fit {fit:.1f} s, {fit / g:.0f} g; retrain "
        f"{retraining / g:.0f} g; |R| {found.stationarity[0]:.1e}; "
        f"{model.restart_report_['method'][0]}; {found.status[0][:60]}",
        flush=True,
    )


def main():
    """One line for each net."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny nets")
    parser.add_argument("names", nargs="*", help="of these only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = problems(arguments.smoke)
    names = arguments.names or (["tanh", "LSTM"] if arguments.smoke else list(found))
    for name in names:
        measure(name, *found[name])


if __name__ == "__main__":
    main()
