"""A beacon: one finished (or diverged) run at a fixed batch size and learning rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autobatch._errors import LibraryError
from autobatch.beacons._columns import END_TOLERANCE, EPOCH_COLUMNS, FINISHED, Column

# What a loop may not have told in an epoch, or never: NaN then.
_MAY_BE_UNKNOWN = frozenset({"train_loss", "validation_loss", "validation_error"})

# A run that diverged may end in figures that are not finite; its clocks and counters must still be sound.
_MAY_DIVERGE = frozenset({"c_bar", "l_cum", *_MAY_BE_UNKNOWN})

_SCORED = ("validation_loss", "validation_error")


class BeaconKey(NamedTuple):
    """What tells the beacons of one task apart.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        seed: seed of the run.
    """

    batch_size: int
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """The beacon's name, ``b32-lr0.1-s0``; exact, so that two beacons never share one."""
        return f"b{self.batch_size}-lr{self.lr!r}-s{self.seed}"


@dataclass(frozen=True, eq=False)
class Beacon:
    """A run at one fixed (batch size, learning rate), epoch by epoch.

    A loss or an error that was not taken down is NaN: in some epochs, or throughout. At the end of a finished beacon at
    least one validation figure is known; which one a library needs, its score says.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate, before the schedule's factor.
        seed: seed of the run.
        rows: one read-only array, shape (epochs,), for each per-epoch column: ``epoch progress lr_effective c_bar
            l_cum steps samples examples train_loss validation_loss validation_error seconds measuring_seconds``
            (``l_cum`` and those from ``steps`` to ``examples`` and both seconds are running totals).
        test_error: share of test examples classified wrongly at the end; for reports, never for decisions. NaN where it
            is not known.
        test_loss: mean test loss at the end; NaN where it is not known.
        stopped_because: ``"finished"``, or why the run ended early.

    Raises:
        LibraryError: a column is missing, of another length or type, or holds what no run can produce.
    """

    batch_size: int
    lr: float
    seed: int
    rows: Mapping[str, NDArray[Any]]
    test_error: float
    test_loss: float
    stopped_because: str = FINISHED

    def __post_init__(self) -> None:
        """Check the beacon and freeze its arrays."""
        object.__setattr__(self, "rows", frozen_rows(self.rows, EPOCH_COLUMNS, f"beacon {self.name}", "an epoch"))
        _check_constants(self)
        _check_rows(self)

    @classmethod
    def from_records(
        cls,
        batch_size: int,
        lr: float,
        seed: int,
        records: Sequence[Mapping[str, Any]],
        *,
        test_error: float,
        test_loss: float,
        stopped_because: str = FINISHED,
    ) -> "Beacon":
        """Build a beacon from one mapping per epoch; keys that are no per-epoch column are passed over.

        Args:
            batch_size: global batch size.
            lr: base learning rate.
            seed: seed of the run.
            records: one mapping per epoch, in order.
            test_error: share of test examples classified wrongly at the end.
            test_loss: mean test loss at the end.
            stopped_because: ``"finished"``, or why the run ended early.

        Returns:
            The beacon.

        Raises:
            LibraryError: a record lacks a column, or holds what no run can produce.
        """
        whose = f"beacon {BeaconKey(batch_size, lr, seed).name}"
        rows = rows_of(records, EPOCH_COLUMNS, whose, "an epoch")
        return cls(batch_size, lr, seed, rows, test_error, test_loss, stopped_because)

    @property
    def key(self) -> BeaconKey:
        """What tells this beacon from the others of its task."""
        return BeaconKey(self.batch_size, self.lr, self.seed)

    @property
    def name(self) -> str:
        """The beacon's name, such as ``b32-lr0.1-s0``."""
        return self.key.name

    @property
    def finished(self) -> bool:
        """Whether the run reached its last epoch."""
        return self.stopped_because == FINISHED

    def final(self, figure: str) -> float:
        """Return a figure at the end of the run.

        Args:
            figure: a per-epoch column, ``"test_error"`` or ``"test_loss"``.

        Returns:
            The value in the last row, in the column's unit.
        """
        if figure == "test_error":
            return self.test_error
        if figure == "test_loss":
            return self.test_loss
        return float(self.rows[figure][-1])


def rows_of(
    records: Sequence[Mapping[str, Any]], columns: Iterable[Column], whose: str, each: str
) -> dict[str, NDArray[Any]]:
    """Return records, one mapping per row, as one array for each column.

    Args:
        records: the rows, in order; keys that are no column are passed over.
        columns: the columns.
        whose: whose rows they are, for messages.
        each: what a row is, for messages.

    Returns:
        The arrays.

    Raises:
        LibraryError: a record lacks a column, or holds something else.
    """
    rows = {}
    for column in columns:
        try:
            rows[column.name] = np.asarray([record[column.name] for record in records], dtype=column.kind)
        except KeyError:
            raise LibraryError(f"{whose}: {each} has no column '{column.name}'") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise LibraryError(f"{whose}: column '{column.name}' must be {column.kind}: {error}") from None
    return rows


