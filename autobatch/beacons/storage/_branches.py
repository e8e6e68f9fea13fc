"""Branch runs: trainings that leave a fixed configuration, recorded like beacons and stored beside them.

A beacon says what one configuration does from start to end. What a change does in the middle is recorded here: a
**branch** is a state of a beacon-like training, the trunk, and the few epochs that follow once batch size or rate are
changed there; a **journey** is a whole training that changes them now and then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autobatch._artefacts import holds
from autobatch._errors import LibraryError
from autobatch._remote import Place, place_of
from autobatch.beacons._beacon import BeaconKey, check_column, check_course, frozen_rows, rows_of, shown
from autobatch.beacons._columns import EPOCH_COLUMNS, FINISHED, Column
from autobatch.beacons._info import LibraryInfo, merged_info
from autobatch.beacons.storage._beacons import BEACONS
from autobatch.beacons.storage._parquet import checked_table, decoded, encoded, file_content, naming
from autobatch.beacons.storage._parts import Parts

FORMAT_VERSION = 1
"""Version of the stored format; a reader refuses any other."""

_VERSION_KEY = "autobatch:branches"

JourneyKind = Literal["branch", "journey"]

_EPOCH, _PROGRESS, *_FIGURES = EPOCH_COLUMNS

ROW_COLUMNS: tuple[Column, ...] = (
    _EPOCH,
    _PROGRESS,
    Column("batch_size", "int64", "examples", "global batch size of the epoch"),
    Column("lr", "float64", "1", "base learning rate of the epoch, before the schedule's factor"),
    *_FIGURES,
)
"""The columns of ``Journey.rows``."""

_COURSE = ("epoch", "batch_size", "lr")

COLUMNS: tuple[Column, ...] = (
    Column("branch", "int64", "1", "number of the branch or journey, from 0", per_epoch=False),
    Column("kind", "string", "", "'branch', or 'journey' for a whole training", per_epoch=False),
    Column("seed", "int64", "1", "seed of the training", per_epoch=False),
    *ROW_COLUMNS,
    Column("stopped_because", "string", "", "'finished', or why the training ended early", per_epoch=False),
)


@dataclass(frozen=True, eq=False)
class Journey:
    """A stretch of one training, epoch by epoch, in which batch size and rate may change.

    Attributes:
        kind: ``"branch"``: the first row is the state before the change, the others are the epochs after it;
            ``"journey"``: a training from its first epoch on.
        seed: seed of the training.
        rows: one read-only array, shape (rows,), for each of ``epoch progress batch_size lr lr_effective c_bar l_cum
            steps samples examples train_loss validation_loss validation_error seconds measuring_seconds``. Totals
            (``l_cum``, ``steps``, ``samples``, ``examples`` and both seconds) count from the start of the training.
        stopped_because: ``"finished"``, or why the training ended early.

    Raises:
        LibraryError: a column is missing, of another length or type, or holds what no training can produce.
    """

    kind: JourneyKind
    seed: int
    rows: Mapping[str, NDArray[Any]]
    stopped_because: str = FINISHED

    def __post_init__(self) -> None:
        """Check the journey and freeze its arrays."""
        object.__setattr__(self, "rows", frozen_rows(self.rows, ROW_COLUMNS, f"a {self.kind}", "a row"))
        _check(self)

    @classmethod
    def from_records(
        cls, kind: JourneyKind, seed: int, records: Sequence[Mapping[str, Any]], stopped_because: str = FINISHED
    ) -> "Journey":
        """Build a journey from one mapping per row; keys that are no column are passed over.

        Args:
            kind: ``"branch"`` or ``"journey"``.
            seed: seed of the training.
            records: one mapping per row, in order.
            stopped_because: ``"finished"``, or why the training ended early.

        Returns:
            The journey.

        Raises:
            LibraryError: a record lacks a column, or holds what no training can produce.
        """
        rows = rows_of(records, ROW_COLUMNS, f"a {kind} of seed {seed}", "a row")
        return cls(kind, seed, rows, stopped_because)

    @property
    def finished(self) -> bool:
        """Whether the training did not diverge in these rows."""
        return self.stopped_because == FINISHED

    @property
    def origin(self) -> BeaconKey:
        """The training that the rows are of: its first configuration, and its seed."""
        return BeaconKey(int(self.rows["batch_size"][0]), float(self.rows["lr"][0]), self.seed)

    @property
    def name(self) -> str:
        """What a message calls it, such as ``"branch of b32-lr0.1-s1000 at epoch 8"``."""
        if self.kind == "journey":
            return f"journey {self.origin.name}"
        return f"branch of {self.origin.name} at epoch {int(self.rows['epoch'][0])}"


@dataclass(frozen=True, eq=False)
class Branches:
    """All branch runs of one task.

    Attributes:
        journeys: branches and journeys; branches first, ordered by configuration and seed of their trunk.
        info: what they have in common, as in a beacon library.
    """

    journeys: tuple[Journey, ...]
    info: LibraryInfo

    def __post_init__(self) -> None:
        """Order the journeys and refuse none."""
        if not self.journeys:
            raise LibraryError("there are no branch runs; record some with 'autobatch beacons branch'")
        object.__setattr__(self, "journeys", _ordered(self.journeys))

    @classmethod
    def load(cls, path: str | Place) -> "Branches":
        """Read branch runs; nothing in a file is ever executed.

        Args:
            path: an env directory (``branches.parquet`` and the single files in ``branches/``), or a Parquet file; a
                URL for object storage.

        Returns:
            The branch runs.

        Raises:
            LibraryError: there is none, or a file is damaged, foreign, of another version or task.
        """
        return cls(*BRANCHES.read(place_of(path)))

    def save(self, path: str | Place) -> Place:
        """Write the branch runs to one Parquet file, at once or not at all.

        Args:
            path: the file, or an existing directory, which gets ``branches.parquet``.

        Returns:
            The file.

        Raises:
            OutputError: the file cannot be written.
        """
        return BRANCHES.save_at(path, self.journeys, self.info)


def write_branches(env_dir: str | Place, origin: BeaconKey, journeys: Sequence[Journey], info: LibraryInfo) -> Place:
    """Store what was recorded of one training, at once or not at all; an older file of the same name is replaced.

    Args:
        env_dir: the env's directory, such as ``envs/digits-resnet8``; made where it is missing.
        origin: the training; all its branches leave from it.
        journeys: its branches, or the one journey that it is.
        info: what they have in common with the others of their task.

    Returns:
        The file, ``<env_dir>/branches/b32-lr0.1-s1000.parquet``.

    Raises:
        LibraryError: a journey is of another training.
        OutputError: the directory cannot be written.
    """
    for journey in journeys:
        if journey.origin != origin:
            raise LibraryError(f"{journey.name} does not belong to {origin.name}")
    path = BRANCHES.part(place_of(env_dir), origin)
    BRANCHES.save(path, journeys, info)
    return path


def compact_branches(env_dir: str | Place, further: Sequence[str | Place] = ()) -> Place:
    """Gather all branch runs of an env into ``branches.parquet`` and remove the single files.

    Args:
        env_dir: the env's directory, or its URL in object storage.
        further: run directories whose branch runs, of scouts and forks, are gathered too; those that are there already
            are not counted twice.

    Returns:
        The compacted file.

    Raises:
        LibraryError: there is no branch run, or a file is damaged or of another task; or there are runs to gather, and
            neither beacons nor branch runs that they could belong to.
        OutputError: the directory cannot be written.
    """
    place, runs = place_of(env_dir), [*map(place_of, further)]
    if runs and holds(place, BEACONS.name):
        infos = [(str(run), BRANCHES.read(run)[1]) for run in runs]
        merged_info([(str(place), BEACONS.read(place)[1]), *infos])
    elif runs and not holds(place, BRANCHES.name):
        BEACONS.read(place)  # says how to record them
    return BRANCHES.compact(place, further=runs)


def recorded_origins(env_dir: str | Place) -> frozenset[BeaconKey]:
    """Return of which trainings an env already has branch runs, so that a recorder can go on where it stopped.

    Args:
        env_dir: the env's directory.

    Returns:
        First configuration and seed of each training; empty where nothing is recorded.

    Raises:
        LibraryError: a file is damaged or of another task.
    """
    return BRANCHES.keys(place_of(env_dir))


def holds_branches(env_dir: str | Place) -> bool:
    """Say whether an env has ``branches.parquet`` or a folder ``branches`` with Parquet files; it need not exist."""
    return holds(place_of(env_dir), BRANCHES.name)


def _ordered(journeys: Sequence[Journey]) -> tuple[Journey, ...]:
    return tuple(sorted(journeys, key=lambda journey: (journey.kind, journey.origin, int(journey.rows["epoch"][0]))))


def _to_parquet(journeys: Sequence[Journey], info: LibraryInfo) -> bytes:
    items = [{**vars(journey), **journey.rows, "branch": number} for number, journey in enumerate(_ordered(journeys))]
    return encoded(COLUMNS, items, info.to_metadata() | {_VERSION_KEY: str(FORMAT_VERSION)}, compression="zstd")


def _from_parquet(path: Place) -> tuple[tuple[Journey, ...], LibraryInfo]:
    content = file_content(path)
    with naming(path):
        metadata, table = checked_table(content, COLUMNS)
        _check_version(metadata)
        return tuple(_journeys(table)), LibraryInfo.from_metadata(metadata)


BRANCHES = Parts[Journey](
    "branches",
    encode=_to_parquet,
    decode=_from_parquet,
    key=lambda journey: journey.origin,
    course=lambda journey: (journey.kind, *(tuple(journey.rows[name].tolist()) for name in _COURSE)),
    nothing="has no branch runs; record them with 'autobatch beacons branch --env {env}'",
    twice="branch runs of {name} are also in {other}",
)


def _check_version(metadata: Mapping[str, str]) -> None:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise LibraryError(f"this Parquet file holds no branch runs (its metadata has no '{_VERSION_KEY}')")
    if version != str(FORMAT_VERSION):
        raise LibraryError(
            f"the branch runs have format version {version!r} and this autobatch reads version {FORMAT_VERSION}; "
            "record them again, or use the autobatch that wrote them (named in the metadata 'autobatch:versions')"
        )


def _journeys(table: Any) -> Iterator[Journey]:
    for (branch,), constants, rows in decoded(table, COLUMNS, ("branch",), lambda branch: f"branch {branch}"):
        try:
            yield Journey(**constants, rows=rows)
        except LibraryError as error:
            raise LibraryError(f"branch {branch}, {error}") from None


def _check(journey: Journey) -> None:
    rows, what = journey.rows, journey.name
    if journey.kind not in get_args(JourneyKind):
        raise LibraryError(f"{what}: column 'kind' must be 'branch' or 'journey', got {journey.kind!r}")
    if not journey.stopped_because:
        raise LibraryError(f"{what}: 'stopped_because' must say 'finished' or why the training ended early")
    if np.any(rows["batch_size"] < 1):
        raise LibraryError(f"{what}: column 'batch_size' must be at least 1, got {shown(rows['batch_size'])}")
    if not np.all((rows["lr"] > 0.0) & np.isfinite(rows["lr"])):
        raise LibraryError(f"{what}: column 'lr' must be positive and finite, got {shown(rows['lr'])}")
    epochs = rows["epoch"]
    check_course(what, rows, first=1 if journey.kind == "journey" else max(int(epochs[0]), 1))
    if journey.kind == "branch" and len(epochs) == 1:
        raise LibraryError(f"{what}: a branch has the state before the change and at least one epoch after it")
    for column in ROW_COLUMNS:
        check_column(what, column, rows[column.name], finished=journey.finished)
    if not journey.finished:  # only the last epoch of a training that diverges has figures that are not sound
        for column in ROW_COLUMNS:
            check_column(f"{what}, before it diverged", column, rows[column.name][:-1], finished=True)
