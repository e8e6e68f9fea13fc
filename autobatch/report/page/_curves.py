"""What the runs of a section did over examples and seconds, in panels with one x axis, as plotly draws it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autobatch.beacons import Beacon
from autobatch.report._words import configuration_words, count_words, epoch_words, seconds_words
from autobatch.report.page._markup import hover_text
from autobatch.report.page._section import ReportedRun, Section
from autobatch.training import EpochRow

if TYPE_CHECKING:
    from plotly.basedatatypes import BaseTraceType

_BLOWN_UP = 10.0
"""A panel ends at this many times the value that a tenth exceeds, so that what diverged does not flatten the others."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what is above it.
        figures: fields of an epoch that it shows, the second one dotted.
        factor: what they are multiplied by.
        steps: whether a value holds for the whole epoch rather than at its end.
        unit: what is written after a value.
        measured: whether it is known from the first measurement on, before which it is 0 or NaN.
    """

    title: str
    figures: tuple[str, ...]
    factor: float = 1.0
    steps: bool = False
    unit: str = ""
    measured: bool = False


PANELS = (
    Panel("Validation error, %", ("validation_error",), factor=100.0, unit=" %"),
    Panel("Validation loss; training loss dotted", ("validation_loss", "train_loss")),
    Panel("Batch size", ("batch_size",), steps=True),
    Panel("Learning rate as applied", ("lr_effective",), steps=True),
    Panel("C̄", ("c_bar",), measured=True),
    Panel("L", ("l_cum",), measured=True),
)


def curves_figure(section: Section) -> dict[str, Any] | None:
    """Draw the panels, both kinds of x in every trace's ``meta``, for plotly.js; None where no run has an epoch."""
    import plotly.graph_objects as go

    lines = {panel: list(_lines(section, panel)) for panel in PANELS}
    shown = [panel for panel in PANELS if any(line.is_run and line.known for line in lines[panel])]
    if not shown:
        return None
    traces: list[BaseTraceType] = []
    layout: dict[str, Any] = {}
    titles = []
    for number, panel in enumerate(shown, start=1):
        suffix = "" if number == 1 else str(number)
        traces += [line.trace(suffix) for line in lines[panel] if line.known]
        layout[f"xaxis{suffix}"] = {
            "anchor": f"y{suffix}",
            "matches": None if number == 1 else "x",
            "tickformat": "~s",
            "rangemode": "tozero",
            "nticks": 6,
        }
        layout[f"yaxis{suffix}"] = {"anchor": f"x{suffix}", **_scaled(panel, lines[panel])}
        titles.append({
            "text": f"<b>{panel.title}</b>",
            "xref": f"x{suffix} domain",
            "yref": f"y{suffix} domain",
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 3,
            "showarrow": False,
        })
    figure = go.Figure(
        traces,
        {
            "template": go.layout.Template(),
            "annotations": titles,
            "showlegend": False,
            "hovermode": "closest",
            "meta": {"panels": len(shown)},
            **layout,
        },
    )
    plain: dict[str, Any] = figure.to_plotly_json()
    return plain


@dataclass(frozen=True, eq=False)
class _Line:
    """A line of a panel.

    Attributes:
        group: what it is shown and hidden with.
        examples: x, counted in examples.
        seconds: x, by the clock.
        values: y; None for what is not known.
        words: what hovering shows, one text a point.
        look: how plotly draws it.
        is_run: whether it belongs to a run rather than to a beacon.
    """

    group: str
    examples: list[float | None]
    seconds: list[float | None]
    values: list[float | None]
    words: list[str]
    look: dict[str, Any]
    is_run: bool

    @property
    def known(self) -> bool:
        return any(value is not None for value in self.values)

    def trace(self, suffix: str) -> "BaseTraceType":
        import plotly.graph_objects as go

        return go.Scatter(
            x=self.examples,
            y=self.values,
            xaxis=f"x{suffix}",
            yaxis=f"y{suffix}",
            text=self.words,
            hovertemplate="%{text}<extra></extra>",
            legendgroup=self.group,
            meta={"examples": self.examples, "seconds": self.seconds},
            **{"mode": "lines", **self.look},
        )


