"""A comparison as a picture: test error and time of every policy, and the validation error as time goes by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autobatch.evidence.evaluate import Interval, ratio_axis
from autobatch.report._save_figure import save_figure
from autobatch.report._ticks import error_ticks
from autobatch.report.plane import check_format


class _Look(NamedTuple):
    color: str
    dashes: Literal["-", "--", "-.", ":"]


# The colours of Okabe and Ito that stand out on white, which every kind of colour vision tells apart; beyond them the
# dashes differ.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_REFERENCE = _Look("#4D4D4D", "-")
_GREY = "#595959"
_ROW_INCHES = 0.42
_SECONDS = tuple(step * 10.0**power for power in range(-2, 6) for step in (1, 2, 3, 5))
_MUCH_LONGER = 6.0
_FAR_ABOVE = 4.0


@dataclass(frozen=True)
class CompareLine:
    """One policy of the picture; NaN for what is not known.

    Attributes:
        label: the policy.
        test_errors: final test error of each seed that finished.
        test_error: their mean with its interval.
        diverged: seeds that did not finish.
        time: time by the clock over the best fixed beacon's with the same seed: the median, the least, the greatest.
        modelled_time: modelled time over the best fixed beacon's.
        curve: modelled seconds and validation error after each epoch, in the mean over the seeds that finished.
    """

    label: str
    test_errors: tuple[float, ...]
    test_error: Interval
    diverged: int
    time: Interval
    modelled_time: float
    curve: tuple[list[float], list[float]]


def save_compare(path: Path, title: str, lines: Sequence[CompareLine], target: float) -> None:
    """Draw a comparison and write it to a file, at once or not at all.

    Args:
        path: the file; its ending says in which format.
        title: task and seeds, in words.
        lines: the policies, from the top; the best fixed beacon first.
        target: validation error of the best fixed beacon in the library.

    Raises:
        ConfigError: the file's ending is not one that can be written.
        OutputError: the file cannot be written.
    """
    check_format(path)
    save_figure(path, compare_figure(title, lines, target))


def compare_figure(title: str, lines: Sequence[CompareLine], target: float) -> Figure:
    """Draw a comparison.

    Args:
        title: task and seeds, in words.
        lines: the policies, from the top; the best fixed beacon first.
        target: validation error of the best fixed beacon in the library; NaN where it is not known.

    Returns:
        The figure.
    """
    rows = 1.3 + _ROW_INCHES * len(lines)
    figure = Figure(figsize=(12.0, rows + 5.0), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=(rows, 4.6))
    top, bottom = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    error, time = top.subplots(1, 2, sharey=True)
    looks = _looks(len(lines))
    _draw_errors(error, lines, looks)
    _draw_times(time, lines, looks)
    error.set_yticks(range(len(lines)), [line.label for line in lines])
    error.set_ylim(len(lines) - 0.4, -0.6)
    _draw_curves(bottom.subplots(), lines, looks, target)
    figure.suptitle(f"{title}; beside the best fixed beacon, {lines[0].label}", fontsize=13)
    return figure


def _looks(count: int) -> list[_Look]:
    colors = cycle(_COLORS)
    return [
        _REFERENCE,
        *(_Look(next(colors), _DASHES[index // len(_COLORS) % len(_DASHES)]) for index in range(count - 1)),
    ]


def _draw_errors(axes: Axes, lines: Sequence[CompareLine], looks: Sequence[_Look]) -> None:
    mean, low, high = lines[0].test_error
    if math.isfinite(low):
        axes.axvspan(100 * max(low, 0.0), 100 * high, color="0.9", zorder=0)
    if math.isfinite(mean):
        axes.axvline(100 * mean, color=_REFERENCE.color, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
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
        if math.isfinite(low):
            ends = [max(low, 0.0), high]
            axes.plot(ends, [row, row], color=look.color, linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.plot([mean], [row], "D", color=look.color, markersize=7, markeredgecolor="white", zorder=4)
    if math.isfinite(highest):
        axes.set_xlim(right=highest)
    axes.set_xlabel(
        "test error, % (further left is better)\ndots: seeds; diamond: mean, 95 % interval; band: best fixed beacon"
    )
    _tidy(axes)


def _note(axes: Axes, row: int, line: CompareLine, highest: float) -> None:
    """Say in words what the row of a policy cannot show."""
    mean = 100 * line.test_error[0]
    if not math.isfinite(mean):
        axes.text(0.02, row, "not known", transform=axes.get_yaxis_transform(), va="center", color=_GREY)
    told = [f"{line.diverged} diverged"] if line.diverged else []
    told += [f"{mean:.1f} % →"] if mean > highest else []
    axes.text(
        0.99, row, ", ".join(told), transform=axes.get_yaxis_transform(), ha="right", va="center", color="#A40000"
    )


def _highest_shown(lines: Sequence[CompareLine]) -> float:
    """Return where the axis of the test error ends, in percent, so that one policy far off does not squash all others.

    Infinite where everything is inside.
    """
    known = sorted(100 * line.test_error[0] for line in lines if math.isfinite(line.test_error[0]))
    if not known:
        return math.inf
    middle = known[(len(known) - 1) // 2]
    highest = middle + _FAR_ABOVE * max(middle - known[0], 0.25 * middle)
    return highest if known[-1] > highest else math.inf


def _draw_times(axes: Axes, lines: Sequence[CompareLine], looks: Sequence[_Look]) -> None:
    axes.axvline(1.0, color=_REFERENCE.color, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    for row, (line, look) in enumerate(zip(lines, looks, strict=True)):
        middle, least, greatest = line.time
        if math.isfinite(least):
            axes.plot([least, greatest], [row, row], color=look.color, linewidth=2.2, solid_capstyle="butt", zorder=2)
        axes.plot([middle], [row], "o", color=look.color, markersize=8, markeredgecolor="white", zorder=3)
        axes.plot([line.modelled_time], [row], "|", color="black", markersize=13, markeredgewidth=1.6, zorder=4)
    axes.set_xlabel(
        "time over the best fixed beacon's (further left is faster)\n"
        "circle: by the clock, median, range; stroke: by the cost table"
    )
    ratio_axis(axes, [(*line.time, line.modelled_time) for line in lines])
    _tidy(axes)


def _draw_curves(axes: Axes, lines: Sequence[CompareLine], looks: Sequence[_Look], target: float) -> None:
    known = [line.curve for line in lines if line.curve[0]]
    errors = [value for _, values in known for value in values if math.isfinite(value)]
    seconds = [value for values, _ in known for value in values]
    handles = []
    for index, (line, look) in enumerate(zip(lines, looks, strict=True)):
        width, order = (2.4, 2.5) if index == 0 else (1.8, 3)
        axes.plot(
            line.curve[0],
            [100 * value for value in line.curve[1]],
            color=look.color,
            linestyle=look.dashes,
            linewidth=width,
            zorder=order,
        )
        if not line.curve[0]:
            continue
        axes.plot(line.curve[0][-1:], [100 * line.curve[1][-1]], "o", color=look.color, markersize=6, zorder=order + 1)
        handles.append(Line2D([], [], color=look.color, linestyle=look.dashes, linewidth=width, label=line.label))
    if math.isfinite(target):
        axes.axhline(100 * target, color="black", linewidth=1.0, linestyle=(0, (2, 2)), zorder=2)
        handles.append(
            Line2D([], [], color="black", linewidth=1.0, linestyle=(0, (2, 2)), label=f"target, {100 * target:.2f} %")
        )
    if errors and min(errors) > 0.0:
        axes.set_yscale("log")
        low, high = min([*errors, *([target] if target > 0.0 else [])]) / 1.12, max(errors) * 1.12
        axes.set_ylim(100 * low, 100 * high)
        axes.yaxis.set_major_locator(FixedLocator([100 * tick for tick in error_ticks(low, high)]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ends = [values[-1] for values, _ in known]
    if ends and min(seconds) > 0.0 and max(ends) > _MUCH_LONGER * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([one for one in _SECONDS if min(seconds) <= one <= max(seconds)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("seconds by the cost table, measuring included (mean over seeds; dot: end of training)")
    axes.set_ylabel("validation error, %")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, handlelength=2.8)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    _tidy(axes, keep_left=True)


def _tidy(axes: Axes, *, keep_left: bool = False) -> None:
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", *(() if keep_left else ("left",))):
        axes.spines[side].set_visible(False)
    if not keep_left:
        axes.tick_params(axis="y", length=0)
