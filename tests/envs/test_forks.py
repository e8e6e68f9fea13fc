"""Forks as an action: what is tried on the training itself, and which of the two epochs goes on."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gymnasium.error import ResetNeeded

from autobatch import ConfigError
from autobatch.beacons import CostTable
from autobatch.envs import SteeredSurrogateEnv, SteeredSurrogateVectorEnv, SteeredTrainEnv
from autobatch.envs.steered import _runs as _steered_runs
from autobatch.envs.steered._forks import measured
from autobatch.learn._rollouts import Population
from autobatch.policies import (
    PolicyCard,
    PolicySpec,
    PolicyTraining,
    SteerParameters,
    SteerPolicy,
    load_policy_spec,
    save_learned,
)
from autobatch.policies.general import FALL, FORK_ENTRIES, RATE, SIZE, CourseView
from autobatch.policies.learned._network import HEADS, Network, parameter_count
from autobatch.policies.steer import ForkOutcome, _forks
from autobatch.training import TaskSpec, load_data, load_epochs, run
from autobatch.training._trial import Trial
from autobatch.training.running import load_forks
from tests.beacons.synthetic import Law, make_library
from tests.envs.steered_dynamics import STEERED_FAKES
from tests.training.tiny import tiny_config, tiny_task

STEPS = CostTable(
    device="steps",
    step_seconds={8: 1.0, 16: 1.0, 32: 1.0},
    measuring_seconds={8: 0.1, 16: 0.1, 32: 0.1},
    epoch_seconds=0.0,
)
"""A step takes as long at every size, so that larger batches are worth a try."""

RATES = [0.03125, 0.0625, 0.125]
"""Powers of 2: environments move by doublings, and from these exactly."""

STEER = {"scouts": 0, "fork_share": 0.2}
TRIED = (3, 2, 0, 0, 1)
STAYS = (2, 1, 0, 0, 0)


@pytest.fixture(scope="module")
def task() -> TaskSpec:
    return tiny_task(epochs=24, learning_rates=RATES, batch_sizes=[8, 16], threads=1)


@pytest.fixture(scope="module")
def folder(task: TaskSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task with a cost table."""
    folder = tmp_path_factory.mktemp("forked")
    (folder / "env.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True)))
    data = load_data(task)
    make_library(
        task.batch_sizes,
        task.learning_rates,
        seeds=(0,),
        law=Law(train_size=len(data.train_labels), epochs=task.epochs),
        task=task.fingerprint_payload(data.fingerprint, data.num_classes),
        task_name=task.name,
        costs=STEPS,
    ).save(folder)
    return folder


@pytest.fixture(autouse=True)
def starting_at_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.policies.steer._search.SIZE", 8)
    monkeypatch.setattr(_forks, "LONG_ODDS", 1.0)


def take(monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    monkeypatch.setattr(_forks, "TOLERANCE", 1e9 if taken else -1e9)


def steered(env: SteeredTrainEnv, seed: int) -> list[dict[str, Any]]:
    """Have the rule of ``steer`` drive an environment, forks and all; return the infos of its steps."""
    policy = SteerPolicy(SteerParameters(**STEER))
    _, info = env.reset(options={"run_seed": seed})
    episode = env.unwrapped._episode
    policy.reset(episode.rules.info, None)
    ladder, infos, over = episode.rules.info.batch_sizes, [], False
    while not over:
        observation = episode._trial.controller.observation
        fork, decision = policy.fork(observation), policy.decide(observation)
        size, lr = (decision.batch_size, decision.lr) if fork is None else (fork.batch_size, fork.lr)
        action = np.array((*STAYS[:4], fork is not None))
        action[SIZE] += ladder.index(size) - ladder.index(info["batch_size"])
        action[RATE] += round(math.log2(lr / info["lr"]))
        action[FALL] = decision.factor < 1.0 and info.get("factor", 1.0) == 1.0
        _, _, over, _, info = env.step(action)
        if fork is not None:
            said = (info[f"fork_{name}"] for name in ("loss", "difference", "standard_error"))
            assert policy.judge(fork, ForkOutcome(*said), observation).taken == info["fork_taken"]
        infos.append(info)
    return infos


@pytest.mark.parametrize("taken", [True, False])
def test_the_rule_of_steer_in_the_environment_trains_what_a_run_trains(
    task: TaskSpec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    take(monkeypatch, taken)
    policy = PolicySpec(name="steer", kind="steer", parameters=STEER)
    run(tiny_config(policy, task, costs=STEPS, measure=False), tmp_path)
    rows, forks = load_epochs(tmp_path), load_forks(tmp_path)
    infos = steered(SteeredTrainEnv(folder, forks=True), seed=1)
    figures = ("batch_size", "lr", "train_loss", "validation_loss", "validation_error")
    assert [[info[name] for name in figures] for info in infos] == [
        [getattr(r, name) for name in figures] for r in rows
    ]
    assert [info["factor"] for info in infos] == [row.lr_effective / row.lr for row in rows]
    made = [info for info in infos if info["forked"]]
    said = [
        (info["epoch"] - 1, info["fork_taken"], info["fork_loss"], info["fork_difference"], info["fork_steps"])
        for info in made
    ]
    assert said == [(fork.epoch, fork.taken, fork.loss, fork.difference, fork.optimizer_steps) for fork in forks]
    assert [info["fork_standard_error"] for info in made] == [fork.standard_error for fork in forks]
    assert len(forks) == (1 if taken else 2)


def erratic(seed: int) -> Network:
    """A network that departs and tries now and then, and hardly ever stops."""
    sizes = (CourseView.size + len(FORK_ENTRIES), sum(HEADS["forked"]))
    vector = 2.0 * np.random.default_rng(seed).normal(size=parameter_count(sizes))
    vector[-3] -= 12.0  # stop
    vector[-1] += 3.0  # try
    return Network.of_flat(vector, sizes, activation="tanh", actions="forked")


@pytest.mark.parametrize(("seed", "taken"), [(8, 2), (18, 3), (38, 3)])
def test_a_run_by_a_learned_policy_is_what_its_network_does_here(
    task: TaskSpec, folder: Path, tmp_path: Path, seed: int, taken: int
) -> None:
    network, rule = erratic(seed), {"scouts": 0, "forks": 0, "patience": 0.0}
    training = PolicyTraining(algorithm="cem", tasks=("one",), steps=1, seeds=(0,), seconds=1.0)
    path = save_learned(tmp_path / "any.yaml", network, PolicyCard.of(network, training, margin=1.0), rule=rule)
    run(tiny_config(load_policy_spec(path), task, costs=STEPS, measure=False), tmp_path / "run")
    rows, forks = load_epochs(tmp_path / "run"), load_forks(tmp_path / "run")

    env, asked = SteeredTrainEnv(folder, forks=True), Population(network.flat()[None], network.sizes, "forked")
    view, _ = env.reset(options={"run_seed": 1})
    infos, over = [], False
    while not over:
        view, _, over, _, info = env.step(asked(view[None], np.array([0]))[0])
        infos.append(info)
    trained = [info for info in infos if not info["stopped"]]
    figures = ("batch_size", "lr", "train_loss", "validation_loss")
    assert [[info[name] for name in figures] for info in trained] == [
        [getattr(row, name) for name in figures] for row in rows
    ]
    assert [info["factor"] for info in trained] == [row.lr_effective / row.lr for row in rows]
    made = [(info["epoch"] - 1, info["fork_taken"], info["fork_loss"]) for info in infos if info["forked"]]
    assert made == [(fork.epoch, fork.taken, fork.loss) for fork in forks]
    assert sum(fork.taken for fork in forks) == taken < len(forks)
    if seed == 38:
        assert any(fork.reason.startswith("with the rate falling, ") for fork in forks)


def begun(folder: Path, **arguments: Any) -> SteeredTrainEnv:
    """Return the environment after an epoch."""
    env = SteeredTrainEnv(folder, **{"forks": True, "cost": "examples", "cost_weight": 0.3} | arguments)
    env.reset(options={"run_seed": 1})
    env.step(np.array(STAYS))
    return env


def seen(observation: np.ndarray) -> list[float]:
    """Return what an observation says of forks: difference, error, how long ago, whether there was one, and taken."""
    return observation[-5:].tolist()


@pytest.mark.parametrize("taken", [True, False])
def test_what_is_tried_goes_on_or_leaves_no_trace_but_its_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    take(monkeypatch, taken)
    env = begun(folder)
    other = copy.deepcopy(env)
    observation, reward, _, _, info = env.step(np.array(TRIED))
    alike, plain, _, _, without = other.step(np.array((*TRIED[:4], 0) if taken else STAYS))
    figures = ("batch_size", "lr", "train_loss", "validation_loss", "epoch")
    assert [info[name] for name in figures] == [without[name] for name in figures]
    assert (info["forked"], info["fork_taken"], without["forked"]) == (True, taken, False)
    assert (info["fork_cost"], info["cost"], without["cost"]) == (84.0, 168.0, 84.0)
    assert info["cost_total"] == without["cost_total"] + 84.0
    assert info["fork_steps"] == (11 if taken else 5)
    assert plain - reward == pytest.approx(0.3 / 24)
    assert [own[-2:] for own in (seen(observation), seen(alike))] == [[1.0, float(taken)], [0.0, 0.0]]
    assert seen(observation)[0] == pytest.approx(np.clip(2.0 * info["fork_difference"] / info["fork_loss"], -1.0, 1.0))
    following, _, _, _, info = env.step(np.array(STAYS))
    assert (info["forked"], info["cost"]) == (False, 84.0)
    assert seen(following)[2:] == pytest.approx([2.0 / 24, 1.0, float(taken)])


def test_by_the_clock_both_epochs_count(folder: Path) -> None:
    _, _, _, _, info = begun(folder, cost="measured").step(np.array(TRIED))
    assert 0.0 < info["fork_cost"] < info["cost"]


def diverges(self: Trial, after_step: Any) -> None:
    with torch.no_grad():
        for parameter in self.engine.model.parameters():
            parameter.fill_(math.nan)


def is_short_of_memory(self: Trial, after_step: Any) -> None:
    raise torch.OutOfMemoryError("none left")


@pytest.mark.parametrize("fails", [diverges, is_short_of_memory])
def test_a_fork_that_fails_costs_no_more_than_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Trial, Any], None]
) -> None:
    env = begun(folder)
    other = copy.deepcopy(env)
    train = Trial.period

    def failing(self: Trial, after_step: Any) -> Any:
        if self.controller.batch_size == 16:
            fails(self, after_step)
        return train(self, after_step)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "period", failing)
        observation, _, over, _, info = env.step(np.array(TRIED))
    _, _, _, _, without = other.step(np.array(STAYS))
    assert (over, info["forked"], info["fork_taken"], info["diverged"]) == (False, True, False, False)
    assert "fork_difference" not in info
    assert seen(observation)[0] == 1.0
    assert info["cost"] == without["cost"] + 84.0
    assert info["validation_loss"] == without["validation_loss"]
    assert env.step(np.array(STAYS))[4]["validation_loss"] == other.step(np.array(STAYS))[4]["validation_loss"]


