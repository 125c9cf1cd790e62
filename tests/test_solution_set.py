"""Solution sets as containers, as sets of points, and on disk; set distances."""

import html
import json
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import directed_hausdorff
from skorch import NeuralNetRegressor

from sksetsens import PredictedSolutionSet, SolutionSet, SolutionSetEstimator
from sksetsens.datasets import (
    make_dead_feature,
    make_toy_network,
    make_underdetermined_linear,
)
from sksetsens.linalg import Subspace
from sksetsens.metrics import distance_to_set, excess, pompeiu_hausdorff
from sksetsens.networks import DFCNNBinaryClassifier, DFCNNClassifier, DFCNNRegressor

torch.set_num_threads(1)

_NET = {
    "module__hidden_widths": (4,),
    "module__activation": "tanh",
    "module__bias": True,
    "module__train_output": True,
    "optimizer__weight_decay": 1e-2,
    "max_epochs": 5,
}
_RNG = np.random.RandomState(0)
X = _RNG.standard_normal((20, 3))
y = X[:, 0] + 0.1 * _RNG.standard_normal(20)
LABELS = np.digitize(X[:, 0], [-0.5, 0.5])


def _model(net=None, **params):
    net = DFCNNRegressor(**_NET) if net is None else net
    defaults = {"n_restarts": 3, "perturbation_size": 1e-3, "random_state": 0}
    return SolutionSetEstimator(net, **{**defaults, **params})


def _linear_model(data, **params):
    net = NeuralNetRegressor(
        data.module,
        module__n_features=data.X.shape[1],
        max_epochs=3,
        train_split=None,
        verbose=0,
    )
    return _model(net, **params).fit(data.X, data.y)


@pytest.fixture(scope="module")
def data():
    return make_underdetermined_linear(random_state=0)


@pytest.fixture(scope="module")
def linear(data):
    """Three interpolating solutions, all on the one affine set {w : X w = y}."""
    return _linear_model(data)


@pytest.fixture(scope="module")
def regressor():
    return _model().fit(X, y)


@pytest.fixture(scope="module")
def classifier():
    return _model(DFCNNClassifier(**_NET), n_restarts=2).fit(X, LABELS)


@pytest.fixture(scope="module")
def half_dead():
    return make_dead_feature(random_state=0)


@pytest.fixture(scope="module")
def empty(half_dead):
    """A predicted set whose pieces are all empty."""
    model = _linear_model(half_dead, n_restarts=2)
    with pytest.warns(UserWarning, match="predicted set is empty at 2 of 2"):
        return model.sensitivity(half_dead.X_perturbed_dead)


def _dense_distance(points, solutions):
    """Distance to the nearest piece, through a dense kernel basis of each Hessian."""
    distances = []
    for objective, w, rank in zip(
        solutions.objectives, solutions.weights, solutions.ranks, strict=True
    ):
        hessian = objective.hessian_product(w, np.eye(len(w)))
        eigenvalues, vectors = np.linalg.eigh(hessian)
        order = np.argsort(-np.abs(eigenvalues))
        kept = vectors[:, order[:rank]]
        distances.append(np.linalg.norm((points - w) @ kept, axis=1))
    return np.min(distances, axis=0)


# --- Container -----------------------------------------------------------------------


def _assert_same_set(one, other):
    assert type(one) is type(other)
    for name in ("weights", *one.EVIDENCE):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(one.kernels) == len(other.kernels)
    for a, b in zip(one.kernels, other.kernels, strict=True):
        np.testing.assert_array_equal(a.basis, b.basis)
        assert a.is_complement == b.is_complement


def test_length_and_iteration(regressor):
    solutions = regressor.solution_set_
    assert len(solutions) == 3
    members = list(solutions)
    assert [len(member) for member in members] == [1, 1, 1]
    for i, member in enumerate(members):
        _assert_same_set(member, solutions[i])
        np.testing.assert_array_equal(member.weights[0], solutions.weights[i])


