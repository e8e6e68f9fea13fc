"""Real training as an environment: equal to a training by hand, and what it refuses."""

import copy
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

from autobatch import AutoBatchError, ConfigError, UnknownNameError
from autobatch.beacons import BeaconLibrary
from autobatch.control import steps_per_epoch
from autobatch.envs import BoxActions, TrainEnv
from autobatch.envs.train import _setting
from autobatch.envs.train._workshop import carry_out
from autobatch.policies import Moves, ObservationView, PolicySpec, Quality
from autobatch.training import RunConfig, load_data, load_task
from autobatch.training._engine import reproducible
from autobatch.training._trial import Trial
from tests.training.tiny import COSTS

CPU = torch.device("cpu")
COURSE = [(4, 2), (0, 1), (2, 0), (3, 1)]


def steps(env: gymnasium.Env, course: list[tuple[int, int]] = COURSE, **reset: Any) -> list[tuple]:
    first = env.reset(**({"seed": 1} | reset))
    return [first, *(env.step(np.array(action)) for action in course)]


def test_an_episode_is_a_training_by_hand(tiny_env: Path) -> None:
    seen = steps(TrainEnv(str(tiny_env), cost_weight=0.5), options={"run_seed": 7})
    task, data, library = load_task(tiny_env), load_data(load_task(tiny_env)), BeaconLibrary.load(tiny_env)
    moves, quality = Moves(task.batch_sizes, task.learning_rates), Quality.of(library)
    config = RunConfig(task=task, policy=PolicySpec(name="hand", kind="fixed"), seed=7, device="cpu")
    with reproducible(CPU, task.threads):
        trial = Trial(config, data=data, device=CPU, library=library, costs=COSTS)
        view = ObservationView(trial.controller.task, library)
        trail = view.follow(None, trial.controller.observation)
        np.testing.assert_array_equal(seen[0][0], view.array(trial.controller.observation, trail))
        rungs, potential = moves.start, 0.0
        best = library.best_fixed().batch_size
        reference = 4 * COSTS.training_seconds(best, steps_per_epoch(84, best), 1.0)
        for (batch, rate), (observation, reward, over, _, info) in zip(COURSE, seen[1:], strict=True):
            rungs = tuple(int(rung) for rung in moves.apply(*rungs, batch - 2, rate - 1))
            trial.decide(*moves.at(*rungs))
            row = trial.period()
            trail = view.follow(trail, trial.controller.observation)
            np.testing.assert_array_equal(observation, view.array(trial.controller.observation, trail))
            cost = COSTS.training_seconds(row.batch_size, steps_per_epoch(84, row.batch_size), 1.0)
            assert reward == pytest.approx(quality(row.validation_loss) - potential - 0.5 * cost / reference)
            potential = quality(row.validation_loss)
            assert info["batch_size"] == row.batch_size == moves.batch_sizes[rungs[0]]
            assert info["lr"] == row.lr
            assert info["score"] == info["validation_loss"] == row.validation_loss
            assert (info["c_bar"], info["l_cum"], info["cost"]) == (row.c_bar, row.l_cum, cost)
            assert over == trial.finished


def test_a_decision_that_stops_terminates_the_episode(tiny_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = TrainEnv(str(tiny_env))
    env.reset(seed=1)
    hand = env._episode._trial._hand
    said = type(hand).decide
    monkeypatch.setattr(hand, "decide", lambda seen: replace(said(hand, seen), stop=seen.epoch >= 2))
    first, second = (env.step(np.array(action)) for action in COURSE[:2])
    assert (first[2], second[2]) == (False, True)
    assert second[-1]["epoch"] == 2
    assert not second[-1]["diverged"]
    with pytest.raises(ResetNeeded):
        env.step(np.array(COURSE[2]))
    assert not env.reset(seed=1)[1]["diverged"]
    assert not env.step(np.array(COURSE[0]))[2]


@pytest.mark.parametrize("cost", ["modelled", "examples", "flops", "measured"])
def test_rewards_telescope(tiny_env: Path, cost: str) -> None:
    env = TrainEnv(str(tiny_env), cost=cost, cost_weight=0.3)
    seen = steps(env)
    info = seen[-1][-1]
    share = info["cost_total"] / env._rules.reward.reference
    assert sum(step[1] for step in seen[1:]) == pytest.approx(info["quality"] - 0.3 * share)
    if cost in {"examples", "flops"}:
        assert share == pytest.approx(1.0), "every epoch sees every example once"


def test_operations_are_counted_forward_and_backward(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env), cost="flops")
    # 64 -> 16 -> 10: two operations a weight forward, as many for its gradient; no gradient of the images is needed.
    expected = 84 * (2 * (64 * 16 + 16 * 10) * 2 + 2 * 16 * 10)
    assert steps(env)[1][-1]["cost"] == expected


