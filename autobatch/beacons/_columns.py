"""The columns of a beacon library: names, types and units, in the order in which they are stored."""

from dataclasses import dataclass
from typing import Literal

FORMAT_VERSION = 1
"""Version of the stored format; a reader refuses any other."""

Kind = Literal["int64", "float64", "string"]


@dataclass(frozen=True)
class Column:
    """One stored column.

    Attributes:
        name: the column's name.
        kind: its type.
        unit: its unit, stored in the field's metadata.
        meaning: what it holds, stored in the field's metadata.
        per_epoch: whether it changes from epoch to epoch within a beacon.
        rises: whether it never falls within a beacon.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    per_epoch: bool = True
    rises: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("batch_size", "int64", "examples", "global batch size of the beacon", per_epoch=False),
    Column("lr", "float64", "1", "base learning rate of the beacon, before the schedule's factor", per_epoch=False),
    Column("seed", "int64", "1", "seed of the beacon", per_epoch=False),
    Column("epoch", "int64", "epochs", "finished epochs, 1 in a beacon's first row"),
    Column("progress", "float64", "1", "examples seen / examples of the whole training"),
    Column("lr_effective", "float64", "1", "learning rate at the end of the epoch, after the schedule's factor"),
    Column("c_bar", "float64", "1", "C̄_K, running mean of the truncated condition number"),
    Column("l_cum", "float64", "1", "L_K, cumulative learning-rate-weighted energy", rises=True),
    Column("steps", "int64", "steps", "optimizer steps so far, K", rises=True),
    Column("samples", "int64", "steps", "measured steps so far", rises=True),
    Column("examples", "int64", "examples", "examples seen so far", rises=True),
    Column("train_loss", "float64", "nats", "mean training loss of the epoch"),
    Column("validation_loss", "float64", "nats", "mean validation loss after the epoch"),
    Column("validation_error", "float64", "1", "share of validation examples classified wrongly after the epoch"),
    Column("seconds", "float64", "s", "time so far, measuring included", rises=True),
    Column("measuring_seconds", "float64", "s", "time spent measuring so far", rises=True),
    Column("test_error", "float64", "1", "share of test examples classified wrongly at the end", per_epoch=False),
    Column("test_loss", "float64", "nats", "mean test loss at the end", per_epoch=False),
    Column("stopped_because", "string", "", "'finished', or why the beacon ended early", per_epoch=False),
)

EPOCH_COLUMNS: tuple[Column, ...] = tuple(column for column in COLUMNS if column.per_epoch)

FINISHED = "finished"
"""``stopped_because`` of a beacon that ran to its last epoch."""

END_TOLERANCE = 1e-3
"""How far from progress 1 the last row of a finished training may stand, for incomplete batches that were dropped."""
