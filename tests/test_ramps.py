"""Piecewise-linear operations as ramps: the same values, by gates that can be held."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sksetsens.objective import Kinks, Objective, initialised_net
from sksetsens.objective._gates import Plain, Recorder, Smoothed
from sksetsens.objective._ramps import RampMode

IMAGES = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 6, 5)))
ROWS = torch.from_numpy(4.0 * np.random.RandomState(1).standard_normal((7, 6)))
OTHER = ROWS.flip(0) + 0.1

OPERATIONS = {
    "relu": (F.relu, ROWS),
    "torch.relu": (torch.relu, ROWS),
    "method": (lambda z: z.relu(), ROWS),
    "nn.ReLU": (nn.ReLU(), ROWS),
    "leaky": (lambda z: F.leaky_relu(z, 0.2), ROWS),
    "nn.LeakyReLU": (nn.LeakyReLU(0.3), ROWS),
    "prelu": (nn.PReLU(6, init=0.4).double(), ROWS),
    "rrelu": (nn.RReLU().eval(), ROWS),
    "relu6": (nn.ReLU6(), ROWS),
    "hardtanh": (nn.Hardtanh(-0.5, 2.0), ROWS),
    "hardsigmoid": (nn.Hardsigmoid(), ROWS),
    "hardswish": (nn.Hardswish(), ROWS),
    "softshrink": (nn.Softshrink(0.7), ROWS),
    "threshold": (nn.Threshold(0.5, 0.5), ROWS),
    "selu": (nn.SELU(), ROWS),
    "abs": (torch.abs, ROWS),
    "builtin abs": (abs, ROWS),
    "clamp": (lambda z: z.clamp(-1.0, 2.0), ROWS),
    "clamp by tensors": (lambda z: torch.clamp(z, OTHER - 1.0, OTHER), ROWS),
    "clip below": (lambda z: torch.clip(z, min=0.5), ROWS),
    "clamp_max": (lambda z: z.clamp_max(0.5), ROWS),
    "maximum": (lambda z: torch.maximum(z, OTHER), ROWS),
    "minimum": (lambda z: torch.minimum(z, OTHER), ROWS),
    "max of two": (lambda z: torch.max(z, OTHER), ROWS),
    "max of all": (lambda z: z.max(), ROWS),
    "max along": (lambda z: z.max(dim=1).values, ROWS),
    "min along": (lambda z: z.min(dim=0, keepdim=True)[0], ROWS),
    "amax": (lambda z: z.amax((1, 2)), IMAGES),
    "amin": (lambda z: z.amin(-1, keepdim=True), IMAGES),
    "max_pool1d": (lambda z: F.max_pool1d(z, 2), ROWS),
    "nn.MaxPool1d": (nn.MaxPool1d(3, 2, 1), ROWS),
    "max_pool2d": (lambda z: F.max_pool2d(z, 2), IMAGES),
    "nn.MaxPool2d": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGES),
    "dilated": (nn.MaxPool2d((2, 2), (1, 2), (1, 0), (2, 1)), IMAGES),
    "adaptive": (nn.AdaptiveMaxPool2d((3, 1)), IMAGES),
    "adaptive 1d": (nn.AdaptiveMaxPool1d(2), ROWS),
    "l1_loss": (lambda z: F.l1_loss(z, OTHER, reduction="none"), ROWS),
    "nn.L1Loss": (lambda z: nn.L1Loss()(z, OTHER), ROWS),
    "norm": (lambda z: z.norm(p=1), ROWS),
    "vector_norm": (lambda z: torch.linalg.vector_norm(z, 1), ROWS),
}


def rewritten(function, z, gating):
    with RampMode(gating, None, in_loss=False):
        return function(z)


@pytest.mark.parametrize("name", OPERATIONS)
def test_ramps_are_the_operation(name):
    function, z = OPERATIONS[name]
    recorder = Recorder(Plain())
    found = rewritten(function, z, recorder)
    assert recorder.inputs, "not seen"
    torch.testing.assert_close(found, function(z), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", OPERATIONS)
def test_derivatives_are_those_of_the_operation(name):
    function, z = OPERATIONS[name]
    u = torch.randn(function(z).shape, dtype=z.dtype, generator=torch.manual_seed(0))

    def pulled(evaluate):
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad((evaluate(leaf) * u).sum(), leaf)[0]

    found = pulled(lambda leaf: rewritten(function, leaf, Plain()))
    # torch's own hardsigmoid has a sixth in float32.
    rtol = 1e-7 if name in ("hardsigmoid", "hardswish") else 1e-13
    torch.testing.assert_close(found, pulled(function), rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("name", OPERATIONS)
def test_smoothed_ramps_come_near_it(name):
    function, z = OPERATIONS[name]
    gaps = [
        float((rewritten(function, z, Smoothed(eps, {})) - function(z)).abs().max())
        for eps in (1e-2, 1e-4)
    ]
    assert 0.0 < gaps[1] <= 0.02 * gaps[0] + 1e-12


@pytest.mark.parametrize(
    "function",
    [
        lambda z: F.relu_(z.clone()),
        lambda z: nn.ReLU(inplace=True)(z.clone()),
        lambda z: nn.LeakyReLU(0.2, inplace=True)(z.clone()),
        lambda z: nn.Hardtanh(-1.0, 1.0, inplace=True)(z.clone()),
        lambda z: z.clone().clamp_(-1.0, 1.0),
        lambda z: z.clone().abs_(),
    ],
)
def test_operations_in_place_change_their_input(function):
    torch.testing.assert_close(
        rewritten(function, ROWS, Plain()), function(ROWS), rtol=1e-14, atol=1e-14
    )
    z = ROWS.clone()
    with RampMode(Plain(), None, in_loss=False):
        nn.ReLU(inplace=True)(z)
    torch.testing.assert_close(z, ROWS.relu())


@pytest.mark.parametrize(
    "function",
    [
        lambda z: F.threshold(z, 0.5, 0.0),  # it jumps
        lambda z: F.relu(z.long()),
        lambda z: F.max_pool2d(IMAGES, 2, return_indices=True)[0],
        lambda z: z.norm(),
        lambda z: torch.nn.RReLU().train()(z),
    ],
)
def test_what_is_no_ramp_is_left_alone(function):
    recorder = Recorder(Plain())
    rewritten(function, ROWS, recorder)
    assert not recorder.inputs


class _Mixed(nn.Module):
    """ReLU of several kinds, one of which passes through a maximum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 4)
        self.last, self.slope = nn.Linear(2, 1), nn.PReLU()

    def forward(self, X):
        h = F.leaky_relu(self.first(X), 0.1, True)
        h = self.slope(self.second(h)) + self.second(h).clamp(-0.3, 0.3)
        return self.last(F.max_pool1d(h, 2))


