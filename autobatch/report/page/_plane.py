"""The (C̄, L) plane of a section as plotly draws it: landscape, beacons, and the journeys of the runs."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm

from autobatch.beacons import BeaconLibrary, Landscape
from autobatch.report._words import (
    C_AXIS,
    L_AXIS,
    configuration_words,
    epoch_words,
    loss_words,
    percent_words,
    place_words,
)
from autobatch.report.page._markup import hover_text
from autobatch.report.page._section import ReportedRun, Section, has_place
from autobatch.report.plane import far_apart, region_tolerance, score_norm, score_ticks
from autobatch.training import EpochRow

if TYPE_CHECKING:
    from plotly.basedatatypes import BaseTraceType

Range = tuple[float, float]

_GRID = 81
_LEVELS = 14
_LEAST_POINTS = 4
_MARK_SIZES = (6.0, 17.0)
_MANY_DECADES = 2.4
_UNCROWDED = 40
"""Epochs up to which marks have their full size."""


def plane_figure(section: Section) -> dict[str, Any] | None:
    """Draw the plane.

    Args:
        section: the runs and their beacons.

    Returns:
        A figure as plotly.js reads it; None where there is neither a landscape nor a run that was measured.
    """
    import plotly.graph_objects as go

    placed = [run for run in section.runs if run.measured]
    if section.landscape is None and not placed:
        return None
    across, up = _limits(section)
    traces: list[BaseTraceType] = []
    if section.library is not None and section.landscape is not None:
        scale = _Scale(section.landscape, section.library.score)
        traces += _field(section.landscape, scale, across, up)
        traces += _beacons(section.library, section.landscape, scale)
    sizes = sorted({row.batch_size for run in section.runs for row in run.record.epochs})
    for run in placed:
        traces += _journey(run, sizes)
    if len(placed) == 1:
        traces.append(_changes(placed[0]))
    axis = {"type": "log", "tickformat": ",.3~r", "ticks": "outside", "ticklen": 4}
    figure = go.Figure(
        traces,
        {
            "template": go.layout.Template(),
            "xaxis": {**axis, "range": across, "dtick": _dtick(across), "title": {"text": C_AXIS}},
            "yaxis": {**axis, "range": up, "dtick": _dtick(up), "title": {"text": L_AXIS}},
            "hovermode": "closest",
            "showlegend": False,
        },
    )
    plain: dict[str, Any] = figure.to_plotly_json()
    return plain


def _dtick(decades: Range) -> int | str:
    """Return plotly's name for ticks at 1, 2 and 5, or at powers of ten alone where those would run together."""
    return 1 if decades[1] - decades[0] > _MANY_DECADES else "D2"


class _Scale:
    """Colours for scores, even in what the landscape models: the logarithm of a loss, an error as it is."""

    def __init__(self, landscape: Landscape, score: str) -> None:
        norm = score_norm(landscape.points)
        self._is_log = isinstance(norm, LogNorm)
        self._name = score.replace("_", " ")
        self._norm = norm
        self.low, self.high = (float(self.of(np.array(edge))) for edge in (norm.vmin, norm.vmax))

    def of(self, scores: Any) -> Any:
        """Return scores as the colours count them."""
        return np.log10(np.maximum(scores, 1e-12)) if self._is_log else np.asarray(scores)

    def words(self, score: float) -> str:
        """Return a score as people read it."""
        return loss_words(score) if self._name.endswith("loss") else percent_words(score)

    @property
    def wording(self) -> dict[str, Any]:
        """How the page's script says a score."""
        loss = self._name.endswith("loss")
        return {
            "log": self._is_log,
            "factor": 1 if loss else 100,
            "digits": 3 if loss else 1,
            "unit": "" if loss else " %",
        }

    def colours(self, least: str, most: str) -> dict[str, Any]:
        """Return the colour scale, cividis reversed so that light is better, with a trace's names for its ends."""
        return {least: self.low, most: self.high, "colorscale": "Cividis", "reversescale": True}

    def bar(self) -> dict[str, Any]:
        """Return the colour bar."""
        scores = np.array(score_ticks(self._norm))
        ticks = self.of(scores)
        return {
            "title": {"text": f"final {self._name} (light is better)", "side": "right"},
            "tickvals": ticks.tolist(),
            "ticktext": [f"{score:g}" if self._name.endswith("loss") else f"{100 * score:g} %" for score in scores],
            "thickness": 14,
            "outlinewidth": 0,
        }