def _lines(section: Section, panel: Panel) -> Iterator[_Line]:
    best = next((run.comparison.best for run in section.runs if run.comparison is not None), None)
    if section.library is not None and best is not None:
        name = configuration_words(best.batch_size, best.lr)
        for beacon in section.library.beacons_at(best.batch_size, best.lr):
            yield _beacon_line(beacon, panel, f"best fixed beacon {name}, seed {beacon.seed}")
    for run in section.runs:
        for place, figure in enumerate(panel.figures):
            if run.record.epochs:
                yield _run_line(run, panel, figure, dotted=place > 0)


def _run_line(run: ReportedRun, panel: Panel, figure: str, *, dotted: bool) -> _Line:
    rows = run.record.epochs
    known = [row.samples > 0 or not panel.measured for row in rows]
    values = [
        _known(panel.factor * getattr(row, figure)) if sound else None for row, sound in zip(rows, known, strict=True)
    ]
    words = [_words(run.label, row, panel, figure, value) for row, value in zip(rows, values, strict=True)]
    examples, seconds = [_known(row.examples) for row in rows], [_known(row.seconds) for row in rows]
    if panel.steps:  # a stretch for the first epoch as well
        examples, seconds, values, words = [0.0, *examples], [0.0, *seconds], [values[0], *values], ["", *words]
    line = {"color": run.colour, "width": 1.4 if dotted else 2.2, "dash": "dot" if dotted else run.dash}
    look: dict[str, Any] = {"line": {**line, "shape": "vh" if panel.steps else "linear"}}
    if len(rows) == 1 and not panel.steps:
        look |= {"mode": "lines+markers"}
    return _Line(run.group, examples, seconds, values, words, look, is_run=True)


def _beacon_line(beacon: Beacon, panel: Panel, name: str) -> _Line:
    rows, figure = beacon.rows, panel.figures[0]
    course = np.full(len(rows["epoch"]), beacon.batch_size) if figure == "batch_size" else rows[figure]
    values = [_known(panel.factor * float(value)) for value in course]
    examples = [_known(float(value)) for value in rows["examples"]]
    seconds = [_known(float(value)) for value in rows["seconds"] - rows["measuring_seconds"]]
    words = [
        hover_text(name, f"epoch {epoch}: {_number(value)}{panel.unit}")
        for epoch, value in zip(rows["epoch"], values, strict=True)
    ]
    if panel.steps:
        examples, seconds, values, words = [0.0, *examples], [0.0, *seconds], [values[0], *values], ["", *words]
    look = {
        "line": {"color": "var(--muted)", "width": 1.2, "shape": "vh" if panel.steps else "linear"},
        "opacity": 0.75,
    }
    return _Line("best", examples, seconds, values, words, look, is_run=False)


def _words(label: str, row: EpochRow, panel: Panel, figure: str, value: float | None) -> str:
    return hover_text(
        f"{label}: epoch {epoch_words(row.epoch)}",
        f"{figure.replace('_', ' ').replace('c bar', 'C̄').replace('l cum', 'L')} {_number(value)}{panel.unit}",
        f"{count_words(row.examples)} examples, {seconds_words(row.seconds)}",
    )


def _scaled(panel: Panel, lines: Iterable[_Line]) -> dict[str, Any]:
    values = [value for line in lines for value in line.values if value is not None]
    if min(values) <= 0:
        return {"rangemode": "tozero", "tickformat": ".3~r"}
    if panel.figures == ("batch_size",):
        sizes = sorted(set(values))
        edges = [math.log10(sizes[0] / 1.5), math.log10(sizes[-1] * 1.5)]
        return {"type": "log", "range": edges, "tickvals": sizes, "ticktext": [f"{size:g}" for size in sizes]}
    low, high = min(values), min(max(values), _BLOWN_UP * float(np.quantile(values, 0.9)))
    margin = max(0.04 * math.log10(high / low), 0.01)
    edges = [math.log10(low) - margin, math.log10(high) + margin]
    return {"type": "log", "range": edges, "tickformat": ".3~r", "dtick": 1 if high / low > 300 else "D2"}


def _known(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
