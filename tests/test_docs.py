"""What README and documentation show: their code runs, their YAML loads, their tables say what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from autobatch.beacons._columns import COLUMNS
from autobatch.cli import app
from autobatch.training import Summary, TaskSpec, load_experiment, load_task

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells below the header row of the table that begins with ``heading``, without backticks."""
    rows = page.read_text(encoding="utf-8").partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize(
    "page",
    [
        "concepts/reward.md",
        "how-to/batch-plan.md",
        "how-to/embed.md",
        "how-to/own-beacons.md",
        "how-to/fisher-probe.md",
        "how-to/learning-rate.md",
        "how-to/predict.md",
        "how-to/track.md",
        "how-to/train-a-policy.md",
        "reference/files.md",
    ],
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envs").mkdir()
    for env in (ROOT / "envs").iterdir():
        (tmp_path / "envs" / env.name).symlink_to(env)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    code = blocks(DOCS / page, "python")
    assert code
    for block in code:
        exec(compile(block, page, "exec"), namespace)


def test_the_loop_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = blocks(ROOT / "README.md", "python")
    assert (loop.count("# +\n"), loop.count("# *\n")) == (6, 3)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(loop, "README.md", "exec"), namespace)
    assert namespace["report"].winner is not None
    assert len(list((tmp_path / "runs" / "scouts").glob("*.json"))) == 3
    assert namespace["error"] < 0.1


def test_the_environment_of_the_readme_steps() -> None:
    _, environment = blocks(ROOT / "README.md", "python")
    namespace: dict[str, Any] = {}
    exec(compile(environment, "README.md", "exec"), namespace)
    assert namespace["info"]["epoch"] == 3
    assert namespace["env"].observation_space.contains(namespace["observation"])
    namespace["env"].close()


@pytest.mark.parametrize("page", ["how-to/own-data.md", "how-to/write-a-task.md"])
def test_the_yaml_of_a_page_loads(page: str, tmp_path: Path) -> None:
    texts = blocks(DOCS / page, "yaml")
    assert texts
    for text in texts:
        (tmp_path / "page.yaml").write_text(text)
        if text.startswith("env:"):
            assert load_experiment(tmp_path / "page.yaml").env in text
        else:
            assert load_task(tmp_path / "page.yaml").name in text


def test_the_reference_states_the_defaults_of_a_task() -> None:
    required = {
        "name": "plain",
        "model": {"name": "resnet", "depth": 8},
        "batch_sizes": [8],
        "learning_rates": [0.1],
        "epochs": 1,
    }
    (stated,) = [yaml.safe_load(block) for block in blocks(DOCS / "reference/env-yaml.md", "yaml") if "subset" in block]
    stated["dataset"]["name"] = "digits"
    left_out = TaskSpec.model_validate({**required, "dataset": {"name": "digits"}})
    assert TaskSpec.model_validate({**required, **stated}) == left_out
    assert stated.keys() | required.keys() == TaskSpec.model_fields.keys()


def test_the_reference_lists_the_columns_of_a_library() -> None:
    stated = table(DOCS / "reference/files.md", "column")
    assert stated == [[column.name, column.kind, column.unit or "-", column.meaning] for column in COLUMNS]


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group of the command line, with its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def test_the_reference_says_what_help_says() -> None:
    page = (DOCS / "reference/cli.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    found = {name: one for name, one in commands(typer.main.get_command(app), "autobatch") if not one.hidden}
    assert found.keys() == {name for name in sections if name.startswith("autobatch")}
    for name, command in found.items():
        rows = dict(re.findall(r"^\| `(\S+?)[ ,`].*?\| (.*) \|$", sections[name], flags=re.MULTILINE))
        expected = {}
        for each in command.params:
            spelling = "/".join([each.opts[0], *each.secondary_opts])
            # On a terminal, a bracket that is no markup has a backslash before it.
            expected[spelling if each.param_type_name == "option" else each.metavar] = each.help.replace("\\[", "[")
        expected.pop("--help", None)
        assert rows == expected
        assert command.help.strip().partition("\n")[0] in sections[name]


def test_the_reference_lists_the_keys_of_a_summary() -> None:
    page = (DOCS / "reference/files.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| (.+) \|$", page.partition("### summary.json")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert rows == [(name, field.description) for name, field in Summary.model_fields.items()]
