"""Beacons on disk: ``beacons.parquet``, and ``beacons/*.parquet`` with one beacon each."""

from collections.abc import Sequence
from typing import Any

from autobatch._remote import Place, place_of
from autobatch.beacons._beacon import Beacon, BeaconKey, check_scored
from autobatch.beacons._columns import COLUMNS
from autobatch.beacons._costs import CostTable
from autobatch.beacons._info import LibraryInfo
from autobatch.beacons.storage._parquet import checked_table, decoded, encoded, file_content, naming
from autobatch.beacons.storage._parts import Parts


def _to_parquet(beacons: Sequence[Beacon], info: LibraryInfo) -> bytes:
    for beacon in beacons:
        check_scored(beacon, info.score)
    items = [{**vars(beacon), **beacon.rows} for beacon in sorted(beacons, key=lambda beacon: beacon.key)]
    return encoded(COLUMNS, items, info.to_metadata(), compression="snappy")


def _from_parquet(path: Place) -> tuple[tuple[Beacon, ...], LibraryInfo]:
    content = file_content(path)
    with naming(path):
        metadata, table = checked_table(content, COLUMNS)
        info = LibraryInfo.from_metadata(metadata)
        beacons = tuple(
            Beacon(**BeaconKey(*key)._asdict(), **constants, rows=rows)
            for key, constants, rows in decoded(table, COLUMNS, BeaconKey._fields, _named)
        )
        for beacon in beacons:
            check_scored(beacon, info.score)
        return beacons, info


def _named(*key: Any) -> str:
    return f"beacon {BeaconKey(*key).name}"


BEACONS = Parts[Beacon](
    "beacons",
    encode=_to_parquet,
    decode=_from_parquet,
    key=lambda beacon: beacon.key,
    course=lambda beacon: (),
    nothing="no beacons are recorded here; record some with 'autobatch beacons record --env {env}', or with "
    "autobatch.record_beacons for a loop of your own",
    twice="beacon {name} is stored twice, also in {other}",
)


def write_beacon(env_dir: str | Place, beacon: Beacon, info: LibraryInfo) -> Place:
    """Store one recorded beacon, at once or not at all; an older one of the same name is replaced.

    Args:
        env_dir: the env's directory, such as ``envs/digits-resnet8``; made where it is missing.
        beacon: the beacon.
        info: what it has in common with the others of its task.

    Returns:
        The file, ``<env_dir>/beacons/b32-lr0.1-s0.parquet``.

    Raises:
        LibraryError: the beacon finished and ends without the score.
        OutputError: the directory cannot be written.
    """
    path = BEACONS.part(place_of(env_dir), beacon.key)
    BEACONS.save(path, [beacon], info)
    return path


def is_recorded(env_dir: Place, key: BeaconKey) -> bool:
    """Return whether a beacon's own file is there; one that was compacted has none. Nothing is read."""
    return BEACONS.part(env_dir, key).exists()


def compact(env_dir: str | Place, costs: CostTable | None = None) -> Place:
    """Gather all beacons of an env into ``beacons.parquet`` and remove the single files.

    Args:
        env_dir: the env's directory, or its URL in object storage.
        costs: seconds by batch size to keep with the library; by default those that are there.

    Returns:
        The compacted file.

    Raises:
        LibraryError: there is no beacon, or a file is damaged or of another task.
        OutputError: the directory cannot be written.
    """
    return BEACONS.compact(place_of(env_dir), costs)


def recorded_keys(env_dir: str | Place) -> frozenset[BeaconKey]:
    """Return which beacons an env already has, so that a recorder can go on where it stopped.

    Args:
        env_dir: the env's directory.

    Returns:
        The keys, diverged beacons among them; empty where nothing is recorded.

    Raises:
        LibraryError: a file is damaged or of another task.
    """
    return BEACONS.keys(place_of(env_dir))
