"""The run's part of the picture: its journey through the plane, and what it did epoch by epoch."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from autobatch.beacons import BeaconLibrary
from autobatch.policies._wording import count
from autobatch.report._record import RunRecord, RunScout
from autobatch.report._words import configuration_words, epoch_words, seconds_words
from autobatch.training import EpochRow

_JOURNEY = "#d7301f"
_SCOUT = "#7b3294"
_HALO = [withStroke(linewidth=2.5, foreground="white")]
_MARKED_EPOCHS = 8
_EDGE = 0.88
"""Share of the plane's width beyond which there is no room for a name on the right."""


def draw_journey(axes: Axes, epochs: Sequence[EpochRow]) -> Iterator[Artist]:
    """Draw a run's way through a plane, name its changes of batch size, and yield what a legend explains."""
    placed = placed_epochs(epochs)
    if not placed:
        return
    c_bar, l_cum = [row.c_bar for row in placed], [row.l_cum for row in placed]
    axes.plot(
        c_bar,
        l_cum,
        color=_JOURNEY,
        linewidth=2.2,
        zorder=7,
        path_effects=[withStroke(linewidth=4, foreground="white")],
    )
    yield Line2D([], [], color=_JOURNEY, linewidth=2.2, label="this run; small numbers count its epochs")
    _mark_epochs(axes, placed)
    axes.scatter(c_bar[-1], l_cum[-1], marker="D", s=70, c=_JOURNEY, edgecolors="white", linewidths=1.2, zorder=9)
    yield Line2D(
        [], [], marker="D", linestyle="", color=_JOURNEY, label=f"its end, after epoch {epoch_words(placed[-1].epoch)}"
    )
    _grow_limits(axes, c_bar, l_cum)
    _name_changes(axes, placed)


def placed_epochs(epochs: Sequence[EpochRow]) -> list[EpochRow]:
    """Return the epochs that ended at a position which logarithmic axes can show."""
    return [row for row in epochs if row.c_bar > 0 and row.l_cum > 0 and math.isfinite(row.c_bar * row.l_cum)]


def draw_scouts(axes: Axes, scouts: Sequence[RunScout]) -> Iterator[Artist]:
    """Draw the ways of scouts that did not become the run, or have not yet, and yield what a legend explains."""
    styles: tuple[Literal["--", ":", "-."], ...] = ("--", ":", "-.")
    for scout, style in zip(scouts, cycle(styles)):
        placed = placed_epochs(scout.epochs)
        if not placed or (scout.record is not None and scout.record.won):
            continue
        c_bar, l_cum = [row.c_bar for row in placed], [row.l_cum for row in placed]
        axes.plot(c_bar, l_cum, color=_SCOUT, linestyle=style, linewidth=1.4, marker=".", zorder=6)
        took = "" if scout.record is None else f", lost, took {seconds_words(scout.record.seconds)}"
        name = f"scout {configuration_words(scout.batch_size, scout.lr)}{took}"
        yield Line2D([], [], color=_SCOUT, linestyle=style, linewidth=1.4, marker=".", label=name)
        _grow_limits(axes, c_bar, l_cum)