def frozen_rows(
    rows: Mapping[str, NDArray[Any]], columns: Iterable[Column], whose: str, each: str
) -> dict[str, NDArray[Any]]:
    """Check the arrays of a training and copy them read-only.

    Args:
        rows: one array for each column.
        columns: the columns that there must be.
        whose: whose rows they are, for messages.
        each: what a row is, for messages.

    Returns:
        Read-only copies, in the order of the columns.

    Raises:
        LibraryError: a column is missing, of another type or length, or there is no row.
    """
    frozen: dict[str, NDArray[Any]] = {}
    for column in columns:
        if column.name not in rows:
            raise LibraryError(f"{whose}: column '{column.name}' is missing")
        values = np.array(rows[column.name])
        if values.dtype != np.dtype(column.kind) or values.ndim != 1:
            raise LibraryError(
                f"{whose}: column '{column.name}' must be one row of {column.kind}, "
                f"got {values.dtype} of shape {values.shape}"
            )
        values.flags.writeable = False
        frozen[column.name] = values
    lengths = {column: len(values) for column, values in frozen.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise LibraryError(f"{whose}: every column must have one value {each}, got lengths {lengths}")
    return frozen


def _check_constants(beacon: Beacon) -> None:
    if beacon.batch_size < 1:
        raise LibraryError(f"beacon {beacon.name}: 'batch_size' must be at least 1, got {beacon.batch_size}")
    if not 0.0 < beacon.lr < float("inf"):
        raise LibraryError(f"beacon {beacon.name}: 'lr' must be positive and finite, got {beacon.lr}")
    if not beacon.stopped_because:
        raise LibraryError(f"beacon {beacon.name}: 'stopped_because' must say 'finished' or why the run ended early")
    if beacon.finished:
        if not (0.0 <= beacon.test_error <= 1.0 or np.isnan(beacon.test_error)):
            raise LibraryError(f"beacon {beacon.name}: 'test_error' must lie in [0, 1], got {beacon.test_error}")
        if np.isinf(beacon.test_loss):
            raise LibraryError(f"beacon {beacon.name}: 'test_loss' must be finite, got {beacon.test_loss}")


def _check_rows(beacon: Beacon) -> None:
    progress = beacon.rows["progress"]
    check_course(f"beacon {beacon.name}", beacon.rows, first=1)
    for column in EPOCH_COLUMNS:
        check_column(f"beacon {beacon.name}", column, beacon.rows[column.name], finished=beacon.finished)
    if beacon.finished and progress[-1] < 1.0 - END_TOLERANCE:
        raise LibraryError(
            f"beacon {beacon.name}: a finished beacon must end at progress 1, its last row stands at {progress[-1]:.6g}"
        )
    if beacon.finished and not any(np.isfinite(beacon.final(figure)) for figure in _SCORED):
        raise LibraryError(
            f"beacon {beacon.name}: a finished beacon must end with a validation loss or error, got neither"
        )


def check_course(what: str, rows: Mapping[str, NDArray[Any]], first: int) -> None:
    """Refuse rows that are not those of epochs in a row, the first of which is ``first``."""
    epochs, progress = rows["epoch"], rows["progress"]
    if not np.array_equal(epochs, np.arange(first, first + len(epochs))):
        raise LibraryError(
            f"{what}: column 'epoch' must count {first}, {first + 1}, ... once each, got {shown(epochs)} "
            "(a row is missing or stored twice)"
        )
    if not np.all(np.diff(progress, prepend=0.0) > 0.0) or progress[-1] > 1.0 + END_TOLERANCE:
        raise LibraryError(f"{what}: column 'progress' must rise from above 0 to at most 1, got {shown(progress)}")


def check_column(what: str, column: Column, values: NDArray[Any], *, finished: bool) -> None:
    """Refuse figures that no training can produce.

    Args:
        what: whose figures they are, for the message.
        column: the column.
        values: its values, one an epoch.
        finished: whether the training did not diverge; otherwise some figures need not be finite.

    Raises:
        LibraryError: a value is none that a training can produce; the message names the column.
    """
    may_diverge = not finished and column.name in _MAY_DIVERGE
    if may_diverge:
        values = values[np.isfinite(values)]
    elif column.name in _MAY_BE_UNKNOWN:
        values = values[~np.isnan(values)]
    problem = ""
    if not np.all(np.isfinite(values)):
        problem = "must be finite"
    elif np.any(values < 0) and not column.name.endswith("_loss"):
        problem = "must not be negative"
    elif column.name in {"c_bar", "l_cum", "steps"} and np.any(values == 0) and not may_diverge:
        problem = "must be positive"
    elif column.name == "validation_error" and np.any(values > 1.0):
        problem = "must lie in [0, 1]"
    elif column.rises and np.any(values[1:] < values[:-1]):
        problem = "must never fall"
    if problem:
        raise LibraryError(f"{what}: column '{column.name}' {problem}, got {shown(values)}")


def check_scored(beacon: Beacon, score: str) -> None:
    """Refuse a finished beacon that ends without the figure that ranks it."""
    if beacon.finished and not np.isfinite(beacon.final(score)):
        raise LibraryError(
            f"beacon {beacon.name}: column '{score}' must be finite in the last row, for it is the score, got "
            f"{shown(beacon.rows[score])}"
        )


def shown(values: NDArray[Any]) -> str:
    """Return figures as a message shows them: the first few, and how many there are."""
    first = [f"{value:.6g}" for value in values[:6].tolist()]
    return ", ".join(first) + (f", ... ({len(values)} rows)" if len(values) > 6 else "")
