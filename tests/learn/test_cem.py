"""The cross-entropy method on a problem whose answer is known, and the episodes that it is fitted to."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from autobatch.learn import CemSettings, CrossEntropy
from autobatch.learn._rollouts import Population, episode_returns
from autobatch.policies.learned._network import Network, parameter_count

ENTRIES, LENGTH = 3, 5
KINDS = ("multidiscrete", "discrete")
SPACES = {"discrete": spaces.Discrete(9), "multidiscrete": spaces.MultiDiscrete([5, 3])}


def right(observation: np.ndarray) -> np.ndarray:
    """The best moves: by the first entry the highest or lowest batch move, by the second that of the rate."""
    return np.where(observation[..., :2] > 0.0, [4, 2], [0, 0])


def reward_of(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    if action.shape != (*observation.shape[:-1], 2):
        action = np.stack([np.where(action // 3 == 0, 0, np.where(action // 3 == 2, 4, 2)), action % 3], axis=-1)
    return (action == right(observation)).mean(axis=-1)


class Known(gymnasium.Env):
    """Draws an observation at every step and rewards the right moves; of ends that vary where ``uneven``."""

    def __init__(self, actions: str = "multidiscrete", uneven: bool = False) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (ENTRIES,), np.float32)
        self.action_space = SPACES[actions]
        self.uneven = uneven

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, LENGTH + 1)) if self.uneven else LENGTH
        return self.draw(), {}

    def step(self, action):
        reward = float(reward_of(self.seen, np.asarray(action)))
        self.left -= 1
        return self.draw(), reward, self.left == 0, False, {}

    def draw(self):
        self.seen = self.np_random.uniform(-1.0, 1.0, ENTRIES).astype(np.float32)
        return self.seen


class KnownVector(VectorEnv):
    """The same, many at once."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, actions: str = "multidiscrete") -> None:
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-1.0, 1.0, (ENTRIES,), np.float32)
        self.single_action_space = SPACES[actions]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        shape = LENGTH + 1, ENTRIES
        self.course = np.stack([np.random.default_rng(own).uniform(-1.0, 1.0, shape) for own in seed], axis=1)
        self.course = self.course.astype(np.float32)
        self.at = 0
        return self.course[0], {}

    def step(self, actions):
        reward = reward_of(self.course[self.at], actions)
        self.at += 1
        over = np.full(self.num_envs, self.at == LENGTH)
        return self.course[self.at], reward, over, np.zeros_like(over), {}


SMALL = CemSettings(population=32, episodes=4)


def make(steps: int = 4000, seed: int = 0, **changes) -> CrossEntropy:
    envs = KnownVector(SMALL.population * SMALL.episodes, changes.get("actions", "multidiscrete"))
    return CrossEntropy(
        envs, **{"actions": "multidiscrete", "hidden": (6,), "settings": SMALL} | changes, steps=steps, seed=seed
    )


def fit(method: CrossEntropy) -> list[float]:
    scores = []
    while not method.finished:
        scores.append(method.generation())
    return scores


@pytest.mark.parametrize("actions", KINDS)
def test_it_finds_what_is_right(actions: str) -> None:
    usual = CemSettings()
    envs = KnownVector(usual.population * usual.episodes, actions)
    method = CrossEntropy(envs, actions=actions, steps=200_000, seed=0, hidden=(6,))
    scores = fit(method)
    assert scores[-1] > scores[0]
    network, score = method.network()
    assert score > 0.9 * LENGTH
    seen = np.random.default_rng(1).uniform(-1.0, 1.0, (500, ENTRIES))
    assert reward_of(seen, network.act(seen)).mean() > 0.9
    assert (network.actions, network.sizes[:2]) == (actions, (ENTRIES, 6))


def test_steps_are_those_of_the_episodes() -> None:
    method = make(3000)
    generation = SMALL.population * SMALL.episodes * LENGTH
    fit(method)
    assert (method.steps, method.generations) == (5 * generation, 5)


