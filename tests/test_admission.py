"""Nets that admission refuses, with the reason, and nets that it must accept."""

import copy
import random

import numpy as np
import pytest
import torch
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.dataset import Dataset
from torch import nn

from sksetsens.exceptions import StochasticObjectiveError, UnsupportedObjectiveError
from sksetsens.objective import check_objective, initialised_net, shape_targets

N, D_IN = 6, 3
SEED = 5


class Mlp(nn.Module):
    """A tanh network, with another operator after the hidden layer or as the end."""

    def __init__(self, n_out=1, middle=None, end=None):
        super().__init__()
        self.hidden = nn.Linear(D_IN, 4)
        self.middle = middle or nn.Identity()
        self.output = nn.Linear(4, n_out)
        self.end = end or nn.Identity()

    def forward(self, X):
        return self.end(self.output(self.middle(torch.tanh(self.hidden(X)))))


class Function(nn.Module):
    """An operator as a module; `key` names one of OPERATORS."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def forward(self, h):
        return OPERATORS[self.key](h)


OPERATORS = {
    "noise": lambda h: h + 0.1 * torch.randn_like(h),
    "tuple": lambda h: (h, h),
    "squeeze": lambda h: h.squeeze(),
    "first row": lambda h: h - h[:1],
    "transpose": lambda h: h.T,
    "sum": lambda h: h.sum(0, keepdim=True),
    "cdist": lambda h: torch.cdist(h, torch.eye(4, dtype=h.dtype)),
    "igamma": lambda h: torch.igamma(h.square() + 1, h.square() + 1),
    "root of 0": lambda h: (0 * h).square().sum(1, keepdim=True).sqrt() + h,
    "detached": lambda h: h if h.sum() > -1e9 else -h,
}


class AugmentedDataset(Dataset):
    def __getitem__(self, i):
        X, y = super().__getitem__(i)
        return X + np.float32(np.random.standard_normal()), y


class ScaledDataset(Dataset):
    def __getitem__(self, i):
        X, y = super().__getitem__(i)
        return 2 * X, y


class SmoothedTargets(Dataset):
    def __getitem__(self, i):
        X, y = super().__getitem__(i)
        return X, 0.9 * y


class OwnAbsoluteError(nn.Module):
    def forward(self, outputs, targets):
        return (outputs - targets).abs().mean()


class Hinge(nn.Module):
    def forward(self, outputs, targets):
        return (1 - outputs * targets).clamp(min=0).mean()


class LearnedScale(nn.Module):
    def __init__(self, learns=True):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=learns)

    def forward(self, outputs, targets):
        return (self.scale * (outputs - targets)).square().mean()


class RandomLoss(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss * (1 + 0.1 * torch.rand(()))


class StaleWeights(NeuralNetRegressor):
    """The penalty reads parameters listed once."""

    def initialize_module(self, *args, **kwargs):
        super().initialize_module(*args, **kwargs)
        self.listed = list(self.module_.parameters())
        return self

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + sum(p.square().sum() for p in self.listed)


class ReadWeights(NeuralNetRegressor):
    """The penalty reads parameters at each call."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + sum(p.square().sum() for p in self.module_.parameters())


class TrainsTheHead(NeuralNetRegressor):
    def initialize_optimizer(self, *args, **kwargs):
        self.optimizer_ = torch.optim.SGD(self.module_.output.parameters(), lr=0.1)
        return self


class OwnOptimizer(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})


def build(cls=NeuralNetRegressor, module=Mlp, *, after=None, end=None, **params):
    if after is not None:
        params["module__middle"] = after
    if end is not None:
        params["module__end"] = end
    settings = {"verbose": 0, "optimizer": torch.optim.SGD, **params}
    return initialised_net(cls(module, **settings), {}, SEED)


def summed(cls=NeuralNetRegressor, **params):
    return build(cls, criterion__reduction="sum", **params)


def make_data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D_IN)), rng.standard_normal((N, 1))


def decayed(optimizer, decay, **params):
    return build(
        optimizer=optimizer,
        optimizer__weight_decay=decay,
        **{f"optimizer__{name}": value for name, value in params.items()},
    )


def sampled(sampler):
    """As iterator_train__sampler, which skorch hands to the DataLoader."""
    return build(iterator_train__sampler=sampler)


# --- Refused -------------------------------------------------------------------------

