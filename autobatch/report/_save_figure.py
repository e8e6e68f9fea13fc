"""Writing a picture, at once or not at all."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from autobatch._errors import OutputError

DOTS_PER_INCH = 150


def save_figure(path: Path, figure: Figure) -> None:
    """Write a picture to a file, at once or not at all.

    Args:
        path: the file; its ending, one that ``check_format`` takes, says in which format.
        figure: the picture.

    Raises:
        OutputError: the file cannot be written; an older one is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DOTS_PER_INCH)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