def test_a_training_that_diverges_as_it_was_has_tried_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, train = begun(folder), Trial.period

    def failing(self: Trial, after_step: Any) -> Any:
        diverges(self, after_step)
        return train(self, after_step)

    monkeypatch.setattr(Trial, "period", failing)
    _, _, over, _, info = env.step(np.array(TRIED))
    assert (over, info["diverged"], info["forked"], info["cost"]) == (True, True, False, 84.0)


def test_a_rollout_interrupted_amid_a_fork_goes_on_from_a_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, train = begun(folder), Trial.period
    midway = pickle.dumps(env)

    def interrupted(self: Trial, after_step: Any) -> Any:
        if self.controller.batch_size == 16:
            raise KeyboardInterrupt
        return train(self, after_step)

    actions = (TRIED, STAYS, TRIED)
    whole = [env.step(np.array(action)) for action in actions]
    again = pickle.loads(midway)
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "period", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again.step(np.array(TRIED))
    with pytest.raises(ResetNeeded, match="interrupted amid its epoch"):
        again.step(np.array(STAYS))
    again = pickle.loads(midway)
    steps = []
    for action in actions:
        steps.append(again.step(np.array(action)))
        again = pickle.loads(pickle.dumps(again))
    assert [(step[0].tolist(), *step[1:]) for step in steps] == [(step[0].tolist(), *step[1:]) for step in whole]