def mixed(batch_size=None):
    rng = np.random.RandomState(0)
    net = initialised_net(
        NeuralNetRegressor(_Mixed, optimizer__weight_decay=0.01), {}, 0
    )
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 1))
    return Objective(net, X, y, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_gates_as_they_are_change_nothing(batch_size):
    o, w = mixed(batch_size), mixed().weights
    inputs = mixed().ramps(w).inputs
    fixed = o.on_kinks(Kinks.none(), {call: t > 0 for call, t in inputs.items()})
    np.testing.assert_allclose(fixed.gradient(w), mixed().gradient(w), atol=1e-14)
    np.testing.assert_allclose(fixed.hessian(w), mixed().hessian(w), atol=1e-13)
    np.testing.assert_allclose(fixed.jacobian(w), mixed().jacobian(w), atol=1e-13)


def test_held_gates_make_the_objective_smooth():
    """Far from w, where signs differ, H is still the derivative of R."""
    o = mixed()
    w, rng = o.weights, np.random.RandomState(0)
    pattern = {call: t > 0 for call, t in o.ramps(w).inputs.items()}
    fixed = o.on_kinks(Kinks.none(), pattern)
    there, v = w + rng.standard_normal(w.size), rng.standard_normal(w.size)
    h = 1e-5
    slope = (fixed.gradient(there + h * v) - fixed.gradient(there - h * v)) / (2 * h)
    np.testing.assert_allclose(fixed.hessian(there) @ v, slope, rtol=1e-7, atol=1e-8)


def some_kinks(o):
    places = np.array([3, 17, 20])
    return Kinks.at(np.array([0, 0, 2]), places, np.array([0.3, 0.5, 0.2]))


def test_kinks_derivatives_are_those_of_their_inputs():
    o = mixed()
    kinks, w, rng = some_kinks(o), o.weights, np.random.RandomState(0)
    o = o.on_kinks(kinks)
    v, dX, h = rng.standard_normal(w.size), rng.standard_normal(o.input_shape), 1e-6

    def inputs(t):
        moved = o.with_data(o.inputs + t * dX)
        return moved.ramps(w + t * v).at(kinks)[0]

    slope = (inputs(h) - inputs(-h)) / (2 * h)
    Z, D = o.kink_jacobian(w), o.kink_input_jacobian(w)
    in_data = np.einsum("kij,ij->k", D, dX)
    np.testing.assert_allclose(Z @ v + in_data, slope, rtol=1e-7)
    np.testing.assert_allclose(o.kink_tangent(w, dX), in_data, rtol=1e-12)
    u = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        o.kink_adjoint(w, u), np.einsum("kij,k->ij", D, u), atol=1e-14
    )
    tangents = o.ramp_tangents(w, v, dX)
    np.testing.assert_allclose(kinks.taken(tangents), slope, rtol=1e-7)


def test_forces_are_derivatives_along_gates():
    """``dL / ds = force * t`` for a gate s of a ramp with input t."""
    o = mixed()
    kinks, w, h = some_kinks(o), o.weights, 1e-6
    t, forces = o.on_kinks(kinks).ramps(w).at(kinks)
    for k in range(len(kinks)):
        step = h * np.eye(len(kinks))[k]
        ahead, behind = (
            o.on_kinks(kinks.with_gates(kinks.gates + s)).loss(w) for s in (step, -step)
        )
        assert (ahead - behind) / (2 * h) == pytest.approx(forces[k] * t[k], rel=1e-6)


def test_a_net_without_kinks_has_no_ramps():
    class Smooth(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))

    net = initialised_net(NeuralNetRegressor(Smooth), {}, 0)
    rng = np.random.RandomState(0)
    o = Objective(net, rng.standard_normal((5, 3)), rng.standard_normal((5, 1)))
    assert not o.has_ramps
