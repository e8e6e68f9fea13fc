"""The environments whose schedule and end are the agent's: rewards, scouts, tasks that vary, and what is refused."""

import copy
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from autobatch import ConfigError
from autobatch.envs import SteeredSurrogateEnv, SteeredSurrogateVectorEnv, SteeredTrainEnv
from autobatch.envs.steered import _runs as _steered_runs
from autobatch.envs.surrogate import _load
from autobatch.policies.general import AS_IT_IS
from autobatch.training import load_task
from tests.envs.steered_dynamics import STEERED_FAKES

FALLS, STOPS = (2, 1, 1, 0), (2, 1, 0, 1)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_steered_runs, "load_steered", lambda env, without: STEERED_FAKES[env])


def play(env, actions, **options) -> tuple[float, list[dict]]:
    """Return the rewards and the infos of an episode; the last action is repeated to its end."""
    _, info = env.reset(**options)
    total, infos, over = 0.0, [info], False
    while not over:
        chosen = actions[min(len(infos) - 1, len(actions) - 1)]
        _, reward, over, _, info = env.step(np.array(chosen))
        total += reward
        infos.append(info)
    return total, infos


def test_rewards_add_up_to_the_loss_below_guessing_less_the_cost() -> None:
    env = SteeredSurrogateEnv("long", cost_weight=0.3, cost="examples")
    total, infos = play(env, [AS_IT_IS], seed=1)
    assert len(infos) == 10
    gain = math.log(2.0 / infos[-1]["score"])
    assert infos[-1]["quality"] == pytest.approx(gain)
    share = sum(info["cost"] for info in infos[1:]) / (9 * infos[1]["cost"])
    assert total == pytest.approx(gain - 0.3 * share)


def test_a_falling_rate_ends_the_episode_and_stop_does_at_once() -> None:
    env = SteeredSurrogateEnv("long")
    _, infos = play(env, [AS_IT_IS, FALLS, AS_IT_IS], seed=1)
    factors = [info["factor"] for info in infos[1:]]
    assert factors[0] == 1.0
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert len(infos) - 1 < 9
    total, infos = play(env, [AS_IT_IS, STOPS], seed=1)
    assert infos[-1]["stopped"]
    assert [info["epoch"] for info in infos] == [0, 1, 1]
    assert infos[-1]["cost"] == 0.0
    assert total == pytest.approx(infos[1]["quality"] - 0.05 * infos[1]["cost"] / env._runs._reference[0])


def test_scouts_go_first_and_are_charged() -> None:
    env = SteeredSurrogateEnv("long", start="scouts", cost="examples")
    observation, info = env.reset(seed=2)
    assert info["epoch"] >= 1
    assert dict(zip(env._runs._views[0].names, observation, strict=True))["scouted"] == 1.0
    first, second = (env.step(np.array(AS_IT_IS))[4]["cost"] for _ in range(2))
    assert first > second


def test_every_episode_of_tasks_that_vary_is_another_one() -> None:
    envs = SteeredSurrogateVectorEnv(16, "long", vary=True, start="scouts")
    envs.reset(seed=0)
    own = envs._runs.limits[0]
    assert len(np.unique(own.epochs)) > 2
    assert ((own.epochs >= 5) & (own.epochs <= 9)).all()
    assert len(np.unique(own.highest - own.lowest)) > 1
    assert len(np.unique(own.seconds[:, 0] / own.seconds[:, -1])) > 4
    assert (envs._runs.course.size >= own.lowest).all()
    assert (envs._runs.course.size <= own.highest).all()


@pytest.mark.parametrize("start", ["middle", "random", "scouts"])
def test_many_at_once_go_through_what_one_does(start: str) -> None:
    given = {"env": ["short", "long"], "start": start, "vary": True}
    envs = SteeredSurrogateVectorEnv(5, **given)
    seen, _ = envs.reset(seed=7)
    singles = [SteeredSurrogateEnv(**given) for _ in range(5)]
    alone = [env.reset(seed=7 + index)[0] for index, env in enumerate(singles)]
    assert seen == pytest.approx(np.stack(alone), abs=1e-6)
    seen, rewards, *_ = envs.step(np.tile((3, 2, 0, 0), (5, 1)))
    steps = [env.step(np.array((3, 2, 0, 0))) for env in singles]
    assert seen == pytest.approx(np.stack([step[0] for step in steps]), abs=1e-6)
    assert rewards == pytest.approx([step[1] for step in steps])
    assert envs.action_masks() == pytest.approx(np.stack([env.action_masks() for env in singles]))


