"""How much cheaper is predicting a perturbed solution set than refitting it?

Prints ratios measured in one run on one thread, with the error beside the time: the
distance of the refitted weights to the predicted set, relative to the shift.

Run: ``python benchmarks/bench_sensitivity.py [--smoke]``
"""

import argparse
import time

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor


def timed(function):
    """Result and CPU seconds of a call."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def measure(name, weight_decay, n_restarts, width, sizes):
    X, y = map(scale, load_diabetes(return_X_y=True))
    net = DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=20,
    )
    model = SolutionSetEstimator(
        net, n_restarts=n_restarts, perturbation="random", random_state=0
    )
    _, fit_seconds = timed(lambda: model.fit(X, y))
    print(f"{name}: {model.solution_set_}, fit {fit_seconds:.1f} s")
    for size in sizes:
        X_perturbed = model.set_params(perturbation_size=size).perturb()
        predicted, seconds = timed(lambda X=X_perturbed: model.sensitivity(X))
        retrained, warm = timed(lambda X=X_perturbed: model.retrain(X))
        _, refit = timed(lambda X=X_perturbed: clone(model).fit(X, y))
        gaps = np.diagonal(predicted.piece_distances(retrained)) / predicted.shift_norm
        print(
            f"  size {size:g}: sensitivity {seconds:.3f} s; refitting takes "
            f"{refit / seconds:.0f} x, warm retraining {warm / seconds:.1f} x as long; "
            f"gap {gaps.max():.2g} of the shift"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    n_restarts, width, sizes = (1, 8, [0.01]) if smoke else (8, 64, [0.001, 0.01, 0.03])
    measure("with weight decay 0.1", 0.1, n_restarts, width, sizes)
    if not smoke:
        measure("interpolating", 0.0, n_restarts, width, sizes)


if __name__ == "__main__":
    main()
