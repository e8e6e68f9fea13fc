"""Figures 5 and 6: journeys of dynamic sampling among the beacons, and their curves of loss and error."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autobatch.beacons import BeaconLibrary
from autobatch.report.paper._data import Curves, beacon_curves, fixed_name, journeys_of, measured_curves, reference_rate
from autobatch.report.paper._figure_1 import JOURNEY_COLOURS
from autobatch.report.paper._plane import draw_way, name_place, plane_axes
from autobatch.report.paper._style import GREY, headline, percent_axis, plain_ticks, size_colours

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the training that the paper marks on a journey (figure 5)."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than there are colours: no pair twice


def figure_5(library: BeaconLibrary, journeys: Mapping[str, Curves]) -> Figure | str:
    """Draw our counterpart of figure 5, or say why there is none."""
    shown = journeys_of(journeys)
    if not shown:
        return "no run of dynamic sampling with measured positions"
    figure = Figure(figsize=(13.0, 5.8), layout="constrained")
    plane, times = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
    rate = _rate(shown, library)
    plane_axes(plane)
    _draw_beacons(plane, library, rate)
    handles = []
    for index, curves in enumerate(shown):
        colour, marker = JOURNEY_COLOURS[index % len(JOURNEY_COLOURS)], _MARKERS[index % len(_MARKERS)]
        epochs = curves["c_bar"].shape[1]
        marked = sorted({max(1, round(share * epochs)) - 1 for share in SHARES})
        draw_way(plane, curves, color=colour, marker=marker, markevery=marked, markersize=5, linewidth=1.6, zorder=5)
        handles.append(Line2D([], [], color=colour, marker=marker, label=curves.name))
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="beacons"))
    plane.legend(handles=handles, fontsize=8, framealpha=0.9)
    shares = ", ".join(f"{100 * share:.0f}" for share in SHARES)
    plane.set_title(f"(a) ways through the plane, marked after {shares} %; beacons at rate {rate:g}", fontsize=10)
    looks = {curves.name: handle for curves, handle in zip(shown, handles, strict=False)}
    _draw_times(times, journeys, looks)
    headline(figure, library, "dynamic sampling travels", 5)
    return figure


def figure_6(library: BeaconLibrary, journeys: Mapping[str, Curves]) -> Figure | str:
    """Draw our counterpart of figure 6, or say why there is none."""
    shown = _columns(journeys)
    if not shown:
        return "no run of dynamic sampling"
    figure = Figure(figsize=(1.5 + 4.4 * len(shown), 7.2), layout="constrained")
    panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    colours = size_colours([size for size, _ in library.configurations])
    rate = _rate(shown, library)
    for column, curves in enumerate(shown):
        first, last, _ = curves.stages or (0, 0, False)
        for axes, name in zip(panels[:, column], ("train_loss", "validation_error"), strict=True):
            for size, style in ((first, "--"), (last, ":")):
                if (beacons := beacon_curves(library, size, rate)) is not None:
                    _draw_curve(axes, beacons, name, color=colours[size], linestyle=style, linewidth=1.2)
            _draw_curve(axes, curves, name, color="#D55E00", linewidth=2.0)
            axes.set_yscale("log")
            plain_ticks(axes, x=False)
        panels[0, column].set_title(f"{curves.name} ({len(curves.seeds)} seeds)", fontsize=10)
        panels[0, column].legend(fontsize=8, framealpha=0.9)
        panels[1, column].set_xlabel("epoch")
    panels[0, 0].set_ylabel("training loss")
    panels[1, 0].set_ylabel("validation error")
    percent_axis(panels[1, 0])
    headline(figure, library, "loss and error while dynamic sampling trains, mean and range of the seeds", 6, size=11)
    return figure


def _rate(shown: Sequence[Curves], library: BeaconLibrary) -> float:
    """The base rate that the runs began at, where it is recorded."""
    begun = float(shown[0]["lr"][0, 0])
    return begun if begun in {rate for _, rate in library.configurations} else reference_rate(library)


def _draw_beacons(axes: Axes, library: BeaconLibrary, rate: float) -> None:
    colours = size_colours([size for size, _ in library.configurations])
    for size, colour in colours.items():
        if (curves := measured_curves(library, size, rate)) is not None:
            draw_way(axes, curves, color=colour, linestyle=":", linewidth=1.6, zorder=3)
            early = (float(curves.at(name, SHARES[0]).mean()) for name in ("c_bar", "l_cum"))
            name_place(axes, f"s{size}", *early)


def _draw_times(axes: Axes, journeys: Mapping[str, Curves], looks: Mapping[str, Line2D]) -> None:
    """Draw time and error of dynamic sampling, and of the fixed runs beside it, which alone are named here."""
    for curves in journeys.values():
        look = looks.get(curves.name)
        if look is None and not fixed_name(curves.name):
            continue
        seconds = (curves["seconds"] - np.nan_to_num(curves["measuring_seconds"]))[:, -1]
        errors = curves["validation_error"][:, -1]
        colour, marker = (GREY, "x") if look is None else (look.get_color(), look.get_marker())
        axes.scatter(seconds, errors, color=colour, marker=marker, s=12, alpha=0.45, linewidths=0.8)
        axes.scatter([seconds.mean()], [errors.mean()], color=colour, marker=marker, s=60)
        if look is None:
            place = (seconds.mean(), errors.mean())
            axes.annotate(curves.name, place, xytext=(5, 5), textcoords="offset points", fontsize=7.5, color=GREY)
    axes.set_xlabel("seconds of training, measuring not counted")
    axes.set_ylabel("final validation error")
    percent_axis(axes)
    axes.grid(color="0.9", linewidth=0.5)
    axes.margins(x=0.25)
    axes.set_title("(b) time and error, x: fixed runs; small: seeds, large: their mean", fontsize=10)


def _columns(journeys: Mapping[str, Curves]) -> list[Curves]:
    """An ascending run, the descending one, and the ascending one of -MS, each with the widest range there is."""
    kinds: dict[tuple[bool, bool], Curves] = {}
    for curves in journeys.values():
        if curves.stages is None:
            continue
        first, last, within = curves.stages
        kind = (within, first > last)
        if kind not in kinds or _span(curves) > _span(kinds[kind]):
            kinds[kind] = curves
    return [kinds[kind] for kind in sorted(kinds)]


def _span(curves: Curves) -> float:
    first, last, _ = curves.stages or (1, 1, False)
    return max(first / last, last / first)


def _draw_curve(axes: Axes, curves: Curves, name: str, **look: Any) -> None:
    values = curves[name].astype(np.float64)
    known = np.isfinite(values).all(axis=0)
    epochs = np.arange(1, values.shape[1] + 1)[known]
    shown = values[:, known]
    axes.fill_between(epochs, shown.min(axis=0), shown.max(axis=0), color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(epochs, shown.mean(axis=0), label=curves.name, **look)
