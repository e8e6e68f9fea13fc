"""Learning departures from the rule, from a plan to files: on surrogates, on real trainings, and what is kept."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from autobatch._errors import ConfigError
from autobatch.envs.steered import _runs
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn import CemSettings, LearningPlan, _beginning, _train_policy, learn_general, train_policy
from autobatch.learn._beginning import Beginning, choose, judge
from autobatch.learn._general import SteeredArena
from autobatch.learn._many_tasks import ManyTasks
from autobatch.learn._rollouts import ANYWHERE, JUDGING_SEED, NOWHERE, Population
from autobatch.policies import (
    PolicyCard,
    PolicyTraining,
    load_card,
    load_learned,
    load_policy_spec,
    make_policy,
    save_learned,
)
from autobatch.policies.general import HEADS, CourseView, GeneralPolicy, lead
from autobatch.policies.learned._network import Network, parameter_count
from autobatch.policies.steer import ForkingPolicy
from tests.envs.steered_dynamics import STEERED_FAKES
from tests.learn.test_train_policy import Watcher, policy_files
from tests.training.tiny import tiny_task

SIZES = (CourseView.size, sum(HEADS))
QUICK = CemSettings(population=6, episodes=3, elite=0.4, deviation=3.0, extra=3.0)
SEEN = tuple((-1.0, 1.0) for _ in CourseView.names)
FAR_OFF = ((1.0, 1.0), *SEEN[1:])
"""Ranges that no training is within: none is asked about once it is done."""


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runs, "load_steered", lambda env, without: STEERED_FAKES[env])
    monkeypatch.setattr(_train_policy, "load_task", lambda env: STEERED_FAKES[env].task)
    monkeypatch.setattr(_train_policy, "_cem_settings", lambda _: QUICK)
    monkeypatch.setattr(_train_policy, "_judging_seeds", lambda _: range(JUDGING_SEED, JUDGING_SEED + 24))
    monkeypatch.setattr(_train_policy, "_KEPT_EVERY_SECONDS", -1.0)


def on_surrogates(**changes) -> LearningPlan:
    return LearningPlan(("short", "long"), **{"actions": "steered", "hidden": (), "steps": 300} | changes)


@pytest.mark.usefixtures("_fakes")
def test_on_surrogates_it_finds_what_the_search_alone_finds(tmp_path: Path) -> None:
    result = train_policy(on_surrogates(seeds=(3,)), tmp_path / "mine")
    settings = SteeredSettings(("short", "long"), start="scouts", vary=True)
    alone = learn_general(settings, steps=300, seed=3, search=QUICK, judged=24)
    network, card = load_learned(str(tmp_path / "mine" / "mine"))
    assert not result.nothing_better
    assert (network.flat() == alone.network.flat()).all()
    assert result.above_rule == pytest.approx((alone.gain.mean(), alone.gain.std(ddof=1) / np.sqrt(24)))
    assert (card.seen, card.margin, card.batch_sizes) == (alone.seen, 1.0, None)
    assert card.evaluation["learning"]["kept"] == "what was found"
    assert isinstance(make_policy(load_policy_spec(result.policy)), GeneralPolicy)


@pytest.mark.usefixtures("_fakes")
def test_forks_are_learned_and_run_with_forks(tmp_path: Path) -> None:
    result = train_policy(on_surrogates(seeds=(0,), actions="forked"), tmp_path / "mine")
    alone = learn_general(
        SteeredSettings(("short", "long"), start="scouts", vary=True, forks=True),
        steps=300,
        seed=0,
        search=QUICK,
        judged=24,
    )
    assert not result.nothing_better
    network, card = load_learned(str(tmp_path / "mine" / "mine"))
    assert (network.flat() == alone.network.flat()).all()
    assert (card.actions, card.observation_size) == ("forked", CourseView.size + 5)
    assert len(card.seen) == card.observation_size
    policy = make_policy(load_policy_spec(result.policy))
    assert isinstance(policy, GeneralPolicy)
    assert isinstance(policy, ForkingPolicy)


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize("stop_at", [1, 3])
def test_interrupted_and_resumed_it_ends_the_same(tmp_path: Path, stop_at: int) -> None:
    plan = on_surrogates(seeds=(0, 1))
    whole = train_policy(plan, tmp_path / "one" / "same")
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, tmp_path / "two" / "same", Watcher(stop_at))
    again = train_policy(plan, tmp_path / "two" / "same", resume=True)
    assert policy_files(again.policy.parent) == policy_files(whole.policy.parent)
    assert replace(again, policy=whole.policy, seconds=whole.seconds) == whole


@pytest.mark.usefixtures("_fakes")
def test_where_nothing_better_is_found_it_is_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_train_policy, "_cem_settings", lambda _: replace(QUICK, deviation=0.0, extra=0.0))
    result = train_policy(on_surrogates(), tmp_path / "mine")
    assert (result.nothing_better, result.above_rule) == (True, (0.0, 0.0))
    assert not load_learned(str(tmp_path / "mine" / "mine"))[0].flat().any()
    assert load_policy_spec(result.policy).description.startswith("As steer: nothing better was found on surrogates")


@pytest.mark.usefixtures("_fakes")
def test_what_is_hardly_better_is_not_kept() -> None:
    """A network that stops at once is worse than the rule, and one that never departs is no better."""
    begun = Beginning.of(on_surrogates())
    arena, seeds = SteeredArena(SteeredSettings(("short", "long"), start="scouts", vary=True), 24), range(24)
    vector = np.zeros(parameter_count(SIZES))
    vector[-1] = 9.0
    stops = judge(arena, begun, Network.of_flat(vector, SIZES, activation="tanh", actions="steered"), seeds)
    kept = choose(arena, begun, stops, seeds)
    assert kept.nothing_better
    assert kept.found_above[0] < 0.0
    same = choose(arena, begun, judge(arena, begun, begun.network, seeds), seeds)
    assert (same.nothing_better, same.found_above) == (True, (0.0, 0.0))


def test_outside_of_what_was_seen_the_rule_decides() -> None:
    generator = np.random.default_rng(0)
    views = generator.uniform(-1.0, 1.0, (2, SIZES[0])).astype(np.float32)
    vectors = 9.0 * generator.normal(size=(2, parameter_count(SIZES)))
    seen = np.tile(ANYWHERE, (2, SIZES[0], 1))
    seen[1] = NOWHERE
    at = np.array([0, 1])
    free = Population(vectors, SIZES, "steered", margin=0.0)
    bound = Population.from_dict(Population(vectors, SIZES, "steered", margin=0.0, seen=seen).to_dict())
    assert (bound(views, at)[0] == free(views, at)[0]).all()
    assert (bound(views, at)[1] == free.choose(lead(views, 1.0))[1]).all()
    assert (free(views, at)[1] != bound(views, at)[1]).any()


# On real trainings ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of seconds, of which nothing is recorded."""
    env = tmp_path_factory.mktemp("envs") / "tiny"
    env.mkdir()
    (env / "env.yaml").write_text(yaml.safe_dump(tiny_task().model_dump(mode="json", exclude_none=True)))
    return env


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few = CemSettings(population=4, episodes=1, elite=0.5, deviation=3.0)
        patch.setattr(_train_policy, "_cem_settings", lambda _: few)
        yield


