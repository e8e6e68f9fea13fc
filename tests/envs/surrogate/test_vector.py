"""The surrogate as a vector environment: equal to the single one, and resetting as Gymnasium's own vector forms do."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from autobatch import ConfigError
from autobatch.envs import SurrogateEnv, SurrogateVectorEnv
from autobatch.envs.surrogate import _runs as _surrogate_runs
from tests.envs.surrogate.fake_dynamics import FAKES

ID = "autobatch:AutoBatch/Surrogate-v0"
MODES = tuple(mode.value for mode in AutoresetMode)
COUNT = 6


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_surrogate_runs, "load_dynamics", FAKES.__getitem__)


def make(count: int = COUNT, **arguments) -> VectorEnv:
    return gymnasium.make_vec(ID, num_envs=count, **{"env": ["short", "long"]} | arguments)


def assert_same(one: Any, other: Any) -> None:
    """Hold two results together: names, types and shapes exactly, figures up to rounding."""
    assert data_equivalence(one, other), f"{one}\n{other}"


@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", ["long", ["short", "long"]], ids=["one", "several"])
def test_it_is_the_loop_over_single_environments(env: str | list[str], mode: str, actions: str) -> None:
    arguments = {"env": env, "actions": actions, "start": "random", "pessimism": 0.1}
    fast = make(autoreset_mode=mode, **arguments)
    slow = SyncVectorEnv([lambda: SurrogateEnv(**arguments)] * COUNT, autoreset_mode=mode)
    assert fast.metadata["autoreset_mode"] is slow.metadata["autoreset_mode"] is AutoresetMode(mode)
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(fast, name) == getattr(slow, name)
    assert_same(fast.reset(seed=7), slow.reset(seed=7))
    slow.action_space.seed(1)
    ended = 0
    for _ in range(40):
        chosen = slow.action_space.sample()
        result = fast.step(chosen)
        assert_same(result, slow.step(chosen))
        assert [value.dtype for value in result[:4]] == [np.float32, np.float64, np.bool_, np.bool_]
        ended += result[2].sum()
        if mode == "Disabled" and result[2].any():
            assert_same(
                fast.reset(options={"reset_mask": result[2]}), slow.reset(options={"reset_mask": result[2].copy()})
            )
    assert ended > COUNT
    assert fast.np_random_seed == slow.np_random_seed


def test_the_spaces_are_those_of_many() -> None:
    envs = make()
    assert isinstance(envs, SurrogateVectorEnv)
    assert envs.observation_space == batch_space(envs.single_observation_space, COUNT)
    assert envs.action_space == batch_space(envs.single_action_space, COUNT)
    seen, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(seen)
    assert envs.observation_space.contains(envs.step(envs.action_space.sample())[0])


@pytest.mark.parametrize("env", ["short", ["short", "long"]], ids=["one", "several"])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_it_replays_from_a_seed_to_the_last_bit(env: str | list[str], mode: str) -> None:
    def journey() -> list:
        envs = make(env=env, autoreset_mode=mode)
        envs.action_space.seed(0)
        return [envs.reset(seed=11), *(envs.step(envs.action_space.sample()) for _ in range(20)), envs.reset()]

    assert data_equivalence(journey(), journey(), exact=True)


def test_what_it_returned_does_not_change_afterwards() -> None:
    envs = make(autoreset_mode="SameStep")
    kept = [envs.reset(seed=0)]
    kept += [envs.step(envs.action_space.sample()) for _ in range(12)]
    was = pickle.dumps(kept)
    for _ in range(12):
        envs.step(envs.action_space.sample())
    envs.reset()
    assert pickle.dumps(kept) == was


@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
def test_any_whole_numbers_are_actions(actions: str) -> None:
    envs = make(actions=actions, autoreset_mode="Disabled")
    chosen = np.full(envs.action_space.shape, 0)
    results = []
    for given in (chosen, chosen.astype(np.uint8), chosen.tolist()):
        envs.reset(seed=0)
        results.append(envs.step(given))
    assert data_equivalence(results[0], results[1], exact=True)
    assert data_equivalence(results[0], results[2], exact=True)


def test_a_mask_begins_some_and_leaves_the_others() -> None:
    envs, mask = make(env="long"), np.array([True, False, False, True, False, False])
    before, _ = envs.reset(seed=0)
    after, *_ = envs.step(envs.action_space.sample())
    seen, infos = envs.reset(seed=50, options={"reset_mask": mask})
    np.testing.assert_array_equal(seen[~mask], after[~mask])
    np.testing.assert_array_equal(seen[mask], before[mask])
    np.testing.assert_array_equal(infos["_member"], mask)
    assert envs.np_random_seed == (50, 1, 2, 53, 4, 5)
    single = SurrogateEnv("long")
    single.reset(seed=53)
    actions = np.tile([3, 1], (COUNT, 1))
    assert_same(envs.step(actions)[0][3], single.step(actions[3])[0])


def test_a_spec_a_pickle_and_gymnasiums_wrappers() -> None:
    envs = make(autoreset_mode="SameStep", cost="examples")
    assert envs.spec is not None
    again = gymnasium.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == COUNT
    counted = RecordEpisodeStatistics(again)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    counted.reset(seed=0)
    for chosen in (actions := [envs.action_space.sample() for _ in range(20)]):
        assert_same(envs.step(chosen)[:4], counted.step(chosen)[:4])
    assert len(counted.return_queue) > COUNT
    twin = pickle.loads(pickle.dumps(envs))
    assert data_equivalence(twin.step(actions[0]), envs.step(actions[0]), exact=True)
    envs.close()
    envs.close()


def test_it_says_what_it_needs() -> None:
    envs = make(count=2, autoreset_mode="Disabled", env="short")
    idle = np.array([[2, 1], [2, 1]])
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(idle)
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=[3, None])
    for wrong in (idle[0], idle.astype(float), None, [[2, 1], [2]], "up", np.tile(idle, (2, 1))):
        with pytest.raises(ConfigError, match="expected whole numbers of shape"):
            envs.step(wrong)
    with pytest.raises(ConfigError, match=r"\[2, 3\] of sub-environment 1 is not in MultiDiscrete"):
        envs.step([[2, 1], [2, 3]])
    for _ in range(FAKES["short"].epochs):
        envs.step(idle)
    with pytest.raises(gymnasium.error.ResetNeeded, match="sub-environments 0, 1"):
        envs.step(idle)
    for mask in ([True, True], np.ones(3, dtype=bool), np.ones(2), np.zeros(2, dtype=bool)):
        with pytest.raises(ConfigError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ConfigError, match="expected 2 of them"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="no option is called 'mask'; known: reset_mask"):
        envs.reset(options={"mask": None})
    for count in (0, True, 1.5):
        with pytest.raises(ConfigError, match="num_envs"):
            SurrogateVectorEnv(count, "short")
    with pytest.raises(ConfigError, match="render_mode"):
        SurrogateVectorEnv(1, "short", render_mode="ansi")
    with pytest.raises(ConfigError, match="autoreset_mode"):
        SurrogateVectorEnv(1, "short", autoreset_mode="Never")


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_truncated_as_by_a_time_limit(mode: str) -> None:
    arguments = {"env": ["short", "long"], "start": "random"}
    fast = make(autoreset_mode=mode, max_episode_steps=3, **arguments)
    slow = SyncVectorEnv([lambda: TimeLimit(SurrogateEnv(**arguments), 3)] * COUNT, autoreset_mode=mode)
    assert_same(fast.reset(seed=7), slow.reset(seed=7))
    slow.action_space.seed(1)
    truncated = 0
    for _ in range(20):
        chosen = slow.action_space.sample()
        result = fast.step(chosen)
        assert_same(result, slow.step(chosen))
        truncated += result[3].sum()
        over = result[2] | result[3]
        if mode == "Disabled" and over.any():
            assert_same(fast.reset(options={"reset_mask": over}), slow.reset(options={"reset_mask": over.copy()}))
    assert truncated > COUNT
    with pytest.raises(ConfigError, match="max_episode_steps: expected a whole number of at least 1, got 0"):
        make(max_episode_steps=0)


def test_its_autoreset_mode_is_where_gymnasiums_own_have_it() -> None:
    for mode in AutoresetMode:
        own, theirs = make(autoreset_mode=mode), SyncVectorEnv([lambda: SurrogateEnv("long")], autoreset_mode=mode)
        assert own.autoreset_mode is theirs.autoreset_mode is own.metadata["autoreset_mode"] is mode


@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
def test_masks_are_of_what_leads_beyond_the_ladders(actions: str) -> None:
    envs = make(actions=actions, start="random")
    with pytest.raises(ResetNeeded):
        envs.action_masks()
    single = SurrogateEnv(["short", "long"], actions=actions, start="random")
    with pytest.raises(ResetNeeded):
        single.action_masks()
    envs.reset(seed=0)
    for index in range(COUNT):
        single.reset(seed=index)
        masks = single.action_masks()
        np.testing.assert_array_equal(masks, envs.action_masks()[index])
        runs = single._runs
        rungs, tops = (runs.batch_rung[0], runs.rate_rung[0]), runs._top[runs.task[0]]
        if actions == "discrete":
            moves = [(action // 3 - 1, action % 3 - 1) for action in range(9)]
            expected = [all(0 <= r + m <= t for r, m, t in zip(rungs, move, tops, strict=True)) for move in moves]
        else:
            expected = [0 <= rungs[0] + move <= tops[0] for move in range(-2, 3)]
            expected += [0 <= rungs[1] + move <= tops[1] for move in range(-1, 2)]
        assert masks.tolist() == expected
        assert masks.dtype == np.bool_


def test_an_id_alone_has_one_number_as_action_and_task_is_another_name() -> None:
    for name in ("AutoBatch/SurrogateDiscrete-v0", "AutoBatch/TrainDiscrete-v0"):
        assert gymnasium.spec(name).kwargs == {"actions": "discrete"}
    env = gymnasium.make("AutoBatch/SurrogateDiscrete-v0", task="long")
    assert env.action_space == gymnasium.spaces.Discrete(9)
    assert env.reset(seed=1)[1]["env"] == "long"
    assert env.get_wrapper_attr("action_masks")().shape == (9,)
    many = gymnasium.make_vec("AutoBatch/SurrogateDiscrete-v0", num_envs=2, task=["long"])
    assert many.single_action_space == gymnasium.spaces.Discrete(9)
    with pytest.raises(ConfigError, match="env and task are two names of one argument"):
        SurrogateEnv("long", task="short")
