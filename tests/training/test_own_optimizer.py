"""PyTorch's optimizers by name, and a user's own: as in a loop by hand, resumed bit by bit, refused where they fail."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from autobatch._errors import CheckpointError, ConfigError
from autobatch.cli import main
from autobatch.control.rates import OptimizerRates
from autobatch.envs.train import TrainEnv, load_setting
from autobatch.training import EpochRow, RunObserver, load_epochs, load_run_config, load_task, run
from autobatch.training._checkpoint import put_back, snapshot
from autobatch.training._engine import build_optimizer
from autobatch.training._trial import Trial
from autobatch.training.data import load_data
from autobatch.training.running._known import info_of
from autobatch.training.running._rehearsal import rehearse
from autobatch.training.task import OptimizerSpec
from autobatch.training.task._info import run_task_info
from tests.training.kills import assert_same_run
from tests.training.own_optimizers import Lion
from tests.training.tiny import COSTS, fixed, stages, tiny_config, tiny_task

MODULE = "tests.training.own_optimizers"
LION: dict[str, Any] = {
    "name": f"{MODULE}:Lion",
    "lr": 0.003,
    "weight_decay": 0.01,
    "settings": {"betas": [0.8, 0.9]},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "lr": 0.01, "settings": {"amsgrad": True, "eps": 1e-6}},
    "rmsprop": {"name": "rmsprop", "momentum": 0.5, "settings": {"alpha": 0.9, "centered": True}},
    "adagrad": {"name": "adagrad", "lr": 0.3, "settings": {"lr_decay": 0.01, "initial_accumulator_value": 0.1}},
    "lion": LION,
    "factored": {"name": "torch.optim:Adafactor", "lr": 0.01},
    "averaged": {"name": "torch.optim:ASGD", "lr": 0.1},
}


def weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    for step in range(5):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(inputs), torch.arange(8) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("given", "by_hand"),
    [
        ({"name": "adam"}, lambda own: torch.optim.Adam(own, lr=0.02, fused=True)),
        (
            {"name": "adam", "momentum": 0.5, "weight_decay": 0.1, "settings": {"beta2": 0.9, "eps": 1e-3}},
            lambda own: torch.optim.Adam(own, lr=0.02, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, fused=True),
        ),
        (
            {"name": "adamw", "settings": {"amsgrad": True}},
            lambda own: torch.optim.AdamW(own, lr=0.02, weight_decay=1e-4, amsgrad=True, fused=True),
        ),
        ({"name": "rmsprop"}, lambda own: torch.optim.RMSprop(own, lr=0.02)),
        (
            {"name": "rmsprop", "momentum": 0.5, "settings": {"alpha": 0.9}},
            lambda own: torch.optim.RMSprop(own, lr=0.02, momentum=0.5, alpha=0.9),
        ),
        ({"name": "adagrad"}, lambda own: torch.optim.Adagrad(own, lr=0.02)),
        (LION, lambda own: Lion(own, lr=0.02, betas=(0.8, 0.9), weight_decay=0.01)),
        ({**LION, "weight_decay": None}, lambda own: Lion(own, lr=0.02, betas=(0.8, 0.9))),
    ],
)
def test_the_steps_are_those_of_a_loop_by_hand(given: dict[str, Any], by_hand: Any) -> None:
    model, other = net(), net()
    spec = OptimizerSpec.model_validate(given)
    ours = weights(model, build_optimizer(spec, model, 0.02, trust_code=True))
    assert all(map(torch.equal, ours, weights(other, by_hand(other.parameters()))))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_run_goes_on_bit_by_bit(name: str, tmp_path: Path) -> None:
    class Enough(RunObserver):
        def epoch_finished(self, row: EpochRow) -> None:
            if row.epoch == 2:
                raise KeyboardInterrupt

    rate = OptimizerSpec.model_validate(OPTIMIZERS[name]).base_lr
    config = tiny_config(fixed(8, rate), tiny_task(optimizer=OPTIMIZERS[name]), trust_code=True)
    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", Enough())
    stored = load_run_config(tmp_path / "parts").model_copy(update={"trust_code": True})
    run(stored, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    rows = load_epochs(tmp_path / "whole")
    assert rows[-1].train_loss < rows[0].train_loss


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_training_that_is_put_back_goes_on_the_same(name: str) -> None:
    config = tiny_config(stages(8, 32, 16, 8), tiny_task(optimizer=OPTIMIZERS[name]), trust_code=True)
    trial = Trial(config, data=load_data(config.task), device=torch.device("cpu"), costs=COSTS)
    trial.period()
    state = trial.state()
    lost = trial.period()
    trial.restore(state)
    again = trial.period()
    assert (again.train_loss, again.validation_loss) == (lost.train_loss, lost.validation_loss)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_its_policy_knows_what_a_loop_by_hand_says_of_it(name: str) -> None:
    """Whether steps are scaled by the gradients' own size, by which rates go with batches."""
    config = tiny_config(fixed(8), tiny_task(optimizer=OPTIMIZERS[name]), trust_code=True)
    data = load_data(config.task)
    trial = Trial(config, data=data, device=torch.device("cpu"), costs=COSTS)
    info = info_of(config, data, COSTS)
    assert info == trial.controller.task
    assert info.adaptive == OptimizerRates(trial.engine.optimizer).adaptive == (name != "averaged")