@pytest.mark.parametrize(
    ("key", "positions"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(None), [0, 1, 2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(0, 0), []),
        ([2, 0, 0], [2, 0, 0]),
        ([-1], [2]),
        (np.array([True, False, True]), [0, 2]),
        ([False, False, False], []),
    ],
)
def test_indexing(regressor, key, positions):
    solutions = regressor.solution_set_
    part = solutions[key]
    assert isinstance(part, SolutionSet)
    assert len(part) == len(part.kernels) == len(part.objectives) == len(positions)
    np.testing.assert_array_equal(part.weights, solutions.weights[positions])
    for name in SolutionSet.EVIDENCE:
        expected = getattr(solutions, name)[positions]
        np.testing.assert_array_equal(getattr(part, name), expected, err_msg=name)
    for i, position in enumerate(positions):
        assert part.kernels[i] is solutions.kernels[position]
        assert part.objectives[i] is solutions.objectives[position]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (3, "Solution 3 does not exist: the set has 3 solutions"),
        (-4, "Solution -4 does not exist"),
        ([0, 5], "index 5 is out of bounds"),
        ([True], "boolean index did not match"),
        ("first", "only integers, slices"),
        (1.5, "only integers, slices"),
        (None, r"an integer, a slice, .* or a mask of shape \(3,\). Got None"),
        (True, "an integer, a slice"),
        ([[0, 1]], "an integer, a slice"),
        ((0, 1), "too many indices"),
    ],
)
def test_indices_that_do_not_exist(regressor, key, message):
    with pytest.raises(IndexError, match=message):
        regressor.solution_set_[key]


def test_a_part_is_a_set(linear, data):
    part = linear.solution_set_[1:]
    np.testing.assert_allclose(
        part.predict(data.X), linear.solution_set_.predict(data.X)[1:], rtol=1e-14
    )
    np.testing.assert_array_equal(part.sample(2, 0.1, 0).shape, (2, 2, data.X.shape[1]))
    assert len(part[0][0]) == 1
    assert "2 solutions in R^9" in repr(part)


def test_an_empty_part(linear, data):
    nothing = linear.solution_set_[:0]
    assert len(nothing) == 0
    assert list(nothing) == []
    np.testing.assert_array_equal(nothing.distance(np.zeros((2, 9))), [np.inf] * 2)
    assert nothing.sample(4, 1.0).shape == (0, 4, 9)
    with pytest.raises(ValueError, match="holds no solutions and cannot predict"):
        nothing.predict(data.X)
    assert "0 solutions" in repr(nothing)


def test_slices_of_a_predicted_set_keep_their_base(regressor):
    predicted = regressor.sensitivity(regressor.perturb())
    for key in (1, slice(1, None), [2, 0], np.array([False, True, True])):
        part = predicted[key]
        assert isinstance(part, PredictedSolutionSet)
        assert type(part.base) is SolutionSet
        np.testing.assert_array_equal(part.shift, part.weights - part.base.weights)
        _assert_same_set(part.base, regressor.solution_set_[key])
        np.testing.assert_array_equal(part.shift_norm, predicted[key].shift_norm)
    np.testing.assert_array_equal(
        predicted[[2, 0]].shift_norm, predicted.shift_norm[[2, 0]]
    )
    for i, member in enumerate(predicted):
        np.testing.assert_array_equal(
            member.base.weights[0], regressor.solution_set_.weights[i]
        )


# --- Points --------------------------------------------------------------------------


def test_samples_solve_the_linear_problem(linear, data):
    solutions = linear.solution_set_
    points = solutions.sample(200, 0.5, random_state=1)
    assert points.shape == (3, 200, 9)
    residuals = points @ data.X.T - data.y
    # Rounding, and what polishing left.
    np.testing.assert_allclose(residuals, 0.0, atol=1e-8)
    lengths = np.linalg.norm(points - solutions.weights[:, None], axis=-1)
    assert lengths.max() <= 0.5 * (1 + 1e-12)
    # Uniform in a ball of dimension 4: the median length is 2^(-1/4) of the radius.
    np.testing.assert_allclose(np.median(lengths) / 0.5, 2**-0.25, atol=0.03)
    # Different points per solution, in all directions of the piece.
    offsets = (points - solutions.weights[:, None]).reshape(-1, 9)
    assert np.linalg.matrix_rank(offsets, tol=1e-6) == 4
    np.testing.assert_allclose(offsets.mean(axis=0), 0.0, atol=0.05)


def test_samples_from_the_seed_of_the_data(linear, data):
    """The first draws are then the rows of X, which have no part in the kernel."""
    draws = np.random.RandomState(0).standard_normal((5, 9))
    np.testing.assert_array_equal(draws, data.X)
    points = linear.solution_set_.sample(5, 0.5, random_state=0)
    np.testing.assert_allclose(points @ data.X.T - data.y, 0.0, atol=1e-8)


