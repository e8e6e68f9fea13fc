"""Policies beside baselines on tiny tasks, and what is made of given runs."""

import csv
import json
import math
from dataclasses import replace
from statistics import fmean, median, stdev

import numpy as np
import pytest
import yaml
from scipy import stats

from autobatch import CheckpointError, ConfigError, LibraryError, OutputError, UnknownNameError
from autobatch._errors import BusyError
from autobatch._files import alone_in
from autobatch.beacons import BeaconLibrary
from autobatch.evidence import (
    ComparedRun,
    comparison_markdown,
    load_comparison,
    load_epochs_table,
    load_runs,
    table_facts,
)
from autobatch.evidence._statistics import holm, signed_rank
from autobatch.evidence.bench import _bench as benching
from autobatch.evidence.bench import _runs as running
from autobatch.evidence.bench._courses import Course, Recording, mean_curve
from autobatch.evidence.bench._figures import policy_figures
from autobatch.evidence.bench._tests import TESTS, mean_difference, mean_interval, paired_t, policy_tests, two_sample
from autobatch.evidence.bench.telling._picture import save_overall, save_task
from autobatch.policies import PolicySpec
from autobatch.policies.baselines import FixedPolicy
from autobatch.policies.rivals import RmgdPolicy
from autobatch.report import modelled_seconds
from autobatch.training import EpochRow, load_epochs, load_run_config, load_summary
from tests.evidence.bench.benched import Seen, compare
from tests.training.tiny import COSTS, tiny_task

OUTPUTS = (
    "comparison.md",
    "comparison.csv",
    "runs.csv",
    "comparison.json",
    "comparison.png",
    "comparison-tiny.png",
    "runs.parquet",
    "epochs.parquet",
)


