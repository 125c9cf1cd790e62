"""Objectives whose derivatives do not mean what they say, and those that do."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sksetsens import SolutionSetEstimator, mordukhovich_criterion
from sksetsens.objective import Objective
from sksetsens.optimize import stationarity
from sksetsens.sensitivity import GraphicalDerivative
from sksetsens.sensitivity._derivative_check import Disagreement, check_derivatives
from sksetsens.sensitivity._undifferentiable import undifferentiable

pytestmark = [
    pytest.mark.filterwarnings("ignore::sksetsens.exceptions.IllPosedWarning"),
    pytest.mark.filterwarnings("ignore::sksetsens.exceptions.StationarityWarning"),
    pytest.mark.filterwarnings("ignore::sksetsens.exceptions.NonlinearityWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning"),
]

RNG = np.random.default_rng(81)
X = RNG.standard_normal((40, 4))
EXACT = X @ np.array([[1.0], [2.0], [-1.0], [0.5]]) + 0.3
NOISY = X[:, :1] + 0.5 * np.tanh(X[:, 1:2]) + 0.3 * RNG.standard_normal((40, 1))
DIRECTION = RNG.standard_normal(X.shape)
CODES = X.copy()
CODES[:, 0] = np.arange(40) % 4
AT_ZERO = X.copy()
AT_ZERO[3] = 0.0


def fitted(module, data=X, y=NOISY, *, net=NeuralNetRegressor, decay=1e-2, **params):
    own = {k: params.pop(k) for k in ("polish", "tol") if k in params}
    params = {"max_epochs": 60, "lr": 0.05, **params}
    trained = net(
        module,
        train_split=None,
        batch_size=-1,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=decay,
        verbose=0,
        **params,
    )
    return SolutionSetEstimator(trained, n_restarts=1, random_state=0, **own).fit(
        data, y
    )


def status(model):
    return str(model.solution_set_.status[0])


class Linear(nn.Module):
    def __init__(self, n_outputs=1):
        super().__init__()
        self.linear = nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.linear(X)


class Mlp(nn.Module):
    def __init__(self, activation=nn.Tanh, n_outputs=1, normalise=False, width=6):
        super().__init__()
        self.hidden = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width) if normalise else nn.Identity()
        self.activation = activation()
        self.head = nn.Linear(width, n_outputs)

    def forward(self, X):
        return self.head(self.activation(self.norm(self.hidden(X))))


# Cones -------------------------------------------------------------------------------


class RootNet(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        return (y_pred - y_true).square().mean().sqrt()


class GroupNet(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        penalty = self.module_.linear.weight[:, 2:].norm()
        return (y_pred - y_true).square().mean() + 0.5 * penalty


class RowNormNet(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        return (y_pred - y_true).norm(dim=1).mean()


@pytest.mark.parametrize(("net", "y"), [(RootNet, EXACT), (GroupNet, NOISY)])
def test_the_tip_of_a_cone_is_told(net, y):
    """The gradient keeps its size there, and H explodes."""
    model = fitted(Linear, y=y, net=net, decay=0.0)
    solution = model.solution_set_
    assert solution.gradient_norms[0] > 0.1
    assert not solution.converged[0]
    assert not solution.trustworthy[0]
    # Of a cone that bends only some of the weights a kink may be all that is seen.
    told = ("not differentiable at this solution", "and a smooth loss")
    assert any(sentence in status(model) for sentence in told)
    assert model.lipschitz_modulus_ == np.inf


def test_a_cone_beside_its_tip_is_smooth():
    """The root of the mean square has the minimiser of the mean square."""
    model = fitted(Linear, net=RootNet, decay=0.0)
    assert model.solution_set_.trustworthy[0]

    def least_squares(data):
        full = np.column_stack([data, np.ones(len(data))])
        return np.linalg.lstsq(full, NOISY[:, 0], rcond=None)[0]

    t = 1e-4
    slope = least_squares(X + t * DIRECTION) - least_squares(X - t * DIRECTION)
    predicted = model.sensitivity(X + t * DIRECTION)
    assert predicted.trustworthy[0]
    np.testing.assert_allclose(predicted.shift[0], 0.5 * slope, rtol=1e-3, atol=1e-8)


def test_norms_of_rows_beside_their_tips_are_smooth():
    many = 3.0 * np.random.default_rng(82).standard_normal((40, 6))
    model = fitted(Linear, y=many, net=RowNormNet, module__n_outputs=6)
    assert model.solution_set_.trustworthy[0], status(model)


def initialised(module, net=NeuralNetRegressor, data=X, y=NOISY, **params):
    torch.manual_seed(5)
    made = net(module, train_split=None, **params).initialize()
    return Objective(made, data, y)


@pytest.mark.parametrize("distance", [1e-3, 1e-7, 1e-11])
def test_stationarity_of_a_smooth_objective_is_relative_to_its_curvature(distance):
    objective = initialised(Linear)
    H = objective.hessian(objective.weights)
    solution = objective.weights - np.linalg.solve(
        H, objective.gradient(objective.weights)
    )
    w = solution + distance * np.array([1.0, -2.0, 0.5, 1.0, 3.0])
    norm = float(np.linalg.norm(objective.gradient(w)))
    expected = norm / (np.linalg.norm(H, 2) * (1.0 + np.linalg.norm(w)))
    assert stationarity(objective, w, norm) == pytest.approx(expected, rel=0.02)


def test_stationarity_keeps_its_invariances_near_a_cone():
    def relative(factor, copies, distance):
        class Scaled(RootNet):
            def get_loss(self, *args, **kwargs):
                return factor * super().get_loss(*args, **kwargs)

        data, y = np.tile(X, (copies, 1)), np.tile(EXACT, (copies, 1))
        objective = initialised(Linear, Scaled, data, y)
        w = np.array([1.0, 2.0, -1.0, 0.5, 0.3])
        w[0] += distance
        norm = float(np.linalg.norm(objective.gradient(w)))
        return stationarity(objective, w, norm)

    for distance in (1e-3, 1e-9):
        plain = relative(1.0, 1, distance)
        assert plain > 1e-4
        assert relative(1e6, 1, distance) == pytest.approx(plain, rel=1e-3)
        assert relative(1.0, 3, distance) == pytest.approx(plain, rel=1e-3)


# Cuts --------------------------------------------------------------------------------


class FrozenBackbone(Mlp):
    """Its head alone is trained, and the backbone kept out of autograd."""

    def __init__(self):
        super().__init__()
        self.hidden.requires_grad_(False)

    def forward(self, X):
        with torch.no_grad():
            features = self.activation(self.hidden(X))
        return self.head(features)


class CutBackbone(Mlp):
    def forward(self, X):
        with torch.no_grad():
            features = self.activation(self.hidden(X))
        return self.head(features)


class DetachedNorm(Mlp):
    def forward(self, X):
        return super().forward(X / X.detach().norm(dim=1, keepdim=True))


class DetachedWeight(Linear):
    def forward(self, X):
        return super().forward(X) / (1.0 + self.linear.weight.detach().square().sum())


class ReweightedNet(NeuralNetRegressor):
    """Robust weights of the residuals, detached as if they were constants."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        squares = (y_pred - y_true).square()
        return (squares * torch.exp(-squares.detach())).mean()


