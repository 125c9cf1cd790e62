"""Restarts: reproducible, isolated from the user's state, and tolerant of failures."""

import pickle
import random
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import make_fold
from sksetsens.exceptions import AllRestartsFailedError, IllPosedWarning
from sksetsens.networks import DFCNNClassifier, DFCNNRegressor
from sksetsens.objective import isolated
from sksetsens.training import draw_seeds

torch.set_num_threads(1)

_NET = {
    "module__hidden_widths": (4,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 1e-2,
    "max_epochs": 5,
}
_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((20, 3))
y = X[:, 0] + 0.1 * _RNG.standard_normal(20)
LABELS = np.array(["a", "b"])[(X[:, 0] > 0).astype(int)]


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    return SolutionSetEstimator(
        net,
        **{
            "n_restarts": 2,
            "perturbation_size": 1e-3,
            "random_state": 0,
            **params,
        },
    )


@pytest.fixture(scope="module")
def fitted():
    return _model().fit(X, y)


def _assert_same_bits(one, other):
    a, b = one.solution_set_, other.solution_set_
    for name in ("weights", *a.EVIDENCE):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for key in set(one.restart_report_) - {"duration"}:
        np.testing.assert_array_equal(
            one.restart_report_[key], other.restart_report_[key], err_msg=key
        )
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    moved = one.perturb()
    np.testing.assert_array_equal(moved, other.perturb())
    np.testing.assert_array_equal(
        one.sensitivity(moved).weights, other.sensitivity(moved).weights
    )


# --- Reproducible bits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "n_jobs"),
    [("sequential", 2), ("threading", 1), ("threading", 2), ("multiprocessing", 2)],
)
def test_bits_do_not_depend_on_backend_or_n_jobs(fitted, backend, n_jobs):
    with joblib.parallel_config(backend=backend):
        _assert_same_bits(fitted, _model(n_jobs=n_jobs).fit(X, y))


def test_bits_under_loky(fitted):
    # joblib's default backend.
    _assert_same_bits(fitted, _model(n_jobs=2).fit(X, y))


def test_cold_retraining_does_not_depend_on_n_jobs(fitted):
    moved = fitted.perturb()
    parallel = clone(fitted).set_params(n_jobs=2)
    with joblib.parallel_config(backend="threading"):
        parallel.fit(X, y)
        cold = parallel.retrain(moved, warm_start=False)
    alone = fitted.retrain(moved, warm_start=False)
    np.testing.assert_array_equal(cold.weights, alone.weights)


def test_same_random_state_gives_same_bits(fitted):
    again = _model().fit(X, y)
    _assert_same_bits(fitted, again)
    _assert_same_bits(fitted, again.fit(X, y))


def test_bits_do_not_depend_on_global_state(fitted):
    with isolated(seed=123):
        _assert_same_bits(fitted, _model().fit(X, y))


def test_bits_do_not_depend_on_torch_threads(fitted):
    torch.set_num_threads(2)
    try:
        model = _model().fit(X, y)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(
        model.solution_set_.weights, fitted.solution_set_.weights
    )


