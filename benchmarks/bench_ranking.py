"""Does `perturbed_score` rank models as retraining on the perturbed data does?

Eighteen nets (a grid of depth and width, activation and weight decay; none is left out)
on two real data sets. Each is fitted once per fold. Its training rows then move along
the gradient of its loss, and three scores on the held-out rows are compared:

- predicted: ``perturbed_score(model, X_test, y_test)``, without retraining;
- cold: ``clone(model).fit(X_perturbed, y)``, what one does without this library;
- warm: ``model.retrain(X_perturbed)``, continued from the fitted weights.

Prints Spearman's rank correlations of the scores, averaged over the folds, and the
ratio of CPU times within one run on one thread. A good model tends to stay good, so the
rank correlation of the plain score with the cold one stands beside it, and that of the
predicted with the true drop. The last size of each data set is beyond the first order.
"Not warned of" are the models for which neither ``fit`` nor `perturbed_score` warned on
any fold; the errors are mean absolute differences to the cold score.

Restarts are trained as one stack, the fastest way to refit. "Strict" charges the
factorisation, which is part of ``fit``, to the prediction and not to the cold refit.
Worst-case directions cost several times the rest, once per fit, and reach beyond the
first order at much smaller sizes.

Run: ``python benchmarks/bench_ranking.py [--smoke] [--perturbation worst_case]``
"""

import argparse
import time
import warnings
from collections import namedtuple
from itertools import islice

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import KFold, ParameterGrid, StratifiedKFold
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.metrics import perturbed_score
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor
from sksetsens.sensitivity import GraphicalDerivative

# From decay that leaves the first order little reach to decay that costs score.
GRID = {
    "module__hidden_widths": [(4,), (16,), (8, 8)],
    "module__activation": ["tanh", "softplus"],
    "optimizer__weight_decay": [0.03, 0.1, 0.2],
}
N_FOLDS, N_RESTARTS = 3, 2
# Euclidean, per row; the rows are 3.0 (diabetes) and 4.9 (breast cancer) long.
SIZES = {"diabetes": (0.1, 0.2, 0.4), "breast cancer": (0.3, 0.6, 1.0)}

# Of one model on one fold: arrays of one entry per size, but for the first three.
Outcome = namedtuple(
    "Outcome",
    "plain fit factorisation predicted cold warm warned seconds cold_seconds",
)


def timed(function):
    """Result and CPU seconds of a call."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def load(name):
    """X, y, the folds and the net to be varied."""
    common = {"module__bias": True, "module__train_output": True}
    if name == "diabetes":
        X, y = map(scale, load_diabetes(return_X_y=True))
        net = DFCNNRegressor(**common, max_epochs=20)
        folds = KFold(N_FOLDS, shuffle=True, random_state=0)
    else:
        X, y = load_breast_cancer(return_X_y=True)
        X = scale(X)
        adam = {"optimizer": torch.optim.Adam, "lr": 0.01, "batch_size": 64}
        net = DFCNNClassifier(**common, **adam, max_epochs=50)
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    return X, y, list(folds.split(X, y)), net


def factorise(model):
    """The factorisations of all solutions, once more."""
    for gd, point in zip(
        model.graphical_derivatives_, model.solution_set_.stationarity, strict=True
    ):
        GraphicalDerivative(gd.objective, gd.weights, stationarity=point)


def outcome(model, sizes, X, y, train, test):
    """All scores and times of one model on one fold."""
    X_train, y_train, held_out = X[train], y[train], (X[test], y[test])
    with warnings.catch_warnings(record=True) as at_fit:
        warnings.simplefilter("always")
        _, fit = timed(lambda: model.fit(X_train, y_train))
    _, factorisation = timed(lambda: factorise(model))
    rows = []
    for size in sizes:
        model.set_params(perturbation_size=size)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            predicted, seconds = timed(lambda: perturbed_score(model, *held_out))
        X_perturbed = model.perturb()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of the truth; it is what it is.
            cold, cold_seconds = timed(
                lambda X=X_perturbed: clone(model).fit(X, y_train).score(*held_out)
            )
            warm = model.score_of(model.retrain(X_perturbed), *held_out)
        warned = bool(at_fit or said)
        rows.append((predicted, cold, warm, warned, seconds, cold_seconds))
    columns = map(np.array, zip(*rows, strict=True))
    return Outcome(model.score(*held_out), fit, factorisation, *columns)


def measure(
    name, sizes, *, grid=GRID, n_folds=N_FOLDS, perturbation="gradient", **params
):
    """Outcomes of all models, stacked: (n_models, n_folds) and, mostly, n_sizes."""
    X, y, folds, net = load(name)
    found = []
    for choice in ParameterGrid(grid):
        model = SolutionSetEstimator(
            clone(net).set_params(**choice),
            perturbation=perturbation,
            restart_backend="vectorized",
            random_state=0,
            **{"n_restarts": N_RESTARTS, **params},
        )
        found.append(
            [outcome(model, sizes, X, y, *fold) for fold in islice(folds, n_folds)]
        )
    fields = zip(*(zip(*of_model, strict=True) for of_model in found), strict=True)
    return Outcome(*map(np.array, fields))


def rank_correlation(a, b):
    """Spearman's, NaN for fewer than five models."""
    return float(spearmanr(a, b).statistic) if len(a) >= 5 else np.nan