def test_samples_lie_in_their_pieces(regressor, classifier):
    for model in (regressor, classifier):
        solutions = model.solution_set_
        for i, points in enumerate(solutions.sample(5, 0.3, random_state=1)):
            np.testing.assert_allclose(solutions[i].distance(points), 0.0, atol=1e-12)


def test_samples_are_reproducible(linear):
    solutions = linear.solution_set_
    one = solutions.sample(3, 0.5, random_state=7)
    np.testing.assert_array_equal(one, solutions.sample(3, 0.5, random_state=7))
    np.testing.assert_array_equal(
        one, solutions.sample(3, 0.5, np.random.RandomState(7))
    )
    assert np.abs(one - solutions.sample(3, 0.5, random_state=8)).min() > 0
    assert np.abs(one[0] - solutions.weights[0]).max() > 0


def test_samples_around_the_base(linear, data):
    predicted = linear.sensitivity(data.X_perturbed)
    radius = 2.0 * predicted.shift_norm.max()
    points = predicted.sample(300, radius, random_state=1, center="base")
    lengths = np.linalg.norm(points - predicted.base.weights[:, None], axis=-1)
    assert lengths.max() <= radius * (1 + 1e-9)
    # The ball is used, not only its middle.
    assert lengths.max() > 0.95 * radius
    for i in range(3):
        np.testing.assert_allclose(predicted[i].distance(points[i]), 0.0, atol=1e-9)
    missed = predicted.sample(2, 0.5 * predicted.shift_norm.min(), 1, center="base")
    assert np.isnan(missed).all()


def test_empty_pieces_have_no_points(empty):
    assert empty.is_empty.all()
    assert np.isnan(empty.sample(2, 1.0, random_state=0)).all()
    np.testing.assert_array_equal(empty.distance(np.zeros((3, 6))), [np.inf] * 3)
    # And their NaN solutions are at no distance from anything.
    assert np.isnan(empty.base.distance(empty)).all()
    assert np.isnan(empty.predict(np.zeros((4, 6)))).all()
    with pytest.raises(ValueError, match="must be finite.*drop empty predicted sets"):
        distance_to_set(empty, empty.base)


# --- Distances to the set ------------------------------------------------------------


def test_distance_to_the_affine_set(linear, data):
    points = np.random.RandomState(1).standard_normal((50, 9))
    nearest = np.linalg.lstsq(data.X, data.X @ points.T - data.y[:, None], rcond=None)
    expected = np.linalg.norm(nearest[0], axis=0)
    # The solutions interpolate to about 1e-10.
    np.testing.assert_allclose(linear.solution_set_.distance(points), expected, 1e-8)
    np.testing.assert_allclose(
        linear.solution_set_.distance(linear.solution_set_), 0.0, atol=1e-8
    )


def test_distance_by_dense_projection(regressor, classifier):
    for model in (regressor, classifier):
        solutions = model.solution_set_
        points = np.random.RandomState(1).standard_normal(
            (30, solutions.weights.shape[1])
        )
        np.testing.assert_allclose(
            solutions.distance(points), _dense_distance(points, solutions), rtol=1e-9
        )
        pieces = solutions.piece_distances(points)
        assert pieces.shape == (30, len(solutions))
        np.testing.assert_array_equal(pieces.min(axis=1), solutions.distance(points))


def test_distance_is_that_of_no_sampled_point_closer(linear):
    solutions = linear.solution_set_
    points = np.random.RandomState(2).standard_normal((5, 9))
    cloud = solutions.sample(500, 5.0, random_state=1).reshape(-1, 9)
    assert (distance_to_set(points, cloud) >= solutions.distance(points) - 1e-9).all()


def test_one_point_may_be_flat(linear):
    w = np.ones(9)
    np.testing.assert_array_equal(
        linear.solution_set_.distance(w), linear.solution_set_.distance(w[None])
    )


def test_a_point_that_is_not_finite_has_no_distance(linear):
    points = np.zeros((3, 9))
    points[1, 4] = np.nan
    found = linear.solution_set_.distance(points)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


# --- Predictions ---------------------------------------------------------------------


def test_predictions_of_a_linear_set(linear, data):
    rows = np.random.RandomState(3).standard_normal((4, 9))
    found = linear.solution_set_.predict(rows)
    np.testing.assert_allclose(
        found, linear.solution_set_.weights @ rows.T, rtol=1e-12, atol=1e-14
    )