def _at_offset(array, offset):
    """A copy that begins ``offset`` bytes after a multiple of 64."""
    buffer = np.empty(array.nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    copy = buffer[start : start + array.nbytes].view(array.dtype)
    copy[:] = array.ravel()
    return copy.reshape(array.shape)


def test_bits_do_not_depend_on_alignment():
    """BLAS sums in another order for arrays that begin elsewhere in a cache line."""
    net = DFCNNRegressor(
        module__hidden_widths=(), module__train_output=True, max_epochs=3
    )
    data = np.random.RandomState(0).standard_normal((5, 9))
    weights = {
        _model(net).fit(_at_offset(data, offset), y[:5]).solution_set_.weights.tobytes()
        for offset in (0, 8, 16)
    }
    assert len(weights) == 1


def test_first_restarts_do_not_depend_on_their_number(fitted):
    fewer = _model(n_restarts=1).fit(X, y)
    np.testing.assert_array_equal(
        fewer.solution_set_.weights, fitted.solution_set_.weights[:1]
    )


def test_every_restart_starts_elsewhere(fitted):
    assert len(set(fitted.restart_report_["seed"])) == 2
    # After one epoch, before any minimum could have attracted two of them.
    net = DFCNNRegressor(**{**_NET, "max_epochs": 1})
    model = _model(net, polish=False, n_restarts=4)
    with pytest.warns(IllPosedWarning, match="no minimum"):
        w = model.fit(X, y).solution_set_.weights
    gaps = np.linalg.norm(w[:, None] - w[None], axis=-1)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.1


def test_random_state_none_takes_fresh_entropy():
    net = DFCNNRegressor(**{**_NET, "max_epochs": 1})
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    one, other = (
        _model(net, random_state=None, n_restarts=1).fit(X, y) for _ in range(2)
    )
    assert one.restart_report_["seed"][0] != other.restart_report_["seed"][0]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_random_state_instance_is_advanced():
    def seeds(random_state):
        return draw_seeds(random_state, 3)

    assert seeds(np.random.RandomState(3)) == seeds(np.random.RandomState(3))
    shared = np.random.RandomState(3)
    first, second = seeds(shared), seeds(shared)
    assert set(first).isdisjoint(second)
    assert seeds(0) == seeds(0) != seeds(1)
    assert seeds(0) == draw_seeds(0, 5)[:3]


# --- The user's state ----------------------------------------------------------------


def _global_state():
    keys = np.random.get_state()
    return (
        random.getstate(),
        (keys[0], keys[1].tolist(), *keys[2:]),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
    )


@pytest.fixture
def _two_torch_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_two_torch_threads")
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda m: clone(m).fit(X, y), id="fit"),
        pytest.param(
            lambda m: clone(m).set_params(random_state=None).fit(X, y),
            id="fit-unseeded",
        ),
        pytest.param(lambda m: m.predict(X), id="predict"),
        pytest.param(lambda m: m.score(X, y), id="score"),
        pytest.param(lambda m: m.perturb(), id="perturb"),
        pytest.param(
            lambda m: clone(m).set_params(perturbation="random").fit(X, y).perturb(),
            id="perturb-random",
        ),
        pytest.param(lambda m: m.sensitivity(m.perturb()), id="sensitivity"),
        pytest.param(
            lambda m: m.sensitivity(m.perturb(), n_corrections=1), id="corrections"
        ),
        pytest.param(lambda m: m.retrain(m.perturb()), id="retrain"),
        pytest.param(lambda m: m.retrain(X, warm_start=False), id="retrain-cold"),
        pytest.param(lambda m: m.lipschitz_modulus_, id="lipschitz_modulus_"),
        pytest.param(lambda m: m.solution_set_.sample(2, 0.1, 0), id="sample"),
        pytest.param(lambda m: m.solution_set_.predict(X), id="set-predict"),
    ],
)
def test_global_state_is_left_alone(fitted, use):
    before = _global_state()
    use(fitted)
    assert _global_state() == before


def test_global_state_is_left_alone_in_threads():
    before = _global_state()
    with joblib.parallel_config(backend="threading", n_jobs=2):
        _model().fit(X, y)
    assert _global_state() == before


def test_global_state_is_left_alone_by_a_classifier():
    net = DFCNNClassifier(**_NET)
    model = _model(net, n_restarts=1).fit(X, LABELS)
    before = _global_state()
    model.predict_proba(X)
    model.predict(X)
    clone(model).fit(X, LABELS)
    assert _global_state() == before


def _own_params(net):
    """Parameters but skorch's default callbacks, which it builds at every look."""
    params = net.get_params()
    return {k: v for k, v in params.items() if not k.startswith("callbacks__")}


def test_the_users_net_is_not_touched():
    net = DFCNNRegressor(**_NET)
    before = _own_params(net)
    attributes = set(vars(net))
    model = _model(net, n_restarts=1).fit(X, y)
    assert model.estimator is net
    assert _own_params(net) == before
    assert set(vars(net)) == attributes
    assert not net.initialized_
    assert not hasattr(net, "module_")


def test_a_fitted_net_is_not_touched_and_not_continued(fitted):
    net = DFCNNRegressor(**_NET, warm_start=True).fit(X, y)
    weights = [p.detach().clone() for p in net.module_.parameters()]
    model = _model(net).fit(X, y)
    for before, after in zip(weights, net.module_.parameters(), strict=True):
        assert torch.equal(before, after)
    # A warm start would begin every restart at the same weights.
    np.testing.assert_array_equal(
        model.solution_set_.weights, fitted.solution_set_.weights
    )