def test_a_training_that_diverges_ends_with_a_bounded_loss(bare_env: Path) -> None:
    env = TrainEnv(str(bare_env), measure=False, cost="examples", cost_weight=0.0, render_mode="ansi")
    _, first, last = steps(env, [(2, 1), (2, 2)])
    assert not first[2]
    _, reward, terminated, truncated, info = last
    assert (terminated, truncated, info["diverged"], info["quality"]) == (True, False, True, -1.0)
    assert reward == pytest.approx(-1.0 - first[-1]["quality"])
    assert "diverged" in env.render()
    env.render_mode = "rgb_array"
    assert env.render().shape[2] == 3
    assert all(np.isfinite(value) for value in info.values())
    assert last[0] in env.observation_space
    assert "no beacon" in env.library_missing


def test_another_length_goes_without_beacons_but_keeps_their_costs(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env), epochs=2)
    assert "4 epochs" in env.library_missing
    seen = steps(env, COURSE[:2])
    assert seen[-1][2]
    view = env._rules.view
    masks = dict(zip(view.names, seen[-1][0], strict=True))
    assert (masks["has beacons"], masks["has costs"]) == (0.0, 1.0)
    assert TrainEnv(str(tiny_env)).library_missing is None


def test_beacons_of_another_task_are_left_out(tiny_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []
    monkeypatch.setattr(_setting, "cached_calibration", lambda *_, **__: (timed.append(1) or COSTS, True))
    shutil.copytree(tiny_env, tmp_path / "other")
    text = (tmp_path / "other/env.yaml").read_text()
    (tmp_path / "other/env.yaml").write_text(text.replace("split_seed: 0", "split_seed: 3"))
    envs = [TrainEnv(tmp_path / "other") for _ in range(2)]
    assert "'dataset" in envs[0].library_missing
    assert timed == [1], "a process times a task once"
    assert "c_bar" in steps(envs[1], [(2, 1)])[-1][-1]


def test_a_discrete_action_is_a_pair_of_single_moves(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env), actions="discrete", epochs=9, measure=False)
    _, info = env.reset(seed=0)
    seen = [(info["batch_size"], info["lr"])]
    for action in (8, 4, 0, 5, 3):
        info = env.step(action)[-1]
        seen.append((info["batch_size"], info["lr"]))
    assert seen == [(16, 0.05), (32, 0.1), (32, 0.1), (16, 0.05), (16, 0.1), (16, 0.05)]


def test_measuring_off_leaves_the_training_as_it_is(tiny_env: Path) -> None:
    # To round-off: the tiny task takes gradients out of what measuring computes, which differ in round-off.
    on, off = (steps(TrainEnv(str(tiny_env), measure=measure)) for measure in (True, False))
    assert "c_bar" in on[-1][-1]
    assert "c_bar" not in off[-1][-1]
    assert on[-1][-1]["validation_loss"] == pytest.approx(off[-1][-1]["validation_loss"], rel=1e-3)


def test_a_seed_decides_which_training(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env))
    one, other = (env.reset(seed=seed)[1]["run_seed"] for seed in (1, 2))
    assert one != other
    assert env.reset()[1]["run_seed"] != env.reset()[1]["run_seed"]
    assert env.reset(seed=1, options={"run_seed": 100})[1]["run_seed"] == 100
    assert env.reset(seed=1, options={})[1]["run_seed"] == one


def test_a_pickle_is_small(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env))
    assert len(pickle.dumps(env)) < 5_000
    env.reset(seed=0)
    parameters = 64 * 16 + 16 + 16 * 10 + 10
    assert len(pickle.dumps(env)) < 30_000 + 3 * 4 * parameters


def test_processes_train_side_by_side(tiny_env: Path) -> None:
    arguments = {"env": str(tiny_env), "threads": 2}
    carry_out(CPU, 2, lambda: torch.ones(512, 512) @ torch.ones(512, 512))  # threads that a fork leaves behind
    single = TrainEnv(**arguments)
    expected = [steps(single, COURSE[:2], seed=seed) for seed in (5, 6)]
    envs = gymnasium.make_vec("AutoBatch/Train-v0", num_envs=2, vectorization_mode="async", **arguments)
    try:
        envs.reset_async(seed=5)
        seen = [envs.reset_wait(timeout=60)]
        for action in COURSE[:2]:
            envs.step_async(np.array([action] * 2))
            seen.append(envs.step_wait(timeout=60))
    finally:
        envs.close(terminate=True)
    for index in range(2):
        for ours, theirs in zip(expected[index], seen, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0][index])
            assert len(ours) == 2 or ours[1] == theirs[1][index]


def test_a_fork_cannot_go_on_with_its_parents_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    with pytest.raises(ConfigError, match="'context': 'spawn'"):
        carry_out(torch.device("cuda", 0), 1, lambda: None)


def test_order_is_enforced(tiny_env: Path) -> None:
    env = TrainEnv(str(tiny_env), epochs=1, render_mode="ansi")
    with pytest.raises(ResetNeeded, match="before reset"):
        env.step(np.array([2, 1]))
    with pytest.raises(ResetNeeded, match="before reset"):
        env.render()
    steps(env, [(2, 1)])
    for over in (env, copy.deepcopy(env)):
        assert "epoch 1 of 1" in over.render()
        with pytest.raises(ResetNeeded, match="after the training's end"):
            over.step(np.array([2, 1]))
    env.close()
    with pytest.raises(ResetNeeded):
        env.step(np.array([2, 1]))
    steps(env, [(2, 1)])


