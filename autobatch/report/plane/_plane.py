"""The (C̄, L) plane as a picture: landscape, beacons, and the journey of a run through it."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, NullLocator

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconLibrary
from autobatch.report._record import RunRecord, RunScout
from autobatch.report._save_figure import save_figure
from autobatch.report._words import C_AXIS, L_AXIS
from autobatch.report.plane._beacons import draw_beacons
from autobatch.report.plane._journey import draw_epochs, draw_journey, draw_scouts, placed_epochs
from autobatch.report.plane._ticks import log_ticks
from autobatch.training import EpochRow

_SHOWN_DOTS_PER_INCH = 72

FORMATS = (".png", ".pdf", ".svg")
"""File name endings that a picture can be written under."""


class RoundLocator(Locator):
    """Ticks a logarithmic axis of any span at round values."""

    def __call__(self) -> list[float]:
        """Return the ticks within the axis' limits."""
        assert self.axis is not None
        low, high = self.axis.get_view_interval()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks within limits."""
        low, high = sorted((vmin, vmax))
        return log_ticks(low, high) if 0.0 < low < high else []


class ShownFigure(Figure):
    """A figure that notebooks show, whatever backend they have set up."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_SHOWN_DOTS_PER_INCH)
        return buffer.getvalue()


def save_plane(path: Path, record: RunRecord | None, library: BeaconLibrary | None) -> None:
    """Draw the plane and write it to a file, at once or not at all.

    Args:
        path: the file; its ending, one of ``FORMATS``, says in which format.
        record: the run whose journey is drawn; None draws the beacons alone.
        library: the beacons; None draws the journey alone.

    Raises:
        ConfigError: the file's ending is not one of ``FORMATS``.
        OutputError: the file cannot be written.
    """
    check_format(path)
    save_figure(path, plane_figure(record, library))


def check_format(path: Path) -> None:
    """Check that a picture can be written under a name, before any work is done for it.

    Args:
        path: the file to be written.

    Raises:
        ConfigError: the file's ending is not one of ``FORMATS``.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: expected a file name that ends in {' or '.join(FORMATS)}")


def plane_figure(record: RunRecord | None, library: BeaconLibrary | None) -> Figure:
    """Draw the plane, and beside it what the run did epoch by epoch.

    Args:
        record: the run; None draws the beacons alone.
        library: the beacons; None draws the journey alone.

    Returns:
        The figure.
    """
    with_epochs = record is not None and bool(record.epochs)
    ways = [] if record is None else [record.epochs, *(scout.epochs for scout in record.scouts)]
    with_plane = library is not None or any(placed_epochs(way) for way in ways)
    figure = ShownFigure(figsize=(13, 6.6) if with_epochs and with_plane else (8.8, 6.6), layout="constrained")
    columns = figure.add_gridspec(
        1, with_epochs + with_plane or 1, width_ratios=[1.9, 1][: with_epochs + with_plane or 1]
    )
    if with_plane:
        epochs, scouts = ([], ()) if record is None else (record.epochs, record.scouts)
        draw_plane(figure.add_subplot(columns[0, 0]), epochs, library, scouts)
    if with_epochs and record is not None:
        draw_epochs(figure, columns[0, -1].subgridspec(3, 1), record, library)
    if not with_epochs and not with_plane:
        figure.text(0.5, 0.5, "no epoch is finished yet", ha="center", color="0.4")
    figure.suptitle(
        _title(record, library) if with_plane or record is None else record.title, fontsize=12, fontweight="bold"
    )
    return figure


def draw_plane(
    axes: Axes, epochs: Sequence[EpochRow], library: BeaconLibrary | None, scouts: Sequence[RunScout] = ()
) -> None:
    """Draw the plane with a legend: the beacons, and a journey through them.

    Args:
        axes: where to draw; the axes become logarithmic.
        epochs: a run's epochs; none draw the beacons alone.
        library: the beacons; None draws the journey alone.
        scouts: scouts of the run; the ways of those that lost are drawn.
    """
    _prepare(axes)
    handles: list[Artist] = []
    if library is not None:
        handles += draw_beacons(axes, library)
    handles += draw_scouts(axes, scouts)
    handles += draw_journey(axes, epochs)
    if handles:
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.0, -0.11),
            borderaxespad=0.0,
            ncols=2,
            fontsize=8,
            frameon=False,
        )


def _title(record: RunRecord | None, library: BeaconLibrary | None) -> str:
    if record is not None:
        return f"Journey through the (C̄, L) plane: {record.title}"
    return f"Where the beacons of {library.task_name} end" if library is not None else "The (C̄, L) plane"


def _prepare(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(C_AXIS)
    axes.set_ylabel(L_AXIS)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(RoundLocator())
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="0.88", linewidth=0.5)
    axes.set_axisbelow(True)
