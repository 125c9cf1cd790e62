"""How far below the exact modulus is the paper's closed form?

Theorem 2 of arXiv 2412.11057 sees the equation of one row only; the exact modulus of
that row holds the other rows to their labels too. Prints the ratio exact / closed form
over the rows of random DFCNNs that interpolate (20 rows, 5 features, two hidden ReLU
layers of 50), for all layers together and for each layer alone.

    python benchmarks/bench_closed_form.py [--smoke]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from sksetsens import SolutionSetEstimator, lipschitz_modulus
from sksetsens.moduli._closed_form import closed_form_moduli
from sksetsens.networks import DFCNNRegressor


def ratios(seed: int) -> list[np.ndarray]:
    """Exact over closed form, row by row: all layers, then each alone."""
    rng = np.random.RandomState(seed)
    net = DFCNNRegressor(module__hidden_widths=(50, 50), max_epochs=50)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=seed)
    model.fit(rng.standard_normal((20, 5)), rng.standard_normal(20))
    gd = model.graphical_derivatives_[0]
    rows = lipschitz_modulus(model, level="sample", method="closed_form")
    found = [(model.sample_lipschitz_moduli_ / rows)[0]]
    J = gd.objective.jacobian(gd.weights)[:, 0]
    steepness = np.linalg.norm(gd.objective.input_jacobian(gd.weights)[:, 0], axis=1)
    by_layer = closed_form_moduli(gd, by_layer=True)
    for i, part in enumerate(gd.objective.parameter_slices.values()):
        exact = steepness * np.linalg.norm(np.linalg.pinv(J[:, part]), axis=0)
        found.append(exact / by_layer[:, i])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two networks only")
    n_networks = 2 if parser.parse_args().smoke else 20
    torch.set_num_threads(1)
    start = time.process_time()
    print("            exact / closed form: smallest, median and largest over the rows")
    print(f"{'network':>7}{'all layers':>22}{'layer 1 alone':>22}{'layer 2 alone':>22}")
    table = []
    for seed in range(n_networks):
        table.append(ratios(seed))
        cells = [f"{r.min():8.2f}{np.median(r):7.2f}{r.max():7.2f}" for r in table[-1]]
        print(f"{seed:7d}" + "".join(cells))
    together = [np.concatenate(column) for column in zip(*table, strict=True)]
    cells = [f"{r.min():8.2f}{np.median(r):7.2f}{r.max():7.2f}" for r in together]
    print(f"{'all':>7}" + "".join(cells))
    print(f"CPU seconds: {time.process_time() - start:.1f}")


if __name__ == "__main__":
    main()
