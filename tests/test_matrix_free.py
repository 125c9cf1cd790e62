"""Matrix-free systems and estimators against their factorised forms."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from skorch import NeuralNetClassifier, NeuralNetRegressor

from sksetsens import (
    SolutionSet,
    SolutionSetEstimator,
    lipschitz_modulus,
)
from sksetsens.datasets import make_dead_feature, make_saddle
from sksetsens.exceptions import IllPosedWarning, SolverWarning
from sksetsens.moduli import modulus
from sksetsens.networks import DFCNN, DFCNNRegressor
from sksetsens.objective import Objective, initialised_net
from sksetsens.optimize import _levenberg_marquardt, _plan, polish
from sksetsens.optimize._trust_region import trust_region_newton
from sksetsens.sensitivity import Coderivative, GraphicalDerivative
from sksetsens.sensitivity.systems import (
    Point,
    Solver,
    _choice,
    _held_outputs,
    _matrix_free,
    _matrix_free_dual,
    check_size,
)
from sksetsens.sensitivity.systems._assembled_dual import AssembledDual
from sksetsens.sensitivity.systems._held_outputs import is_saturated
from sksetsens.sensitivity.systems._point import root_or_none

# Iterative solves end at relative residual 1e-8; the problems' condition is below 1e4.
CLOSE = {"rtol": 1e-4, "atol": 1e-7}


def regression(n, weight_decay, width=8, **params):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((n, 3)), rng.standard_normal(n)
    net = DFCNNRegressor(
        module__hidden_widths=(width,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=weight_decay,
        max_epochs=5,
    )
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0, **params)
    return model.fit(X, y)


@pytest.fixture(scope="module")
def penalised():
    return regression(30, 0.05)


@pytest.fixture(scope="module")
def interpolating():
    return regression(12, 0.0)


CASES = [
    ("penalised", "minres"),
    ("interpolating", "lsmr"),
    ("interpolating", "minres"),
]


def both(model, solver):
    """The factorised derivative at the first solution, and the matrix-free one."""
    gd = model.graphical_derivatives_[0]
    free = GraphicalDerivative(
        gd.objective, gd.weights, solver=solver, stationarity=gd.stationarity
    )
    assert free.solver_ == solver
    assert free.is_matrix_free
    assert not gd.is_matrix_free
    return gd, free


@pytest.mark.parametrize(("name", "solver"), CASES)
@pytest.mark.parametrize("single_from", [1, 10**6])
def test_shift_modulus_and_kernel(name, solver, single_from, request, monkeypatch):
    for module in (_matrix_free, _matrix_free_dual):
        monkeypatch.setattr(module, "SINGLE_FROM", single_from)
    gd, free = both(request.getfixturevalue(name), solver)
    rng = np.random.RandomState(1)
    dX = rng.standard_normal(gd.objective.input_shape)
    for dy in (None, rng.standard_normal(gd.objective.target_shape)):
        found, expected = free(dX, dy), gd(dX, dy)
        assert found.converged
        assert found.n_iter > 0
        assert found.residual <= 2e-8
        np.testing.assert_allclose(found.shift, expected.shift, **CLOSE)
    z = rng.standard_normal((2, gd.weights.size))
    np.testing.assert_allclose(free.kernel.project(z), gd.kernel.project(z), atol=1e-5)
    assert modulus(free).value == pytest.approx(modulus(gd).value, rel=1e-5)
    v = rng.standard_normal(gd.weights.size)
    np.testing.assert_allclose(free.H.matvec(v), gd.H.matvec(v), atol=1e-6)
    np.testing.assert_allclose(free.B.rmatvec(v), gd.B.rmatvec(v), atol=1e-6)
    at = gd.weights + 1e-3 * v
    if solver == "lsmr" or gd.solver_ == "eigh":  # the dual's step goes by outputs
        np.testing.assert_allclose(free.newton_step(at), gd.newton_step(at), atol=1e-5)
    p = gd.kernel.complement().project(v)
    found, expected = Coderivative(free)(p).value, Coderivative(gd)(p).value
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_assembled_dual(interpolating, monkeypatch):
    """Where the Jacobian does not fit, its products with itself do."""
    gd = interpolating.graphical_derivatives_[0]
    free = 8.0 * gd.objective.n_equations**2 * 4 + 1
    monkeypatch.setattr(_choice, "factorisation_budget", lambda: free)
    gd.objective.working_memory = 0.03  # blocks of a few rows
    blocks = GraphicalDerivative(gd.objective, gd.weights, solver="dual")
    gd.objective.working_memory = None
    assert isinstance(blocks._system, AssembledDual)
    dX = np.random.RandomState(1).standard_normal(gd.objective.input_shape)
    np.testing.assert_allclose(blocks(dX).shift, gd(dX).shift, **CLOSE)
    assert blocks.factor.rank == gd.factor.rank


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_what_the_estimator_answers(name, solver, request):
    model = request.getfixturevalue(name)
    free = clone(model).set_params(solver=solver).fit(model.X_train_, model.y_train_)
    moved = model.set_params(perturbation_size=1e-3).perturb()
    one, other = model.sensitivity(moved), free.sensitivity(moved)
    np.testing.assert_allclose(other.shift, one.shift, rtol=1e-3, atol=1e-7)
    assert (other.n_products > 0).all()
    assert other.solver_converged.all()
    corrected = free.sensitivity(moved, n_corrections=1)
    truth = free.retrain(moved)
    assert truth.converged.all()
    gaps = np.diagonal(corrected.piece_distances(truth))
    assert (gaps <= 1e-3 * corrected.shift_norm).all()
    points = free.solution_set_.sample(3, 0.1, random_state=0)
    assert (
        np.linalg.norm(points - free.solution_set_.weights[:, None], axis=-1)
        <= 0.1 + 1e-9
    ).all()
    directions = points[0] - free.solution_set_.weights[0]
    H = model.graphical_derivatives_[0].H
    assert np.abs(H @ directions.T).max() <= 1e-5
    if name == "penalised":
        assert free.solution_set_.trustworthy.all()
        assert free.lipschitz_modulus_ == pytest.approx(model.lipschitz_modulus_, 1e-5)
    with pytest.raises(ValueError, match="need a factorisation"):
        lipschitz_modulus(free, level="sample")


def test_classification_with_weight_decay():
    X, y = make_classification(
        60, 5, n_classes=3, n_informative=4, n_redundant=0, random_state=0
    )
    net = NeuralNetClassifier(
        DFCNN,
        module__n_features=5,
        module__n_outputs=3,
        module__hidden_widths=(6,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer__weight_decay=1e-2,
        train_split=None,
        max_epochs=5,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    for curvature in ("hessian", "ggn"):
        gd, free = (
            GraphicalDerivative(
                model.solution_set_.objectives[0],
                model.solution_set_.weights[0],
                solver=solver,
                curvature=curvature,
            )
            for solver in ("eigh", "minres")
        )
        dX = np.random.RandomState(0).standard_normal(X.shape)
        np.testing.assert_allclose(free(dX).shift, gd(dX).shift, **CLOSE)
        assert free.neglected_curvature == pytest.approx(gd.neglected_curvature, 0.1)


def test_a_perturbation_outside_the_range_is_empty():
    """A dead feature that comes alive: the same answer as from the factorised form."""
    data = make_dead_feature(random_state=0)
    net = plain_net(data)
    free = SolutionSetEstimator(net, n_restarts=1, solver="minres", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free.fit(data.X, data.y)
    moved = data.X + 1e-3 * np.random.RandomState(0).standard_normal(data.X.shape)
    with pytest.warns(IllPosedWarning, match="empty at 1 of 1"):
        predicted = free.sensitivity(moved)
    assert predicted.is_empty.all()
    assert np.isinf(predicted.shift_norm).all()
    assert np.isinf(free.lipschitz_modulus_)
    dead = ~np.any(data.X, axis=0)
    moved[:, dead] = 0.0
    assert not free.sensitivity(moved).is_empty.any()


def plain_net(data):
    return NeuralNetRegressor(data.module, train_split=None, lr=0.01, max_epochs=5)


def test_a_saddle_is_told():
    data = make_saddle()
    net = plain_net(data).set_params(lr=0.0)
    free = SolutionSetEstimator(net, n_restarts=1, solver="minres", random_state=0)
    gd = GraphicalDerivative(
        _objective_of(free, data), np.asarray(data.weights, float), solver="minres"
    )
    assert gd.factor.inertia[0] == 1


def _objective_of(model, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.X, data.y)
    return model.solution_set_.objectives[0]


def test_a_solve_that_ends_early_warns_and_is_marked(penalised):
    model = clone(penalised).set_params(solver="minres", solver_max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(penalised.X_train_, penalised.y_train_)
    moved = model.perturb()
    with pytest.warns(SolverWarning, match="2 of 2 predicted shifts.*solver_max_iter"):
        predicted = model.sensitivity(moved)
    assert not predicted.solver_converged.any()
    assert not predicted.trustworthy.any()
    assert np.isfinite(predicted.shift).all()


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_an_unsolved_modulus_is_not_certified(name, solver, request):
    given = request.getfixturevalue(name)
    model = clone(given).set_params(solver=solver, solver_max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(given.X_train_, given.y_train_)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.isinf(model.lipschitz_moduli_).all()
    told = [w for w in caught if issubclass(w.category, SolverWarning)]
    # A solution that is not trusted says why by itself.
    assert bool(told) == model.solution_set_.trustworthy.any()
    assert all("modulus is not certified" in str(w.message) for w in told)


def test_rows_on_a_flat_part_are_not_saturated():
    """An outlier of a robust loss has no curvature either, but a gradient."""
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal((20, 1))
    y[0] = 50.0
    net = NeuralNetRegressor(
        DFCNN,
        module__n_features=2,
        module__hidden_widths=(3,),
        module__train_output=True,
        criterion=torch.nn.SmoothL1Loss,
        verbose=0,
    )
    objective = Objective(initialised_net(net, {}, 0), X, y)
    assert not is_saturated(objective, objective.weights)


def test_working_memory_below_a_row_is_refused_before_training(penalised):
    model = clone(penalised).set_params(working_memory=1e-5)
    with pytest.raises(ValueError, match="'working_memory' .* at least .* MiB"):
        model.fit(penalised.X_train_, penalised.y_train_)


class TestPolishing:
    """Beyond dense sizes second-order steps go by products; here at a small size."""

    def start(self, model):
        objective = model.solution_set_.objectives[0]
        rng = np.random.RandomState(0)
        return objective, rng.standard_normal(objective.n_params)

    def test_newton_on_krylov_spaces(self, penalised, monkeypatch):
        monkeypatch.setattr("sksetsens.optimize._trust_region.MAX_DENSE", 0)
        monkeypatch.setattr(_plan, "MAX_DENSE", 0)
        objective, w = self.start(penalised)
        point = polish(objective, w, tol=1e-10)
        assert point.converged
        assert point.method == "lbfgs+newton"
        assert np.linalg.eigvalsh(objective.hessian(point.weights))[0] > 0.0

    def test_newton_leaves_a_saddle(self, monkeypatch):
        monkeypatch.setattr("sksetsens.optimize._trust_region.MAX_DENSE", 0)
        data = make_saddle()
        model = SolutionSetEstimator(plain_net(data).set_params(lr=0.0), n_restarts=1)
        objective = _objective_of(model, data)
        near = np.asarray(data.weights, float) + 1e-3
        w, _ = trust_region_newton(objective, near, 1e-10)
        assert objective.loss(w) < objective.loss(near)
        assert np.linalg.norm(objective.gradient(w)) <= 1e-6

    def test_levenberg_marquardt_by_products(self, interpolating, monkeypatch):
        monkeypatch.setattr(_levenberg_marquardt, "_JACOBIAN_SHARE", 0.0)
        objective, w = self.start(interpolating)
        point = polish(objective, w, tol=1e-10)
        assert point.converged
        assert point.method == "levenberg-marquardt"
        assert point.loss <= 1e-20


class TestSaturatedNets:
    """No finite minimiser, and yet a shift that holds the outputs."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        X, y = make_classification(
            40, 6, n_classes=3, n_informative=5, n_redundant=0, random_state=0
        )
        net = NeuralNetClassifier(
            DFCNN,
            module__n_features=6,
            module__n_outputs=3,
            module__hidden_widths=(40,),
            module__activation="tanh",
            module__bias=True,
            module__train_output=True,
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=0.05,
            train_split=None,
            max_epochs=300,
        )
        model = SolutionSetEstimator(
            net, n_restarts=1, polish=False, solver="dual", random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(X, y)

    def test_all_outputs_held(self, model, monkeypatch):
        """Nothing left free: the shortest v with ``J v = -D dx`` in centred outputs."""
        monkeypatch.setattr(_held_outputs, "_SATURATED", 1.0)
        monkeypatch.setattr(_held_outputs, "_FREE_BELOW", 0.0)
        gd = model.graphical_derivatives_[0]
        o, w = gd.objective, gd.weights
        held = GraphicalDerivative(o, w, solver="dual")
        assert held.has_full_row_rank
        centre = np.eye(3) - 1.0 / 3.0
        J = (centre @ o.jacobian(w)).reshape(120, -1)
        dX = 1e-3 * np.random.RandomState(0).standard_normal(o.input_shape)
        moved = np.einsum("icd,id->ic", centre @ o.input_jacobian(w), dX).ravel()
        expected = -np.linalg.pinv(J, rcond=1e-9) @ moved
        found = held(dX)
        np.testing.assert_allclose(found.shift, expected, rtol=1e-5, atol=1e-9)
        assert found.residual <= 1e-8

    def test_corrections_bring_the_outputs_back(self, model):
        gd = model.graphical_derivatives_[0]
        assert gd.solver_ == "dual"
        assert "saturated: the shift holds" in gd.note
        # What it answers is not what H says: that is told, not trusted.
        assert not model.solution_set_.trustworthy.any()
        assert "add weight decay" in model.solution_set_.status[0]
        X = model.X_train_
        moved = X.copy()
        moved[:3] += 0.1 * np.random.RandomState(0).standard_normal((3, 6))
        f = gd.objective.outputs(gd.weights)[:3]
        f = f - f.mean(axis=1, keepdims=True)
        missed = []
        for n_corrections in (0, 1, 2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                predicted = model.sensitivity(moved, n_corrections=n_corrections)
            at = predicted.objectives[0].outputs(predicted.weights[0])[:3]
            at = at - at.mean(axis=1, keepdims=True)
            missed.append(np.linalg.norm(at - f))
        assert missed[1] < 0.3 * missed[0]
        assert missed[2] < 0.3 * missed[1]
        assert "saturated" in predicted.status[0]
        assert predicted.nonlinearity[0] < 0.1

    def test_a_net_that_begins_saturated_is_not_refused(self, model):
        """A deep net as initialised: p - p^2 of every row is rounding of 1 - 1."""
        objective = model.graphical_derivatives_[0].objective.untilted()
        weights = 30.0 * objective.weights
        assert root_or_none(objective.output_hessian(weights)) is None
        check_size(Point(objective, weights, Solver("dual")))

    def test_what_it_does_not_answer(self, model):
        with pytest.raises(ValueError, match="'lsmr' for moduli of a saturated"):
            _ = model.graphical_derivatives_[0].solution_operator

    def test_matrix_free_form(self, model, monkeypatch):
        gd = model.graphical_derivatives_[0]
        monkeypatch.setattr(_held_outputs, "_SATURATED", 1.0)
        full = GraphicalDerivative(gd.objective, gd.weights, solver="dual")
        free = GraphicalDerivative(gd.objective, gd.weights, solver="lsmr")
        dX = 1e-3 * np.random.RandomState(0).standard_normal(gd.objective.input_shape)
        np.testing.assert_allclose(free(dX).shift, full(dX).shift, rtol=1e-3, atol=1e-8)


def test_storage_of_implicit_kernels(interpolating, tmp_path):
    """A kernel that is known by products is not in the file, and says so."""
    free = clone(interpolating).set_params(solver="lsmr")
    free.fit(interpolating.X_train_, interpolating.y_train_)
    free.solution_set_.save(tmp_path / "set")
    loaded = SolutionSet.load(tmp_path / "set", estimator=free)
    np.testing.assert_array_equal(loaded.weights, free.solution_set_.weights)
    np.testing.assert_array_equal(loaded.kernel_dims, free.solution_set_.kernel_dims)
    X = interpolating.X_train_
    np.testing.assert_array_equal(loaded.predict(X), free.solution_set_.predict(X))
    with pytest.raises(ValueError, match="known by products .* not in the file"):
        loaded.distance(loaded.weights)


def test_long_solves_show_a_bar(penalised, capsys):
    model = clone(penalised).set_params(solver="minres", verbose=0)
    model.fit(penalised.X_train_, penalised.y_train_)
    moved = model.perturb()
    model.sensitivity(moved)
    quiet = capsys.readouterr()
    assert quiet.out + quiet.err == ""
    model.set_params(verbose=1).sensitivity(moved)
    told = capsys.readouterr()
    assert told.out == ""
    assert "solve" in told.err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_the_setting(penalised, error, monkeypatch):
    def fail(*_, **__):
        raise error

    w = penalised.solution_set_.weights.copy()
    monkeypatch.setattr("sksetsens._estimator.predict_set", fail)
    with pytest.raises(MemoryError, match="during sensitivity. Lower 'working_memory'"):
        penalised.sensitivity(penalised.X_train_)
    np.testing.assert_array_equal(penalised.solution_set_.weights, w)


def test_other_errors_pass(penalised, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr("sksetsens._estimator.predict_set", fail)
    with pytest.raises(RuntimeError, match="something else"):
        penalised.sensitivity(penalised.X_train_)


@pytest.mark.parametrize("device", ["cuda:77", "nonsense"])
def test_a_device_that_does_not_exist(penalised, device):
    model = clone(penalised).set_params(estimator__device=device)
    with pytest.raises(ValueError, match="'device' parameter .*__device='cpu'"):
        model.fit(penalised.X_train_, penalised.y_train_)


def test_an_unknown_solver(penalised):
    gd = penalised.graphical_derivatives_[0]
    with pytest.raises(ValueError, match="'solver' parameter .* Got 'cg' instead"):
        GraphicalDerivative(gd.objective, gd.weights, solver="cg")


@pytest.mark.parametrize(("name", "solver"), [*CASES, ("penalised", "eigh")])
def test_pickling_after_use(name, solver, request):
    """Recorded graphs stay behind: what comes back records its own."""
    given = request.getfixturevalue(name)
    model = clone(given).set_params(solver=solver, perturbation_size=1e-3)
    model.fit(given.X_train_, given.y_train_)
    moved = model.perturb()
    expected = model.sensitivity(moved)
    again = pickle.loads(pickle.dumps(model))
    found = again.sensitivity(moved)
    np.testing.assert_allclose(found.shift, expected.shift, rtol=1e-6, atol=1e-10)
    z = np.random.RandomState(0).standard_normal(expected.weights.shape[1])
    one, other = (m.solution_set_.kernels[0].project(z) for m in (model, again))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_movements_that_are_read_backwards_are_movements(penalised):
    gd = penalised.graphical_derivatives_[0]
    dX = np.random.default_rng(0).standard_normal(gd.objective.input_shape)
    backwards = gd(dX[::-1]).shift
    np.testing.assert_array_equal(backwards, gd(dX[::-1].copy()).shift)