def test_shapes_of_predictions(regressor, classifier):
    assert regressor.solution_set_.predict(X[:7]).shape == (3, 7)
    assert classifier.solution_set_.predict(X[:7]).shape == (2, 7, 3)
    two = _model(n_restarts=1).fit(X, np.c_[y, -y])
    assert two.solution_set_.predict(X[:7]).shape == (1, 7, 2)
    binary = _model(DFCNNBinaryClassifier(**_NET), n_restarts=1).fit(X, LABELS > 0)
    assert binary.solution_set_.predict(X[:7]).shape == (1, 7, 2)
    np.testing.assert_allclose(
        classifier.solution_set_.predict(X).sum(axis=-1), 1.0, rtol=1e-12
    )


def test_predictions_are_those_of_the_nets(regressor):
    members = regressor.solution_set_.predict(X)
    for net, member in zip(regressor.estimators_, members, strict=True):
        # The nets predict in float32.
        np.testing.assert_allclose(net.predict(X).ravel(), member, rtol=1e-4, atol=1e-5)


# --- Storage -------------------------------------------------------------------------


@pytest.fixture(params=["plain", "predicted", "corrected", "classifier"])
def saved(request, tmp_path, linear, regressor, classifier, data):
    solutions, estimator, rows = {
        "plain": lambda: (linear.solution_set_, linear, data.X),
        "predicted": lambda: (linear.sensitivity(data.X_perturbed), linear, data.X),
        "corrected": lambda: (
            regressor.sensitivity(regressor.perturb(), n_corrections=1),
            regressor,
            X,
        ),
        "classifier": lambda: (
            classifier.sensitivity(classifier.perturb()),
            classifier,
            X,
        ),
    }[request.param]()
    path = tmp_path / "set.npz"
    solutions.save(path)
    return solutions, path, estimator, rows


def test_round_trip(saved):
    solutions, path, estimator, rows = saved
    loaded = SolutionSet.load(path)
    _assert_same_set(loaded, solutions)
    points = np.random.RandomState(0).standard_normal((5, solutions.weights.shape[1]))
    np.testing.assert_array_equal(loaded.distance(points), solutions.distance(points))
    np.testing.assert_array_equal(loaded.sample(2, 0.1, 0), solutions.sample(2, 0.1, 0))
    if isinstance(solutions, PredictedSolutionSet):
        _assert_same_set(loaded.base, solutions.base)
        _assert_same_set(loaded[1:].base, solutions[1:].base)
    with pytest.raises(ValueError, match=r"loaded without a net.*estimator="):
        loaded.predict(rows)

    able = SolutionSet.load(path, estimator)
    _assert_same_set(able, solutions)
    np.testing.assert_allclose(
        able.predict(rows), solutions.predict(rows), rtol=1e-13, atol=1e-15
    )
    again = path.with_name("again")
    able.save(again)
    assert again.exists()
    _assert_same_set(SolutionSet.load(again), solutions)


def test_empty_sets_survive_storage(empty, tmp_path):
    empty.save(tmp_path / "set")
    loaded = SolutionSet.load(tmp_path / "set")
    _assert_same_set(loaded, empty)
    assert loaded.is_empty.all()
    assert np.isinf(loaded.shift_norm).all()


def test_predicted_sets_compare_after_loading(linear, data, tmp_path):
    predicted = linear.sensitivity(data.X_perturbed)
    predicted.save(tmp_path / "set")
    loaded = PredictedSolutionSet.load(tmp_path / "set")
    retrained = linear.retrain(data.X_perturbed)
    np.testing.assert_array_equal(
        excess(retrained, loaded), excess(retrained, predicted)
    )