def _mark_epochs(axes: Axes, placed: list[EpochRow]) -> None:
    whole = [row for row in placed if isinstance(row.epoch, int)]
    every = max(1, math.ceil(len(placed) / _MARKED_EPOCHS / 5) * 5) if whole == placed else 1
    marked = [placed[0], *(row for row in whole if row is not placed[0] and row.epoch % every == 0)]
    axes.scatter(
        [row.c_bar for row in marked],
        [row.l_cum for row in marked],
        s=26,
        c="white",
        edgecolors=_JOURNEY,
        linewidths=1.4,
        zorder=8,
    )
    named: list[EpochRow] = []
    for row in marked:
        if not far_apart(row, named):
            continue
        axes.annotate(
            epoch_words(row.epoch),
            (row.c_bar, row.l_cum),
            xytext=(-6, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=_JOURNEY,
            path_effects=_HALO,
            zorder=10,
        )


def _name_changes(axes: Axes, placed: list[EpochRow]) -> None:
    first = placed[0]
    _name(axes, first, f"B {first.batch_size}")
    named = [first]
    pairs = [pair for pair in pairwise(placed) if _configuration(pair[0]) != _configuration(pair[1])]
    for before, after in reversed(pairs):  # the last one first: it is named wherever it is
        if not far_apart(before, named):
            continue
        words = f"B → {after.batch_size}" if after.batch_size != before.batch_size else f"rate → {after.lr:g}"
        _name(axes, before, words, below=not far_apart(before, [placed[-1]]))


def _configuration(row: EpochRow) -> tuple[int, float]:
    return row.batch_size, row.lr


def far_apart(row: EpochRow, named: list[EpochRow]) -> bool:
    """Say whether a name here would not cover an earlier one; it then counts as named. The panels beside show the rest.

    Args:
        row: the epoch to be named.
        named: the epochs that have names; this one is added where there is room.

    Returns:
        Whether there is room.
    """
    for other in named:
        across, up = abs(math.log10(row.c_bar / other.c_bar)), abs(math.log10(row.l_cum / other.l_cum))
        if across < 0.25 and up < 0.08:
            return False
    named.append(row)
    return True


def _name(axes: Axes, row: EpochRow, text: str, *, below: bool = False) -> None:
    """Name a place; below it where the mark of the end would cover what is written beside it."""
    place = axes.transAxes.inverted().transform(axes.transData.transform((row.c_bar, row.l_cum)))
    at_the_edge = place[0] > _EDGE
    axes.annotate(
        text,
        (row.c_bar, row.l_cum),
        xytext=(-9 if at_the_edge else 9, -14 if below else -3),
        textcoords="offset points",
        ha="right" if at_the_edge else "left",
        fontsize=8.5,
        fontweight="bold",
        color="#7f0000",
        path_effects=_HALO,
        zorder=10,
    )


def _grow_limits(axes: Axes, c_bar: list[float], l_cum: list[float]) -> None:
    for values, limits, set_limits in (
        (c_bar, axes.get_xlim(), axes.set_xlim),
        (l_cum, axes.get_ylim(), axes.set_ylim),
    ):
        set_limits(min(limits[0], 0.85 * min(values)), max(limits[1], 1.2 * max(values)))


def draw_epochs(
    figure: Figure, cells: GridSpecFromSubplotSpec, record: RunRecord, library: BeaconLibrary | None
) -> None:
    """Draw batch size, learning rate and the scored figure over epochs, in three panels one above the other.

    Args:
        figure: the figure.
        cells: three cells, one above the other.
        record: the run; it has an epoch.
        library: the beacons, whose best is drawn beside the score.
    """
    epochs, score = record.epochs, record.config.task.score
    size, rate, scored = (figure.add_subplot(cells[row, 0]) for row in range(3))
    numbers = [row.epoch for row in epochs]
    mark = "o" if len(epochs) == 1 else None  # of a single epoch a line has no length
    size.step(numbers, [row.batch_size for row in epochs], where="mid", color=_JOURNEY, linewidth=2, marker=mark)
    size.set_yscale("log", base=2)
    _tick_exactly(size, sorted({row.batch_size for row in epochs}))
    size.set_ylabel("batch size")
    rate.step(numbers, [row.lr for row in epochs], where="mid", color="0.5", linestyle=":", linewidth=1.5, label="base")
    applied = [row.lr_effective for row in epochs]
    rate.step(numbers, applied, where="mid", color=_JOURNEY, linewidth=2, marker=mark, label="as applied")
    rate.set_yscale("log")
    _tick_plainly(rate)
    rate.set_ylabel("learning rate")
    _mark_fall(rate, record)
    rate.legend(fontsize=7.5)
    _draw_score(scored, record, score, library)
    half = numbers[0] / 2
    for axes in (size, rate, scored):
        axes.set_xlim(half, numbers[-1] + half)
        axes.margins(y=0.1)
        ticks = MaxNLocator(8, integer=isinstance(numbers[0], int))
        axes.xaxis.set_major_locator(ticks if len(epochs) > 1 else FixedLocator(numbers))
        axes.grid(color="0.9", linewidth=0.5)
    ends = "" if record.summary is None or not record.summary.ended_early else f"; ended early, of {_whole(record)}"
    scored.set_xlabel(f"epoch{ends}")


def _whole(record: RunRecord) -> str:
    return f"{record.config.task.epochs} epochs"


def _mark_fall(axes: Axes, record: RunRecord) -> None:
    """Mark where the policy lets the rate begin to fall."""
    begun = next((one.epoch for one in record.decisions if one.fall_begins), None)
    if begun is not None:
        when = f"in epoch {begun + 1}" if isinstance(begun, int) else f"after {count(begun, 'epoch')}"
        half = record.epochs[0].epoch / 2
        axes.axvline(begun + half, color="0.3", linestyle="--", linewidth=1, label=f"the fall begins {when}")


def _tick_plainly(axes: Axes) -> None:
    """Label a logarithmic axis of any span in plain numbers that do not overlap."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _tick_exactly(axes: Axes, values: list[int]) -> None:
    axes.yaxis.set_major_locator(FixedLocator(values))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(values[0] / 1.5, values[-1] * 1.5)


def _draw_forks(axes: Axes, record: RunRecord, score: str) -> None:
    """Draw what was tried on the run itself, where its figure is the one that is drawn."""
    for taken, marker, name in ((True, "^", "fork, goes on"), (False, "v", "fork, not taken")):
        tried = [fork for fork in record.forks if fork.taken == taken and math.isfinite(fork.difference)]
        if tried and score == "validation_loss":
            losses = [fork.loss + fork.difference for fork in tried]
            axes.plot([fork.epoch + 1 for fork in tried], losses, color=_SCOUT, linestyle="", marker=marker, label=name)


def _draw_score(axes: Axes, record: RunRecord, score: str, library: BeaconLibrary | None) -> None:
    epochs = record.epochs
    values = [getattr(row, score) for row in epochs]
    axes.set_ylabel(score.replace("_", " "))
    if not any(math.isfinite(value) for value in values):
        axes.text(0.5, 0.5, "diverged: not a finite number", transform=axes.transAxes, ha="center", color=_JOURNEY)
        axes.set_yticks([])
        return
    mark = "o" if len(epochs) == 1 else None
    axes.plot([row.epoch for row in epochs], values, color=_JOURNEY, linewidth=2, marker=mark, label="this run")
    losers = [scout for scout in record.scouts if scout.epochs and (scout.record is None or not scout.record.won)]
    for number, scout in enumerate(losers):
        axes.plot(
            [row.epoch for row in scout.epochs],
            [getattr(row, score) for row in scout.epochs],
            color=_SCOUT,
            linestyle="--",
            linewidth=1.2,
            marker=".",
            label="scouts that lost" if number == 0 else None,
        )
    _draw_forks(axes, record, score)
    if library is not None:
        best = library.best_fixed()
        for index, beacon in enumerate(library.beacons_at(best.batch_size, best.lr)):
            name = f"best fixed beacon, {configuration_words(best.batch_size, best.lr)}"
            axes.plot(
                beacon.rows["epoch"],
                beacon.rows[score],
                color="0.35",
                linewidth=0.8,
                alpha=0.7,
                zorder=1,
                label=name if index == 0 else None,
            )
    if all(value > 0 for value in values):
        axes.set_yscale("log")
        _tick_plainly(axes)
    axes.legend(fontsize=7.5)
