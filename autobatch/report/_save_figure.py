"""Writing a picture, at once or not at all."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from autobatch._files import naming_output, write_whole

DOTS_PER_INCH = 150

_DATED = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}
"""By format, what differs from one day or version of matplotlib to another."""


def save_figure(path: Path, figure: Figure, *, dpi: int = DOTS_PER_INCH) -> Path:
    """Write a picture in the format of the file's ending, at once or not at all; equal pictures give equal bytes."""
    with naming_output(path.parent, "made"):
        path.parent.mkdir(parents=True, exist_ok=True)
    kind, buffer = path.suffix[1:].lower(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "autobatch"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={_DATED[kind]: None})
    write_whole(path, buffer.getvalue())
    return path