def test_policies_meet_the_best_fixed_beacon_and_the_files_say_so(home, monkeypatch):
    monkeypatch.setattr(benching, "save_task", save_task)
    monkeypatch.setattr(benching, "save_overall", save_overall)
    with pytest.raises(KeyboardInterrupt):
        compare(home, ("s8", "beacon-follow"), observer=Seen(after=2))
    found = compare(home, ("s8", "beacon-follow"))
    (task,) = found.tasks
    library = BeaconLibrary.load(home / "envs" / "tiny")
    best = library.best_fixed()
    reference = f"s{best.batch_size}-lr{best.lr:g}"
    # The best fixed beacon comes first, then the policies as they were named.
    assert [one.policy for one in task.policies] == [reference, "s8", "beacon-follow"]
    assert [one.reference for one in task.policies] == [True, False, False]
    assert task.target.validation_error == best.mean["validation_error"]

    # Runs and epochs are those of the run directories.
    runs, epochs = load_runs(found.out), load_epochs_table(found.out).to_pylist()
    facts = table_facts(runs)
    assert (facts["env"], facts["seeds"], facts["reference"]) == ("tiny", [100, 101], reference)
    by_name = {(row["policy"], row["seed"]): row for row in runs.to_pylist()}
    assert list(by_name) == [(name, seed) for name in (reference, "s8", "beacon-follow") for seed in (100, 101)]
    for (name, seed), row in by_name.items():
        place = found.out / "tiny" / f"{name}-s{seed}"
        summary, rows = load_summary(place), load_epochs(place)
        own = [line for line in epochs if (line["policy"], line["seed"]) == (name, seed)]
        assert repr([{key: line[key] for key in rows[0].to_dict()} for line in own]) == repr([
            one.to_dict() for one in rows
        ])
        for key in ("test_error", "test_loss", "validation_loss", "seconds", "examples", "optimizer_steps", "samples"):
            assert row[key] == getattr(summary, key)
        assert row["modelled_seconds"] == pytest.approx(modelled_seconds(rows, COSTS))
        until = next((at for at, one in enumerate(rows, 1) if one.validation_error <= task.target.validation_error), 0)
        assert row["to_target_examples"] == (rows[until - 1].examples if until else None)
        assert row["to_target_seconds"] == (rows[until - 1].seconds if until else None)
        if until:
            assert row["to_target_modelled_seconds"] == pytest.approx(modelled_seconds(rows[:until], COSTS))
        # Only what looks at the position measures.
        assert load_run_config(place).measure == bool(row["samples"]) == (name == "beacon-follow")

    # What each policy came to.
    for one in task.policies:
        own = [by_name[one.policy, seed] for seed in (100, 101)]
        theirs = [by_name[reference, seed] for seed in (100, 101)]
        errors = [row["test_error"] for row in own]
        ratios = [row["seconds"] / other["seconds"] for row, other in zip(own, theirs, strict=True)]
        assert (one.test_error.mean, one.test_error.std) == pytest.approx((fmean(errors), stdev(errors)))
        assert one.time_ratio.median == pytest.approx(median(ratios))
        assert (one.time_ratio.least, one.time_ratio.greatest) == (min(ratios), max(ratios))
        assert one.modelled_ratio == pytest.approx(
            sum(row["modelled_seconds"] for row in own) / sum(row["modelled_seconds"] for row in theirs)
        )
        assert one.to_target.reached == sum(row["to_target_examples"] is not None for row in own)
        # Only beacon-follow needs the beacons, and is charged for them.
        assert (one.pays_back is not None) == (one.policy == "beacon-follow")
    assert task.recording.seconds == pytest.approx(sum(beacon.final("seconds") for beacon in library.beacons))
    assert task.recording.modelled_seconds == pytest.approx(
        sum(
            COSTS.training_seconds(beacon.batch_size, beacon.final("steps"), 4)
            + COSTS.measuring_seconds[beacon.batch_size] * beacon.final("samples")
            for beacon in library.beacons
        )
    )

    report = (found.out / "comparison.md").read_text()
    assert report == comparison_markdown(found)
    for phrase in (
        f"**{reference}**, the best fixed beacon of tiny",
        "| **s8** | 2 of 2 |",
        "Recording the 6 beacons of tiny",
    ):
        assert phrase in report
    table = list(csv.DictReader((found.out / "comparison.csv").read_text().splitlines()))
    assert [row["policy"] for row in table] == [reference, "s8", "beacon-follow"]
    assert float(table[1]["test_error_mean"]) == task.policies[1].test_error.mean
    assert not table[0]["p_test_error_student"]
    assert load_comparison(found.out)["tiny"]["policies"][1]["policy"] == "s8"
    for name in ("comparison.png", "comparison-tiny.png"):
        assert (found.out / name).read_bytes().startswith(b"\x89PNG")

    # Given again, nothing is trained and nothing changes.
    before = {name: (found.out / name).read_bytes() for name in OUTPUTS}
    with monkeypatch.context() as patch:
        patch.setattr(running, "load_data", None)
        compare(home, ("s8", "beacon-follow"))
    assert {name: (found.out / name).read_bytes() for name in OUTPUTS} == before
    # With other baselines and fewer seeds, the runs are taken as they are.
    seen = Seen()
    compare(home, ("beacon-follow",), seeds=(100,), against=("fixed",), observer=seen)
    assert f"tiny {reference} seed 100" not in seen.trained
    assert "tiny beacon-follow seed 100" not in seen.trained


def test_measured_runs_are_not_passed_off_as_unmeasured_ones(home):
    compare(home, ("s8",), seeds=(1,))
    with pytest.raises(CheckpointError, match="was trained without measuring and is asked for with measuring"):
        compare(home, ("s8",), seeds=(1,), measure_all=True)
    found = compare(home, ("s8",), seeds=(1,), measure_all=True, out=home / "all")
    assert all(run.samples for run in found.tasks[0].runs)
    assert all(math.isfinite(row["c_bar"]) for row in load_epochs_table(found.out).to_pylist() if row["epoch"] == 4)
    assert "All runs measure" in comparison_markdown(found)
    with pytest.raises(CheckpointError, match="was trained with measuring and is asked for without measuring"):
        compare(home, ("s8",), seeds=(1,), out=home / "all")