def test_one_of_ones_own_counts_as_adams_kin_where_its_code_may_not_run() -> None:
    task = tiny_task(optimizer=OPTIMIZERS["factored"])
    assert run_task_info(task, train_size=84, costs=None, seed=0).adaptive
    assert not run_task_info(task, train_size=84, costs=None, seed=0, adaptive=False).adaptive


@pytest.mark.parametrize(
    ("given", "momentum", "weight_decay", "lr"),
    [
        ({"name": "adam"}, 0.9, 0.0, 0.001),
        ({"name": "rmsprop"}, 0.0, 0.0, 0.001),
        ({"name": "adagrad"}, 0.0, 0.0, 0.01),
        ({"name": "adamw"}, 0.9, 1e-4, 0.001),
        ({"name": "a.b:c", "lr": 0.3}, None, None, 0.3),
    ],
)
def test_what_is_usual(given: dict[str, Any], momentum: float, weight_decay: float, lr: float) -> None:
    spec = OptimizerSpec.model_validate(given)
    assert (spec.momentum, spec.weight_decay, spec.base_lr, spec.nesterov) == (momentum, weight_decay, lr, False)
    assert OptimizerSpec.model_validate_json(spec.model_dump_json()) == spec  # as a run directory keeps it


def test_beacons_are_of_the_factory_and_what_it_is_given() -> None:
    own, other = (
        tiny_task(optimizer={**LION, **changes}).fingerprint_payload("abc", 10)["optimizer"]
        for changes in ({}, {"lr": 0.5})
    )
    assert own == other
    assert own["name"] == LION["name"]
    assert own["settings"] == {"betas": [0.8, 0.9]}


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ({"name": "adem"}, "key 'optimizer.name': expected one of 'sgd', 'adamw', .*; did you mean 'adam'"),
        ({"name": "a.b"}, "key 'optimizer.name': expected one of .*'package.module:factory', got 'a.b'"),
        ({"name": 3}, "key 'optimizer.name': expected one of 'sgd', 'adamw', .* got 3"),
        ({"name": "adam", "momentum": None}, r"key 'optimizer.momentum': expected a number in \[0, 1\), got null"),
        ({"name": "adam", "weight_decay": None}, "key 'optimizer.weight_decay': expected a number of at least 0"),
        ({"name": "adagrad", "momentum": 0.9}, "adagrad has no momentum: expected 0 or nothing, got 0.9"),
        ({"name": "rmsprop", "nesterov": True}, "nesterov needs sgd"),
        (
            {"name": "adam", "settings": {"betas": [0.9, 0.9]}},
            "'settings' of adam has no 'betas'; did you mean 'beta2'",
        ),
        ({"name": "adam", "settings": {"beta2": 1.0}}, r"adam: beta2: expected a number in \[0, 1\), got 1.0"),
        ({"name": "adam", "settings": {"amsgrad": 3}}, "adam: amsgrad: expected bool, got 3"),
        ({"name": "rmsprop", "settings": {"alpha": "x"}}, "rmsprop: alpha: expected a number, got 'x'"),
        ({"name": "adagrad", "settings": {"lr_decay": -1}}, r"adagrad: lr_decay: expected a number in \[0, inf\)"),
        ({"name": "a:b"}, "key 'optimizer': a:b needs 'lr', a usual learning rate of it"),
        ({"name": "a:b", "lr": 0.1, "nesterov": True}, "'nesterov' is for sgd only"),
        ({"name": "a:b", "lr": 0.1, "settings": {"lr": 0.1}}, "'lr' stands beside 'settings', not in it"),
        ({"name": "a:b", "lr": 0.1, "settings": {"weight_decay": 0}}, "'weight_decay' stands beside 'settings'"),
    ],
)
def test_what_a_file_may_not_say(optimizer: dict[str, Any], told: str, tmp_path: Path) -> None:
    given = json.loads(tiny_task().model_dump_json(exclude_unset=True))
    (tmp_path / "env.yaml").write_text(yaml.safe_dump({**given, "optimizer": optimizer}))
    with pytest.raises(ConfigError, match=told):
        load_task(tmp_path / "env.yaml")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("number", "is int, expected a callable"),
        ("missing", "cannot import .*: AttributeError"),
        ("nothing", "returned int, expected a torch.optim.Optimizer"),
        ("broken", "failed: KeyError: 'x'"),
        ("WithoutRate", "cannot be steered: the optimizer's parameter group 0 has no learning rate 'lr'"),
        ("NeedsClosure", r"has a step\(\) that needs a closure"),
        ("FindsNoClosure", r"failed in step\(\): AssertionError: where is the closure\?"),
        ("Unsaved", "has a state_dict that a run cannot go on from: it cannot be saved"),
        ("Foreign", "has a state_dict that a run cannot go on from: .* holds other than tensors, numbers"),
        ("Unloaded", "has a state_dict that a run cannot go on from: .* NotImplementedError: not yet"),
        ("Forgetful", r"goes by something that its state_dict\(\) lacks"),
    ],
)
def test_one_that_a_run_cannot_rest_on_is_refused_before_anything_is_timed(
    name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads(tiny_task().model_dump_json(exclude_unset=True))
    (tmp_path / "env.yaml").write_text(yaml.safe_dump({**given, "optimizer": {"name": f"{MODULE}:{name}", "lr": 0.1}}))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--env", "env.yaml", "--policy", "s8", "--out", "run", "--trust-code"]) == 2
    captured = capsys.readouterr()
    assert "timing" not in captured.out
    [line] = captured.err.splitlines()
    assert re.search(rf"task 'tiny': key 'optimizer.name': (cannot import )?{MODULE}:{name} ?:?.*", line)
    assert re.search(told, line)
    assert not (tmp_path / "run").exists()


def test_it_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    config = tiny_config(fixed(8), tiny_task(optimizer=LION))
    for attempt in (run, rehearse):
        with pytest.raises(ConfigError, match=r"key 'optimizer.name': .* imports and runs code; say --trust-code"):
            attempt(config, tmp_path / "run")
    both = tiny_config(fixed(8), tiny_task(optimizer=LION, model={"name": "tests.training.tiny:dropout_net"}))
    with pytest.raises(ConfigError, match=r"^task 'tiny': key 'model.name'"):
        run(both, tmp_path / "run")
    facts = dict(rehearse(config.model_copy(update={"trust_code": True}), tmp_path / "run").facts)
    assert "mlp" in facts["model"]


def test_an_environment_says_of_it_what_a_run_does(tmp_path: Path) -> None:
    given = json.loads(tiny_task().model_dump_json(exclude_unset=True))
    (tmp_path / "env.yaml").write_text(yaml.safe_dump({**given, "optimizer": OPTIMIZERS["averaged"]}))
    env = TrainEnv(tmp_path, cost="examples", trust_code=True)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    shared: dict[str, Any] = {"epochs": None, "threads": None, "device": "cpu", "data_dir": None, "needs_costs": False}
    assert not load_setting(tmp_path, **shared, trust_code=True).info(measure=True).adaptive
    with pytest.raises(ConfigError, match="say --trust-code"):
        load_setting(tmp_path, **shared, trust_code=False)


def test_bytes_that_are_no_state_are_refused() -> None:
    model = net()
    optimizer = Lion(model.parameters(), lr=0.1)
    kept = snapshot(model, optimizer, whole=True)
    for damaged in (kept["optimizer"][:-40], kept["optimizer"].flip(0)):
        with pytest.raises(CheckpointError, match="here: the optimizer in it is damaged"):
            put_back({**kept, "optimizer": damaged}, model, optimizer, "here")
