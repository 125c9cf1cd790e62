"""R, H, B, J, D, r and Lambda of skorch nets against finite differences and skorch."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import nn
from torch.nn import functional as F

from sksetsens import SolutionSetEstimator
from sksetsens.networks import DFCNNRegressor
from sksetsens.objective import Objective, PointProducts

N, D_IN = 5, 3
STEP = 1e-5
# A central difference errs by STEP^2 / 6 times a third derivative (below 50 in these
# nets) and by rounding 1e-16 / STEP: about 1e-9 for values of order one.
FINITE_DIFFERENCE = {"rtol": 1e-7, "atol": 5e-9}
# The same sums of at most 100 terms of order one in another order.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


class Mlp(nn.Module):
    def __init__(self, n_out=1, end=""):
        super().__init__()
        self.hidden = nn.Linear(D_IN, 4)
        self.output = nn.Linear(4, n_out)
        self.end = end

    def forward(self, X):
        f = self.output(torch.tanh(self.hidden(X)))
        if self.end == "softmax":
            return f.softmax(-1)
        if self.end == "log_softmax":
            return f.log_softmax(-1)
        return f.squeeze(-1) if self.end == "squeeze" else f


class SquaredPenalty(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        weights = [p for p in self.module_.parameters() if p.requires_grad]
        return loss + 0.3 * sum(p.square().sum() for p in weights)


class SmoothL1Penalty(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        for parameter in self.module_.parameters():
            loss = loss + 0.1 * (parameter.square() + 0.1).sqrt().sum()
        return loss


class CouplesRows(nn.Module):
    """log mean exp of the squared residuals: Lambda is no block diagonal."""

    def forward(self, outputs, targets):
        squares = (outputs - targets).square().sum(-1)
        return squares.logsumexp(0) - np.log(len(squares))


REAL = {"module__n_out": 2, "criterion": nn.MSELoss}
CASES = {
    "regressor": (NeuralNetRegressor, REAL),
    "logits": (
        NeuralNetClassifier,
        {"module__n_out": 3, "criterion": nn.CrossEntropyLoss},
    ),
    "class weights": (
        NeuralNetClassifier,
        {
            "module__n_out": 3,
            "criterion": nn.CrossEntropyLoss,
            "criterion__weight": torch.tensor([0.2, 1.0, 3.0]),
        },
    ),
    "probabilities": (
        NeuralNetClassifier,
        {"module__n_out": 3, "module__end": "softmax", "criterion": nn.NLLLoss},
    ),
    "log-probabilities": (
        NeuralNet,
        {"module__n_out": 3, "module__end": "log_softmax", "criterion": nn.NLLLoss},
    ),
    "binary": (
        NeuralNetBinaryClassifier,
        {"module__end": "squeeze", "criterion": nn.BCEWithLogitsLoss},
    ),
    "squared penalty": (SquaredPenalty, REAL),
    "smooth L1 penalty": (SmoothL1Penalty, REAL),
    "coupled rows": (NeuralNetRegressor, {**REAL, "criterion": CouplesRows}),
}
DECAYS = {
    "no decay": {"optimizer": torch.optim.SGD},
    "Adam decay": {"optimizer": torch.optim.Adam, "optimizer__weight_decay": 0.3},
    "grouped decay": {
        "optimizer": torch.optim.SGD,
        "optimizer__weight_decay": 0.1,
        "optimizer__param_groups": [("hidden.*", {"weight_decay": 0.7})],
    },
}


def make_net(case="regressor", decay="no decay", module=Mlp, **params):
    cls, own = CASES[case]
    torch.manual_seed(0)
    settings = {**own, **DECAYS[decay], "train_split": None, "verbose": 0, **params}
    return cls(module, **settings).initialize()


def make_data(net, n=N):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, D_IN))
    if isinstance(net, NeuralNetBinaryClassifier):
        return X, np.arange(n) % 2.0
    if isinstance(net, NeuralNetRegressor):
        return X, rng.standard_normal((n, 2))
    return X, np.arange(n) % 3


def make_objective(case="regressor", decay="no decay", **params):
    net = make_net(case, decay, **params)
    return Objective(net, *make_data(net))


def differences(function, at):
    """Central differences of an array in each entry of `at`, along the last axis."""
    columns = []
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = STEP
        columns.append((function(at + step) - function(at - step)) / (2 * STEP))
    return np.stack([np.asarray(column) for column in columns], axis=-1)


def along(function, at, direction):
    return (function(at + STEP * direction) - function(at - STEP * direction)) / (
        2 * STEP
    )


def dense_cross(objective, w):
    units = np.eye(int(np.prod(objective.input_shape)))
    return np.stack([objective.cross_product(w, unit) for unit in units], axis=1)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "decayed"])
def decay(request, case):
    """Each case without decay and with one of the two kinds."""
    kinds = ("Adam decay", "grouped decay")
    return kinds[list(CASES).index(case) % 2] if request.param else "no decay"


@pytest.fixture
def objective(case, decay):
    return make_objective(case, decay)


# --- Oracles -------------------------------------------------------------------------


def test_value_is_skorchs_own_loss_plus_penalty(case, decay):
    net = make_net(case, decay)
    X, y = make_data(net)
    objective = Objective(net, X, y)
    net.module_.double().eval()
    if isinstance(net.criterion_, nn.Module):
        net.criterion_.double()
    x_t, y_t = torch.as_tensor(X), torch.as_tensor(y)
    own = net.get_loss(net.infer(x_t), y_t, X=x_t, training=True).item()
    coefficients = {"no decay": (0, 0), "Adam decay": (0.3, 0.3)}
    hidden, other = coefficients.get(decay, (0.7, 0.1))
    for name, parameter in net.module_.named_parameters():
        coefficient = hidden if name.startswith("hidden") else other
        own += 0.5 * coefficient * parameter.detach().square().sum().item()
    # Two float64 sums of 40 terms.
    assert_allclose(objective.loss(objective.weights), own, rtol=1e-13)
    assert_allclose(objective.value_and_gradient(objective.weights)[0], own, rtol=1e-13)


def test_gradient(objective):
    w = objective.weights
    expected = differences(objective.loss, w)
    assert_allclose(objective.gradient(w), expected, **FINITE_DIFFERENCE)
    assert_allclose(objective.value_and_gradient(w)[1], expected, **FINITE_DIFFERENCE)


def test_hessian(objective):
    w = objective.weights
    H = objective.hessian(w)
    assert_allclose(H, differences(objective.gradient, w), **FINITE_DIFFERENCE)
    V = np.random.default_rng(2).standard_normal((len(w), 3))
    assert_allclose(objective.hessian_product(w, V), H @ V, **ROUNDING)
    assert_allclose(objective.hessian_product(w, V[:, 0]), H @ V[:, 0], **ROUNDING)


def test_hessian_products_are_symmetric(objective):
    w = objective.weights
    H = objective.hessian_product(w, np.eye(len(w)))  # not symmetrised
    assert_allclose(H, H.T, **ROUNDING)


def test_input_gradient_and_cross_product(objective):
    w, X = objective.weights, objective._x.numpy()
    value = differences(lambda X: objective.with_data(X).loss(w), X)
    assert_allclose(objective.input_gradient(w).ravel(), value, **FINITE_DIFFERENCE)
    B = differences(lambda X: objective.with_data(X).gradient(w), X)
    assert_allclose(dense_cross(objective, w), B, **FINITE_DIFFERENCE)


def test_adjoint_identity(objective):
    rng = np.random.default_rng(3)
    w = objective.weights
    dx, v = rng.standard_normal(objective.input_shape), rng.standard_normal(len(w))
    left = objective.cross_product(w, dx) @ v
    right = np.sum(dx * objective.cross_adjoint(w, v))
    assert objective.cross_adjoint(w, v).shape == objective.input_shape
    assert_allclose(left, right, **ROUNDING)


@pytest.mark.parametrize(
    "name", ["regressor", "squared penalty", "binary", "coupled rows"]
)
def test_derivatives_along_targets(name):
    objective = make_objective(name, "grouped decay")
    rng = np.random.default_rng(4)
    w, y, zero = objective.weights, objective._y.numpy(), np.zeros((N, D_IN))
    dy = rng.standard_normal(y.shape)
    dx = rng.standard_normal(zero.shape)
    tolerance = FINITE_DIFFERENCE
    if name == "binary":  # skorch rounds the targets to float32: 6e-8 / STEP
        tolerance = {"rtol": 0, "atol": 2e-2}
        exact = objective.jacobian(w)[:, 0].T @ -dy.astype(np.float32) / N
        # dR/dy of binary cross-entropy is -J'/n; dy passes through float32.
        assert_allclose(objective.cross_product(w, zero, dy), exact, rtol=1e-6)

    def with_targets(function):
        X = objective._x.numpy()
        return along(lambda y: function(objective.with_data(X, y)), y, dy)

    moved_r = with_targets(lambda o: o.output_gradient(w))
    assert_allclose(objective.output_target_product(w, dy), moved_r, **tolerance)
    moved = with_targets(lambda o: o.gradient(w))
    assert_allclose(objective.cross_product(w, zero, dy), moved, **tolerance)
    both = objective.cross_product(w, dx, dy)
    parts = objective.cross_product(w, dx) + objective.cross_product(w, zero, dy)
    assert_allclose(both, parts, **ROUNDING)


def test_no_derivative_along_class_labels():
    objective = make_objective("logits")
    w = objective.weights
    with pytest.raises(ValueError, match="'dy' parameter must be None for class"):
        objective.cross_product(w, np.zeros((N, D_IN)), np.zeros(N))
    with pytest.raises(ValueError, match=r"targets of type torch\.int64"):
        objective.output_target_product(w, np.zeros(N))


def test_output_jacobians(objective):
    w, X = objective.weights, objective._x.numpy()
    c = objective.n_outputs
    J = differences(lambda w: objective.outputs(w).reshape(N, c), w)
    assert_allclose(objective.jacobian(w), J, **FINITE_DIFFERENCE)
    D = differences(lambda X: objective.outputs(w, X).reshape(N, c), X)
    blocks = D.reshape(N, c, N, D_IN)[np.arange(N), :, np.arange(N)]
    assert_allclose(objective.input_jacobian(w), blocks, **FINITE_DIFFERENCE)
    # The other blocks of D are zero: outputs of a row see that row alone.
    assert np.count_nonzero(D) <= N * c * D_IN


def test_output_gradient_and_hessian(objective, case):
    w = objective.weights
    outputs = objective._outputs(objective._tensor(w))

    def loss(f):
        f = torch.as_tensor(f)
        return objective._outer(f, objective._tensor(w), objective._x, objective._y)

    def r(f):
        f = torch.as_tensor(f).requires_grad_()
        return torch.autograd.grad(loss(f), f)[0].numpy()

    f = outputs.numpy()
    c = objective.n_outputs
    expected = differences(lambda f: loss(f).item(), f).reshape(N, c)
    assert_allclose(objective.output_gradient(w), expected, **FINITE_DIFFERENCE)
    Lambda = differences(r, f).reshape(N, c, N, c)
    coupling = Lambda.copy()
    coupling[np.arange(N), :, np.arange(N)] = 0
    assert objective.is_separable(w) == (case != "coupled rows")
    if case == "coupled rows":
        assert np.abs(coupling).max() > 1e-3
        return
    assert not coupling.any()
    blocks = Lambda[np.arange(N), :, np.arange(N)]
    assert_allclose(objective.output_hessian(w), blocks, **FINITE_DIFFERENCE)
    assert objective.is_linear_in_outputs(w) == (case == "log-probabilities")


# --- The decomposition H = J' Lambda J + sum r d2f + penalty --------------------------


def test_gauss_newton_identity_of_a_linear_module():
    class Linear(nn.Linear):
        def __init__(self):
            super().__init__(D_IN, 3)

    net = NeuralNetClassifier(
        Linear,
        criterion=nn.CrossEntropyLoss,
        criterion__weight=torch.tensor([0.2, 1.0, 3.0]),
        optimizer__weight_decay=0.1,
        train_split=None,
    ).initialize()
    objective = Objective(net, *make_data(net))
    w = objective.weights
    J, Lambda = objective.jacobian(w), objective.output_hessian(w)
    H = np.einsum("nap,nab,nbq->pq", J, Lambda, J) + objective.penalty_hessian(w)
    assert_allclose(objective.hessian(w), H, **ROUNDING)
    assert_allclose(objective.penalty_hessian(w), 0.1 * np.eye(len(w)), **ROUNDING)
    # B = J' Lambda D + sum_k r_k grad_x grad_w f_k, the second term from f = W x + b.
    dx = np.random.default_rng(5).standard_normal((N, D_IN))
    moved = np.einsum("nad,nd->na", objective.input_jacobian(w), dx)
    gauss_newton = np.einsum("nap,nab,nb->p", J, Lambda, moved)
    r = objective.output_gradient(w)
    mixed = np.concatenate([(r.T @ dx).ravel(), np.zeros(3)])
    assert_allclose(objective.cross_product(w, dx), gauss_newton + mixed, **ROUNDING)


@pytest.mark.parametrize(
    ("name", "penalised"),
    [("regressor", False), ("squared penalty", True), ("smooth L1 penalty", True)],
)
def test_penalty_hessian(name, penalised):
    objective = make_objective(name)
    w = objective.weights
    assert objective.is_penalised(w) == penalised
    # At w = 0 the gradient of a penalty vanishes, its Hessian does not.
    assert objective.is_penalised(0 * w) == penalised
    if not penalised:
        assert objective.penalty_hessian(w) is None
        return
    data = make_objective()
    direct = objective.hessian(w) - data.hessian(w)
    assert_allclose(objective.penalty_hessian(w), direct, **ROUNDING)


def test_separability_sees_coupling_along_softmax_differences():
    """Constants per row are in the kernel of this Lambda; class differences not."""

    class Variance(nn.Module):
        def forward(self, outputs, targets):
            p = outputs.softmax(-1)
            return F.cross_entropy(outputs, targets) + p.var(0).sum()

    objective = make_objective("logits", criterion=Variance)
    assert not objective.is_separable(objective.weights)


def test_hessian_norm(objective):
    w = objective.weights
    exact = np.linalg.norm(objective.hessian(w), 2)
    # Its Ritz value has an eigenvalue within 1 per cent; the largest is as near where
    # the spectrum does not crowd.
    assert_allclose(objective.hessian_norm(w), exact, rtol=0.05)


# --- Batches -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 10])
def test_batch_size_changes_nothing(case, batch_size):
    net = make_net(case, "grouped decay")
    whole = Objective(net, *make_data(net, 10))
    batched = copy.copy(whole)
    batched.batch_size = batch_size
    w = whole.weights
    v = np.random.default_rng(6).standard_normal(len(w))
    for name in (
        *("loss", "gradient", "input_gradient", "hessian", "outputs"),
        *("output_gradient", "output_hessian", "jacobian", "input_jacobian"),
    ):
        one, other = getattr(batched, name)(w), getattr(whole, name)(w)
        assert_allclose(one, other, err_msg=name, **ROUNDING)
    for name in ("hessian_product", "cross_adjoint"):
        one, other = getattr(batched, name)(w, v), getattr(whole, name)(w, v)
        assert_allclose(one, other, err_msg=name, **ROUNDING)
    dX = np.random.default_rng(7).standard_normal((10, D_IN))
    moved = batched.cross_product(w, dX), whole.cross_product(w, dX)
    assert_allclose(*moved, **ROUNDING)
    assert_allclose(
        batched.value_and_gradient(w)[0], whole.value_and_gradient(w)[0], **ROUNDING
    )


def test_derivative_along_targets_in_batches():
    whole = make_objective("coupled rows")
    batched = copy.copy(whole)
    batched.batch_size = 3
    w, rng = whole.weights, np.random.default_rng(7)
    dX, dy = rng.standard_normal((N, D_IN)), rng.standard_normal((N, 2))
    for direction in (dX, 0 * dX):
        one, other = (o.cross_product(w, direction, dy) for o in (batched, whole))
        assert_allclose(one, other, **ROUNDING)


def test_small_tangent_blocks_change_nothing():
    objective = make_objective("logits")
    w = objective.weights
    whole = objective.hessian(w), objective.jacobian(w)
    objective.working_memory = 16 * 8 * 3000 / 2**20
    assert 1 <= objective._tangent_block() < len(w)
    assert_allclose(objective.hessian(w), whole[0], **ROUNDING)
    assert_allclose(objective.jacobian(w), whole[1], **ROUNDING)


# --- Modules -------------------------------------------------------------------------


class Frozen(Mlp):
    def __init__(self, n_out=1):
        super().__init__(n_out)
        self.hidden.requires_grad_(False)


class Tied(nn.Module):
    """Two layers with one weight, and a third beside them."""

    def __init__(self, n_out=2):
        super().__init__()
        self.first = nn.Linear(D_IN, D_IN, bias=False)
        self.second = nn.Linear(D_IN, D_IN)
        self.second.weight = self.first.weight
        self.output = nn.Linear(D_IN, n_out)

    def forward(self, X):
        return self.output(torch.tanh(self.second(torch.tanh(self.first(X)))))


class Shared(nn.Module):
    """One layer, and one normalisation, under two names each."""

    def __init__(self, n_out=2):
        super().__init__()
        self.first = self.second = nn.Linear(D_IN, D_IN)
        self.norms = nn.ModuleList([nn.BatchNorm1d(D_IN)] * 2)
        self.output = nn.Linear(D_IN, n_out)

    def forward(self, X):
        h = torch.tanh(self.norms[0](self.first(X)))
        return self.output(torch.tanh(self.norms[1](self.second(h))))


class Normalised(nn.Module):
    def __init__(self, n_out=2):
        super().__init__()
        self.hidden = nn.Linear(D_IN, 4)
        self.batch = nn.BatchNorm1d(4)
        self.layer = nn.LayerNorm(4)
        self.output = nn.Linear(4, n_out)
        self.register_buffer("offset", torch.ones(n_out), persistent=False)

    def forward(self, X):
        h = self.batch(torch.tanh(self.hidden(X)))
        return self.output(torch.tanh(self.layer(h))) + self.offset


class Recurrent(nn.Module):
    """torch cannot vectorise a GRU."""

    def __init__(self, n_out=2):
        super().__init__()
        self.gru = nn.GRU(1, 2, batch_first=True)
        self.output = nn.Linear(2, n_out)

    def forward(self, X):
        return self.output(self.gru(X[..., None])[0][:, -1])


class Attention(nn.Module):
    def __init__(self, n_out=2):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, 3, 0.0, "gelu", batch_first=True)
        self.output = nn.Linear(2, n_out)

    def forward(self, X):
        tokens = torch.stack([X, X.square()], dim=-1)
        return self.output(self.layer(tokens).mean(1))


MODULES = [Frozen, Tied, Shared, Normalised, Recurrent, Attention]


def trained_objective(module):
    net = make_net(module=module, module__n_out=2)
    X, y = make_data(net)
    if module is Normalised:  # statistics other than 0 and 1
        net.partial_fit(X.astype("f4"), y.astype("f4"))
    return Objective(net, X, y)


@pytest.mark.parametrize("module", MODULES)
def test_derivatives_of_modules(module):
    objective = trained_objective(module)
    w, X = objective.weights, objective._x.numpy()
    gradient = differences(objective.loss, w)
    assert_allclose(objective.gradient(w), gradient, **FINITE_DIFFERENCE)
    H = differences(objective.gradient, w)
    assert_allclose(objective.hessian(w), H, **FINITE_DIFFERENCE)
    B = differences(lambda X: objective.with_data(X).gradient(w), X)
    assert_allclose(dense_cross(objective, w), B, **FINITE_DIFFERENCE)
    J = differences(objective.outputs, w)
    assert_allclose(objective.jacobian(w), J, **FINITE_DIFFERENCE)
    D = differences(lambda X: objective.outputs(w, X), X).reshape(N, 2, N, D_IN)
    D = D[np.arange(N), :, np.arange(N)]
    assert_allclose(objective.input_jacobian(w), D, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("module", MODULES)
def test_batch_size_changes_nothing_in_modules(module):
    whole = trained_objective(module)
    batched = copy.copy(whole)
    batched.batch_size = 3
    w = whole.weights
    for name in ("gradient", "hessian", "input_gradient"):
        one, other = getattr(batched, name)(w), getattr(whole, name)(w)
        assert_allclose(one, other, err_msg=name, **ROUNDING)
    one, other = batched.cross_adjoint(w, w), whole.cross_adjoint(w, w)
    assert_allclose(one, other, **ROUNDING)


def test_frozen_parameters_are_no_weights():
    objective = make_objective(module=Frozen, module__n_out=2)
    assert set(objective.parameter_slices) == {"output.weight", "output.bias"}
    assert objective.n_params == len(objective.weights) == 10
    assert objective.decay.shape == (10,)


def test_tied_parameters_count_once():
    net = make_net(module=Tied, optimizer__weight_decay=0.5)
    objective = Objective(net, *make_data(net))
    w = objective.weights
    sizes = {k: s.stop - s.start for k, s in objective.parameter_slices.items()}
    assert sizes == {
        "first.weight": 9,
        "second.bias": 3,
        "output.weight": 6,
        "output.bias": 2,
    }
    untied = make_objective(module=Tied)
    penalty = objective.loss(w) - untied.loss(w)
    assert_allclose(penalty, 0.25 * w @ w, rtol=1e-12)  # a difference of two losses


def test_layers_under_two_names_are_left_as_they_were():
    """torch's own exchange of parameters leaves tensors behind that are none."""
    objective = make_objective(module=Shared)
    w = objective.weights
    before = objective.loss(w)
    objective.gradient(w + 1.0)
    core = objective._core.module
    assert isinstance(core.first.weight, nn.Parameter)
    assert core.first.weight.is_leaf
    assert objective.loss(w) == before
    assert set(objective.parameter_slices) == {
        "first.weight",
        "first.bias",
        "norms.0.weight",
        "norms.0.bias",
        "output.weight",
        "output.bias",
    }


