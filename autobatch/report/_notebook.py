"""What a notebook shows of a controller, a run, a library or a measurement: words, tables, and the plane."""

import base64
import io
from functools import singledispatch
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.text import Text

from autobatch._errors import MeasureError
from autobatch.analysis import FisherInformation
from autobatch.beacons import BeaconLibrary
from autobatch.control.run import RunLog
from autobatch.fisher import Measurement
from autobatch.report._listings import library_table
from autobatch.report._record import RunRecord
from autobatch.report._summary import end_view
from autobatch.report._tables import named_facts
from autobatch.report._watch import standing_view
from autobatch.report._words import position_words
from autobatch.report.layers import layers_figure
from autobatch.report.plane import plane_figure

_WIDTH = 110
_DOTS_PER_INCH = 72
_FRAME = '<pre style="line-height:1.3;overflow-x:auto">{code}</pre>'


@singledispatch
def html(thing: object) -> str:
    """Return what a notebook shows of a log, a run, a library or a measurement: HTML that needs nothing else."""
    return f"<pre>{escape(repr(thing))}</pre>"


@html.register
def _log(log: RunLog) -> str:
    return html(_record(log))


@html.register
def _run(record: RunRecord) -> str:
    words = _words(end_view(record) if record.summary is not None else standing_view(record, 0.0))
    return words + (_picture(plane_figure(record, record.library)) if record.epochs else "")


@html.register
def _library(library: BeaconLibrary) -> str:
    return _words(Group(Text(repr(library), style="bold"), Text(), library_table(library)))


@html.register
def _measurement(measurement: Measurement) -> str:
    try:
        spectrum, norms = measurement.spectrum(), measurement.norms()
    except MeasureError as error:
        return _words(Group(Text(repr(measurement), style="bold"), Text(f"not measured: {error}")))
    table = named_facts("none")
    for name, value in (
        ("condition number", position_words(spectrum.condition_number)),
        ("trace", f"{spectrum.trace:.4g}"),
        ("non-zero eigenvalues", f"{spectrum.rank} of {len(norms)}"),
        ("gradient norm of a sample", f"{norms.min():.3g} to {norms.max():.3g}, median {norms.median():.3g}"),
        ("BatchNorm", measurement.bn),
    ):
        table.add_row(name, value)
    return _words(Group(Text(repr(measurement), style="bold"), table))


def figure(thing: RunLog | FisherInformation) -> Figure:
    """Draw a controller's journey through the plane, or the layers of a network that was analysed."""
    if isinstance(thing, FisherInformation):
        return layers_figure(thing)
    return plane_figure(_record(thing), thing.library)


def _record(log: RunLog) -> RunRecord:
    return RunRecord(log.out or Path(), log.config, log.epochs, log.decisions, log.summary, log.library)


def _words(view: RenderableType) -> str:
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_jupyter=False)
    console.print(view)
    return console.export_html(inline_styles=True, code_format=_FRAME)


def _picture(drawing: Figure) -> str:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return f'<img alt="the plane" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