def test_cut_anywhere_and_restored_it_ends_the_same() -> None:
    whole = make(3000)
    scores, states = [], [whole.state_dict()]
    while not whole.finished:
        scores.append(whole.generation())
        state = whole.state_dict()
        arrays = {name: values.copy() for name, values in state.pop("arrays").items()}
        states.append(json.loads(json.dumps(state)) | {"arrays": arrays})
    network, score = whole.network(8)
    for cut, state in enumerate(states[1:], start=1):
        rest = make(3000)
        rest.load_state_dict(state)
        assert fit(rest) == scores[cut:]
        again, same = rest.network(8)
        assert np.array_equal(again.flat(), network.flat())
        assert same == score
    other = make(3000, seed=1)
    assert fit(other) != scores
    assert fit(make(3000)) == scores


def test_it_goes_on_from_a_network_and_keeps_it_where_nothing_is_better() -> None:
    envs = KnownVector(SMALL.population * SMALL.episodes)
    method = make(200_000)
    fit(method)
    known, score = method.network(64)
    near = CemSettings(population=32, episodes=4, deviation=0.1, extra=0.1)
    again = CrossEntropy(envs, actions="multidiscrete", steps=1, seed=1, hidden=(6,), settings=near, begin=known)
    returns, _ = again._stage.play(Population(known.flat()[None], known.sizes, "multidiscrete"), range(50))
    assert returns.mean() == pytest.approx(score, abs=0.3)
    again.generation()
    assert again.network(64)[1] >= score - 0.1
    far = CemSettings(population=2, episodes=1, deviation=100.0)
    lost = CrossEntropy(envs, actions="multidiscrete", steps=1, seed=1, hidden=(6,), settings=far, begin=known)
    lost.generation()
    assert np.allclose(lost.network(64)[0].flat(), known.flat(), atol=1e-6)
    with pytest.raises(ValueError, match="expected a network of layers"):
        make(hidden=(7,), begin=known)


def test_a_state_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="another size"):
        make(hidden=(7,)).load_state_dict(make().state_dict())


@pytest.mark.parametrize("actions", KINDS)
def test_a_population_acts_as_its_networks_do(actions: str) -> None:
    generator = np.random.default_rng(2)
    sizes = (ENTRIES, 6, 4, 8 if actions == "multidiscrete" else 9)
    vectors = generator.standard_normal((7, parameter_count(sizes)))
    population = Population(vectors, sizes, actions)
    networks = [Network.of_flat(vector, sizes, activation="tanh", actions=actions) for vector in vectors]
    for policy in (np.repeat(np.arange(7), 5), generator.integers(7, size=35), np.array([3])):
        seen = generator.uniform(-1.0, 1.0, (len(policy), ENTRIES)).astype(np.float32)
        expected = [networks[own].act(seen[index]) for index, own in enumerate(policy)]
        assert np.array_equal(population(seen, policy), np.stack(expected))
        again = Population.from_dict(json.loads(json.dumps(population.to_dict())))
        assert np.array_equal(again(seen, policy), np.stack(expected))


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_returns_are_those_of_a_loop_by_hand(count: int, mode: AutoresetMode) -> None:
    """However many are played side by side: what fills up a batch counts nowhere."""
    generator = np.random.default_rng(3)
    sizes, seeds = (ENTRIES, 8), [11, 5, 6]
    networks = [
        Network.of_flat(
            generator.standard_normal(parameter_count(sizes)), sizes, activation="tanh", actions="multidiscrete"
        )
        for _ in range(4)
    ]
    expected, steps = np.zeros((4, 3)), 0
    for policy, network in enumerate(networks):
        for index, seed in enumerate(seeds):
            env, over = Known(uneven=True), False
            seen, _ = env.reset(seed=seed)
            while not over:
                seen, reward, over, _, _ = env.step(network.act(seen))
                expected[policy, index] += reward
                steps += 1
    envs = SyncVectorEnv([lambda: Known(uneven=True)] * count, autoreset_mode=mode)

    def choose(seen, policy):
        return np.stack([networks[own].act(row) for own, row in zip(policy, seen, strict=True)])

    returns, taken = episode_returns(envs, choose, 4, seeds)
    assert returns == pytest.approx(expected)
    assert taken == steps