def test_parameter_slices_follow_the_module():
    net = make_net()
    objective = Objective(net, *make_data(net))
    for name, where in objective.parameter_slices.items():
        own = dict(net.module_.named_parameters())[name].detach().numpy().ravel()
        assert np.array_equal(objective.weights[where], own)


def test_decay_is_not_rounded_to_float32():
    decay = make_objective(optimizer__weight_decay=0.1).decay
    assert set(decay.tolist()) == {0.1}


def test_asgd_decays_by_lambd_as_well():
    objective = make_objective(
        optimizer=torch.optim.ASGD, optimizer__lambd=0.25, optimizer__weight_decay=0.5
    )
    assert set(objective.decay.tolist()) == {0.75}
    # torch's own limit for (w - 1)^2 / 2 is the minimiser with that penalty.
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.ASGD([w], lr=0.3, lambd=0.25, weight_decay=0.5, alpha=0.0)
    for _ in range(100):
        w.grad = w.detach() - 1
        optimizer.step()
    # Each step shrinks the error by 1 - 0.3 * 1.75: 100 steps reach rounding.
    assert_allclose(w.item(), 1 / 1.75, rtol=1e-12)


# --- States, data, tilt --------------------------------------------------------------


class NormedWeights(nn.Module):
    """torch's kernel of weight_norm has no derivative along directions."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.utils.parametrizations.weight_norm(nn.Linear(D_IN, 4))
        self.output = nn.Linear(4, 1)

    def forward(self, X):
        return self.output(torch.tanh(self.hidden(X)))


def test_operators_are_looked_for_without_the_estimator_too():
    net = NeuralNetRegressor(NormedWeights).initialize()
    X, y = make_data(net)
    objective = Objective(net, X, y)
    w = objective.weights
    v = np.random.default_rng(0).standard_normal(w.size)
    change = objective.gradient(w + 1e-5 * v) - objective.gradient(w - 1e-5 * v)
    assert_allclose(objective.hessian(w) @ v, change / 2e-5, atol=1e-8)
    assert_allclose(objective.hessian_product(w, v), change / 2e-5, atol=1e-8)


def test_batchnorm_uses_frozen_running_statistics():
    net = make_net(module=Normalised)
    X, y = make_data(net)
    fresh = Objective(net, X, y)
    net.partial_fit(X.astype("f4"), y.astype("f4"))
    trained = Objective(net, X, y)
    w = trained.weights
    net.module_.double().eval()
    with torch.no_grad():
        own = net.module_(torch.as_tensor(X)).numpy()
    assert_allclose(trained.outputs(w), own, **ROUNDING)
    # A row's outputs do not depend on its company.
    assert_allclose(trained.outputs(w, X[:1]), own[:1], **ROUNDING)
    # The other statistics give another function, and with_state brings these back.
    assert np.abs(fresh.outputs(w) - own).max() > 1e-3
    restored = fresh.with_state(trained.state(w))
    assert np.array_equal(restored.weights, w)
    assert_allclose(restored.outputs(w), own, **ROUNDING)
    # A torch state_dict has no non-persistent buffers.
    saved = {k: v.numpy() for k, v in net.module_.state_dict().items()}
    assert "offset" not in saved
    assert_allclose(fresh.with_state(saved).outputs(w), own, **ROUNDING)


@pytest.mark.parametrize("module", [Mlp, *MODULES])
def test_state_round_trip(module):
    objective = make_objective(module=module, module__n_out=2)
    rng = np.random.default_rng(8)
    w = rng.standard_normal(objective.n_params)
    state = objective.state(w)
    other = objective.with_state(state)
    assert np.array_equal(other.weights, w)
    assert other.loss(w) == objective.loss(w)
    # The state loads into the module under all of its names, shared ones included.
    torch_module = module(n_out=2).double()
    persistent = torch_module.state_dict()
    assert set(persistent) <= set(state)
    torch_module.load_state_dict({k: torch.as_tensor(state[k]) for k in persistent})
    with torch.no_grad():
        outputs = torch_module.eval()(objective._x).numpy()
    assert_allclose(outputs, objective.outputs(w), **ROUNDING)


def test_data_are_copied():
    net = make_net()
    X, y = make_data(net)
    objective = Objective(net, X, y)
    before = objective.loss(objective.weights)
    X += 1
    y += 1
    assert objective.loss(objective.weights) == before


def test_state_is_a_copy():
    objective = make_objective(module=Normalised)
    w = objective.weights
    before = objective.loss(w)
    state = objective.state(w)
    restored = objective.with_state(state)
    for values in state.values():
        values[...] = 7
    assert objective.loss(w) == before
    assert restored.loss(w) == before


def test_tilt_moves_the_gradient_only(case):
    objective = make_objective(case, "Adam decay")
    w = objective.weights
    t = objective.gradient(w)
    dX = np.random.default_rng(10).standard_normal((N, D_IN))
    tilted = objective.tilted(t)
    assert tilted.is_tilted
    assert not objective.is_tilted
    assert not tilted.untilted().is_tilted
    for batch_size in (None, 3):
        tilted.batch_size = batch_size
        assert_allclose(tilted.gradient(w), 0 * w, atol=1e-14)  # one subtraction
        moved = tilted.hessian_product(w, t), objective.hessian_product(w, t)
        assert_allclose(*moved, **ROUNDING)
        moved = tilted.cross_product(w, dX), objective.cross_product(w, dX)
        assert_allclose(*moved, **ROUNDING)
    assert_allclose(tilted.loss(w), objective.loss(w), rtol=1e-14)
    value = tilted.value_and_gradient(w)[0]
    assert_allclose(value, objective.loss(w) - t @ w, rtol=1e-12)


def test_with_data_is_a_new_objective(case):
    net = make_net(case, "grouped decay")
    X, y = make_data(net)
    objective, other_y = Objective(net, X, y), np.roll(y, 1, axis=0)
    w = objective.weights
    before = objective.loss(w)
    for data in ((X + 1, other_y), (X[:4], y[:4]), (X - 1, None)):
        moved = objective.with_data(*data)
        expected = Objective(net, data[0], y if data[1] is None else data[1])
        assert moved.loss(w) == expected.loss(w)
        assert np.array_equal(moved.gradient(w), expected.gradient(w))
        assert moved.n_samples == len(data[0])
    assert objective.loss(w) == before


def test_outputs_and_predictions_on_other_rows():
    rows = np.random.default_rng(9).standard_normal((4, D_IN))
    for name in ("logits", "probabilities"):
        objective = make_objective(name)
        w = objective.weights
        outputs = objective.outputs(w, rows)
        probabilities = objective.predictions(w, rows)
        assert outputs.shape == (4, 3)
        assert_allclose(probabilities.sum(1), 1, **ROUNDING)
        expected = torch.as_tensor(outputs)
        expected = expected.softmax(-1) if name == "logits" else expected
        assert_allclose(probabilities, expected.numpy(), **ROUNDING)


# --- The net given -------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_net_given_is_unchanged(training):
    net = make_net(module=Normalised)
    net.module_.train(training)
    net.module_.layer.bias.requires_grad_(False)
    state = copy.deepcopy(net.module_.state_dict())
    flags = {n: p.requires_grad for n, p in net.module_.named_parameters()}
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()
    objective = Objective(net, *make_data(net))
    w = objective.weights
    for name in ("gradient", "hessian", "jacobian", "kinked_preactivations"):
        getattr(objective, name)(w + 1)
    objective.cross_adjoint(w, w)
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert all(map(np.array_equal, numpy_state, np.random.get_state()))
    assert all(m.training == training for m in net.module_.modules())
    for name, parameter in net.module_.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None
        assert parameter.requires_grad == flags[name]
    for name, tensor in net.module_.state_dict().items():
        assert torch.equal(tensor, state[name])


# --- Kinks ---------------------------------------------------------------------------


class Kinked(nn.Module):
    """The features themselves meet the operator."""

    def __init__(self, operator=None):
        super().__init__()
        self.operator = operator
        self.output = nn.Linear(4, 1)

    def forward(self, X):
        return self.output(self.operator(X))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (nn.ReLU(), 1),
        (torch.relu, 1),
        (F.relu, 1),
        (nn.ReLU6(), 1),
        (nn.LeakyReLU(0.1), 1),
        (nn.PReLU(), 1),
        (nn.RReLU(), 1),
        (nn.ELU(), 1),
        (nn.CELU(), 1),
        (nn.SELU(), 1),
        (nn.Threshold(3.0, 0.0), 1),
        (nn.Hardtanh(-2.0, 3.0), 1),
        (nn.Hardsigmoid(), 1),
        (nn.Hardswish(), 1),
        (nn.Softshrink(3.0), 1),
        (nn.Hardshrink(3.0), 1),
        (lambda X: X.clamp(0.0, 3.0), 2),
        (lambda X: X.clamp(max=3.0), 1),
        (lambda X: X.clamp_min(3.0), 1),
    ],
)
def test_kinks_are_counted(operator, expected):
    net = NeuralNetRegressor(Kinked, module__operator=operator).initialize()
    X = np.array([[0.0, 3.0, 0.7, -1.3], [1.1, 2.9, -2.9, 2.2]])
    objective = Objective(net, X, np.zeros((2, 1)))
    assert objective.kinked_preactivations(objective.weights) == (expected, 8)


def test_smooth_operators_have_no_kinks():
    objective = make_objective(module=Normalised)
    assert objective.kinked_preactivations(objective.weights) == (0, 0)


# --- Recorded graphs -----------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, 1e-4])
def test_products_on_recorded_graphs(objective, memory):
    """The same products from a graph that is kept, and in batches without one."""
    w, rng = objective.weights, np.random.default_rng(1)
    v, u = rng.standard_normal(len(w)), rng.standard_normal((N, objective.n_outputs))
    dx = rng.standard_normal(objective.input_shape)
    H, J = objective.hessian(w), objective.jacobian(w)
    D = objective.input_jacobian(w)
    objective.working_memory = memory
    products = PointProducts(objective, w)
    assert products.is_recorded == (memory is None)
    for _ in range(2):
        assert_allclose(products.hessian(v), H @ v, **ROUNDING)
        assert_allclose(products.jacobian(v), J @ v, **ROUNDING)
        crossed = objective.cross_product(w, dx)
        assert_allclose(products.cross(dx), crossed, **ROUNDING)
        pulled = objective.cross_adjoint(w, v)
        assert_allclose(products.cross_adjoint(v), pulled, **ROUNDING)
        pulled = np.einsum("ncp,nc->p", J, u)
        assert_allclose(products.jacobian_adjoint(u), pulled, **ROUNDING)
        moved = np.einsum("ncd,nd->nc", D, dx.reshape(N, -1))
        assert_allclose(products.input_jacobian(dx), moved, **ROUNDING)
        pulled = np.einsum("ncd,nc->nd", D, u).reshape(dx.shape)
        assert_allclose(products.input_jacobian_adjoint(u), pulled, **ROUNDING)


def test_products_in_single_precision(objective):
    w, rng = objective.weights, np.random.default_rng(1)
    v, u = rng.standard_normal(len(w)), rng.standard_normal((N, objective.n_outputs))
    exact = PointProducts(objective, w)
    single = PointProducts(objective, w, single=True)
    for one, other in [
        (single.hessian(v), exact.hessian(v)),
        (single.jacobian(v), exact.jacobian(v)),
        (single.jacobian_adjoint(u), exact.jacobian_adjoint(u)),
    ]:
        error = np.linalg.norm(one - other)
        assert 0.0 < error <= 1e-5 * np.linalg.norm(other)


def test_a_working_memory_below_one_row_is_refused():
    objective = make_objective("logits")
    objective.working_memory = 1e-6
    with pytest.raises(ValueError, match=r"'working_memory' .* at least .* MiB"):
        objective.check_working_memory()


# --- Automatic batches ---------------------------------------------------------------


def test_the_working_memory_changes_nothing():
    """Rows pass through the module as many at once as the budget allows."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((16, 3))
    y = X[:, 0] + 0.1 * rng.standard_normal(16)
    net = DFCNNRegressor(
        module__hidden_widths=(4,),
        module__activation="tanh",
        module__train_output=True,
        optimizer__weight_decay=1e-2,
        max_epochs=3,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0)
    whole = model.fit(X, y)
    moved = X + 1e-3 * rng.standard_normal(X.shape)
    (expected, shifts), w = _answers(whole, moved), whole.solution_set_.weights
    (objective,) = whole.solution_set_.objectives[:1]
    assert objective._one_batch
    for rows in (1, 7):
        mebibytes = 4 * 8 * rows * objective._activations_per_row() / 2**20
        batched = clone(model).set_params(working_memory=mebibytes).fit(X, y)
        assert batched.solution_set_.objectives[0]._batch_rows == rows
        assert_allclose(batched.solution_set_.weights, w, rtol=0, atol=1e-9)
        one, other = _answers(batched, moved)
        assert_allclose(one, expected, rtol=0, atol=1e-9)
        assert_allclose(other, shifts, rtol=1e-9)