RANDOM = {
    "noise": (
        lambda: build(after=Function("noise")),
        "two different outputs for the same rows in eval mode, so that",
    ),
    "augmentation": (
        lambda: build(dataset=AugmentedDataset),
        "two versions of X for the same rows: with random augmentation",
    ),
    "random get_loss": (
        lambda: build(RandomLoss),
        "get_loss gives two different values for the same outputs",
    ),
}

UNSUPPORTED = {
    "transformed X": (lambda: build(dataset=ScaledDataset), "changes X on the way"),
    "transformed y": (lambda: build(dataset=SmoothedTargets), "changes y on the way"),
    "unequal sampling": (
        lambda: sampled(torch.utils.data.WeightedRandomSampler(np.arange(N) + 1.0, N)),
        "WeightedRandomSampler of the net's training iterator does not draw all rows",
    ),
    "maximize": (
        lambda: decayed(torch.optim.Adam, 0.0, maximize=True),
        "Adam has maximize=True. Negate the criterion",
    ),
    "untrained parameters": (
        lambda: build(TrainsTheHead),
        r"does not train the parameters \['hidden\.weight', 'hidden\.bias'\]",
    ),
    "learning criterion": (
        lambda: build(criterion=LearnedScale),
        r"learns parameters outside its module: \['scale'\]",
    ),
    "stale weights": (
        lambda: build(StaleWeights),
        r"gradient of the net's get_loss is not .* read the weights from",
    ),
    "tuple": (
        lambda: build(end=Function("tuple")),
        "must return one tensor. Got tuple instead",
    ),
    "two outputs, one target": (
        lambda: build(module__n_out=2),
        r"outputs have shape \(6, 2\) and the targets \(6, 1\)",
    ),
    "transposed": (
        lambda: build(criterion=OwnAbsoluteError, end=Function("transpose")),
        r"outputs of shape \(1, 6\) for 6 rows",
    ),
    "rows summed up": (
        lambda: build(criterion=OwnAbsoluteError, end=Function("sum")),
        r"outputs of shape \(1, 1\) for 6 rows",
    ),
    "batch statistics": (
        lambda: build(after=nn.BatchNorm1d(4, track_running_stats=False)),
        r"layers middle \(BatchNorm1d\) have track_running_stats=False",
    ),
    "rows mixed": (
        lambda: build(after=Function("first row")),
        "In eval mode the module's output for a row depends on the other rows",
    ),
    "L1": (
        lambda: build(criterion=nn.HingeEmbeddingLoss),
        "The criterion HingeEmbeddingLoss is not twice differentiable",
    ),
    "no forward derivative": (
        lambda: build(after=Function("igamma")),
        "no second derivative here: .*igamma",
    ),
    "not reduced": (
        lambda: build(criterion__reduction="none"),
        r"one number. Got a tensor of shape \(6, 1\) from the criterion MSELoss",
    ),
    "sum in batches beside decay": (
        lambda: summed(batch_size=4, optimizer__weight_decay=0.1),
        r"MSELoss adds up .* batch_size=4 .* 6 rows.*=-1 .*criterion__reduction='mean'",
    ),
    "sum in batches beside a penalty": (
        lambda: summed(ReadWeights, batch_size=5),
        r"weights are penalised, .* batch_size=5 train is not the objective",
    ),
    "own batch size of the iterator": (
        lambda: summed(iterator_train__batch_size=2, optimizer__weight_decay=0.1),
        "batch_size=2 train is not the objective",
    ),
    "NaN": (
        lambda: build(after=Function("root of 0")),
        r"H times a vector is not finite .*\(criterion MSELoss\)",
    ),
}


def admit_on_data(net):
    return check_objective(net, *make_data())


@pytest.mark.parametrize("name", RANDOM)
def test_random_objectives_are_refused(name):
    make, message = RANDOM[name]
    with pytest.raises(StochasticObjectiveError, match=message):
        admit_on_data(make())


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_objectives_are_refused(name):
    make, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedObjectiveError, match=message) as caught:
        admit_on_data(make())
    assert not isinstance(caught.value, StochasticObjectiveError)
    assert isinstance(caught.value, ValueError)


def test_outputs_that_lose_the_row_axis_are_refused():
    X, y = make_data()
    net = build(end=Function("squeeze"))
    with pytest.raises(UnsupportedObjectiveError, match=r"shape \(\) for one row.*-1"):
        check_objective(net, X, y[:, 0])


