"""Tables, texts, arrays and quantities are trained, measured, resumed and recorded as images are."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from sklearn.metrics import mean_squared_error, r2_score

from autobatch._errors import ConfigError
from autobatch.beacons import QUANTITY, BeaconLibrary
from autobatch.policies import PolicySpec
from autobatch.report._record import read_run
from autobatch.report._summary import end_view
from autobatch.training import TaskSpec, load_data, load_run_config, load_summary, record_task_beacons, run
from autobatch.training._engine import Engine, divergence
from autobatch.training._losses import mean_loss
from tests.training.kills import assert_same_run
from tests.training.test_resume import Bomb
from tests.training.tiny import COSTS, tiny_config, tiny_task

FORMS = ("table", "text", "quantity", "arrays")


def own_task(form: str, folder: Path) -> TaskSpec:
    """Return a task whose file lies in the folder."""
    if form == "table":
        (folder / "own.csv").write_text(
            "size,colour,kind\n" + "".join(f"{row % 17},{'rgb'[row % 3]},{row % 17 // 6}\n" for row in range(150))
        )
        dataset: dict[str, Any] = {"name": "csv:own.csv", "target": "kind", "validation": 0.3}
        return tiny_task(dataset=dataset, optimizer={"name": "adamw"})
    if form == "quantity":
        rows = "".join(f"{row % 17},{'rgb'[row % 3]},{(row % 17) ** 2 + row % 3}\n" for row in range(150))
        (folder / "own.csv").write_text("size,colour,price\n" + rows)
        dataset = {"name": "csv:own.csv", "target": "price", "predict": "quantity", "validation": 0.3}
        return tiny_task(dataset=dataset, optimizer={"name": "adamw"})
    if form == "arrays":
        inputs = np.random.default_rng(0).normal(size=(150, 4, 3))
        np.savez(folder / "own.npz", inputs=inputs, targets=inputs.sum(1)[:, :2])
        dataset = {"name": "npz:own.npz", "predict": "quantity", "validation": 0.3}
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


@pytest.mark.parametrize("form", ["quantity", "arrays"])
def test_figures_of_a_quantity_are_scikit_learns(tmp_path: Path, form: str) -> None:
    task = own_task(form, tmp_path)
    data = load_data(task, tmp_path)
    engine = Engine(task, data, torch.device("cpu"), 0, trust_code=False)
    for _ in range(200):  # the share of what is left is below 1 for what has learnt something
        loss = torch.nn.functional.mse_loss(engine.model(data.train_inputs), data.train_labels)
        engine.optimizer.zero_grad()
        loss.backward()
        engine.optimizer.step()
    loss, error = engine.validate()
    engine.model.eval()
    seen = engine.model(data.validation_inputs).detach().double().numpy()
    wanted = data.validation_labels.double().numpy()
    assert loss == pytest.approx(mean_squared_error(wanted, seen), rel=1e-5)
    average = "variance_weighted" if wanted.shape[1] > 1 else "uniform_average"
    assert error == pytest.approx(1.0 - r2_score(wanted, seen, multioutput=average), rel=1e-5)
    assert error < 0.9
    each = engine.validation_losses()
    assert each.tolist() == pytest.approx(((seen - wanted) ** 2).mean(1).tolist(), rel=1e-4, abs=1e-9)


def test_a_quantity_that_is_worse_than_its_mean_has_an_error_of_one(tmp_path: Path) -> None:
    task = own_task("quantity", tmp_path)
    data = load_data(task, tmp_path)
    engine = Engine(task, data, torch.device("cpu"), 0, trust_code=False)
    with torch.no_grad():
        [*engine.model.parameters()][-1].fill_(5.0)
    loss, error = engine.validate()
    assert loss > 2.0
    assert error == 1.0


def test_the_error_of_a_quantity_is_told_in_its_own_unit(tmp_path: Path) -> None:
    task = own_task("quantity", tmp_path)
    summary = run(tiny_config(task=task, data_dir=tmp_path), tmp_path / "out")
    data = load_data(task, tmp_path)
    assert data.deviations is not None
    assert summary.deviations == data.deviations.tolist()
    assert summary.shares_loss is None
    shown = Console(width=150, record=True, file=io.StringIO())
    shown.print(end_view(read_run(tmp_path / "out")))
    assert summary.test_loss is not None
    told = f"test error in its unit (RMSE) {math.sqrt(summary.test_loss) * float(data.deviations[0]):.5g}"
    shown_text = " ".join(shown.export_text().split())
    assert told in shown_text
    assert "test error (1 - R²)" in shown_text


def test_outputs_of_another_number_are_refused(tmp_path: Path) -> None:
    task = own_task("arrays", tmp_path)
    data = load_data(task, tmp_path)
    with pytest.raises(
        ConfigError, match=r"key 'model': expected outputs of shape \(8, 2\), one a quantity, got \(8, 3\)"
    ):
        mean_loss(torch.zeros(8, 3), data.train_labels[:8])
    one = torch.zeros(8, 1)
    assert mean_loss(torch.ones(8), one) == mean_loss(torch.ones(8, 1), one) == 1.0
    assert mean_loss(torch.ones(8), torch.zeros(8, 1)).shape == ()
    assert mean_loss(torch.tensor(1.0), torch.zeros(1, 1)) == 1.0  # one example of a network that squeezes


def test_a_training_loss_a_hundred_times_that_of_guessing_the_mean_ends_a_run() -> None:
    assert divergence(99.0, 1.0, QUANTITY) is None
    assert "exceeds 100, 100 times that of guessing" in str(divergence(101.0, 1.0, QUANTITY))


class Volumes(torch.nn.Module):
    """A network over examples of four dimensions, and one that takes three of them as they lie in memory."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...], fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        layer = torch.nn.Conv3d if len(input_shape) == 4 else torch.nn.Conv2d
        self.layers = torch.nn.Sequential(layer(input_shape[0], 4, 1), torch.nn.ReLU())
        self.last = torch.nn.LazyLinear(num_classes + (fault == "too many"))
        self.last(self.layers(torch.zeros(1, *input_shape)).flatten(1))

    def forward(self, x: torch.Tensor) -> Any:
        if self.fault == "raises":
            raise ValueError("it cannot be")
        out = self.last(self.layers(x.view(x.shape)).view(len(x), -1))
        return (out, out) if self.fault == "two" else out


