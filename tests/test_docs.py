"""What README and documentation show: their code runs, their YAML loads, their tables say what the code says."""

import importlib.util
import json
import re
import runpy
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from autobatch._artefacts import artefact_names
from autobatch.beacons._columns import COLUMNS
from autobatch.cli import app, main
from autobatch.envs.surrogate import _ensemble
from autobatch.policies import ENTRIES, SCHEMA, general, load_policy_spec, policy_names
from autobatch.report import policy_table
from autobatch.training import Summary, TaskSpec, load_experiment, load_task

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXCERPT = re.compile(r"<!-- (\S+\.(?:py|yaml)) -->\n```(\w+)\n(.*?)```", flags=re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in one language, without its excerpts from files."""
    text = EXCERPT.sub("", page.read_text(encoding="utf-8"))
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells below the header row of the table that begins with ``heading``, without backticks."""
    rows = page.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize(
    "page",
    [
        "concepts/reward.md",
        "how-to/analyse.md",
        "how-to/batch-plan.md",
        "how-to/embed.md",
        "how-to/own-beacons.md",
        "how-to/fisher-probe.md",
        "how-to/learning-rate.md",
        "how-to/predict.md",
        "how-to/track.md",
        "how-to/train-a-policy.md",
        "how-to/write-a-task.md",
        "optimizers.md",
        "reference/files.md",
    ],
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envs").mkdir()
    for env in (ROOT / "envs").iterdir():
        (tmp_path / "envs" / env.name).symlink_to(env)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_ensemble, "_STEPS", (20, 20))  # however well a surrogate knows its task
    namespace: dict[str, Any] = {}
    code = blocks(DOCS / page, "python")
    assert code
    for block in code:
        exec(compile(block, page, "exec"), namespace)


def test_the_notebook_runs_and_its_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = runpy.run_path(str(ROOT / "benchmarks" / "notebook.py"))
    cells = json.loads((DOCS / "how-to/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert (DOCS / "how-to/notebook.md").read_text(encoding="utf-8") == program["page"](cells)
    monkeypatch.chdir(tmp_path)
    again = program["execute"](cells)
    kinds = [[set(output.get("data", ())) for output in cell.get("outputs", ())] for cell in cells]
    assert [[set(output.get("data", ())) for output in cell.get("outputs", ())] for cell in again] == kinds


def test_the_loop_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = blocks(ROOT / "README.md", "python")
    assert (loop.count("# +\n"), loop.count("# *\n")) == (6, 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_ensemble, "_STEPS", (20, 20))  # however well a surrogate knows its task
    namespace: dict[str, Any] = {}
    exec(compile(loop, "README.md", "exec"), namespace)
    assert namespace["report"].winner is not None
    assert len(list((tmp_path / "runs" / "scouts").rglob("*.json"))) == 4
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
    required = {"name": "plain", "model": {"name": "resnet", "depth": 8}, "epochs": 1}
    (stated,) = [yaml.safe_load(block) for block in blocks(DOCS / "reference/env-yaml.md", "yaml") if "subset" in block]
    stated["dataset"]["name"] = "digits"
    left_out = TaskSpec.model_validate({**required, "dataset": {"name": "digits"}})
    assert TaskSpec.model_validate({**required, **stated}) == left_out
    assert stated.keys() | required.keys() == TaskSpec.model_fields.keys()


@pytest.fixture(scope="module")
def tables() -> Any:
    """The hook of MkDocs that puts tables into the reference."""
    spec = importlib.util.spec_from_file_location("mkdocs_tables", ROOT / ".ci" / "mkdocs_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(tables: Any, page: str) -> str:
    """Return a page of the reference as it is built."""
    text = str(tables.on_page_markdown((DOCS / page).read_text(encoding="utf-8")))
    assert "<!-- table:" not in text
    return text


def test_the_reference_lists_the_columns_of_a_library(tables: Any) -> None:
    stated = table(built(tables, "reference/files.md"), "column")
    assert stated == [[column.name, column.kind, column.unit or "-", column.meaning] for column in COLUMNS]


def test_the_reference_lists_what_an_observation_holds(tables: Any) -> None:
    page = built(tables, "reference/environments.md")
    assert table(page, "number") == [[str(number), *entry] for number, entry in enumerate(ENTRIES)]
    assert f"schema {SCHEMA}" in page
    assert table(page, "place") == [[str(number), *entry] for number, entry in enumerate(general.ENTRIES)]
    assert f"schema {general.SCHEMA}" in page


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group of the command line, with its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def test_the_reference_says_what_help_says(tables: Any) -> None:
    page = built(tables, "reference/cli.md")
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


def test_the_reference_lists_the_keys_of_a_summary(tables: Any) -> None:
    page = built(tables, "reference/files.md")
    rows = re.findall(
        r"^\| `(\w+)` \| (.+) \|$", page.partition("### summary.json")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert rows == [(name, field.description) for name, field in Summary.model_fields.items()]


def with_excerpts(page: Path) -> str:
    """Return a page with its excerpts as their files have them: from an excerpt's first line to its last."""

    def renewed(found: re.Match[str]) -> str:
        lines = (ROOT / found[1]).read_text(encoding="utf-8").splitlines()
        bare, shown = [line.strip() for line in lines], found[3].strip().splitlines()
        start, stop = bare.index(shown[0].strip()), len(bare) - bare[::-1].index(shown[-1].strip())
        excerpt = textwrap.dedent("\n".join(lines[start:stop]))
        return f"<!-- {found[1]} -->\n```{found[2]}\n{excerpt}\n```"

    return EXCERPT.sub(renewed, page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_its_excerpts_as_their_files_have_them(page: Path) -> None:
    """``python -m tests.test_docs`` writes the pages anew."""
    text = page.read_text(encoding="utf-8")
    assert text == with_excerpts(page)
    assert "--8<--" not in text


def test_a_page_shows_every_example() -> None:
    shown = {found[1] for page in PAGES for found in EXCERPT.finditer(page.read_text(encoding="utf-8"))}
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} <= shown


def typed(page: Path) -> list[list[str]]:
    """Return the words of every call of the command line that a page's shell blocks show."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").replace("&&", "\n").splitlines()
    calls = [shlex.split(line, comments=True) for line in lines]
    return [call[1:] for call in calls if call and call[0] == "autobatch"]


@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_parse(page: Path) -> None:
    for words in typed(page):
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        assert not command.hidden
        with command.make_context("autobatch", rest):
            pass


@pytest.mark.parametrize("page", sorted((DOCS / "how-to").glob("*.md")), ids=lambda page: page.stem)
def test_the_first_command_of_a_how_to_names_what_a_clone_has(page: Path) -> None:
    described = set(re.findall(r"^name: (\S+)", "".join(blocks(page, "yaml")), flags=re.MULTILINE))
    for words in typed(page)[:1]:
        named = dict(zip(words, [*words[1:], ""], strict=True))
        envs = ",".join(named.get(option, "") for option in ("--env", "--envs"))
        assert {env for env in envs.split(",") if env} <= {*artefact_names("envs"), *described}
        for policy in ",".join(named.get(option, "") for option in ("--policy", "--policies")).split(","):
            assert not policy or load_policy_spec(policy)
        assert not any(
            word.startswith("runs/") for before, word in zip(["", *words], words, strict=False) if before != "--out"
        )


def first_commands() -> dict[str, list[str]]:
    """Return the first command of every page that takes seconds where nothing is trained, by page; each once."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for words in typed(page)[:1]:
            own = f"name: {words[words.index('--env') + 1]}" if "--env" in words else "no name"
            if words[0] == "run" and own not in page.read_text(encoding="utf-8"):  # such a task has its own data
                words = [*words, "--dry-run"]
            elif words not in (["beacons", "list"], ["reproduce"]):
                continue
            if words not in found.values():
                found[str(page.relative_to(ROOT))] = words
    return found


@pytest.mark.parametrize(("page", "words"), first_commands().items())
def test_the_first_command_of_a_page_works_in_a_fresh_folder(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(words) == 0, capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_overview_names_the_folders_that_are_there() -> None:
    rows = table((DOCS / "concepts/overview.md").read_text(encoding="utf-8"), "folder")
    named = {folder.strip("`/"): set(re.findall(r"`(\w+)/", holds)) for folder, holds in rows}
    assert all((ROOT / folder).is_dir() for folder in named)
    for room in (path for path in (ROOT / "autobatch").iterdir() if (path / "__init__.py").exists()):
        folders = {path.parent.name for path in room.glob("*/__init__.py")}
        assert named[f"autobatch/{room.name}"] == (folders if room.name != "cli" else set()), room.name


def test_a_decision_goes_through_the_files_that_the_overview_names() -> None:
    for file, told in table((DOCS / "concepts/overview.md").read_text(encoding="utf-8"), "file"):
        code = (ROOT / "autobatch" / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", told):
            assert re.search(rf"\b{name}\(", code), (file, name)


def test_the_page_of_policies_says_what_the_command_says() -> None:
    rows = {}
    for names, *told in table((DOCS / "policies.md").read_text(encoding="utf-8"), "policy"):
        rows |= dict.fromkeys(re.findall(r"[\w-]+", names), told)
    assert rows.keys() == set(policy_names())
    listed = policy_table()
    columns = {str(column.header): list(column.cells) for column in listed.columns}
    for index, name in enumerate(columns["name"]):
        assert rows[name] == [columns[heading][index] for heading in ("needs", "changes", "when to choose it")]
        assert all(rows[name])


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(with_excerpts(each), encoding="utf-8")
