"""Nets that fit must take, or refuse in a sentence that says what to change."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import FittedNetWarning, UnsupportedObjectiveError
from sksetsens.objective import Objective, check_objective

N, D = 20, 3


class Mlp(nn.Module):
    def __init__(self, before=None, end=None, n_out=1, layer=nn.Linear):
        super().__init__()
        self.before = before or nn.Identity()
        self.hidden = layer(D, 4) if layer is nn.Linear else layer(4)
        self.output = nn.Linear(4, n_out)
        self.end = end or nn.Identity()

    def forward(self, X):
        return self.end(self.output(torch.tanh(self.hidden(self.before(X)))))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


def to_float32(X):
    return X.float()


def data():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((N, D))
    return X, np.sin(X[:, 1]) + 0.1 * rng.standard_normal(N)


def net(kind=NeuralNetRegressor, module=Mlp, **kwargs):
    return kind(module, train_split=None, max_epochs=2, verbose=0, **kwargs)


def model(inner):
    return SolutionSetEstimator(inner, n_restarts=1, random_state=0)


def admitted(inner, X, y):
    torch.manual_seed(0)
    return check_objective(inner.initialize(), X, y)


# --- Criteria ------------------------------------------------------------------------


class Pearson(nn.Module):
    """One less the correlation: a common shift of the outputs changes nothing."""

    def forward(self, outputs, y):
        a, b = outputs - outputs.mean(), y - y.mean()
        return 1 - (a * b).sum() / (a.norm() * b.norm())


class ResidualVariance(nn.Module):
    def forward(self, outputs, y):
        return (outputs - y).var()


class AbsoluteDifferences(nn.Module):
    """Shift-invariant and piecewise linear: refused, whatever the shift."""

    def forward(self, outputs, y):
        e = (outputs - y).squeeze(-1)
        return (e[:, None] - e[None, :]).abs().mean()


@pytest.mark.parametrize("criterion", [Pearson, ResidualVariance])
def test_losses_that_ignore_a_common_shift_are_curved(criterion):
    X, y = data()
    objective = admitted(net(criterion=criterion), X, y[:, None])
    w = objective.weights
    H = objective.hessian(w)
    step = 1e-5
    for j in range(0, w.size, 7):
        e = np.eye(w.size)[j] * step
        dense = (objective.gradient(w + e) - objective.gradient(w - e)) / (2 * step)
        np.testing.assert_allclose(H[:, j], dense, atol=1e-6 * abs(H).max())


def test_saturated_logits_are_curved():
    """A column of 1e6 drives every logit of the start beyond rounding."""
    X, y = data()
    X[:, 0] = 1e6 * np.sign(X[:, 0]) * (1 + abs(X[:, 0]))

    class Logit(Line):
        def forward(self, X):
            return super().forward(X).squeeze(-1)

    inner = net(NeuralNetBinaryClassifier, Logit)
    objective = admitted(inner, X, (y > 0).astype(float))
    w = objective.weights
    assert objective.gradient(w).any()  # some rows are on the wrong side,
    assert not objective.output_hessian(w).any()  # and the loss is straight there.


def test_absolute_errors_are_admitted():
    """Their kinks are seen, and solved for."""
    X, y = data()
    assert admitted(net(criterion=AbsoluteDifferences), X, y[:, None]).has_ramps_in_loss


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("delta", [0.5, 1.0, 2.5])
def test_huber_is_a_multiple_of_smooth_l1(delta, reduction):
    X, y = data()
    y = 2 * y[:, None]
    options = {"criterion__reduction": reduction, "batch_size": -1}
    huber = admitted(
        net(criterion=nn.HuberLoss, criterion__delta=delta, **options), X, y
    )
    smooth = admitted(
        net(criterion=nn.SmoothL1Loss, criterion__beta=delta, **options), X, y
    )
    w = huber.weights
    np.testing.assert_array_equal(w, smooth.weights)
    e = y - huber.outputs(w)
    assert 0 < np.mean(abs(e) < delta)  # curved somewhere
    by_hand = np.where(abs(e) < delta, e**2 / 2, delta * (abs(e) - delta / 2))
    total = by_hand.sum() if reduction == "sum" else by_hand.mean()
    np.testing.assert_allclose(huber.loss(w), total, rtol=1e-13)
    for name in ("gradient", "hessian"):
        ours, theirs = getattr(huber, name)(w), delta * getattr(smooth, name)(w)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13 * abs(theirs).max())


def test_huber_fits_and_predicts_its_retraining():
    X, y = data()
    fitted = model(
        net(criterion=nn.HuberLoss, optimizer__weight_decay=0.1, module=Line)
    ).fit(X, y)
    X_perturbed = X + 1e-6 * np.random.default_rng(1).standard_normal(X.shape)
    predicted = fitted.sensitivity(X_perturbed)
    truth = fitted.retrain(X_perturbed).weights - fitted.solution_set_.weights
    gap = np.linalg.norm(predicted.shift - truth)
    assert gap < 1e-3 * np.linalg.norm(truth)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 1)

    def forward(self, X):
        return self.layer(X)


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": nn.HuberLoss, "criterion__delta": 0.5},
        {"criterion": nn.SmoothL1Loss, "criterion__beta": 0.5},
    ],
)
def test_an_error_at_the_corner_is_a_kink(options):
    X, _ = data()
    inner = net(module=Line, **options).initialize()
    objective = Objective(inner, X, np.zeros((N, 1)))
    y = objective.outputs(objective.weights)
    y[:3] += 0.5
    y[3:] += 0.1
    at_corner = Objective(inner, X, y)
    assert at_corner.kinked_preactivations(at_corner.weights) == (3, N)


# --- Modules -------------------------------------------------------------------------


def mixed(X):
    return (X.to(torch.float32) * torch.tensor([1.0, 0.1, 2.0])).type(torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"module__before": Function(to_float32)},
        {"module__end": Function(to_float32)},
        {"module__before": Function(mixed)},
    ],
)
def test_a_dtype_fixed_in_forward_is_that_of_the_analysis(options):
    X, y = data()
    gd = model(net(**options)).fit(X, y).graphical_derivatives_[0]
    step = np.random.default_rng(0).standard_normal(gd.weights.shape)
    there, back = (gd.objective.gradient(gd.weights + t * step) for t in (1e-4, -1e-4))
    found = gd.objective.hessian_product(gd.weights, step)
    np.testing.assert_allclose((there - back) / 2e-4, found, rtol=1e-5, atol=1e-7)


def only_float32(X):
    assert X.dtype == torch.float32
    return X


def test_a_dtype_asked_for_names_the_line():
    X, y = data()
    with pytest.raises(
        UnsupportedObjectiveError, match=r"not in float64.*\(line \d+ of.*Assertion"
    ):
        model(net(module__before=Function(only_float32))).fit(X, y)


def test_lazy_layers_get_their_sizes_from_the_data():
    X, y = data()
    found = model(net(module__layer=nn.LazyLinear)).fit(X, y)
    again = model(net(module__layer=nn.LazyLinear)).fit(X, y)
    np.testing.assert_array_equal(
        found.solution_set_.weights, again.solution_set_.weights
    )
    assert found.estimators_[0].predict(X.astype("f4")).shape[0] == len(X)


def test_several_outputs_need_a_loss_that_takes_them():
    X, y = data()
    pair = Function(lambda h: (h, h.mean(1)))
    with pytest.raises(UnsupportedObjectiveError, match="one tensor. Got tuple"):
        model(net(module__end=pair)).fit(X, y)


def test_integer_labels_of_several_per_row_name_the_dtype():
    X, _ = data()
    y = (X[:, :2] > 0).astype(int)
    options = {"criterion": nn.BCEWithLogitsLoss, "module__n_out": 2}
    with pytest.raises(UnsupportedObjectiveError, match=r"int64 .*astype\(np\.float32"):
        model(net(NeuralNet, **options)).fit(X, y)
    admitted(net(NeuralNet, **options), X, y.astype(np.float32))


def test_a_net_that_would_be_compiled_is_taken_uncompiled():
    X, y = data()
    plain = model(net(module=Line)).fit(X, y)
    compiled = net(module=Line, compile=True, compile__backend="eager")
    fitted = model(compiled).fit(X, y)
    np.testing.assert_array_equal(
        fitted.solution_set_.weights, plain.solution_set_.weights
    )


def test_compiled_layers_are_taken_uncompiled():
    class Compiled(Line):
        def __init__(self):
            super().__init__()
            self.layer = torch.compile(self.layer, backend="eager")

    X, y = data()
    one, other = (model(net(module=m)).fit(X, y) for m in (Compiled, Line))
    np.testing.assert_array_equal(
        one.solution_set_.weights, other.solution_set_.weights
    )


# --- Ties of maxima ------------------------------------------------------------------


class Pooled(nn.Module):
    """A convolution whose windows tie where the image is constant."""

    def __init__(self, pool=None, relu=False):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1)
        self.pool = pool or nn.MaxPool2d(2)
        self.output = nn.LazyLinear(1)
        self.relu = relu

    def forward(self, X):
        h = self.convolution(X)
        h = torch.relu(h) if self.relu else h
        return self.output(self.pool(h).flatten(1))


def ties_by_hand(images, windows):
    """Windows whose two largest entries are equal, by loops."""
    return sum(
        np.subtract(*np.sort(image[w].ravel())[[-1, -2]]) == 0
        for image in images
        for w in windows
    )


POOLS = {
    "2": (nn.MaxPool2d(2), [(i, i + 2) for i in (0, 2, 4)]),
    "3, stride 1": (nn.MaxPool2d(3, stride=1), [(i, i + 3) for i in range(4)]),
    "2, padded": (nn.MaxPool2d(2, padding=1), [(0, 1), (1, 3), (3, 5), (5, 6)]),
    "4, ceil": (nn.MaxPool2d(4, ceil_mode=True), [(0, 4), (4, 6)]),
    "adaptive": (nn.AdaptiveMaxPool2d(2), [(0, 3), (3, 6)]),
    "amax": (Function(lambda h: h.amax((2, 3))), [(0, 6)]),
}


def images():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 1, 6, 6))
    X[:, :, 0] = X[:, :, 1] = 0.7  # Two rows of the images hold duplicated pixels.
    X[2, 0] = 0.0  # And one image is empty.
    return X


def pooled_objective(pool, X, relu=False, sign=1.0):
    module = Pooled(pool, relu).double()
    module(torch.as_tensor(X))
    with torch.no_grad():
        module.convolution.weight.fill_(sign)
        module.convolution.bias.fill_(0.1 * sign)
    inner = net(module=Line).initialize()
    inner.module_ = module
    inner.optimizer_ = torch.optim.SGD(module.parameters(), lr=0.1)
    return Objective(inner, X, np.zeros((len(X), 1)))


@pytest.mark.parametrize("name", POOLS)
def test_ties_of_pooling_are_counted(name):
    pool, ranges = POOLS[name]
    X = images()
    objective = pooled_objective(pool, X)
    windows = [np.s_[a:b, c:d] for a, b in ranges for c, d in ranges]
    single = [w for w in windows if X[0, 0][w].size > 1]
    expected = ties_by_hand(X[:, 0], single)
    assert expected > 0
    found, total = objective.kinked_preactivations(objective.weights)
    assert (found, total) == (expected, len(X) * len(windows))


def test_units_that_are_off_make_no_tie():
    """Zeros behind a ReLU tie exactly, and stay tied: the net is smooth there."""
    X = np.abs(images()) + 0.5
    objective = pooled_objective(nn.MaxPool2d(2), X, relu=True, sign=-1.0)
    assert objective.kinked_preactivations(objective.weights)[0] == 0


@pytest.mark.parametrize("operator", [torch.maximum, torch.minimum])
def test_ties_of_two_tensors_are_counted(operator):
    X, y = data()
    X[:4, 1] = X[:4, 0]
    before = Function(lambda X: operator(X[:, [0]], X[:, [1]]).expand(-1, D))
    inner = net(module__before=before).initialize()
    objective = Objective(inner, X, y[:, None])
    assert objective.kinked_preactivations(objective.weights) == (4, N)


class PooledFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)
        self.output = nn.Linear(4, 1)

    def forward(self, X):
        pooled = nn.functional.max_pool2d(self.convolution(X), 2)
        return self.output(torch.tanh(pooled).flatten(1))


def test_a_solution_at_ties_of_pooling_is_exact():
    """Zero background: the minimiser sits where several pixels are the largest.

    The ties of the background are the data's alone, and are told.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10, 1, 4, 4))
    X[:, :, :2] = 0.0
    y = rng.standard_normal(10)
    fitted = model(net(module=PooledFeatures, optimizer__weight_decay=0.01))
    solutions = fitted.fit(X, y).solution_set_
    assert solutions.converged.all()
    assert solutions.n_kinks[0] > 0
    assert "no derivative in X in 7 rows (entries on a kink)" in solutions.status[0]


