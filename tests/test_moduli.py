"""Coderivative and moduli by level, against dense linear algebra."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from skorch import NeuralNetRegressor

from sksetsens import Coderivative, SolutionSetEstimator, lipschitz_modulus
from sksetsens.datasets import make_dead_feature, make_toy_network
from sksetsens.networks import DFCNNRegressor

LEVELS = ("sample", "feature", "layer")


def fitted(n=12, d=3, width=8, weight_decay=0.0):
    """A tanh net on random data: 41 weights, interpolating for n = 12."""
    rng = np.random.RandomState(0)
    net = DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=5,
    )
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    return model.fit(rng.standard_normal((n, d)), rng.standard_normal(n))


@pytest.fixture(scope="module")
def interpolating():
    return fitted()


@pytest.fixture(scope="module")
def penalised():
    return fitted(n=30, weight_decay=0.01)


@pytest.fixture(params=["interpolating", "penalised"])
def model(request):
    return request.getfixturevalue(request.param)


def dense_map(gd):
    """H^+ B as an array of shape (p, n, d)."""
    shape = gd.objective.input_shape
    return (gd.solution_operator @ np.eye(np.prod(shape))).reshape(-1, *shape)


def norm(block):
    return np.linalg.norm(block.reshape(len(block), -1), 2)


def test_coderivative_is_the_adjoint(model):
    rng = np.random.RandomState(1)
    for gd in model.graphical_derivatives_:
        cd = Coderivative(gd)
        # A functional in range H; the coderivative of any other is empty.
        p = gd.H.matvec(rng.standard_normal(gd.weights.size))
        dX = rng.standard_normal(gd.objective.input_shape)
        left, right = p @ gd(dX).shift, (cd(p).value * dX).sum()
        assert left == pytest.approx(right, rel=1e-11)
        assert not cd(p).is_empty


def test_coderivative_of_a_functional_on_the_kernel_is_empty(interpolating):
    gd = interpolating.graphical_derivatives_[0]
    p = gd.kernel.project(np.ones(gd.weights.size))
    answer = Coderivative(gd)(p)
    assert answer.is_empty
    assert np.isnan(answer.value).all()
    assert "leaves range H" in answer.status


def test_coderivative_refuses_other_shapes(interpolating):
    cd = Coderivative(interpolating.graphical_derivatives_[0])
    with pytest.raises(ValueError, match=r"'p' parameter .* shape \(41,\)"):
        cd(np.ones(3))


def test_samples_and_features(model):
    for i, gd in enumerate(model.graphical_derivatives_):
        full = dense_map(gd)
        n, d = full.shape[1:]
        rows = [norm(full[:, k]) for k in range(n)]
        columns = [norm(full[:, :, j]) for j in range(d)]
        np.testing.assert_allclose(model.sample_lipschitz_moduli_[i], rows, rtol=1e-8)
        np.testing.assert_allclose(
            model.feature_lipschitz_moduli_[i], columns, rtol=1e-8
        )
        whole = model.lipschitz_moduli_[i]
        assert max(*rows, *columns) <= whole * (1 + 1e-10)


def test_layers(penalised):
    """The problem in which one parameter tensor alone may move."""
    gd = penalised.graphical_derivatives_[0]
    p, N = gd.B.shape
    H, B = gd.H @ np.eye(p), gd.B @ np.eye(N)
    slices = gd.objective.parameter_slices
    assert penalised.layer_names_ == list(slices)
    expected = [
        np.linalg.norm(np.linalg.pinv(H[s, s], hermitian=True) @ B[s], 2)
        for s in slices.values()
    ]
    np.testing.assert_allclose(
        penalised.layer_lipschitz_moduli_[0], expected, rtol=1e-8
    )


def test_layers_at_interpolation(interpolating):
    """One tensor alone need not hold all labels: first-order points of L in it."""
    gd = interpolating.graphical_derivatives_[0]
    p, N = gd.B.shape
    A, B = gd.H @ np.eye(p), gd.B @ np.eye(N)
    for s, found in zip(
        gd.objective.parameter_slices.values(),
        interpolating.layer_lipschitz_moduli_[0],
        strict=True,
    ):
        # The dense form squares the condition of J.
        expected = np.linalg.norm(np.linalg.pinv(A[s, s], rcond=1e-11) @ B[s], 2)
        assert found == pytest.approx(expected, rel=1e-5)


def test_dead_feature_alone_is_infinite():
    problem = make_dead_feature(random_state=0)
    net = NeuralNetRegressor(
        problem.module,
        module__n_features=problem.X.shape[1],
        train_split=None,
        max_epochs=2,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    moduli = model.fit(problem.X, problem.y).feature_lipschitz_moduli_[0]
    assert np.isinf(moduli[problem.dead_feature])
    assert np.isfinite(np.delete(moduli, problem.dead_feature)).all()


def test_toy_network_rows():
    """|H^+ B e_k| = |x_k| 2 |g| / (|x|^2 |g|^2) with g = (2, 1), |x|^2 = 5."""
    toy = make_toy_network()
    net = NeuralNetRegressor(
        toy.module, module__start=(1.0, 2.0), train_split=None, max_epochs=2
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(toy.X, toy.y)
    expected = 2.0 * toy.X[:, 0] / (5.0 * np.sqrt(5.0))
    np.testing.assert_allclose(model.sample_lipschitz_moduli_, [expected], rtol=1e-12)


def test_function_form(penalised):
    assert lipschitz_modulus(penalised) == penalised.lipschitz_modulus_
    for level in LEVELS:
        values = lipschitz_modulus(penalised, level=level)
        assert values is getattr(penalised, f"{level}_lipschitz_moduli_")


@pytest.mark.parametrize("bad", [{"level": "neuron"}, {"method": "guess"}])
def test_unknown_level_or_method(penalised, bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"'{name}' parameter .* Got '{value}'"):
        lipschitz_modulus(penalised, **bad)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="lipschitz_modulus must end in .* Got Ridge"):
        lipschitz_modulus(Ridge())
