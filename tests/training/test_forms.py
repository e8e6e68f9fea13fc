"""Tables and texts are trained, measured, resumed and recorded as images are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from autobatch.beacons import BeaconLibrary
from autobatch.training import TaskSpec, load_data, load_run_config, load_summary, record_task_beacons, run
from autobatch.training._engine import Engine
from tests.training.kills import assert_same_run
from tests.training.test_resume import Bomb
from tests.training.tiny import COSTS, tiny_config, tiny_task

FORMS = ("table", "text")


def own_task(form: str, folder: Path) -> TaskSpec:
    """Return a task whose file lies in the folder."""
    if form == "table":
        (folder / "own.csv").write_text(
            "size,colour,kind\n" + "".join(f"{row % 17},{'rgb'[row % 3]},{row % 17 // 6}\n" for row in range(150))
        )
        dataset: dict[str, Any] = {"name": "csv:own.csv", "target": "kind", "validation": 0.3}
        return tiny_task(dataset=dataset, optimizer={"name": "adamw"})
    (folder / "own.txt").write_text("the quick brown fox jumps over the lazy dog; " * 30)
    return tiny_task(
        dataset={"name": "text:own.txt", "context": 8, "validation": 0.3},
        model={"name": "gpt", "depth": 1, "arguments": {"width": 8, "heads": 2}},
        optimizer={"name": "adamw"},
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_run_learns_measures_and_continues_bit_by_bit(tmp_path: Path, form: str) -> None:
    config = tiny_config(task=own_task(form, tmp_path), data_dir=tmp_path)
    whole = run(config, tmp_path / "whole")
    assert whole.c_bar is not None
    assert whole.samples > 0
    rows = [json.loads(line) for line in (tmp_path / "whole" / "epochs.jsonl").read_text().splitlines()]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(config, out, Bomb(9))
    run(load_run_config(out), out, resume=True)
    assert_same_run(tmp_path / "whole", out)
    assert load_summary(out).test_error is not None


@pytest.mark.parametrize("form", FORMS)
def test_beacons_are_recorded_and_found_to_fit(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.training.recording._beacons.calibrate", lambda *_, **__: COSTS)
    task, env = own_task(form, tmp_path), tmp_path / "env"
    env.mkdir()
    (env / "env.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
    record_task_beacons(task, env, batch_sizes=(16, 32), learning_rates=(0.1,), seeds=(0,), data_dir=tmp_path)
    assert len(BeaconLibrary.load(env).beacons) == 2
    summary = run(tiny_config(task=task, task_path=env, data_dir=tmp_path), tmp_path / "out")
    assert summary.best_beacon is not None


def test_figures_of_a_text_are_means_over_its_characters(tmp_path: Path) -> None:
    task = own_task("text", tmp_path)
    data = load_data(task, tmp_path)
    engine = Engine(task, data, torch.device("cpu"), 0, trust_code=False)
    loss, error = engine.validate()
    with torch.no_grad():
        chances = engine.model(data.validation_inputs).log_softmax(1)
    seen = chances.gather(1, data.validation_labels[:, None])[:, 0]
    assert loss == pytest.approx(-float(seen.mean()), rel=1e-5)
    assert engine.validation_losses().tolist() == pytest.approx((-seen.mean(1)).tolist(), rel=1e-5)
    assert error == pytest.approx(float((chances.argmax(1) != data.validation_labels).double().mean()))
