"""Words, comparisons and pictures of runs, on constructed inputs."""

import itertools
import json
import math
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from autobatch._errors import CheckpointError
from autobatch.beacons import BeaconLibrary
from autobatch.control import DecisionRecord
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.report import RunRecord, chapters, compare, modelled_seconds, save_plane, story, summary_view, verdict
from autobatch.report._comparison import modelled_course
from autobatch.report._record import checked, with_scouts
from autobatch.report._story import displacement_words
from autobatch.report._words import applied_words, path_words, position_words, seconds_words
from autobatch.training import EpochRow, RunConfig, Summary, load_task
from tests.beacons.synthetic import make_library
from tests.report.reported import make_decisions, make_rows, make_summary

SIZES = (16, 16, 64, 128)


@pytest.fixture(scope="module")
def library() -> BeaconLibrary:
    return make_library()


def epochs(library: BeaconLibrary | None) -> list[EpochRow]:
    return [
        replace(row, progress=at / 4, lr_effective=0.1, c_bar=20.0 * at, l_cum=3.0 * at, seconds=1.0 * at)
        for at, row in enumerate(make_rows(library or make_library())[:4], start=1)
    ]


def decisions(library: BeaconLibrary | None) -> list[DecisionRecord]:
    return [replace(own, progress=own.epoch / 4) for own in make_decisions(epochs(library), epochs=4)]


def summary(**changes) -> Summary:
    ended = {"epochs": 4, "test_error": 0.01, "examples": 4096, "optimizer_steps": 152, "samples": 8}
    times = {"seconds": 4.0, "measuring_seconds": 0.4, "measuring_share": 0.1, "batch_sizes": {16: 2, 64: 1, 128: 1}}
    return make_summary(**ended | times | changes)


def record(tmp_path, library, **changes) -> RunRecord:
    config = RunConfig(task=load_task("digits-resnet8"), policy=PolicySpec(name="beacon-follow", kind="beacon-follow"))
    return RunRecord(tmp_path, config, epochs(library), decisions(library), summary(**changes), library)


def printed(view) -> str:
    console = Console(width=150, file=StringIO())
    console.print(view)
    return console.file.getvalue()


def test_words():
    assert path_words(SIZES) == "16 ×2 → 64 ×1 → 128 ×1"
    assert [position_words(value) for value in (0, 0.01234, 3.14159, 1234.5, 1.385e35, math.nan)] == [
        "0",
        "0.0123",
        "3.14",
        "1,234",
        "1.38e+35",
        "-",
    ]
    factor = "the base rate times the schedule's factor"
    assert applied_words([0.1] * 2, [0.1, 0.01]) == f"0.1 at first, 0.01 at the end: {factor}"
    grown = applied_words([0.12] * 3, [0.12, 0.48, 0.0533], raised=True)
    assert grown == f"0.12 at first, 0.48 at the highest, 0.0533 at the end: {factor}, which larger batches raise"
    assert [seconds_words(value) for value in (4.21, 125, 11520, None)] == ["4.2 s", "2 min 05 s", "3 h 12 min", "-"]
    assert displacement_words((0.0, 0.0)) == "inside the beacons' optimum region"
    assert "C̄ 2.00 times too high, L 10.00 times too low" in displacement_words((math.log10(2), -1.0))


def test_chapters_group_what_did_not_change(library):
    found = chapters(decisions(library)[:3], epochs(library))
    assert [(chapter.decision.batch_size, len(chapter.kept), len(chapter.epochs)) for chapter in found] == [
        (16, 1, 2),
        (64, 0, 2),
    ]
    assert chapters([], []) == []


def test_modelled_seconds_are_steps_and_samples_at_their_prices(library):
    costs = library.costs
    assert costs is not None
    rows = epochs(library)
    expected = sum(
        1024 // size * costs.step_seconds[size] + costs.epoch_seconds + 2 * costs.measuring_seconds[size]
        for size in SIZES
    )
    assert modelled_seconds(rows, costs) == pytest.approx(expected)


def scout(lr: float, *, won: bool = False, **changes) -> dict[str, Any]:
    figures = {
        "batch_size": 32,
        "lr": lr,
        "epochs": 2,
        "train_loss": 1.5,
        "validation_loss": 1.25,
        "validation_error": 0.5,
        "ended": None,
        "won": won,
        "examples": 2048,
        "optimizer_steps": 64,
        "samples": 3,
        "seconds": 2.0,
        "measuring_seconds": 0.5,
    }
    return figures | changes


