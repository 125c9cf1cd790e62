"""How a solve ended is a member, which carries the sentence."""

import re

import numpy as np
import pytest

from sksetsens.linalg import (
    FullRowRankInverse,
    GramPseudoInverse,
    KrylovInverse,
    KrylovSettings,
    Reason,
    ScaledPseudoInverse,
    SymmetricPseudoInverse,
)

SPREAD = np.diag(np.exp2(-np.arange(0.0, 80.0, 2.0)))


def krylov(H, **settings):
    return KrylovInverse(H.__matmul__, len(H), settings=KrylovSettings(**settings))


def random(n=40):
    A = np.random.default_rng(0).standard_normal((n, n))
    return A @ A.T + np.eye(n)


@pytest.mark.parametrize(
    ("inverse", "b", "reason", "told"),
    [
        (SymmetricPseudoInverse(np.diag([1.0, 0.0])), [1, 0], Reason.SOLVED, "solved"),
        (SymmetricPseudoInverse(np.diag([1.0, 0.0])), [1, 1], Reason.EMPTY, "0.71"),
        (ScaledPseudoInverse(np.eye(2), np.ones(2)), [1, 1], Reason.SOLVED, "solved"),
        (SymmetricPseudoInverse(SPREAD), SPREAD[0], Reason.NO_GAP, "one decade"),
        (GramPseudoInverse(np.eye(1, 2)), [0, 1], Reason.EMPTY, "empty: .* range H"),
        (krylov(np.diag([1.0, 0.0])), [1, 1], Reason.EMPTY, "no first-order shift"),
        (krylov(random()), np.ones(40), Reason.SOLVED, "solved"),
        (krylov(random(), max_iter=3), np.ones(40), Reason.ENDED, "after 4 products"),
    ],
)
def test_every_end_has_its_reason(inverse, b, reason, told):
    found = inverse.solve(np.array(b, dtype=np.float64))
    assert found.reason is reason
    assert found.is_consistent == (reason is not Reason.EMPTY)
    assert re.search(told, found.status)


def test_independent_rows_are_solved():
    inverse = FullRowRankInverse.make(np.eye(3, 5))
    assert inverse.solve_factored(np.ones(3)).reason is Reason.SOLVED