def test_a_module_without_weights_is_refused():
    net = build()
    net.module_.requires_grad_(False)
    with pytest.raises(UnsupportedObjectiveError, match="Mlp has no trainable param"):
        admit_on_data(net)


def test_module_instances_are_refused():
    net = NeuralNetRegressor(Mlp(n_out=2))
    with pytest.raises(
        UnsupportedObjectiveError, match="must wrap a module class.*Mlp"
    ):
        initialised_net(net, {}, SEED)


# --- Accepted ------------------------------------------------------------------------

ACCEPTED = {
    "dropout": lambda: build(after=nn.Dropout(0.3)),
    "AdamW": lambda: decayed(torch.optim.AdamW, 0.1),
    "own optimizer": lambda: decayed(OwnOptimizer, 0.1),
    "distances": lambda: build(after=Function("cdist")),
    "no dropout": lambda: build(after=nn.Dropout(0.0)),
    "AdamW without decay": lambda: decayed(torch.optim.AdamW, 0.0),
    "own optimizer without decay": lambda: decayed(OwnOptimizer, 0.0),
    "Adam with decay": lambda: decayed(torch.optim.Adam, 0.1),
    "frozen scale of the criterion": lambda: build(
        criterion=LearnedScale, criterion__learns=False
    ),
    "own absolute value": lambda: build(criterion=OwnAbsoluteError),
    "hinge": lambda: build(criterion=Hinge),
    "smooth L1": lambda: build(criterion=nn.SmoothL1Loss),
    "Huber": lambda: build(criterion=nn.HuberLoss),
    "running statistics": lambda: build(after=nn.BatchNorm1d(4)),
    "other normalisation": lambda: build(after=nn.LayerNorm(4)),
    "control flow on the data": lambda: build(after=Function("detached")),
    "shuffling": lambda: build(iterator_train__shuffle=True, batch_size=2),
    "half precision": lambda: half_precision(),
    "own penalty": lambda: build(ReadWeights, batch_size=2),
    "mean in batches": lambda: build(batch_size=2, optimizer__weight_decay=0.1),
    "sum on all rows": lambda: summed(batch_size=-1, optimizer__weight_decay=0.1),
    "sum in one batch": lambda: summed(batch_size=N, optimizer__weight_decay=0.1),
    "sum without penalty": lambda: summed(batch_size=2),
}


def half_precision():
    net = build()
    net.module_.to(torch.bfloat16)
    return net


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    objective = admit_on_data(ACCEPTED[name]())
    w = objective.weights
    assert np.isfinite(objective.hessian(w)).all()


def test_frozen_parameters_need_no_optimizer():
    net = build(TrainsTheHead)
    net.module_.hidden.requires_grad_(False)
    assert admit_on_data(net).n_params == 5


@pytest.mark.parametrize("n_rows", [1, N])
def test_log_probabilities_are_accepted(n_rows):
    """NLLLoss is linear in log-probabilities: Lambda is 0, H is not."""
    net = build(NeuralNet, end=nn.LogSoftmax(-1), module__n_out=3, criterion=nn.NLLLoss)
    X = make_data()[0][:n_rows]
    objective = check_objective(net, X, np.arange(n_rows) % 3)
    assert not objective.output_hessian(objective.weights).any()
    assert objective.hessian(objective.weights).any()


def test_probabilities_and_logits_are_accepted():
    X, y = make_data()[0], np.arange(N) % 3
    net = build(NeuralNetClassifier, end=nn.Softmax(-1), module__n_out=3)
    assert check_objective(net, X, y).n_outputs == 3
    net = build(NeuralNetClassifier, module__n_out=3, criterion=nn.CrossEntropyLoss)
    assert check_objective(net, X, y).n_outputs == 3


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_saturated_probabilities_are_accepted(scale):
    """skorch's log of saturated probabilities has a gradient of rounding."""
    X, y = scale * make_data()[0], np.arange(N) % 2
    net = build(NeuralNetClassifier, end=nn.Softmax(-1), module__n_out=2)
    with torch.no_grad():
        net.module_.output.weight.mul_(1e3)
    assert check_objective(net, X.astype("f4"), y).n_outputs == 2


