"""Truncated excess and Pompeiu-Hausdorff distance of sets with affine pieces."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sksetsens import SolutionSet
from sksetsens.linalg import FarthestPoint, Subspace
from sksetsens.metrics import distance_to_set, excess, excess_bounds, pompeiu_hausdorff


def orthonormal(rng, p):
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def affine(*pieces):
    """Set of (origin, directions) pieces without a net."""
    weights = np.array([origin for origin, _ in pieces], dtype=float)
    evidence = {name: np.zeros(len(pieces)) for name in SolutionSet.EVIDENCE}
    return SolutionSet(weights, evidence, [Subspace(V) for _, V in pieces])


LINE = np.array([[1.0], [0.0]])


class TestFarthestPoint:
    @pytest.mark.parametrize("seed", range(10))
    def test_all_ways_to_store_the_subspaces(self, seed):
        """Against the best of many points on the sphere, and consistent."""
        rng = np.random.RandomState(seed)
        V, W = orthonormal(rng, 6), orthonormal(rng, 6)
        k, m, radius = rng.randint(1, 4), rng.randint(0, 6), rng.uniform(0.1, 3)
        offset = rng.standard_normal(6)
        found = []
        for moving in (Subspace(V[:, :k]), Subspace(V[:, k:], True)):
            for target in (Subspace(W[:, :m]), Subspace(W[:, m:], True)):
                distance, z = FarthestPoint(moving, target)(offset, radius)
                assert moving.complement_norm(z) < 1e-12
                assert np.linalg.norm(z) <= radius * (1 + 1e-12)
                assert_allclose(target.complement_norm(offset + z), distance)
                found.append(distance)
        assert_allclose(found, found[0])
        c = rng.standard_normal((20_000, k))
        sphere = radius * c / np.linalg.norm(c, axis=1, keepdims=True) @ V[:, :k].T
        best = Subspace(W[:, :m]).complement_norm(offset + sphere).max()
        assert best <= found[0] + 1e-12
        assert best >= found[0] * (1 - 0.02)

    def test_hard_case(self):
        """The offset has no part along the axis that sticks out most."""
        plane = Subspace(np.eye(3)[:, :2])
        target = Subspace(np.array([[0.0], [np.sin(0.8)], [np.cos(0.8)]]))
        distance, z = FarthestPoint(plane, target)(np.array([0.0, 0.1, 0.0]), 1.0)
        # Along e1 the squared distance grows with factor 1, along e2 with cos(0.8)^2.
        c = np.cos(0.8) ** 2
        y = c * 0.1 / (1 - c)
        assert_allclose(np.abs(z), [np.sqrt(1 - y**2), y, 0.0], atol=1e-9)
        assert_allclose(distance, np.sqrt(1 - y**2 + c * (0.1 + y) ** 2))

    def test_parallel(self):
        line = Subspace(LINE)
        distance, z = FarthestPoint(line, line)(np.array([5.0, 2.0]), 3.0)
        assert distance == 2.0
        assert not z.any()

    def test_nearly_parallel_planes_stored_by_their_complements(self):
        """Rounding beside small angles is no direction: against dense points."""
        rng = np.random.RandomState(0)
        Q = orthonormal(rng, 7)
        R = np.linalg.qr(Q[:, :5] + 1e-5 * rng.standard_normal((7, 5)))[0]
        moving, target = Subspace(Q[:, :5], True), Subspace(R, True)
        offset = 1e-6 * rng.standard_normal(7)
        distance, _ = FarthestPoint(moving, target)(offset, 1.0)
        angles = np.linspace(0, 2 * np.pi, 4001)
        circle = np.column_stack([np.cos(angles), np.sin(angles)]) @ Q[:, 5:].T
        assert_allclose(distance, target.complement_norm(offset + circle).max(), 1e-5)

    def test_nearly_parallel_angles_are_resolved(self):
        """An angle of 1e-9 over a radius of 1 is a distance of 1e-9."""
        angle = 1e-9
        tilted = Subspace(np.array([[np.cos(angle)], [np.sin(angle)]]))
        distance, _ = FarthestPoint(Subspace(LINE), tilted)(np.zeros(2), 1.0)
        assert_allclose(distance, 1e-9, rtol=1e-6)


def test_parallel_lines():
    """A distance apart whatever the radius, as long as the ball is reached."""
    C, D = affine(([0, 0], LINE)), affine(([7, 2], LINE))
    assert excess(C, D, radius=1.0) == 2.0
    assert pompeiu_hausdorff(C, D, radius=5.0) == 2.0
    # D misses the ball around the origin: nothing of it sticks out there.
    assert excess(D, C, radius=1.0, center=[0, 0]) == 0.0
    assert excess(D, C, radius=2.5, center=[0, 0]) == 2.0


def test_crossing_lines():
    """Lines at an angle of 0.1 are radius * sin(0.1) apart in a ball around 0."""
    tilted = np.array([[np.cos(0.1)], [np.sin(0.1)]])
    C, D = affine(([0, 0], LINE)), affine(([0, 0], tilted))
    for radius in (0.5, 2.0):
        assert_allclose(excess(C, D, radius=radius), radius * np.sin(0.1))
        assert_allclose(pompeiu_hausdorff(C, D, radius=radius), radius * np.sin(0.1))


def test_bounds_enclose_what_samples_find():
    rng = np.random.RandomState(0)
    pieces = [
        (rng.standard_normal(5), orthonormal(rng, 5)[:, : rng.randint(0, 4)])
        for _ in range(5)
    ]
    C, D = affine(*pieces[:2]), affine(*pieces[2:])
    lower, upper = excess_bounds(C, D, radius=0.7)
    found = distance_to_set(C.sample(5000, 0.7, random_state=0).reshape(-1, 5), D).max()
    assert found <= upper
    assert lower <= upper
    # The bound's own points are in C and in the balls: nothing sampled is far above.
    assert found <= lower * 1.05


def test_arrays_are_cut_too():
    points, origin = [[0.0, 0.0], [0.0, 3.0]], [[0.0, -1.0]]
    assert excess(points, origin) == 4.0
    assert excess(points, origin, radius=1.0, center=[0.0, 0.0]) == 1.0
    assert excess(affine(([0, 0], LINE)), origin, radius=2.0) == np.sqrt(5.0)
    assert excess(points, affine(([0, 1], LINE)), radius=1.0) == 2.0


@pytest.mark.parametrize("radius", [0, -1.0, np.inf, np.nan, "1", True])
def test_radius_must_be_positive(radius):
    with pytest.raises(
        ValueError, match="'radius' parameter of excess must be a positive"
    ):
        excess([[0.0]], [[0.0]], radius=radius)


def test_center_without_radius():
    with pytest.raises(ValueError, match="'center' parameter must be given with"):
        excess([[0.0]], [[0.0]], center=[0.0])
