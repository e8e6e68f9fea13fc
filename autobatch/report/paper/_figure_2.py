"""Figure 2: the measures step by step and as they accumulate, by epoch, for every batch size at one rate."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autobatch._arrays import Floats
from autobatch.beacons import BeaconLibrary
from autobatch.report.paper._data import Curves, measured_curves, reference_rate
from autobatch.report.paper._style import headline, plain_ticks, size_colours


def figure_2(library: BeaconLibrary) -> Figure | str:
    """Draw our counterpart of figure 2, each epoch's mean for the step-by-step measures; or say why there is none."""
    rate = reference_rate(library)
    colours = size_colours([size for size, _ in library.configurations])
    shown = {size: curves for size in colours if (curves := measured_curves(library, size, rate)) is not None}
    if not shown:
        return f"no beacon at rate {rate:g} finished"
    figure = Figure(figsize=(11.5, 7.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for size, curves in shown.items():
        for axes, values in zip(panels, (*_means(curves), curves["c_bar"], curves["l_cum"]), strict=True):
            _draw(axes, values, colours[size], f"s{size}")
    for axes, title in zip(
        panels,
        (
            "(a) $c_k$, mean of each epoch",
            "(b) $l_k$, mean of each epoch",
            r"(c) $\bar{C}_K$, running mean",
            "(d) $L_K$, cumulative sum",
        ),
        strict=True,
    ):
        axes.set_yscale("log")
        plain_ticks(axes, x=False)
        axes.set_title(title, fontsize=10)
    for axes in panels[2:]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(handles=panels[3].get_lines(), fontsize=8.5, ncols=len(shown), loc="outside lower center")
    seeds = max(len(curves.seeds) for curves in shown.values())
    words = f"the measures over the epochs at rate {rate:g}, mean and range of {seeds} seeds"
    headline(figure, library, words, 2)
    return figure


def _means(curves: Curves) -> tuple[Floats, Floats]:
    """Mean c and l of each epoch's steps: what C̄ times its steps, and L, gained over them."""
    steps = curves["steps"].astype(np.float64)
    gained = np.diff(steps, axis=1, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        c_mean = np.diff(curves["c_bar"] * steps, axis=1, prepend=0.0) / gained
        l_mean = np.diff(curves["l_cum"], axis=1, prepend=0.0) / gained
    return tuple(np.where(values > 0.0, values, np.nan) for values in (c_mean, l_mean))  # type: ignore[return-value]


def _draw(axes: Axes, values: Floats, colour: str, label: str) -> None:
    epochs = np.arange(1, values.shape[1] + 1)
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(epochs, values.mean(axis=0), color=colour, linewidth=1.6, label=label)
