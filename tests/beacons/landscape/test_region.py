"""The optimum region and the way to it, on a known bowl."""

import numpy as np
import pytest

from autobatch._errors import ConfigError
from autobatch.beacons import Landscape
from tests.beacons.synthetic import Law, make_library

TOLERANCE = 0.01


@pytest.fixture(scope="module", params=["nearest", "gaussian-process"])
def landscape(request):
    return Landscape.fit(make_library(), rule=request.param)


def test_region_is_the_level_set_on_known_ground(landscape):
    region = landscape.region(TOLERANCE)
    prediction = landscape.predict(*(10**region.plane.T))
    assert prediction.known.all()
    assert (prediction.score <= region.least_score + TOLERANCE + 1e-12).all()
    assert region.contains(*(10**region.plane.T)).mean() > 0.99
    assert region.contains(*region.best)
    assert landscape.predict(*region.best).score == pytest.approx(region.least_score)


def test_region_grows_with_the_tolerance(landscape):
    sizes = [len(landscape.region(tolerance).plane) for tolerance in (0.0, 0.005, 0.02, 0.1)]
    assert sizes == sorted(sizes)
    assert sizes[0] >= 1
    assert sizes[-1] > sizes[1]


def test_region_of_the_gaussian_process_lies_at_the_laws_optimum():
    law = Law()
    region = Landscape.fit(make_library()).region(0.002)
    assert law.loss(*region.best) < law.least_loss * 1.05
    assert np.abs(region.plane.mean(axis=0) - [law.best_log_c, law.best_log_l]).max() < 0.25


def test_default_tolerance_is_one_standard_error_of_the_least(landscape):
    region = landscape.region()
    assert region.tolerance == pytest.approx(float(landscape.predict(*region.best).uncertainty), rel=1e-6, abs=1e-6)


def test_displacement_points_from_the_region_to_the_position(landscape):
    law = Law()
    region = landscape.region(TOLERANCE)
    centre = np.array([law.best_log_c, law.best_log_l])
    inside = 10**centre
    np.testing.assert_array_equal(landscape.displacement(*inside, TOLERANCE), [0.0, 0.0])
    # (C̄ far too high and L far too low, ...): the signs say which.
    aways = np.array([[2.0, -4.0], [-2.0, 3.0], [2.0, 3.0]])
    for away in aways:
        found = region.displacement(*(10 ** (centre + away)))
        assert np.sign(found).tolist() == np.sign(away).tolist()
        # The centre is in the region, so the nearest point of the region is nearer than the centre.
        assert np.linalg.norm(found / region.span) < np.linalg.norm(away / region.span)


def test_displacement_is_to_the_nearest_point_in_scaled_axes(landscape):
    region = landscape.region(TOLERANCE)
    position = np.array([3.0, -1.0])
    distances = (((position - region.plane) / np.ptp(landscape.points.plane, axis=0)) ** 2).sum(axis=1)
    direct = position - region.plane[np.argmin(distances)]
    np.testing.assert_allclose(region.displacement(*(10**position)), direct, rtol=1e-12)


def test_displacements_of_many_positions(landscape):
    c_bar, l_cum = np.array([100.0, 1000.0, np.nan]), np.array([25.0, 0.1, 1.0])
    many = landscape.displacement(c_bar, l_cum, TOLERANCE)
    assert many.shape == (3, 2)
    for index in range(2):
        np.testing.assert_array_equal(many[index], landscape.displacement(c_bar[index], l_cum[index], TOLERANCE))
    assert np.isnan(many[2]).all()


def test_position_of_before_the_first_step_has_no_displacement(landscape):
    assert np.isnan(landscape.displacement(np.nan, 0.0, TOLERANCE)).all()


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_wrong_tolerance_is_refused(landscape, tolerance):
    with pytest.raises(ConfigError, match="must not be negative"):
        landscape.region(tolerance)
