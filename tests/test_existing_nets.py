"""Nets that people have: trained elsewhere, with dropout, AdamW, held-out rows."""

import copy
import pickle
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from likelihoods import CoxLoss, GaussianNet, Heads
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping, Freezer, LRScheduler
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import nn

from sksetsens import SolutionSetEstimator, sample_influence
from sksetsens.exceptions import (
    FittedNetWarning,
    ObjectiveMismatchWarning,
    StochasticObjectiveError,
    UnsupportedObjectiveError,
)
from sksetsens.objective import Operators
from sksetsens.objective._module_copy import copied

X, y = load_diabetes(return_X_y=True)
X, y = scale(X)[:80, :4].astype(np.float32), scale(y)[:80].astype(np.float32)
X_iris, y_iris = load_iris(return_X_y=True)
X_iris, y_iris = scale(X_iris).astype(np.float32), y_iris.astype(np.int64)


class Mlp(nn.Module):
    def __init__(self, n_in=4, n_out=1, width=4, p=0.0):
        super().__init__()
        self.hidden, self.drop = nn.Linear(n_in, width), nn.Dropout(p)
        self.output = nn.Linear(width, n_out)

    def forward(self, X):
        return self.output(self.drop(torch.tanh(self.hidden(X))))


def regressor(**params):
    settings = {
        "optimizer": torch.optim.Adam,
        "optimizer__weight_decay": 0.05,
        "lr": 0.02,
        "max_epochs": 60,
        "train_split": None,
        "verbose": 0,
    }
    return NeuralNetRegressor(Mlp, **{**settings, **params})


def trained(n=1, net=None, X=X, y=y):
    nets = []
    for seed in range(n):
        torch.manual_seed(seed)
        target = y[:, None] if y.dtype == np.float32 else y
        nets.append(clone(net or regressor()).fit(X, target))
    return nets


def flat(net):
    return torch.cat([p.detach().ravel() for p in net.module_.parameters()]).numpy()


# Trained nets -------------------------------------------------------------------------


def test_weights_of_trained_nets_are_kept_to_the_bit():
    nets = trained(8)
    before = [copy.deepcopy(net.module_.state_dict()) for net in nets]
    state = torch.get_rng_state()
    model = SolutionSetEstimator.from_fitted(nets, X, y, random_state=0)
    assert torch.equal(state, torch.get_rng_state())
    expected = np.stack([flat(net) for net in nets])
    np.testing.assert_array_equal(model.solution_set_.weights, expected)
    for net, old, rebuilt in zip(nets, before, model.estimators_, strict=True):
        for name, tensor in net.module_.state_dict().items():
            assert torch.equal(tensor, old[name])
            assert torch.equal(tensor, rebuilt.module_.state_dict()[name])
    assert (model.restart_report_["untilted_gradient_norm"] > 0.0).all()
    assert all("gradient norm" in s for s in model.restart_report_["status"])


def test_tilted_answers_are_those_of_a_dense_newton_step():
    (net,) = trained()
    model = SolutionSetEstimator.from_fitted(net, X, y)
    gd = model.graphical_derivatives_[0]
    H = gd.objective.hessian(gd.weights)
    dX = np.zeros_like(X, dtype=float)
    dX[3, 1] = 1e-3
    found = model.sensitivity(X.astype(float) + dX).shift[0]
    there, back = (gd.objective.with_data(X + t * dX) for t in (0.1, -0.1))
    dR = 5.0 * (there.gradient(gd.weights) - back.gradient(gd.weights))
    gap = np.linalg.norm(found + np.linalg.solve(H, dR))
    assert gap < 1e-6 * np.linalg.norm(found)
    retrained = model.retrain(X.astype(float) + dX)
    gap = np.linalg.norm(retrained.weights[0] - gd.weights - found)
    assert gap < 1e-2 * np.linalg.norm(found)


def test_polishing_continues_from_the_nets():
    nets = trained(2)
    model = SolutionSetEstimator.from_fitted(nets, X, y, polish=True)
    assert model.solution_set_.converged.all()
    near = np.linalg.norm(model.solution_set_.weights[0] - flat(nets[0]))
    assert near < np.linalg.norm(flat(nets[0]) - flat(nets[1]))


def test_a_set_of_trained_nets_is_an_estimator_like_any_other():
    nets = trained(2, regressor(max_epochs=300))
    model = SolutionSetEstimator.from_fitted(nets, X, y, random_state=0)
    again = pickle.loads(pickle.dumps(model))
    P = again.perturb()
    np.testing.assert_array_equal(
        model.sensitivity(P).weights, again.sensitivity(P).weights
    )
    mean = np.mean([net.predict(X).ravel() for net in nets], axis=0)
    np.testing.assert_allclose(model.predict(X), mean, rtol=1e-4, atol=1e-5)
    assert np.isfinite(model.lipschitz_modulus_)
    assert sample_influence(model, samples=[0, 1]).values.shape == (2, 2)
    assert clone(model).get_params()["n_restarts"] == 2
    assert model.score(X, y) == pytest.approx(again.score(X, y))