def time_ratio(found, position=slice(None)):
    """CPU time of cold refits and their scores over that of `perturbed_score`."""
    of_size = found.cold_seconds[..., position], found.seconds[..., position]
    return of_size[0].sum() / of_size[1].sum()


def report(name, sizes, found):
    """One line per size."""
    plain = found.plain.mean(axis=1)
    print(
        f"{name}: {len(plain)} models, {found.plain.shape[1]} folds; plain scores "
        f"{plain.min():.3f} to {plain.max():.3f}; the fit that all need takes "
        f"{found.fit.mean():.2f} s on average"
    )
    print(
        "          rank correlation with the cold score      not warned of    "
        "error of        cold refit/predicted\n"
        "    size  predicted  (drop)    plain     warm      models  predicted  "
        "predicted plain     time  lowest  strict"
    )
    for k, size in enumerate(sizes):
        predicted, cold, warm = (
            scores[..., k].mean(axis=1)
            for scores in (found.predicted, found.cold, found.warm)
        )
        calm = ~found.warned[..., k].any(axis=1)
        per_model = found.cold_seconds[..., k].sum(1) / found.seconds[..., k].sum(1)
        factorisation = found.factorisation.sum()
        strict = (found.cold_seconds[..., k].sum() - factorisation) / (
            found.seconds[..., k].sum() + factorisation
        )
        print(
            f"  {size:6g} {rank_correlation(predicted, cold):10.2f} "
            f"{rank_correlation(predicted - plain, cold - plain):8.2f} "
            f"{rank_correlation(plain, cold):8.2f} {rank_correlation(warm, cold):8.2f} "
            f"{calm.sum():11d} {rank_correlation(predicted[calm], cold[calm]):10.2f} "
            f"{np.abs(predicted - cold).mean():10.4f} "
            f"{np.abs(plain - cold).mean():6.4f} {time_ratio(found, k):6.0f} x "
            f"{per_model.min():5.0f} x {strict:5.0f} x",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    parser.add_argument(
        "--perturbation", choices=("gradient", "worst_case"), default="gradient"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {"perturbation": arguments.perturbation}
    if arguments.smoke:
        one = {name: values[:1] for name, values in GRID.items()}
        options |= {"grid": one, "n_folds": 1, "n_restarts": 1}
    for name, sizes in SIZES.items():
        sizes = sizes[:1] if arguments.smoke else sizes
        report(name, sizes, measure(name, sizes, **options))


if __name__ == "__main__":
    main()
