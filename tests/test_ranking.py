"""The perturbed score ranks models as retraining does, at a fraction of its time."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_ranking.py"
# Twelve models: one shallow and one deep net, both activations, all decays.
WIDTHS = {"module__hidden_widths": [(4,), (8, 8)]}
# Large enough to reorder the models, within what the first order can say of scores.
SIZES = {"diabetes": 0.1, "breast cancer": 0.6}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_ranks_as_retraining_does_at_a_twentieth_of_the_time(name):
    bench = runpy.run_path(str(BENCHMARK))
    found = bench["measure"](
        name, [SIZES[name]], grid=bench["GRID"] | WIDTHS, n_folds=2
    )
    plain = found.plain.mean(axis=1)
    predicted, cold = (
        scores[..., 0].mean(axis=1) for scores in (found.predicted, found.cold)
    )
    assert len(plain) == 12
    rank_correlation = bench["rank_correlation"]
    agreement = rank_correlation(predicted, cold)
    assert agreement >= 0.8
    # Not because the perturbation leaves the order as it is.
    assert agreement > rank_correlation(plain, cold)
    assert bench["time_ratio"](found) >= 20
