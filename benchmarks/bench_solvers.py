"""How fast is ``H v = -B dx`` solved here and by other libraries, to which error?

CPU seconds to a relative error asked for, at three solutions (see ``problems.py``):
At, positive definite; Bd, 85,002 weights; C, interpolating with a null space.
Iterative peers run at the loosest of their own tolerances (half decades) that reaches
the error, and only that run counts; "never" means none does. They are given ``B dx``;
ours computes it. Then what a further right-hand side at the same solution costs, with
its residual, and the peak memory of the dense solves. Ratios are peer / best of ours,
measured in one run on one thread.

Peers other than SciPy are optional: ``pip install -r benchmarks/requirements.txt``.

Run: ``python benchmarks/bench_solvers.py [--smoke] [At Bd C]``
"""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from peak_memory import peak_megabytes
from peers import PEERS, missing, quietly
from problems import build

from sksetsens.sensitivity import GraphicalDerivative

OURS = ("auto", "eigh", "dual", "minres", "lsmr")
TARGETS = {"At": (1e-3, 1e-6, 1e-10), "Bd": (1e-3, 1e-6), "C": (1e-4, 1e-6)}
TOLERANCES = 10.0 ** np.arange(-1.0, -12.1, -0.5)
N_FURTHER = 4  # two in a smoke run
# Seconds below which a run is repeated, and the median of three counts.
_CHEAP = 1.0


@dataclass
class Row:
    """One solver on one problem: (seconds, error) per target, then per answer."""

    name: str
    ours: bool
    runs: list = field(default_factory=list)
    further: tuple[float, float] | None = None
    note: str = ""


def timed(problem, function):
    """Result and CPU seconds; the median of three runs where they are cheap."""
    seconds = []
    while len(seconds) < (1 if problem.is_tiny else 3):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
        if seconds[0] > _CHEAP:
            break
    return result, statistics.median(seconds)


def residual(problem, v, b):
    left = problem.objective.hessian_product(problem.weights, v) + b
    return float(np.linalg.norm(left) / np.linalg.norm(b))


def further(problem):
    """Perturbations of other rows."""
    count = 2 if problem.is_tiny else N_FURTHER
    return [problem.perturbation(seed) for seed in range(1, 1 + count)]


# Ours --------------------------------------------------------------------------------


def our_row(problem, solver):
    """One exact solve serves all targets; iterative ones run as loosely as suffices."""
    row = Row(f"sksetsens {solver}", ours=True)
    try:
        gd = our_solve(problem, solver, 0.1)[0]
    except ValueError as error:
        row.note = str(error)
        return row
    if solver == "auto":
        row.name += f" ({gd.solver_})"
    memo = {}

    def run(k):
        if k not in memo:
            (found, v), seconds = timed(
                problem, lambda: our_solve(problem, solver, TOLERANCES[k])
            )
            memo[k] = seconds, problem.error(v), not gd.is_matrix_free, found
        return memo[k]

    chosen, k = [], 0
    for target in TARGETS[problem.name]:
        k = loosest(run, target, k) if k is not None else None
        chosen.append(k)
    row.runs = [None if k is None else memo[k][:2] for k in chosen]
    if not any(row.runs):
        row.note = f"error {min(found[1] for found in memo.values()):.1e}"
        return row
    last = [k for k in chosen if k is not None][-1]
    row.further = our_further(problem, memo[last][3])
    return row


def our_solve(problem, solver, tol):
    """The derivative, factorised or not, and its first shift."""
    gd = GraphicalDerivative(
        problem.objective, problem.weights, solver=solver, solver_tol=tol
    )
    return gd, gd(problem.dX).shift


def our_further(problem, gd):
    """Seconds and largest residual of a further right-hand side."""
    found = []
    for dX in further(problem):
        v, seconds = timed(problem, lambda dX=dX: gd(dX).shift)
        b = problem.objective.cross_product(problem.weights, dX)
        found.append((seconds, residual(problem, v, b)))
    seconds, left = zip(*found, strict=True)
    return statistics.median(seconds), max(left)


# Peers -------------------------------------------------------------------------------


def peer_row(problem, peer):
    row = Row(peer.name, ours=False)
    memo = {}

    def run(k):
        """Seconds, error, and whether the peer gave up, at the k-th tolerance."""
        if k not in memo:

            def solve():
                return peer.make(problem)(problem.b, TOLERANCES[k])

            (v, told), seconds = timed(problem, lambda: quietly(solve))
            memo[k] = seconds, problem.error(v), bool(told) or not peer.iterative
        return memo[k]

    chosen, k = [], 0
    for target in TARGETS[problem.name]:
        k = loosest(run, target, k) if k is not None else None
        chosen.append(k)
    row.runs = [None if k is None else memo[k][:2] for k in chosen]
    if not any(row.runs):
        best = min(memo.values(), key=lambda found: found[1])
        row.note = f"best error {best[1]:.1e} after {best[0]:.1f} s"
        return row
    last = [k for k in chosen if k is not None][-1]
    row.further = peer_further(problem, peer, TOLERANCES[last])
    return row