def test_fitted_nets_hold_the_solutions(fitted):
    assert len(fitted.estimators_) == 2
    for net, w in zip(fitted.estimators_, fitted.solution_set_.weights, strict=True):
        flat = np.concatenate([p.detach().ravel() for p in net.module_.parameters()])
        np.testing.assert_array_equal(flat, w.astype(np.float32))
        assert len(net.history) == 5
    mean = np.mean([net.predict(X).ravel() for net in fitted.estimators_], axis=0)
    # The nets predict in float32.
    np.testing.assert_allclose(mean, fitted.predict(X), rtol=1e-4, atol=1e-5)


def test_refit_forgets_the_last_fit(fitted):
    model = _model().fit(X[:15], y[:15])
    first = model.lipschitz_modulus_
    model.fit(X, y)
    assert model.lipschitz_modulus_ == fitted.lipschitz_modulus_ != first


# --- Failures ------------------------------------------------------------------------


class _Fated(nn.Module):
    """Linear module that draws at construction whether its training will fail."""

    share = 0.5

    def __init__(self, n_features=1, n_outputs=1):
        super().__init__()
        self.register_buffer("fate", torch.rand(()))
        self.linear = nn.Linear(n_features, n_outputs)

    def fails(self):
        return bool(self.fate < self.share)


class Raising(_Fated):
    def forward(self, X):
        if self.fails() and torch.is_grad_enabled() and self.training:
            raise OSError("the disk of worker 3 is full")
        return self.linear(X)


class AlwaysRaising(Raising):
    share = 2.0


class NeverFailing(Raising):
    share = -1.0


class Exploding(_Fated):
    """One step of SGD overflows float32; float64 still holds the loss before."""

    def forward(self, X):
        return self.linear(X) * (1e30 if self.fails() else 1.0)


class AlwaysExploding(Exploding):
    share = 2.0


def _net_of(module):
    return NeuralNetRegressor(
        module,
        optimizer__weight_decay=1e-2,
        max_epochs=2,
        train_split=None,
        verbose=0,
    )


def _fate(seed, share=0.5):
    with isolated(int(seed)):
        return bool(torch.rand(()) < share)


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        (Raising, "OSError: the disk of worker 3 is full"),
        (Exploding, "FloatingPointError: training diverged: the weights are NaN"),
    ],
)
def test_failed_restarts_are_left_out(module, cause):
    model = _model(_net_of(module), n_restarts=8)
    fates = np.array([_fate(seed) for seed in draw_seeds(0, 8)])
    n_failed = fates.sum()
    assert 0 < n_failed < 8
    with pytest.warns(FitFailedWarning, match=f"{n_failed} of 8 restarts failed") as w:
        model.fit(X, y)
    (warned,) = [r for r in w if issubclass(r.category, FitFailedWarning)]
    assert f"- {n_failed} x {cause}" in str(warned.message)
    assert warned.filename == __file__

    report = model.restart_report_
    assert {len(column) for column in report.values()} == {8}
    failed = np.char.startswith(report["status"], f"failed: {cause}")
    np.testing.assert_array_equal(failed, fates)
    np.testing.assert_array_equal(np.isnan(report["loss"]), fates)
    np.testing.assert_array_equal(report["error"] != "", fates)
    assert all("Traceback" in error for error in report["error"][fates])
    assert not report["converged"][fates].any()
    assert report["converged"][~fates].all()

    assert len(model.solution_set_) == len(model.estimators_) == 8 - n_failed
    np.testing.assert_array_equal(model.solution_set_.losses, report["loss"][~fates])
    assert np.isfinite(model.predict(X)).all()
    assert len(model.sensitivity(model.perturb())) == 8 - n_failed
    assert len(model.retrain(model.perturb())) == 8 - n_failed


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_failures_do_not_change_the_other_restarts():
    healthy = _model(_net_of(NeverFailing), n_restarts=8).fit(X, y)
    fates = np.array([_fate(seed) for seed in draw_seeds(0, 8)])
    some = _model(_net_of(Raising), n_restarts=8)
    np.testing.assert_array_equal(
        some.fit(X, y).solution_set_.weights, healthy.solution_set_.weights[~fates]
    )


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        (
            AlwaysRaising,
            r"All 2 restarts failed.*OSError: the disk of worker 3 is full",
        ),
        (AlwaysExploding, r"All 2 restarts failed.*lower the learning rate"),
    ],
)
def test_all_failed(module, cause):
    before = _global_state()
    model = _model(_net_of(module))
    with pytest.raises(AllRestartsFailedError, match=f"(?s){cause}") as raised:
        model.fit(X, y)
    assert _global_state() == before
    assert not hasattr(model, "solution_set_")
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert list(error.restart_report["method"]) == [""] * 2


