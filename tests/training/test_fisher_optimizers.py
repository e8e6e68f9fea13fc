"""The optimizers of ``autobatch.optim`` by their names in a task."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from torch import nn

from autobatch._errors import ConfigError
from autobatch.control import AutoBatchController, MeasureAtInterval, Measuring
from autobatch.control._ranks import Ranks
from autobatch.control.rates import OptimizerRates
from autobatch.control.steps._passage import _check_fisher
from autobatch.optim import KFAC, MiniBlockFisher, NaturalGradient, Padam
from autobatch.training import EpochRow, RunObserver, load_epochs, load_task, run
from autobatch.training.task import OptimizerSpec
from autobatch.training.task._task import OPTIMIZER_SETTINGS
from tests.training.kills import assert_same_run
from tests.training.tiny import fixed, tiny_config, tiny_task

NAMES: dict[str, dict[str, Any]] = {
    "padam": {"partial": 0.125},
    "mini-block-fisher": {"damping": 0.1, "update_every": 2, "invert_every": 6},
    "kfac": {"projection": 8, "update_every": 2, "invert_every": 6},
    "natural-gradient": {"approximation": "layer", "damping": 0.1},
}
RATES = {"padam": 0.5, "mini-block-fisher": 0.003, "kfac": 0.01, "natural-gradient": 0.3}


@pytest.mark.parametrize("name", list(NAMES))
def test_a_run_goes_on_bit_by_bit(name: str, tmp_path: Path) -> None:
    class Enough(RunObserver):
        def epoch_finished(self, row: EpochRow) -> None:
            if row.epoch == 2:
                raise KeyboardInterrupt

    task = tiny_task(optimizer={"name": name, "lr": RATES[name], "settings": NAMES[name]})
    config = tiny_config(fixed(8, RATES[name]), task)
    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", Enough())
    run(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    rows = load_epochs(tmp_path / "whole")
    assert rows[-1].train_loss < rows[0].train_loss


def test_settings_are_those_of_the_classes() -> None:
    """And have defaults that a task can leave out."""
    for kind, name in zip((Padam, MiniBlockFisher, KFAC, NaturalGradient), NAMES, strict=True):
        assert set(OPTIMIZER_SETTINGS[name]) <= inspect.signature(kind).parameters.keys()


def test_names_and_settings_that_are_mistyped(tmp_path: Path) -> None:
    given = json.loads(tiny_task().model_dump_json(exclude_unset=True))
    for optimizer, expected in (
        ({"name": "kfca"}, "key 'optimizer.name': .* did you mean 'kfac'"),
        ({"name": "kfac", "settings": {"dampng": 0.1}}, "'settings' of kfac has no 'dampng'; did you mean 'damping'"),
        ({"name": "sgd", "settings": {"damping": 0.1}}, "'settings' of sgd has no 'damping'; known: none"),
        ({"name": "natural-gradient", "momentum": 0.9}, "natural-gradient has no momentum: expected 0 or nothing"),
    ):
        (tmp_path / "env.yaml").write_text(yaml.safe_dump(given | {"optimizer": optimizer}))
        with pytest.raises(ConfigError, match=expected):
            load_task(tmp_path / "env.yaml")


def test_beacons_of_tasks_without_settings_are_what_they_were() -> None:
    payload = tiny_task(optimizer={"name": "sgd"}).fingerprint_payload("abc", 10)
    assert payload["optimizer"] == {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    damped = tiny_task(optimizer={"name": "kfac", "settings": {"damping": 0.1}}).fingerprint_payload("abc", 10)
    assert damped["optimizer"]["settings"] == {"damping": 0.1}


def test_usual_rates() -> None:
    rates = {name: OptimizerSpec.model_validate({"name": name}).base_lr for name in NAMES}
    assert rates == {"padam": 0.1, "mini-block-fisher": 1e-4, "kfac": 0.1, "natural-gradient": 1.0}


def controller(model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> AutoBatchController:
    return AutoBatchController(
        model,
        optimizer,
        policy="s8",
        dataset_size=32,
        epochs=1,
        batch_sizes=(8,),
        measuring=Measuring(MeasureAtInterval(2), **settings),
    )


def test_a_controllers_steps_are_observed_with_one_set_of_hooks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    optimizer = KFAC(model.parameters(), model, lr=0.1, update_every=1, invert_every=1)
    steering = controller(model, optimizer)
    hooks = []
    for indices in steering.batches():
        inputs = torch.randn(len(indices), 4)
        with steering.step() as step:
            hooks.append(len(model._forward_pre_hooks))
            step.backward(nn.functional.cross_entropy(model(inputs), torch.arange(len(indices)) % 2))
        optimizer.step()
        optimizer.zero_grad()
    assert hooks == [1, 1, 1, 1]
    assert len(optimizer.state[model[0].weight]["input_moment"]) == 5


def test_exact_gradients_under_batch_norm_do_not_go_with_it() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(ConfigError, match=r'bn="exact" does not go with KFAC, .*: use bn="rows" or "eval"'):
        controller(model, KFAC(model.parameters(), model), bn="exact")
    controller(model, NaturalGradient(model.parameters(), model), bn="exact")


def test_what_goes_by_one_processs_samples_takes_one_process() -> None:
    model, two = nn.Linear(4, 2), cast("Ranks", SimpleNamespace(size=2))
    for kind in (KFAC, NaturalGradient):
        with pytest.raises(ConfigError, match=rf"optimizer: {kind.__name__} takes one process, not 2: .* MiniBlock"):
            _check_fisher(kind(model.parameters(), model), two, "rows")
    _check_fisher(MiniBlockFisher(model.parameters()), two, "exact")


@pytest.mark.parametrize("calls", [0, 2])
def test_a_step_that_could_not_be_measured_says_so_where_factors_are_due(calls: int) -> None:
    model = nn.Linear(4, 2)
    optimizer = KFAC(model.parameters(), model)
    steering, inputs = controller(model, optimizer), torch.ones(8, 4)
    outside = model(inputs)
    next(iter(steering.batches()))
    with steering.step() as step:
        step.backward(sum((model(inputs) for _ in range(calls)), outside).square().mean())
    told = {0: "not called inside the body", 2: "called twice in one measured step"}[calls]
    with pytest.raises(ConfigError, match=f"no layers in the measured step, whose factors are due: .*{told}"):
        optimizer.step()


def test_natural_gradients_refuse_batch_norm_before_anything_is_timed(tmp_path: Path) -> None:
    task = tiny_task(optimizer={"name": "natural-gradient"}, model={"name": "tests.training.tiny:dropout_net"})
    with pytest.raises(ConfigError, match="'2', a BatchNorm1d, joins the samples of a batch"):
        run(tiny_config(task=task, trust_code=True), tmp_path / "run")


def test_it_scales_its_steps_by_the_gradients_own_size() -> None:
    """So rates go with the root of the batch size, as Adam's do."""
    model = nn.Linear(4, 2)
    assert OptimizerRates(KFAC(model.parameters(), model)).adaptive
    assert OptimizerRates(MiniBlockFisher(model.parameters())).adaptive
    assert not OptimizerRates(torch.optim.SGD(model.parameters(), lr=0.1)).adaptive


