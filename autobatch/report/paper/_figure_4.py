"""Figure 4: the measures against the number of iterations, to tell what depends on batch size and what on the rate."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autobatch.beacons import BeaconLibrary
from autobatch.report.paper._data import Curves, measured_curves
from autobatch.report.paper._style import GREY, LINES, headline, plain_ticks, rate_looks, size_colours

_LEAST_SIZES = 5


def figure_4(library: BeaconLibrary) -> Figure:
    """Draw our counterpart of figure 4; with many sizes the least and the greatest are left out, as in the paper."""
    sizes = inner_sizes(library)
    rates = sorted({rate for _, rate in library.configurations})
    colours, looks = size_colours(sizes), rate_looks(rates)
    figure = Figure(figsize=(13.0, 5.4), layout="constrained")
    condition, energy = figure.subplots(1, 2)
    for size in sizes:
        for index, rate in enumerate(rates):
            curves = measured_curves(library, size, rate)
            if curves is None:
                continue
            _draw(condition, curves, "c_bar", colours[size], LINES[index % len(LINES)])
            _draw(energy, curves, "l_cum", looks[rate][0], LINES[sizes.index(size) % len(LINES)])
            if index == 0:
                for axes in (condition, energy):
                    axes.axvline(curves.mean("steps")[-1], color="black", linestyle=":", linewidth=0.8, zorder=1)
    condition.set_title(r"(a) $\bar{C}_K$; colour: batch size, line: rate", fontsize=10)
    energy.set_title("(b) $L_K$; colour: rate, line: batch size", fontsize=10)
    by_size = [Line2D([], [], color=colour, label=f"s{size}") for size, colour in colours.items()]
    by_size += [
        Line2D([], [], color=GREY, linestyle=LINES[index % len(LINES)], label=f"rate {rate:g}")
        for index, rate in enumerate(rates)
    ]
    by_rate = [Line2D([], [], color=colour, label=f"rate {rate:g}") for rate, (colour, _) in looks.items()]
    by_rate += [
        Line2D([], [], color=GREY, linestyle=LINES[index % len(LINES)], label=f"s{size}")
        for index, size in enumerate(sizes)
    ]
    for axes, handles in ((condition, by_size), (energy, by_rate)):
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.set_xlabel("iterations; dotted: the last one of each batch size")
        axes.legend(handles=handles, fontsize=7.5, ncols=2, framealpha=0.9)
    headline(figure, library, "the measures against iterations", 4)
    return figure


def inner_sizes(library: BeaconLibrary) -> list[int]:
    """Return the batch sizes of a library, without the least and the greatest where there are five or more."""
    sizes = sorted({size for size, _ in library.configurations})
    return sizes[1:-1] if len(sizes) >= _LEAST_SIZES else sizes


def _draw(axes: Axes, curves: Curves, column: str, colour: str, style: Any) -> None:
    axes.plot(curves.mean("steps"), curves.mean(column), color=colour, linestyle=style, linewidth=1.2, zorder=2)
