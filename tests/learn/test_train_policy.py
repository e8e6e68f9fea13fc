"""Learning a policy from tasks to files, and what it does on the dynamics that it was learned on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from autobatch._errors import CheckpointError, ConfigError, LibraryError, OutputError, UnknownNameError
from autobatch.cells import Cells, Identity, Worker, find_cells, status_of
from autobatch.envs import SurrogateVectorEnv
from autobatch.envs.surrogate import Dynamics, _ensemble, load_dynamics
from autobatch.evidence import SurrogateRuns, play_policy
from autobatch.evidence._workers import maker_for
from autobatch.learn import (
    CemSettings,
    LearnedResult,
    LearningObserver,
    LearningPlan,
    LearningProgress,
    _train_policy,
    train_policy,
)
from autobatch.learn._many_tasks import ManyTasks
from autobatch.policies import Observation, PolicySpec, load_card, load_policy_spec, make_policy
from autobatch.policies.learned._policy import LearnedPolicy
from autobatch.training import load_data
from tests.beacons.synthetic import Law
from tests.beacons.synthetic import make_library as make_lawful_library
from tests.envs.surrogate.synthetic_runs import EPOCHS, RATES, SIZES, make_folder
from tests.processes import FORKED
from tests.training.tiny import COSTS, tiny_task

SHORT = 13_000
"""Steps of three generations."""


@pytest.fixture(scope="module", autouse=True)
def _fitted_roughly() -> Iterator[None]:
    """What is learned is held against the dynamics that it was learned on, however well those know the trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ensemble, "_STEPS", (100, 100))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("envs") / "known")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings, of which a task offers the larger batch sizes only."""
    other = make_folder(tmp_path_factory.mktemp("envs") / "upper")
    task = yaml.safe_load((other / "env.yaml").read_text())
    (other / "env.yaml").write_text(yaml.safe_dump(task | {"batch_sizes": [32, 128]}))
    return other


@pytest.fixture(scope="module")
def dynamics(folder: Path) -> Dynamics:
    return load_dynamics(folder)


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LearnedResult, "Watcher", LearningPlan]:
    watcher, plan = Watcher(), make_plan(folder, steps=60_000, seeds=(3, 1))
    out = tmp_path_factory.mktemp("learned") / "mine"
    return train_policy(plan, out, watcher, command="autobatch train-policy"), watcher, plan


class Watcher(LearningObserver):
    """Keeps what it is told; interrupts at a place."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.told: list[LearningProgress] = []
        self.finished: dict[int, float] = {}
        self.stop_at = stop_at

    def progressed(self, progress: LearningProgress) -> None:
        self.told.append(progress)
        if self.stop_at is not None and len(self.told) >= self.stop_at:
            raise KeyboardInterrupt

    def seed_finished(self, seed: int, score: float) -> None:
        self.finished[seed] = score


def make_plan(*folders: Path, **changes) -> LearningPlan:
    return LearningPlan(envs=tuple(map(str, folders)), **{"steps": SHORT} | changes)


def policy_files(out: Path) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in out.glob(f"{out.name}.*") if path.suffix != ".json"}


def fixed(size: int, lr: float) -> PolicySpec:
    return PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": size, "lr": lr})


# What comes of it ----------------------------------------------------------------------------------------------------


def test_it_writes_a_policy_that_can_be_used(learned) -> None:
    result, watcher, plan = learned
    out = result.policy.parent
    assert {path.name for path in out.glob("mine.*")} == {"mine.yaml", "mine.safetensors", "mine.json"}
    assert (out / "seed-3" / "progress.csv").read_text().startswith("steps,mean_return\n6144,")
    assert isinstance(make_policy(load_policy_spec(result.policy)), LearnedPolicy)
    card = load_card(out / "mine.json")
    assert (card.batch_sizes, card.learning_rates, card.actions) == (SIZES, RATES, "multidiscrete")
    training = card.training
    assert (training.algorithm, training.tasks, training.steps) == ("cem", ("known",), plan.steps)
    assert training.command == "autobatch train-policy"
    told = [progress for progress in watcher.told if progress.seed == 3]
    assert [progress.steps for progress in told] == [512 * EPOCHS * count for count in range(1, len(told) + 1)]
    assert told[-1].steps >= plan.steps == told[-1].total
    assert [progress.seconds for progress in told] == sorted(progress.seconds for progress in told)


