"""One screen that shows where a run stands while it trains."""

import math
from collections.abc import Sequence
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autobatch._errors import LibraryError
from autobatch._plain import Epochs
from autobatch.beacons import BeaconLibrary, FixedResult
from autobatch.control import DecisionRecord
from autobatch.policies._wording import brief
from autobatch.report._follow import durations, silence_words
from autobatch.report._record import RunRecord
from autobatch.report._tables import named_facts
from autobatch.report._words import (
    configuration_words,
    epoch_words,
    loss_words,
    percent_words,
    position_words,
    seconds_words,
)
from autobatch.training import EpochRow

_RECENT_EPOCHS = 5
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 40
_COLUMNS = (
    ("epoch", 5),
    ("batch", 5),
    ("applied\nrate", 7),
    ("C̄", 7),
    ("L", 5),
    ("train\nloss", 6),
    ("validation\nloss", 10),
    ("\nerror", 7),
    ("took", 6),
)
_OTHER_LINES = 19
"""Lines of the screen besides the epochs."""


def seconds_left(record: RunRecord, silence: float) -> float:
    """Estimate the seconds left of a run from its last epochs at the present batch size; NaN before the first."""
    if not record.epochs:
        return math.nan
    each = fmean(_recent(record.epochs))
    return max(each * (record.planned_epochs - record.epochs[-1].epoch) - min(silence, each), 0.0)