@pytest.mark.parametrize("module", [FrozenBackbone, DetachedNorm])
def test_data_cut_off_inside_forward_is_told(module):
    """B is 0, or a part of what it should be; the solutions do move."""
    model = fitted(module)
    gd = model.graphical_derivatives_[0]
    t = 1e-5
    change = [
        gd.objective.with_data(X + s * DIRECTION).gradient(gd.weights) for s in (t, -t)
    ]
    slope = (change[0] - change[1]) / (2 * t)
    said = gd.B.matvec(DIRECTION.ravel())
    assert np.linalg.norm(slope - said) > 0.1 * np.linalg.norm(slope)
    assert not model.solution_set_.trustworthy[0]
    assert "B is not the derivative" in status(model)
    assert model.lipschitz_modulus_ == np.inf
    assert not model.sensitivity(X + 1e-3 * DIRECTION).trustworthy[0]


@pytest.mark.parametrize(
    ("module", "net"),
    [
        (CutBackbone, NeuralNetRegressor),
        (DetachedWeight, NeuralNetRegressor),
        (Linear, ReweightedNet),
    ],
)
def test_weights_cut_off_are_told(module, net):
    model = fitted(module, net=net)
    assert not model.solution_set_.trustworthy[0]
    assert "the gradient is not that of the loss" in status(model)
    assert "no_grad" in status(model)