# --- Fitted nets ---------------------------------------------------------------------


def test_a_fitted_net_is_trained_anew_and_told():
    X, y = data()
    inner = net(module=Line)
    fresh = model(clone(inner)).fit(X, y)
    inner.fit(X.astype(np.float32), y[:, None].astype(np.float32))
    before = inner.module_.layer.weight.detach().clone()
    with pytest.warns(FittedNetWarning, match="trains a clone anew") as caught:
        again = model(inner).fit(X, y)
    (warning,) = [w for w in caught if w.category is FittedNetWarning]
    assert warning.filename == __file__
    np.testing.assert_array_equal(
        again.solution_set_.weights, fresh.solution_set_.weights
    )
    assert torch.equal(inner.module_.layer.weight, before)


def test_nothing_is_told_of_fresh_nets_clones_and_searches():
    X, y = data()
    inner = net(module=Line)
    fitted = model(inner)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(X, y)
        fitted.fit(X, y)  # The user's net is as it was.
        inner.initialize()
        clone(fitted).fit(X, y)
        cross_val_score(model(inner), X, y, cv=2)
        GridSearchCV(model(inner), {"n_restarts": [1]}, cv=2).fit(X, y)
    # Raised as errors they would count as failed fits of the searches.
    assert not [w for w in caught if issubclass(w.category, FittedNetWarning)]
