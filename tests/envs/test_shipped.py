"""The shipped tasks, branch runs and learned policies, as a user meets them."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import autobatch  # noqa: F401  (registers the environments)
from autobatch._artefacts import find_artefact
from autobatch.envs.surrogate import load_dynamics
from autobatch.evidence import play_policy
from autobatch.policies import load_card, load_learned, load_policy_spec, policy_names

LEARNED = [name for name in policy_names() if load_policy_spec(name).kind == "learned"]


def test_the_surrogate_of_a_shipped_task() -> None:
    env = gymnasium.make("autobatch:AutoBatch/Surrogate-v0", env="digits-mlp")
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env.unwrapped)
    count = 8
    envs = gymnasium.make_vec(
        "autobatch:AutoBatch/Surrogate-v0", num_envs=count, vectorization_mode="vector_entry_point", env="digits-mlp"
    )
    actions = np.tile([3, 1], (count, 1))
    seen, _ = envs.reset(seed=3)
    alone, _ = env.reset(seed=3)
    assert seen[0] == pytest.approx(alone, abs=1e-4)
    for _ in range(5):
        seen, rewards, *_ = envs.step(actions)
        alone, reward, *_ = env.step(actions[0])
        assert seen[0] == pytest.approx(alone, abs=1e-3)
        assert rewards[0] == pytest.approx(reward, abs=1e-3)


@pytest.mark.parametrize("name", LEARNED)
def test_a_shipped_policy(name: str) -> None:
    card = load_card(find_artefact("policies", name).with_suffix(".json"))
    network, _ = load_learned(name)
    assert network.sizes[0] == card.observation_size
    assert card.evaluation is not None
    assert card.evaluation["real_training"], "a shipped policy says what it came to in real training"
    runs = play_policy(load_dynamics("digits-mlp"), load_policy_spec(name), range(4))
    assert not runs.diverged.any()
    assert runs.quality.mean() > 0.8


def test_every_task_with_branch_runs_has_a_policy() -> None:
    trained = [load_card(find_artefact("policies", name).with_suffix(".json")).training.tasks for name in LEARNED]
    assert ("digits-resnet8",) in trained
    assert ("digits-mlp",) in trained
    assert any(len(tasks) > 1 for tasks in trained)
