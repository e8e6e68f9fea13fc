"""The surrogate as one environment: the checkers of others, determinism, what it refuses, and what it promises."""

import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.env_util import make_vec_env

from autobatch import AutoBatchError, ConfigError, LibraryError, UnknownNameError
from autobatch.envs import SurrogateEnv
from autobatch.envs.surrogate import _runs as _surrogate_runs
from autobatch.envs.surrogate import load_dynamics
from tests.envs.surrogate.fake_dynamics import FAKES, FakeDynamics

ID = "autobatch:AutoBatch/Surrogate-v0"
BOTH = ("multidiscrete", "discrete")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_surrogate_runs, "load_dynamics", FAKES.__getitem__)


def make(**arguments) -> gymnasium.Env:
    return gymnasium.make(ID, **{"env": "short"} | arguments)


def episode(env: gymnasium.Env, seed: int | None) -> Iterator[tuple]:
    """Yield what an episode of the action space's own random actions returns."""
    env.action_space.seed(0)
    observation, info = env.reset(seed=seed)
    yield observation, 0.0, False, False, info
    over = False
    while not over:
        result = env.step(env.action_space.sample())
        over = result[2]
        yield result


def same(one: gymnasium.Env, other: gymnasium.Env, seed: int | None = 5) -> bool:
    return data_equivalence(list(episode(one, seed)), list(episode(other, seed)), exact=True)


@pytest.mark.parametrize("actions", BOTH)
def test_the_checkers_find_nothing_with_several_tasks(actions: str) -> None:
    env = make(env=["short", "long"], actions=actions, start="random", member="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_env_for_sb3(env)


@pytest.mark.parametrize("arguments", [{}, {"member": "mean", "noise": False}, {"start": "random"}], ids=str)
def test_a_seed_tells_all(arguments: dict) -> None:
    one, other = make(env=["short", "long"], **arguments), make(env=["short", "long"], **arguments)
    assert same(one, other)
    assert same(one, other, seed=None), "the generator goes on alike"
    assert arguments.get("noise") is False or not same(one, other, seed=None) or one.unwrapped.np_random_seed == 5


def test_an_episode_is_what_the_dynamics_say() -> None:
    env, dynamics = make(member=1, cost="examples", cost_weight=0.5, pessimism=0.25), FAKES["short"]
    seen, info = env.reset(seed=3)
    assert info == {"env": "short", "member": 1, "epoch": 0, "batch_size": 16, "lr": 0.05, "quality": 0.0}
    noise = gymnasium.utils.seeding.np_random(3)[0].standard_normal((dynamics.epochs, dynamics.noise_size))
    state, rungs, potential = dynamics.begin(1), dynamics.moves.start, 0.0
    np.testing.assert_array_equal(seen, dynamics.observe(state)[0])
    for epoch, action in enumerate([(3, 1), (4, 1), (2, 0), (0, 1), (1, 1), (2, 0)]):
        seen, reward, over, truncated, info = env.step(np.array(action))
        rungs = dynamics.moves.apply(*rungs, action[0] - 2, action[1] - 1)
        state, outcome = dynamics.step(state, *(rung[None] for rung in rungs), np.array([1]), noise[epoch][None])
        quality = dynamics.quality(outcome.score)[0]
        assert reward == pytest.approx(quality - potential - 0.5 / dynamics.epochs - 0.25 * outcome.spread[0])
        assert (info["batch_size"], info["lr"]) == dynamics.moves.at(*rungs)
        assert info["cost"] == 1.0
        assert info["quality"] == quality
        assert (over, truncated) == (epoch == dynamics.epochs - 1, False)
        np.testing.assert_array_equal(seen, dynamics.observe(state)[0])
        potential = quality


def test_what_diverges_ends_with_the_worst_quality() -> None:
    env = make(env="long", member=0, noise=False, cost_weight=0.0)
    env.reset(seed=0)
    total, over, steps = 0.0, False, 0
    while not over:
        seen, reward, over, _, info = env.step(np.array([2, 2]))
        total, steps = total + reward, steps + 1
        assert np.isfinite(seen).all()
    assert steps < FAKES["long"].epochs
    assert (total, info["quality"]) == (-1.0, -1.0)
    assert all(value == value for value in info.values()), "no NaN"


def test_the_rewards_add_up_to_the_final_quality_less_the_cost() -> None:
    env = make(cost_weight=0.1, member="mean")
    results = list(episode(env, 1))
    cost = sum(info["cost"] for *_, info in results[1:]) / FAKES["short"].reference("modelled")
    assert sum(reward for _, reward, *_ in results) == pytest.approx(results[-1][-1]["quality"] - 0.1 * cost)


def test_members_and_starts_are_drawn_unless_they_are_told() -> None:
    env = make(env=["short", "long"], start="random")
    infos, rungs = [], set()
    for seed in range(40):
        infos.append(env.reset(seed=seed)[1])
        info = env.step(np.array([2, 1]))[-1]
        rungs.add((info["batch_size"], info["lr"]))
    assert {(info["env"], info["member"]) for info in infos} == {(env, m) for env in FAKES for m in range(3)}
    assert len(rungs) > 10
    middle = make(env="short", member=2)
    assert middle.reset(seed=0)[1]["member"] == 2
    assert middle.step(np.array([2, 1]))[-1]["batch_size"] == 16
    assert make(member="mean").reset(seed=0)[1]["member"] == -1


def test_a_spec_and_a_pickle_give_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(env=["short", "long"], cost="flops", cost_weight=0.1, member="mean", start="random", actions="discrete")
    assert env.spec is not None
    assert same(env, gymnasium.make(EnvSpec.from_json(env.spec.to_json())))
    env.reset(seed=1)
    env.step(0)
    monkeypatch.setattr(FakeDynamics, "__reduce__", lambda self: pytest.fail("the dynamics are loaded by name"))
    twin = pickle.loads(pickle.dumps(env))
    assert data_equivalence(twin.step(8), env.step(8), exact=True), "in the midst of an episode"
    assert same(env, twin, seed=None)


def test_it_says_what_it_needs() -> None:
    env = make().unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.array([2, 1]))
    env.reset(seed=0)
    for action in ([5, 1], [-1, 1], [2, 3], [2.0, 1.0], [2], 2, None, "up", [[2, 1]], [True, True], [np.nan, 1]):
        with pytest.raises(ConfigError, match=r"action: expected two whole numbers"):
            env.step(action)
    for action in ([2, 1], (2, 1), np.array([2, 1], dtype=np.uint8)):
        env.step(action)
    for _ in range(3):
        *_, over, _, _ = env.step([2, 1])
    assert over
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step([2, 1])
    with pytest.raises(ConfigError, match="no option is called 'run_seed'"):
        env.reset(options={"run_seed": 100})
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actions": "box"}, "actions: no kind is called 'box'"),
        ({"cost": "measured"}, "cost: the surrogate trains nothing"),
        ({"cost": "euros"}, "cost: no unit is called 'euros'"),
        ({"cost_weight": -1.0}, "cost_weight: expected a finite number"),
        ({"cost_tables": 3}, "cost_tables: expected a folder"),
        ({"cost_tables": ""}, "cost_tables: expected a folder"),
        ({"cost_weight": "much"}, "cost_weight: expected a finite number"),
        ({"pessimism": float("nan")}, "pessimism: expected a finite number"),
        ({"member": 3}, "member: 'short' has members 0 to 2, got 3"),
        ({"member": "median"}, "member: expected None"),
        ({"member": True}, "member: expected None"),
        ({"noise": 0.1}, "noise: expected True or False"),
        ({"start": "top"}, "start: expected one of 'middle', 'random'"),
        ({"env": []}, "env: expected the name or path"),
        ({"env": ["short", 3]}, "env: expected the name or path"),
        ({"render_mode": "human"}, "render_mode"),
    ],
    ids=str,
)
def test_it_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(AutoBatchError, match=message):
        SurrogateEnv(**{"env": "short"} | arguments)


