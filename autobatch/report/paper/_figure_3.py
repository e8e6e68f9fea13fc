"""Figures 3 and 7: the figure over the grid and in the plane, for any task and for the perceptron of section 4.4."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from autobatch.beacons import BeaconLibrary
from autobatch.report.paper._data import Finals, finals
from autobatch.report.paper._plane import draw_ends, draw_plane
from autobatch.report.paper._style import headline, plain_ticks, rate_handles, rate_looks, size_axis


def figure_3(library: BeaconLibrary) -> Figure:
    """Draw our counterpart of figure 3."""
    ends, trained = finals(library), finals(library, "train_loss")
    figure = Figure(figsize=(15.5, 5.0), layout="constrained")
    grid, train, tested = figure.subplots(1, 3)
    _draw_table(grid, ends)
    grid.set_title(f"(a) {ends.words} over the grid; framed: the lowest", fontsize=10)
    for axes, value, title, label, percent in (
        (train, trained.value, "(b) training loss of the last epoch", "training loss", False),
        (tested, ends.value, f"(c) {ends.words}", ends.words, ends.is_share),
    ):
        handles = draw_plane(axes, ends, value, label, percent=percent)
        axes.set_title(f"{title} in the plane; stars: lowest {ends.words}", fontsize=10)
    tested.legend(handles=handles, fontsize=7.5, framealpha=0.9)
    headline(figure, library, "batch size, rate, position and error", 3)
    return figure


def figure_7(library: BeaconLibrary) -> Figure | str:
    """Draw our counterpart of figure 7, or say why there is none."""
    if not is_perceptron(library):
        return "the task's network is no multi-layer perceptron"
    ends = finals(library)
    figure = Figure(figsize=(15.5, 5.0), layout="constrained")
    condition, energy, plane = figure.subplots(1, 3)
    for axes, column, label in ((condition, 0, r"(a) final $\bar{C}_K$"), (energy, 1, "(b) final $L_K$")):
        for rate, (colour, marker) in rate_looks(ends.rates.tolist()).items():
            own = ends.rates == rate
            axes.plot(ends.sizes[own], 10 ** ends.plane[own, column], color=colour, marker=marker, linewidth=1.3)
        axes.set_yscale("log")
        size_axis(axes, ends.sizes.tolist())
        plain_ticks(axes, x=False)
        axes.set_title(f"{label} by batch size and rate", fontsize=10)
    condition.legend(handles=rate_handles(ends.rates.tolist()), fontsize=8, framealpha=0.9)
    draw_ends(plane, ends)
    plane.set_title("(c) the configurations at the end, in the plane", fontsize=10)
    headline(figure, library, "a perceptron of two hidden layers", 7)
    return figure


def is_perceptron(library: BeaconLibrary) -> bool:
    """Return whether the task's network is the multi-layer perceptron of section 4.4."""
    model = library.task.get("model")
    return isinstance(model, dict) and model.get("name") == "mlp"


def _draw_table(axes: Axes, ends: Finals) -> None:
    sizes = sorted({*ends.sizes.tolist(), *(size for size, _ in ends.diverged)})
    rates = sorted({*ends.rates.tolist(), *(rate for _, rate in ends.diverged)})
    cells = np.full((len(rates), len(sizes)), np.nan)
    for size, rate, value in zip(ends.sizes.tolist(), ends.rates.tolist(), ends.value, strict=True):
        cells[rates.index(rate), sizes.index(size)] = value
    highest = max(float(np.quantile(ends.value, 0.9)), 1.05 * float(ends.value.min()))
    norm = LogNorm(max(float(ends.value.min()), 1e-6), highest)
    axes.imshow(cells, cmap="cividis_r", norm=norm, aspect="auto", origin="lower", alpha=0.8)
    best = {(int(ends.sizes[index]), float(ends.rates[index])) for index in ends.top}
    percent = ends.is_share
    for row, rate in enumerate(rates):
        for column, size in enumerate(sizes):
            value = cells[row, column]
            known = bool(np.isfinite(value))
            text = (f"{100 * value:.2f}" if percent else f"{value:.3g}") if known else "diverged"
            dark = known and norm(value) > 0.65
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8 if known else 6.5,
                color="white" if dark else "black",
            )
            if (size, rate) in best:
                axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, linewidth=2.2))
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_xlabel("batch size" + (f" ({ends.words} in %)" if percent else ""))
    axes.set_ylabel("base learning rate")
