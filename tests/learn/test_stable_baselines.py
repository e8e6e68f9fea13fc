import random
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from autobatch._errors import CheckpointError, ConfigError, OutputError
from autobatch.learn._stable_baselines import CHECKPOINT, as_vec_env, network_of, train_with_sb3

stable_baselines3 = pytest.importorskip("stable_baselines3")

SIZE = 4
SPACES = {"discrete": lambda: spaces.Discrete(9), "multidiscrete": lambda: spaces.MultiDiscrete([5, 3])}


class Signs(gymnasium.Env):
    """Draws an observation at every step; the highest move is right where its first entry is positive, else the lowest.

    Episodes end after some steps by themselves, or are cut off.
    """

    def __init__(self, actions: str = "discrete") -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (SIZE,), np.float32)
        self.action_space = SPACES[actions]()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 7))
        return self.draw(), {"left": self.left, "offset": (options or {}).get("offset", 0)}

    def step(self, action):
        right = (8 if np.ndim(action) == 0 else 4) if self.seen[0] > 0 else 0
        reward = float(np.atleast_1d(action)[0] == right)
        self.left -= 1
        over = self.left == 0
        cut = bool(over and self.np_random.random() < 0.5)
        return self.draw(), reward, over and not cut, cut, {"left": self.left, "inner": {"over": over}}

    def draw(self):
        self.seen = self.np_random.uniform(-1.0, 1.0, SIZE).astype(np.float32)
        return self.seen.copy()


class ResetsAll(SyncVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


def make_envs(count: int = 4, actions: str = "discrete", mode: AutoresetMode = AutoresetMode.NEXT_STEP):
    return SyncVectorEnv([lambda: Signs(actions)] * count, autoreset_mode=mode)


def train(algorithm: str, out, actions: str = "discrete", **changes):
    arguments = {"steps": 600, "seed": 3, "hidden": (8,), "checkpoint_every": 200, "out": out}
    return train_with_sb3(algorithm, make_envs(actions=actions), **arguments | changes)


# Adapter -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("actions", ["discrete", "multidiscrete"])
def test_the_adapter_does_what_their_own_environments_do(mode, actions):
    from stable_baselines3.common.vec_env import DummyVecEnv

    ours = as_vec_env(make_envs(3, actions, mode))
    theirs = DummyVecEnv([lambda: Signs(actions)] * 3)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    for env in (ours, theirs):
        env.action_space.seed(0)
        env.seed(5)
        env.set_options({"offset": 1})
    assert np.array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    ends = set()
    for _ in range(60):
        taken = np.array([theirs.action_space.sample() for _ in range(3)])
        found, expected = ours.step(taken), theirs.step(taken)
        for one, other in zip(found[:3], expected[:3], strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        for done, own, other in zip(expected[2], found[3], expected[3], strict=True):
            cut = other.pop("TimeLimit.truncated")
            assert own.pop("TimeLimit.truncated", False) == cut
            assert np.array_equal(own.pop("terminal_observation", None), other.pop("terminal_observation", None))
            assert own == other
            ends.add((bool(done), cut))
        assert ours.reset_infos == theirs.reset_infos
    assert ends == {(False, False), (True, False), (True, True)}
    ours.close()


def test_what_the_adapter_returned_stays_as_it_was():
    env = as_vec_env(SyncVectorEnv([Signs] * 2, copy=False))
    env.seed(0)
    first = env.reset()
    kept = first.copy()
    second = env.step(np.zeros(2, dtype=np.int64))[0]
    assert np.array_equal(first, kept)
    first[:] = 0.0
    assert second.any()


def test_the_adapter_asks_the_environments():
    env = as_vec_env(make_envs(3))
    env.seed(0)
    env.reset()
    assert env.get_attr("left", [0, 2]) == [env.venv.envs[0].left, env.venv.envs[2].left]
    env.set_attr("left", 7)
    assert env.get_attr("left") == [7, 7, 7]
    assert [entry.shape for entry in env.env_method("draw", indices=1)] == [(SIZE,)]
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    with pytest.raises(ConfigError, match="share it"):
        env.set_attr("left", 1, indices=0)


def test_an_environment_that_does_not_keep_to_the_mask_is_found_out():
    env = as_vec_env(ResetsAll([Signs] * 3))
    env.seed(0)
    env.reset()
    env.set_attr("left", 5)
    env.venv.envs[1].left = 1
    with pytest.raises(ConfigError, match=r"ResetsAll: .*reset_mask.*outside the mask"):
        env.step(np.zeros(3, dtype=np.int64))


def test_an_environment_must_say_when_it_resets():
    env = make_envs()
    env.metadata = {}
    with pytest.raises(ConfigError, match="autoreset_mode"):
        as_vec_env(env)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "actions"), [("dqn", "discrete"), ("ppo", "discrete"), ("ppo", "multidiscrete")])
