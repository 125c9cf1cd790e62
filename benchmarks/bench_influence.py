"""Influence of rows against retraining without them, beside other libraries.

Two tables: how well ``sample_influence`` predicts leave-one-out retraining on several
nets, and how it compares with pyDVL and captum at the same stationary weights (where
they are installed, see CONTRIBUTING.md). On one core; seconds of all rows and points.

    python benchmarks/bench_influence.py [--smoke] [--subsets]

With ``--subsets`` a third one: groups of rows, and the linear datamodeling score.
"""

import argparse
import importlib.util
import time
import warnings

import numpy as np
import torch
from bench_kinks import Case
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator, sample_influence
from sksetsens.metrics import linear_datamodeling_score

N_TEST = 60


def agreement(predicted, truth):
    """Pearson and slope of truth against prediction."""
    one, other = predicted.ravel(), truth.ravel()
    known = np.isfinite(one) & np.isfinite(other)
    one, other = one[known], other[known]
    return float(np.corrcoef(one, other)[0, 1]), float(np.polyfit(one, other, 1)[0])


class MLP(nn.Module):
    """For digits."""

    def __init__(self, width):
        super().__init__()
        layers = nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)
        self.layers = nn.Sequential(*layers)

    def forward(self, X):
        return self.layers(X)


def digits(n_rows, decay, width=16, n_restarts=1, epochs=200):
    """Estimator, training data and held-out points."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order] / 16, y[order]
    net = NeuralNetClassifier(
        MLP,
        module__width=width,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=decay,
        lr=0.01,
        max_epochs=epochs,
        batch_size=64,
        train_split=None,
        verbose=0,
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts, random_state=0)
    rest = slice(n_rows, n_rows + N_TEST)
    return model, X[:n_rows], y[:n_rows], X[rest], y[rest]


def of_case(case, n_restarts=1, epochs=300):
    """The same of a net of the kinks' table."""
    model, X, y = case.estimator(n_restarts, epochs)
    order = np.random.default_rng(0).permutation(len(X))
    test, train = order[:N_TEST], order[N_TEST:]
    return model, X[train], y[train], X[test], y[test]


def against_retraining(problems, n_rows):
    """The first table."""
    print("net; own loss: Pearson, slope; held out: Pearson, slope; trusted; ms a row")
    for name, (model, X, y, X_test, y_test) in problems:
        model.fit(X, y)
        rows = np.random.default_rng(1).permutation(len(X))[:n_rows]
        began = time.process_time()
        sample_influence(model, X_test, y_test)
        each = 1e3 * (time.process_time() - began) / len(X)
        found = sample_influence(model, X_test, y_test, samples=rows)
        own = sample_influence(model, samples=rows)
        began = time.process_time()
        truth = sample_influence(model, X_test, y_test, samples=rows, method="retrain")
        retraining = 1e3 * (time.process_time() - began) / len(rows)
        own_truth = sample_influence(model, samples=rows, method="retrain")
        first = sample_influence(
            model, X_test, y_test, samples=rows, method="first_order"
        )
        sure = found.trustworthy
        parts = (
            agreement(own.values, own_truth.values),
            agreement(found.values, truth.values),
            agreement(found.values[:, :, sure[0]], truth.values[:, :, sure[0]]),
            agreement(first.values, truth.values),
        )
        told = "; ".join(f"{pearson:.3f}, {slope:.2f}" for pearson, slope in parts)
        print(
            f"{name}: own; held out; of the trusted; first order: {told}; trusted "
            f"{sure.mean():.0%}; {each:.2f} ms a row, retrained {retraining:.0f}",
            flush=True,
        )


def beside_peers(n_rows, decay, width):
    """The second table."""
    model, X, y, X_test, y_test = digits(n_rows, decay, width)
    model.fit(X, y)
    rows = np.random.default_rng(1).permutation(n_rows)[:50]
    truth = sample_influence(model, X_test, y_test, samples=rows, method="retrain")
    print(f"digits, {n_rows} rows x {N_TEST} points, {model.solution_set_.status[0]}")
    w = model.solution_set_.weights[0]
    for name, package, scores in (
        ("sample_influence", "sksetsens", _ours),
        ("pyDVL direct", "pydvl", _pydvl),
        ("captum", "captum", _captum),
    ):
        if importlib.util.find_spec(package) is None:
            print(f"{name}: not installed")
            continue
        began = time.process_time()
        found = scores(model, w, X, y, X_test, y_test)
        seconds = time.process_time() - began
        pearson, slope = agreement(found[:, rows], truth.values[0])
        rank = spearmanr(found[:, rows].ravel(), truth.values[0].ravel()).statistic
        print(
            f"{name}: Pearson {pearson:.3f}, slope {slope:.2g}, Spearman {rank:.3f}; "
            f"{seconds:.2f} s",
            flush=True,
        )


