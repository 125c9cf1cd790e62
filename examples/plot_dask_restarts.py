"""
=====================================
Restarts on a cluster, through joblib
=====================================

The restarts of a fit are independent, and so are the folds and candidates of a search.
They go through joblib: inside ``parallel_config(backend="dask")`` they run on a Dask
cluster, on one machine or on many, with the same bits as in one process. This script
starts two workers on this machine, trains there, loses one of them on purpose, and
compares.

It needs the ``dask`` extra: ``pip install -c constraints.txt -e '.[dask]'``. Dask's own
messages about a worker that restarts are part of the story. On so small a problem two
workers take longer than one process: each imports torch first, and one of them twice.
"""

# %%
# A module as anybody would write it, in the script itself. Workers start as fresh
# processes that import this file: what they must not repeat belongs under
# ``if __name__ == "__main__"``.
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from joblib import parallel_config
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback

from sksetsens import SolutionSetEstimator
from sksetsens.metrics import neg_shift_norm, perturbed_score

torch.set_num_threads(1)


class MLP(torch.nn.Module):
    """One hidden layer; the sizes are learnt from the data."""

    def __init__(self, n_features=1, n_outputs=2, n_hidden=8):
        super().__init__()
        self.hidden = torch.nn.Linear(n_features, n_hidden)
        self.output = torch.nn.Linear(n_hidden, n_outputs)

    def forward(self, X):
        return self.output(torch.tanh(self.hidden(X)))


class Accident(Callback):
    """Kill the process that trains, once, and not if it is the main one."""

    def __init__(self, main, file):
        self.main, self.file = main, file

    def on_train_end(self, net, **kwargs):
        if os.getpid() != self.main and not Path(self.file).exists():
            Path(self.file).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def make_model(callbacks, memory):
    net = NeuralNetClassifier(
        MLP,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer__weight_decay=0.02,
        max_epochs=10,
        lr=0.1,
        train_split=None,
        callbacks=callbacks,
    )
    return SolutionSetEstimator(
        net, n_restarts=4, perturbation_size=0.05, memory=memory, random_state=0
    )


def main():
    from dask.distributed import Client, LocalCluster

    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)[:300]
    y = y[:300]
    folder = tempfile.TemporaryDirectory()

    # %%
    # In this process, for comparison.
    start = time.perf_counter()
    alone = make_model(None, None).fit(X, y)
    print(f"one process: {time.perf_counter() - start:.1f} s")

    # %%
    # On a cluster of two processes that talk over TCP. On a real one,
    # ``Client("tcp://scheduler:8786")`` is all that changes, and ``memory`` should be a
    # folder that the workers share; where it is not, the results travel back and are
    # written here. A worker that dies costs the time to start another one and to train
    # anew what it had in hand. A restart that kills every worker that tries it is given
    # up in the end; ``restart_report_`` says so, and the others are kept.
    cluster = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
    )
    with cluster, Client(cluster), parallel_config(backend="dask"):
        accident = [Accident(os.getpid(), f"{folder.name}/happened")]
        model = make_model(accident, f"{folder.name}/memory")
        for label in ("two workers, one dies", "again, from memory"):
            start = time.perf_counter()
            model.fit(X, y)
            print(f"{label}: {time.perf_counter() - start:.1f} s")
            print(f"  from memory: {model.restart_report_['cached']}")
        same = np.array_equal(model.solution_set_.weights, alone.solution_set_.weights)
        print(f"\nsame bits as in one process: {same}")

        # %%
        # Cross-validation and searches need no other code either.
        pipeline = make_pipeline(StandardScaler(), make_model(None, None))
        pipeline.set_params(solutionsetestimator__n_restarts=1)
        found = cross_validate(
            pipeline,
            X,
            y,
            cv=2,
            scoring={"score": perturbed_score, "shift": neg_shift_norm},
            n_jobs=2,
        )
        print(f"perturbed score of two folds: {found['test_score'].round(3)}")

    folder.cleanup()


if __name__ == "__main__":
    main()