def test_masks_say_what_is_left() -> None:
    env = SteeredSurrogateEnv("short", actions="discrete")
    env.reset(seed=0)
    assert env.action_masks().tolist()[9:] == [True, False]
    for _ in range(2):
        env.step(np.array(8))
    masks = env.action_masks()
    assert not masks[8]
    assert masks[10]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"vary": 1}, "vary"),
        ({"without": "digits"}, "without"),
        ({"start": "end"}, "start"),
        ({"actions": "box"}, "actions"),
        ({"cost_weight": True}, "cost_weight"),
        ({"cost_wieght": 0.1}, "cost_wieght: there is no such argument; did you mean 'cost_weight'?"),
    ],
)
def test_what_cannot_be_used_is_named(given: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}"):
        SteeredSurrogateEnv("short", **given)


def test_only_other_tasks_can_be_left_out() -> None:
    check = _load._check_left_out
    check(("digits-resnet8",), "digits-mlp")
    with pytest.raises(ConfigError, match=r"^without: 'digits-mlp' is the task itself"):
        check(("digits-resnet8", "digits-mlp"), "digits-mlp")
    with pytest.raises(ConfigError, match=r"^without: there is no task 'digits-resnet'; did you mean 'digits-resnet8'"):
        check(("digits-resnet",), "digits-mlp")


def test_an_action_of_v0_is_refused() -> None:
    env = SteeredSurrogateEnv("short")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="4 whole numbers"):
        env.step(np.array([2, 1]))


def test_real_training_is_steered_and_charged(bare_env: Path) -> None:
    env = SteeredTrainEnv(bare_env, cost="examples", cost_weight=0.3, epochs=4)
    total, infos = play(env, [(2, 0, 0, 0), FALLS, AS_IT_IS], options={"run_seed": 3})
    assert infos[1]["lr"] == pytest.approx(0.1), "the lowest rate of the task"
    factors = [info["factor"] for info in infos[1:]]
    assert factors[0] == 1.0
    assert factors[1] > factors[-1]
    guessing = math.log(env._rules.setting.data.num_classes)
    done = len(infos) - 1
    assert total == pytest.approx(math.log(guessing / infos[-1]["score"]) - 0.3 * done / 4)


def test_real_scouts_go_first(tiny_env: Path) -> None:
    env = SteeredTrainEnv(tiny_env, start="scouts", epochs=6)
    observation, info = env.reset(seed=1)
    assert info["epoch"] == 1
    assert info["cost_total"] > 0.0
    assert dict(zip(env._episode._view.names, observation, strict=True))["scouted"] == 1.0
    _, _, _, _, info = env.step(np.array(AS_IT_IS))
    assert info["epoch"] == 2
    _, _, over, _, info = env.step(np.array(STOPS))
    assert over
    assert info["stopped"]


def journey(env, actions) -> list[tuple[list[float], float, bool, dict]]:
    """Return what an environment answers to some actions."""
    steps = []
    for action in actions:
        seen, reward, over, _, info = env.step(np.array(action))
        steps.append((seen.tolist(), reward, over, info))
    return steps


@pytest.mark.parametrize("start", ["middle", "scouts"])
def test_an_interrupted_rollout_goes_on_from_a_copy_as_if_nothing_had_been(
    tiny_env: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [AS_IT_IS, (3, 0, 0, 0), FALLS, AS_IT_IS]
    env = SteeredTrainEnv(tiny_env, cost="examples", epochs=7, start=start)
    env.reset(options={"run_seed": 5})
    whole = journey(env, actions)
    env.reset(options={"run_seed": 5})
    assert journey(env, actions[:2]) == whole[:2]
    (tmp_path / "midway").write_bytes(pickle.dumps(env))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autobatch.training._trial.Trial.period", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.array(AS_IT_IS))
    for broken in (env, copy.deepcopy(env)):
        with pytest.raises(ResetNeeded, match="interrupted amid its epoch"):
            broken.step(np.array(AS_IT_IS))
    again = pickle.loads((tmp_path / "midway").read_bytes())
    assert journey(again, actions[2:]) == whole[2:]
    env.reset(options={"run_seed": 5})
    assert journey(env, actions) == whole


def test_two_copies_fork_a_training(tiny_env: Path) -> None:
    env = SteeredTrainEnv(tiny_env, cost="examples", epochs=7)
    env.reset(options={"run_seed": 5})
    journey(env, [AS_IT_IS])
    other = copy.deepcopy(env)
    (tried,), (stayed,) = journey(other, [(1, 1, 0, 0)]), journey(env, [AS_IT_IS])
    assert tried[3]["batch_size"] < stayed[3]["batch_size"]
    assert tried[3]["score"] != stayed[3]["score"]


def test_a_task_that_keeps_its_schedule_is_refused(tiny_env: Path, tmp_path: Path) -> None:
    text = (tiny_env / "env.yaml").read_text()
    (tmp_path / "env.yaml").write_text(text.replace("keep: false", "keep: true"))
    assert load_task(tmp_path).schedule.keep
    with pytest.raises(ConfigError, match="keeps its schedule"):
        SteeredTrainEnv(tmp_path)