def begin_with(path: Path, seen: tuple = SEEN, rule: dict | None = None) -> Path:
    """A learned policy that departs now and then."""
    vector = np.random.default_rng(5).normal(size=parameter_count(SIZES))
    network = Network.of_flat(vector, SIZES, activation="tanh", actions="steered")
    training = PolicyTraining(algorithm="cem", tasks=("other",), steps=1, seeds=(0,), seconds=1.0)
    card = PolicyCard.of(network, training, margin=1.0, seen=seen)
    return save_learned(path / "begun.yaml", network, card, rule=rule)


def on_trainings(env: Path, **changes) -> LearningPlan:
    given = {"actions": "steered", "hidden": (), "on": "train", "cost": "examples", "device": "cpu", "steps": 6}
    return LearningPlan((str(env),), **given | changes)


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory, _few: None) -> tuple[LearningPlan, Path, Watcher]:
    place, watcher = tmp_path_factory.mktemp("real"), Watcher()
    plan = on_trainings(tiny, begin=str(begin_with(place)))
    train_policy(plan, place / "mine", watcher)
    return plan, place / "mine", watcher


def test_from_a_policy_on(tuned) -> None:
    plan, out, watcher = tuned
    assert watcher.told[-1].steps >= plan.steps
    network, card = load_learned(str(out / "mine"))
    begun, before = load_learned(str(out.parent / "begun"))
    learning = card.evaluation["learning"]
    assert (learning["on"], learning["begun_with"]) == ("train", plan.begin)
    assert (card.training.tasks, card.actions, card.batch_sizes) == (("tiny",), "steered", None)
    kept = (network.flat() == begun.flat()).all()
    assert learning["kept"] == ("what it began with" if kept else "what was found")
    assert card.seen == before.seen  # whose ranges are the widest that there are
    assert not list((out / "episodes").iterdir())


