"""Where the system ``H v = -B dx`` is ill-posed: who says so?

Three nets on digits, several seeds each (see ``problems.py``): A, ReLU with weight
decay, whose minimisers sit on kinks and leave negative eigenvalues; A0, ReLU without
decay, saturated, where the answer is the choice of the cut-off; B, tanh without decay
as trained, slightly indefinite (a small net of its kind, so that H is dense). Every
library is asked for v with usual settings. Printed are the share of runs in which it
warns, refuses or returns a code (budget spent), the residual, and by which factor
``|v|`` changes between two settings that a user could choose: the tolerance of an
iterative peer (1e-3 and 1e-6), the damping or cut-off of the others (1e-6 and 1e-8).
Ours is flagged by ``trustworthy``, and no vector means that it called the set empty;
its sentences follow.

Run: ``python benchmarks/bench_ill_posed.py [--smoke]``
"""

import argparse
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from peers import PEERS, missing, quietly
from problems import build

from sksetsens.sensitivity import GraphicalDerivative, diagnose, warn_of

NAMES = ("A", "A0", "Bs")
_TOLERANCES = (1e-3, 1e-6)
_DAMPINGS = (1e-6, 1e-8)


@dataclass(frozen=True)
class Answer:
    """Vectors at two settings, and whether anything was said."""

    vectors: list[np.ndarray]
    told: str

    @property
    def factor(self) -> float:
        """Ratio of the two vectors' norms, at least 1."""
        norms = [float(np.linalg.norm(v)) for v in self.vectors]
        return max(norms) / max(min(norms), 1e-300) if len(norms) == 2 else np.nan


def _damped(problem, damping):
    return replace(problem, decay=problem.decay + damping)


def peer_answer(problem, peer) -> Answer:
    """Two settings of a peer; an exception counts as saying so."""
    vectors, told = [], []
    for tol, damping in zip(_TOLERANCES, _DAMPINGS, strict=True):
        asked = problem if peer.iterative else _damped(problem, damping)
        try:
            v, warned = quietly(lambda a=asked, t=tol: peer.make(a)(a.b, t))
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
            continue
        told += warned
        vectors.append(v)
        if not np.isfinite(v).all():
            told.append("not finite")
    return Answer(vectors, "; ".join(told))


def our_answer(problem):
    """Two cut-offs of ours, and the diagnosis at its own."""

    # Early-stopped weights are stationary for the objective tilted by their gradient.
    tilted = problem.objective.is_tilted
    stationarity = 0.0 if tilted else min(problem.stationarity, 1.0)

    def factorised(rcond):
        return GraphicalDerivative(
            problem.objective, problem.weights, rcond=rcond, stationarity=stationarity
        )

    gd = factorised(None)
    diagnosis = diagnose(
        gd, is_stationary=problem.converged, polish_status=problem.status
    )
    _, told = quietly(warn_of, [diagnosis])
    flag = "" if diagnosis.is_trustworthy else diagnosis.status
    found = [factorised(rcond)(problem.dX) for rcond in _DAMPINGS]
    return Answer([a.shift for a in found if not a.is_empty], flag), bool(told)


def residual(problem, v) -> float:
    """Relative to B dx; NaN where v is."""
    left = problem.objective.hessian_product(problem.weights, v) + problem.b
    return float(np.linalg.norm(left) / np.linalg.norm(problem.b))


def measure(problems, present):
    """Answers of each library at each problem, and what ours says."""
    table = {peer.name: [peer_answer(p, peer) for p in problems] for peer in present}
    ours = [our_answer(problem) for problem in problems]
    table["sksetsens"] = [answer for answer, _ in ours]
    warned = sum(told for _, told in ours)
    return table, warned


def print_table(name, problems, table, warned):
    """One line per library; then the sentences of ours."""
    stationarity = max(p.stationarity for p in problems)
    print(f"\n{name}: {len(problems)} seeds, relative gradients to {stationarity:.1e}")
    print(f"{'':26}{'flagged':>9}{'residual':>20}{'|v| changes by':>20}")
    for library, answers in table.items():
        share = np.mean([bool(a.told) for a in answers])
        left = [
            residual(p, v)
            for p, a in zip(problems, answers, strict=True)
            for v in a.vectors[-1:]
        ]
        factors = [a.factor for a in answers if len(a.vectors) == 2]
        print(f"{library:26}{share:9.0%}{span(left):>20}{span(factors):>20}")
    flags = {a.told for a in table["sksetsens"]}
    print(f"  warnings of sksetsens: {warned} of {len(problems)}; it says:")
    for sentence in sorted(flags):
        print(f"  - {sentence or 'nothing'}", flush=True)


def span(values):
    """Smallest and largest."""
    if not values:
        return "no answer"
    return f"{min(values):.1e} to {max(values):.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for peer in filter(missing, PEERS):
        print(f"{peer.name}: {peer.package} is not installed and left out")
    present = [peer for peer in PEERS if not missing(peer)]
    n_seeds = 1 if arguments.smoke else arguments.seeds
    for name in arguments.names:
        problems = [
            build(name, smoke=arguments.smoke, seed=seed) for seed in range(n_seeds)
        ]
        print_table(name, problems, *measure(problems, present))


if __name__ == "__main__":
    warnings.simplefilter("default")
    main()