def test_the_network_acts_as_their_model_does(algorithm, actions):
    kind = {"dqn": stable_baselines3.DQN, "ppo": stable_baselines3.PPO}[algorithm]
    settings = {"n_steps": 16, "batch_size": 32} if algorithm == "ppo" else {"learning_starts": 20, "buffer_size": 500}
    model = kind("MlpPolicy", as_vec_env(make_envs(actions=actions)), seed=1, device="cpu", **settings)
    model.learn(200)
    network = network_of(model)
    views = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, SIZE)).astype(np.float32)
    expected = model.predict(views, deterministic=True)[0]
    assert np.array_equal(network.act(views), expected)
    assert len(np.unique(expected, axis=0)) > 1
    singly = np.array([network.act(view) for view in views[:100]])
    assert np.array_equal(singly, expected[:100])


@pytest.mark.parametrize(
    ("algorithm", "actions", "settings"),
    [
        ("dqn", "discrete", {"gradient_steps": 2, "batch_size": 64, "target_update_interval": 200}),
        ("ppo", "multidiscrete", {"learning_rate": 0.01}),
    ],
)
def test_training_learns_what_there_is_to_learn(algorithm, actions, settings, tmp_path):
    told = []
    network = train(
        algorithm,
        tmp_path,
        actions,
        steps=4000,
        gamma=0.5,
        checkpoint_every=2000,
        settings=settings,
        observe=lambda steps, mean: told.append((steps, mean)),
    )
    views = np.random.default_rng(0).uniform(-1.0, 1.0, (500, SIZE)).astype(np.float32)
    highest = 8 if actions == "discrete" else 4
    right = np.where(views[:, 0] > 0, highest, 0)
    chosen = network.act(views) if actions == "discrete" else network.act(views)[:, 0]
    assert np.mean(chosen == right) > 0.9
    steps = [step for step, _ in told]
    assert steps == sorted(set(steps))
    assert 20 < len(told) <= 101
    assert told[-1][1] > 1.5 * told[0][1]
    assert (network.actions, network.sizes) == (actions, (SIZE, 8, 9 if actions == "discrete" else 8))


class Stop(BaseException):
    pass


@pytest.mark.parametrize(("algorithm", "actions"), [("dqn", "discrete"), ("ppo", "multidiscrete")])
def test_an_interrupted_training_ends_like_one_that_was_not(algorithm, actions, tmp_path):
    whole = train(algorithm, tmp_path / "whole", actions)

    def stop(steps: int, _mean: float) -> None:
        if steps > 450:
            raise Stop

    with pytest.raises(Stop):
        train(algorithm, tmp_path / "part", actions, observe=stop)
    steps = []
    resumed = train(algorithm, tmp_path / "part", actions, resume=True, observe=lambda step, _mean: steps.append(step))
    assert 400 < min(steps) < max(steps)
    assert np.array_equal(whole.flat(), resumed.flat())
    again = train(algorithm, tmp_path / "part", actions, resume=True)
    assert np.array_equal(again.flat(), whole.flat())
    other = train(algorithm, tmp_path / "other", actions, seed=4)
    assert not np.array_equal(other.flat(), whole.flat())
    with pytest.raises(OutputError, match="holds a training already"):
        train(algorithm, tmp_path / "part", actions)
    with pytest.raises(CheckpointError, match="'seed' was 3 and is 4"):
        train(algorithm, tmp_path / "part", actions, resume=True, seed=4)
    path = tmp_path / "part" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        train(algorithm, tmp_path / "part", actions, resume=True)


def test_training_leaves_generators_and_threads_alone(tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()
    train("ppo", tmp_path, steps=100)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]


@pytest.mark.parametrize("steps", [1, 7, 130])
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_any_number_of_steps_will_do(algorithm, steps, tmp_path):
    train(algorithm, tmp_path, steps=steps, checkpoint_every=None)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "actions", "changes", "message"),
    [
        ("ppoo", "discrete", {}, "unknown algorithm 'ppoo'; did you mean 'ppo'"),
        ("dqn", "multidiscrete", {}, "actions='discrete'"),
        ("ppo", "discrete", {"steps": 0}, "expected at least 1, got 0"),
        ("ppo", "discrete", {"checkpoint_every": 0}, "expected at least 1, got 600 and 0"),
    ],
)
def test_bad_arguments(algorithm, actions, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(algorithm, tmp_path, actions, **changes)


def test_other_actions_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"MultiDiscrete\(\[5, 3\]\) or Discrete\(9\), got Discrete\(2\)"):
        train_with_sb3(
            "ppo", gymnasium.make_vec("CartPole-v1", vectorization_mode="sync"), steps=1, seed=0, out=tmp_path
        )


def test_layers_that_are_not_plain_are_an_error():
    model = stable_baselines3.PPO(
        "MlpPolicy", as_vec_env(make_envs()), policy_kwargs={"activation_fn": torch.nn.GELU}, device="cpu"
    )
    with pytest.raises(ConfigError, match="tanh or relu between them, got Linear, GELU"):
        network_of(model)


def test_without_stable_baselines_the_extra_is_named(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "stable_baselines3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for attempt in (lambda: train("ppo", tmp_path), lambda: as_vec_env(make_envs())):
        with pytest.raises(ConfigError, match=r"Stable-Baselines3.*pip install 'autobatch\[rl\]'"):
            attempt()
    assert not list(tmp_path.iterdir())
