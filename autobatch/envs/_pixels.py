"""The plane with beacons and a journey, as pixels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary
from autobatch.report import draw_plane
from autobatch.training import EpochRow

_INCHES, _DOTS = (8.8, 6.6), 100


def plane_pixels(title: str, rows: Sequence[EpochRow], library: BeaconLibrary | None) -> NDArray[np.uint8]:
    """Draw a journey through the plane; every picture has the same size.

    Args:
        title: what stands above it.
        rows: the finished epochs.
        library: the beacons; None draws the journey alone.

    Returns:
        uint8, shape (height, width, 3).
    """
    figure = Figure(figsize=_INCHES, dpi=_DOTS, layout="constrained")
    draw_plane(figure.add_subplot(), list(rows), library)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()
