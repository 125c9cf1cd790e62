"""Where an answer must not be given with confidence: one test per way to be wrong."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale
from skorch import NeuralNetRegressor
from torch import nn

from sksetsens import (
    SolutionSetEstimator,
    follow_path,
    linear_range,
    lipschitz_inclusion,
    lipschitz_modulus,
    mordukhovich_criterion,
    set_convergence,
    stability_report,
    target_perturbation,
)
from sksetsens.datasets import (
    make_dead_feature,
    make_degenerate_product,
    make_fold,
    make_saddle,
    make_toy_network,
)
from sksetsens.exceptions import NonlinearityWarning
from sksetsens.metrics import distance_to_set, excess, pompeiu_hausdorff
from sksetsens.networks import DFCNNRegressor

pytestmark = pytest.mark.filterwarnings(
    "ignore::sksetsens.exceptions.IllPosedWarning",
    "ignore::sksetsens.exceptions.StationarityWarning",
)


class Ridge(nn.Module):
    """f(x) = x w without intercept."""

    def __init__(self, n_features=1):
        super().__init__()
        self.linear = nn.Linear(n_features, 1, bias=False)

    def forward(self, X):
        return self.linear(X)


def fitted(module, X, y, **params):
    net_params = {k: v for k, v in params.items() if "__" in k}
    own = {k: v for k, v in params.items() if "__" not in k}
    net = NeuralNetRegressor(
        module, train_split=None, max_epochs=1, lr=0.0, **net_params
    )
    return SolutionSetEstimator(net, n_restarts=1, random_state=0, **own).fit(X, y)


def degenerate():
    data = make_degenerate_product()
    return fitted(data.module, data.X, data.y, module__start=(0.0, 0.0)), data


def test_a_shift_of_zero_is_no_proof_of_rest():
    """A row of zeros moves away: to first order nothing happens, and w halves."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((20, 1))
    y = X[:, 0] + 0.1 * rng.standard_normal(20)
    X[0], y[0] = 0.0, 0.0
    model = fitted(Ridge, X, y, optimizer__weight_decay=0.01)
    moved = X.copy()
    moved[0] = 5.0
    with pytest.warns(NonlinearityWarning):
        predicted = model.sensitivity(moved)
    assert predicted.shift_norm[0] == pytest.approx(0.0, abs=1e-12)
    assert not predicted.trustworthy[0]
    assert predicted.nonlinearity[0] == pytest.approx(1.0)
    assert linear_range(model, moved).fraction[0] < 1.0


def test_convergence_sees_the_rank_of_the_perturbed_problem():
    """A dead feature that comes alive: the solutions run away as the data settles."""
    data = make_dead_feature(random_state=0)
    model = fitted(data.module, data.X, data.y, module__n_features=data.X.shape[1])
    D = np.zeros_like(data.X)
    D[:, data.dead_feature] = np.random.RandomState(0).standard_normal(len(data.X))
    found = set_convergence(
        model, [data.X + t * D for t in (0.1, 0.01, 0.001)], radius=0.5
    )
    assert not found.converges[0]
    assert "does not converge" in found.status[0]
    assert "dimension of the set changes" in found.status[0]


@pytest.mark.parametrize("problem", ["degenerate", "saddle"])
def test_the_criterion_is_not_certified_there(problem):
    if problem == "degenerate":
        model, _ = degenerate()
    else:
        data = make_saddle()
        model = fitted(data.module, data.X, data.y, module__start=(0.0, 0.0))
    (found,) = mordukhovich_criterion(model)
    assert not found.holds
    assert not found.is_certified
    assert found.status.startswith("not certified")
    assert not mordukhovich_criterion(model.graphical_derivatives_[0]).holds


def test_paths_do_not_start_or_end_at_untrustworthy_points():
    model, data = degenerate()
    path = follow_path(model, data.X_perturbed)
    assert not path.arrived[0]
    assert path.stopped_at[0] == 0.0
    assert path.status[0].startswith("starts from an untrustworthy solution")
    report = stability_report(model, data.X_perturbed)
    assert not report.is_trustworthy
    assert np.isinf(report.bound[0])


def test_no_empirical_modulus_where_there_is_no_exact_one():
    model, _ = degenerate()
    assert np.isnan(lipschitz_modulus(model, method="empirical", size=0.1))