def _answers(model, moved):
    predicted = model.sensitivity(moved)
    return predicted.weights, predicted.shift_norm


# --- Hessians layer by layer ---------------------------------------------------------


class _Shared(nn.Module):
    """One layer called twice: not of the kind that is taken layer by layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, X):
        return self.layer(torch.tanh(self.layer(X)))[:, :1]


class _CoupledRows(nn.Module):
    """Each row sees the mean of all: the check by one product has to notice."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, X):
        h = torch.tanh(self.first(X))
        return self.last(h - h.mean(dim=0))


@pytest.mark.parametrize(
    ("module", "by_layers"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)), True),
        (
            nn.Sequential(
                nn.Linear(3, 4, bias=False),
                nn.Softplus(),
                nn.Linear(4, 6),
                nn.Tanh(),
                nn.Linear(6, 1, bias=False),
            ),
            True,
        ),
        (nn.Sequential(nn.Linear(3, 1)), True),
        (_Shared(), False),
        (_CoupledRows(), False),
    ],
)
@pytest.mark.parametrize("max_floats", [2**24, 64])
def test_layerwise_hessian_is_the_general_one(
    module, by_layers, max_floats, monkeypatch
):
    """In one chunk of rows and in many; against one product per weight."""
    monkeypatch.setattr("sksetsens.objective._layerwise._MAX_FLOATS", max_floats)
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((11, 3)), rng.standard_normal((11, 1))
    net = NeuralNetRegressor(
        _Wrapped,
        module__inner=module,
        train_split=None,
        optimizer__weight_decay=0.03,
    ).initialize()
    objective = Objective(net, X, y)
    w = objective.weights
    found = objective._hessian_by_layers(w)
    assert (found is not None) == by_layers
    columns = objective.hessian_product(w, np.eye(len(w)))
    np.testing.assert_allclose(objective.hessian(w), columns, rtol=1e-10, atol=1e-13)