def test_forks_are_learned_on_real_trainings_too(tiny, tmp_path, monkeypatch) -> None:
    tried, steps = [], ManyTasks.step

    def told(env, action):
        stepped = steps(env, action)
        tried.append((len(action), "forked" in stepped[4]))
        return stepped

    monkeypatch.setattr(ManyTasks, "step", told)
    train_policy(on_trainings(tiny, actions="forked"), tmp_path / "mine")
    card = load_card(tmp_path / "mine" / "mine.json")
    assert (card.actions, card.evaluation["learning"]["on"]) == ("forked", "train")
    assert set(tried) == {(5, True)}


def test_cut_in_mid_generation_it_goes_on_with_the_rest(tuned, tmp_path, monkeypatch) -> None:
    plan, out, _ = tuned
    played, reset = [], ManyTasks.reset

    def counted(env, **options):
        if len(played) == 6:
            monkeypatch.setattr(ManyTasks, "reset", reset)
            raise KeyboardInterrupt
        played.append(options["seed"])
        return reset(env, **options)

    monkeypatch.setattr(ManyTasks, "reset", counted)
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, tmp_path / "mine")
    train_policy(plan, tmp_path / "mine", resume=True)
    assert policy_files(tmp_path / "mine") == policy_files(out)
    ours, theirs = (load_card(place / "mine.json") for place in (tmp_path / "mine", out))
    assert (ours.seen, ours.evaluation) == (theirs.seen, theirs.evaluation)


def test_what_it_began_with_is_kept_as_it_was(tiny, tmp_path, monkeypatch) -> None:
    """Weights, what they go by, and the rule; where trainings are outside of that, it is the rule that was played."""
    still = CemSettings(population=2, episodes=1, elite=0.5, deviation=0.0, extra=0.0)
    monkeypatch.setattr(_train_policy, "_cem_settings", lambda _: still)
    monkeypatch.setattr(_beginning.Beginning, "kept_by", lambda begun, network: True)
    begin = begin_with(tmp_path, seen=FAR_OFF, rule={"scouts": 2})
    result = train_policy(on_trainings(tiny, begin=str(begin), steps=1), tmp_path / "mine")
    assert (result.nothing_better, result.above_rule) == (True, (0.0, 0.0))
    network, card = load_learned(str(tmp_path / "mine" / "mine"))
    begun, before = load_learned(str(tmp_path / "begun"))
    assert (network.flat() == begun.flat()).all()
    assert (card.sha256, card.seen, card.margin) == (before.sha256, before.seen, before.margin)
    spec = load_policy_spec(result.policy)
    assert spec.parameters["rule"] == {"scouts": 2}
    assert spec.description == f"As {begin}: nothing better was found on trainings of tiny."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "ppo"}, "'steered' are learned by cem, not by ppo"),
        ({"actions": "stered"}, "did you mean 'steered'"),
        ({"algorithm": "ppo", "actions": "forked"}, "'forked' are learned by cem, not by ppo"),
        ({"actions": "forked", "begin": "learned-general"}, "and actions 'steered', the plan hidden"),
        ({"begin": "steer"}, "'learned' or 'learned-general', and 'steer' is of kind 'steer'"),
        ({"begin": "learned-digits"}, "actions 'multidiscrete', the plan hidden"),
        ({"hidden": (4,), "begin": "learned-general"}, r"has hidden layers \[\]"),
    ],
)
def test_what_cannot_be_is_refused(tiny, tmp_path, changes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        train_policy(on_trainings(tiny, **changes), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