def volumes(folder: Path, shape: tuple[int, ...], fault: str = "") -> TaskSpec:
    inputs = np.random.default_rng(0).normal(size=(60, *shape))
    np.savez(folder / "own.npz", inputs=inputs, targets=inputs.reshape(60, -1)[:, :2].sum(1))
    return tiny_task(
        dataset={"name": "npz:own.npz", "predict": "quantity", "validation": 0.3},
        model={"name": "tests.training.test_forms:Volumes", "arguments": {"fault": fault}},
        batch_sizes=[8],
    )


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 4, 3)])
def test_arrays_lie_in_memory_as_their_shape_says(tmp_path: Path, shape: tuple[int, ...]) -> None:
    task = volumes(tmp_path, shape)
    config = tiny_config(PolicySpec.fixed(8, 0.1), task=task, data_dir=tmp_path, trust_code=True)
    assert run(config, tmp_path / "out").validation_loss is not None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "fails on examples of shape .*: ValueError: it cannot be"),
        ("too many", r"gives outputs of shape \(2, 2\) of 2 examples, expected \(N, quantities\) = \(2, 1\)"),
        ("two", "gives a tuple of 2 examples"),
    ],
)
def test_a_network_of_ones_own_that_cannot_take_the_data_is_told_before_anything(
    tmp_path: Path, fault: str, message: str
) -> None:
    config = tiny_config(task=volumes(tmp_path, (2, 4, 3), fault), data_dir=tmp_path, trust_code=True)
    with pytest.raises(ConfigError, match=rf"key 'model.name': tests.training.test_forms:Volumes {message}"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