def test_nothing_is_tried_where_there_is_nothing_to_try(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, taken=True)
    env = begun(folder, epochs=3)
    assert not env.step(np.array((2, 1, 0, 0, 1)))[4]["forked"]
    _, _, over, _, info = copy.deepcopy(env).step(np.array((3, 1, 0, 1, 1)))
    assert (over, info["stopped"], info["forked"], info["batch_size"]) == (True, True, False, 8)
    _, _, over, _, info = env.step(np.array((2, 1, 1, 0, 1)))
    assert (over, info["forked"]) == (True, True), "a fall in the last epoch"
    assert info["factor"] < 1.0


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_steered_runs, "load_steered", lambda env, without: STEERED_FAKES[env])


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.usefixtures("fakes")
def test_the_surrogate_tries_what_real_training_tries(monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    take(monkeypatch, taken)
    env = SteeredSurrogateEnv("long", cost="examples", cost_weight=0.3, forks=True)
    env.reset(seed=1)
    env.step(np.array(STAYS))
    other = copy.deepcopy(env)
    observation, reward, _, _, info = env.step(np.array((3, 1, 0, 0, 1)))
    _, plain, _, _, without = other.step(np.array((3, 1, 0, 0, 0) if taken else STAYS))
    figures = ("batch_size", "lr", "score", "quality", "epoch", "c_bar", "l_cum", "factor", "spread")
    assert [info[name] for name in figures] == [without[name] for name in figures]
    assert (info["forked"], info["fork_taken"], without["forked"]) == (True, taken, False)
    assert info["cost"] == without["cost"] + info["fork_cost"] == 2.0
    assert plain - reward == pytest.approx(0.3 / 9)
    assert seen(observation)[-2:] == [1.0, float(taken)]
    assert env.step(np.array(STAYS))[4]["score"] == other.step(np.array(STAYS))[4]["score"]


@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
@pytest.mark.usefixtures("fakes")
def test_many_surrogates_fork_as_one_does(actions: str) -> None:
    given = {"env": ["short", "long"], "vary": True, "start": "scouts", "actions": actions, "forks": True}
    envs = SteeredSurrogateVectorEnv(8, **given, autoreset_mode="Disabled")
    singles = [SteeredSurrogateEnv(**given) for _ in range(8)]
    observations, _ = envs.reset(seed=3)
    assert observations == pytest.approx(np.stack([env.reset(seed=3 + row)[0] for row, env in enumerate(singles)]))
    envs.action_space.seed(0)
    made = 0
    for _ in range(3):
        chosen = envs.action_space.sample()
        if actions == "discrete":
            chosen = np.where(chosen < 11, chosen % 9, chosen)
        else:
            chosen[:, 3] = 0
        observations, rewards, over, _, infos = envs.step(chosen)
        steps = [env.step(action) for env, action in zip(singles, chosen, strict=True)]
        assert observations == pytest.approx(np.stack([step[0] for step in steps]), abs=1e-6)
        assert rewards == pytest.approx([step[1] for step in steps])
        for name in ("forked", "fork_taken", "fork_difference", "fork_standard_error", "fork_cost", "fork_steps"):
            assert infos[name] == pytest.approx([step[4][name] for step in steps]), name
        assert envs.action_masks() == pytest.approx(np.stack([env.action_masks() for env in singles]))
        made += infos["forked"].sum()
        if over.any():
            break
    assert made > 3


@pytest.mark.usefixtures("fakes")
def test_without_forks_an_episode_is_what_it_was() -> None:
    plain, forks = SteeredSurrogateEnv("short"), SteeredSurrogateEnv("short", forks=True)
    (before, _), (after, _) = plain.reset(seed=4), forks.reset(seed=4)
    assert before.tolist() == after[:-5].tolist()
    one, other = plain.step(np.array(STAYS[:4])), forks.step(np.array(STAYS))
    assert one[0].tolist() == other[0][:-5].tolist()
    assert one[1] == other[1]
    assert {**other[4], **one[4]} == other[4]


@pytest.mark.usefixtures("fakes")
def test_one_number_says_what_is_tried() -> None:
    env = SteeredSurrogateEnv("long", actions="discrete", forks=True)
    assert env.action_space.n == 20
    env.reset(seed=0)
    masks = env.action_masks()
    assert masks[11:].tolist() == [*masks[:4].tolist(), False, *masks[5:9].tolist()]
    same = copy.deepcopy(env)
    assert env.step(11 + 7)[4]["forked"]
    assert not same.step(11 + 4)[4]["forked"]


def test_what_a_fork_measures_scatters_about_what_is_predicted() -> None:
    noise = np.random.default_rng(0).standard_normal((20_000, 2))
    ratio, scatter = np.full(20_000, 1.1), np.full(20_000, 0.2)
    change, error = measured(ratio, scatter, noise)
    assert change.mean() == pytest.approx(math.log(1.1), abs=0.002)
    assert change.std() > 2.0 * error.mean()
    expected, width = measured(ratio[:1], scatter[:1], np.zeros((1, 2)))
    assert expected == pytest.approx(math.log(1.1))
    assert np.median(error) == pytest.approx(width[0], rel=0.02)
    _, told = measured(ratio[:1], np.full(1, 0.16), np.zeros((1, 2)))
    assert told[0] == pytest.approx(0.023, abs=0.005), "as forks of digits-mlp told"


@pytest.mark.usefixtures("fakes")
def test_what_cannot_be_tried_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^forks: "):
        SteeredTrainEnv(folder, forks=1)
    with pytest.raises(ConfigError, match=r"^forks: "):
        SteeredSurrogateEnv("short", forks="yes")
    env = SteeredSurrogateEnv("short", forks=True)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="5 whole numbers"):
        env.step(np.array(STAYS[:4]))
