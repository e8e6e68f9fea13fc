"""The search for departures from the rule: it begins at the rule, and what it finds is written as a policy."""

from pathlib import Path

import numpy as np
import pytest

from autobatch.envs.steered import _runs
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn import CemSettings, learn_general, save_general
from autobatch.learn._general import SteeredArena
from autobatch.learn._rollouts import MARGIN, Population
from autobatch.policies import load_learned, load_policy_spec
from autobatch.policies.general import FORK_ENTRIES, HEADS, CourseView
from autobatch.policies.learned._network import HEADS as HEADS_OF
from autobatch.policies.learned._network import parameter_count
from tests.envs.steered_dynamics import STEERED_FAKES

SIZES = (CourseView.size, sum(HEADS))
FORKED_SIZES = (CourseView.size + len(FORK_ENTRIES), sum(HEADS_OF["forked"]))
SETTINGS = SteeredSettings(("short", "long"), start="scouts", vary=True)
FORKS = SteeredSettings(("short", "long"), start="scouts", vary=True, forks=True)
QUICK = CemSettings(population=6, episodes=3, elite=0.4, deviation=3.0)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runs, "load_steered", lambda env, without: STEERED_FAKES[env])


@pytest.mark.parametrize("forks", [False, True])
def test_weights_of_nothing_follow_the_rule(monkeypatch: pytest.MonkeyPatch, forks: bool) -> None:
    arena, told = SteeredArena(FORKS if forks else SETTINGS, 8), []
    advance = arena.runs.advance

    def followed(actions: np.ndarray, rows: np.ndarray) -> object:
        for index, limits in enumerate(arena.runs.limits):
            own = rows[arena.runs.task[rows] == index]
            told.append((actions[own, :4] == arena.runs.course.take(own).suggested(limits.take(own))).all())
            told.append(not actions[own, 4:].any())
        return advance(actions, rows)

    monkeypatch.setattr(arena.runs, "advance", followed)
    sizes, kind = (FORKED_SIZES, "forked") if forks else (SIZES, "steered")
    arena.play(Population(np.zeros((1, parameter_count(sizes))), sizes, kind), range(8))
    assert told
    assert all(told)


@pytest.mark.parametrize(("settings", "sizes", "kind"), [(SETTINGS, SIZES, "steered"), (FORKS, FORKED_SIZES, "forked")])
def test_an_episode_is_the_same_alone_and_beside_its_twins(settings, sizes, kind) -> None:
    policies = Population(3.0 * np.random.default_rng(0).normal(size=(2, parameter_count(sizes))), sizes, kind)
    together, steps = SteeredArena(settings, 12).play(policies, range(6))
    apart, again = SteeredArena(settings, 1).play(policies, range(6))
    assert together == pytest.approx(apart, abs=1e-6)
    assert steps == again


def test_what_is_found_is_written_with_what_it_has_seen(tmp_path: Path) -> None:
    told: list[int] = []
    result = learn_general(
        SETTINGS, steps=200, seed=1, search=QUICK, judged=12, observe=lambda steps, score: told.append(steps)
    )
    assert told == sorted(told)
    assert told[-1] == result.steps >= 200
    assert result.gain.shape == (12,)
    assert set(result.task) <= {"short", "long"}


def test_the_same_seed_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (learn_general(SETTINGS, steps=100, seed=3, search=QUICK, judged=4) for _ in range(2))
    assert (first.network.flat() == second.network.flat()).all()
    monkeypatch.setattr("autobatch.learn._general.load_task", lambda env: STEERED_FAKES[env].task)
    path = save_general(tmp_path / "any.yaml", first, SETTINGS, seed=3, seconds=1.0, command="again")
    assert load_policy_spec(path).kind == "learned-general"
    network, card = load_learned(str(tmp_path / "any"))
    assert (network.flat() == first.network.flat()).all()
    assert card.margin == MARGIN
    assert card.seen == first.seen
    assert card.training.tasks == ("short", "long")
    assert card.evaluation is not None
    assert card.evaluation["learning"]["without"] == []