def _limits(section: Section) -> tuple[Range, Range]:
    """The decades to show: the ends of the beacons that finished, and all of the journeys."""
    journeys = [(row.c_bar, row.l_cum) for run in section.runs for row in run.record.epochs if has_place(row)]
    decades = np.log10(np.array(journeys, dtype=np.float64).reshape(-1, 2))
    if section.landscape is not None:
        points = section.landscape.points
        ends = points.plane[points.finished] if points.finished.any() else points.plane
        decades = np.concatenate([decades, ends])
    low, high = decades.min(axis=0), decades.max(axis=0)
    margin = np.maximum(0.07 * (high - low), 0.03)
    (left, bottom), (right, top) = np.clip([low - margin, high + margin], -300, 300).tolist()
    return (left, right), (bottom, top)


def _field(landscape: Landscape, scale: _Scale, across: Range, up: Range) -> "Iterator[BaseTraceType]":
    import plotly.graph_objects as go

    if landscape.points.finished.sum() < _LEAST_POINTS:
        return
    c_bar, l_cum = np.logspace(*across, _GRID), np.logspace(*up, _GRID)
    prediction = landscape.predict(c_bar[np.newaxis, :], l_cum[:, np.newaxis])
    known = prediction.known & np.isfinite(prediction.score)
    place = {"x": _rounded(c_bar), "y": _rounded(l_cum)}
    values = scale.of(np.where(known, prediction.score, 1.0))
    shown = [
        [round(float(value), 3) if sound else None for value, sound in zip(line, own, strict=True)]
        for line, own in zip(values, known, strict=True)
    ]
    yield go.Contour(
        **place,
        z=shown,
        meta={"field": scale.wording},
        hovertemplate="the beacons promise %{text}<br>C̄ %{x:.3~r}, L %{y:.3~r}<extra></extra>",
        **scale.colours("zmin", "zmax"),
        colorbar=scale.bar(),
        contours={"start": scale.low, "end": scale.high, "size": (scale.high - scale.low) / _LEVELS},
        line={"width": 0},
        opacity=0.85,
        legendgroup="landscape",
    )
    least = float(landscape.region(0.0).score.min())
    edge = float(scale.of(np.array(least + region_tolerance(landscape))))
    for colour, width in (("var(--halo)", 4.5), ("var(--ink)", 2)):
        yield go.Contour(  # x, y and z are those of the field; the page's script puts them there
            meta="outline",
            contours={"start": edge, "end": edge, "size": 1, "coloring": "none"},
            line={"color": colour, "width": width},
            hoverinfo="skip",
            showscale=False,
            legendgroup="region",
        )


def _beacons(library: BeaconLibrary, landscape: Landscape, scale: _Scale) -> "Iterator[BaseTraceType]":
    import plotly.graph_objects as go

    points = landscape.points
    yield go.Scatter(
        x=_with_gaps(beacon.rows["c_bar"] for beacon in library.beacons),
        y=_with_gaps(beacon.rows["l_cum"] for beacon in library.beacons),
        mode="lines",
        line={"color": "var(--muted)", "width": 0.7},
        opacity=0.45,
        hoverinfo="skip",
        legendgroup="ways",
    )
    c_bar, l_cum = 10**points.plane.T
    results = {(result.batch_size, result.lr): result for result in library.results()}
    texts = []
    for configuration, score in zip(points.configurations, points.score, strict=True):
        result = results[configuration]
        seeds = len(result.seeds) + len(result.diverged)
        fate = f"{len(result.diverged)} of {seeds} diverged" if result.diverged else f"mean of {seeds} seeds"
        texts.append(
            hover_text(
                f"beacon {configuration_words(*configuration)}",
                f"final {library.score.replace('_', ' ')} {scale.words(float(score))}, {fate}",
                f"test error {percent_words(result.mean['test_error'])}",
            )
        )
    for sound, marker in (
        (points.finished, {"size": 11, "line": {"color": "var(--ink)", "width": 1}}),
        (~points.finished, {"size": 9, "symbol": "x-thin", "line": {"color": "var(--ink)", "width": 1.6}}),
    ):
        if sound.any():
            coloured = {"color": _rounded(scale.of(points.score[sound])), **scale.colours("cmin", "cmax")}
            yield go.Scatter(
                x=_rounded(c_bar[sound]),
                y=_rounded(l_cum[sound]),
                mode="markers",
                marker=marker | (coloured if sound is points.finished else {}),
                text=[text for text, own in zip(texts, sound, strict=True) if own],
                hovertemplate="%{text}<extra></extra>",
                legendgroup="beacons",
            )
    if points.finished.any():
        best = int(np.argmin(np.where(points.finished, points.score, np.inf)))
        yield go.Scatter(
            x=[_round(c_bar[best])],
            y=[_round(l_cum[best])],
            mode="markers",
            marker={"symbol": "star", "size": 20, "color": "white", "line": {"color": "black", "width": 1.4}},
            text=["<b>best fixed</b> " + texts[best]],
            hovertemplate="%{text}<extra></extra>",
            legendgroup="best",
        )