def on_subsets(decay, n_restarts, n_subsets, n_rows, width):
    """Groups, and the linear datamodeling score, warm and cold."""
    model, X, y, X_test, y_test = digits(n_rows, decay, width, n_restarts)
    model.fit(X, y)
    rng = np.random.default_rng(2)
    sizes = rng.integers(max(2, n_rows // 100), n_rows // 5, n_subsets)
    groups = [rng.choice(n_rows, size, replace=False) for size in sizes]
    found = sample_influence(model, X_test, y_test, groups=groups)
    truth = sample_influence(model, X_test, y_test, groups=groups, method="retrain")
    one, other = (v.mean.mean(axis=0) for v in (found, truth))
    slope = np.polyfit(one, other, 1)[0]
    rank = spearmanr(one, other).statistic
    print(
        f"decay {decay:g}: groups of 1 to 20 %: Spearman {rank:.3f}, slope {slope:.2f}"
    )
    for warm in (True, False):
        began = time.process_time()
        score = linear_datamodeling_score(
            model,
            X_test,
            y_test,
            n_subsets=n_subsets,
            warm_start=warm,
            random_state=0,
        ).score
        seconds = time.process_time() - began
        told = "warm" if warm else "cold"
        print(f"  LDS of {n_subsets} halves, {told}: {score:.3f}; {seconds:.0f} s")


def _ours(model, w, X, y, X_test, y_test):
    return sample_influence(model, X_test, y_test).values[0]


def _module(model):
    net = model.estimators_[0]
    return net.module_.double().eval()


def _pydvl(model, w, X, y, X_test, y_test):
    from pydvl.influence.torch import DirectInfluence
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    decay = 1e-2  # As in the optimiser, which pyDVL knows nothing of.
    found = DirectInfluence(
        _module(model), torch.nn.functional.cross_entropy, regularization=decay
    )
    found = found.fit(DataLoader(data, batch_size=len(X)))
    points = torch.as_tensor(X_test), torch.as_tensor(y_test)
    values = found.influences(*points, *data.tensors)
    return values.detach().numpy() / len(X)


def _captum(model, w, X, y, X_test, y_test):
    from captum.influence import NaiveInfluenceFunction
    from torch.utils.data import TensorDataset

    data = TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    found = NaiveInfluenceFunction(
        _module(model),
        data,
        checkpoint="",
        checkpoints_load_func=lambda module, path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=len(X),
        projection_dim=None,
        hessian_reg=1e-2,
        show_progress=False,
    )
    points = torch.as_tensor(X_test), torch.as_tensor(y_test)
    return found.influence(points).detach().numpy()


def main():
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny nets")
    parser.add_argument(
        "--subsets", action="store_true", help="retrain on subsets, half an hour"
    )
    arguments = parser.parse_args()
    smoke = arguments.smoke
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tanh = nn.Tanh
    nets = [("diabetes", (16,), 0.05), ("breast cancer", (8,), 0.01)]
    problems = [
        (
            f"{data} {widths} {decay} {activation.__name__}",
            of_case(Case(data, widths, decay, None, activation)),
        )
        for activation in (nn.GELU, tanh, nn.ReLU)
        for data, widths, decay in nets
    ]
    problems.append(("digits 64-16-10 0.01 Tanh", digits(500, 1e-2)))
    if smoke:
        problems = [("wine", of_case(Case("wine", (4,), 0.05, None, tanh), 1, 20))]
    against_retraining(problems, 5 if smoke else 50)
    beside_peers(*((80, 0.1, 2) if smoke else (500, 1e-2, 16)))
    if smoke:
        on_subsets(1e-1, 1, 2, 60, 2)
    elif arguments.subsets:
        for decay in (1e-2, 1e-3):
            on_subsets(decay, 2, 50, 500, 16)


if __name__ == "__main__":
    main()