def beacon_words(record: RunRecord) -> str | None:
    """Say where a run stands beside the best fixed beacon after as many epochs; None without either."""
    library = record.library
    if library is None or not record.epochs:
        return None
    try:
        best = library.best_fixed()
    except LibraryError:
        return None
    row, score = record.epochs[-1], library.score
    words = loss_words if score == "validation_loss" else percent_words
    own, theirs = float(getattr(row, score)), _beacon_at(library, best, score, row.epoch)
    ahead = "ahead" if own < theirs else "behind" if own > theirs else "level"
    standing = f", {ahead}" if math.isfinite(own) and math.isfinite(theirs) else ""
    return (
        f"{configuration_words(best.batch_size, best.lr)}: {score.replace('_', ' ')} {words(theirs)} after epoch "
        f"{epoch_words(row.epoch)}, this run {words(own)}{standing}; it ended at {words(best.mean[score])}"
    )


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """Return values as a line of small bars on a logarithmic scale.

    Args:
        values: one value an epoch, at least 0; NaN where it is not known.
        width: columns at most; more values than that are averaged in groups.

    Returns:
        One character a value or group, a space where nothing is known.
    """
    least = min((value for value in values if value > 0), default=1.0)
    logs = [math.log(max(value, least)) if math.isfinite(value) else math.nan for value in values]
    count = min(width, len(logs))
    groups = [logs[len(logs) * index // count : len(logs) * (index + 1) // count] for index in range(count)]
    known = [[value for value in group if math.isfinite(value)] for group in groups]
    means = [fmean(group) if group else math.nan for group in known]
    low = min((value for value in means if math.isfinite(value)), default=0.0)
    high = max((value for value in means if math.isfinite(value)), default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in means)


def watch_view(record: RunRecord, silence: float, height: int = 24) -> RenderableType:
    """Return a screen, 80 columns wide or more and ``height`` lines high, that shows where a run stands."""
    return Group(standing_view(record, silence, height), Text("Ctrl-C leaves; the run goes on.", style="dim"))


def standing_view(record: RunRecord, silence: float, height: int = 24) -> RenderableType:
    """Return where a run stands, for 80 columns or more and ``height`` lines; ``silence`` in seconds."""
    told: list[RenderableType] = [Text(record.title, style="bold"), _progress(record, silence)]
    if record.epochs:
        told += [Text(), _epochs(record.epochs, min(max(height - _OTHER_LINES, 3), 15)), Text()]
    told.append(_facts(record))
    quiet = silence_words(record, silence)
    if quiet is not None:
        told.append(Text(quiet, style="yellow"))
    return Group(*told)


def _progress(record: RunRecord, silence: float) -> RenderableType:
    done = record.epochs[-1].epoch if record.epochs else 0
    total = record.planned_epochs
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total, completed=done, width=24)
    if record.scouts_are_training:
        words = _scouting_words(record)
    elif not record.epochs:
        since = "" if math.isinf(silence) else f"; {seconds_words(silence)} since it began"
        words = f"no epoch is finished yet{since}"
    else:
        words = f"{seconds_words(record.epochs[-1].seconds)} trained, "
        left = seconds_left(record, silence)
        is_silent = silence_words(record, silence) is not None
        words += "time left unknown" if is_silent else f"about {seconds_words(left)} left"
    line.add_row(f"epoch {epoch_words(done)}/{total}", bar, words)
    return line


def _scouting_words(record: RunRecord) -> str:
    """Say which scout trains, and how far it is."""
    training = next((number for number, one in enumerate(record.scouts) if one.record is None), 0)
    scout, most = record.scouts[training], record.scouting.epochs if record.scouting is not None else 0
    name = configuration_words(scout.batch_size, scout.lr)
    more = record.scouting.more if record.scouting is not None else 0
    of = f"at most {len(record.scouts) + more}" if more else str(len(record.scouts))
    done = scout.epochs[-1].epoch if scout.epochs else 0
    return f"first, scout {training + 1} of {of}, {name}: epoch {epoch_words(done)}/{epoch_words(most)} done"


def _scouts_words(record: RunRecord) -> str:
    """Say what each scout came to, and which went on."""
    told = []
    for scout in record.scouts:
        words = configuration_words(scout.batch_size, scout.lr)
        if scout.epochs:
            words += f" {loss_words(scout.epochs[-1].train_loss)}"
        if scout.record is not None:
            words += " (went on)" if scout.record.won else f" ({seconds_words(scout.record.seconds)})"
        told.append(words)
    return "training loss " + ", ".join(told)


def _epochs(rows: Sequence[EpochRow], shown: int) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for heading, width in _COLUMNS:  # fixed widths, so that the table keeps still
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for row, seconds in list(zip(rows, durations(rows), strict=True))[-shown:]:
        table.add_row(
            epoch_words(row.epoch),
            str(row.batch_size),
            f"{row.lr_effective:.3g}",
            position_words(row.c_bar),
            position_words(row.l_cum),
            loss_words(row.train_loss),
            loss_words(row.validation_loss),
            percent_words(row.validation_error),
            seconds_words(seconds),
        )
    return table


def _facts(record: RunRecord) -> Table:
    facts = named_facts("dim")
    rows = record.epochs
    if rows:
        errors, sizes = [row.validation_error for row in rows], [float(row.batch_size) for row in rows]
        lowest = min((error for error in errors if math.isfinite(error)), default=None)
        facts.add_row("Error", f"{sparkline(errors)}  {percent_words(errors[-1])}, least {percent_words(lowest)}")
        facts.add_row("Batch size", f"{sparkline(sizes)}  {rows[-1].batch_size}")
    if any(scout.epochs for scout in record.scouts):
        facts.add_row("Scouts", Text(_scouts_words(record)))
    if record.forks:
        facts.add_row("Last fork", Text(f"in epoch {record.forks[-1].epoch + 1}: {brief(record.forks[-1].reason)}"))
    if record.planned_epochs < record.config.task.epochs:
        facts.add_row("Plan", f"to end after epoch {record.planned_epochs} of the task's {record.config.task.epochs}")
    changes = [decision for decision in record.decisions if decision.turn or decision.stop]
    if changes:
        facts.add_row("Last change", Text(_change_words(changes[-1])))
    beacon = beacon_words(record)
    if beacon is not None:
        facts.add_row("Best beacon", Text(beacon))
    return facts


def _change_words(decision: DecisionRecord) -> str:
    when = "at the start" if decision.epoch == 0 else f"after epoch {epoch_words(decision.epoch)}"
    limit = f" ({decision.limit})" if decision.limit else ""
    return f"{when}: {brief(decision.reason)}{limit}"


def _beacon_at(library: BeaconLibrary, best: FixedResult, figure: str, epoch: Epochs) -> float:
    beacons = library.beacons_at(best.batch_size, best.lr)
    rows = [beacon.rows for beacon in beacons]
    values = [float(row[figure][row["epoch"] == epoch][0]) for row in rows if epoch in row["epoch"]]
    return fmean(values) if values else math.nan


def _recent(rows: Sequence[EpochRow]) -> list[float]:
    """Return the durations of the last epochs, back to the last change of batch size."""
    found: list[float] = []
    for row, seconds in zip(reversed(rows), reversed(durations(rows)), strict=True):
        if row.batch_size != rows[-1].batch_size or len(found) == _RECENT_EPOCHS:
            break
        found.append(seconds)
    return found
