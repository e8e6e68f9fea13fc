"""Evaluating policies by real training of a tiny task, and what is made of given runs."""

import csv
import json
import math
import pickle
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import typer
from scipy.stats import trim_mean, wilcoxon
from typer.testing import CliRunner

from autobatch import CheckpointError, ConfigError, LibraryError, OutputError, UnknownNameError
from autobatch.beacons import BeaconLibrary
from autobatch.cli.learn._eval_policy import eval_policy
from autobatch.evidence import EvaluationObserver, evaluate_policies
from autobatch.evidence.evaluate import _evaluate as evaluating
from autobatch.evidence.evaluate import _plan as planning
from autobatch.evidence.evaluate import _runs as running
from autobatch.evidence.evaluate._picture import EvaluationBar, evaluation_figure, save_evaluation
from autobatch.evidence.evaluate._results import Instance
from autobatch.evidence.evaluate._summary import aggregate, compare
from autobatch.policies import PolicySpec, Quality, RmgdParameters, RmgdPolicy
from autobatch.training import load_epochs, load_run_config
from autobatch.training._trial import Trial
from tests.training.tiny import COSTS

NAN = float("nan")
SIZES = (8, 16, 32)


@pytest.fixture
def home(recorded, tmp_path, monkeypatch) -> Path:
    shutil.copytree(recorded / "envs", tmp_path / "envs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(recorded / "cache"))
    monkeypatch.delenv("AUTOBATCH_PATH", raising=False)
    monkeypatch.setattr(evaluating, "save_evaluation", lambda *arguments: None)  # half a second each
    return tmp_path


def evaluate(home, policies=("beacon-follow",), envs=("tiny",), seeds=(100, 101), **changes):
    return evaluate_policies(policies, envs, seeds, out=home / "out", device="cpu", **changes)


class Stopper(EvaluationObserver):
    """Counts what is trained, and interrupts after some of it."""

    def __init__(self, after: float = math.inf) -> None:
        self.after = after
        self.trained: list[str] = []
        self.notes: list[str] = []
        self.left: list[float] = []

    def note(self, message):
        self.notes.append(message)

    def run_finished(self, name, summary, progress):
        self.trained.append(name)
        self.left.append(progress.seconds_left)
        if len(self.trained) >= self.after:
            raise KeyboardInterrupt


def rows_of(evaluation):
    with (evaluation.out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_policies_and_baselines_are_trained_and_told_apart(home, monkeypatch):
    monkeypatch.setattr(evaluating, "save_evaluation", save_evaluation)
    seen = Stopper()
    evaluation = evaluate(home, observer=seen)
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
    assert reference == evaluation.tasks[0].reference == f"s{best.batch_size}-lr{best.lr:g}"
    # Only what looks at the position measures, and pays for it.
    measuring = {row["policy"] for row in rows if int(row["samples"])}
    assert measuring == {"beacon-follow"}
    assert {row["policy"] for row in rows if load_run_config(evaluation.out / row["run"]).measure} == measuring
    # Figures by hand: quality, ratios within a seed, the gap in hindsight.
    quality = Quality.of(library)
    clock = {row["seed"]: float(row["measured_seconds"]) for row in rows if row["policy"] == reference}
    price = COSTS.training_seconds(best.batch_size, best.mean["steps"], 4)
    for row in rows:
        assert float(row["quality"]) == pytest.approx(quality(float(row["validation_loss"])))
        assert float(row["measured_ratio"]) == pytest.approx(float(row["measured_seconds"]) / clock[row["seed"]])
        assert float(row["modelled_ratio"]) == pytest.approx(float(row["modelled_seconds"]) / price)
    means = {name: fmean(float(row["validation_loss"]) for row in rows if row["policy"] == name) for name in set(names)}
    task = evaluation.tasks[0]
    assert task.hindsight == min((name for name in means if name != "beacon-follow"), key=means.get)
    gaps = {one.policy: one.gap for one in task.summaries}
    assert gaps["beacon-follow"] == pytest.approx(means["beacon-follow"] - means[task.hindsight])
    assert gaps[task.hindsight] == 0.0
    # Over all tasks, and against each baseline.
    own = [float(row["quality"]) for row in rows if row["policy"] == "beacon-follow"]
    assert evaluation.aggregates[0].label == "beacon-follow"
    assert evaluation.aggregates[0].quality.value == pytest.approx(trim_mean(own, 0.25))
    assert {one.baseline.split(",")[0] for one in evaluation.comparisons} >= {"best fixed beacon", "random", "rmgd"}
    figures = json.loads((evaluation.out / "evaluation.json").read_text())
    assert figures["seeds"] == [100, 101]
    assert len(figures["tasks"][0]["instances"]) == len(rows)
    report = (evaluation.out / "report.md").read_text()
    assert report == evaluation.report()
    for phrase in (
        "| **beacon-follow** |",
        "Holm",
        "hindsight",
        "s32-to-128 is left out, for its ladder has no 64, 128",
    ):
        assert phrase in report
    assert (evaluation.out / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert seen.left[-1] == 0.0
    assert all(left > 0.0 for left in seen.left[:-1])


def test_nothing_is_trained_twice_and_more_may_be_asked_for(home, monkeypatch):
    wanted = {"policies": ("rmgd",), "baselines": ("fixed",)}
    first = evaluate(home, **wanted)
    with monkeypatch.context() as patch:
        patch.setattr(running, "load_data", None)  # not even the data are looked at
        assert evaluate(home, **wanted).report() == first.report()
    seen = Stopper()
    evaluate(home, ("rmgd", "random"), seeds=(100, 101, 102), baselines=("fixed",), observer=seen)
    assert len(seen.trained) == 2 * 1 + 5
    assert {name for name in seen.trained if "seed 102" not in name} == {"tiny random seed 100", "tiny random seed 101"}


def test_an_interrupted_evaluation_goes_on_as_if_nothing_had_been(home, monkeypatch):
    whole = evaluate_policies(["rmgd"], ["tiny"], [7, 8], out=home / "whole", baselines=["random"], device="cpu")
    with pytest.raises(KeyboardInterrupt):
        evaluate(home, ("rmgd",), seeds=(7, 8), baselines=("random",), observer=Stopper(1))
    epoch, calls = Trial.epoch, []

    def interrupted(self, *arguments):
        calls.append(self)
        if len(calls) == 3:  # in mid-run, after two epochs
            raise KeyboardInterrupt
        return epoch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(home, ("rmgd",), seeds=(7, 8), baselines=("random",))
    (cut,) = [path for path in (home / "out" / "tiny").glob("*/epochs.jsonl") if len(load_epochs(path.parent)) == 2]
    went_on = evaluate(home, ("rmgd",), seeds=(7, 8), baselines=("random",))
    assert len(load_epochs(cut.parent)) == 4
    timeless = [
        [
            (one.policy, one.seed, one.score, one.test_error, one.modelled_seconds, one.batch_sizes)
            for one in task.instances
        ]
        for evaluation in (whole, went_on)
        for task in evaluation.tasks
    ]
    assert timeless[0] == timeless[1]


def test_each_seed_starts_with_another_policy(home):
    seen = Stopper()
    evaluate(home, ("rmgd", "s8"), seeds=(1, 2, 3), baselines=("random",), observer=seen)
    assert [name.removeprefix("tiny ") for name in seen.trained] == [
        "rmgd seed 1", "s8 seed 1", "random seed 1",
        "s8 seed 2", "random seed 2", "rmgd seed 2",
        "random seed 3", "rmgd seed 3", "s8 seed 3",
    ]  # fmt: skip


def test_a_task_without_beacons_does_without_what_needs_them(home):
    seen = Stopper()
    evaluation = evaluate(home, ("rmgd",), ("bare",), (5,), baselines=("fixed", "beacon-follow"), observer=seen)
    assert {row["policy"] for row in rows_of(evaluation)} == {"rmgd", "s8-lr0.1", "s16-lr0.1"}
    assert any("beacon-follow is left out" in note for note in seen.notes)
    (task,) = evaluation.tasks
    assert task.reference == task.hindsight
    assert task.quality.best == pytest.approx(task.hindsight_score)
    assert {one.modelled_ratio for one in task.instances if one.policy == task.hindsight} == {1.0}
    with pytest.raises(LibraryError, match="'beacon-follow' needs beacons, and task 'bare' has none"):
        evaluate(home, ("beacon-follow",), ("bare",))


class CrewInThisProcess:
    """Works as a crew does, what passes between processes pickled, without the seconds that processes take."""

    def __init__(self, work, jobs, size):
        assert size == 2
        self.work, self.jobs = pickle.loads(pickle.dumps((work, jobs)))

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def events(self):
        for job in self.jobs:
            yield job, "started", None
            yield job, "done", pickle.loads(pickle.dumps(self.work(job, lambda epoch: None)))


def test_side_by_side_runs_are_the_same_and_marked(home, monkeypatch):
    alone = evaluate(home, ("rmgd",), seeds=(3,), baselines=("random",))
    monkeypatch.setattr(running, "Crew", CrewInThisProcess)
    together = evaluate_policies(["rmgd"], ["tiny"], [3], out=home / "two", baselines=["random"], device="cpu", jobs=2)
    assert [one.score for one in alone.tasks[0].instances] == [one.score for one in together.tasks[0].instances]
    assert {one.side_by_side for one in together.tasks[0].instances} == {2}
    assert "trained side by side" in together.report()
    assert "side by side" not in alone.report()


def test_a_run_that_fails_leaves_the_others(home, monkeypatch):
    def fails(self, observation):
        raise ConfigError("no more")

    monkeypatch.setattr(RmgdPolicy, "decide", fails)
    evaluation = evaluate(home, ("rmgd",), seeds=(1,), baselines=("random",))
    assert evaluation.failed == {"tiny rmgd seed 1": "no more"}
    assert [one.policy for one in evaluation.tasks[0].instances] == ["random"]
    assert "Failed: tiny rmgd seed 1: no more" in evaluation.report()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"policies": ("rmgdd",)}, UnknownNameError, "did you mean 'rmgd'"),
        ({"envs": ("tinny",)}, UnknownNameError, "did you mean 'tiny'"),
        ({"baselines": ("fixt",)}, UnknownNameError, "unknown baseline 'fixt'; did you mean 'fixed'"),
        ({"baselines": ("none", "fixed")}, ConfigError, "'none' stands alone"),
        ({"policies": (), "baselines": ("none",)}, ConfigError, "at least one policy or baseline"),
        ({"policies": ("s8", "s8")}, ConfigError, "different names, got s8"),
        ({"envs": ()}, ConfigError, "envs: expected at least one"),
        ({"seeds": ()}, ConfigError, "seeds: expected at least one"),
        ({"seeds": (-1,)}, ConfigError, "from 0 on, got -1"),
        ({"jobs": 0}, ConfigError, "jobs: expected at least 1"),
        ({"policies": ("s64",)}, ConfigError, "policy 's64' on task 'tiny': .*not on the ladder"),
        (
            {"policies": (PolicySpec(name="rmgd", kind="rmgd", parameters={"beta": 3.0}),)},
            ConfigError,
            "'rmgd' is another policy than the baseline",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(home, changes, error, words):
    with pytest.raises(error, match=words):
        evaluate(home, **changes)
    assert not list((home / "out").glob("tiny/*-s*")) if (home / "out").exists() else True


def test_a_directory_with_something_else_is_left_alone(home):
    (home / "out").mkdir()
    (home / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"found 'thesis.tex' in it"):
        evaluate(home)
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
        evaluation = evaluate(home, (mine,), ("tiny", "bare"), (1,), baselines=())
        assert [(one.env, one.split) for task in evaluation.tasks for one in task.instances] == [
            ("tiny", "train"),
            ("bare", "unseen"),
        ]
        assert [one.scope for one in evaluation.aggregates] == ["all", "train", "unseen"]
        card.sha256 = "b" * 64
        with pytest.raises(CheckpointError, match="with other weights than it has now"):
            evaluate(home, (mine,), ("tiny",), (1,), baselines=())
    evaluate(home, ("s8",), seeds=(1,), baselines=())
    other = PolicySpec(name="s8", kind="fixed", parameters={"batch_size": 16})
    with pytest.raises(CheckpointError, match="another configuration"):
        evaluate(home, (other,), seeds=(1,), baselines=())


def test_the_command(home):
    app = typer.Typer()
    app.command()(eval_policy)
    call = ["rmgd", "--envs", "tiny", "--seeds", "4-5", "--baselines", "random", "--out", "o", "--device", "cpu"]
    told = CliRunner().invoke(app, [*call, "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["seeds"] == [4, 5]
    assert "4/4  tiny" in told.stderr
    again = CliRunner().invoke(app, call)
    assert "4 runs, 4 of them are there already" in again.stdout
    assert (home / "o" / "report.md").read_text() in again.stdout
    for seeds in ("", "5-4", "x", "-3", "1-99999999"):
        assert CliRunner().invoke(app, ["rmgd", "--seeds", seeds]).exit_code == 2


def instance(policy: str, env: str, seed: int, quality: float, ratio: float, **changes) -> Instance:
    facts = {
        "judged": False,
        "labels": (policy,),
        "split": "",
        "stopped_because": "finished",
        "score": 1.0 - quality,
        "validation_loss": NAN,
        "validation_error": NAN,
        "test_error": NAN,
        "modelled_seconds": ratio,
        "measured_seconds": ratio,
        "measuring_seconds": 0.0,
        "measured_ratio": ratio,
        "optimizer_steps": 1,
        "samples": 0,
        "batch_sizes": "8 ×1",
        "side_by_side": 1,
        "run": f"{env}/{policy}-s{seed}",
    }
    return Instance(env=env, policy=policy, seed=seed, quality=quality, modelled_ratio=ratio, **facts | changes)


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
            instance("s16-lr0.1", env, seed, -1.0, NAN, labels=("fixed s16",), score=NAN, stopped_because="diverged"),
        ]
    found = {(one.baseline, one.scope): one for one in compare(instances)}
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


def test_the_picture_names_every_policy_without_overlaps():
    bars = [
        EvaluationBar("a-policy-with-quite-a-long-name, unseen", True, (0.9, 0.8, 1.0), (0.2, 0.1, 0.3)),
        *(
            EvaluationBar(f"fixed s{2**power}", False, (0.9, NAN, NAN), (8.0 / power, NAN, NAN))
            for power in range(1, 9)
        ),
        EvaluationBar("far below", False, (-0.5, -1.0, 0.2), (1.0, NAN, NAN)),
        EvaluationBar("nobody", False, (NAN, NAN, NAN), (NAN, NAN, NAN)),
    ]
    figure = evaluation_figure("digits-resnet8, digits-mlp; 10 seeds", bars)
    figure.draw_without_rendering()
    assert figure.axes[0].get_xlim()[0] > -0.5  # what is far below is told in words rather than squash the rest
    assert "-0.50 [-1.00, 0.20]" in {text.get_text() for text in figure.axes[0].texts}
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]
            assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
            assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
