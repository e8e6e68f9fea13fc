"""Beacons on disk: one file a beacon while recording, one file when compacted.

An env directory holds ``beacons.parquet`` (compacted) and ``beacons/*.parquet`` (one beacon each, written by any number
of recorders side by side). A part replaces the compacted beacon of the same name, so a compaction that is killed
between its two acts, renaming the new file and removing the parts, loses nothing and counts nothing twice.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from autobatch._errors import LibraryError, OutputError
from autobatch._files import alone_in
from autobatch.beacons._beacon import Beacon, BeaconKey
from autobatch.beacons._costs import CostTable
from autobatch.beacons._info import LibraryInfo, merged_info
from autobatch.beacons.storage._parquet import from_parquet, to_parquet

COMPACTED = "beacons.parquet"
PARTS = "beacons"


def write_beacon(env_dir: Path, beacon: Beacon, info: LibraryInfo) -> Path:
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
    path = _part(env_dir, beacon.key)
    write_durably(path, to_parquet([beacon], info))
    return path


def is_recorded(env_dir: Path, key: BeaconKey) -> bool:
    """Return whether a beacon's own file is there; one that was compacted has none. Nothing is read."""
    return _part(env_dir, key).exists()


def compact(env_dir: Path, costs: CostTable | None = None) -> Path:
    """Gather all beacons of an env into ``beacons.parquet`` and remove the single files.

    Args:
        env_dir: the env's directory.
        costs: seconds by batch size to keep with the library; by default those that are there.

    Returns:
        The compacted file.

    Raises:
        LibraryError: there is no beacon, or a file is damaged or of another task.
        OutputError: the directory cannot be written.
    """
    env_dir = Path(env_dir)
    target = env_dir / COMPACTED
    with only_one(env_dir):
        identities = {path: file_identity(path) for path in _part_files(env_dir)}
        beacons, info = read_beacons(env_dir)
        save_beacons(target, beacons, info if costs is None else replace(info, costs=costs))
        for path, identity in identities.items():
            # A part that a recorder has replaced in the meantime is newer than the compacted file: it stays.
            if file_identity(path) == identity:
                remove_part(path)
    return target


def recorded_keys(env_dir: Path) -> frozenset[BeaconKey]:
    """Return which beacons an env already has, so that a recorder can go on where it stopped.

    Args:
        env_dir: the env's directory.

    Returns:
        The keys, diverged beacons among them; empty where nothing is recorded.

    Raises:
        LibraryError: a file is damaged or of another task.
    """
    env_dir = Path(env_dir)
    if not (env_dir / COMPACTED).exists() and not _part_files(env_dir):
        return frozenset()
    beacons, _ = read_beacons(env_dir)
    return frozenset(beacon.key for beacon in beacons)


def save_beacons(path: Path, beacons: Sequence[Beacon], info: LibraryInfo) -> None:
    """Write beacons to one Parquet file, at once or not at all.

    Args:
        path: the file.
        beacons: the beacons.
        info: what they have in common.

    Raises:
        OutputError: the file cannot be written.
    """
    write_durably(path, to_parquet(sorted(beacons, key=lambda beacon: beacon.key), info))


def read_beacons(path: Path) -> tuple[tuple[Beacon, ...], LibraryInfo]:
    """Read the beacons of an env directory, compacted or not, or of one Parquet file.

    Args:
        path: an env directory or a Parquet file.

    Returns:
        The beacons, ordered by batch size, learning rate and seed, and what they have in common.

    Raises:
        LibraryError: there is no beacon, or a file is damaged, foreign, of another version or task.
    """
    path = Path(path)
    files = _folder_files(path) if path.is_dir() else _single_file(path)
    found: dict[BeaconKey, Beacon] = {}
    for _, beacons, _ in files:
        found.update((beacon.key, beacon) for beacon in beacons)
    if not found:
        raise LibraryError(_nothing_recorded(path))
    info = merged_info([(str(file), info) for file, _, info in files])
    return tuple(found[key] for key in sorted(found)), info


_File = tuple[Path, tuple[Beacon, ...], LibraryInfo]


def _single_file(path: Path) -> list[_File]:
    try:
        return [(path, *from_parquet(path))]
    except FileNotFoundError:
        raise LibraryError(_nothing_recorded(path)) from None


def _folder_files(env_dir: Path) -> list[_File]:
    # The parts are read first: one that vanishes before it is read has been compacted, and is then found in the
    # compacted file. In the answer the compacted file comes first, being older.
    parts: list[_File] = []
    sources: dict[BeaconKey, Path] = {}
    for part in _part_files(env_dir):
        try:
            beacons, info = from_parquet(part)
        except FileNotFoundError:
            continue
        for beacon in beacons:
            if beacon.key in sources:
                raise LibraryError(
                    f"{part}: beacon {beacon.name} is stored twice, also in {sources[beacon.key]}; remove one of them"
                )
            sources[beacon.key] = part
        parts.append((part, beacons, info))
    compacted = env_dir / COMPACTED
    try:
        return [(compacted, *from_parquet(compacted)), *parts]
    except FileNotFoundError:
        return parts


def _part(env_dir: Path, key: BeaconKey) -> Path:
    return Path(env_dir) / PARTS / f"{key.name}.parquet"


def _part_files(env_dir: Path) -> list[Path]:
    return sorted((env_dir / PARTS).glob("*.parquet"))


def _nothing_recorded(path: Path) -> str:
    env = path.name if path.suffix != ".parquet" else path.parent.name
    return (
        f"{path}: no beacons are recorded here; record some with "
        f"'autobatch beacons record --env {env or 'ENV'}', or with "
        "autobatch.record_beacons for a loop of your own"
    )


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced.

    Args:
        path: the file.

    Returns:
        Something to compare; None where there is no such file.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def remove_part(path: Path) -> None:
    """Remove a file that a compacted one now stands for.

    Args:
        path: the file; it need not exist.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed after compaction: {error.strerror or error}") from None


def write_durably(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, whoever else writes it; its folder is made where it is missing.

    Args:
        path: the file.
        content: its new content.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def only_one(env_dir: Path) -> Iterator[None]:
    """Let one process at a time compact what an env directory holds.

    Of two, the slower would write a file without what the faster has gathered and removed.

    Args:
        env_dir: the env's directory.

    Yields:
        Nothing, once no other process compacts.

    Raises:
        LibraryError: the directory is not there.
        OutputError: it cannot be opened.
    """
    if not env_dir.is_dir():
        raise LibraryError(_nothing_recorded(env_dir))
    with alone_in(env_dir):
        yield
