"""Beacons and branch runs on disk.

In come recorded trainings; out go Parquet files, and from those the same recordings again. Open ``_beacons.py`` first.
"""

from autobatch.beacons.storage._beacons import (
    COMPACTED,
    compact,
    is_recorded,
    read_beacons,
    recorded_keys,
    save_beacons,
    write_beacon,
)
from autobatch.beacons.storage._branches import (
    BRANCH_PARTS,
    Branches,
    Journey,
    JourneyKind,
    compact_branches,
    has_parts,
    holds_branches,
    recorded_origins,
    write_branches,
)

__all__ = [
    "BRANCH_PARTS",
    "COMPACTED",
    "Branches",
    "Journey",
    "JourneyKind",
    "compact",
    "compact_branches",
    "has_parts",
    "holds_branches",
    "is_recorded",
    "read_beacons",
    "recorded_keys",
    "recorded_origins",
    "save_beacons",
    "write_beacon",
    "write_branches",
]