def test_settings_out_of_their_range_are_refused_as_the_task_is_read(tmp_path: Path) -> None:
    given = json.loads(tiny_task().model_dump_json(exclude_unset=True))
    for name, settings, told in (
        ("kfac", {"damping": -1.0}, "damping: expected a number in"),
        ("kfac", {"projection": 0}, "projection: 'none', or the rank"),
        ("kfac", {"update_every": 3, "invert_every": 4}, "invert_every: expected a multiple of update_every=3"),
        ("padam", {"partial": 2.0}, "partial: expected a number in"),
        ("mini-block-fisher", {"largest_block": "many"}, "largest_block"),
        ("kfac", {"strict": "no"}, "strict: expected bool, got 'no'"),
        ("natural-gradient", {"approximation": "layers"}, "approximation: 'layers': did you mean 'layer'"),
    ):
        (tmp_path / "env.yaml").write_text(yaml.safe_dump(given | {"optimizer": {"name": name, "settings": settings}}))
        with pytest.raises(ConfigError, match=rf"env.yaml:\d+: key 'optimizer': 'settings' of {name}: {told}"):
            load_task(tmp_path / "env.yaml")


def test_a_layer_that_a_strict_optimizer_cannot_take_is_told(tmp_path: Path) -> None:
    task = tiny_task(model={"name": "resnet", "depth": 8}, optimizer={"name": "kfac", "settings": {"strict": True}})
    with pytest.raises(ConfigError, match=r"KFAC\(strict=True\): 'bn.weight', 'bn.bias', .*: factors are those of"):
        run(tiny_config(task=task), tmp_path / "run")


def test_a_network_that_natural_gradients_cannot_take_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    notes: list[str] = []

    class Noting(RunObserver):
        def note(self, text: str) -> None:
            notes.append(text)

    coupled = {"name": "natural-gradient", "settings": {"approximation": "tridiagonal"}}
    for model, optimizer, told in (
        ({"name": "resnet", "depth": 8}, {"name": "natural-gradient"}, "a BatchNorm2d, joins the samples of a batch"),
        ({"name": "mlp", "arguments": {"hidden": [8]}}, coupled, "of 2 layers is singular without damping"),
    ):
        task = tiny_task(model=model, optimizer=optimizer)
        with pytest.raises(ConfigError, match=told):
            run(tiny_config(task=task).model_copy(update={"costs": None}), tmp_path / "run", observer=Noting())
    assert not notes
    assert not (tmp_path / "run").exists()