def test_a_run_that_fails_leaves_the_others(home, monkeypatch):
    def fails(self, observation):
        raise ConfigError("no more")

    monkeypatch.setattr(RmgdPolicy, "decide", fails)
    found = compare(home, ("rmgd", "s8"), seeds=(1,))
    assert found.failed == {"tiny rmgd seed 1": "no more"}
    assert [(one.policy, one.finished, one.failed) for one in found.tasks[0].policies[1:]] == [
        ("rmgd", 0, 1),
        ("s8", 1, 0),
    ]
    assert "- Failed: tiny rmgd seed 1: no more" in comparison_markdown(found)
    assert "| **rmgd** | 0 of 1, 1 failed | - |" in comparison_markdown(found)


def test_a_reference_that_fails_leaves_the_others(home, monkeypatch):
    def fails(self, observation):
        raise ConfigError("no more")

    monkeypatch.setattr(FixedPolicy, "decide", fails)
    found = compare(home, seeds=(1,))
    (task,) = found.tasks
    assert [(one.policy, one.finished, one.failed) for one in task.policies] == [
        (task.target.policy, 0, 1),
        ("rmgd", 1, 0),
    ]
    assert {one.verdict for one in task.non_inferiority} == {"open"}
    # Its price is known from the beacons.
    assert math.isfinite(task.policies[1].modelled_ratio)
    assert math.isnan(task.policies[1].time_ratio.median)
    assert "| **rmgd** | 1 and 0 | - | - |" in comparison_markdown(found)


def test_what_cannot_be_done_is_said_before_anything_is_trained(home):
    best = BeaconLibrary.load(home / "envs" / "tiny").best_fixed()
    name = f"s{best.batch_size}-lr{best.lr:g}"
    for changes, error, words in (
        ({"policies": ("rmgdd",)}, UnknownNameError, "did you mean 'rmgd'"),
        ({"envs": "tinny"}, UnknownNameError, "did you mean 'tiny'"),
        ({"envs": "bare"}, LibraryError, "no beacons.*record some with 'autobatch beacons record --env bare'"),
        ({"policies": ("s8", "s8")}, ConfigError, "different names, got s8"),
        ({"policies": ("s64",)}, ConfigError, "not on the ladder"),
        ({"policies": (PolicySpec(name=name, kind="random"),)}, ConfigError, f"'{name}' is another policy than the"),
        ({"seeds": ()}, ConfigError, "seeds: expected at least one"),
        ({"seeds": (-1,)}, ConfigError, "from 0 on, got -1"),
        ({"jobs": 0}, ConfigError, "jobs: expected at least 1"),
        ({"envs": ()}, ConfigError, "envs: expected at least one"),
        ({"epochs": 0}, ConfigError, "epochs: expected at least 1, got 0"),
        ({"margin": 0.0}, ConfigError, "margin: expected a share above 0, such as 0.05 for 5 %, got 0"),
        ({"against": ("fixt",)}, UnknownNameError, "unknown baseline 'fixt'; did you mean 'fixed'"),
        ({"against": ("randm",)}, UnknownNameError, r"unknown baseline 'randm'; did you mean 'random'\?"),
        ({"against": ("none", "fixed")}, ConfigError, "'none' stands alone"),
        ({"policies": (), "against": ("none",)}, ConfigError, "at least one policy or baseline"),
        ({"policies": ("beacon-follow",), "epochs": 2}, LibraryError, "needs beacons, and task 'tiny' has none of 2"),
        (
            {"costs": replace(COSTS, step_seconds={8: 0.1})},
            ConfigError,
            "costs: expected every batch size of 'tiny', found no 16",
        ),
        (
            {"policies": (PolicySpec(name="rmgd", kind="rmgd", parameters={"beta": 3.0}),), "against": ("bandit",)},
            ConfigError,
            "'rmgd' is another policy than the baseline",
        ),
    ):
        with pytest.raises(error, match=words):
            compare(home, **changes)
    (home / "out" / "comparison.json").write_text('{"format_version": 1, "env": "other"}')
    with pytest.raises(OutputError, match="holds the comparison of task 'other', which is not asked for now"):
        compare(home)
    assert not list((home / "out").glob("*/*-s*"))
    with alone_in(home / "out"), pytest.raises(BusyError, match="another comparison is at work here"):
        compare(home)


