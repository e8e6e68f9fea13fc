"""A comparison as pictures: error and time of every policy on a task, and their quality and time over all tasks."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autobatch.evidence._statistics import Estimate
from autobatch.evidence.bench._overall import ALL, Aggregate
from autobatch.report._save_figure import save_figure
from autobatch.report.plane._ticks import error_ticks

Interval = tuple[float, float, float]
"""A figure with the ends of its interval; NaN for what is not known."""


class _Look(NamedTuple):
    color: str
    dashes: Literal["-", "--", "-.", ":"] = "-"
    marker: str = "o"
    size: float = 8.0


# The colours of Okabe and Ito that stand out on white, which every kind of colour vision tells apart; beyond them the
# dashes differ.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_GREY = "#595959"
_REFERENCE = _Look("#4D4D4D")
_JUDGED, _BASELINE = _Look("#0072B2"), _Look(_GREY, marker="s", size=5.5)
_DASHED = (0, (5, 3))
_RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0)
_SECONDS = tuple(step * 10.0**power for power in range(-2, 6) for step in (1, 2, 3, 5))
_MUCH_LONGER = 6.0
_FAR = 4.0


@dataclass(frozen=True)
class TaskLine:
    """One policy of a task's picture; NaN for what is not known.

    Attributes:
        label: the policy.
        test_errors: final test error of each seed that finished.
        test_error: their mean with its interval.
        diverged: seeds that did not finish.
        time: time by the clock over the reference's with the same seed: the median, the least, the greatest.
        modelled_time: modelled time over the reference's.
        curve: modelled seconds and validation error after each epoch, in the mean over the seeds that finished.
    """

    label: str
    test_errors: tuple[float, ...]
    test_error: Interval
    diverged: int
    time: Interval
    modelled_time: float
    curve: tuple[list[float], list[float]]


def save_task(path: Path, title: str, lines: Sequence[TaskLine], reference: str, target: float) -> None:
    """Draw one task and write the picture to a file, at once or not at all; see ``task_figure``."""
    save_figure(path, task_figure(title, lines, reference, target))


def save_overall(path: Path, title: str, lines: Sequence[Aggregate]) -> None:
    """Draw all tasks and write the picture to a file, at once or not at all; see ``overall_figure``."""
    save_figure(path, overall_figure(title, lines))


def task_figure(title: str, lines: Sequence[TaskLine], reference: str, target: float) -> Figure:
    """Draw what came of a task."""
    rows = 1.3 + 0.42 * len(lines)
    figure = Figure(figsize=(12.0, rows + 5.0), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=(rows, 4.6))
    top, bottom = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    error, time = top.subplots(1, 2, sharey=True)
    colors = cycle(_COLORS)
    looks = [_REFERENCE] if reference else []
    looks += [_Look(next(colors), _DASHES[at // len(_COLORS) % len(_DASHES)]) for at in range(len(lines) - len(looks))]
    _draw_errors(error, lines, looks, beside=bool(reference))
    _draw_times(time, lines, looks)
    error.set_yticks(range(len(lines)), [line.label for line in lines])
    error.set_ylim(len(lines) - 0.4, -0.6)
    _draw_curves(bottom.subplots(), lines, looks, target)
    figure.suptitle(f"{title}; beside {reference}" if reference else title, fontsize=13)
    return figure


def overall_figure(title: str, lines: Sequence[Aggregate]) -> Figure:
    """Draw what came of all tasks."""
    figure = Figure(figsize=(11.0, 1.9 + 0.34 * len(lines)), layout="constrained")
    quality, time = figure.subplots(1, 2, sharey=True)
    lowest = _lowest_shown(lines)
    for axes in (quality, time):
        axes.axvline(1.0, color="#D55E00", linewidth=1.2, linestyle=_DASHED, zorder=1)
        _tidy(axes)
    for row, line in enumerate(lines):
        look = _JUDGED if line.judged else _BASELINE
        _draw_interval(quality, row, line.quality, look, lowest)
        _draw_interval(time, row, line.modelled_ratio, look, -math.inf)
    if math.isfinite(lowest):
        quality.set_xlim(left=lowest)
    labels = [line.label if line.scope == ALL else f"{line.label}, {line.scope}" for line in lines]
    quality.set_yticks(range(len(lines)), labels)
    for label, line in zip(quality.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.judged else "normal")
    quality.set_ylim(len(lines) - 0.4, -0.6)
    quality.set_xlabel("quality: 0 is guessing, 1 the best fixed beacon\n(further right is better)")
    time.set_xlabel("modelled time over the best fixed beacon's\n(measuring included; further left is better)")
    _ratio_axis(time, [astuple(line.modelled_ratio) for line in lines])
    figure.suptitle(
        f"Real training on {title}\ninterquartile means with 95 % intervals; blue circles: policies, grey squares: "
        "baselines, dashed: the best fixed beacon",
        fontsize=11,
    )
    return figure


def _lowest_shown(lines: Sequence[Aggregate]) -> float:
    """Return where the axis of quality begins, so that a few baselines far below do not squash all others.

    Policies are always inside with their intervals; minus infinity where everything is.
    """
    known = sorted(line.quality.value for line in lines if math.isfinite(line.quality.value))
    if not known:
        return -math.inf
    middle = known[len(known) // 2]
    highest = max(value for line in lines for value in astuple(line.quality) if math.isfinite(value))
    judged = [value for line in lines if line.judged for value in astuple(line.quality) if math.isfinite(value)]
    lowest = min([middle - _FAR * max(highest - middle, 0.02), *(value - 0.02 for value in judged)])
    return lowest if known[0] < lowest else -math.inf


def _draw_interval(axes: Axes, row: int, estimate: Estimate, look: _Look, lowest: float) -> None:
    value, low, high = astuple(estimate)
    beside = axes.get_yaxis_transform()
    if not math.isfinite(value):
        axes.text(0.02, row, "not known", transform=beside, va="center", color=_GREY)
        return
    if value < lowest:
        told = f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
        axes.plot([0.012], [row], transform=beside, marker="<", color=look.color)
        axes.text(0.035, row, told, transform=beside, va="center", color=look.color, fontsize=9)
        return
    _bar(axes, row, low, high, look)
    _mark(axes, row, value, look)


def _draw_errors(axes: Axes, lines: Sequence[TaskLine], looks: Sequence[_Look], *, beside: bool) -> None:
    mean, low, high = lines[0].test_error
    if beside and math.isfinite(low):
        axes.axvspan(100 * max(low, 0.0), 100 * high, color="0.9", zorder=0)
    if beside and math.isfinite(mean):
        axes.axvline(100 * mean, color=_REFERENCE.color, linewidth=1.2, linestyle=_DASHED, zorder=1)
    highest = _highest_shown(lines)
    for row, (line, look) in enumerate(zip(lines, looks, strict=True)):
        mean, low, high = (100 * value for value in line.test_error)
        _note(axes, row, line, highest)
        if not math.isfinite(mean) or mean > highest:
            continue
        dots = [100 * value for value in line.test_errors]
        # Below the interval, and seeds with the same error one under another.
        heights = [row + 0.2 + 0.08 * (dots[:index].count(dot) % 4) for index, dot in enumerate(dots)]
        axes.scatter(dots, heights, s=22, color=look.color, alpha=0.6, linewidths=0, zorder=2)
        _bar(axes, row, max(low, 0.0) if math.isfinite(low) else low, high, look)
        _mark(axes, row, mean, look._replace(marker="D", size=7.0))
    if math.isfinite(highest):
        axes.set_xlim(right=highest)
    axes.set_xlabel(
        "test error, % (further left is better)\ndots: seeds; diamond: mean, 95 % interval; band: best fixed beacon"
    )
    _tidy(axes)


def _note(axes: Axes, row: int, line: TaskLine, highest: float) -> None:
    """Say in words what the row of a policy cannot show."""
    mean = 100 * line.test_error[0]
    beside = axes.get_yaxis_transform()
    if not math.isfinite(mean):
        axes.text(0.02, row, "not known", transform=beside, va="center", color=_GREY)
    told = [f"{line.diverged} diverged"] if line.diverged else []
    told += [f"{mean:.1f} % →"] if mean > highest else []
    axes.text(0.99, row, ", ".join(told), transform=beside, ha="right", va="center", color="#A40000")


def _highest_shown(lines: Sequence[TaskLine]) -> float:
    """Return where the axis of the test error ends, in percent, so that one policy far off does not squash all others.

    Infinite where everything is inside.
    """
    known = sorted(100 * line.test_error[0] for line in lines if math.isfinite(line.test_error[0]))
    if not known:
        return math.inf
    middle = known[(len(known) - 1) // 2]
    highest = middle + _FAR * max(middle - known[0], 0.25 * middle)
    return highest if known[-1] > highest else math.inf


def _draw_times(axes: Axes, lines: Sequence[TaskLine], looks: Sequence[_Look]) -> None:
    axes.axvline(1.0, color=_REFERENCE.color, linewidth=1.2, linestyle=_DASHED, zorder=1)
    for row, (line, look) in enumerate(zip(lines, looks, strict=True)):
        middle, least, greatest = line.time
        _bar(axes, row, least, greatest, look)
        _mark(axes, row, middle, look)
        axes.plot([line.modelled_time], [row], "|", color="black", markersize=13, markeredgewidth=1.6, zorder=4)
    axes.set_xlabel(
        "time over the best fixed beacon's (further left is faster)\n"
        "circle: by the clock, median, range; stroke: by the cost table"
    )
    _ratio_axis(axes, [(*line.time, line.modelled_time) for line in lines])
    _tidy(axes)


def _draw_curves(axes: Axes, lines: Sequence[TaskLine], looks: Sequence[_Look], target: float) -> None:
    known = [line.curve for line in lines if line.curve[0]]
    errors = [value for _, values in known for value in values if math.isfinite(value)]
    seconds = [value for values, _ in known for value in values]
    handles = []
    style: dict[str, Any]
    for line, look in zip(lines, looks, strict=True):
        if not line.curve[0]:
            continue
        width, order = (2.4, 2.5) if look is _REFERENCE else (1.8, 3)
        percent = [100 * value for value in line.curve[1]]
        style = {"color": look.color, "linestyle": look.dashes, "linewidth": width}
        axes.plot(line.curve[0], percent, zorder=order, **style)
        axes.plot(line.curve[0][-1:], percent[-1:], "o", color=look.color, markersize=6, zorder=order + 1)
        handles.append(Line2D([], [], label=line.label, **style))
    if math.isfinite(target):
        style = {"color": "black", "linewidth": 1.0, "linestyle": (0, (2, 2))}
        axes.axhline(100 * target, zorder=2, **style)
        handles.append(Line2D([], [], label=f"target, {100 * target:.2f} %", **style))
    if errors and min(errors) > 0.0:
        low, high = min([*errors, *([target] if target > 0.0 else [])]) / 1.12, max(errors) * 1.12
        axes.set_yscale("log")
        axes.set_ylim(100 * low, 100 * high)
        _plain_ticks(axes.yaxis, [100 * tick for tick in error_ticks(low, high)])
    ends = [values[-1] for values, _ in known]
    if ends and min(seconds) > 0.0 and max(ends) > _MUCH_LONGER * min(ends):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, [one for one in _SECONDS if min(seconds) <= one <= max(seconds)])
    axes.set_xlabel("seconds by the cost table, measuring included (mean over seeds; dot: end of training)")
    axes.set_ylabel("validation error, %")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, handlelength=2.8)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    _tidy(axes, keep_left=True)


def _ratio_axis(axes: Axes, intervals: Sequence[Sequence[float]]) -> None:
    """Where ratios differ much, show them in logarithms, with ticks that are read at a glance."""
    known = [1.0, *(value for interval in intervals for value in interval if math.isfinite(value) and value > 0.0)]
    low, high = min(known) / 1.15, max(known) * 1.15
    if high / low >= 3.0:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _plain_ticks(axes.xaxis, [tick for tick in _RATIO_TICKS if low <= tick <= high])


def _bar(axes: Axes, row: int, low: float, high: float, look: _Look) -> None:
    if math.isfinite(low):
        axes.plot([low, high], [row, row], color=look.color, linewidth=2.2, solid_capstyle="butt", zorder=2)


def _mark(axes: Axes, row: int, value: float, look: _Look) -> None:
    style: dict[str, Any] = {
        "marker": look.marker,
        "markersize": look.size,
        "color": look.color,
        "markeredgecolor": "white",
    }
    axes.plot([value], [row], linestyle="none", zorder=3, **style)


def _plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _tidy(axes: Axes, *, keep_left: bool = False) -> None:
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", *(() if keep_left else ("left",))):
        axes.spines[side].set_visible(False)
    if not keep_left:
        axes.tick_params(axis="y", length=0)