class Malicious:
    """Unpickling it would leave a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def _foreign_files(path, mark):
    pickled = path / "pickle"
    pickled.write_bytes(pickle.dumps(Malicious(mark)))
    yield pickled
    array = path / "object.npy"
    np.save(array, np.array([Malicious(mark)], dtype=object), allow_pickle=True)
    yield array
    objects = path / "object.npz"
    header = json.dumps({"format": "sksetsens-solution-set-1", "class": "SolutionSet"})
    np.savez(objects, header=header, weights=np.array([Malicious(mark)], dtype=object))
    yield objects
    bare = path / "array.npy"
    np.save(bare, np.zeros(3))
    yield bare
    other = path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    yield other
    for i, head in enumerate(["[]", "{}", "no json", '{"format": "2"}']):
        headed = path / f"headed{i}.npz"
        np.savez(headed, header=head)
        yield headed
    text = path / "text"
    text.write_text("weights: 1, 2, 3")
    yield text
    nothing = path / "nothing"
    nothing.write_bytes(b"")
    yield nothing


def test_foreign_files_are_refused_and_not_executed(tmp_path):
    mark = tmp_path / "mark"
    for path in _foreign_files(tmp_path, mark):
        with pytest.raises(ValueError, match=f"{path.name} is no solution set of"):
            SolutionSet.load(path)
    assert not mark.exists()


def test_damaged_files_are_refused(linear, tmp_path):
    path = tmp_path / "set"
    linear.solution_set_.save(path)
    content = path.read_bytes()
    for size in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is no solution set"):
            SolutionSet.load(path)
    # A flipped bit in the compressed weights.
    flipped = bytearray(content)
    flipped[content.index(b"weights.npy") + 60] ^= 0x10
    path.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="is no solution set"):
        SolutionSet.load(path)


def test_incomplete_files_are_refused(linear, tmp_path):
    path = tmp_path / "set.npz"
    linear.solution_set_.save(path)
    with np.load(path) as file:
        arrays_ = {name: file[name] for name in file.files}
    for missing in ("losses", "kernel/1", "weights"):
        np.savez(path, **{k: v for k, v in arrays_.items() if k != missing})
        with pytest.raises(ValueError, match=f"incomplete: '{missing}' is missing"):
            SolutionSet.load(path)
    header = json.dumps({"format": "sksetsens-solution-set-1", "class": "Popen"})
    np.savez(path, **{**arrays_, "header": header})
    with pytest.raises(ValueError, match="incomplete: 'Popen'"):
        SolutionSet.load(path)


def test_other_estimators_are_refused(linear, regressor, tmp_path):
    path = tmp_path / "set"
    linear.solution_set_.save(path)
    message = r"9 weights\) belong to a net of another architecture.*21 weights"
    with pytest.raises(ValueError, match=message):
        SolutionSet.load(path, regressor)
    with pytest.raises(ValueError, match="not fitted yet"):
        SolutionSet.load(path, _model())
    with pytest.raises(FileNotFoundError, match="missing"):
        SolutionSet.load(tmp_path / "missing")


# --- Distances between sets ----------------------------------------------------------

_ENTRIES = st.floats(-100, 100, allow_nan=False, width=32)


def _clouds(n_dims=2):
    shapes = st.tuples(st.integers(1, 6), st.just(n_dims))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=_ENTRIES))


def _brute_distance(points, cloud):
    return np.array([min(np.linalg.norm(p - c) for c in cloud) for p in points])


@given(C=_clouds(), D=_clouds())
def test_distances_by_brute_force(C, D):
    expected = _brute_distance(C, D)
    # Rounding of sums of squares of entries up to 100.
    np.testing.assert_allclose(distance_to_set(C, D), expected, rtol=1e-12, atol=1e-12)
    assert excess(C, D) == pytest.approx(expected.max(), rel=1e-12, abs=1e-12)
    assert excess(C, D) == pytest.approx(directed_hausdorff(C, D)[0], abs=1e-12)
    both = max(directed_hausdorff(C, D)[0], directed_hausdorff(D, C)[0])
    assert pompeiu_hausdorff(C, D) == pytest.approx(both, abs=1e-12)


@given(C=_clouds(), D=_clouds(), E=_clouds())
def test_pompeiu_hausdorff_is_a_metric(C, D, E):
    assert pompeiu_hausdorff(C, D) == pompeiu_hausdorff(D, C) >= 0
    assert pompeiu_hausdorff(C, C) == 0
    slack = 1e-9
    through = pompeiu_hausdorff(C, D) + pompeiu_hausdorff(D, E)
    assert pompeiu_hausdorff(C, E) <= through + slack
    assert excess(C, E) <= excess(C, D) + excess(D, E) + slack
    # Order and repetition of points do not make another set.
    assert pompeiu_hausdorff(np.r_[C[::-1], C], C) == 0


@given(C=_clouds(), D=_clouds(), shift=arrays(np.float64, 2, elements=_ENTRIES))
def test_distances_under_motions(C, D, shift):
    turn = scipy.linalg.expm(np.array([[0.0, -0.7], [0.7, 0.0]]))
    moved = pompeiu_hausdorff(C @ turn.T + shift, D @ turn.T + shift)
    assert moved == pytest.approx(pompeiu_hausdorff(C, D), abs=1e-9)
    assert pompeiu_hausdorff(3 * C, 3 * D) == pytest.approx(
        3 * pompeiu_hausdorff(C, D), abs=1e-9
    )
    assert pompeiu_hausdorff(C, C + shift) <= np.linalg.norm(shift) + 1e-9


@given(D=_clouds(), n=st.integers(1, 6))
def test_excess_is_zero_for_parts_only(D, n):
    assert excess(D[:n], D) == 0
    assert excess(np.r_[D, D[:1] + 1000.0], D) > 0


def test_distances_of_solution_sets(linear, data):
    solutions = linear.solution_set_
    predicted = linear.sensitivity(data.X_perturbed)
    points = np.random.RandomState(0).standard_normal((4, 9))
    np.testing.assert_array_equal(
        distance_to_set(points, solutions), solutions.distance(points)
    )
    # To an array of the weights, pieces do not count.
    assert (
        distance_to_set(points, solutions.weights) > solutions.distance(points)
    ).all()
    assert excess(predicted, solutions) == solutions.distance(predicted).max()
    assert pompeiu_hausdorff(predicted, solutions) == max(
        excess(predicted, solutions), excess(solutions, predicted)
    )
    # All three solutions lie on the one affine set.
    assert pompeiu_hausdorff(solutions[:1], solutions[1:]) < 1e-8


def test_the_set_moves_by_what_was_predicted(linear, data):
    """Affine sets: the excess of the retrained over the predicted is second order."""
    small = data.X + 1e-4 * data.dX
    predicted, retrained = linear.sensitivity(small), linear.retrain(small)
    size = np.linalg.norm(small - data.X)
    bound = linear.lipschitz_modulus_ * size
    assert excess(retrained, linear.solution_set_) <= bound * (1 + 1e-3)
    # Quadratic in the size, with a constant of order one.
    assert pompeiu_hausdorff(predicted, retrained) < 100 * size**2


@pytest.mark.parametrize(
    ("points", "C", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "'points' parameter must have 2 columns"),
        (
            np.zeros((0, 3)),
            np.zeros((2, 3)),
            r"'points'.*non-empty.*Got shape \(0, 3\)",
        ),
        (np.zeros((2, 3)), np.zeros((0, 3)), r"'C' parameter.*Got shape \(0, 3\)"),
        (np.zeros((1, 2, 3)), np.zeros((2, 3)), r"'points'.*Got shape \(1, 2, 3\)"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "'points'.*finite. Got 6 NaN"),
        (np.zeros((2, 3)), np.full((2, 3), np.inf), "'C' parameter must be finite"),
    ],
)
def test_set_distances_check_input(points, C, message):
    with pytest.raises(ValueError, match=message):
        distance_to_set(points, C)


# --- Subspaces of both kinds ---------------------------------------------------------


@given(seed=st.integers(0, 1000), rank=st.integers(0, 5))
def test_pieces_do_not_depend_on_how_they_are_stored(seed, rank):
    q = np.linalg.qr(np.random.RandomState(seed).standard_normal((5, 5)))[0]
    direct, by_range = Subspace(q[:, rank:]), Subspace(q[:, :rank], True)
    evidence = {name: np.zeros(1) for name in SolutionSet.EVIDENCE}
    w = np.random.RandomState(seed + 1).standard_normal((1, 5))
    points = np.random.RandomState(seed + 2).standard_normal((4, 5))
    found = [
        SolutionSet(w, evidence, [kernel]).distance(points)
        for kernel in (direct, by_range)
    ]
    expected = np.linalg.norm((points - w) @ q[:, :rank], axis=1)
    for distances in found:
        np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-12)


def test_notebooks_see_a_line_for_each_solution():
    data = make_toy_network()
    net = NeuralNetRegressor(data.module, train_split=None, lr=0.02, max_epochs=5)
    model = SolutionSetEstimator(net, n_restarts=2, random_state=0)
    found = model.fit(data.X, data.y).solution_set_
    table = found._repr_html_()
    assert table.count("<tr>") == 3
    assert f"<td>{found.losses[0]:.4g}</td>" in table
    assert html.escape(str(found.status[1])) in table
    predicted = model.sensitivity(data.X + 1e-3)
    table = predicted._repr_html_()
    assert f"<td>{predicted.shift_norm[1]:.3g}</td>" in table
    assert "PredictedSolutionSet" in table
    assert "<strong>" not in table
