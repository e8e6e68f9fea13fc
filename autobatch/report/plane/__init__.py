"""The (C̄, L) plane as a picture.

In come beacons and the journeys of runs; out goes a figure of the landscape with the journeys on it. Open ``_plane.py``
first.
"""

from autobatch.report.plane._beacons import region_tolerance, score_norm, score_ticks
from autobatch.report.plane._journey import far_apart
from autobatch.report.plane._plane import ShownFigure, check_format, draw_plane, plane_figure, save_plane

__all__ = [
    "ShownFigure",
    "check_format",
    "draw_plane",
    "far_apart",
    "plane_figure",
    "region_tolerance",
    "save_plane",
    "score_norm",
    "score_ticks",
]
