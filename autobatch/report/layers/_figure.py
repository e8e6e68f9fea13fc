"""What the Fisher matrix says of each layer: how much, in how many directions, and what its removal costs."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autobatch.analysis import FisherInformation
from autobatch.report.plane import ShownFigure

_BARS = (
    ("trace", "trace of F", "#4477aa"),
    ("effective_rank", "effective rank", "#228833"),
    ("removal", "loss that removal adds", "#cc6677"),
)
_LINES = 10
_HEIGHT = 0.28


def layers_figure(information: FisherInformation) -> Figure:
    """Draw an analysis: three figures of each layer as bars, and the leading eigenvalues of those with most trace."""
    layers = information.layers
    figure = ShownFigure(figsize=(13, max(3.6, 1.6 + _HEIGHT * len(layers))), layout="constrained")
    axes = figure.subplots(1, len(_BARS) + 1, width_ratios=[1] * len(_BARS) + [1.5])
    names = [layer.layer or "(model)" for layer in layers]
    for place, (key, title, colour) in enumerate(_BARS):
        _bars(axes[place], [getattr(layer, key) for layer in layers], title, colour)
        axes[place].set_yticks(range(len(names)), names if place == 0 else [])
    strongest = sorted((layer for layer in layers if layer.leading), key=lambda layer: -layer.trace)[:_LINES]
    for layer in strongest:
        axes[-1].plot(range(1, len(layer.leading) + 1), layer.leading, marker=".", label=layer.layer or "(model)")
    axes[-1].set(xlabel="eigenvalue, from the largest", title="leading eigenvalues")
    if strongest:
        axes[-1].set_yscale("log")
        axes[-1].legend(fontsize="small")
    how = "exact" if information.approximation == "none" else "spectra of Kronecker factors"
    figure.suptitle(f"Fisher information of {information.samples:,} samples, {how}")
    return figure


def _bars(axes: Axes, values: list[float], title: str, colour: str) -> None:
    known = [value if math.isfinite(value) else 0.0 for value in values]
    axes.barh(range(len(values)), known, color=colour)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_title(title)
    if min((value for value in known if value > 0.0), default=1.0) * 100 < max(known, default=0.0):
        axes.set_xscale("log")
