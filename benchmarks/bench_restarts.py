"""How much faster do restarts train as one stack than one after another?

MLP 64-32-10 on 1000 digits, Adam, batches of 64, 20 epochs, without polishing: CPU
seconds of skorch's own loop and of ``restart_backend="vectorized"``, in one run on one
thread, with the largest difference between the weights beside them.

Run: ``python benchmarks/bench_restarts.py [--smoke]``
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import IllPosedWarning
from sksetsens.networks import DFCNN


def fitted(n_restarts, max_epochs, shuffle, backend):
    """Weights after training, and CPU seconds that the trainings took."""
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
    model = SolutionSetEstimator(
        net,
        n_restarts=n_restarts,
        polish=False,
        restart_backend=backend,
        random_state=0,
    )
    seconds = {}
    run = model._run_restarts

    def timed(task):
        start = time.process_time()
        restarts = run(task)
        seconds["restarts"] = time.process_time() - start
        return restarts

    model._run_restarts = timed
    model.fit(X[:1000] / 16.0, y[:1000])
    return model.solution_set_.weights, seconds["restarts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", IllPosedWarning)
    cases = [(2, 2)] if smoke else [(8, 20), (32, 20)]
    for n_restarts, max_epochs in cases:
        for shuffle in (False, True):
            arguments = n_restarts, max_epochs, shuffle
            alone, one_by_one = fitted(*arguments, "joblib")
            stacked, together = fitted(*arguments, "vectorized")
            print(
                f"{n_restarts:3d} restarts, shuffle={shuffle!s:5}: one after another "
                f"{one_by_one:6.2f} s, as one stack {together:6.2f} s, ratio "
                f"{one_by_one / together:5.1f}; weights differ by "
                f"{np.abs(alone - stacked).max():.1e}"
            )


if __name__ == "__main__":
    main()
