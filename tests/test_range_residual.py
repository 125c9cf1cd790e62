"""One definition of what leaves range H, at each level of moduli."""

import numpy as np
import pytest
from test_rank_probes import derivative

from sksetsens import mordukhovich_criterion
from sksetsens.moduli import dataset_modulus, layer_moduli


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("solver", ["eigh", "minres"])
def test_the_layer_that_holds_all_weights_has_the_data_sets_modulus(size, solver):
    rng = np.random.RandomState(3)
    X = np.column_stack([rng.standard_normal((9, 2)), np.zeros(9)])
    y = X[:, 0] + 0.5
    # Row 8's residual alone is small: its column leaves range H all the same.
    y[8] = X[8, 0] + size
    gd = derivative(X, y, solver=solver)
    whole, layer = dataset_modulus(gd).values, layer_moduli(gd).values
    assert np.isinf(whole).all()
    np.testing.assert_array_equal(layer, whole)


def test_a_small_column_that_leaves_the_range_counts_at_all_levels():
    """Columns of residual 1e-6 beside columns of size 1e3."""
    X = np.zeros((6, 3))
    X[:4, 0], X[4:, 1] = 1e3, [1.0, 2.0]
    y = np.array([1e3, 1e3, 1e3, 1e3, 1.0, 2.0 + 1e-6])
    gd = derivative(X, y, solver="eigh")
    whole, layer = dataset_modulus(gd).values, layer_moduli(gd).values
    np.testing.assert_array_equal(np.isinf(layer), np.isinf(whole))
    if np.isfinite(whole).all():
        np.testing.assert_allclose(layer, whole, rtol=1e-8)


def test_finite_moduli_agree():
    rng = np.random.RandomState(5)
    X = rng.standard_normal((9, 3))
    gd = derivative(X, rng.standard_normal(9), solver="eigh")
    whole, layer = dataset_modulus(gd).values, layer_moduli(gd).values
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(layer, whole, rtol=1e-10)


def test_the_criterion_of_a_live_feature_is_the_same_without_a_factorisation():
    rng = np.random.RandomState(4)
    X = np.column_stack([rng.standard_normal((9, 2)), np.zeros(9)])
    y = rng.standard_normal(9)
    exact, iterated = (
        [
            mordukhovich_criterion(derivative(X, y, solver=s), features=[f])
            for f in range(3)
        ]
        for s in ("eigh", "minres")
    )
    assert [c.range_residual <= c.tolerance for c in exact] == [True, True, False]
    assert [c.range_residual <= c.tolerance for c in iterated] == [True, True, False]
    assert iterated[2].worst_entry[1] == 2