@pytest.mark.parametrize(
    "action",
    [[5, 1], [0, -1], [0, 1, 2], 3, [0.0, 1.0], [True, False], "up", None, [[0], [1, 2]], [np.nan, 1], [10**30, 0]],
    ids=str,
)
def test_an_action_that_is_none(tiny_env: Path, action: Any) -> None:
    env = TrainEnv(str(tiny_env))
    before = env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action: expected two whole numbers, from 0 to 4 and from 0 to 2, got"):
        env.step(action)
    assert data_equivalence(before[1], env._episode.figures(), exact=True), "nothing is trained"


@pytest.mark.parametrize("action", [9, -1, [1], 1.0, True, "1"], ids=str)
def test_a_discrete_action_that_is_none(tiny_env: Path, action: Any) -> None:
    env = TrainEnv(str(tiny_env), actions="discrete")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="action: expected a whole number from 0 to 8"):
        env.step(action)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"env": "digits-resnet9"}, UnknownNameError, "did you mean 'digits-resnet8'"),
        ({"env": 3}, ConfigError, "env: expected the name or path"),
        ({"actions": "multidiskrete"}, ConfigError, "actions: .* did you mean 'multidiscrete'"),
        ({"actions": "box"}, ConfigError, "BoxActions"),
        ({"cost": "seconds"}, ConfigError, "cost: .*known: examples, flops, measured, modelled"),
        ({"cost_weight": -1.0}, ConfigError, "cost_weight: expected a finite number"),
        ({"cost_weight": "much"}, ConfigError, "cost_weight: expected a finite number"),
        ({"epochs": 0}, ConfigError, "epochs: expected a whole number of at least 1"),
        ({"epochs": 2.5}, ConfigError, "epochs: expected a whole number"),
        ({"threads": 0}, ConfigError, "threads: expected a whole number"),
        ({"device": "tpu"}, ConfigError, "device: expected"),
        ({"measure": "no"}, ConfigError, "measure: expected True or False"),
        ({"render_mode": "human"}, ConfigError, "render_mode: .*ansi"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_arguments_that_cannot_be_used(
    tiny_env: Path, arguments: dict[str, Any], error: type[AutoBatchError], words: str
) -> None:
    with pytest.raises(error, match=words):
        TrainEnv(**({"env": str(tiny_env)} | arguments))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"run_sed": 1}, "did you mean 'run_seed'"), ({"run_seed": -1}, "at least 0"), ({"run_seed": "1"}, "at least 0")],
)
def test_options_that_cannot_be_used(tiny_env: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainEnv(str(tiny_env)).reset(options=options)


def test_a_box_is_mapped_to_the_nearest_move(tiny_env: Path) -> None:
    env = BoxActions(TrainEnv(str(tiny_env)))
    cases = {
        (-1, -1): (0, 0),
        (0, 0): (2, 1),
        (1, 1): (4, 2),
        (0.2, -0.4): (2, 1),
        (0.3, -0.6): (3, 0),
        (9, -9): (4, 0),
    }
    assert {box: tuple(env.action(np.array(box, dtype=np.float32)).tolist()) for box in cases} == cases
    for wrong in ([0.0], [np.nan, 0.0], "up", [[0.0, 0.0]]):
        with pytest.raises(ConfigError, match="expected 2 numbers from -1 to 1"):
            env.action(wrong)
    with pytest.raises(ConfigError, match="actions='multidiscrete'"):
        BoxActions(TrainEnv(str(tiny_env), actions="discrete"))


def test_masks_and_the_tasks_other_name(tiny_env: Path) -> None:
    env = TrainEnv(task=str(tiny_env), actions="discrete")
    with pytest.raises(ResetNeeded):
        env.action_masks()
    env.reset(seed=1)
    moves = Moves(*(getattr(load_task(tiny_env), name) for name in ("batch_sizes", "learning_rates")))
    for _ in range(2):
        (batch, rate), masks = moves.rungs(*env._episode.configuration), env.action_masks()
        tops = len(moves.batch_sizes), len(moves.learning_rates)
        inside = [0 <= batch + a // 3 - 1 < tops[0] and 0 <= rate + a % 3 - 1 < tops[1] for a in range(9)]
        assert masks.tolist() == inside
        env.step(8)
    with pytest.raises(ConfigError, match="two names of one argument"):
        TrainEnv(str(tiny_env), task=str(tiny_env))


def test_a_table_of_few_rows_that_names_no_sizes_has_those_that_fit(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("size,price\n" + "".join(f"{row % 7},{row * row % 31}\n" for row in range(60)))
    (tmp_path / "env.yaml").write_text(
        f"name: few\ndataset: {{name: 'csv:{tmp_path / 'few.csv'}', target: price, predict: quantity}}\n"
        "model: {name: mlp, arguments: {hidden: [4]}}\nepochs: 2\n"
    )
    env = TrainEnv(str(tmp_path), cost="examples", measure=False)
    env.reset(seed=0)
    _, reward, *_, info = env.step(np.array([4, 2]))
    assert info["batch_size"] <= 32
    assert np.isfinite(reward)
