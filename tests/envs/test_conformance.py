"""Every registered environment under the checkers of others, and through every form that an environment is sent in."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from autobatch.envs import BoxActions, register_environments
from autobatch.envs.steered import _runs as _steered_runs
from autobatch.envs.surrogate import _runs as _surrogate_runs
from tests.envs.steered_dynamics import STEERED_FAKES
from tests.envs.surrogate.fake_dynamics import FAKES

Make = Callable[..., gymnasium.Env]

IDS = sorted(name for name in gymnasium.registry if name.startswith("AutoBatch/"))
ACTIONS = ("multidiscrete", "discrete", "box")
TASKS = {
    "AutoBatch/Train-v0": "",
    "AutoBatch/TrainDiscrete-v0": "",
    "AutoBatch/Surrogate-v0": "short",
    "AutoBatch/SurrogateDiscrete-v0": "short",
    "AutoBatch/Train-v1": "",
    "AutoBatch/TrainDiscrete-v1": "",
    "AutoBatch/Surrogate-v1": "short",
    "AutoBatch/SurrogateDiscrete-v1": "short",
}


FORKS = [name for name in IDS if name.endswith("-v1")]
"""Those whose actions may be tried."""


@pytest.fixture(params=[*((name, {}) for name in IDS), *((name, {"forks": True}) for name in FORKS)], ids=str)
def make(request: pytest.FixtureRequest, tiny_env: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes one of the registered environments, with actions of any kind."""
    monkeypatch.setattr(_surrogate_runs, "load_dynamics", FAKES.__getitem__)
    monkeypatch.setattr(_steered_runs, "load_steered", lambda env, without: STEERED_FAKES[env])

    def made(actions: str = "multidiscrete", **arguments: Any) -> gymnasium.Env:
        (name, own), kind = request.param, "multidiscrete" if actions == "box" else actions
        env = gymnasium.make(name, env=TASKS[name] or str(tiny_env), actions=kind, **own, **arguments)
        return BoxActions(env) if actions == "box" else env

    return made


def up(env: gymnasium.Env) -> np.ndarray:
    """Return the action that takes the largest batch there is, or tries it, and changes nothing else."""
    return np.array([4, 1, 0, 0, 1][: len(env.unwrapped.action_space.nvec)])


def episode(env: gymnasium.Env, seed: int | None = 5) -> list[tuple]:
    """Return what an episode of random actions returns."""
    env.action_space.seed(0)
    steps: list[tuple] = [env.reset(seed=seed)]
    while len(steps) == 1 or not steps[-1][2]:
        steps.append(env.step(env.action_space.sample()))
    return steps


def same(one: list[tuple], other: list[tuple]) -> bool:
    return data_equivalence(one, other, exact=True)


def test_all_are_here_and_stay_when_registered_again() -> None:
    register_environments()
    assert sorted(TASKS) == IDS


@pytest.mark.parametrize("actions", ACTIONS)
def test_the_checkers_find_nothing(make: Make, actions: str) -> None:
    env = make(actions)
    if actions == "box":  # a wrapper: Gymnasium's checker would complain of nothing else
        with pytest.warns(UserWarning, match="different from the unwrapped version"):
            check_env(env)
    else:
        check_env(env.unwrapped)
    check_env_for_sb3(env)


@pytest.mark.parametrize("actions", ACTIONS)
def test_a_seed_tells_all_and_bounds_hold(make: Make, actions: str) -> None:
    env, other = make(actions), make(actions)
    steps = episode(env)
    assert same(steps, episode(other))
    assert same(steps, episode(env))
    assert same(episode(env, None), episode(other, None)), "the generator goes on alike"
    assert not same(steps, episode(env, 6))
    for step in steps:
        assert step[0] in env.observation_space
        assert all(math.isfinite(value) for value in step[-1].values() if not isinstance(value, str))
    assert all(type(step[1]) is float and math.isfinite(step[1]) for step in steps[1:])
    assert [step[2] for step in steps[1:]] == [False] * (len(steps) - 2) + [True]
    assert not any(step[3] for step in steps[1:])


@pytest.mark.parametrize("actions", ACTIONS)
def test_a_spec_survives_json(make: Make, actions: str) -> None:
    env = make(actions, cost="examples", cost_weight=0.1)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == env.spec
    assert same(episode(env), episode(gymnasium.make(spec)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deep", "pickle"])
def test_a_copy_goes_on_alike(make: Make, copied: Callable[[gymnasium.Env], gymnasium.Env]) -> None:
    env = make()
    env.reset(seed=3)
    env.step(up(env))
    env.action_space.seed(1)
    other = copied(env)
    for _ in range(2):
        action = env.action_space.sample()
        assert (other.action_space.sample() == action).all()
        action[2:4] = 0  # what would end the training
        assert data_equivalence(env.step(action), other.step(action), exact=True)
    assert same(episode(env, None), episode(other, None))


def test_closing_twice_is_no_error(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()
    make().close()


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_every_frame_has_one_form(make: Make, mode: str) -> None:
    env = make(render_mode=mode).unwrapped
    env.reset(seed=0)
    frames = [env.render()]
    env.step(up(env))
    frames.append(env.render())
    if mode == "ansi":
        assert all(isinstance(frame, str) and frame for frame in frames)
    else:
        assert all(frame.dtype == np.uint8 and frame.shape == frames[0].shape for frame in frames)
        assert frames[0].shape[2] == 3
    assert not np.array_equal(*frames)
