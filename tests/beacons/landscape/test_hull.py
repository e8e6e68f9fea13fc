"""The known part of the plane against scipy's hull and a dense search."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from autobatch.beacons.landscape._hull import KnownPart, convex_hull, distance_to_hull


@pytest.mark.parametrize("seed", range(5))
def test_corners_go_round_all_points_counter_clockwise(seed):
    points = np.random.default_rng(seed).standard_normal((40, 2))
    corners = convex_hull(points)
    edges = np.roll(corners, -1, axis=0) - corners
    ahead = points[:, None] - corners[None]
    turns = edges[:, 0] * ahead[..., 1] - edges[:, 1] * ahead[..., 0]
    assert {tuple(corner) for corner in corners} <= set(map(tuple, points))
    assert turns.min() >= -1e-12
    following = np.roll(edges, -1, axis=0)
    assert (edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0] > 0.0).all()


def test_lattice_has_four_corners():
    lattice = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), axis=-1).reshape(-1, 2)
    assert {tuple(corner) for corner in convex_hull(lattice)} == {(0, 0), (3, 0), (3, 2), (0, 2)}


@pytest.mark.parametrize("seed", range(3))
def test_distance_is_that_to_the_nearest_point_of_the_hull(seed):
    generator = np.random.default_rng(seed)
    points = generator.standard_normal((12, 2))
    corners = convex_hull(points)
    # Random mixtures of neighbouring corners fill the border densely.
    share = np.linspace(0.0, 1.0, 2001)[:, None, None]
    border = (share * corners + (1 - share) * np.roll(corners, -1, axis=0)).reshape(-1, 2)
    queries = 2.0 * generator.standard_normal((60, 2))
    equations = ConvexHull(points).equations
    inside = (queries @ equations[:, :2].T + equations[:, 2] <= 0).all(axis=1)
    direct = np.sqrt(((queries[:, None] - border[None]) ** 2).sum(-1)).min(axis=1)
    np.testing.assert_allclose(distance_to_hull(corners, queries), np.where(inside, 0.0, direct), atol=1e-3)


def test_degenerate_hulls_have_the_same_margin():
    line = KnownPart(np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]))
    assert len(line.corners) == 2
    assert len(convex_hull(np.array([[0.0, 0.0]]))) == 1
    assert line.margin == pytest.approx(np.sqrt(0.5))
    assert line.contains(np.array([[0.3, 0.3], [0.3, 1.0], [1.4, 1.4]])).all()
    assert not line.contains(np.array([[0.0, 1.5], [1.6, 1.6]])).any()
    point = KnownPart(np.array([[0.2, 0.2]]))
    assert point.contains(np.array([[0.2, 0.2], [0.2, 0.21]])).tolist() == [True, False]


def test_margin_is_the_median_spacing():
    lattice = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    known = KnownPart(lattice)
    assert known.margin == 1.0
    assert known.contains(np.array([[1.5, 1.5], [3.9, 1.0], [4.1, 1.0], [3.8, 3.8]])).tolist() == [
        True,
        True,
        False,
        False,
    ]