def test_modelled_seconds_charge_the_scouts_that_lost(library):
    costs = library.costs
    assert costs is not None
    rows = epochs(library)
    one = 64 * costs.step_seconds[32] + 2 * costs.epoch_seconds + 3 * costs.measuring_seconds[32]
    alone = modelled_seconds(rows, costs)
    assert modelled_seconds(rows, costs, [scout(0.1, won=True)]) == alone
    scouts = [scout(0.05), scout(0.1, won=True), scout(0.2)]
    assert modelled_seconds(rows, costs, scouts) == pytest.approx(alone + 2 * one)
    assert compare(rows, costs, library, scouts).seconds == pytest.approx(alone + 2 * one)
    course = modelled_course(rows, costs, scouts)
    assert [later - sooner for sooner, later in itertools.pairwise(course)] == pytest.approx([
        later - sooner for sooner, later in itertools.pairwise(modelled_course(rows, costs))
    ])


def test_scouts_that_the_table_has_no_price_for_are_not_modelled(library):
    compared = compare(epochs(library), library.costs, library, [scout(0.1, batch_size=48)])
    assert (compared.seconds, compared.best_seconds) == (None, None)


def test_the_verdict_takes_the_best_beacons_luck_out(tmp_path, library):
    comparison = compare(epochs(library), library.costs, library)
    best = comparison.best.mean["validation_loss"]
    assert comparison.expected == library.expected_best() > best
    lucky = replace(comparison, expected=best)
    loss = (best + comparison.expected) / 2 + 2 * comparison.spread
    assert "worse than" in verdict(summary(validation_loss=loss), lucky)
    assert "as good as" in verdict(summary(validation_loss=loss), comparison)
    assert "a part is luck" in printed(summary_view(record(tmp_path, library)))
    one_seed = make_library(seeds=(0,))
    assert "luck" not in printed(summary_view(record(tmp_path, one_seed)))


def test_summary_and_story_tell_the_scouts_and_the_early_end(tmp_path, library):
    scouts = [scout(0.05, train_loss=None, ended="diverged: at once"), scout(0.1, won=True), scout(0.2)]
    own = record(
        tmp_path,
        library,
        scouts=scouts,
        scouting_seconds=4.0,
        seconds=16.0,
        ended_early="the rate has come to its end: stop, which spares 3 s; more would end lower",
    )
    text = printed(summary_view(own))
    for phrase in (
        "3 made, s32-lr0.1 went on",
        "the others took 4.0 s, 25.00 % of the time",
        "by the policy, after 4 of 40 epochs, which spares 3 s; more would end lower",
    ):
        assert phrase in text
    (tmp_path / "scouts.json").write_text(json.dumps({"reason": "the least loss", "scouts": scouts}))
    told = printed(story(with_scouts(own)))
    assert "Those that did not took " in told
    for phrase in ("the best of which became it", "diverged: at once", "The run finished after 4 of 40 epochs",
                   "It was ended by the policy: the rate has come to its end: stop, "):  # fmt: skip
        assert phrase in told
    assert "nan" not in told
    (tmp_path / "scouts.json").unlink()
    plain = printed(story(record(tmp_path, library)))
    assert "Scouts" not in plain
    assert "ended by the policy" not in plain


def test_where_no_scout_went_on_the_summary_says_so(tmp_path, library):
    text = printed(summary_view(record(tmp_path, library, scouts=[scout(0.1), scout(0.2)], scouting_seconds=4.0)))
    assert "2 made, none went on" in text


