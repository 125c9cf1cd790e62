"""How much faster do restarts train as one stack than one after another?

MLP 64-32-10 on 1000 digits, Adam, batches of 64, 20 epochs, without polishing: CPU
seconds on one thread, in one run, of

- plain skorch: ``net.fit`` of each net, and nothing else;
- ``restart_backend="joblib"`` with one job;
- ``restart_backend="vectorized"``: its training alone, and everything. Everything is,
  as for "joblib", also building the nets before and after, the checks for divergence
  and the gradient that each restart reports.

Beside them the largest difference between the weights of the stack and of skorch.

Then CPU seconds of both backends for ``cross_validate`` over 5 folds of 8 restarts
each, on the diabetes data, with polishing and without.

Run: ``python benchmarks/bench_restarts.py [--smoke]``
"""

import argparse
import time

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import cross_validate
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens._training_data import check_training_data
from sksetsens.networks import DFCNN, DFCNNRegressor
from sksetsens.objective import bare_net, isolated, single_threaded, train_together
from sksetsens.sensitivity.systems import Solver
from sksetsens.training import draw_seeds, prepare, rebuilt_net, run_restarts


def task_of(max_epochs, shuffle, seed):
    """What every restart shares."""
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
    model = SolutionSetEstimator(net)
    data = check_training_data(model, net, X[:1000] / 16.0, y[:1000])
    return prepare(
        net,
        data,
        seed,
        polish=False,
        tol=model.tol,
        quiet=True,
        solver=Solver(),
    )[1]


def plain_skorch(task, seeds):
    """Weights of skorch's own trainings."""
    nets = []
    for seed in seeds:
        with isolated(seed), single_threaded():
            net = bare_net(task.estimator, task.params)
            nets.append(net.fit(task.X_net, task.y_net))
    return weights_of(nets)


def stack(task, seeds):
    """The stack's training alone."""
    train_together(task.estimator, task.params, task.X_net, task.y_net, seeds)


def everything(task, seeds, backend):
    """Weights of the nets that `SolutionSetEstimator` keeps."""
    restarts = run_restarts(task, seeds, n_jobs=1, verbose=0, backend=backend)
    return weights_of([rebuilt_net(task, restart) for restart in restarts])


def weights_of(nets):
    parameters = [net.module_.parameters() for net in nets]
    return np.stack(
        [
            np.concatenate([p.detach().numpy().ravel() for p in own])
            for own in parameters
        ]
    )


def folds(smoke):
    """CPU seconds of ``cross_validate`` by backend, with polishing and without."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    net = DFCNNRegressor(
        module__hidden_widths=(4 if smoke else 16,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=0.1,
        max_epochs=2 if smoke else 20,
    )
    for polish in (True, False):
        model = SolutionSetEstimator(
            net, n_restarts=2 if smoke else 8, random_state=0, polish=polish
        )
        seconds = []
        for backend in ("joblib", "vectorized"):
            model.set_params(restart_backend=backend)
            cv = 2 if smoke else 5
            seconds.append(timed(cross_validate, model, X, y, cv=cv)[1])
        print(
            f"cross_validate, polish={polish!s:5}: joblib {seconds[0]:5.2f} s, "
            f"vectorized {seconds[1]:5.2f} s, ratio {seconds[0] / seconds[1]:4.1f}"
        )


def timed(function, *arguments, **options):
    """Result, and CPU seconds."""
    start = time.process_time()
    result = function(*arguments, **options)
    return result, time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    cases = [(2, 2)] if smoke else [(8, 20), (32, 20)]
    # What is imported and looked up at the first call belongs to nobody.
    everything(task_of(1, True, 0), [0, 1], "vectorized")
    for n_restarts, max_epochs in cases:
        for shuffle in (False, True):
            seeds = draw_seeds(0, n_restarts)
            task = task_of(max_epochs, shuffle, seeds[0])
            alone, skorch = timed(plain_skorch, task, seeds)
            _, joblib = timed(everything, task, seeds, "joblib")
            _, training = timed(stack, task, seeds)
            stacked, whole = timed(everything, task, seeds, "vectorized")
            print(
                f"{n_restarts:3d} restarts, shuffle={shuffle!s:5}: plain skorch "
                f"{skorch:5.2f} s, joblib {joblib:5.2f} s, stack {training:5.2f} s "
                f"alone, {whole:5.2f} s with everything; ratios "
                f"skorch / alone {skorch / training:4.1f}, "
                f"skorch / everything {skorch / whole:4.1f}, "
                f"joblib / everything {joblib / whole:4.1f}; weights differ by "
                f"{np.abs(alone - stacked).max():.1e}"
            )
    folds(smoke)


if __name__ == "__main__":
    main()
