"""An evaluation as a picture: quality of every policy with its interval, and beside it what it costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from autobatch.report._save_figure import save_figure
from autobatch.report.plane import check_format

Interval = tuple[float, float, float]
"""A figure with the ends of its interval; NaN for what is not known."""


class _Look(NamedTuple):
    color: str
    marker: str
    size: float


# Two colours of Okabe and Ito, which every kind of colour vision tells apart; the markers differ as well.
_JUDGED = _Look("#0072B2", "o", 8.0)
_BASELINE = _Look("#595959", "s", 5.5)
_ROW_INCHES = 0.34
_FAR_BELOW = 4.0
_RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0)


@dataclass(frozen=True)
class EvaluationBar:
    """One line of the picture.

    Attributes:
        label: the policy.
        judged: whether it is one of the policies that are evaluated, which are drawn in another colour.
        quality: interquartile mean of its quality.
        time: interquartile mean of its time over the best fixed beacon's.
    """

    label: str
    judged: bool
    quality: Interval
    time: Interval


def save_evaluation(path: Path, title: str, bars: Sequence[EvaluationBar]) -> None:
    """Draw an evaluation and write it to a file, at once or not at all.

    Args:
        path: the file; its ending says in which format.
        title: tasks and seeds, in words.
        bars: the policies, from the top.

    Raises:
        ConfigError: the file's ending is not one that can be written.
        OutputError: the file cannot be written.
    """
    check_format(path)
    save_figure(path, evaluation_figure(title, bars))


def evaluation_figure(title: str, bars: Sequence[EvaluationBar]) -> Figure:
    """Draw an evaluation.

    Args:
        title: tasks and seeds, in words.
        bars: the policies, from the top.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(11.0, 1.9 + _ROW_INCHES * len(bars)), layout="constrained")
    quality, time = figure.subplots(1, 2, sharey=True)
    lowest = _lowest_shown(bars)
    _draw(quality, [bar.quality for bar in bars], bars, lowest)
    _draw(time, [bar.time for bar in bars], bars, -math.inf)
    if math.isfinite(lowest):
        quality.set_xlim(left=lowest)
    quality.set_yticks(range(len(bars)), [bar.label for bar in bars])
    for label, bar in zip(quality.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if bar.judged else "normal")
    quality.set_ylim(len(bars) - 0.4, -0.6)
    quality.set_xlabel("quality: 0 is guessing, 1 the best fixed beacon\n(further right is better)")
    time.set_xlabel("modelled time over the best fixed beacon's\n(measuring included; further left is better)")
    ratio_axis(time, [bar.time for bar in bars])
    figure.suptitle(
        f"Real training on {title}\ninterquartile means with 95 % intervals; blue circles: policies, grey squares: "
        "baselines, dashed: the best fixed beacon",
        fontsize=11,
    )
    return figure


def _lowest_shown(bars: Sequence[EvaluationBar]) -> float:
    """Return where the axis of quality begins, so that a few baselines far below do not squash all others.

    Policies are always inside with their intervals; minus infinity where everything is.
    """
    known = sorted(bar.quality[0] for bar in bars if math.isfinite(bar.quality[0]))
    if not known:
        return -math.inf
    middle = known[len(known) // 2]
    highest = max(value for bar in bars for value in bar.quality if math.isfinite(value))
    judged = [value for bar in bars if bar.judged for value in bar.quality if math.isfinite(value)]
    lowest = min([middle - _FAR_BELOW * max(highest - middle, 0.02), *(value - 0.02 for value in judged)])
    return lowest if known[0] < lowest else -math.inf


def _draw(axes: Axes, intervals: Sequence[Interval], bars: Sequence[EvaluationBar], lowest: float) -> None:
    axes.axvline(1.0, color="#D55E00", linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    for row, ((value, low, high), bar) in enumerate(zip(intervals, bars, strict=True)):
        if not math.isfinite(value):
            axes.text(0.02, row, "not known", transform=axes.get_yaxis_transform(), va="center", color="#595959")
            continue
        look = _JUDGED if bar.judged else _BASELINE
        if value < lowest:
            told = f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
            axes.plot([0.012], [row], transform=axes.get_yaxis_transform(), marker="<", color=look.color)
            axes.text(0.035, row, told, transform=axes.get_yaxis_transform(), va="center", color=look.color, fontsize=9)
            continue
        if math.isfinite(low):
            axes.plot([low, high], [row, row], color=look.color, linewidth=2.2, solid_capstyle="butt", zorder=2)
        axes.plot(
            [value],
            [row],
            linestyle="none",
            marker=look.marker,
            markersize=look.size,
            color=look.color,
            markeredgecolor="white",
            zorder=3,
        )
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def ratio_axis(axes: Axes, intervals: Sequence[Sequence[float]]) -> None:
    """Where ratios differ much, show them in logarithms, with ticks that are read at a glance.

    Args:
        axes: what ratios are drawn in, along x.
        intervals: the ratios; NaN for what is not known.
    """
    known = [1.0, *(value for interval in intervals for value in interval if math.isfinite(value) and value > 0.0)]
    low, high = min(known) / 1.15, max(known) * 1.15
    if high / low < 3.0:
        return
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _RATIO_TICKS if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
