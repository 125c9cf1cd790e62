"""How do factorisation, shifts and memory grow with weights, rows and restarts?

CPU seconds of the factorisation with its first shift, of each further shift, and of
fitting sets of restarts, with the peak memory of each factorisation in a process of
its own (full runs only); and the exponent of a power law fitted over the sizes. Nets
as initialised on random data, made stationary by tilting: neither training nor its end
matters to the cost. Then what a product with H costs for each of eight directions that
go through the recorded gradient at once, over one alone.

Run: ``python benchmarks/bench_scaling.py [--smoke]``
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from peak_memory import peak_megabytes

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNN, DFCNNRegressor
from sksetsens.objective import check_objective, initialised_net
from sksetsens.sensitivity import GraphicalDerivative

N_FEATURES, N_SHIFTS = 20, 5
FULL = {
    "weights": [(200, width) for width in (10, 20, 40, 80)],
    "large nets": [(1000, (width, width)) for width in (250, 500, 990)],
    "rows": [(rows, 20) for rows in (250, 1000, 4000, 20_000, 100_000)],
    "restarts": [1, 2, 4, 8],
}
SMOKE = {
    "weights": [(30, 4), (30, 8)],
    "large nets": [(30, (8, 8)), (30, (16, 16))],
    "rows": [(30, 4), (60, 4)],
    "restarts": [1, 2],
}


def net(width, **params):
    """tanh MLP 20-width-1, or of several hidden widths, with weight decay.

    Large ones with more of it, since at random weights H is not definite otherwise.
    """
    widths = width if isinstance(width, tuple) else (width,)
    return DFCNNRegressor(
        module__hidden_widths=widths,
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=1.0 if len(widths) > 1 else 0.1,
        train_split=None,
        **params,
    )


def data(n_rows):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((n_rows, N_FEATURES))
    y = np.tanh(X[:, 0]) + 0.1 * rng.standard_normal(n_rows)
    return X, y


def stationary_objective(n_rows, width):
    """Objective of a net as initialised, tilted by its gradient."""
    X, y = data(n_rows)
    params = {"module__n_features": N_FEATURES, "module__n_outputs": 1}
    trial = initialised_net(net(width), params, 0)
    y = y[:, None]
    objective = check_objective(trial, X.astype(np.float32), y.astype(np.float32))
    objective = objective.with_data(X, y)
    return objective.tilted(objective.gradient(objective.weights))


def timed(function, repeats=3):
    """Result and CPU seconds, the median."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, statistics.median(seconds)


def factorised(objective, dX):
    gd = GraphicalDerivative(objective, objective.weights)
    gd(dX)
    return gd


def one_size(n_rows, width):
    """Weights, seconds of the first and of a further shift."""
    objective = stationary_objective(n_rows, width)
    rng = np.random.RandomState(1)
    n_shifts, repeats = (1, 1) if isinstance(width, tuple) else (N_SHIFTS, 3)
    dX = rng.standard_normal((n_shifts, *objective.input_shape))
    gd, first = timed(lambda: factorised(objective, dX[0]), repeats)
    _, further = timed(lambda: [gd(d) for d in dX], repeats)
    return objective.n_params, first, further / n_shifts


def peak(n_rows, width):
    """Peak memory of a factorisation in MB, above what was there before it."""
    widths = width if isinstance(width, tuple) else (width,)
    command = [sys.executable, __file__, "--peak", *map(str, (n_rows, *widths))]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(output.stdout.split()[-1])


def measure_peak(n_rows, width):
    objective = stationary_objective(n_rows, width)
    before = peak_megabytes()
    factorised(objective, np.ones(objective.input_shape))
    print(peak_megabytes() - before)


def exponent(sizes, values):
    """Of the power law through the points, by least squares in logarithms."""
    positive = np.asarray(values) > 0
    if positive.sum() < 2:
        return np.nan
    x, y = np.asarray(sizes)[positive], np.asarray(values)[positive]
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sweep(name, sizes, with_memory):
    """Table over sizes, with exponents against the quantity that varies."""
    print(
        f"\n{name}: rows, weights, factorise and shift (s), further shift (s), peak MB"
    )
    against, table = [], []
    for n_rows, width in sizes:
        n_params, first, further = one_size(n_rows, width)
        memory = peak(n_rows, width) if with_memory else np.nan
        against.append(n_rows if name == "rows" else n_params)
        table.append((first, further, memory))
        print(f"{n_rows:8d}{n_params:8d}{first:12.4f}{further:12.5f}{memory:10.0f}")
    powers = [exponent(against, column) for column in zip(*table, strict=True)]
    print(f"grow as {name} to the power " + ", ".join(f"{p:.2f}" for p in powers))


def together(n_rows, width, n_directions=8):
    """A product with H for each of many directions at once, over one alone."""
    widths = width if isinstance(width, tuple) else (width,)
    module = DFCNN(
        n_features=N_FEATURES,
        hidden_widths=widths,
        activation="tanh",
        bias=True,
        train_output=True,
    ).double()
    parameters = list(module.parameters())
    X = torch.as_tensor(data(n_rows)[0])
    with torch.enable_grad():
        loss = module(X).square().mean()
        R = torch.autograd.grad(loss, parameters, create_graph=True)
    many = [torch.randn(n_directions, *p.shape, dtype=p.dtype) for p in parameters]

    def product(along, **options):
        return torch.autograd.grad(R, parameters, along, retain_graph=True, **options)

    each = [[v[k] for v in many] for k in range(n_directions)]
    _, alone = timed(lambda: [product(along) for along in each])
    _, at_once = timed(lambda: product(many, is_grads_batched=True))
    n_params = sum(p.numel() for p in parameters)
    print(f"{n_rows:8d}{n_params:8d}{at_once / alone:8.2f}")


def restarts(counts, n_rows, width):
    """Fit and one sensitivity of sets of M restarts."""
    print(f"\nrestarts ({n_rows} rows, width {width}): fit (s), sensitivity (s)")
    X, y = data(n_rows)
    table = []
    for count in counts:
        model = SolutionSetEstimator(
            net(width, max_epochs=20), n_restarts=count, random_state=0
        )
        start = time.process_time()
        model.fit(X, y)
        fit = time.process_time() - start
        moved = model.X_train_ + 1e-3
        _, answer = timed(lambda model=model, moved=moved: model.sensitivity(moved))
        table.append((fit, answer))
        print(f"{count:8d}{fit:12.3f}{answer:12.4f}")
    powers = [exponent(counts, column) for column in zip(*table, strict=True)]
    print("grow as restarts to the power " + ", ".join(f"{p:.2f}" for p in powers))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    parser.add_argument("--peak", nargs="+", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        measure_peak(arguments.peak[0], tuple(arguments.peak[1:]))
        return
    sizes = SMOKE if arguments.smoke else FULL
    for name in ("weights", "large nets", "rows"):
        sweep(name, sizes[name], not arguments.smoke)
    print("\nproducts at once over one by one: rows, weights, ratio")
    for n_rows, width in (*sizes["weights"][-1:], *sizes["large nets"][:2]):
        together(n_rows, width)
    restarts(sizes["restarts"], *((30, 4) if arguments.smoke else (300, 10)))


if __name__ == "__main__":
    main()
