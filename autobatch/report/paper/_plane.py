"""The (C̄, L) plane as the paper draws it: a line a rate, the five best marked, contours of the five nearest."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.lines import Line2D

from autobatch._arrays import Floats
from autobatch.beacons.landscape import Axes as PlaneAxes
from autobatch.beacons.landscape import NearestSurface, Points
from autobatch.report._words import configuration_words
from autobatch.report.paper._data import Curves, Finals
from autobatch.report.paper._style import GREY, HALO, plain_ticks, rate_looks

_GRID = 90
_LEVELS = 12
_LEAST_POINTS = 4


def draw_plane(axes: Axes, ends: Finals, value: Floats, label: str, *, percent: bool) -> list[Line2D]:
    """Draw the configurations over contours of a positive figure of each, in percent or not; return legend entries."""
    plane_axes(axes)
    _draw_contours(axes, ends, value, label, percent=percent)
    return [*_draw_rates(axes, ends), _mark_top(axes, ends)]


def draw_ends(axes: Axes, ends: Finals) -> None:
    """Draw the configurations over contours of the figure that ranks them, with a legend."""
    handles = draw_plane(axes, ends, ends.value, ends.words, percent=ends.is_share)
    axes.legend(handles=handles, fontsize=7.5, framealpha=0.9)


def plane_axes(axes: Axes) -> None:
    """Make logarithmic axes for C̄ and L."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"$\bar{C}_K$")
    axes.set_ylabel(r"$L_K$")
    plain_ticks(axes)


def _draw_contours(axes: Axes, ends: Finals, value: Floats, label: str, *, percent: bool) -> None:
    """Fill the plane with a figure averaged over the five nearest configurations (paper, section 4.1)."""
    if len(value) < _LEAST_POINTS or not (np.isfinite(value).all() and (value > 0).all()):
        return
    points = Points(
        configurations=tuple(zip(ends.sizes.tolist(), ends.rates.tolist(), strict=True)),
        plane=ends.plane,
        score=np.log(value),
        variance=np.zeros(len(value)),
        finished=np.ones(len(value), dtype=np.bool_),
        is_loss=False,
    )
    own = PlaneAxes.over(points)
    margin = 0.05
    side = np.linspace(-margin, 1.0 + margin, _GRID)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    surface = np.exp(NearestSurface(points, own).predict(grid)[0]).reshape(_GRID, _GRID)
    lowest = float(value.min())
    highest = max(float(np.quantile(value, 0.9)), 1.05 * lowest)
    norm, levels = LogNorm(lowest, highest), np.geomspace(lowest, highest, _LEVELS)
    across = 10 ** own.unscaled(np.stack([side, side], axis=-1))
    filled = axes.contourf(
        across[:, 0], across[:, 1], surface, levels, cmap=_faint("cividis_r"), norm=norm, extend="both", zorder=1
    )
    bar = axes.figure.colorbar(filled, ax=axes, pad=0.015, fraction=0.05)
    ticks = np.geomspace(lowest, highest, 5).tolist()
    bar.set_ticks(ticks, labels=[f"{100 * tick:.3g} %" if percent else f"{tick:.3g}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label(label)


def _draw_rates(axes: Axes, ends: Finals) -> list[Line2D]:
    """Draw a line for each rate through its configurations, and name the batch sizes at its ends."""
    handles = []
    for rate, (colour, marker) in rate_looks(ends.rates.tolist()).items():
        own = np.flatnonzero(ends.rates == rate)
        c_bar, l_cum = 10 ** ends.plane[own].T
        axes.plot(c_bar, l_cum, color=colour, marker=marker, markersize=4, linewidth=1.1, zorder=3)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, label=f"rate {rate:g}"))
        if rate in {ends.rates.min(), ends.rates.max()}:
            for at, where in ((0, (4, 5)), (-1, (4, -10))):
                name, place = f"s{ends.sizes[own[at]]}", (float(c_bar[at]), float(l_cum[at]))
                _write(axes, name, place, where, color=GREY, zorder=7)
    return handles


def _mark_top(axes: Axes, ends: Finals) -> Line2D:
    """Mark the configurations with the lowest figure by stars; the best one is named."""
    c_bar, l_cum = 10 ** ends.plane[ends.top].T
    axes.scatter(c_bar, l_cum, marker="*", s=150, c="white", edgecolors="black", linewidths=1.0, zorder=5)
    axes.scatter(c_bar[:1], l_cum[:1], marker="*", s=150, c="black", edgecolors="black", linewidths=1.0, zorder=6)
    best = ends.top[0]
    named = configuration_words(int(ends.sizes[best]), float(ends.rates[best]))
    label = f"the {len(ends.top)} lowest; black: {named}"
    return Line2D([], [], marker="*", linestyle="", color="white", markeredgecolor="black", markersize=11, label=label)


def draw_way(axes: Axes, curves: Curves, *, until: float = 1.0, **look: Any) -> tuple[Floats, Floats]:
    """Draw the seed-mean way of some runs up to a share of their training; return the C̄ and L that were drawn."""
    epochs = max(1, round(until * curves["c_bar"].shape[1]))
    c_bar, l_cum = (10 ** np.log10(curves[name]).mean(axis=0)[:epochs] for name in ("c_bar", "l_cum"))
    axes.plot(c_bar, l_cum, **look)
    return c_bar, l_cum


def name_place(axes: Axes, text: str, c_bar: float, l_cum: float) -> None:
    """Write a name beside a place."""
    _write(axes, text, (c_bar, l_cum), (-3, -9), ha="center", color="black", zorder=8, annotation_clip=True)


def _faint(name: str) -> ListedColormap:
    """A colour map mixed with white; transparent areas would show seams where they meet."""
    colours = mpl.colormaps[name](np.linspace(0.0, 1.0, 256))
    return ListedColormap(0.6 * colours + 0.4)


def _write(axes: Axes, text: str, place: tuple[float, float], where: tuple[float, float], **look: Any) -> None:
    axes.annotate(text, place, xytext=where, textcoords="offset points", fontsize=7.5, path_effects=HALO, **look)
