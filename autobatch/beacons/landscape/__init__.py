"""The error landscape over the (C̄, L) plane.

In come the beacons of a library; out go predicted scores for positions, and the region of the best. Open
``_landscape.py`` first.
"""

from autobatch.beacons.landscape._landscape import Landscape, Rule
from autobatch.beacons.landscape._leave_one_out import choose_rule, leave_one_out
from autobatch.beacons.landscape._nearest import NearestSurface
from autobatch.beacons.landscape._points import Axes, Points, landscape_points, modelled
from autobatch.beacons.landscape._prediction import Prediction
from autobatch.beacons.landscape._region import OptimumRegion

__all__ = [
    "Axes",
    "Landscape",
    "NearestSurface",
    "OptimumRegion",
    "Points",
    "Prediction",
    "Rule",
    "choose_rule",
    "landscape_points",
    "leave_one_out",
    "modelled",
]