def _journey(run: ReportedRun, sizes: list[int]) -> "Iterator[BaseTraceType]":
    import plotly.graph_objects as go

    rows = [row for row in run.record.epochs if has_place(row)]
    place = {"x": [_round(row.c_bar) for row in rows], "y": [_round(row.l_cum) for row in rows]}
    shared = {"mode": "lines", "legendgroup": run.group}
    crowding = min(1.0, max(0.4, math.sqrt(_UNCROWDED / max(len(rows), 1))))
    yield go.Scatter(**place, **shared, line={"color": "var(--halo)", "width": 6}, hoverinfo="skip")
    yield go.Scatter(
        **place,
        **{**shared, "mode": "lines+markers"},
        line={"color": run.colour, "width": 2.4, "dash": run.dash},
        marker={
            "symbol": run.mark,
            "color": run.colour,
            "size": [round(crowding * _mark_size(row.batch_size, sizes), 2) for row in rows],
            "line": {"color": "var(--halo)", "width": 1.2 * crowding},
            "opacity": 1,
        },
        customdata=[row.epoch for row in rows],
        text=[_point_words(run, row) for row in rows],
        hovertemplate="%{text}<extra></extra>",
        meta="journey",
    )


def _point_words(run: ReportedRun, row: EpochRow) -> str:
    decision = run.decisions.get(row.epoch)
    then = []
    if decision is not None:
        configuration = configuration_words(decision.batch_size, decision.lr)
        then = [f"→ {configuration}" if decision.changed else f"→ stays at {configuration}"]
        then = ["→ ends the training"] if decision.stop else then
    return hover_text(
        f"{run.label}: epoch {epoch_words(row.epoch)}",
        f"batch size {row.batch_size}, applied rate {row.lr_effective:g}",
        place_words(row.c_bar, row.l_cum),
        f"validation loss {loss_words(row.validation_loss)}, error {percent_words(row.validation_error)}",
        *then,
    )


def _changes(run: ReportedRun) -> "BaseTraceType":
    """Names of the changes of batch size along the only journey, as far as there is room."""
    import plotly.graph_objects as go

    rows = [row for row in run.record.epochs if has_place(row)]
    named: list[EpochRow] = [rows[0]]
    words = [f"B {rows[0].batch_size}"]
    changes = [(before, after) for before, after in pairwise(rows) if after.batch_size != before.batch_size]
    for before, after in reversed(changes):  # the last one first: it is named wherever it is
        if far_apart(before, named):
            words.append(f"→ {after.batch_size}")
        elif len(named) == 1:
            words[0] += f" → {after.batch_size}"
    return go.Scatter(
        x=[_round(row.c_bar) for row in named],
        y=[_round(row.l_cum) for row in named],
        mode="text",
        text=[f"<b>{word}</b>" for word in words],
        textposition="bottom right",
        textfont={"color": "var(--ink)", "size": 13},
        hoverinfo="skip",
        legendgroup=run.group,
        cliponaxis=False,
    )


def _mark_size(batch_size: int, sizes: list[int]) -> float:
    least, most = _MARK_SIZES
    if sizes[0] == sizes[-1] or sizes[0] < 1:
        return 9.0
    share = math.log(batch_size / sizes[0]) / math.log(sizes[-1] / sizes[0])
    return round(least + (most - least) * share, 2)


def _round(value: float, digits: int = 5) -> float | None:
    """Five digits are more than a screen shows; what is not finite is a gap."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) and value > 0 else None


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _with_gaps(lines: Iterable[Iterable[float]]) -> list[float | None]:
    """Three digits are enough for thin lines, of which there are many."""
    return [value for line in lines for value in (*(_round(own, 3) for own in line), None)]
