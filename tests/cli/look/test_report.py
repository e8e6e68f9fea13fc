"""The command that writes runs into a page."""

from shutil import copytree

import pytest
import typer
from typer.testing import CliRunner

from autobatch._errors import AutoBatchError
from autobatch.cli.look._report import report

app = typer.Typer()
app.command()(report)


def written(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_gets_a_page_in_its_directory(home):
    assert written("runs/follow") == "runs/follow/report.html\n"
    page = (home / "runs" / "follow" / "report.html").read_text()
    for phrase in ("tiny, beacon-follow, seed 7", "best fixed beacon", "Weighed"):
        assert phrase in page
    assert written("runs/follow", "runs/follow", "-o", "a/b.html") == "a/b.html\n"
    assert (home / "a" / "b.html").read_text() == page


def test_a_folder_of_runs_is_one_page(home):
    copytree(home / "runs" / "follow", home / "runs" / "more" / "again")
    assert written("runs") == "runs/report.html\n"
    page = (home / "runs" / "report.html").read_text()
    assert "runs/follow" in page
    assert "runs/more/again" in page
    (home / "runs" / "more" / "again" / "summary.json").write_text("{")
    result = CliRunner().invoke(app, ["runs"], catch_exceptions=False)
    assert "left out: " in result.stderr
    assert "again" in result.stderr
    assert "runs/more/again" not in (home / "runs" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["runs/folow"], ["runs/folow", "holds no run", "did you mean 'follow'?"]),
        (["nowhere/at/all"], ["nowhere/at/all", "holds no run"]),
        (["runs/follow", "-o", "page.pdf"], ["page.pdf", "ends in .html"]),
        (["runs/follow", "-o", "envs/tiny/env.yaml/page.html"], ["cannot be written"]),
    ],
)
def test_mistakes_are_named(home, arguments, phrases):
    with pytest.raises(AutoBatchError) as caught:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    for phrase in phrases:
        assert phrase in str(caught.value)


@pytest.mark.parametrize("name", ["config.yaml", "epochs.jsonl", "decisions.jsonl", "summary.json"])
def test_a_damaged_run_is_named_and_an_older_page_stays(home, name):
    written("runs/follow", "-o", "page.html")
    whole = (home / "page.html").read_bytes()
    (home / "runs" / "follow" / name).write_bytes(b"\x00\xff{]\n{}\n")
    with pytest.raises(AutoBatchError, match=name):
        CliRunner().invoke(app, ["runs/follow", "-o", "page.html"], catch_exceptions=False)
    assert (home / "page.html").read_bytes() == whole