def test_the_linear_range_does_not_depend_on_the_size_asked_about():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    model = fitted(Ridge, X, y, module__n_features=2, optimizer__weight_decay=0.1)
    D = rng.standard_normal(X.shape)
    ranges = [linear_range(model, X + s * D) for s in (1.0, 0.1, 1e-3, 1e-5)]
    sizes = [found.size[0] for found in ranges]
    np.testing.assert_allclose(sizes, sizes[0], rtol=0.03)
    assert ranges[-1].fraction[0] > 100.0
    # Targets enter linearly: no limit.
    assert np.isinf(linear_range(model, X, y + 0.1).fraction[0])
    assert linear_range(model, X, y + 0.1).size_per_row[0] == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_turning_back_is_no_obstacle(seed):
    """w(x) = x y / (x^2 + 1) has a maximum: its velocity passes through 0."""
    rng = np.random.RandomState(seed)
    X, y = rng.standard_normal((8, 1)), rng.standard_normal(8)
    model = fitted(Ridge, X, y, optimizer__weight_decay=0.2)
    moved = X + 2.0 * rng.standard_normal(X.shape)
    path = follow_path(model, moved)
    assert path.arrived[0], path.status[0]
    # MSELoss has the gradient 2/n X'(Xw - y), and the decay 0.2 w.
    x = moved[:, 0]
    exact = (x @ y) / (x @ x + 0.1 * len(x))
    assert path.solution_set.weights[0, 0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("target", [20.0, 48.0, 52.0, 55.0])
def test_a_path_does_not_jump_over_a_fold(target):
    """From the left well: it ends at the fold, however far beyond the data goes."""
    data = make_fold(random_state=0)
    fold = fitted(data.module, data.X, data.y, module__start=data.weights.item())
    far = data.X + target * (data.X_perturbed - data.X)
    path = follow_path(fold, far)
    assert not path.arrived[0]
    assert "folds" in path.status[0]
    assert path.stopped_at[0] == pytest.approx(data.fold_fraction / target, rel=1e-3)


def test_stops_where_branches_meet_stay_on_the_path():
    """Diabetes along the worst direction: an eigenvalue falls to 0 at 0.237."""
    X, y = map(scale, load_diabetes(return_X_y=True))
    net = DFCNNRegressor(
        module__hidden_widths=(16,),
        module__activation="tanh",
        module__bias=True,
        module__train_output=True,
        optimizer__weight_decay=0.1,
        max_epochs=20,
    )
    model = SolutionSetEstimator(
        net,
        n_restarts=1,
        perturbation="worst_case",
        perturbation_size=0.3,
        random_state=0,
    ).fit(X, y)
    path = follow_path(model, model.perturb())
    assert not path.arrived[0]
    assert path.tracks[0].t[-1] <= path.stopped_at[0] < 1.0
    assert path.stopped_at[0] == pytest.approx(0.237, abs=0.005)
    assert "branches meet" in path.status[0]


def test_gauss_newton_is_exact_only_where_it_neglects_nothing():
    """At a maximum it sees a minimum: told, and without a modulus."""
    data = make_fold(random_state=0)
    model = fitted(
        data.module, data.X, data.y, module__start=0.0, curvature="ggn", polish=False
    )
    assert not model.solution_set_.trustworthy[0]
    assert "curvature='ggn' neglects" in model.solution_set_.status[0]
    assert np.isinf(model.lipschitz_modulus_)


def test_targets_are_not_sought_from_untrustworthy_solutions():
    model, _ = degenerate()
    with pytest.raises(ValueError, match="'solution' .*degenerate point"):
        target_perturbation(model, np.array([0.5, 0.5]))


def test_what_is_kept_cannot_be_written_to():
    toy = make_toy_network()
    model = fitted(toy.module, toy.X, toy.y, module__start=(1.0, 2.0))
    _, direction, evidence = lipschitz_modulus(
        model, return_direction=True, return_evidence=True
    )
    direction *= 0.1
    with pytest.raises(ValueError, match="read-only"):
        evidence[0].values[:] = 0.0
    _, again = lipschitz_modulus(model, return_direction=True)
    assert np.linalg.norm(again) == pytest.approx(1.0)


def test_target_direction_has_the_shape_of_y():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    model = fitted(Ridge, X, y, module__n_features=2, optimizer__weight_decay=0.1)
    value, direction = lipschitz_modulus(model, level="target", return_direction=True)
    assert direction.shape == y.shape
    shift = model.sensitivity(X, y + 1e-3 * direction).shift_norm[0]
    assert shift == pytest.approx(1e-3 * value, rel=1e-8)


def test_convergence_is_judged_by_the_end_of_the_sequence():
    """w(x) = x / (x^2 + 1) first comes back towards its value at 0.5."""
    model = fitted(Ridge, [[0.5]], [1.0], optimizer__weight_decay=2.0)
    sequence = [np.array([[x]]) for x in (2.5, 2.001, 0.7, 0.6, 0.55)]
    found = set_convergence(model, sequence)
    assert found.converges[0]
    assert found.order[0] == pytest.approx(1.0, abs=0.3)


def test_an_inclusion_that_says_nothing_does_not_hold():
    toy = make_toy_network()
    model = fitted(toy.module, toy.X, toy.y, module__start=(1.0, 2.0))
    found = lipschitz_inclusion(model, toy.X_perturbed, radius=1e-6)
    assert not found.holds[0]
    assert "misses the retrained set" in found.status[0]


class PriorNet(NeuralNetRegressor):
    """A penalty that pulls each weight to a place of its own."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        for p in self.module_.parameters():
            goal = torch.linspace(-1.0, 1.0, p.numel(), dtype=p.dtype)
            loss = loss + 0.1 * ((p.reshape(-1) - goal) ** 2).sum()
        return loss


class TestSymmetriesOfTheObjective:
    @staticmethod
    def model(net=NeuralNetRegressor, **params):
        rng = np.random.RandomState(0)
        X = rng.standard_normal((30, 3)).astype(np.float32)
        y = rng.standard_normal(30).astype(np.float32)
        layers = DFCNNRegressor(
            module__hidden_widths=(5,),
            module__activation="tanh",
            module__train_output=True,
            optimizer__weight_decay=0.01,
            max_epochs=20,
        )
        if net is not NeuralNetRegressor:
            layers = net(
                layers.module,
                module__n_features=3,
                module__hidden_widths=(5,),
                module__activation="tanh",
                module__train_output=True,
                train_split=None,
            )
        model = SolutionSetEstimator(layers, n_restarts=2, random_state=0, **params)
        return model.fit(X, y)

    def test_a_penalty_that_tells_copies_apart(self):
        solutions = self.model(PriorNet).solution_set_
        with pytest.raises(ValueError, match="none of its objective"):
            solutions.aligned_to(solutions[:1])

    def test_early_stopped_copies_keep_their_stationarity(self):
        solutions = self.model(polish=False).solution_set_
        copies = solutions.aligned_to(solutions[:1])
        for objective, w in zip(copies.objectives, copies.weights, strict=True):
            assert np.linalg.norm(objective.gradient(w)) < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda S: excess(np.zeros((2, 3)), S, radius=1.0), "'D' .* have 3 columns"),
        (lambda S: excess(S, S, radius=1.0, center=[0.0] * 3), "'center' .* columns"),
        (
            lambda S: pompeiu_hausdorff(np.zeros((1, 2)), np.zeros((1, 3)), radius=1.0),
            "'D' .* have 2 columns",
        ),
        (lambda S: S.aligned_to(S.weights), "'reference' .* must be a SolutionSet"),
        (lambda S: distance_to_set(S, S, align="yes"), "'align' .* Got 'yes'"),
    ],
)
def test_sets_that_do_not_fit(call, message):
    toy = make_toy_network()
    model = fitted(toy.module, toy.X, toy.y, module__start=(1.0, 2.0))
    with pytest.raises(ValueError, match=message):
        call(model.solution_set_)


def test_sequences_and_groups_of_another_kind():
    toy = make_toy_network()
    model = fitted(toy.module, toy.X, toy.y, module__start=(1.0, 2.0))
    with pytest.raises(ValueError, match="'X_sequence' .* Got int"):
        set_convergence(model, 3)
    with pytest.raises(ValueError, match="'groups' .* sorted"):
        lipschitz_modulus(
            model, level="group", groups=np.array(["a", None], dtype=object)
        )
    with pytest.raises(ValueError, match="'target_weights' .* real numbers"):
        target_perturbation(model, "abc")