class _Normalised(nn.Module):
    """Convolutions, BatchNorm, ReLU and max pooling, and a layer that is frozen."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 2, 2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2, 2),
            nn.Linear(2, 1),
        )
        for p in self.layers[-2].parameters():
            p.requires_grad_(False)

    def forward(self, X):
        return self.layers(X.reshape(-1, 1, 4, 4))


class _Sequences(nn.Module):
    """A recurrent layer, or attention, on four steps of four features."""

    def __init__(self, kind):
        super().__init__()
        self.first = (
            nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
            if kind == "attention"
            else getattr(nn, kind)(4, 3, batch_first=True)
        )
        self.last = nn.Linear(4 if kind == "attention" else 3, 1)

    def forward(self, X):
        h = self.first(X.reshape(-1, 4, 4))
        return self.last((h[0] if isinstance(h, tuple) else h)[:, -1])


@pytest.mark.parametrize(
    "module",
    [
        _Normalised(),
        _CoupledRows(),
        _Sequences("LSTM"),
        _Sequences("GRU"),
        _Sequences("attention"),
    ],
    ids=["CNN", "coupled", "LSTM", "GRU", "attention"],
)
@pytest.mark.parametrize("block", [1, 7, 16])
def test_recorded_hessian_is_the_general_one(module, block, monkeypatch):
    """In blocks that end anywhere in a parameter; against one product per weight."""
    monkeypatch.setattr("sksetsens.objective._recorded_hessian._BLOCK", block)
    rng = np.random.RandomState(0)
    n_features = 3 if isinstance(module, _CoupledRows) else 16
    X, y = rng.standard_normal((9, n_features)), rng.standard_normal((9, 1))
    net = NeuralNetRegressor(
        _Wrapped, module__inner=module, train_split=None, optimizer__weight_decay=0.03
    ).initialize()
    tilt = rng.standard_normal(Objective(net, X, y).n_params)
    objective = Objective(net, X, y).weighted(rng.uniform(0.5, 2.0, 9)).tilted(tilt)
    w = objective.weights
    columns = objective.hessian_product(w, np.eye(len(w)))
    found = objective._hessian_recorded(w)
    np.testing.assert_allclose(found, columns, rtol=1e-10, atol=1e-13)
    assert (found == found.T).all()
    np.testing.assert_array_equal(objective.hessian(w), found)


def test_hessian_that_cannot_be_recorded_is_the_general_one(monkeypatch):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((9, 16)), rng.standard_normal((9, 1))
    net = NeuralNetRegressor(
        _Wrapped, module__inner=_Normalised(), train_split=None
    ).initialize()
    objective = Objective(net, X, y)
    w = objective.weights
    expected = objective.hessian(w)
    small = Objective(net, X, y, working_memory=0.05)
    assert small._hessian_recorded(w) is None
    np.testing.assert_allclose(small.hessian(w), expected, rtol=1e-10, atol=1e-13)


class _Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        return self.inner(X)