def test_a_wrong_second_derivative_is_told():
    """R is right, and its backward pass a constant."""

    class Square(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.square()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2.0 * x.detach()

        @staticmethod
        def jvp(ctx, tangent):
            raise NotImplementedError

    class Cubic(Mlp):
        def forward(self, X):
            return self.head(Square.apply(self.hidden(X)))

    objective = initialised(Cubic)
    gd = GraphicalDerivative(objective, objective.weights, solver="minres")
    found = check_derivatives(gd, is_smooth=True)
    assert Disagreement.LOSS not in found.reasons
    assert Disagreement.HESSIAN in found.reasons


# Inputs without a derivative ---------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(4, 1)
        self.linear = nn.Linear(3, 1, bias=False)

    def forward(self, X):
        return self.codes(X[:, 0].long()) + self.linear(X[:, 1:])


class OneHot(Embedded):
    def forward(self, X):
        codes = nn.functional.one_hot(X[:, 0].long(), 4).to(X.dtype)
        return codes @ self.codes.weight + self.linear(X[:, 1:])


class Rounded(Linear):
    def forward(self, X):
        return self.linear(torch.cat([(2.0 * X[:, :1]).round(), X[:, 1:]], dim=1))


class Thresholded(Linear):
    def forward(self, X):
        return self.linear(torch.cat([(X[:, :1] > 0.5).to(X.dtype), X[:, 1:]], dim=1))


@pytest.mark.parametrize(
    ("module", "data"),
    [(Embedded, CODES), (OneHot, CODES), (Rounded, X), (Thresholded, X)],
)
def test_a_column_of_codes_has_no_certified_modulus(module, data):
    model = fitted(module, data)
    moduli = model.feature_lipschitz_moduli_[0]
    assert moduli[0] == np.inf
    assert np.isfinite(moduli[1:]).all()
    assert (moduli[1:] > 0.0).all()
    assert model.lipschitz_modulus_ == np.inf
    assert np.isinf(model.sample_lipschitz_moduli_).all()
    assert np.isinf(model.layer_lipschitz_moduli_).all()
    assert "features 0" in status(model)
    found = model.graphical_derivatives_[0].undifferentiable
    assert found.jumping_features == [0]
    assert not found.kinks.any()


@pytest.mark.parametrize(("module", "data"), [(Embedded, CODES), (Thresholded, X)])
def test_perturbations_of_codes_are_not_trusted_and_others_are(module, data):
    model = fitted(module, data)
    assert model.solution_set_.trustworthy[0]
    others = 1e-3 * DIRECTION
    others[:, 0] = 0.0
    predicted = model.sensitivity(data + others)
    assert predicted.trustworthy[0]
    retrained = model.retrain(data + others)
    moved = retrained.weights[0] - model.solution_set_.weights[0]
    np.testing.assert_allclose(predicted.shift[0], moved, atol=1e-2 * abs(moved).max())
    codes = np.zeros_like(data)
    codes[4, 0] = 1e-6
    predicted = model.sensitivity(data + codes)
    assert not predicted.trustworthy[0]
    assert "features 0" in predicted.status[0]
    (criterion,) = mordukhovich_criterion(model)
    assert not criterion.holds
    assert not criterion.is_certified
    (criterion,) = mordukhovich_criterion(model, features=[1, 2, 3])
    assert criterion.holds


class Bent(Linear):
    def __init__(self, bend=torch.relu):
        super().__init__()
        self.bend = bend

    def forward(self, X):
        return self.linear(self.bend(X))


class Pooled(Linear):
    """Maximum of the first two columns, beside the others."""

    def forward(self, X):
        most = X[:, :2].amax(dim=1, keepdim=True)
        return self.linear(torch.cat([most, 0.1 * most, X[:, 2:]], dim=1))


@pytest.mark.parametrize("bend", [torch.relu, torch.abs])
def test_rows_on_a_kink_of_their_own_have_no_certified_modulus(bend):
    model = fitted(Bent, AT_ZERO, module__bend=bend)
    assert model.solution_set_.trustworthy[0]
    moduli = model.sample_lipschitz_moduli_[0]
    assert moduli[3] == np.inf
    assert np.isfinite(np.delete(moduli, 3)).all()
    kinks = model.graphical_derivatives_[0].undifferentiable.kinks
    assert kinks[3].all()
    assert kinks.sum() == 4
    moved = AT_ZERO.copy()
    moved[3] += 1e-4
    assert not model.sensitivity(moved).trustworthy[0]
    moved = AT_ZERO + 1e-5 * DIRECTION
    moved[3] = 0.0
    assert model.sensitivity(moved).trustworthy[0]


def test_a_tie_of_a_maximum_is_a_kink_of_the_entries_that_tie():
    data = X.copy()
    data[7, 1] = data[7, 0]
    objective = initialised(Pooled, data=data)
    kinks = undifferentiable(objective, objective.weights).kinks
    assert np.argwhere(kinks).tolist() == [[7, 0], [7, 1]]


# What must stay trusted --------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.SiLU])
@pytest.mark.parametrize("normalise", [False, True])
def test_smooth_nets_are_trusted(activation, normalise):
    model = fitted(Mlp, module__activation=activation, module__normalise=normalise)
    assert model.solution_set_.trustworthy[0], status(model)
    assert not model.graphical_derivatives_[0].undifferentiable.entries.any()
    assert np.isfinite(model.lipschitz_modulus_)


def test_classifiers_are_trusted():
    labels = (NOISY[:, 0] > 0).astype(int)
    model = fitted(
        Mlp,
        y=labels,
        net=NeuralNetClassifier,
        criterion=nn.CrossEntropyLoss,
        module__n_outputs=2,
    )
    assert model.solution_set_.trustworthy[0], status(model)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_interpolating_nets_are_trusted(activation):
    data = X[:5].astype(np.float32)
    model = fitted(
        Mlp,
        data,
        NOISY[:5].astype(np.float32),
        decay=0.0,
        module__activation=activation,
        module__width=20,
    )
    assert model.solution_set_.losses[0] < 1e-20
    assert model.solution_set_.trustworthy[0], status(model)


def test_early_stopped_nets_are_not_accused():
    model = fitted(Mlp, polish=False, max_epochs=5)
    gd = model.graphical_derivatives_[0]
    assert gd.objective.is_tilted
    assert check_derivatives(gd, is_smooth=True).agree


@pytest.mark.parametrize("size", [1e-7, 1e6])
@pytest.mark.parametrize("module", [Linear, Mlp])
def test_columns_of_another_scale_are_not_accused(size, module):
    data = X * np.array([size, 1.0, 1.0, 1.0])
    objective = initialised(module, data=data)
    w = objective.weights.copy()
    for part in objective.parameter_slices.values():
        if part.stop - part.start >= 4:
            w[part][::4] /= size
            break
    gd = GraphicalDerivative(objective, w)
    assert check_derivatives(gd, is_smooth=True).agree
    assert not gd.undifferentiable.entries.any()


@pytest.mark.parametrize("seed", range(8))
def test_relu_nets_away_from_kinks_are_not_accused(seed):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((200, 4))
    objective = initialised(
        Mlp, data=data, y=data[:, :1], module__activation=nn.ReLU, module__width=30
    )
    w = rng.standard_normal(objective.n_params)
    gd = GraphicalDerivative(objective, w)
    assert check_derivatives(gd, is_smooth=True).agree
    assert not gd.undifferentiable.entries.any()


def test_a_column_that_is_not_read_has_a_certified_zero():
    class Partial(Linear):
        def forward(self, X):
            return self.linear(torch.cat([X[:, 1:2], X[:, 1:]], dim=1))

    model = fitted(Partial)
    moduli = model.feature_lipschitz_moduli_[0]
    assert model.solution_set_.trustworthy[0]
    assert moduli[0] == 0.0
    assert np.isfinite(moduli).all()


def test_the_evidence_costs_a_dozen_gradients(monkeypatch):
    model = fitted(Mlp)
    gd = model.graphical_derivatives_[0]
    again = GraphicalDerivative(gd.objective, gd.weights)
    count = {"gradients": 0, "losses": 0}
    gradients, loss = Objective._gradients, Objective.loss

    def counted_gradients(self, *args):
        count["gradients"] += 1
        return gradients(self, *args)

    def counted_loss(self, *args):
        count["losses"] += 1
        return loss(self, *args)

    monkeypatch.setattr(Objective, "_gradients", counted_gradients)
    monkeypatch.setattr(Objective, "loss", counted_loss)
    assert check_derivatives(again, is_smooth=True).agree
    # One at the moved weights and two for H and for B each, beside two derivatives of
    # the outputs in the data and one product each; three losses for the gradient, three
    # for the curvature.
    assert count == {"gradients": 5, "losses": 6}


class Rounded(nn.Module):
    """The last column is read to some digits only, the others as they are."""

    def __init__(self, n_features=3, n_outputs=1, digits=5, everywhere=False):
        super().__init__()
        self.hidden = nn.Linear(n_features, 3)
        self.output = nn.Linear(3, n_outputs)
        self.scale, self.first = 10.0**digits, 0 if everywhere else n_features - 1

    def forward(self, X):
        X = X.clone()
        X[:, self.first :] = torch.round(X[:, self.first :] * self.scale) / self.scale
        return self.output(torch.tanh(self.hidden(X)))


@pytest.mark.parametrize("digits", [1, 5, 7])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_rounding_to_many_digits_is_one(digits, everywhere):
    """Its steps are small beside the data, its derivative is 0 all the same."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((24, 3))
    y = np.sin(X[:, 0]) + 0.3 * X[:, 1]
    net = NeuralNetRegressor(
        Rounded,
        module__digits=digits,
        module__everywhere=everywhere,
        optimizer__weight_decay=0.05,
        max_epochs=5,
        train_split=None,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    moduli = model.feature_lipschitz_moduli_[0]
    assert np.isinf(moduli[2])
    assert np.isinf(model.lipschitz_modulus_)
    assert np.isinf(moduli[:2]).all() == everywhere


class WithCodes(nn.Module):
    def __init__(self, n_features=3, n_outputs=1):
        super().__init__()
        self.codes = nn.Embedding(4, 2)
        self.hidden = nn.Linear(4, 3)
        self.output = nn.Linear(3, n_outputs)

    def forward(self, X):
        known = torch.cat([X[:, :2], self.codes(X[:, 2].long())], dim=1)
        return self.output(torch.tanh(self.hidden(known)))


def test_codes_at_their_own_edge_leave_other_columns_alone():
    """A whole code less a rounding is another code; that is no kink of its row."""
    rng = np.random.default_rng(6)
    X = rng.standard_normal((24, 3))
    X[:, 2] = rng.integers(0, 4, 24)
    y = np.sin(X[:, 0]) + 0.3 * X[:, 1] + 0.2 * X[:, 2]
    net = NeuralNetRegressor(
        WithCodes, optimizer__weight_decay=0.05, max_epochs=5, train_split=None
    )
    fits = [
        SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X + shift, y)
        for shift in (0.0, np.array([0.0, 0.0, 0.4]))
    ]
    edge, middle = (fit.feature_lipschitz_moduli_[0] for fit in fits)
    assert np.isinf(edge[2])
    np.testing.assert_allclose(edge[:2], middle[:2], rtol=1e-6)


class RootOfData(nn.Module):
    def __init__(self, n_features=3, n_outputs=1):
        super().__init__()
        self.output = nn.Linear(n_features, n_outputs)

    def forward(self, X):
        return self.output(X.abs().sqrt())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_data_without_a_finite_derivative_have_no_modulus():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((24, 3))
    X[3, 1] = 0.0
    net = NeuralNetRegressor(
        RootOfData, optimizer__weight_decay=0.05, max_epochs=5, train_split=None
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, X[:, 0])
    assert not model.solution_set_.trustworthy[0]
    assert np.isinf(model.feature_lipschitz_moduli_).all()
    assert np.isinf(model.sample_lipschitz_moduli_).all()


class CutGate(nn.Module):
    """A product whose first factor is cut off: at weights of 0 its gradient is 0."""

    def __init__(self, n_features=3, n_outputs=1, cut=True):
        super().__init__()
        self.output = nn.Linear(n_features, n_outputs)
        self.gate = nn.Parameter(torch.zeros(2))
        self.cut = cut

    def forward(self, X):
        gate = self.gate.detach() if self.cut else self.gate
        return self.output(X) + X[:, :1] * gate[0] * self.gate[1]


@pytest.mark.parametrize("cut", [True, False])
def test_a_cut_that_only_the_curvature_feels_is_told(cut):
    rng = np.random.default_rng(8)
    X = rng.standard_normal((24, 3))
    y = X[:, 0] + np.sin(3.0 * X[:, 1]) + 0.3 * rng.standard_normal(24)
    net = NeuralNetRegressor(
        CutGate,
        module__cut=cut,
        optimizer__weight_decay=0.2,
        max_epochs=1,
        train_split=None,
    )
    model = SolutionSetEstimator(net, n_restarts=1, random_state=0).fit(X, y)
    gd = model.graphical_derivatives_[0]
    w, n = gd.weights, gd.weights.size
    places = gd.objective.parameter_slices["gate"]
    assert np.abs(w[places]).max() < 1e-8
    # Second differences of the loss in the two gates, and H.
    h, (i, j) = 1e-3, range(n)[places]
    e, f = h * np.eye(n)[i], h * np.eye(n)[j]
    loss = gd.objective.loss
    mixed = loss(w + e + f) - loss(w + e - f) - loss(w - e + f) + loss(w - e - f)
    agrees = abs(mixed / (4.0 * h**2) - gd.objective.hessian(w)[i, j]) < 1e-6
    assert agrees == (not cut)
    assert model.solution_set_.trustworthy[0] == (not cut)
