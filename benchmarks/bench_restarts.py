"""How much faster do restarts train as one stack than one after another?

MLP 64-32-10 on 1000 digits, Adam, batches of 64, 20 epochs, without polishing: CPU
seconds of skorch's own loop and of ``restart_backend="vectorized"``, in one run on one
thread, with the largest difference between the weights beside them. Both include what
is done once per restart around the training: building the net, and its stationarity.

Run: ``python benchmarks/bench_restarts.py [--smoke]``
"""

import argparse
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens._restarts import draw_seeds, run_restarts
from sksetsens._training import prepare
from sksetsens._training_data import check_training_data
from sksetsens.networks import DFCNN


def trained(n_restarts, max_epochs, shuffle, backend):
    """Weights after training, and CPU seconds; without the analysis that fit adds."""
    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        DFCNN,
        module__hidden_widths=(32,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-3,
        lr=0.01,
        max_epochs=max_epochs,
        batch_size=64,
        iterator_train__shuffle=shuffle,
        train_split=None,
    )
    model = SolutionSetEstimator(net, n_restarts=n_restarts)
    data = check_training_data(model, net, X[:1000] / 16.0, y[:1000])
    seeds = draw_seeds(0, n_restarts)
    _, task = prepare(
        net,
        data,
        seeds[0],
        polish=False,
        tol=model.tol,
        quiet=True,
        curvature=model.curvature,
        solver=model.solver,
        rcond=model.rcond,
    )
    start = time.process_time()
    restarts = run_restarts(task, seeds, n_jobs=None, verbose=0, backend=backend)
    seconds = time.process_time() - start
    return np.stack([restart.polished.weights for restart in restarts]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    cases = [(2, 2)] if smoke else [(8, 20), (32, 20)]
    for n_restarts, max_epochs in cases:
        for shuffle in (False, True):
            arguments = n_restarts, max_epochs, shuffle
            alone, one_by_one = trained(*arguments, "joblib")
            stacked, together = trained(*arguments, "vectorized")
            print(
                f"{n_restarts:3d} restarts, shuffle={shuffle!s:5}: one after another "
                f"{one_by_one:6.2f} s, as one stack {together:6.2f} s, ratio "
                f"{one_by_one / together:5.1f}; weights differ by "
                f"{np.abs(alone - stacked).max():.1e}"
            )


if __name__ == "__main__":
    main()
