"""How the paper's figures look here: colours that every kind of colour vision tells apart, and one way to save."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autobatch.beacons import BeaconLibrary
from autobatch.report.plane._ticks import error_ticks

# Okabe and Ito, without yellow, which is faint on white.
_RATE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))

_FEW_DECADES = 40.0

GREY = "#595959"
HALO = [withStroke(linewidth=2.2, foreground="white")]


def headline(figure: Figure, library: BeaconLibrary, words: str, number: int, *, size: int = 12) -> None:
    """Write above a figure what it shows, and which of the paper's it stands for."""
    text = f"{library.task_name}: {words} (paper, figure {number})"
    figure.suptitle(text, fontsize=size, fontweight="bold")


def rate_looks(rates: Sequence[float]) -> dict[float, tuple[str, str]]:
    """Return (colour, marker) for every rate, ascending."""
    return {
        rate: (_RATE_COLOURS[index % len(_RATE_COLOURS)], _MARKERS[index % len(_MARKERS)])
        for index, rate in enumerate(sorted(set(rates)))
    }


def size_colours(sizes: Sequence[int]) -> dict[int, str]:
    """Return a colour for every batch size, ascending, from dark for the smallest to light."""
    ordered = sorted(set(sizes))
    palette = mpl.colormaps["viridis"]
    return {size: to_hex(palette(0.92 * index / max(1, len(ordered) - 1))) for index, size in enumerate(ordered)}


def plain_ticks(axes: Axes, *, x: bool = True) -> None:
    """Write the ticks of logarithmic axes, with ``x=False`` the vertical one's, as plain numbers; draw a faint grid."""
    for axis in (axes.xaxis, axes.yaxis) if x else (axes.yaxis,):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _, own=axis: _minor_words(own, value)))
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _minor_words(axis: Axis, value: float) -> str:
    """Name 2 and 5 times a power of ten where there are few such powers."""
    low, high = axis.get_view_interval()
    few = low > 0.0 and high / low < _FEW_DECADES
    return f"{value:g}" if few and f"{value:.0e}"[0] in "25" else ""


def size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make the horizontal axis one of batch sizes, with a tick at each."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(sizes))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("batch size")


def percent_axis(axes: Axes) -> None:
    """Make the vertical axis a logarithmic one of shares in percent."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(error_ticks(*axes.get_ylim())))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def rate_handles(rates: Sequence[float]) -> list[Line2D]:
    """Return legend entries for the rates, a line with a marker for each."""
    return [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=f"rate {rate:g}")
        for rate, (colour, marker) in rate_looks(rates).items()
    ]
