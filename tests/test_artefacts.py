"""Names resolve in the working directory, then $AUTOBATCH_PATH, then what is shipped."""

import os
from pathlib import Path

import pytest

from autobatch._artefacts import artefact_names, find_artefact, found_again, holds_beacons, library_names, portable
from autobatch._errors import ConfigError, UnknownNameError


@pytest.fixture
def places(tmp_path, monkeypatch):
    here, first, second = (tmp_path / name for name in ("here", "first", "second"))
    for place in (here, first, second):
        (place / "envs").mkdir(parents=True)
        (place / "policies").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("AUTOBATCH_PATH", os.pathsep.join([str(first), "", str(second)]))
    return here, first, second


def add_env(place, name):
    (place / "envs" / name).mkdir()
    path = place / "envs" / name / "env.yaml"
    path.touch()
    return path


def test_order_of_places(places):
    here, first, second = places
    shipped = find_artefact("envs", "digits-resnet8")
    assert shipped.is_file()
    for place in (second, first, here):
        expected = add_env(place, "digits-resnet8")
        assert find_artefact("envs", "digits-resnet8") == expected
    assert find_artefact("envs", shipped) == shipped


def test_paths_are_taken_as_they_are(places):
    here, _, second = places
    env = add_env(second, "mine")
    assert find_artefact("envs", env.parent) == env
    assert find_artefact("envs", str(env)) == env
    (here / "policy.yaml").touch()
    assert find_artefact("policies", "policy.yaml").samefile(here / "policy.yaml")


def test_names_of_every_place_once(places):
    here, first, _ = places
    add_env(here, "a-task")
    add_env(first, "a-task")
    (first / "envs" / "no-task").mkdir()
    (first / "policies" / "a-policy.yaml").touch()
    names = artefact_names("envs")
    assert names.count("a-task") == 1
    assert "no-task" not in names
    assert {"digits-resnet8", "digits-mlp", "mnist-resnet8"} <= set(names)
    assert "a-policy" in artefact_names("policies")
    for name in names:
        assert find_artefact("envs", name).name == "env.yaml"


def test_unknown_name_lists_near_names_and_places(places):
    with pytest.raises(UnknownNameError) as error:
        find_artefact("envs", "digits-resnet")
    assert "did you mean 'digits-resnet8'" in str(error.value)
    for place in places:
        assert str(place / "envs") in str(error.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-that-name/x", "no/such/path.yaml", "../nowhere"])
def test_odd_names_are_unknown(places, name):
    with pytest.raises(UnknownNameError):
        find_artefact("envs", name)


@pytest.mark.parametrize("kind", ["envs", "policies", "configs"])
def test_folder_without_yaml(places, kind):
    with pytest.raises(ConfigError, match="expected a YAML file"):
        find_artefact(kind, ".")


def test_hidden_files_are_no_artefacts(places):
    here, first, _ = places
    for name in ("._mine.yaml", "_mine.yaml", ".DS_Store"):
        (here / "policies" / name).write_bytes(b"\0\5\x16\7")
    hidden = add_env(first, "._task").parent
    (hidden / "beacons.parquet").touch()
    task = add_env(first, "a-task").parent
    (task / "beacons").mkdir()
    (task / "beacons" / "._b8-lr0.1-s0.parquet").touch()
    assert not {"._mine", "_mine"} & {*artefact_names("policies")}
    assert "._task" not in {*artefact_names("envs"), *library_names()}
    assert not holds_beacons(task)


def test_the_folder_above_is_found_again(tmp_path: Path) -> None:
    """It is written as two dots, which are the name of nothing that is shipped."""
    assert portable(tmp_path, tmp_path / "run") == ".."
    assert found_again("..", tmp_path / "run") == tmp_path
