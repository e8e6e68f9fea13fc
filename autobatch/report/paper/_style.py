"""How the paper's figures look here: colours that every kind of colour vision tells apart, and one way to save."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autobatch._files import naming_output, write_whole
from autobatch.report._ticks import error_ticks

# Okabe and Ito, without yellow, which is faint on white.
_RATE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))

DPI = 95
_FEW_DECADES = 40.0

GREY = "#595959"
HALO = [withStroke(linewidth=2.2, foreground="white")]


def rate_looks(rates: Sequence[float]) -> dict[float, tuple[str, str]]:
    """Return a colour and a marker for every rate.

    Args:
        rates: the rates.

    Returns:
        (colour, marker) by rate, ascending.
    """
    return {
        rate: (_RATE_COLOURS[index % len(_RATE_COLOURS)], _MARKERS[index % len(_MARKERS)])
        for index, rate in enumerate(sorted(set(rates)))
    }


def size_colours(sizes: Sequence[int]) -> dict[int, str]:
    """Return a colour for every batch size, from dark for the smallest to light.

    Args:
        sizes: the batch sizes.

    Returns:
        Colours by size, ascending.
    """
    ordered = sorted(set(sizes))
    palette = mpl.colormaps["viridis"]
    return {size: to_hex(palette(0.92 * index / max(1, len(ordered) - 1))) for index, size in enumerate(ordered)}


def plain_ticks(axes: Axes, *, x: bool = True, y: bool = True) -> None:
    """Write the ticks of logarithmic axes as plain numbers, and draw a faint grid.

    Args:
        axes: the axes.
        x: whether the horizontal axis is one.
        y: whether the vertical axis is one.
    """
    for axis, wanted in ((axes.xaxis, x), (axes.yaxis, y)):
        if wanted:
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
    """Make the horizontal axis one of batch sizes, with a tick at each.

    Args:
        axes: the axes.
        sizes: the batch sizes.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(sizes))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("batch size")


def percent_axis(axes: Axes) -> None:
    """Make the vertical axis a logarithmic one of shares in percent.

    Args:
        axes: the axes.
    """
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(error_ticks(*axes.get_ylim())))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def rate_handles(rates: Sequence[float]) -> list[Line2D]:
    """Return legend entries for the rates.

    Args:
        rates: the rates.

    Returns:
        One line with a marker for each.
    """
    return [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=f"rate {rate:g}")
        for rate, (colour, marker) in rate_looks(rates).items()
    ]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, at once or not at all; the same figure always gives the same bytes.

    Args:
        figure: the figure.
        path: the file; its ending says in which format.

    Returns:
        The file.
    """
    with naming_output(path.parent, "made"):
        path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].lower()
    without = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}[kind]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "autobatch"}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata={without: None})
    write_whole(path, buffer.getvalue())
    return path