@pytest.mark.parametrize("polish", [False, True])
def test_module_instances_do_where_nothing_is_trained(polish):
    net = NeuralNetRegressor(Mlp(), train_split=None, max_epochs=3, verbose=0)
    net.fit(X, y[:, None])
    model = SolutionSetEstimator.from_fitted(net, X, y, polish=polish)
    assert len(model.estimators_) == 1
    with pytest.raises(UnsupportedObjectiveError, match="module class"):
        clone(model).fit(X, y)


def test_class_numbers_are_those_of_the_training():
    net = NeuralNetClassifier(
        Mlp, module__n_out=5, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0
    )
    two = np.where(y_iris == 0, 1, 4)  # Only two of the five classes are there.
    net.fit(X_iris, two)
    model = SolutionSetEstimator.from_fitted(net, X_iris, two)
    np.testing.assert_array_equal(model.classes_, np.arange(5))
    np.testing.assert_array_equal(model.targets_, two)
    np.testing.assert_array_equal(model.predict(X_iris), net.predict(X_iris))
    assert model.predict_proba(X_iris).shape == (len(X_iris), 5)
    with pytest.raises(ValueError, match="class numbers that the nets were trained on"):
        SolutionSetEstimator.from_fitted(net, X_iris, two.astype(str))


def test_pipelines_that_end_in_a_net():
    pipe = make_pipeline(StandardScaler(), regressor(max_epochs=5))
    raw = 3.0 + 2.0 * X
    pipe.fit(raw, y[:, None])
    model = SolutionSetEstimator.from_fitted(pipe, raw, y)
    np.testing.assert_allclose(model.X_train_, pipe[:-1].transform(raw))
    np.testing.assert_allclose(
        model.predict(pipe[:-1].transform(raw)),
        pipe.predict(raw).ravel(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_is_no_set_of_trained_nets():
    (net,) = trained()
    make = SolutionSetEstimator.from_fitted
    with pytest.raises(NotFittedError, match="'nets'.*not initialised"):
        make([net, regressor()], X, y)
    with pytest.raises(ValueError, match="'nets' .*skorch nets. Got Mlp"):
        make(Mlp(), X, y)
    with pytest.raises(ValueError, match="'nets'.*Got none"):
        make([], X, y)
    wide = trained(1, regressor(module__width=5))
    with pytest.raises(ValueError, match="Number 1 differs from the first in its wei"):
        make([net, *wide], X, y)
    other = trained(1, regressor(optimizer__weight_decay=0.2))
    with pytest.raises(ValueError, match="differs from the first in its weight_decay"):
        make([net, *other], X, y)
    with pytest.raises(ValueError, match=r"cannot evaluate rows of shape \(3,\)"):
        make(net, X[:, :3], y)
    with pytest.raises(ValueError, match="'n_restarts' parameter of from_fitted"):
        make(net, X, y, n_restarts=3)


def test_fit_names_from_fitted():
    (net,) = trained()
    with pytest.warns(FittedNetWarning, match="from_fitted"):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


# Dropout and decoupled decay ----------------------------------------------------------


@pytest.mark.parametrize("polish", [False, True])
def test_dropout_is_trained_with_and_off_in_the_objective(polish):
    net = regressor(module__p=0.3, max_epochs=10)
    model = SolutionSetEstimator(net, n_restarts=1, polish=polish, random_state=0)
    with pytest.warns(ObjectiveMismatchWarning, match=r"drop \(Dropout, p=0.3\)"):
        model.fit(X, y)
    assert "not what was trained" in model.solution_set_.status[0]
    # The analysed net is the same one without dropout.
    fitted = model.estimators_[0]
    twin = clone(fitted).set_params(module__p=0.0).initialize()
    twin.module_.load_state_dict(fitted.module_.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = SolutionSetEstimator.from_fitted(twin, X, y)
    one, other = (m.graphical_derivatives_[0] for m in (model, plain))
    w = one.weights
    np.testing.assert_allclose(
        one.objective.untilted().gradient(w),
        other.objective.untilted().gradient(w),
        atol=1e-12,
    )
    if polish:
        assert model.solution_set_.converged.all()


def test_decoupled_decay_is_its_quadratic_penalty():
    net = regressor(optimizer=torch.optim.AdamW)
    with pytest.warns(ObjectiveMismatchWarning, match=r"AdamW.*penalty 0.025 \|w\|"):
        one = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    assert one.solution_set_.trustworthy.all()
    R = one.graphical_derivatives_[0].objective.gradient(one.solution_set_.weights[0])
    assert np.linalg.norm(R) < 1e-9
    assert one.graphical_derivatives_[0].objective.decays_everywhere


# Held-out rows ------------------------------------------------------------------------


FOLDS = np.where(np.arange(len(X)) % 4 == 1, 0, -1)
SPLITS = {
    "seeded": lambda: ValidSplit(0.25, random_state=1),
    "folds": lambda: ValidSplit(4),
    "predefined": lambda: ValidSplit(PredefinedSplit(FOLDS)),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_rows_held_out_take_no_part(split):
    net = regressor(train_split=split(), callbacks=[EarlyStopping(patience=3)])
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0).fit(X, y)
    rows = model.train_rows_
    assert 0 < len(rows) < len(X)
    np.testing.assert_array_equal(model.X_train_, X)
    held_out = np.setdiff1d(np.arange(len(X)), rows)
    assert (model.sample_weight_[held_out] == 0.0).all()
    # The same nets by skorch itself, on the same rows.
    w = model.solution_set_.weights
    alone = SolutionSetEstimator(regressor(), n_restarts=1).fit(X[rows], y[rows])
    gd = alone.graphical_derivatives_[0].objective
    assert max(np.linalg.norm(gd.gradient(v)) for v in w) < 1e-8
    moduli = model.sample_lipschitz_moduli_
    np.testing.assert_array_equal(moduli[:, held_out], 0.0)
    assert (moduli[:, rows] > 0.0).all()
    moved = X.astype(float)
    moved[held_out] += 1.0
    assert np.allclose(model.sensitivity(moved).shift, 0.0)
    # New weights do not bring them back.
    P = model.sensitivity(sample_weight=np.ones(len(X)))
    assert np.allclose(P.shift, 0.0)
    # From elsewhere they stop the training elsewhere, and take no part all the same.
    cold = model.retrain(moved, warm_start=False)
    assert max(np.linalg.norm(gd.gradient(v)) for v in cold.weights) < 1e-8


def test_early_stopping_stops_as_in_skorch(tmp_path):
    net = regressor(
        train_split=ValidSplit(0.25, random_state=1),
        callbacks=[
            EarlyStopping(patience=2),
            Checkpoint(monitor="valid_loss_best", dirname=str(tmp_path)),
        ],
        max_epochs=200,
        lr=0.1,
    )
    model = SolutionSetEstimator(net, n_restarts=1, polish=False, random_state=0)
    model.fit(X, y)
    history = model.estimators_[0].history
    assert len(history) < 200
    assert "valid_loss" in history[-1]


def test_plateaus_of_the_validation_loss_schedule_the_rate():
    policy = LRScheduler(policy="ReduceLROnPlateau", monitor="valid_loss", patience=1)
    net = regressor(callbacks=[policy], train_split=ValidSplit(5))
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    assert len(model.train_rows_) == 64


def test_weights_of_rows_and_held_out_rows_together():
    weights = 1.0 + np.arange(len(X)) % 3
    net = regressor(train_split=ValidSplit(4), batch_size=16)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    model.fit(X, y, sample_weight=weights)
    rows = model.train_rows_
    np.testing.assert_array_equal(model.sample_weight_[rows], weights[rows])
    alone = SolutionSetEstimator(regressor(batch_size=16), n_restarts=1)
    alone.fit(X[rows], y[rows], sample_weight=weights[rows])
    objective = alone.graphical_derivatives_[0].objective
    R = objective.gradient(model.solution_set_.weights[0])
    assert np.linalg.norm(R) < 1e-8


def test_validation_on_other_data_leaves_all_rows():
    split = predefined_split(Dataset(X[:10], y[:10, None]))
    net = regressor(train_split=split, callbacks=[EarlyStopping()])
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.train_rows_, np.arange(len(X)))


def test_splits_that_change():
    net = regressor(train_split=ValidSplit(0.2))
    with pytest.raises(ValueError, match=r"'train_split'.*give it a random_state"):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


def test_a_trained_net_keeps_its_default_split():
    net = NeuralNetRegressor(Mlp, max_epochs=3, verbose=0).fit(X, y[:, None])
    model = SolutionSetEstimator.from_fitted(net, X, y)
    assert len(model.train_rows_) == 64


# Losses of one's own ------------------------------------------------------------------


def gaussian(w, X, y):
    """Negative log-likelihood and penalty, in plain torch."""
    V, b, m, m0, s, s0 = torch.split(w, [12, 3, 3, 1, 3, 1])
    h = torch.tanh(X @ V.reshape(3, 4).T + b)
    mean, log_var = h @ m + m0, h @ s + s0
    data_term = 0.5 * (log_var + (mean - y) ** 2 / log_var.exp()).mean()
    return data_term + 0.025 * (w**2).sum()


def cox(w, X, y):
    """Cox's partial likelihood with each risk set summed by itself."""
    V, b, out, out0 = torch.split(w, [16, 4, 4, 1])
    risk = torch.tanh(X @ V.reshape(4, 4).T + b) @ out + out0
    time, event = y[:, 0], y[:, 1]
    at_risk = (time[None, :] >= time[:, None]).to(risk.dtype)
    loss = ((at_risk @ risk.exp()).log() - risk) * event
    return loss.sum() / event.sum() + 0.025 * (w**2).sum()


# No two times alike: the two likelihoods would take ties otherwise.
TIMES = np.exp(y) + 1e-3 * np.arange(len(y))
SURVIVAL = np.stack([TIMES, y > -0.5], axis=1).astype(np.float32)
LIKELIHOODS = {
    "two heads": (
        lambda: GaussianNet(
            Heads, criterion=nn.GaussianNLLLoss, train_split=None, verbose=0
        ),
        gaussian,
        y,
    ),
    "Cox": (
        lambda: regressor(criterion=CoxLoss, batch_size=-1),
        cox,
        SURVIVAL,
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_against_a_dense_newton_step(name):
    make, loss, targets = LIKELIHOODS[name]
    net = make().set_params(optimizer=torch.optim.Adam, lr=0.02, max_epochs=60)
    net.set_params(optimizer__weight_decay=0.05)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, targets)
    assert model.solution_set_.trustworthy.all()
    w = torch.as_tensor(model.solution_set_.weights[0]).requires_grad_()
    X64 = torch.as_tensor(X, dtype=torch.float64).requires_grad_()
    y64 = torch.as_tensor(targets, dtype=torch.float64)
    (R,) = torch.autograd.grad(loss(w, X64, y64), w, create_graph=True)
    assert R.detach().norm() < 1e-9
    H = torch.stack([torch.autograd.grad(r, w, retain_graph=True)[0] for r in R])
    dX = 1e-3 * np.random.default_rng(0).standard_normal(X.shape)
    B = torch.stack([torch.autograd.grad(r, X64, retain_graph=True)[0] for r in R])
    dR = (B * torch.as_tensor(dX)).sum(dim=(1, 2))
    expected = -torch.linalg.solve(H, dR).numpy()
    found = model.sensitivity(X.astype(float) + dX).shift[0]
    gap = np.linalg.norm(found - expected)
    assert gap < 1e-8 * np.linalg.norm(expected)


def test_huber_is_smooth_l1_times_its_corner():
    """Documentation of ``torch.nn.HuberLoss``."""
    delta = 0.6
    huber, smooth = (
        SolutionSetEstimator(
            regressor(optimizer__weight_decay=decay, criterion=criterion, **options),
            n_restarts=1,
            random_state=0,
        ).fit(X, y)
        for criterion, options, decay in (
            (nn.HuberLoss, {"criterion__delta": delta}, 0.05),
            (nn.SmoothL1Loss, {"criterion__beta": delta}, 0.05 / delta),
        )
    )
    one, other = (m.graphical_derivatives_[0] for m in (huber, smooth))
    w = one.weights
    np.testing.assert_allclose(
        one.objective.gradient(w), delta * other.objective.gradient(w), atol=1e-12
    )
    np.testing.assert_allclose(
        one.objective.hessian(w), delta * other.objective.hessian(w), atol=1e-12
    )


# Several inputs, and codes ------------------------------------------------------------


class Tabular(nn.Module):
    def __init__(self):
        super().__init__()
        self.kinds = nn.Embedding(3, 2)
        self.hidden, self.out = nn.Linear(6, 3), nn.Linear(3, 1)

    def forward(self, numbers, kinds):
        h = torch.cat([numbers, self.kinds(kinds)], dim=1)
        return self.out(torch.tanh(self.hidden(h)))


class OneHot(nn.Module):
    """The same net on one array, categories one-hot."""

    def __init__(self):
        super().__init__()
        self.kinds = nn.Parameter(torch.zeros(3, 2))
        self.hidden, self.out = nn.Linear(6, 3), nn.Linear(3, 1)

    def forward(self, X):
        h = torch.cat([X[:, :4], X[:, 4:] @ self.kinds], dim=1)
        return self.out(torch.tanh(self.hidden(h)))


KINDS = np.random.default_rng(0).integers(0, 3, len(X))
TABLE = {"numbers": X, "kinds": KINDS}
ONE_HOT = np.concatenate([X, np.eye(3, dtype=np.float32)[KINDS]], axis=1)


def tabular(module=Tabular, **options):
    options = {"lr": 0.02, "optimizer__weight_decay": 0.05, "max_epochs": 60, **options}
    return NeuralNetRegressor(
        module, optimizer=torch.optim.Adam, train_split=None, verbose=0, **options
    )


@pytest.fixture(scope="module")
def table():
    return SolutionSetEstimator(tabular(), n_restarts=2, random_state=0).fit(TABLE, y)


def test_a_dict_of_arrays_is_the_same_net_on_one_array(table):
    w = table.solution_set_.weights[0]
    plain = tabular(OneHot).initialize()
    torch.nn.utils.vector_to_parameters(
        torch.as_tensor(w, dtype=torch.float32), plain.module_.parameters()
    )
    plain.module_.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = SolutionSetEstimator.from_fitted(plain, ONE_HOT, y, polish=True)
    other = one.graphical_derivatives_[0].objective
    assert np.linalg.norm(other.gradient(w)) < 1e-9
    H = table.graphical_derivatives_[0].objective.hessian(w)
    np.testing.assert_allclose(H, other.hessian(w), atol=1e-12)
    moved = {**TABLE, "numbers": X + 0.01}
    flat = np.concatenate([X + 0.01, ONE_HOT[:, 4:]], axis=1)
    np.testing.assert_allclose(
        table.sensitivity(moved).shift[0], one.sensitivity(flat).shift[0], atol=1e-6
    )
    moduli = table.feature_lipschitz_moduli_
    np.testing.assert_allclose(
        moduli["numbers"][0], one.feature_lipschitz_moduli_[0, :4], rtol=1e-4
    )
    assert np.isnan(moduli["kinds"]).all()


def test_dicts_go_in_and_come_out(table):
    assert table.X_train_.keys() == TABLE.keys()
    assert table.X_train_["kinds"].dtype.kind == "i"
    moved = table.perturb()
    np.testing.assert_array_equal(moved["kinds"], KINDS)
    length = np.linalg.norm(moved["numbers"] - X, axis=1)
    np.testing.assert_allclose(length, table.perturbation_size)
    net = table.estimators_[0]
    np.testing.assert_allclose(
        table.solution_set_.predict(TABLE)[0], net.predict(TABLE)[:, 0], atol=1e-5
    )
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.predict(TABLE), table.predict(TABLE))
    retrained = table.retrain({**TABLE, "kinds": (KINDS + 1) % 3})
    assert retrained.converged.all()


def test_dicts_that_are_another(table):
    with pytest.raises(ValueError, match=r"keys \['kinds', 'numbers'\]"):
        table.predict({"numbers": X})
    with pytest.raises(ValueError, match="'X_perturbed'.*dict with the keys"):
        table.sensitivity(X)
    with pytest.raises(ValueError, match="equally many rows"):
        table.predict({"numbers": X[:3], "kinds": KINDS})
    with pytest.raises(ValueError, match="be finite"):
        table.predict({"numbers": X * np.nan, "kinds": KINDS})
    with pytest.raises(ValueError, match="leave integer codes.*in 80 rows"):
        table.sensitivity({**TABLE, "kinds": (KINDS + 1) % 3})
    with pytest.raises(ValueError, match="encode text and categories"):
        table.fit({"numbers": X, "kinds": KINDS.astype(str)}, y)


def test_codes_have_no_modulus_and_no_perturbation():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.EmbeddingBag(5, 2), nn.Linear(2, 1)

        def forward(self, X):
            return self.out(torch.tanh(self.words(X)))

    tokens = np.random.default_rng(0).integers(0, 5, (len(X), 3))
    net = tabular(Words)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(tokens, y)
    assert np.isnan(model.lipschitz_modulus_)
    assert np.isnan(model.sample_lipschitz_moduli_).all()
    with pytest.raises(ValueError, match="integer codes alone"):
        model.perturb()
    influence = sample_influence(model, samples=[0])
    assert influence.trustworthy.all()
    assert model.X_train_.dtype.kind == "i"


# Found by trying many nets -----------------------------------------------------------


class Squeezed(nn.Module):
    """Written for what NeuralNet passes on: targets of shape (n,)."""

    def forward(self, outputs, y):
        return ((outputs[:, 0] - y) ** 2).mean()


class Columned(nn.Module):
    """Written for targets in a column."""

    def forward(self, outputs, y):
        return ((outputs - y) ** 2).mean()


@pytest.mark.parametrize("criterion", [Squeezed, Columned])
def test_targets_never_broadcast_in_a_loss_of_ones_own(criterion):
    settings = regressor(max_epochs=100).get_params(deep=False)
    net = NeuralNet(**{**settings, "criterion": criterion})
    plain = regressor(max_epochs=100)
    one, other = (
        SolutionSetEstimator(n, n_restarts=1, random_state=0).fit(X, y)
        for n in (net, plain)
    )
    np.testing.assert_allclose(
        one.solution_set_.weights, other.solution_set_.weights, atol=1e-6
    )


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x, hide):
        return self.out(torch.tanh(self.hidden(x.masked_fill(hide, 0.0) * ~hide)))


def test_masks_stay_boolean():
    data = {"x": X, "hide": np.random.default_rng(0).random(X.shape) < 0.3}
    model = SolutionSetEstimator(tabular(Masked), n_restarts=1, random_state=0)
    model.fit(data, y)
    assert model.X_train_["hide"].dtype == bool
    other = SolutionSetEstimator(regressor(lr=0.02), n_restarts=1, random_state=0)
    assert other.fit(X * ~data["hide"], y).solution_set_.trustworthy.all()
    np.testing.assert_allclose(
        model.predict(data), model.estimators_[0].predict(data)[:, 0], atol=1e-5
    )


class PerRow(NeuralNetRegressor):
    """A penalty that is divided by the number of rows."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        penalty = sum((p**2).sum() for p in self.module_.parameters())
        own = super().get_loss(y_pred, y_true, *args, **kwargs)
        return own + penalty / len(y_true)


def test_a_loss_that_counts_rows_cannot_hold_any_out():
    settings = regressor(train_split=ValidSplit(4)).get_params(deep=False)
    with pytest.raises(UnsupportedObjectiveError, match="train_split holds rows out"):
        SolutionSetEstimator(PerRow(**settings), n_restarts=1).fit(X, y)
    with pytest.raises(UnsupportedObjectiveError, match="does not weigh its rows"):
        SolutionSetEstimator(
            PerRow(**{**settings, "train_split": None}), n_restarts=1
        ).fit(X, y, sample_weight=1.0 + np.arange(len(X)) % 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"criterion__delta": 1.0}, {"criterion__delta": 0.2}),
        ({"train_split": None}, {"train_split": ValidSplit(4)}),
    ],
)
def test_nets_of_different_objectives_are_no_set(one, other):
    nets = [
        trained(1, regressor(criterion=nn.HuberLoss, max_epochs=2, **options))[0]
        for options in (one, other)
    ]
    with pytest.raises(ValueError, match="Number 1 differs from the first in its"):
        SolutionSetEstimator.from_fitted(nets, X, y)


TOKENS = np.random.default_rng(0).integers(0, 6, (len(X), 5))


class Padded(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.words = nn.Embedding(6, 2, **{"padding_idx": 0, **options})
        self.out = nn.Linear(2, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.words(X)).mean(dim=1))


def test_rows_of_padding_are_constants():
    net = tabular(Padded)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(TOKENS, y)
    assert model.solution_set_.trustworthy.all()
    np.testing.assert_array_equal(model.solution_set_.weights[0, :2], 0.0)
    weights = np.ones(len(X))
    weights[:5] = 1.0 - 1e-4
    predicted = model.sensitivity(sample_weight=weights).shift
    truth = model.retrain(sample_weight=weights).weights - model.solution_set_.weights
    np.testing.assert_allclose(predicted, truth, atol=1e-3 * np.abs(truth).max())


def test_sparse_gradients_are_those_of_dense_ones():
    sparse = NeuralNetRegressor(
        Padded, module__sparse=True, train_split=None, max_epochs=3, verbose=0
    )
    sparse.fit(TOKENS, y[:, None])
    dense = clone(sparse).set_params(module__sparse=False).initialize()
    dense.module_.load_state_dict(sparse.module_.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            SolutionSetEstimator.from_fitted(net, TOKENS, y) for net in (sparse, dense)
        )
    w = one.solution_set_.weights[0]
    one, other = (m.graphical_derivatives_[0].objective for m in (one, other))
    np.testing.assert_allclose(one.hessian(w), other.hessian(w), atol=1e-12)


def test_calls_that_write_into_weights_are_refused_first():
    net = tabular(Padded, module__max_norm=0.1, max_epochs=1).initialize()
    before = flat(net).copy()
    with pytest.raises(UnsupportedObjectiveError, match="max_norm=0.1"):
        SolutionSetEstimator.from_fitted(net, TOKENS, y)
    np.testing.assert_array_equal(flat(net), before)


class OneHotCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(6, 2, batch_first=True), nn.Linear(2, 1)

    def forward(self, X):
        h = nn.functional.one_hot(X, 6).float()
        return self.out(self.cell(h)[0][:, -1])


class SingleLoss(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred.float(), y_true.float(), *args, **kwargs)


def test_float32_in_loss_and_forward_is_no_rounding():
    net = SingleLoss(**tabular(OneHotCell, max_epochs=20).get_params(deep=False))
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(TOKENS, y)
    assert model.solution_set_.converged.all()
    assert model.solution_set_.stationarity[0] < 1e-12


class Named(Heads):
    Output = namedtuple("Output", ["mean", "log_var"])

    def forward(self, X):
        return self.Output(*super().forward(X))


class NamedNet(NeuralNetRegressor):
    """Reads names, and asks its module again."""

    def get_loss(self, y_pred, y_true, X=None, **kwargs):
        again = self.infer(0.9 * X)
        return (
            self.criterion_(y_pred.mean, y_true, y_pred.log_var.exp())
            + 0.01 * (again.mean**2).mean()
        )


def test_named_outputs_keep_their_names():
    options = tabular(Named, criterion=nn.GaussianNLLLoss).get_params(deep=False)
    model = SolutionSetEstimator(NamedNet(**options), n_restarts=1, random_state=0)
    assert model.fit(X, y).solution_set_.trustworthy.all()


class OldNormed(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.hidden = nn.utils.weight_norm(nn.Linear(4, 3))
        self.out = nn.Linear(3, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.hidden(X)))


def test_weight_norm_by_hooks():
    decay = [("*weight_v", {"weight_decay": 0.0})]
    net = tabular(OldNormed, optimizer__param_groups=decay)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    assert model.solution_set_.trustworthy.all()


class HiddenToo(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, X):
        h, (state, _) = self.cell(X.reshape(len(X), 2, 2))
        return self.out(h[:, -1]), state


def test_outputs_whose_first_axis_is_another():
    with pytest.raises(UnsupportedObjectiveError, match="whose first axis is the rows"):
        SolutionSetEstimator(tabular(HiddenToo), n_restarts=1).fit(X, y)


class Annealed(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss * min(1.0, len(self.history) / 10)


def test_a_loss_that_reads_the_history_has_no_objective():
    net = Annealed(**regressor().get_params(deep=False))
    with pytest.raises(UnsupportedObjectiveError, match="get_loss fails.*history_"):
        SolutionSetEstimator(net, n_restarts=1).fit(X, y)


def test_sums_over_a_wide_range():
    """Prefixes that are small beside the largest entry do not vanish."""
    x = torch.tensor([-900.0, -899.0, 300.0, 299.0], dtype=torch.float64)
    with Operators(decomposes=True).replaced():
        found = torch.logcumsumexp(x, 0)
    torch.testing.assert_close(found, torch.logcumsumexp(x, 0))


class Rare(Mlp):
    """Draws once in a thousand passes."""

    def forward(self, X):
        if self.training and torch.rand(()) < 1e-3:
            X = 2.0 * X
        return super().forward(X)


def test_what_is_random_once_in_a_while_is_told():
    net = tabular(Rare, max_epochs=2)
    with pytest.warns(ObjectiveMismatchWarning):
        SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)


class HalfNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 1))

    def forward(self, X):
        return self.normed(torch.tanh(self.first(X)))


def test_operators_stay_replaced_where_callbacks_freeze_weights():
    net = tabular(
        HalfNormed,
        callbacks=[Freezer("first.*")],
        optimizer__param_groups=[("*original1", {"weight_decay": 0.0})],
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    gd = model.graphical_derivatives_[0]
    assert gd.objective.operators.decomposes
    v = np.random.default_rng(0).standard_normal(gd.weights.shape)
    there, back = (gd.objective.gradient(gd.weights + t * v) for t in (1e-4, -1e-4))
    np.testing.assert_allclose(
        gd.objective.hessian_product(gd.weights, v), (there - back) / 2e-4, atol=1e-6
    )


# Never worse than the training --------------------------------------------------------


class Relu(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, X):
        return self.layers(X)


def test_polishing_never_ends_above_the_training():
    """Separable classes that nothing holds have no minimiser to end at."""
    net = NeuralNetClassifier(
        Relu, criterion=nn.CrossEntropyLoss, train_split=None, lr=0.1, verbose=0
    )
    labels = (X[:, 0] + 0.3 * X[:, 1] > 0).astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, polished = (
            SolutionSetEstimator(net, n_restarts=2, random_state=0, polish=polish)
            for polish in (False, True)
        )
        before = plain.fit(X, labels).solution_set_.losses
        found = polished.fit(X, labels).solution_set_
    assert (found.losses <= before).all()
    assert all("finite" not in s or "no finite" in s for s in found.status)


def test_absolute_errors_are_retrained_beyond_their_kinks():
    """Where kinks change too far for exchange, another minimum is found, not none."""
    net = tabular(Mlp, criterion=nn.L1Loss, max_epochs=30)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    moved = X + 0.3 * np.random.default_rng(0).standard_normal(X.shape)
    retrained = model.retrain(moved)
    assert retrained.converged.all()
    there = model.graphical_derivatives_[0].objective.off_kinks().with_data(moved)
    assert retrained.losses[0] <= there.loss(model.solution_set_.weights[0])


def test_random_numbers_of_the_user_stay_where_they_are():
    (net,) = trained(1, regressor(module__p=0.3, max_epochs=2))
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.warns(ObjectiveMismatchWarning):
        SolutionSetEstimator.from_fitted(net, X, y)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])


def test_data_sets_are_read_where_rows_are():
    dataset = Dataset(X, y)
    model = SolutionSetEstimator(regressor(), n_restarts=1, random_state=0)
    model.fit(dataset)
    other = clone(model).fit(X, y)
    np.testing.assert_array_equal(
        model.solution_set_.weights, other.solution_set_.weights
    )
    np.testing.assert_array_equal(model.predict(dataset), other.predict(X))

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            return X[i] + np.float32(np.random.standard_normal()), y[i]

    with pytest.raises(StochasticObjectiveError, match="same rows each time"):
        model.fit(Augmented())


def test_codes_that_the_net_has_no_rows_for():
    net = tabular(Padded, max_epochs=2)
    with pytest.raises(UnsupportedObjectiveError, match="codes within range"):
        SolutionSetEstimator(net, n_restarts=1).fit(TOKENS + 4, y)
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(TOKENS, y)
    with pytest.raises(ValueError, match="codes that the net has rows for"):
        model.predict(TOKENS + 4)


def test_keys_that_forward_does_not_know():
    with pytest.raises(UnsupportedObjectiveError, match="eys of X must be forward's"):
        SolutionSetEstimator(tabular()).fit({"numbers": X}, y)


# Found by trying again ----------------------------------------------------------------


@pytest.mark.parametrize("column", [False, True])
def test_counts_never_broadcast(column):
    counts = np.random.default_rng(0).poisson(np.exp(0.5 * X[:, 0]))
    settings = regressor(criterion=nn.PoissonNLLLoss).get_params(deep=False)
    given = counts[:, None] if column else counts
    one, other = (
        SolutionSetEstimator(NeuralNet(**settings), n_restarts=1, random_state=0).fit(
            X, targets
        )
        for targets in (given, counts.astype(np.float32))
    )
    np.testing.assert_allclose(
        one.solution_set_.weights, other.solution_set_.weights, atol=1e-8
    )


class DrawnPadding(Padded):
    """Drawn as a whole, rows of padding too."""

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.words.weight)


class TiedPadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(6, 2, padding_idx=0), nn.Linear(2, 6)
        self.out.weight = self.words.weight

    def forward(self, X):
        return self.out(torch.tanh(self.words(X)).mean(dim=1))


@pytest.mark.parametrize("module", [DrawnPadding, TiedPadding])
def test_padding_that_training_moves_is_refused(module):
    net = tabular(module)
    with pytest.raises(UnsupportedObjectiveError, match="gradient of no objective"):
        SolutionSetEstimator(net, n_restarts=1).fit(TOKENS, y)


class Negated(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, mask):
        return self.out(torch.tanh(self.hidden((~mask).to(self.out.weight.dtype))))


def test_one_array_of_masks_stays_boolean():
    mask = np.random.default_rng(0).random((len(X), 4)) < 0.5
    model = SolutionSetEstimator(tabular(Negated), n_restarts=1, random_state=0)
    model.fit(mask, y)
    assert model.X_train_.dtype == bool
    np.testing.assert_allclose(
        model.predict(mask), model.estimators_[0].predict(mask)[:, 0], atol=1e-5
    )


class ByRange(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        own = super().get_loss(y_pred, y_true, *args, **kwargs)
        return own / (y_true.max() - y_true.min()) ** 2


def test_a_loss_that_reads_the_largest_target_cannot_hold_any_out():
    settings = regressor(train_split=ValidSplit(4)).get_params(deep=False)
    targets = y.copy()
    targets[20] = 9.0
    with pytest.raises(UnsupportedObjectiveError, match="train_split holds rows out"):
        SolutionSetEstimator(ByRange(**settings), n_restarts=1).fit(X, targets)


class Warm(Mlp):
    def __init__(self, warmth=1.0):
        super().__init__()
        self.warmth = warmth

    def forward(self, X):
        return super().forward(self.warmth * X)


def test_nets_of_other_attributes_are_no_set():
    nets = [
        tabular(Warm, max_epochs=1, module__warmth=w).fit(X, y[:, None])
        for w in (1.0, 3.0)
    ]
    with pytest.raises(ValueError, match="differs from the first in its layers"):
        SolutionSetEstimator.from_fitted(nets, X, y)


def test_trained_classifiers_take_data_sets():
    net = NeuralNetClassifier(
        Mlp, module__n_out=3, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0
    )
    net.set_params(max_epochs=3).fit(X_iris, y_iris)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SolutionSetEstimator.from_fitted(net, Dataset(X_iris, y_iris))
    np.testing.assert_array_equal(model.predict(X_iris), net.predict(X_iris))


def test_copies_leave_what_hooks_computed():
    """The user's own module keeps the weight that weight_norm made in its last call."""
    module = OldNormed()
    module(torch.as_tensor(X))
    before = module.hidden.weight
    twin = copied(module)
    assert module.hidden.weight is before
    assert before.grad_fn is not None
    torch.testing.assert_close(
        twin(torch.as_tensor(X)), module(torch.as_tensor(X)), rtol=0.0, atol=0.0
    )
