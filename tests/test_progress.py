"""Progress on standard error, and silence where it is not asked for."""

import numpy as np
import pytest
import torch

from sksetsens import SolutionSetEstimator
from sksetsens._progress import progress, progress_bar
from sksetsens.networks import DFCNNRegressor

torch.set_num_threads(1)

X = np.random.RandomState(0).standard_normal((10, 2))


@pytest.mark.parametrize("verbose", [0, 1])
def test_the_items_come_through(verbose, capfd):
    assert list(progress(iter("abc"), 3, "letters", verbose)) == ["a", "b", "c"]
    with progress_bar(None, "steps", verbose) as advance:
        advance(2)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("letters" in err and "steps" in err) if verbose else err == ""


def test_the_bar_is_closed_by_what_is_raised(capfd):
    def broken():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=""):
        list(progress(broken(), 2, "broken", 1))
    # leave=False: the line is wiped.
    assert capfd.readouterr().err.endswith("\r")


@pytest.mark.parametrize("verbose", [0, 1])
def test_restarts_have_a_bar(verbose, capfd, tmp_path):
    net = DFCNNRegressor(
        module__hidden_widths=(),
        module__train_output=True,
        optimizer__weight_decay=0.1,
        max_epochs=1,
    )
    settings = {"random_state": 0, "verbose": verbose, "memory": tmp_path}
    SolutionSetEstimator(net, n_restarts=2, **settings).fit(X, X[:, 0])
    out, err = capfd.readouterr()
    assert out == ""
    assert ("restarts" in err and "2/2" in err) if verbose else err == ""
    # Restarts that are known already are done from the start.
    SolutionSetEstimator(net, n_restarts=3, **settings).fit(X, X[:, 0])
    err = capfd.readouterr().err
    assert ("2/3" in err and "0/3" not in err) if verbose else err == ""
