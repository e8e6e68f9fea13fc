"""``autobatch figures paper`` on planted beacons and a planted comparison."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from autobatch import AutoBatchError, ConfigError
from autobatch.cli.evidence import _figures
from autobatch.evidence.bench._tables import EPOCHS, RUNS
from tests.beacons.synthetic import make_library
from tests.evidence.paper.paper_data import comparison


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a library ``synthetic``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envs" / "synthetic").mkdir(parents=True)
    make_library(batch_sizes=(16, 32, 64), lrs=(0.1,), seeds=(0, 1)).save(tmp_path / "envs" / "synthetic")
    return tmp_path


@pytest.fixture
def figures(capsys):
    """Run the command; returns its lines."""
    command = typer.main.get_command(_figures.app)

    def run(*arguments: str) -> list[str]:
        command.main(["paper", *arguments], standalone_mode=False)
        return capsys.readouterr().out.splitlines()

    return run


def save(folder, **changes):
    """Write a planted comparison as ``autobatch compare`` does."""
    folder.mkdir(parents=True)
    runs, epochs = comparison({"s16-lr0.1": 0.05, "s16-to-64": 0.05})
    facts = {b"autobatch": json.dumps({"format_version": 1, "env": "synthetic"}).encode()}
    names = "batch_sizes test_loss modelled_seconds examples optimizer_steps samples"
    names += " to_target_seconds to_target_modelled_seconds to_target_examples"
    for name in names.split():
        kind = {"batch_sizes": pa.string()}.get(name)
        whole = kind is None and (name in {"examples", "optimizer_steps", "samples"} or name.endswith("_examples"))
        filler = "16" if kind else None if name.startswith("to_target") else 1 if whole else 1.0
        values = pa.array([filler] * runs.num_rows, kind or (pa.int64() if whole else pa.float64()))
        runs = runs.append_column(name, values)
    for name, table in ((RUNS, runs), (EPOCHS, epochs)):
        pq.write_table(table.replace_schema_metadata(facts), folder / name)


@pytest.mark.usefixtures("unpainted")
def test_figures_and_claims_lie_in_a_folder_for_each_task(place, figures):
    save(place / "runs" / "synthetic")
    lines = figures("--compare", "runs", "--out", "out")
    out = place / "out" / "synthetic"
    drawn = {path.name for path in out.iterdir()}
    assert drawn == {*(f"figure-{number}.png" for number in (1, 2, 3, 4, 5, 6)), "claims.md", "claims.json"}
    assert "synthetic: no figure 7: the task's network is no multi-layer perceptron" in lines
    assert "out/synthetic/figure-5.png" in lines
    claims = {claim["name"]: claim["verdict"] for claim in json.loads((out / "claims.json").read_text())}
    assert claims["dynamic sampling travels"] == "seen"
    assert "**dynamic sampling travels**" in (out / "claims.md").read_text()


def test_without_a_comparison_the_figures_that_beacons_allow(place, figures):
    lines = figures("--env", "envs/synthetic", "--out", "out", "--format", "svg")
    assert "synthetic: no figure 5: no run of dynamic sampling with measured positions" in lines
    assert (place / "out" / "synthetic" / "figure-4.svg").read_text().startswith("<?xml")


def test_mistakes_are_refused_in_plain_words(place, figures):
    with pytest.raises(AutoBatchError, match="unknown env or beacon library 'synthetc'"):
        figures("--env", "synthetc", "--out", "out")
    with pytest.raises(AutoBatchError, match="nowhere: there is no such file"):
        figures("--env", "synthetic", "--compare", "nowhere", "--out", "out")
    for name in ("a", "b"):
        save(place / name)
    with pytest.raises(ConfigError, match="another directory holds a comparison on 'synthetic' as well"):
        figures("--compare", "a", "--compare", "b", "--out", "out")
    assert not (place / "out").exists()
