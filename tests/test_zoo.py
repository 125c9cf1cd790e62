"""Forty kinds of net that people have: accepted, and right against retraining.

Each is trained by skorch as it stands, on a little data; the set's predicted movement
is compared with warm retraining of the same objective, and the net that skorch alone
trained becomes a set by ``from_fitted``.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from likelihoods import CoxLoss, GaussianNet, Heads
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.preprocessing import scale
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import EarlyStopping, GradientNormClipping, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn
from torch.nn import functional as F

from sksetsens import SolutionSetEstimator
from sksetsens.exceptions import ObjectiveMismatchWarning
from sksetsens.networks import DFCNN

N = 60
rng = np.random.default_rng(0)
_X, _y = load_diabetes(return_X_y=True)
X = scale(_X)[:N, :4].astype(np.float32)
y = scale(_y)[:N].astype(np.float32)
X_iris, y_iris = load_iris(return_X_y=True)
X_iris, y_iris = scale(X_iris).astype(np.float32), y_iris.astype(np.int64)
X_iris, y_iris = X_iris[::2], y_iris[::2]
_images, _digits = load_digits(n_class=3, return_X_y=True)
IMAGES = (_images[:N] / 16.0).reshape(N, 1, 8, 8).astype(np.float32)
DIGITS = _digits[:N].astype(np.int64)
SEQUENCES = rng.standard_normal((N, 5, 2)).astype(np.float32)
SUMS = SEQUENCES.sum(axis=(1, 2)) / 3.0
TOKENS = rng.integers(0, 9, (N, 6))
SPAM = (TOKENS == 3).any(axis=1).astype(np.int64)
TABLE = {"numbers": X, "kinds": rng.integers(0, 3, N)}
PAIRS = {"left": X, "right": X[::-1].copy()}
COUNTS = rng.poisson(np.exp(0.5 * X[:, 0])).astype(np.float32)
SURVIVAL = np.stack([np.exp(y), y > -0.5], axis=1).astype(np.float32)
LABELS = (np.stack([y > 0, X[:, 0] > 0, X[:, 1] > 0], 1)).astype(np.float32)


def tanh(n_in, n_out, width=4):
    return nn.Sequential(nn.Linear(n_in, width), nn.Tanh(), nn.Linear(width, n_out))


class Layers(nn.Module):
    """What ``build`` returns, as a module class with arguments."""

    def __init__(self, build=None):
        super().__init__()
        self.layers = build()

    def forward(self, X):
        return self.layers(X)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.cell = kind(2, 3, batch_first=True)
        self.out = nn.Linear(3, 1)

    def forward(self, X):
        return self.out(self.cell(X)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.up = nn.Linear(2, 4)
        layer = nn.TransformerEncoderLayer(
            4, 2, 4, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(4, 1)

    def forward(self, X):
        return self.out(self.encoder(self.up(X)).mean(dim=1))


class ResNet8(nn.Module):
    """Three blocks of two convolutions."""

    def __init__(self, width=2):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1) for _ in range(6)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(6)])
        self.out = nn.Linear(width, 3)

    def forward(self, X):
        h = self.stem(X)
        for k in range(0, 6, 2):
            g = F.silu(self.norms[k](self.convs[k](h)))
            h = h + self.norms[k + 1](self.convs[k + 1](g))
        return self.out(F.silu(h).mean(dim=(2, 3)))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(9, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, X):
        return self.out(torch.tanh(self.words(X)))


class TokensThenCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 2)
        self.cell = nn.GRU(2, 2, batch_first=True)
        self.out = nn.Linear(2, 2)

    def forward(self, X):
        return self.out(self.cell(self.words(X))[0][:, -1])


class Tabular(nn.Module):
    def __init__(self):
        super().__init__()
        self.kinds, self.layers = nn.Embedding(3, 2), tanh(6, 1)

    def forward(self, numbers, kinds):
        return self.layers(torch.cat([numbers, self.kinds(kinds)], dim=1))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch, self.out = tanh(4, 3), nn.Linear(3, 1)

    def forward(self, left, right):
        return self.out((self.branch(left) - self.branch(right)) ** 2)


class Tied(nn.Module):
    """Autoencoder that decodes by the transposed weights of the encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, X):
        return torch.tanh(self.encoder(X)) @ self.encoder.weight + self.bias


