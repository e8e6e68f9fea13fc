"""The flat view that learned policies and environments share.

In come observations of a task with beacons or without; out go float32 arrays in [-1, 1] with masks. Open ``_view.py``
first.
"""

from autobatch.policies.view._batch import ObservationBatch
from autobatch.policies.view._costs import EpochCosts, reference_rung
from autobatch.policies.view._view import ENTRIES, SCHEMA, ObservationView, Trail

__all__ = [
    "ENTRIES",
    "SCHEMA",
    "EpochCosts",
    "ObservationBatch",
    "ObservationView",
    "Trail",
    "reference_rung",
]
