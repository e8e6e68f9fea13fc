"""Who meets whom on which tasks, training it all, and what is said over all tasks."""

import csv
import json
import math
import pickle
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest
from scipy.stats import trim_mean, wilcoxon

from autobatch import CheckpointError, ConfigError, LibraryError, OutputError
from autobatch.beacons import BeaconLibrary
from autobatch.cells import Cells, work_at
from autobatch.evidence import comparison_markdown, load_runs, tables_by_task
from autobatch.evidence._workers import maker_for
from autobatch.evidence.bench import _plan as planning
from autobatch.evidence.bench import _runs as running
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._overall import against_baselines, aggregate
from autobatch.policies import PolicySpec, Quality
from autobatch.policies.learned import PolicyCard, PolicyTraining, load_card, save_learned
from autobatch.policies.rivals import RmgdParameters, RmgdPolicy
from autobatch.report import modelled_seconds
from autobatch.training import load_epochs, load_run_config, load_task
from autobatch.training._trial import Trial
from tests.evidence.bench.benched import Seen, compare
from tests.policies.learned.test_learned import make_network
from tests.training.tiny import COSTS

pytestmark = pytest.mark.usefixtures("unpainted")
NAN = float("nan")
SIZES = (8, 16, 32)


ALL = ("fixed", "random", "stages", "beacon-follow", "bandit")