def test_the_best_of_the_seeds_is_kept(learned) -> None:
    result, watcher, plan = learned
    assert set(result.returns) == set(plan.seeds)
    assert result.returns == watcher.finished
    assert result.best_seed == max(result.returns, key=result.returns.__getitem__)
    card = load_card(result.policy.with_suffix(".json"))
    assert card.training.seeds[0] == result.best_seed
    kept = {str(seed): round(score, 4) for seed, score in result.returns.items()}
    assert card.evaluation["learning"]["mean_return"] == kept


def test_it_beats_what_does_not_change(learned, dynamics: Dynamics) -> None:
    seeds = range(12)
    ours = play_policy(dynamics, load_policy_spec(learned[0].policy), seeds)
    constants = [play_policy(dynamics, fixed(size, lr), seeds).quality.mean() for size in SIZES for lr in RATES]
    assert ours.quality.mean() > np.mean(constants)
    assert ours.quality.mean() > np.quantile(constants, 0.75)
    assert isinstance(ours, SurrogateRuns)


# Stopping and going on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_interrupted_and_resumed_it_ends_the_same(folder, tmp_path, monkeypatch, stop_at: int) -> None:
    """At the first generation, in the middle, and in the second seed, with a checkpoint at every generation."""
    monkeypatch.setattr(_train_policy, "_KEPT_EVERY_SECONDS", -1.0)
    plan = make_plan(folder, seeds=(0, 1))
    whole = train_policy(plan, tmp_path / "one" / "same")
    watcher = Watcher(stop_at)
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, tmp_path / "two" / "same", watcher)
    assert not (tmp_path / "two" / "same" / "same.yaml").exists()
    rest = Watcher()
    again = train_policy(plan, tmp_path / "two" / "same", rest, resume=True)
    assert rest.told[0].steps > 0
    assert policy_files(again.policy.parent) == policy_files(whole.policy.parent)
    assert (again.returns, again.best_seed) == (whole.returns, whole.best_seed)
    once_more = train_policy(plan, tmp_path / "two" / "same", resume=True)
    assert policy_files(once_more.policy.parent) == policy_files(whole.policy.parent)


def test_without_a_checkpoint_it_begins_again(folder, tmp_path) -> None:
    plan = make_plan(folder)
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, tmp_path / "two" / "same", Watcher(1))
    again = train_policy(plan, tmp_path / "two" / "same", resume=True)
    whole = train_policy(plan, tmp_path / "one" / "same")
    assert policy_files(again.policy.parent) == policy_files(whole.policy.parent)