@pytest.mark.parametrize(
    ("loss_shift", "cost_factor", "words"),
    [
        (0.0, 1.0, ["Gain: as good as", "by validation loss"]),
        (1.9, 1.0, ["Gain: as good as"]),
        (2.1, 1.0, ["No gain: worse than"]),
        (-10.0, 1.0, ["Gain: better than"]),
        (+10.0, 1.0, ["No gain: worse than"]),
        (0.0, 1e3, ["No gain: as good as"]),
    ],
)
def test_the_verdict_weighs_score_and_time(library, loss_shift, cost_factor, words):
    rows = epochs(library)
    comparison = compare(rows, library.costs, library)
    mean, spread = comparison.expected, comparison.spread
    finished = [result.std["validation_loss"] for result in library.results() if not result.diverged]
    assert spread == pytest.approx(np.median(finished))
    assert comparison.best_seconds is not None
    fast = type(comparison)(**{
        **vars(comparison),
        "seconds": 0.5 * cost_factor * comparison.best_seconds,
        "score": "validation_loss",
    })
    said = verdict(summary(validation_loss=mean + loss_shift * spread), fast)
    for word in words:
        assert word in said


def test_a_diverged_run_is_no_gain(library):
    said = verdict(summary(stopped_because="diverged: nan"), compare(epochs(library), library.costs, library))
    assert said.startswith("No gain")


def test_the_summary_has_every_figure_beside_the_beacons(tmp_path, library):
    text = printed(summary_view(record(tmp_path, library)))
    for phrase in (
        "test error",
        "best fixed beacon",
        "16 ×2 → 64 ×1 → 128 ×1",
        "Verdict",
        "8 steps of 152",
        "10.0 % of the time; by the cost table, which measured steps are chosen by, 1.9 %",
    ):
        assert phrase in text
    beyond = " ".join(printed(summary_view(record(tmp_path, library, measuring_share_modelled=0.2))).split())
    assert "budget 10 % (a few steps an epoch, and those that the policy asks for, are measured whatever" in beyond
    alone = printed(summary_view(record(tmp_path, None, best_beacon=None, best_beacon_missing="none recorded")))
    assert "None, as there are no beacons (trainings at fixed settings) to compare this run with: " in alone
    assert "compare this run with: none recorded." in " ".join(alone.split())


def test_the_story_leaves_out_figures_that_nobody_gave(tmp_path, library):
    whole = replace(record(tmp_path, library, test_error=None, validation_error=None), library=None)
    rows = [replace(row, validation_error=math.nan) for row in whole.epochs]
    told = printed(story(replace(whole, epochs=rows)))
    assert "validation loss " in told
    assert "error" not in told
    assert "no beacons, so as steer" in told
    assert told.splitlines()[1].strip() == load_policy_spec("steer").description
    nothing = [replace(row, validation_loss=math.nan) for row in rows]
    assert "nothing was validated" in printed(story(replace(whole, epochs=nothing)))


def test_a_position_by_asked_steps_alone_is_told_as_that(tmp_path, library):
    own = record(tmp_path, library)
    lacking = "L lacks all before them"
    assert lacking not in own.position_after(1)
    asked = replace(own, config=own.config.model_copy(update={"measure": False}))
    assert (
        asked.position_after(1)
        == f"{own.position_after(1)}, both by the steps alone that the policy asked for: {lacking}"
    )
    rows = [replace(row, samples=0) for row in own.epochs]
    assert lacking not in replace(asked, epochs=rows).position_after(1)


def test_the_story_tells_changes_reasons_and_candidates(tmp_path, library):
    plain = printed(story(record(tmp_path, library)))
    assert "because of 128" in plain
    assert "candidates" not in plain
    assert "autobatch explain -v" in plain
    text = printed(story(record(tmp_path, library), figures=True))
    for phrase in (
        "Epochs 1 to 2: batch size 16, base rate 0.1",
        "batch size 16 → 64",
        "because of 128",
        "1 of them where the landscape knows nothing",
        "region",
        "The run finished after 4 epochs",
    ):
        assert phrase in text


@pytest.mark.parametrize("with_library", [True, False])
@pytest.mark.parametrize("with_run", [True, False])
def test_the_plane_is_drawn_with_whatever_there_is(tmp_path, library, with_library, with_run):
    beacons = library if with_library else None
    path = tmp_path / "sub" / "plane.png"
    save_plane(path, record(tmp_path, beacons) if with_run else None, beacons)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["plane.png"]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_finished_run_that_lacks_epochs_is_damaged(tmp_path, library, kept):
    whole = record(tmp_path, library)
    with pytest.raises(CheckpointError, match=rf"epochs.jsonl: damaged: it ends with epoch {kept}, and the run ended"):
        checked(replace(whole, epochs=whole.epochs[:kept]))
    assert checked(whole) is whole