def rows_of(evaluation):
    with (evaluation.out / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_policies_and_baselines_are_trained_and_told_apart(home):
    seen = Seen()
    evaluation = compare(home, ("beacon-follow",), against=ALL, observer=seen)
    rows = rows_of(evaluation)
    names = ["beacon-follow", *dict.fromkeys(row["policy"] for row in rows if "fixed s" in row["labels"])]
    assert len(rows) == 2 * (1 + 3 + 1 + 1) == len(seen.trained)
    # Every rung is at its own best recorded rate, and the best beacon is the best of them.
    library = BeaconLibrary.load(home / "envs" / "tiny")
    best = library.best_fixed()
    for size in SIZES:
        lowest = min(
            (one for one in library.results() if one.batch_size == size), key=lambda one: one.mean["validation_loss"]
        )
        assert f"s{size}-lr{lowest.lr:g}" in names
    (reference,) = {row["policy"] for row in rows if "best fixed beacon" in row["labels"]}
    assert reference == evaluation.tasks[0].target.policy == f"s{best.batch_size}-lr{best.lr:g}"
    # Only what looks at the position measures, and pays for it.
    measuring = {row["policy"] for row in rows if int(row["samples"])}
    assert measuring == {"beacon-follow"}
    assert {row["policy"] for row in rows if load_run_config(evaluation.out / row["run"]).measure} == measuring
    # Figures by hand: quality, ratios within a seed, the gap in hindsight.
    quality = Quality.of(library)
    clock = {row["seed"]: float(row["seconds"]) for row in rows if row["policy"] == reference}
    price = COSTS.training_seconds(best.batch_size, best.mean["steps"], 4)
    assert evaluation.tasks[0].costs.step_seconds == COSTS.step_seconds
    for row in rows:
        assert float(row["quality"]) == pytest.approx(quality(float(row["validation_loss"])))
        assert float(row["measured_ratio"]) == pytest.approx(float(row["seconds"]) / clock[row["seed"]])
        assert float(row["modelled_ratio"]) == pytest.approx(float(row["modelled_seconds"]) / price)
    means = {name: fmean(float(row["validation_loss"]) for row in rows if row["policy"] == name) for name in set(names)}
    task = evaluation.tasks[0]
    assert task.hindsight == min((name for name in means if name != "beacon-follow"), key=means.get)
    gaps = {one.policy: one.gap for one in task.policies}
    assert gaps["beacon-follow"] == pytest.approx(means["beacon-follow"] - means[task.hindsight])
    assert gaps[task.hindsight] == 0.0
    # Over all tasks, and against each baseline.
    own = [float(row["quality"]) for row in rows if row["policy"] == "beacon-follow"]
    assert evaluation.aggregates[0].label == "beacon-follow"
    assert evaluation.aggregates[0].quality.value == pytest.approx(trim_mean(own, 0.25))
    assert {one.baseline.split(",")[0] for one in evaluation.against} >= {"best fixed beacon", "random", "rmgd"}
    figures = json.loads((evaluation.out / "comparison.json").read_text())
    assert figures["seeds"] == [100, 101]
    assert len(figures["tasks"][0]["runs"]) == len(rows)
    report = (evaluation.out / "comparison.md").read_text()
    assert report == comparison_markdown(evaluation)
    for phrase in (
        "| **beacon-follow** |",
        "Holm",
        "hindsight",
        "s32-to-128 is left out, for its ladder has no 64, 128",
    ):
        assert phrase in report
    assert seen.left[-1] == 0.0
    assert all(left > 0.0 for left in seen.left[:-1])


def test_nothing_is_trained_twice_and_more_may_be_asked_for(home, monkeypatch):
    wanted = {"policies": ("rmgd",), "against": ("fixed",)}
    first = compare(home, **wanted)
    with monkeypatch.context() as patch:
        patch.setattr(running, "load_data", None)  # not even the data are looked at
        assert comparison_markdown(compare(home, **wanted)) == comparison_markdown(first)
    seen = Seen()
    compare(home, ("rmgd", "random"), seeds=(100, 101, 102), against=("fixed",), observer=seen)
    assert len(seen.trained) == 2 * 1 + 5
    assert {name for name in seen.trained if "seed 102" not in name} == {"tiny random seed 100", "tiny random seed 101"}


def test_an_interrupted_evaluation_goes_on_as_if_nothing_had_been(home, monkeypatch):
    whole = compare(home, seeds=(7, 8), out=home / "whole", against=["random"])
    with pytest.raises(KeyboardInterrupt):
        compare(home, ("rmgd",), seeds=(7, 8), against=("random",), observer=Seen(1))
    epoch, calls = Trial.period, []

    def interrupted(self, *arguments):
        calls.append(self)
        if len(calls) == 3:  # in mid-run, after two epochs
            raise KeyboardInterrupt
        return epoch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "period", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(home, ("rmgd",), seeds=(7, 8), against=("random",))
    (cut,) = [path for path in (home / "out" / "tiny").glob("*/epochs.jsonl") if len(load_epochs(path.parent)) == 2]
    went_on = compare(home, ("rmgd",), seeds=(7, 8), against=("random",))
    assert len(load_epochs(cut.parent)) == 4
    timeless = [
        [
            (one.policy, one.seed, one.validation_loss, one.test_error, one.modelled_seconds, one.batch_sizes)
            for one in task.runs
        ]
        for evaluation in (whole, went_on)
        for task in evaluation.tasks
    ]
    assert timeless[0] == timeless[1]


def test_each_seed_starts_with_another_policy(home):
    seen = Seen()
    found = compare(home, ("rmgd", "s8"), seeds=(1, 2, 3), against=("random",), observer=seen)
    order = [found.tasks[0].target.policy, "rmgd", "s8", "random"]
    assert seen.trained == [
        f"tiny {name} seed {seed}" for turn, seed in enumerate((1, 2, 3)) for name in order[turn:] + order[:turn]
    ]


def test_a_task_without_beacons_does_without_what_needs_them(home):
    seen = Seen()
    evaluation = compare(home, ("rmgd",), ("bare",), (5,), against=("fixed", "beacon-follow"), observer=seen)
    assert {row["policy"] for row in rows_of(evaluation)} == {"rmgd", "s8-lr0.1", "s16-lr0.1"}
    assert any("beacon-follow is left out" in note for note in seen.notes)
    (task,) = evaluation.tasks
    assert task.target.policy == task.policies[0].policy == task.hindsight
    assert task.target.what == "best fixed run in hindsight"
    assert {one.quality for one in task.runs if one.policy == task.hindsight} == {1.0}
    assert {one.policy for one in task.tests} == {"rmgd", *({"s8-lr0.1", "s16-lr0.1"} - {task.hindsight})}
    assert {one.modelled_ratio for one in task.runs if one.policy == task.hindsight} == {1.0}
    with pytest.raises(LibraryError, match="'beacon-follow' needs beacons, and task 'bare' has none"):
        compare(home, ("beacon-follow",), ("bare",), against=("fixed",))


def test_a_fixed_policy_to_compare_with_stands_for_the_best_fixed_beacon_where_there_is_none(home):
    evaluation = compare(home, ("rmgd",), ("bare",), (5, 6), against=("s16-lr0.1",))
    (task,) = evaluation.tasks
    assert (task.target.policy, task.hindsight) == ("s16-lr0.1", "s16-lr0.1")
    assert {one.policy for one in task.tests} == {one.policy for one in task.non_inferiority} == {"rmgd"}
    (own,) = (one for one in task.policies if one.policy == "rmgd")
    assert own.modelled_ratio > 0.0
    assert "neither ratios nor tests" not in comparison_markdown(evaluation)


def test_why_there_is_nothing_to_compare_with_is_told(home):
    report = comparison_markdown(compare(home, ("rmgd",), ("bare",), (5,), against=("random",)))
    assert "There are neither ratios nor tests: without beacons they are to a fixed configuration, and none" in report


def work_in_this_process(cells, plan, make, jobs, tell, **_):
    """Work as processes do, what passes to them pickled, without the seconds that they take."""
    assert jobs == 2
    work_at(cells, plan, pickle.loads(pickle.dumps(make)), 1, tell)


def test_side_by_side_runs_are_the_same_and_marked(home, monkeypatch):
    alone = compare(home, ("rmgd",), seeds=(3,), against=("random",))
    monkeypatch.setattr(running, "work_at", work_in_this_process)
    together = compare(home, seeds=(3,), out=home / "two", against=["random"], jobs=2)
    assert [one.validation_loss for one in alone.tasks[0].runs] == [
        one.validation_loss for one in together.tasks[0].runs
    ]
    assert {one.side_by_side for one in together.tasks[0].runs} == {2}
    assert "trained side by side" in comparison_markdown(together)
    assert "side by side" not in comparison_markdown(alone)


def test_workers_elsewhere_train_the_same_runs_from_what_lies_in_the_directory(home, monkeypatch):
    seen = []

    def work_here(cells, plan, make, jobs, tell, *, on, arguments, cpus):
        seen.append((on, jobs, arguments, cpus))
        cells.put(plan)
        with pytest.raises(ConfigError, match=r"begun on cpu, and go on there, not cuda|'cuda' is not there"):
            maker_for(cells, device="cuda", data_dir=None, trust_code=False)(cells.plans()[0])(
                plan.cells[0], lambda share: None
            )
        make = maker_for(Cells(cells.folder), device="auto", data_dir=None, trust_code=False)
        work_at(cells, plan, make, 1, tell)

    alone = compare(home, ("rmgd",), seeds=(3,), against=("random",))
    monkeypatch.setattr(running, "work_at", work_here)
    together = compare(home, seeds=(3,), out=home / "two", against=["random"], jobs=2, on="slurm:partition=x")
    assert seen == [("slurm:partition=x", 2, ["--device", "auto"], 1)]
    assert [one.validation_loss for one in alone.tasks[0].runs] == [
        one.validation_loss for one in together.tasks[0].runs
    ]
    assert not (home / "two" / ".cells").exists()
    with pytest.raises(ConfigError, match="there is no engine 'slum'"):
        compare(home, seeds=(3,), out=home / "three", on="slum")


def test_a_directory_with_something_else_is_left_alone(home):
    (home / "out").mkdir()
    (home / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"found 'thesis.tex' in it"):
        compare(home)
    assert [path.name for path in (home / "out").iterdir()] == ["thesis.tex"]


def test_runs_of_other_weights_or_parameters_are_not_passed_off_as_these(home, monkeypatch):
    card = SimpleNamespace(training=SimpleNamespace(tasks=("tiny",)), sha256="a" * 64)

    def learned(spec):
        policy = RmgdPolicy(RmgdParameters())
        policy.card = card
        return policy

    mine = PolicySpec(name="mine", kind="rmgd")
    with monkeypatch.context() as patch:
        patch.setattr(planning, "make_policy", learned)
        evaluation = compare(home, (mine,), ("tiny", "bare"), (1,), against=())
        assert [(one.env, one.split) for task in evaluation.tasks for one in task.runs] == [
            ("tiny", "train"),
            ("bare", "unseen"),
        ]
        assert [one.scope for one in evaluation.aggregates] == ["all", "train", "unseen"]
        card.sha256 = "b" * 64
        with pytest.raises(CheckpointError, match="with other weights than it has now"):
            compare(home, (mine,), ("tiny", "bare"), (1,), against=())
    compare(home, ("s8",), seeds=(1,), against=(), out=home / "s8")
    other = PolicySpec(name="s8", kind="fixed", parameters={"batch_size": 16})
    with pytest.raises(CheckpointError, match="another configuration"):
        compare(home, (other,), seeds=(1,), against=(), out=home / "s8")


def instance(policy: str, env: str, seed: int, quality: float, ratio: float, **changes) -> ComparedRun:
    facts = {
        "judged": False,
        "labels": (policy,),
        "split": "",
        "stopped_because": "finished",
        "validation_loss": 1.0 - quality,
        "validation_error": NAN,
        "test_error": NAN,
        "test_loss": NAN,
        "modelled_seconds": ratio,
        "seconds": ratio,
        "measuring_seconds": 0.0,
        "measured_ratio": ratio,
        "optimizer_steps": 1,
        "examples": 1,
        "to_target_seconds": None,
        "to_target_modelled_seconds": None,
        "to_target_examples": None,
        "samples": 0,
        "batch_sizes": "8 ×1",
        "side_by_side": 1,
        "run": f"{env}/{policy}-s{seed}",
    }
    return ComparedRun(env=env, policy=policy, seed=seed, quality=quality, modelled_ratio=ratio, **facts | changes)


def test_comparisons_pair_by_task_and_seed_and_count_nothing_twice():
    ours = [0.9, 0.7, 1.0, 0.8, 0.95, 0.6]
    theirs = [0.8, 0.75, 0.7, 0.5, 0.75, 0.2]
    instances = []
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        env, seed = ("a", "b")[index % 2], index // 2
        split = {"a": "train", "b": "unseen"}[env]
        instances += [
            instance("mine", env, seed, mine, 0.5 + 0.1 * index, judged=True, split=split),
            instance("s8-lr0.1", env, seed, other, 1.0, labels=("best fixed beacon", "fixed s8")),
            instance("s16-lr0.1", env, seed, -1.0, NAN, labels=("fixed s16",), stopped_because="diverged"),
        ]
    found = {(one.baseline, one.scope): one for one in against_baselines(instances)}
    assert set(found) == {
        (baseline, scope)
        for baseline in ("best fixed beacon, fixed s8", "fixed s16")
        for scope in ("all", "train", "unseen")
    }
    beside = found["best fixed beacon, fixed s8", "all"]
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    assert beside.pairs == 6
    assert beside.quality == pytest.approx(fmean(differences))
    assert beside.p_quality == pytest.approx(wilcoxon(differences, method="exact").pvalue)
    assert beside.p_quality_holm == pytest.approx(beside.p_quality)  # the larger of the two p-values of its family
    wins = [[mine > other for mine in ours[start::2] for other in theirs[start::2]] for start in (0, 1)]
    assert beside.improvement.value == pytest.approx(fmean(fmean(some) for some in wins))
    worse = found["fixed s16", "all"]
    assert worse.improvement.value == 1.0
    assert worse.p_quality == pytest.approx(2 * 0.5**6)
    assert worse.p_quality_holm == pytest.approx(4 * 0.5**6)
    assert math.isnan(worse.time)
    sums = {(one.label, one.scope): one for one in aggregate(instances)}
    assert sums["fixed s16", "all"].diverged == 6
    assert sums["mine", "train"].quality.value == pytest.approx(fmean(ours[::2]))
    assert math.isnan(sums["fixed s16", "all"].modelled_ratio.value)


def test_several_tasks_have_one_report_and_each_its_own_figures(home):
    seen = Seen()
    found = compare(home, ("rmgd", "s8"), ("tiny", "bare"), (1, 2), against=("fixed", "s16"), observer=seen)
    tiny, bare = found.tasks
    assert (tiny.target.what, bare.target.what) == ("best fixed beacon", "best fixed run in hindsight")
    assert tiny.recording is not None
    assert bare.recording is None
    assert "bare has no beacons: its fixed runs are at the task's own rate, 0.1" in seen.notes
    # The tests of a task are its own; so is the run that its times are compared with.
    for task in found.tasks:
        assert {run.env for run in task.runs} == {task.env}
        base = [run.modelled_seconds for run in task.runs if run.policy == task.target.policy]
        for run in task.runs:
            assert run.modelled_ratio == pytest.approx(run.modelled_seconds / fmean(base))
    own = next(one for one in found.aggregates if one.label == "rmgd")
    assert (own.envs, own.runs) == (2, 4)
    assert own.quality.value == pytest.approx(
        trim_mean([run.quality for task in found.tasks for run in task.runs if run.policy == "rmgd"], 0.25)
    )
    pooled = {(one.policy, one.figure): one for one in found.non_inferiority}
    assert {policy for policy, _ in pooled} == {"rmgd", "s8"}
    assert pooled["rmgd", "test_loss"].tasks == 2
    report = comparison_markdown(found)
    for phrase in ("## tiny\n", "## bare\n", "## No worse than by 5 % over all tasks?", "### Gap to the best fixed"):
        assert phrase in report
    # One table holds both.
    assert list(tables_by_task(load_runs(found.out))) == ["tiny", "bare"]
    assert [(row["env"], row["policy"]) for row in rows_of(found)] == [
        (run.env, run.policy) for task in found.tasks for run in task.runs
    ]
    # Given again for one task alone, the figures of the other would be lost.
    with pytest.raises(OutputError, match="holds the comparison of task 'bare', which is not asked for now"):
        compare(home, ("rmgd",), seeds=(1, 2))


def test_trainings_may_be_of_another_length_and_counted_by_another_table(home):
    seen = Seen()
    doubled = replace(COSTS, step_seconds={size: 2 * value for size, value in COSTS.step_seconds.items()})
    found = compare(home, ("noise-scale",), seeds=(1,), epochs=2, costs=doubled, observer=seen)
    (task,) = found.tasks
    assert any("trained for 2 epochs instead of 4" in note for note in seen.notes)
    best = BeaconLibrary.load(home / "envs" / "tiny").best_fixed()
    assert task.target.policy == f"s{best.batch_size}-lr{best.lr:g}"
    assert math.isnan(task.target.validation_error)
    assert task.costs == doubled
    for run in task.runs:
        rows = load_epochs(found.out / run.run)
        assert (run.epochs, len(rows)) == (2, 2)
        assert run.modelled_seconds == pytest.approx(modelled_seconds(rows, doubled))
        # What measures decides by the same table, too; what does not keeps none.
        config = load_run_config(found.out / run.run)
        assert config.costs == (doubled if config.measure else None)
    assert [run.samples > 0 for run in task.runs] == [False, True]
    # Runs of another length or table are not passed off as these.
    with pytest.raises(CheckpointError, match="another configuration"):
        compare(home, ("noise-scale",), seeds=(1,), costs=doubled)


def test_what_comes_of_learned_policies_is_noted_on_their_cards(home):
    task = load_task(home / "envs" / "tiny")
    network = make_network()
    training = PolicyTraining(algorithm="cem", tasks=("tiny",), steps=1, seeds=(0,), seconds=1.0)
    card = PolicyCard.of(network, training, batch_sizes=task.batch_sizes, learning_rates=task.learning_rates)
    (home / "policies").mkdir()
    path = save_learned(home / "policies" / "mine.yaml", network, card).with_suffix(".json")
    compare(home, ("mine",), seeds=(1, 2), against=("beacon-follow",))
    assert load_card(path).evaluation is None
    found = compare(home, ("mine",), seeds=(1, 2), against=("beacon-follow",), note_cards=True)
    noted = load_card(path).evaluation["real_training"]["tiny"]
    assert (noted["split"], noted["seeds"]) == ("train", [1, 2])
    assert set(noted["difference_to"]) == {"best fixed beacon", "beacon-follow"}
    assert noted["quality"][0] == pytest.approx(found.aggregates[0].quality.value, abs=1e-4)
    assert set(noted["non_inferior"]) == {"test_loss", "test_error"}
    assert "beacon-follow" in noted["verdict"]
    # The card is still that of its weights, and its runs are there.
    assert comparison_markdown(
        compare(home, ("mine",), seeds=(1, 2), against=("beacon-follow",))
    ) == comparison_markdown(found)
