"""Libraries of a loop of one's own, which have no env.yaml beside them, under the commands that look."""

from pathlib import Path

import numpy as np
import pytest

from autobatch._artefacts import find_library, library_names
from autobatch._errors import ConfigError, UnknownNameError
from autobatch.beacons import Beacon, BeaconLibrary
from autobatch.cli import main
from tests.beacons.synthetic import make_library

NAN = float("nan")


def without_test_figures(library: BeaconLibrary) -> BeaconLibrary:
    """What a loop that knows a validation error alone would have recorded."""
    beacons = []
    for beacon in library.beacons:
        unknown = np.full(len(beacon.rows["epoch"]), NAN)
        rows = {**beacon.rows, "validation_loss": unknown, "train_loss": unknown}
        beacons.append(Beacon(*beacon.key, rows, NAN, NAN))
    return BeaconLibrary(tuple(beacons), library.info)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = make_library((8, 32, 128), (0.1, 0.2), (0, 1), score="validation_error", task_name="mine", task={})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "envs" / "mine").mkdir(parents=True)
    without_test_figures(library).save(tmp_path / "envs" / "mine")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(list(arguments))
    output = capsys.readouterr()
    return code, output.out + output.err


@pytest.mark.parametrize("name", ["mine", "envs/mine/beacons.parquet"])
def test_it_is_shown_by_name_or_path(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, shown = said(capsys, "beacons", "show", name)
    assert code == 0
    assert (home / "mine-plane.png").exists()
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith(("8 ", "32 ", "128 "))]
    assert len(rows) == 6
    for row in rows:
        assert row[3] == "-", "no validation loss"
        assert (row[6], row[9]) == ("±", "-"), "a validation error with its spread, and no test error"
    assert "nan" not in shown


def test_it_is_listed_and_compacted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = said(capsys, "beacons", "list")
    assert code == 0
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("mine")]
    assert "validation error" in row
    assert "12 beacons" in said(capsys, "beacons", "compact", "mine")[1]
    assert "mine" not in said(capsys, "envs")[1]


def test_it_is_gathered_and_shown_where_it_lies_in_object_storage(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, library = "memory://bucket/mine", BeaconLibrary.load("envs/mine")
    for name, part in (("a", library.beacons[:5]), ("b", library.beacons[5:])):
        BeaconLibrary(part, library.info).save(f"{url}/beacons/cluster-{name}.parquet")
    assert said(capsys, "beacons", "compact", url) == (0, f"{url}/beacons.parquet: 12 beacons\n")
    code, shown = said(capsys, "beacons", "show", url)
    assert (code, (home / "mine-plane.png").exists()) == (0, True)
    assert "validation error" in shown
    assert said(capsys, "beacons", "compact", "memory://bucket/none")[0] == 2


def test_libraries_are_found_beside_tasks(home: Path) -> None:
    assert {"mine", "digits-resnet8"} <= set(library_names())
    assert find_library("mine") == home / "envs" / "mine"
    assert find_library("envs/mine/") == Path("envs/mine")
    assert find_library("digits-resnet8").name == "digits-resnet8"
    (home / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected a folder with beacons or env\.yaml"):
        find_library("empty")
    with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
        find_library("mien")
    with pytest.raises(UnknownNameError, match="unknown env or beacon library 'no/such'"):
        find_library("no/such")