def test_too_large_learning_rate_names_the_remedy():
    model = _model(DFCNNRegressor(**_NET, lr=1e30))
    with pytest.raises(AllRestartsFailedError, match=r"estimator__lr"):
        model.fit(X, y)


def test_finite_divergence_is_a_failure():
    net = _net_of(NeverFailing).set_params(lr=1e5)
    with pytest.raises(AllRestartsFailedError, match=r"the loss went from .* to"):
        _model(net).fit(X, y)


def test_the_first_sentence_names_the_first_cause():
    with pytest.raises(AllRestartsFailedError, match="Traceback") as caught:
        _model(_net_of(AlwaysRaising)).fit(X, y)
    first = str(caught.value).splitlines()[0]
    assert first == (
        "All 2 restarts failed, the first one with OSError: the disk of worker 3 is "
        "full"
    )


class AtTheSolution(nn.Module):
    """Linear module that starts at f = x0 but for 1e-4."""

    def __init__(self, n_features=3, n_outputs=1):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([[1.0001], [0.0], [0.0]]))

    def forward(self, X):
        return X @ self.weights


def test_leaving_a_perfect_start_is_no_divergence():
    """Adam's first steps have the length lr, however small the gradient."""
    net = NeuralNetRegressor(
        AtTheSolution,
        optimizer=torch.optim.Adam,
        lr=0.03,
        max_epochs=1,
        train_split=None,
        verbose=0,
    )
    model = _model(net, polish=False).fit(X, X[:, 0])
    assert (model.solution_set_.losses > 1e3 * 1e-8 * X[:, 0].var()).all()
    polished = _model(net).fit(X, X[:, 0]).solution_set_.weights
    np.testing.assert_allclose(polished, [[1.0, 0.0, 0.0]] * 2, atol=1e-8)


def test_the_report_holds_the_gradient_before_tilting():
    model = _model(polish=False).fit(X, y)
    report = model.restart_report_
    untilted = [
        np.linalg.norm(o.untilted().gradient(w))
        for o, w in zip(
            model.solution_set_.objectives, model.solution_set_.weights, strict=True
        )
    ]
    assert min(untilted) > 1e-3
    np.testing.assert_allclose(report["untilted_gradient_norm"], untilted, rtol=1e-9)
    assert not report["gradient_norm"].any()
    assert report["converged"].all()


def test_the_report_of_polished_weights_has_one_gradient(fitted):
    report = fitted.restart_report_
    np.testing.assert_array_equal(
        report["untilted_gradient_norm"], report["gradient_norm"]
    )


# --- Module classes of __main__ ------------------------------------------------------

_OF_MAIN = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self, n_features=1, n_outputs=1):
            super().__init__()
            self.linear = torch.nn.Linear(n_features, n_outputs)

        def forward(self, X):
            return self.linear(X)
"""


def test_module_class_of_main_works_in_processes(monkeypatch):
    """As in a notebook: workers have another __main__, without the class."""
    names = {"__name__": "__main__"}
    exec(textwrap.dedent(_OF_MAIN), names)
    monkeypatch.setattr(sys.modules["__main__"], "Net", names["Net"], raising=False)
    assert names["Net"].__module__ == "__main__"
    line = np.linspace(0.0, 1.0, 6)[:, None]
    net = NeuralNetRegressor(names["Net"], max_epochs=2, train_split=None, verbose=0)
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    alone = model.fit(line, 2.0 * line[:, 0]).solution_set_.weights
    with joblib.parallel_config(backend="loky", n_jobs=2):
        parallel = model.fit(line, 2.0 * line[:, 0]).solution_set_.weights
    np.testing.assert_array_equal(alone, parallel)
    np.testing.assert_allclose(alone, [[2.0, 0.0]] * 2, atol=1e-6)


# --- Beyond a fold -------------------------------------------------------------------


def test_retraining_that_leaves_the_branch_says_so():
    """Past the fold no minimiser is near: Newton ends at the other one, above 1."""
    fold = make_fold(random_state=0)
    net = NeuralNetRegressor(
        fold.module, module__start=fold.weights.item(), train_split=None, max_epochs=1
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(fold.X, fold.y)
    near = model.retrain(fold.X + 0.5 * fold.fold_fraction * fold.dX)
    assert "branch" not in near.status[0]
    beyond = model.retrain(fold.X + 1.1 * fold.fold_fraction * fold.dX)
    assert beyond.weights[0, 0] > 1.0
    assert "perhaps of another branch" in beyond.status[0]
