"""Beacons and branch runs on disk.

In come recorded trainings; out go Parquet files, and from those the same recordings again. Open ``_parts.py`` first.
"""

from autobatch.beacons.storage._beacons import BEACONS, compact, is_recorded, recorded_keys, write_beacon
from autobatch.beacons.storage._branches import (
    BRANCHES,
    Branches,
    Journey,
    JourneyKind,
    compact_branches,
    holds_branches,
    recorded_origins,
    write_branches,
)

__all__ = [
    "BEACONS",
    "BRANCHES",
    "Branches",
    "Journey",
    "JourneyKind",
    "compact",
    "compact_branches",
    "holds_branches",
    "is_recorded",
    "recorded_keys",
    "recorded_origins",
    "write_beacon",
    "write_branches",
]
