"""How much cheaper is predicting a perturbed solution set than training it anew?

`sensitivity` of a set of eight restarts: its first call after ``fit`` (also with the
factorisation, which ``fit`` has done, added) and each further call, against refitting
the set to the same stationarity, continuing it by warm retraining, and retraining the
eight nets by skorch alone, without polishing. Prints ratios to the further call,
measured in one run on one thread, with the error beside the time: the distance of the
warm retrained weights to the predicted set, relative to the shift.

Run: ``python benchmarks/bench_sensitivity.py [--smoke]``
"""

import argparse
import time

import numpy as np
import torch
from problems import RECIPES, estimator, load
from sklearn.base import clone

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor
from sksetsens.sensitivity import GraphicalDerivative


def timed(function):
    """Result and CPU seconds of a call."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def diabetes_net(weight_decay, width):
    """tanh MLP 10-width-1, trained by skorch's default."""
    return DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=20,
        train_split=None,
        verbose=0,
    )


def factorise(model):
    """The factorisations of all solutions, once more."""
    for gd, point in zip(
        model.graphical_derivatives_, model.solution_set_.stationarity, strict=True
    ):
        GraphicalDerivative(gd.objective, gd.weights, stationarity=point)


def skorch_alone(net, X, y, n_restarts):
    """The same number of plain trainings."""
    # Plain nets are float32, and predict a column.
    X = X.astype(np.float32)
    y = y.astype(np.float32)[:, None] if y.dtype.kind == "f" else y
    for seed in range(n_restarts):
        torch.manual_seed(seed)
        clone(net).fit(X, y)


def measure(name, net, X, y, n_restarts, sizes):
    model = SolutionSetEstimator(
        net, n_restarts=n_restarts, perturbation="random", random_state=0
    )
    _, fit_seconds = timed(lambda: model.fit(X, y))
    print(f"{name}: {model.solution_set_}, fit {fit_seconds:.1f} s")
    X_first = model.set_params(perturbation_size=sizes[0]).perturb()
    _, first = timed(lambda: model.sensitivity(X_first))
    _, factorisation = timed(lambda: factorise(model))
    print(
        f"  first call {first:.3f} s, with the factorisation that fit has done "
        f"{first + factorisation:.3f} s"
    )
    for size in sizes:
        X_perturbed = model.set_params(perturbation_size=size).perturb()
        predicted, further = timed(lambda X=X_perturbed: model.sensitivity(X))
        retrained, warm = timed(lambda X=X_perturbed: model.retrain(X))
        _, plain = timed(lambda X=X_perturbed: skorch_alone(net, X, y, n_restarts))
        gaps = np.diagonal(predicted.piece_distances(retrained)) / predicted.shift_norm
        print(
            f"  size {size:g}: further call {further:.3f} s, gap {gaps.max():.2g} of "
            f"the shift; warm retraining {warm / further:.1f} x, skorch alone "
            f"{plain / further:.1f} x as long",
            flush=True,
        )
    # The cost of refitting does not depend on the size: once, on the last data.
    _, refit = timed(lambda: clone(model).fit(X_perturbed, y))
    print(
        f"  refitting to the same stationarity {refit:.1f} s: {refit / further:.0f} x "
        f"a further call, {refit / first:.0f} x the first, "
        f"{refit / (first + factorisation):.0f} x the first with factorisation"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    n_restarts, width, sizes = (1, 8, [0.01]) if smoke else (8, 64, [0.001, 0.01, 0.03])
    X, y = load("diabetes", 442)
    damped = diabetes_net(0.1, width)
    measure("diabetes, weight decay 0.1", damped, X, y, n_restarts, sizes)
    if smoke:
        return
    measure("interpolating", diabetes_net(0.0, width), X, y, n_restarts, sizes)
    net = estimator(RECIPES["At"])
    measure("At", net, *load("digits", 1000), n_restarts, [0.01])


if __name__ == "__main__":
    main()
