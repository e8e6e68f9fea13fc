"""Our counterparts of the paper's figures 1 to 7, as far as a library and the runs of policies allow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from matplotlib.figure import Figure

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconLibrary
from autobatch.report._save_figure import save_figure
from autobatch.report.paper._data import finals, policy_curves
from autobatch.report.paper._figure_1 import figure_1
from autobatch.report.paper._figure_2 import figure_2
from autobatch.report.paper._figure_3 import figure_3, figure_7
from autobatch.report.paper._figure_4 import figure_4
from autobatch.report.paper._figure_5 import figure_5, figure_6

if TYPE_CHECKING:
    import pyarrow as pa

PictureFormat = Literal["png", "svg", "pdf"]
"""Formats that pictures are written in."""

_DPI = 95


class PaperFigure(NamedTuple):
    """One of the paper's figures, drawn or not.

    Attributes:
        number: its number in the paper.
        figure: our counterpart; None where the data do not allow one.
        reason: why there is none, in words.
    """

    number: int
    figure: Figure | None
    reason: str = ""


def draw_paper_figures(library: BeaconLibrary, journeys: "pa.Table | None" = None) -> Iterator[PaperFigure]:
    """Draw our counterparts of the paper's figures 1 to 7, one after the other.

    Args:
        library: the beacons of a task.
        journeys: a comparison's table of epochs on that task; None where there is none.

    Yields:
        Each figure, or the reason why these data do not allow it.

    Raises:
        LibraryError: no configuration of the library finished with all its seeds.
    """
    if not len(finals(library).value):
        library.best_fixed()  # says what is missing
    curves = policy_curves(journeys)
    drawings: tuple[Callable[[], Figure | str], ...] = (
        lambda: figure_1(library, curves),
        lambda: figure_2(library),
        lambda: figure_3(library),
        lambda: figure_4(library),
        lambda: figure_5(library, curves),
        lambda: figure_6(library, curves),
        lambda: figure_7(library),
    )
    for number, draw in enumerate(drawings, start=1):
        found = draw()
        yield PaperFigure(number, None, found) if isinstance(found, str) else PaperFigure(number, found)


def paper_figures(
    library: BeaconLibrary, journeys: "pa.Table | None", out: Path, *, kind: PictureFormat = "png"
) -> list[Path]:
    """Write our counterparts of the paper's figures, those that the data allow.

    Args:
        library: the beacons of a task.
        journeys: a comparison's table of epochs on that task; None where there is none.
        out: the folder to write to; made where it is missing.
        kind: format of the pictures.

    Returns:
        The files, ``figure-1.png`` and so on.

    Raises:
        ConfigError: the format is not known.
    """
    if kind not in {"png", "svg", "pdf"}:
        raise ConfigError(f"kind: expected 'png', 'svg' or 'pdf', got {kind!r}")
    return [
        save_paper_figure(drawn.figure, out / f"figure-{drawn.number}.{kind}")
        for drawn in draw_paper_figures(library, journeys)
        if drawn.figure is not None
    ]


def save_paper_figure(figure: Figure, path: Path) -> Path:
    """Write one of the paper's figures to a file, which is returned; see ``save_figure``."""
    return save_figure(path, figure, dpi=_DPI)
