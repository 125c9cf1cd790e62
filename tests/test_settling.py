"""TrainAndSettle against torch's one-cycle schedule; what it freezes, and its end."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sksetsens import SolutionSetEstimator
from sksetsens.datasets import load_digits_images
from sksetsens.networks import DFCNNClassifier, ResNetClassifier, TrainAndSettle

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def images():
    X, y = load_digits_images(24, random_state=0)
    return X, y % 3


def _net(callback, **kwargs):
    kwargs = {"max_epochs": 6, "batch_size": 8, **kwargs}
    return ResNetClassifier(
        module__depth=8,
        module__width=3,
        optimizer=torch.optim.SGD,
        lr=0.1,
        callbacks=[callback],
        **kwargs,
    )


class Recorder(TrainAndSettle):
    """Also writes down rates, and a running mean before each epoch."""

    def on_epoch_begin(self, net, *args, **kwargs):
        super().on_epoch_begin(net, *args, **kwargs)
        self.means_ = [*getattr(self, "means_", []), _mean(net)]

    def on_batch_begin(self, net, *args, **kwargs):
        super().on_batch_begin(net, *args, **kwargs)
        rate = net.optimizer_.param_groups[0]["lr"]
        self.rates_ = [*getattr(self, "rates_", []), rate]


def _mean(net):
    return net.module_.stem[1].running_mean.clone()


def _recorder(net):
    return dict(net.callbacks_)["Recorder"]


def _torch_one_cycle(peak, n_steps):
    """Rates of torch, whose last step reaches the end of the cycle."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=n_steps + 1
    )
    rates = []
    for _ in range(n_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def test_rates_are_torchs_one_cycle(images):
    """Ten epochs of three batches, so that torch's rise ends on a step as well."""
    callback = Recorder(10, 10, settling_rate=0.5, loss_goal=0.0)
    net = _net(callback, max_epochs=30).fit(*images)
    rates = np.array(_recorder(net).rates_).reshape(3, 30)
    for stage, peak in enumerate((0.1, 0.05, 0.1)):
        # torch ends the rise one step early, and falls to 4e-6 of the peak, not to 0.
        np.testing.assert_allclose(
            rates[stage], _torch_one_cycle(peak, 30), atol=0.13 * peak
        )
        assert rates[stage].max() == pytest.approx(peak)
        assert rates[stage][0] == pytest.approx(peak / 25)
        assert rates[stage][-1] < 0.01 * peak


def test_statistics_move_first_and_stand_still_then(images):
    net = _net(Recorder(3, 3)).fit(*images)
    means = [*_recorder(net).means_, _mean(net)]
    moved = [not torch.equal(a, b) for a, b in zip(means, means[1:], strict=False)]
    assert moved == [True, True, True, False, False, False]
    assert net.module_.frozen_statistics


@pytest.mark.parametrize(("goal", "n_epochs"), [(100.0, 5), (0.0, 9)])
def test_a_stage_that_reaches_the_goal_is_the_last(images, goal, n_epochs):
    net = _net(TrainAndSettle(3, 2, loss_goal=goal), max_epochs=9).fit(*images)
    assert len(net.history) == n_epochs


def test_refit_begins_with_moving_statistics(images):
    net = _net(TrainAndSettle(1, 2), max_epochs=3).fit(*images)
    net.set_params(max_epochs=1).fit(*images)
    assert not net.module_.frozen_statistics


def test_clone_and_pickle(images):
    net = _net(TrainAndSettle(2, 2, settling_rate=0.3, loss_goal=0.5))
    callback = clone(net).callbacks[0]
    assert callback is not net.callbacks[0]
    assert callback.get_params() == net.callbacks[0].get_params()
    fitted = pickle.loads(pickle.dumps(net.fit(*images)))
    np.testing.assert_array_equal(fitted.predict(images[0]), net.predict(images[0]))


def test_restarts_are_deterministic_and_cached(images, tmp_path):
    net = _net(TrainAndSettle(2, 4), iterator_train__shuffle=True)
    model = SolutionSetEstimator(
        net,
        n_restarts=1,
        polish=False,
        solver="lsmr",
        memory=tmp_path,
        random_state=0,
    )
    first = model.fit(*images)
    weights = first.solution_set_.weights
    assert clone(model).fit(*images).restart_report_["cached"].all()
    again = clone(model).set_params(memory=None).fit(*images)
    np.testing.assert_array_equal(again.solution_set_.weights, weights)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_epochs": 0}, r"'n_epochs' .* positive integer\. Got 0"),
        ({"settling_epochs": 2.0}, r"'settling_epochs' .* Got 2\.0"),
        ({"settling_rate": -1}, r"'settling_rate' .* at least 0\. Got -1"),
        ({"loss_goal": "low"}, r"'loss_goal' .* Got 'low'"),
    ],
)
def test_invalid_parameters(images, params, match):
    with pytest.raises(ValueError, match=match):
        _net(TrainAndSettle(**params)).fit(*images)


def test_modules_without_statistics_are_refused():
    net = DFCNNClassifier(callbacks=[TrainAndSettle()])
    with pytest.raises(TypeError, match=r"'freeze_statistics'.* Got DFCNN instead"):
        net.fit(np.eye(3), np.arange(3))
