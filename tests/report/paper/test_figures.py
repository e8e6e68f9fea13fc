"""The paper's figures from planted data: which are drawn, what they show, and how they are written."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from autobatch import AutoBatchError, ConfigError, LibraryError
from autobatch.beacons import BeaconLibrary
from autobatch.report import draw_paper_figures, paper_figures
from autobatch.report.paper import save_paper_figure
from tests.beacons.synthetic import make_library
from tests.evidence.paper.paper_data import comparison


@pytest.fixture(scope="module")
def library() -> BeaconLibrary:
    return make_library(batch_sizes=(16, 32, 64, 128), lrs=(0.05, 0.1), seeds=(0, 1), diverged=[(16, 0.05, 1)])


@pytest.fixture(scope="module")
def drawn(library):
    _, epochs = comparison({"s32-lr0.1": 0.05, "s32-to-128": 0.05, "s128-to-32": 0.05, "s32-to-128-ms": 0.05})
    return {one.number: one for one in draw_paper_figures(library, epochs)}


def test_every_figure_is_drawn_or_says_why_not(library, drawn):
    assert [number for number, one in drawn.items() if one.figure is None] == [7]
    assert drawn[7].reason == "the task's network is no multi-layer perceptron"
    alone = {one.number: one.reason for one in draw_paper_figures(library) if one.figure is None}
    assert alone[5] == "no run of dynamic sampling with measured positions"
    assert set(alone) == {5, 6, 7}


def test_curves_are_the_beacons(library, drawn):
    condition = drawn[2].figure.axes[2]
    shown = {line.get_label(): line for line in condition.get_lines()}
    assert set(shown) == {"s16", "s32", "s64", "s128"}
    expected = np.mean([beacon.rows["c_bar"] for beacon in library.beacons_at(64, 0.1)], axis=0)
    np.testing.assert_allclose(shown["s64"].get_ydata(), expected)
    step_means = {line.get_label(): line for line in drawn[2].figure.axes[0].get_lines()}
    beacon = library.beacons_at(64, 0.1)
    sums = [np.diff(own.rows["c_bar"] * own.rows["steps"], prepend=0.0) for own in beacon]
    np.testing.assert_allclose(step_means["s64"].get_ydata(), np.mean(sums, axis=0) / 16)


def test_the_diverged_are_told_and_the_best_are_marked(library, drawn):
    grid = drawn[3].figure.axes[0]
    texts = [text.get_text() for text in grid.texts]
    assert texts.count("diverged") == 1
    assert len(texts) == 8
    assert len(grid.patches) == 5


def test_journeys_are_marked_at_the_papers_shares(drawn):
    plane, _ = drawn[5].figure.axes[:2]
    line = next(line for line in plane.get_lines() if line.get_linestyle() == "-")
    assert line.get_markevery() == [0, 3, 7, 11, 15, 19]
    assert len(line.get_xdata()) == 20
    assert [axes.get_title() for axes in drawn[6].figure.axes[:3]] == [
        "s32-to-128 (4 seeds)",
        "s128-to-32 (4 seeds)",
        "s32-to-128-ms (4 seeds)",
    ]


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    def drawn() -> Figure:
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().contourf([[1.0, 2.0], [3.0, 5.0]])
        return figure

    for kind in ("png", "svg", "pdf"):
        files = [save_paper_figure(drawn(), tmp_path / f"{time}.{kind}") for time in (1, 2)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_files_are_named_by_the_papers_numbers(library, tmp_path):
    tiny = BeaconLibrary(library.beacons_at(32, 0.1) + library.beacons_at(64, 0.1), library.info)
    files = paper_figures(tiny, None, tmp_path / "new" / "folder")
    assert files == [tmp_path / "new" / "folder" / f"figure-{number}.png" for number in (1, 2, 3, 4)]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_what_cannot_be_drawn_is_refused(library, tmp_path):
    with pytest.raises(ConfigError, match="kind: expected 'png', 'svg' or 'pdf', got 'gif'"):
        paper_figures(library, None, tmp_path, kind="gif")
    gone = make_library(batch_sizes=(8,), lrs=(0.1,), diverged=[(8, 0.1, seed) for seed in (0, 1, 2)])
    with pytest.raises(LibraryError, match="no configuration all of whose seeds finished"):
        paper_figures(gone, None, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AutoBatchError, match="file"):
        paper_figures(library, None, tmp_path / "file" / "deeper")