def test_a_start_at_a_solution_is_accepted():
    """Gradients are compared at other weights: at these both are zero or rounding."""
    net = build()
    with torch.no_grad():
        net.module_.output.weight.mul_(1e3)
    X = torch.as_tensor(make_data()[0], dtype=torch.float32)
    y = net.module_(X).detach().numpy()
    assert np.abs(y).max() > 100.0
    for near in (y, y * np.float32(1 + 1e-6)):
        objective = check_objective(net, X.numpy(), near)
        # Rounding of float32 in outputs of size 1e3, times weights of size 1e3.
        assert np.linalg.norm(objective.gradient(objective.weights)) < 10.0


def test_stale_weights_are_refused_at_a_solution():
    net = build(StaleWeights)
    X = torch.as_tensor(make_data()[0], dtype=torch.float32)
    with pytest.raises(UnsupportedObjectiveError, match="read the weights from"):
        check_objective(net, X.numpy(), net.module_(X).detach().numpy())


# --- Targets -------------------------------------------------------------------------


def test_targets_get_the_shape_of_the_outputs():
    X, y = make_data()
    assert shape_targets(build(), X, y[:, 0]).shape == (N, 1)
    flat = build(end=nn.Flatten(0))
    assert shape_targets(flat, X, y).shape == (N,)
    labels = np.arange(N)
    assert shape_targets(build(criterion=nn.CrossEntropyLoss), X, labels) is labels
    with pytest.raises(UnsupportedObjectiveError, match=r"shape \(2,\) per row"):
        shape_targets(build(module__n_out=2), X, y)


def test_shaping_targets_leaves_the_modes_alone():
    net = build(after=nn.BatchNorm1d(4))
    net.module_.middle.eval()
    shape_targets(net, *make_data())
    assert net.module_.training
    assert not net.module_.middle.training


# --- Nothing else changes ------------------------------------------------------------


def global_state():
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state()


def assert_same_state(before):
    python, numpy, torch_state = global_state()
    assert python == before[0]
    assert all(map(np.array_equal, numpy, before[1]))
    assert torch.equal(torch_state, before[2])


@pytest.mark.parametrize("training", [True, False])
def test_admission_leaves_net_and_random_state_bitwise(training):
    net = build(
        after=nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.0)),
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=0.1,
    )
    net.module_.train(training)
    net.module_.middle[0].train(not training)
    state, modes = copy.deepcopy(net.module_.state_dict()), module_modes(net)
    attributes, settings = set(vars(net)), copy.deepcopy(net.optimizer_.state_dict())
    before = global_state()
    admit_on_data(net)
    assert_same_state(before)
    assert module_modes(net) == modes
    assert set(vars(net)) == attributes
    assert net.optimizer_.state_dict() == settings
    assert net.module_.state_dict().keys() == state.keys()
    for name, tensor in net.module_.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    for parameter in net.module_.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None


def module_modes(net):
    return [(name, m.training) for name, m in net.module_.named_modules()]


@pytest.mark.parametrize("make", [RANDOM["noise"][0], UNSUPPORTED["NaN"][0]])
def test_refusal_leaves_random_state_and_modes(make):
    net = make()
    before = global_state()
    with pytest.raises(UnsupportedObjectiveError):
        admit_on_data(net)
    assert_same_state(before)
    assert all(m.training for m in net.module_.modules())


def test_initialised_net_trains_on_all_rows_from_its_seed():
    template = NeuralNetRegressor(Mlp, verbose=0, warm_start=True, max_epochs=2)
    params = template.get_params(deep=False)
    before = global_state()
    first, second = (initialised_net(template, {}, SEED) for _ in range(2))
    other = initialised_net(template, {"module__n_out": 2}, SEED + 1)
    assert_same_state(before)
    assert not template.initialized_
    assert template.get_params(deep=False) == params
    # skorch's default split would hold out every fifth row.
    assert template.train_split is not None
    assert first.train_split is None
    assert not first.warm_start
    assert other.module_.output.out_features == 2
    assert torch.equal(first.module_.hidden.weight, second.module_.hidden.weight)
    assert not torch.equal(first.module_.hidden.weight, other.module_.hidden.weight)
    X, y = (a.astype("f4") for a in make_data())
    first.fit(X, y)
    assert first.history[-1, "batches", 0, "train_batch_size"] == N
    assert "valid_loss" not in first.history[-1]