def a_run(policy, seed, error, seconds=10.0, **changes):
    facts = {
        "env": "tiny",
        "batch_sizes": "8 ×4",
        "stopped_because": "finished",
        "validation_loss": 10 * error,
        "validation_error": error,
        "test_loss": math.nan,
        "measuring_seconds": 1.0,
        "modelled_seconds": seconds / 2,
        "examples": 400,
        "optimizer_steps": 50,
        "samples": 5,
        "side_by_side": 1,
        "to_target_seconds": None,
        "to_target_modelled_seconds": None,
        "to_target_examples": None,
    }
    return ComparedRun(policy=policy, seed=seed, test_error=error, seconds=seconds, **facts | changes)


BASE = [0.030, 0.034, 0.028, 0.031, 0.036]
OURS = {"a": [0.033, 0.039, 0.036, 0.032, 0.041], "b": [0.031, 0.033, 0.027, 0.035, 0.034]}


def test_tests_are_those_of_scipy_and_corrected_over_policies():
    runs = [a_run(name, seed, error) for name, own in {"best": BASE, **OURS}.items() for seed, error in enumerate(own)]
    found = policy_tests(runs, policies=["best", *OURS], reference="best", score="validation_loss")
    p = {(one.policy, one.figure, one.test): one.p for one in found}
    for name, own in OURS.items():
        expected = {
            "student": stats.ttest_ind(own, BASE).pvalue,
            "welch": stats.ttest_ind(own, BASE, equal_var=False).pvalue,
            "paired": stats.ttest_rel(own, BASE).pvalue,
            "signed_rank": signed_rank(np.round(np.subtract(own, BASE), 12)),
        }
        for test in TESTS:
            assert p[name, "test_error", test] == pytest.approx(expected[test])
    corrected = {(one.policy, one.figure, one.test): one.p_holm for one in found}
    for figure in ("test_error", "validation_loss"):
        for test in TESTS:
            raw = [p[name, figure, test] for name in OURS]
            assert [corrected[name, figure, test] for name in OURS] == holm(raw)
    difference = mean_difference(OURS["a"], BASE)
    interval = stats.ttest_ind(OURS["a"], BASE).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    low, high = stats.t.interval(0.95, 4, np.mean(BASE), stats.sem(BASE))
    assert (mean_interval(BASE).low, mean_interval(BASE).high) == pytest.approx((low, high))


def test_what_has_no_spread_is_not_tested():
    assert math.isnan(two_sample([0.1], [0.1, 0.2], equal_variances=True))
    assert math.isnan(two_sample([0.1, 0.1], [0.2, 0.2], equal_variances=True))
    assert two_sample([0.1, 0.1], [0.1, 0.1], equal_variances=False) == 1.0
    assert 0.0 < two_sample([0.1, 0.1, 0.1], [0.2, 0.2, 0.21], equal_variances=True) < 0.001
    assert math.isnan(paired_t([0.1, 0.2], [0.2, 0.3]))
    assert paired_t([0.1, 0.2], [0.1, 0.2]) == 1.0
    assert math.isnan(mean_interval([]).value)
    assert math.isnan(mean_interval([0.1]).low)