class AuxiliaryNet(NeuralNetRegressor):
    """A second head is to reproduce the first input."""

    def get_loss(self, y_pred, y_true, X=None, **kwargs):
        first, second = y_pred
        return self.criterion_(first, y_true) + 0.1 * self.criterion_(second, X[:, :1])


class Penalised(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + 0.02 * sum((p**2).sum() for p in self.module_.parameters())


class Quantiles(nn.Module):
    """Pinball losses, rounded off."""

    def forward(self, outputs, y):
        levels = outputs.new_tensor([0.1, 0.5, 0.9])
        gaps = y.reshape(-1, 1) - outputs
        return (levels * gaps + 0.2 * F.softplus(-gaps / 0.2)).mean()


class Mixture(nn.Module):
    """Negative log-likelihood of two Gaussians."""

    def forward(self, outputs, y):
        logits, means, log_scales = outputs.split(2, dim=1)
        scales = 0.5 + F.softplus(log_scales)
        z = (y.reshape(-1, 1) - means) / scales
        parts = logits.log_softmax(dim=1) - 0.5 * z**2 - scales.log()
        return -parts.logsumexp(dim=1).mean()


class LowRank(nn.Module):
    """A frozen layer, and a trained update of low rank."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.trunk.requires_grad_(False)
        self.down = nn.Parameter(0.3 * torch.randn(1, 4))
        self.up = nn.Parameter(0.3 * torch.randn(4, 1))
        self.out = nn.Linear(4, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.trunk(X) + X @ self.down.T @ self.up.T))


class Dropped(nn.Module):
    def __init__(self, p=0.2):
        super().__init__()
        self.hidden, self.drop, self.out = nn.Linear(4, 4), nn.Dropout(p), tanh(4, 1)

    def forward(self, X):
        return self.out(self.drop(torch.tanh(self.hidden(X))))


class StochasticDepth(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.out = nn.Linear(4, 4), tanh(4, 4), nn.Linear(4, 1)

    def forward(self, X):
        h = torch.tanh(self.first(X))
        if not self.training or torch.rand(()) < 0.5:
            h = h + 0.5 * self.block(h)
        return self.out(h)


class Normed(nn.Module):
    def __init__(self, norm=nn.utils.parametrizations.weight_norm):
        super().__init__()
        self.hidden, self.out = norm(nn.Linear(4, 4)), nn.Linear(4, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.hidden(X)))


class Radial(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres, self.out = nn.Parameter(torch.randn(5, 4)), nn.Linear(5, 1)

    def forward(self, X):
        return self.out(torch.exp(-0.3 * torch.cdist(X, self.centres) ** 2))


class Single(nn.Module):
    """Names float32 where it means the dtype of X."""

    def __init__(self):
        super().__init__()
        self.layers = tanh(4, 1)

    def forward(self, X):
        return self.layers(X.float() * torch.tensor([1.0, 0.5, 1.0, 1.0]))


class Softmaxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = tanh(4, 3)

    def forward(self, X):
        return self.layers(X).softmax(dim=-1)


class Sets(nn.Module):
    """Sums over the members of a set."""

    def __init__(self):
        super().__init__()
        self.each, self.out = tanh(2, 3), nn.Linear(3, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.each(X).sum(dim=1)))


class Logit(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = tanh(4, 1)

    def forward(self, X):
        return self.layers(X).squeeze(-1)


class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.compile(tanh(4, 1), backend="eager")

    def forward(self, X):
        return self.layers(X)


def mlp():
    return tanh(4, 1)


def lazy():
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(1))


def gelu_classes():
    return nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))


def layer_norm():
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 1))


def prelu():
    return nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 1))


def batch_norm_and_pooling():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(18, 3),
    )


def group_norm_and_averages():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def along_time():
    return nn.Sequential(nn.Conv1d(5, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 1))


def quantiles():
    return tanh(4, 3)


def wide_output():
    return tanh(4, 2)


def of_mixture():
    return tanh(4, 6)


def labels():
    return tanh(4, 3)


@dataclass
class Case:
    """A net and its data."""

    module: type = Layers
    build: Any = None
    net: type = NeuralNetRegressor
    X: Any = field(default_factory=lambda: X)
    y: Any = field(default_factory=lambda: y)
    options: dict = field(default_factory=dict)
    # Why its answers are flagged, where they are; one of these, by rounding.
    flagged: tuple[str, ...] = ()
    # Integer codes alone: rows' weights move instead of X.
    moves_rows: bool = False

    def make(self, **params):
        settings = {
            "optimizer": torch.optim.Adam,
            "optimizer__weight_decay": 0.05,
            "lr": 0.02,
            "max_epochs": 40,
            "batch_size": -1,
            "train_split": None,
            "verbose": 0,
            **self.options,
            **params,
        }
        if self.build is not None:
            settings["module__build"] = self.build
        return self.net(self.module, **settings)


def classifier(**options):
    return {"criterion": nn.CrossEntropyLoss, **options}


def without_decay(pattern):
    return {"optimizer__param_groups": [(pattern, {"weight_decay": 0.0})]}


IRIS = {"X": X_iris, "y": y_iris}
ZOO = {
    "MLP": Case(build=mlp),
    "GELU classifier": Case(
        build=gelu_classes, net=NeuralNetClassifier, **IRIS, options=classifier()
    ),
    "ReLU MLP": Case(
        DFCNN,
        options={
            "module__n_features": 4,
            "module__hidden_widths": (4,),
            "module__n_outputs": 1,
        },
    ),
    "CNN with BatchNorm and max pooling": Case(
        build=batch_norm_and_pooling,
        net=NeuralNetClassifier,
        X=IMAGES,
        y=DIGITS,
        options=classifier(),
    ),
    "CNN with GroupNorm": Case(
        build=group_norm_and_averages,
        net=NeuralNetClassifier,
        X=IMAGES,
        y=DIGITS,
        options=classifier(),
    ),
    "ResNet-8": Case(
        ResNet8,
        net=NeuralNetClassifier,
        X=IMAGES[:24],
        y=DIGITS[:24],
        options=classifier(),
    ),
    "convolution along time": Case(build=along_time, X=SEQUENCES, y=SUMS),
    "RNN": Case(Last, X=SEQUENCES, y=SUMS, options={"module__kind": nn.RNN}),
    "LSTM": Case(Last, X=SEQUENCES, y=SUMS),
    "GRU": Case(Last, X=SEQUENCES, y=SUMS, options={"module__kind": nn.GRU}),
    "TransformerEncoder": Case(Attention, X=SEQUENCES, y=SUMS),
    "deep set": Case(Sets, X=SEQUENCES, y=SUMS),
    "EmbeddingBag": Case(
        Bag,
        net=NeuralNetClassifier,
        X=TOKENS,
        y=SPAM,
        options=classifier(optimizer__weight_decay=0.02),
        moves_rows=True,
    ),
    "tokens into a GRU": Case(
        TokensThenCell,
        net=NeuralNetClassifier,
        X=TOKENS,
        y=SPAM,
        options=classifier(optimizer__weight_decay=0.02),
        moves_rows=True,
    ),
    "table with embeddings": Case(Tabular, X=TABLE),
    "Siamese": Case(Siamese, X=PAIRS),
    "tied autoencoder": Case(Tied, y=X),
    "two heads, Gaussian": Case(
        Heads, net=GaussianNet, options={"criterion": nn.GaussianNLLLoss}
    ),
    "auxiliary head": Case(Heads, net=AuxiliaryNet),
    "quantiles": Case(build=quantiles, options={"criterion": Quantiles}),
    "Cox": Case(build=mlp, y=SURVIVAL, options={"criterion": CoxLoss}),
    "mixture density": Case(build=of_mixture, options={"criterion": Mixture}),
    "multi-label": Case(
        build=labels,
        net=NeuralNet,
        y=LABELS,
        options={"criterion": nn.BCEWithLogitsLoss},
    ),
    "multi-output": Case(build=wide_output, y=np.stack([y, X[:, 0] ** 2], axis=1)),
    "frozen trunk, low-rank update": Case(LowRank),
    "dropout": Case(Dropped),
    "stochastic depth": Case(StochasticDepth),
    "AdamW": Case(build=mlp, options={"optimizer": torch.optim.AdamW}),
    "early stopping": Case(
        build=mlp,
        options={"train_split": ValidSplit(4), "callbacks": [EarlyStopping()]},
    ),
    "clipping and a schedule": Case(
        build=mlp,
        options={
            "callbacks": [
                GradientNormClipping(0.5),
                LRScheduler("CosineAnnealingLR", T_max=40),
            ]
        },
    ),
    # The length of what is normed is free: no decay may drive it to 0.
    "weight norm": Case(Normed, options=without_decay("*original1")),
    "spectral norm": Case(
        Normed,
        options={
            "module__norm": nn.utils.parametrizations.spectral_norm,
            **without_decay("*original"),
        },
        flagged=("the curvature jumps", "the rank of H changes"),
    ),
    "LayerNorm": Case(build=layer_norm),
    "PReLU": Case(build=prelu),
    "Huber": Case(build=mlp, options={"criterion": nn.HuberLoss}),
    "Poisson": Case(build=mlp, y=COUNTS, options={"criterion": nn.PoissonNLLLoss}),
    "binary": Case(Logit, net=NeuralNetBinaryClassifier, y=(y > 0).astype(np.int64)),
    "class weights": Case(
        build=gelu_classes,
        net=NeuralNetClassifier,
        **IRIS,
        options=classifier(criterion__weight=torch.tensor([1.0, 2.0, 0.5])),
    ),
    "label smoothing": Case(
        build=gelu_classes,
        net=NeuralNetClassifier,
        **IRIS,
        options=classifier(criterion__label_smoothing=0.1),
    ),
    "softmax in the module": Case(Softmaxed, net=NeuralNetClassifier, **IRIS),
    "penalty in get_loss": Case(
        build=mlp, net=Penalised, options={"optimizer__weight_decay": 0.0}
    ),
    "radial basis": Case(Radial),
    "float32 in forward": Case(Single),
    "lazy": Case(build=lazy),
    "compiled": Case(Compiled),
}


def change(case, size=1e-4):
    """Arguments of ``sensitivity``: another X, or other weights of rows."""
    if case.moves_rows:
        weights = np.ones(N)
        weights[::3] += size
        return {"sample_weight": weights}
    draw = np.random.default_rng(1).standard_normal

    def moved(part):
        if part.dtype.kind == "i":
            return part
        return part.astype(float) + size * draw(part.shape)

    if isinstance(case.X, dict):
        return {"X_perturbed": {name: moved(part) for name, part in case.X.items()}}
    return {"X_perturbed": moved(case.X)}


def gap(model, case):
    """Distance of the predicted from the retrained weights, over the movement."""
    asked = change(case)
    predicted, retrained = model.sensitivity(**asked), model.retrain(**asked)
    truth = retrained.weights - model.solution_set_.weights
    kernel = model.graphical_derivatives_[0].kernel
    off = float(kernel.complement_norm(truth[0] - predicted.shift[0]))
    return off / float(kernel.complement_norm(truth[0]))


# Their dense H takes one derivative per weight.
SLOW = {"ResNet-8"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ZOO],
)
def test_the_zoo(name):
    case = ZOO[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SolutionSetEstimator(case.make(), n_restarts=1, random_state=0)
        model.fit(case.X, case.y)
        sure = model.solution_set_.trustworthy[0]
        if sure:
            assert gap(model, case) < 0.05
        else:
            assert case.flagged
            status = model.solution_set_.status[0]
            assert any(reason in status for reason in case.flagged)
        assert np.isfinite(model.predict(case.X)).all()
        torch.manual_seed(0)
        trained = case.make(max_epochs=5)
        target = case.y
        if case.net is NeuralNetRegressor and np.ndim(target) == 1:
            target = target[:, None]
        trained.fit(
            case.X,
            np.asarray(target, model.targets_.dtype).astype(
                np.int64 if model.targets_.dtype.kind == "i" else np.float32
            ),
        )
        taken = SolutionSetEstimator.from_fitted(trained, case.X, case.y)
        weights = torch.cat(
            [
                p.detach().ravel()
                for p in taken.estimators_[0].module_.parameters()
                if p.requires_grad
            ]
        )
        np.testing.assert_array_equal(taken.solution_set_.weights[0], weights.numpy())
        assert np.isfinite(taken.sensitivity(**change(case)).shift).all()


def test_at_most_three_are_flagged():
    assert len(ZOO) >= 40
    assert sum(bool(case.flagged) for case in ZOO.values()) <= 3


def test_what_is_not_trained_is_told():
    for name in ("dropout", "stochastic depth", "AdamW"):
        model = SolutionSetEstimator(ZOO[name].make(), n_restarts=1, random_state=0)
        with pytest.warns(ObjectiveMismatchWarning):
            model.fit(X, y)