def test_it_shows_where_it_is() -> None:
    lines, planes = make(render_mode="ansi", member=0), make(render_mode="rgb_array", env=["short", "long"])
    for env in (lines, planes):
        env.reset(seed=0)
        env.render()
        env.step(np.array([3, 1]))
    shown = lines.render()
    assert "short, surrogate, member 0 of the ensemble: epoch 1 of 6\nbatch size 32, learning rate 0.05\n" in shown
    assert "quality" in shown
    assert planes.render().shape == (660, 880, 3)


def test_it_says_what_a_task_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_surrogate_runs, "load_dynamics", load_dynamics)
    for file in ("env.yaml", "beacons.parquet"):
        shutil.copy(Path(__file__).parents[3] / "envs" / "digits-mlp" / file, tmp_path)
    with pytest.raises(LibraryError, match="beacons branch"):
        SurrogateEnv(str(tmp_path))
    (tmp_path / "beacons.parquet").unlink()
    with pytest.raises(LibraryError, match="beacons"):
        SurrogateEnv(str(tmp_path))
    with pytest.raises(UnknownNameError, match=r"'digits-mlq'.*did you mean 'digits-mlp'"):
        SurrogateEnv("digits-mlq")


@pytest.mark.parametrize("actions", BOTH)
def test_a_public_agent_learns_on_it(actions: str) -> None:
    envs = make_vec_env(ID, n_envs=2, seed=0, env_kwargs={"env": "short", "actions": actions})
    agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    agent.learn(64)
    chosen, _ = agent.predict(envs.reset(), deterministic=True)
    assert envs.action_space.contains(chosen[0])