def loosest(run, target, k):
    """Index, from k on, of the loosest tolerance whose run has that small an error.

    None at the end of the list, or where the peer gave up: tighter is no better then.
    """
    while run(k)[1] > target:
        spent, k = run(k)[2], k + 1
        if spent or k == len(TOLERANCES):
            return None
        # Far off, steps are three times as long; then back to the loosest.
        if run(k - 1)[1] > 30 * target and k + 2 < len(TOLERANCES):
            k = refined(run, target, k, k + 2)
    return k


def refined(run, target, low, high):
    """``high``, or the loosest one before it that suffices already."""
    if run(high)[1] > target:
        return high
    return next(k for k in range(low, high + 1) if run(k)[1] <= target)


def peer_further(problem, peer, tol):
    """The same with the peer's cheapest reuse: its factorisation, or many at once."""
    cross = problem.objective.cross_product
    B = np.stack([cross(problem.weights, dX) for dX in further(problem)], axis=1)
    solve = peer.make(problem)
    if not peer.many:
        B = B[:, :1]
    (V, _), seconds = timed(
        problem, lambda: quietly(solve, B if peer.many else B[:, 0], tol)
    )
    V = V.reshape(B.shape)
    left = [residual(problem, v, b) for v, b in zip(V.T, B.T, strict=True)]
    return seconds / B.shape[1], max(left)


# Tables ------------------------------------------------------------------------------


def compare(problem, peers):
    """Print seconds, error and ratio for each target as they come; return the rows."""
    targets = TARGETS[problem.name]
    ours = [our_row(problem, solver) for solver in OURS]
    best = [
        min((row.runs[i][0] for row in ours if row.runs and row.runs[i]), default=0)
        for i in range(len(targets))
    ]
    head = "".join(f"{f'to {target:g}':^28}" for target in targets)
    print(f"{'':26}{head}")
    print(f"{'':26}" + f"{'s':>9}{'error':>9}{'ratio':>8}  " * len(targets))
    rows = []
    for row in chain(ours, (peer_row(problem, peer) for peer in peers)):
        pairs = zip(row.runs, best, strict=True) if row.runs else ()
        cells = [cell(run, seconds) for run, seconds in pairs]
        told = "" if cells else "does not apply: "
        print(f"{row.name:26}" + "".join(cells) + told + row.note, flush=True)
        rows.append(row)
    return rows


def cell(run, ours):
    if run is None:
        return f"{'never':>9}{'':19}"
    seconds, error = run
    ratio = f"{seconds / ours:8.1f}" if ours else f"{'-':>8}"
    return f"{seconds:9.3f}{error:9.0e}{ratio}  "


def print_further(rows):
    rows = [row for row in rows if row.further]
    best = min((r.further[0] for r in rows if r.ours), default=None)
    print("A further right-hand side: seconds, residual, ratio")
    for row in rows:
        seconds, left = row.further
        ratio = f"{seconds / best:8.1f}" if best else f"{'-':>8}"
        print(f"{row.name:26}{seconds:9.4f}{left:9.0e}{ratio}")


# Memory ------------------------------------------------------------------------------


def measure_memory(name):
    """Peak above what was needed before the solve; runs in its own process."""
    problem = build("At")
    b, before = problem.b, peak_megabytes()
    if name == "ours":
        gd = GraphicalDerivative(problem.objective, problem.weights, solver="eigh")
        gd(problem.dX)
    else:
        next(p for p in PEERS if p.name == name).make(problem)(b, None)
    print(peak_megabytes() - before)


def print_memory():
    """Dense solves of At, each in a process of its own."""
    dense = [p for p in PEERS if not p.iterative and not missing(p)]
    found = {}
    for name in ["ours", *[p.name for p in dense]]:
        command = [sys.executable, __file__, "--memory", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = float(output.stdout.split()[-1])
    print("\nPeak memory of a dense solve of At, above the start")
    for name, value in found.items():
        ratio = f"{value / found['ours']:6.1f} x ours" if found["ours"] else ""
        print(f"{name:26}{value:9.0f} MB {ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", default=list(TARGETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        measure_memory(arguments.memory)
        return
    for peer in filter(missing, PEERS):
        print(f"{peer.name}: {peer.package} is not installed and left out")
    present = [peer for peer in PEERS if not missing(peer)]
    warm_up(present)
    for name in arguments.names:
        problem = build(name, smoke=arguments.smoke)
        print(
            f"\n{name}: {problem.weights.size} weights; reference: {problem.evidence}"
        )
        peers = [peer for peer in present if fits(problem, peer)]
        print_further(compare(problem, peers))
    if not arguments.smoke:
        print_memory()


def fits(problem, peer):
    """Whether a dense p x p matrix is thinkable."""
    return peer.iterative or problem.weights.size < 10_000


def warm_up(peers):
    """Imports and compilation happen before the clock starts."""
    problem = build("At", smoke=True)
    GraphicalDerivative(problem.objective, problem.weights)(problem.dX)
    for peer in peers:
        quietly(peer.make(problem), problem.b, 0.1)


if __name__ == "__main__":
    main()