def test_what_cannot_be_gone_on_with_is_refused(folder, tmp_path, learned) -> None:
    result, _, plan = learned
    out = result.policy.parent
    with pytest.raises(OutputError, match="--resume"):
        train_policy(plan, out)
    with pytest.raises(CheckpointError, match="'steps' was 60000 and is 70000"):
        train_policy(replace(plan, steps=70_000), out, resume=True)
    with pytest.raises(CheckpointError, match="holds no learning"):
        train_policy(plan, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(OutputError, match="new or empty"):
        train_policy(plan, tmp_path / "full")
    for content in ("{", "[1]", "7"):
        (tmp_path / "full" / "plan.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"plan\.json: damaged"):
            train_policy(plan, tmp_path / "full", resume=True)


@pytest.mark.parametrize("name", ["two words", "plan", "a;b"])
def test_a_folder_that_no_policy_can_be_called_after_is_refused_at_once(folder, tmp_path, name) -> None:
    watcher = Watcher()
    with pytest.raises(OutputError, match="the policy gets the folder's name"):
        train_policy(make_plan(folder), tmp_path / name, watcher)
    assert not watcher.told
    assert not (tmp_path / name).exists()


def test_what_cannot_be_carried_out_leaves_the_folder_free(folder, tmp_path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(ConfigError, match="did you mean 'modelled'"):
        train_policy(make_plan(folder, cost="modeled"), out)
    with pytest.raises(LibraryError, match="autobatch beacons branch"):
        train_policy(make_plan(make_folder(tmp_path / "bare", branches=False)), out)
    assert not out.exists()


def test_a_damaged_checkpoint_is_named(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_train_policy, "_KEPT_EVERY_SECONDS", -1.0)
    plan, out = make_plan(folder), tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, out, Watcher(2))
    path = out / "seed-0" / "cem.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-40], content.replace(b"PCG64", b"PCG65"), b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"cem\.safetensors"):
            train_policy(plan, out, resume=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"on": "surogate"}, "did you mean 'surrogate'"),
        ({"algorithm": "cme"}, "did you mean 'cem'"),
        ({"algorithm": "dqn"}, "use actions 'discrete'"),
        ({"steps": 0}, "at least 1"),
        ({"hidden": ()}, "at least 1"),
        ({"hidden": (8, 0)}, "at least 1"),
        ({"seeds": (1, 1)}, "different seeds"),
        ({"seeds": (-1,)}, "at least 0"),
        ({"envs": ()}, "at least one env"),
        ({"on": "train", "pessimism": 0.1}, "pessimism"),
        ({"pessimism": -0.1}, "pessimism"),
        ({"pessimism": float("nan")}, "pessimism"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        LearningPlan(**{"envs": ("digits-mlp",)} | changes)


# Other ways ----------------------------------------------------------------------------------------------------------


def test_of_several_tasks_it_learns_for_any_ladder(folder, other, tmp_path, dynamics) -> None:
    result = train_policy(make_plan(folder, other), tmp_path / "both")
    card = load_card(result.policy.with_suffix(".json"))
    assert (card.batch_sizes, card.learning_rates) == (None, None)
    assert card.training.tasks == ("known", "upper")
    for task in (dynamics, load_dynamics(other)):
        runs = play_policy(task, load_policy_spec(result.policy), range(3))
        assert np.isfinite(runs.score).all()


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_by_stable_baselines(folder, tmp_path, dynamics, algorithm: str) -> None:
    actions = "discrete" if algorithm == "dqn" else "multidiscrete"
    plan = make_plan(folder, algorithm=algorithm, actions=actions, steps=3500, hidden=(8,))
    watcher = Watcher()
    result = train_policy(plan, tmp_path / "mine", watcher)
    assert watcher.told[-1].steps >= plan.steps
    card = load_card(result.policy.with_suffix(".json"))
    assert (card.actions, card.training.algorithm, card.network.layers[1]) == (actions, algorithm, 8)
    play_policy(dynamics, load_policy_spec(result.policy), range(2))
    again = train_policy(plan, tmp_path / "mine", resume=True)
    assert again.returns == result.returns
    (tmp_path / "mine" / "seed-0" / "seconds.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"seconds\.json: damaged"):
        train_policy(plan, tmp_path / "mine", resume=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of seconds, with beacons and costs."""
    task = tiny_task()
    data, env = load_data(task), tmp_path_factory.mktemp("envs") / "tiny"
    env.mkdir()
    (env / "env.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True)))
    law = Law(train_size=len(data.train_labels), epochs=task.epochs)
    payload = task.fingerprint_payload(data.fingerprint, data.num_classes)
    make_lawful_library(
        task.batch_sizes, task.learning_rates, seeds=(0,), law=law, task=payload, task_name="tiny", costs=COSTS
    ).save(env)
    return env


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_train_policy, "_cem_settings", lambda _: CemSettings(population=4, episodes=1, elite=0.5))


@pytest.fixture(scope="module")
def real(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LearnedResult, Watcher]:
    """A learning of two generations of one epoch, in this process."""
    watcher = Watcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_train_policy, "_cem_settings", lambda _: CemSettings(population=4, episodes=1, elite=0.5))
        return train_policy(real_plan(tiny), tmp_path_factory.mktemp("real") / "mine", watcher), watcher


def real_plan(env: Path, **changes) -> LearningPlan:
    return make_plan(env, on="train", device="cpu", **{"steps": 5, "epochs": 1, "hidden": (4,)} | changes)


def test_on_real_trainings(tiny, real) -> None:
    result, watcher = real
    assert [progress.steps for progress in watcher.told] == [4, 8]
    card = load_card(result.policy.with_suffix(".json"))
    assert (card.batch_sizes, card.evaluation["learning"]["on"]) == (tiny_task().batch_sizes, "train")
    assert make_policy(load_policy_spec(result.policy)).card == card
    assert not list((result.policy.parent / "episodes").iterdir())  # neither cells nor returns are left


@pytest.mark.usefixtures("_few")
def test_on_real_trainings_from_a_policy_on(tiny, real, tmp_path) -> None:
    begin = str(real[0].policy)
    plan = real_plan(tiny, begin=begin)
    result = train_policy(plan, tmp_path / "mine")
    assert load_card(tmp_path / "mine" / "mine.json").evaluation["learning"]["begun_with"] == begin
    assert result.returns[0] >= real[0].returns[0] - 0.1
    with pytest.raises(CheckpointError, match=r"'begin' was .* and is absent"):
        train_policy(real_plan(tiny), tmp_path / "mine", resume=True)


def test_what_a_search_cannot_begin_with_is_refused(tiny, real, tmp_path) -> None:
    begin = str(real[0].policy)
    for changes, told in (
        ({"begin": "fixed"}, "'learned' or 'learned-general', and 'fixed' is of kind 'fixed'"),
        (
            {"begin": begin, "hidden": (5,)},
            r"has hidden layers \[4\] and .* the plan hidden \[5\]",
        ),
        ({"begin": begin, "actions": "discrete"}, "give the plan those of the policy"),
        ({"begin": "nobody"}, "nobody"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=told):
            train_policy(real_plan(tiny, **changes), tmp_path / "mine")
    for algorithm in ("ppo", "dqn"):  # asked before the extra is loaded, and before what dqn wants of actions
        with pytest.raises(ConfigError, match=f"cem begins with a policy, {algorithm} does not"):
            real_plan(tiny, algorithm=algorithm, begin=begin)
    assert not (tmp_path / "mine").exists()


@pytest.mark.usefixtures("_few")
def test_on_real_trainings_in_processes_that_stay(tiny, real, tmp_path) -> None:
    result = train_policy(real_plan(tiny, jobs=2), tmp_path / "mine")
    assert policy_files(result.policy.parent).keys() == policy_files(real[0].policy.parent).keys()
    assert result.returns == pytest.approx(real[0].returns)


@pytest.mark.usefixtures("_few")
def test_episodes_that_were_played_are_not_played_again(tiny, real, tmp_path, monkeypatch) -> None:
    """Cut in mid-generation it goes on with the rest, by whatever worker, and ends the same."""
    played, reset = [], ManyTasks.reset

    def counted(env, **options):
        if len(played) == 6:
            monkeypatch.setattr(ManyTasks, "reset", reset)
            raise KeyboardInterrupt
        played.append(options["seed"])
        return reset(env, **options)

    monkeypatch.setattr(ManyTasks, "reset", counted)
    monkeypatch.setattr(Cells, "abandon", lambda cells: None)  # as one that is killed leaves it
    out = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        train_policy(real_plan(tiny), out)
    cells = find_cells(out / "episodes")
    assert (status_of(cells).waiting, len(list(cells.folder.glob("*.json")))) == (2, 2)
    make = maker_for(cells, device="auto", data_dir=None, trust_code=False)
    assert Worker(cells, make, Identity(cells.workers), pause=pytest.fail).run().done == 2
    monkeypatch.setattr(ManyTasks, "reset", lambda env, **options: (played.append(0), reset(env, **options))[1])
    again = train_policy(real_plan(tiny), out, resume=True)
    # What is judged in the end: the distribution's mean and two elites on two episodes, the best on two more, and four.
    assert len(played) - 6 == 6 + 2 + 4
    assert again.returns == real[0].returns
    assert policy_files(again.policy.parent)[".safetensors"] == policy_files(real[0].policy.parent)[".safetensors"]


def test_single_steps_of_real_trainings_go_on_from_the_agents_checkpoint(tiny, tmp_path, monkeypatch) -> None:
    asked: list[str] = []  # how processes are to be started; forked, they save seconds each
    context = "gymnasium.vector.async_vector_env.multiprocessing.get_context"
    monkeypatch.setattr(context, lambda method=None: asked.append(method) or FORKED)

    class Interrupting(Watcher):
        def progressed(self, progress: LearningProgress) -> None:
            super().progressed(progress)
            if progress.steps > 16:
                raise KeyboardInterrupt

    plan = real_plan(tiny, algorithm="dqn", actions="discrete", steps=32, epochs=2, jobs=2)
    with pytest.raises(KeyboardInterrupt):
        train_policy(plan, tmp_path / "mine", Interrupting())
    watcher = Watcher()
    assert train_policy(plan, tmp_path / "mine", watcher, resume=True).policy.exists()
    assert 16 < watcher.told[0].steps < watcher.told[-1].steps == 32
    assert asked == ["spawn"] * 2


def test_an_engine_is_for_whole_episodes_of_real_training(folder, tiny, tmp_path) -> None:
    for plan in (make_plan(folder), real_plan(tiny, algorithm="ppo")):
        with pytest.raises(ConfigError, match="engine: 'ray' is for whole episodes of real training"):
            train_policy(plan, tmp_path / "mine", engine="ray")
    with pytest.raises(ConfigError, match="there is no engine 'rey'"):
        train_policy(real_plan(tiny), tmp_path / "mine", engine="rey")
    assert not (tmp_path / "mine").exists()


# Policies on surrogates ----------------------------------------------------------------------------------------------


def test_policies_see_what_agents_see(learned, folder, dynamics: Dynamics, monkeypatch) -> None:
    """With the same member and no noise, a learned policy meets the observations of the environment."""
    spec = load_policy_spec(learned[0].policy)
    seen: list[np.ndarray] = []
    decide = LearnedPolicy.decide

    def watched(self: LearnedPolicy, observation: Observation):
        decision = decide(self, observation)
        seen.append(self._view.array(observation, self._trail))
        return decision

    monkeypatch.setattr(LearnedPolicy, "decide", watched)
    runs = play_policy(dynamics, spec, [4], noise=False)
    member = int(np.random.default_rng([4, 0x706C6179]).integers(dynamics.members))
    envs = SurrogateVectorEnv(1, env=str(folder), member=member, noise=False)
    network = make_policy(spec).network
    observations, _ = envs.reset(seed=0)
    for epoch in range(EPOCHS):
        assert np.allclose(observations[0], seen[epoch], atol=1e-6)
        observations, _, _, _, infos = envs.step(network.act(observations))
    assert infos["score"][0] == pytest.approx(runs.score[0])


def test_runs_follow_from_their_seeds_and_without_noise_from_the_member(dynamics: Dynamics) -> None:
    three, one = (play_policy(dynamics, fixed(32, 0.1), seeds) for seeds in (range(3), [2]))
    assert len(set(three.score)) == 3
    assert three.score[2] == pytest.approx(one.score[0])
    dear, cheap = (play_policy(dynamics, fixed(size, 0.1), range(3)).cost for size in (8, 128))
    assert (dear > cheap).all()
    silent = play_policy(dynamics, fixed(128, 0.2), range(6), noise=False)
    assert len(np.unique(silent.score)) <= dynamics.members


def test_what_diverged_stays_as_it_was(dynamics: Dynamics, monkeypatch) -> None:
    """From the third epoch on nothing is trained, paid or made better."""
    train, epochs = Dynamics.train, iter(range(EPOCHS))

    def breaks(self, *arguments, **settings):
        state, outcome = train(self, *arguments, **settings)
        broken = np.array([True, False]) & (next(epochs) == 2)
        state.seen[broken] = np.maximum(self.guessing, state.seen[broken])
        state.scored[broken, 2] = np.exp(state.seen[broken, 0])
        return state, replace(outcome, diverged=broken)

    monkeypatch.setattr(Dynamics, "train", breaks)
    runs = play_policy(dynamics, fixed(32, 0.1), [0, 1])
    assert runs.diverged.tolist() == [True, False]
    assert runs.quality[0] == -1.0
    assert runs.score[0] >= np.log(10) > runs.score[1]
    assert runs.cost[0] == pytest.approx(runs.cost[1] * 3 / EPOCHS)


def test_the_plan_is_kept_as_it_was_asked(learned) -> None:
    result, _, plan = learned
    stored = json.loads((result.policy.parent / "plan.json").read_text())
    assert stored["steps"] == plan.steps
    assert stored["seeds"] == list(plan.seeds)
