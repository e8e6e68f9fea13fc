"""The beacons' part of the plane: landscape, optimum region, ends and ways."""

from collections.abc import Iterator

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary, Landscape
from autobatch.beacons.landscape import Points
from autobatch.report._words import configuration_words
from autobatch.report.plane._ticks import linear_ticks, log_ticks

COLOURS = "cividis_r"
"""Perceptually even and the same to colour-blind eyes; reversed, so that light is better."""

REGION_TOLERANCE = 0.05
"""The optimum region holds predictions within this share of the least one, as the corridor of beacon-follow does."""

_TRAIL = "#555555"
_GRID_POINTS = 121
_LEAST_POINTS = 4


def draw_beacons(axes: Axes, library: BeaconLibrary) -> list[Artist]:
    """Draw a library into a plane with logarithmic axes, a colour bar beside it; return what a legend explains."""
    landscape = Landscape.fit(library)
    points = landscape.points
    norm = score_norm(points)
    handles: list[Artist] = []
    _set_limits(axes, library)
    if points.finished.sum() >= _LEAST_POINTS:
        handles += _draw_landscape(axes, landscape, norm)
    handles += _draw_ways(axes, library)
    handles += _draw_ends(axes, points, norm, library.score.replace("_", " "))
    return handles


def region_tolerance(landscape: Landscape) -> float:
    """Return ``REGION_TOLERANCE`` of a landscape in the score's unit."""
    return REGION_TOLERANCE * float(landscape.region(0.0).score.min())


def score_norm(points: Points) -> Normalize:
    """Return a scale of colours, logarithmic for a loss, that a few very bad configurations do not stretch."""
    scores = points.score[points.finished] if points.finished.any() else points.score
    lowest, highest = float(scores.min()), float(np.quantile(scores, 0.9))
    if points.is_loss and lowest > 0:
        return LogNorm(lowest, max(highest, 1.05 * lowest))
    return Normalize(lowest, max(highest, lowest + 1e-3))


def score_ticks(norm: Normalize) -> list[float]:
    """Return round scores, ascending, for a colour bar."""
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    return log_ticks(low, high) if isinstance(norm, LogNorm) else linear_ticks(low, high)


def _levels(norm: Normalize, count: int) -> NDArray[np.float64]:
    space = np.geomspace if isinstance(norm, LogNorm) else np.linspace
    return np.asarray(space(float(norm.vmin or 0.0), float(norm.vmax or 1.0), count))


def _set_limits(axes: Axes, library: BeaconLibrary) -> None:
    """Show the finished beacons from a twentieth of training on; one exploding L must not press the rest together."""
    rows = [beacon.rows for beacon in library.beacons if beacon.finished] or [b.rows for b in library.beacons]
    for name, set_limits in (("c_bar", axes.set_xlim), ("l_cum", axes.set_ylim)):
        shown = np.concatenate([own[name][own["progress"] >= min(0.05, own["progress"][-1])] for own in rows])
        shown = np.log10(shown[np.isfinite(shown) & (shown > 0)])
        if len(shown):
            margin = 0.06 * (np.ptp(shown) or 1.0)
            set_limits(10 ** (shown.min() - margin), 10 ** (shown.max() + margin))


def _draw_landscape(axes: Axes, landscape: Landscape, norm: Normalize) -> Iterator[Artist]:
    c_bar = np.geomspace(*axes.get_xlim(), _GRID_POINTS)
    l_cum = np.geomspace(*axes.get_ylim(), _GRID_POINTS)
    prediction = landscape.predict(c_bar[np.newaxis, :], l_cum[:, np.newaxis])
    known = np.ma.array(prediction.score, mask=~prediction.known)
    axes.contourf(c_bar, l_cum, known, _levels(norm, 15), cmap=COLOURS, norm=norm, alpha=0.6, extend="both", zorder=1)
    least = float(landscape.region(0.0).score.min())
    outline = axes.contour(
        c_bar, l_cum, known, levels=[least + region_tolerance(landscape)], colors="black", linewidths=1.5, zorder=3
    )
    outline.set_path_effects([withStroke(linewidth=3.0, foreground="white")])
    yield Line2D(
        [],
        [],
        color="black",
        linewidth=1.5,
        label=f"optimum region: within {100 * REGION_TOLERANCE:.0f} % of the least",
    )


def _draw_ways(axes: Axes, library: BeaconLibrary) -> Iterator[Artist]:
    for beacon in library.beacons:
        axes.plot(beacon.rows["c_bar"], beacon.rows["l_cum"], color=_TRAIL, alpha=0.15, linewidth=0.7, zorder=2)
    yield Line2D([], [], color=_TRAIL, alpha=0.5, linewidth=0.9, label="ways of the beacons, a line each")


def _draw_ends(axes: Axes, points: Points, norm: Normalize, score: str) -> Iterator[Artist]:
    c_bar, l_cum = 10**points.plane.T
    sound = points.finished
    ends = axes.scatter(
        c_bar[sound],
        l_cum[sound],
        c=points.score[sound],
        cmap=COLOURS,
        norm=norm,
        s=44,
        edgecolors="black",
        linewidths=0.7,
        zorder=4,
    )
    bar = axes.figure.colorbar(ends, ax=axes, pad=0.015, fraction=0.05, extend="max")
    bar.set_label(f"final {score}, mean over seeds (light is better)")
    bar.ax.yaxis.set_major_locator(FixedLocator(score_ticks(norm)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    yield Line2D([], [], marker="o", linestyle="", color="0.8", markeredgecolor="black", label="ends of the beacons")
    if not sound.all():
        axes.scatter(c_bar[~sound], l_cum[~sound], marker="x", c=_TRAIL, s=36, zorder=4)
        yield Line2D([], [], marker="x", linestyle="", color=_TRAIL, label="diverged, where it was heading")
    _name_corners(axes, points)
    if sound.any():
        yield _star_the_best(axes, points)


def _star_the_best(axes: Axes, points: Points) -> Artist:
    best = int(np.argmin(np.where(points.finished, points.score, np.inf)))
    c_bar, l_cum = 10 ** points.plane[best]
    axes.scatter(c_bar, l_cum, marker="*", s=320, c="white", edgecolors="black", linewidths=1.2, zorder=6)
    label = f"best fixed beacon, {configuration_words(*points.configurations[best])}"
    return Line2D([], [], marker="*", linestyle="", color="white", markeredgecolor="black", markersize=14, label=label)


def _name_corners(axes: Axes, points: Points) -> None:
    """Name the configurations at the ends of the ladder and of the rates, as the paper's figure 3 does."""
    sizes = sorted({batch_size for batch_size, _ in points.configurations})
    rates = sorted({lr for _, lr in points.configurations})
    for (batch_size, lr), (log_c, log_l), finished in zip(
        points.configurations, points.plane, points.finished, strict=True
    ):
        if finished and batch_size in {sizes[0], sizes[-1]} and lr in {rates[0], rates[-1]}:
            axes.annotate(
                configuration_words(batch_size, lr),
                (10**log_c, 10**log_l),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color="0.25",
                path_effects=[withStroke(linewidth=2, foreground="white")],
                zorder=5,
            )