def test_diverged_runs_are_counted_and_lose():
    reference = [a_run("best", seed, error) for seed, error in enumerate([*BASE, 0.03])]
    ours = [a_run("a", seed, error - 0.01) for seed, error in enumerate(BASE)]
    lost = a_run("a", 5, math.nan, seconds=1.0, stopped_because="diverged: loss is nan", to_target_examples=None)
    figures = policy_figures(
        "a", [*ours, lost], reference=reference, seeds=7, score="validation_loss", recording=Recording(6, 95.0, 25.0)
    )
    assert (figures.finished, figures.diverged, figures.failed) == (5, 1, 1)
    assert figures.test_error.mean == pytest.approx(fmean(BASE) - 0.01)
    tests = policy_tests([*reference, *ours, lost], policies=["best", "a"], reference="best", score="validation_loss")
    by_test = {one.test: one for one in tests if one.figure == "test_error"}
    assert (by_test["student"].runs, by_test["student"].reference_runs) == (5, 6)
    assert by_test["signed_rank"].runs == 6
    # Five wins of the same size and one loss that is larger than any: ranks 1 to 5 share 3, the loss has 6.
    assert by_test["signed_rank"].p == pytest.approx(signed_rank([-3.0] * 5 + [6.0]))
    assert math.isnan(by_test["paired"].p)  # all five pairs differ by the same
    # Nothing is saved: the beacons are never paid back.
    assert figures.pays_back.saved_seconds == 0.0
    assert math.isinf(figures.pays_back.trainings)


def test_time_saved_pays_for_the_beacons():
    reference = [a_run("best", seed, error, seconds=10.0 + seed) for seed, error in enumerate(BASE)]
    reached = {"to_target_seconds": 3.0, "to_target_modelled_seconds": 1.5, "to_target_examples": 160}
    ours = [a_run("a", 0, 0.03, seconds=8.0, **reached), a_run("a", 1, 0.03, seconds=5.0)]
    figures = policy_figures(
        "a", ours, reference=reference, seeds=2, score="validation_loss", recording=Recording(6, 41.0, 25.0)
    )
    assert figures.pays_back.saved_seconds == pytest.approx(4.0)  # 2 s and 6 s
    assert figures.pays_back.trainings == 11
    assert figures.pays_back.saved_modelled_seconds == pytest.approx(6.0 - 3.25)
    assert figures.pays_back.modelled_trainings == math.ceil(25.0 / 2.75)
    assert (figures.to_target.reached, figures.to_target.share) == (1, pytest.approx(0.3))
    assert figures.to_target.modelled_share == pytest.approx(1.5 / 6.0)
    assert (figures.time_ratio.least, figures.time_ratio.greatest) == pytest.approx((5 / 11, 0.8))
    assert figures.measuring_share == pytest.approx(2.0 / 13.0)


def test_runs_of_different_length_have_one_mean_curve():
    def course(seed, errors, **changes):
        run = a_run("a", seed, errors[-1], **changes)
        after = [float(at + 1 + seed) for at in range(len(errors))]
        rows = [EpochRow(*[0] * 12, error, 0.0, 0.0) for error in errors]
        return Course(run, rows, after)

    long, short = course(0, [0.4, 0.2, 0.1]), course(1, [0.6, 0.3], stopped_because="stopped: nothing more to gain")
    lost = course(2, [0.9], stopped_because="diverged: loss is nan")
    seconds, errors = mean_curve([long, short, lost])
    # The short one costs no more once it has ended, and stays as good as it was.
    assert seconds == pytest.approx([1.5, 2.5, 3.0])
    assert errors == pytest.approx([0.5, 0.25, 0.2])
    assert mean_curve([lost]) == ([], [])
    figures = policy_figures(
        "a", [long.run, short.run, lost.run], reference=[], seeds=3, score="validation_loss", recording=None
    )
    assert (figures.finished, figures.diverged) == (2, 1)


def test_a_task_of_few_examples_has_the_sizes_that_fit(home):
    """As in a run, where its file names none."""
    env = home / "few"
    env.mkdir()
    given = json.loads(tiny_task(name="few").model_dump_json(exclude_unset=True))
    (env / "env.yaml").write_text(yaml.safe_dump({name: own for name, own in given.items() if name != "batch_sizes"}))
    comparison = compare(home, ("steer",), str(env), (100,), against=("s16",))
    assert sorted(run.policy for run in comparison.tasks[0].runs) == ["s16", "steer"]
    config = load_run_config(next((home / "out").rglob("config.yaml")).parent)
    assert config.task.batch_sizes == (8, 16, 32, 64)  # of 84 examples
    seen = Seen()
    compare(home, ("steer",), str(env), (100,), against=("s16",), observer=seen)
    assert not seen.trained  # nor timed anew: nothing is trained twice
