"""The project around the code: commands, links and artefacts. The shape of the house is in ``test_imports``."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import autobatch
from autobatch import (
    BeaconLibrary,
    Policy,
    load_data,
    load_experiment,
    load_policy_spec,
    load_task,
    make_policy,
    resolve,
)
from tests.test_imports import ROOMS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS = (".ci", "autobatch", "benchmarks", "configs", "docs", "envs", "examples", "policies", "tests")


def tree() -> Iterator[Path]:
    """Yield the files of the project; whatever else lies in a checkout (environments, runs, caches) is left out."""
    yield from (path for path in ROOT.glob("*") if path.is_file())
    for path in chain.from_iterable((ROOT / folder).rglob("*") for folder in FOLDERS):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def relative_links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and pictures that stay inside the repository."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)", prose) + re.findall(r'src="([^"]+)"', prose):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            yield target.partition("#")[0]


def test_the_readme_has_the_two_commands() -> None:
    commands = subprocess.run(
        ["awk", "-f", ROOT / ".ci/readme-commands.awk", ROOT / "README.md"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert commands == [
        "pip install -e . && autobatch run --policy steer",
        "pip install -e '.[test]' && pytest",
    ]


def test_ci_reads_its_commands_from_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "readme-commands.awk README.md" in script
    assert "autobatch run --policy beacon-follow" not in script


def test_the_version_is_the_same_everywhere() -> None:
    assert autobatch.__version__ in {PROJECT["version"], "unknown"}  # unknown: not installed
    heading = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert heading is not None
    assert heading[1] in {"Unreleased", PROJECT["version"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in relative_links(page) if not (page.parent / target).exists()]
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    names = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(names) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))


def test_nothing_names_a_private_path_or_a_registry() -> None:
    # Put together here, so that this file does not find itself.
    words = ["/" + "work/", "/" + "root/", "/" + "home/", "shared/" + "design", "shared/" + "data", "shared/" + "seeds"]
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org"]
    pattern = re.compile("|".join(map(re.escape, words + hosts)).encode())
    found = [(str(path.relative_to(ROOT)), match[0]) for path in tree() if (match := pattern.search(path.read_bytes()))]
    assert not found


def test_scripts_behind_the_numbers_are_where_they_are_said_to_be() -> None:
    named = {
        (str(path.relative_to(ROOT)), script)
        for path in tree()
        if path.suffix in {".py", ".md", ".yaml", ".toml"}
        for script in re.findall(r"benchmarks/[\w/]+\.py", path.read_text(encoding="utf-8"))
    }
    assert [(page, script) for page, script in sorted(named) if not (ROOT / script).is_file()] == []
    listed = re.findall(r"\]\(([\w/]+\.py)\)", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"))
    helpers = {
        "__init__.py",
        "pages.py",
        "evidence/results_page.py",
        "steering/brought_tasks.py",
        "steering/few_epochs_tasks.py",
        "steering/whole_tasks.py",
        "steering/large_tasks.py",
        "steering/latest_tasks.py",
        "steering/loop_tasks.py",
        "steering/newest_tasks.py",
        *(f"fisher/{name}.py" for name in ("floor", "methods", "models", "timing")),
    }
    scripts = {path.relative_to(ROOT / "benchmarks").as_posix() for path in (ROOT / "benchmarks").rglob("*.py")}
    assert {*listed} | helpers == scripts


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_curated_front_and_tests(room: str) -> None:
    package = ROOT / "autobatch" / room
    public = [path.name for path in package.glob("*.py") if not path.name.startswith("_")]
    assert not public or room == "cli", "modules are private; the package re-exports what is public"
    assert "__all__" in (package / "__init__.py").read_text(encoding="utf-8")
    assert list((ROOT / "tests" / room).rglob("test_*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*/env.yaml")), ids=lambda path: path.parent.name)
def test_a_shipped_env_loads_and_fits_its_beacons(path: Path) -> None:
    task = load_task(path)
    assert task.name == path.parent.name
    if not (path.parent / "beacons.parquet").exists():
        return
    library = BeaconLibrary.load(path.parent)
    is_here = task.dataset.name == "digits"
    fingerprint = load_data(task).fingerprint if is_here else str(library.task["data_fingerprint"])
    library.check_task(task.fingerprint_payload(fingerprint, int(library.task["num_classes"])))
    assert library.score == task.score
    assert library.costs is not None
    assert set(task.batch_sizes) <= library.costs.step_seconds.keys()
    assert library.info.commands, "a shipped library says how it was made"
    assert not [command for command in library.info.commands if re.search(r"(^|[ ='])[/~]", command)]


@pytest.mark.parametrize("name", ["digits-resnet8", "digits-mlp"])
def test_the_digits_have_a_full_library(name: str) -> None:
    task = load_task(ROOT / "envs" / name)
    library = BeaconLibrary.load(ROOT / "envs" / name / "beacons.parquet")
    seeds = {(batch_size, lr): set(task.seeds) for batch_size in task.batch_sizes for lr in task.learning_rates}
    assert {key: {beacon.seed for beacon in beacons} for key, beacons in library.by_configuration.items()} == seeds
    assert len(task.seeds) >= 3


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_policy_can_be_made(path: Path) -> None:
    spec = load_policy_spec(path)
    assert spec.name == path.stem
    assert isinstance(make_policy(spec), Policy)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_resolves(path: Path) -> None:
    config = resolve(load_experiment(path))
    assert config.task_path is not None
    assert (config.task_path / "env.yaml").exists()


def test_every_dataset_of_the_paper_has_a_config() -> None:
    datasets = {resolve(load_experiment(path)).task.dataset.name for path in (ROOT / "configs").glob("*.yaml")}
    assert {"mnist", "cifar10", "cifar100", "svhn"} <= datasets
