"""Figure 1: error over the grid, the same configurations in the plane, early positions, and ways through the plane."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autobatch.beacons import BeaconLibrary
from autobatch.report.paper._data import Curves, Finals, finals, journeys_of, measured_curves, reference_rate
from autobatch.report.paper._plane import draw_ends, draw_way, name_place, plane_axes
from autobatch.report.paper._style import (
    GREY,
    headline,
    percent_axis,
    plain_ticks,
    rate_handles,
    rate_looks,
    size_axis,
    size_colours,
)

EARLY_SHARE = 0.25
"""Share of the training that panel (c) shows; the paper shows 10 epochs of 320, on far more examples."""

JOURNEY_COLOURS = ("#D55E00", "#0072B2", "#CC79A7", "#000000", "#009E73", "#E69F00")


def figure_1(library: BeaconLibrary, journeys: Mapping[str, Curves]) -> Figure:
    """Draw our counterpart of figure 1, with the runs of policies in panel (d)."""
    ends, rate = finals(library), reference_rate(library)
    figure = Figure(figsize=(11.5, 8.6), layout="constrained")
    (grid, plane), (early, ways) = figure.subplots(2, 2)
    _draw_grid(grid, ends)
    grid.set_title(f"(a) {ends.words} by batch size and rate", fontsize=10)
    draw_ends(plane, ends)
    plane.set_title("(b) the same configurations at the end, in the plane", fontsize=10)
    _draw_ways(early, library, rate, until=EARLY_SHARE)
    early.set_title(f"(c) the first {100 * EARLY_SHARE:.0f} % of the epochs, rate {rate:g}; dots: seeds", fontsize=10)
    _draw_ways(ways, library, rate, until=1.0, style=":")
    handles = _draw_journeys(ways, journeys)
    found = "dynamic sampling among beacons" if handles else "the beacons to the end (no run of dynamic sampling here)"
    ways.set_title(f"(d) {found}, rate {rate:g}", fontsize=10)
    if handles:
        ways.legend(handles=handles, fontsize=7.5, framealpha=0.9)
    headline(figure, library, "error, position and way", 1)
    return figure


def _draw_grid(axes: Axes, ends: Finals) -> None:
    """Draw the final figure over batch sizes, a line a rate, with the best marked and the diverged told."""
    for rate, (colour, marker) in rate_looks(ends.rates.tolist()).items():
        own = ends.rates == rate
        axes.errorbar(
            ends.sizes[own],
            ends.value[own],
            yerr=np.nan_to_num(ends.std[own]),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.3,
            elinewidth=0.7,
            capsize=1.5,
        )
    axes.scatter(
        ends.sizes[ends.top],
        ends.value[ends.top],
        marker="*",
        s=140,
        c="white",
        edgecolors="black",
        linewidths=1.0,
        zorder=5,
    )
    size_axis(axes, [*ends.sizes.tolist(), *(size for size, _ in ends.diverged)])
    axes.set_ylabel(ends.words)
    axes.set_ylim(0.75 * ends.value.min(), 1.5 * ends.value.max())
    if ends.is_share:
        percent_axis(axes)
        axes.grid(color="0.9", linewidth=0.5)
    else:
        axes.set_yscale("log")
        plain_ticks(axes, x=False)
    handles = rate_handles(ends.rates.tolist())
    handles.append(
        Line2D([], [], marker="*", linestyle="", color="white", markeredgecolor="black", markersize=11, label="lowest")
    )
    title = f"diverged, not drawn: {len(ends.diverged)}" if ends.diverged else None
    axes.legend(handles=handles, fontsize=7.5, ncols=2, title=title, title_fontsize=7.5, framealpha=0.9)


def _draw_ways(axes: Axes, library: BeaconLibrary, rate: float, *, until: float, style: str = "-") -> None:
    plane_axes(axes)
    colours = size_colours([size for size, _ in library.configurations])
    for size, colour in colours.items():
        curves = measured_curves(library, size, rate)
        if curves is None:
            continue
        c_bar, l_cum = draw_way(axes, curves, until=until, color=colour, linestyle=style, linewidth=1.6, zorder=3)
        if until < 1.0:
            for own_c, own_l in zip(curves["c_bar"][:, : len(c_bar)], curves["l_cum"][:, : len(c_bar)], strict=True):
                axes.scatter(own_c, own_l, color=[colour], s=7, linewidths=0, alpha=0.7, zorder=4)
        name_place(axes, f"s{size}", c_bar[-1], l_cum[-1])


def _draw_journeys(axes: Axes, journeys: Mapping[str, Curves]) -> list[Line2D]:
    handles = []
    for index, curves in enumerate(journeys_of(journeys)):
        colour = JOURNEY_COLOURS[index % len(JOURNEY_COLOURS)]
        c_bar, l_cum = draw_way(axes, curves, color=colour, linewidth=2.0, zorder=5)
        axes.scatter(c_bar[-1:], l_cum[-1:], color=colour, marker="D", s=28, edgecolors="white", zorder=6)
        handles.append(Line2D([], [], color=colour, linewidth=2, label=curves.name))
    if handles:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="beacons, to their ends"))
    return handles
