"""Surrogate dynamics against the dynamics that made the trainings."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from autobatch import AutoBatchError, ConfigError, CostTable, LibraryError
from autobatch.beacons import Beacon, BeaconLibrary, Branches, Journey, compact_branches
from autobatch.envs import SteeredSurrogateEnv, SurrogateEnv
from autobatch.envs.steered import _runs as _steered_runs
from autobatch.envs.surrogate import TaskRecords, _ensemble, _runs, load_dynamics, tabulate
from autobatch.envs.surrogate._dynamics import Dynamics
from autobatch.evidence import measure_fidelity, play_policy, policy_agreement
from autobatch.policies import PolicySpec
from autobatch.policies.baselines import FixedPolicy
from tests.envs.surrogate.synthetic_runs import (
    CLASSES,
    COSTS,
    EPOCHS,
    RATES,
    SIZES,
    TRAIN_SIZE,
    course_of,
    make_branches,
    make_folder,
    make_journeys,
    make_library,
    make_task,
    records,
)


@pytest.fixture
def fitted_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """So plain a law is known after a short fit; how trainings scatter about it is not."""
    monkeypatch.setattr(_ensemble, "_STEPS", (300, 300))


@pytest.fixture(scope="module")
def library():
    return make_library()


@pytest.fixture(scope="module")
def dynamics(library) -> Dynamics:
    return Dynamics.fit(library, make_branches(library), make_task())


def follow(dynamics: Dynamics, course, noise: float = 0.0, count: int = 1, seed: int = 0):
    generator = np.random.default_rng(seed)
    state, member, costs = dynamics.begin(count), np.full(count, -1), 0.0
    for size, lr in course:
        batch, rate = dynamics.moves.rungs(size, lr)
        draws = noise * generator.standard_normal((count, dynamics.noise_size))
        state, outcome = dynamics.step(state, np.full(count, batch), np.full(count, rate), member, draws)
        costs += outcome.cost[0]
    return state, costs


def test_an_epoch_of_a_journey_never_seen(dynamics: Dynamics) -> None:
    held = [(own.rows, True) for own in make_journeys(8, first=500)]
    table = tabulate(held, dynamics.guessing, dynamics.scale)
    errors = dynamics.predict(table) - table.outcome
    still = table.before[:, 0] - table.outcome[:, 0]
    rms = np.sqrt((errors**2).mean(axis=0))
    assert rms[0] < 0.3 * np.sqrt((still**2).mean())
    assert rms[0] < 0.08  # the trainings themselves scatter by 0.02 an epoch
    assert rms[3] < 0.15


def test_whole_journeys_never_seen(dynamics: Dynamics) -> None:
    real, guessed = [], []
    for seed in range(500, 524):
        rows = records(course_of(seed), seed)
        state, _ = follow(dynamics, course_of(seed))
        real.append(np.log(rows[-1]["validation_loss"]))
        guessed.append(state.seen[0, 0])
        assert state.totals[0, 2] == rows[-1]["steps"]
        assert state.scored[0, 0] == pytest.approx(rows[-1]["c_bar"], rel=0.15)
    assert stats.spearmanr(real, guessed).statistic > 0.75
    assert np.sqrt(np.mean((np.array(real) - guessed) ** 2)) < 0.12


@pytest.mark.usefixtures("fitted_briefly")
def test_what_other_tasks_know_helps_where_little_was_recorded(library) -> None:
    corners = {(size, lr) for size in (SIZES[0], SIZES[-1]) for lr in (RATES[0], RATES[-1])} | {(32, 0.1)}
    kept = tuple(own for own in library.beacons if own.seed == 0 and (own.batch_size, own.lr) in corners)
    scouts = BeaconLibrary(kept, library.info)
    other = TaskRecords.of(library, make_branches(library), make_task(name="other"))
    misses = []
    for others in ([], [other]):
        dynamics = Dynamics.fit(scouts, None, make_task(), others=others)
        real = [np.log(records(course_of(seed), seed)[-1]["validation_loss"]) for seed in range(500, 516)]
        guessed = [follow(dynamics, course_of(seed))[0].seen[0, 0] for seed in range(500, 516)]
        misses.append(float(np.sqrt(np.mean((np.array(real) - guessed) ** 2))))
    assert misses[1] < 0.5 * misses[0]


def test_costs_follow_from_the_batch_size(dynamics: Dynamics) -> None:
    course = [(8, 0.1)] * 3 + [(128, 0.1)] * (EPOCHS - 3)
    _, cost = follow(dynamics, course)
    expected = COSTS.training_seconds(8, 3 * TRAIN_SIZE / 8, 3) + COSTS.training_seconds(
        128, (EPOCHS - 3) * TRAIN_SIZE / 128, EPOCHS - 3
    )
    assert cost == pytest.approx(expected)
    assert dynamics.costs("examples").tolist() == [TRAIN_SIZE] * len(SIZES)
    assert dynamics.reference("modelled") == pytest.approx(COSTS.training_seconds(32, EPOCHS * TRAIN_SIZE / 32, EPOCHS))
    with pytest.raises(AutoBatchError, match="not 'measured'"):
        dynamics.costs("measured")


def test_any_cost_table_will_do_and_changes_nothing_else(
    dynamics: Dynamics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = CostTable("cuda", dict.fromkeys(SIZES, 0.001), dict.fromkeys(SIZES, 0.002), 0.0)
    (tmp_path / f"{dynamics.task.name}.json").write_text(json.dumps(flat.to_dict()))
    monkeypatch.setattr(_runs, "load_dynamics", lambda env: dynamics)
    monkeypatch.setattr(_steered_runs, "load_steered", lambda env, without: dynamics)
    for kind in (SurrogateEnv, SteeredSurrogateEnv):
        envs = [kind("own"), kind("own", cost_tables=str(tmp_path))]
        for env in envs:
            env.reset(seed=1)
        action = np.zeros(len(envs[0].action_space.nvec), dtype=np.int64)
        (here, _, _, _, told), (there, _, _, _, gpu) = (env.step(action) for env in envs)
        assert gpu["cost"] == pytest.approx(0.001 * TRAIN_SIZE / 8)
        assert told["cost"] != gpu["cost"]
        assert told["score"] == gpu["score"]
        assert (here != there).any(), "what an epoch costs is part of the view"
    assert dynamics.costs("modelled").tolist() != [0.001 * TRAIN_SIZE / size for size in SIZES], "the first as it was"
    with pytest.raises(ConfigError, match="has no batch size 8"):
        dynamics.charged_by(CostTable("cuda", {32: 0.001}, {32: 0.002}, 0.0))


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "No such file"), ("{", "expected the cost table of"), ('{"device": "cuda"}', "damaged"), ("[]", "damaged")],
)
def test_a_cost_table_that_cannot_be_read_is_named(
    dynamics: Dynamics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, told: str
) -> None:
    monkeypatch.setattr(_runs, "load_dynamics", lambda env: dynamics)
    path = tmp_path / f"{dynamics.task.name}.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=f"^cost_tables: {re.escape(str(path))}: .*{told}"):
        SurrogateEnv("own", cost_tables=tmp_path)


def test_fitting_again_gives_the_same(library, dynamics: Dynamics) -> None:
    again = Dynamics.fit(library, make_branches(library), make_task())
    one, other = (follow(own, course_of(3), noise=1.0, count=4)[0] for own in (dynamics, again))
    assert np.array_equal(one.columns, other.columns, equal_nan=True)


def test_noise_scatters_as_the_trainings_do(dynamics: Dynamics) -> None:
    course = [(32, 0.1)] * EPOCHS
    state, _ = follow(dynamics, course, noise=1.0, count=400)
    real = [np.log(records(course, seed)[-1]["validation_loss"]) for seed in range(400)]
    assert 0.4 < np.std(state.seen[:, 0]) / np.std(real) < 2.5


@pytest.mark.usefixtures("fitted_briefly")
def test_what_diverged_diverges(library) -> None:
    bad = records([(8, 0.2)] * 2, 9)
    bad[-1] |= {"c_bar": float("nan"), "train_loss": float("inf"), "validation_loss": float("nan")}
    broken = tuple(Journey.from_records("journey", seed, bad, "diverged: it did") for seed in range(40, 48))
    branches = make_branches(library)
    dynamics = Dynamics.fit(library, Branches((*branches.journeys, *broken), branches.info), make_task())

    def diverged(size: int, lr: float) -> float:
        spec = PolicySpec(name="one", kind="fixed", parameters={"batch_size": size, "lr": lr})
        return float(play_policy(dynamics, spec, range(60)).diverged.mean())

    assert diverged(8, 0.2) > 0.3
    assert diverged(128, 0.05) == 0.0


ENDED = 5


@pytest.mark.parametrize(("because", "broke"), [
    ("finished", False),  # a steered stop, or the end of a falling rate
    ("validation figures only got worse", False),
    ("killed: out of time", False),
    ("diverged: the loss is 40", True),
])  # fmt: skip
def test_what_ended_early_counts_up_to_where_it_ended(library, because: str, broke: bool) -> None:
    course = course_of(3)
    whole, early = (
        TaskRecords.of(library, Branches((Journey.from_records("journey", 3, rows, how),), library.info), make_task())
        for rows, how in ((records(course, 3), "finished"), (records(course, 3)[:ENDED], because))
    )
    own, same = (one.epochs.take(np.flatnonzero(one.epochs.run == one.epochs.run.max())) for one in (early, whole))
    assert len(own.run) == ENDED
    for name in ("inputs", "passed", "before", "outcome", "epoch", "size", "rate"):
        np.testing.assert_array_equal(getattr(own, name), getattr(same, name)[:ENDED])
    np.testing.assert_allclose(own.inputs[-1, 3], ENDED / EPOCHS)  # its progress: of the task's length, not its own
    assert own.diverged.tolist() == [False] * (ENDED - 1) + [broke]
    np.testing.assert_array_equal(early.offset[:3], whole.offset[:3])  # ends of whole beacons only


def test_a_beacon_that_was_killed_is_no_end_and_no_divergence(library) -> None:
    rows = records([(8, 0.2)] * EPOCHS, 5)[:ENDED]
    killed = Beacon.from_records(8, 0.2, 5, rows, test_error=np.nan, test_loss=np.nan, stopped_because="killed")
    found = TaskRecords.of(BeaconLibrary((*library.beacons, killed), library.info), None, make_task())
    usual = TaskRecords.of(library, None, make_task())
    assert not found.epochs.diverged.any()
    assert len(found.epochs.run) == len(usual.epochs.run) + ENDED
    np.testing.assert_array_equal(found.offset[:3], usual.offset[:3])


@pytest.mark.usefixtures("fitted_briefly")
def test_forks_of_runs_move_what_is_predicted(library, tmp_path: Path) -> None:
    folder, out = make_folder(tmp_path / "task"), tmp_path / "run"
    out.mkdir()
    forks = []
    for seed in range(16):  # here 128 at the highest rate does far worse than the law has it
        rows = records([(32, 0.1)] * 3 + [(128, 0.2)], seed)[2:]
        rows[-1] |= {name: 2.0 * rows[-1][name] for name in ("train_loss", "validation_loss")}
        forks.append(Journey.from_records("branch", seed, rows))
    Branches(tuple(forks), library.info).save(out)
    said = []
    for further in ([], [out]):
        compact_branches(folder, further)
        dynamics = Dynamics.fit(library, Branches.load(folder), make_task())
        table = tabulate([(forks[0].rows, True)], dynamics.guessing, dynamics.scale)
        said.append(dynamics.predict(table)[0, 0] - table.outcome[0, 0])
    assert said[0] < -0.4
    assert said[1] > said[0] + 0.1


def test_a_scout_counts_up_to_its_end_and_no_more_than_a_beacon(library) -> None:
    rows = records([(32, 0.1)] * 2, 7)
    journeys = [
        Journey.from_records("journey", seed, rows, because)
        for seed, because in ((70, "finished"), (71, "ended as a scout"), (72, "diverged: it was seen"))
    ]
    own = TaskRecords.of(library, Branches(tuple(journeys), library.info), make_task())
    table = {seed: own.group == seed for seed in (70, 71, 72)}
    assert [float(own.weight[rows].max()) for rows in table.values()] == [3.0, 1.0, 3.0]
    assert [bool(own.epochs.diverged[rows].any()) for rows in table.values()] == [False, False, True]


def test_a_branch_whose_rate_kept_no_schedule_did_not_before_either(library) -> None:
    scale = TaskRecords.of(library, None, make_task()).scale
    guessing = np.log([CLASSES, CLASSES, 0.9])
    course = records([(32, 0.1)] * 9, 7)
    for row in course:
        row["lr_effective"] = row["lr"]  # not a tenth after half of the training
    whole, branch = (
        tabulate([(Journey.from_records(kind, 7, rows).rows, True)], guessing, scale)
        for kind, rows in (("journey", course), ("branch", course[7:]))
    )
    np.testing.assert_array_equal(branch.inputs[-1], whole.inputs[-1])


def test_a_rate_that_fell_to_an_early_end_is_followed_as_it_fell(library) -> None:
    rows = records([(32, 0.1)] * EPOCHS, 6)[:ENDED]
    factors = (ENDED - np.arange(ENDED) - 0.5) / ENDED
    for row, factor in zip(rows, factors, strict=True):
        row["lr_effective"] = row["lr"] * float(factor)
    steered = Branches((Journey.from_records("journey", 6, rows),), library.info)
    found = TaskRecords.of(library, None, make_task(), steered)
    own = found.epochs.take(np.flatnonzero(found.epochs.run == found.epochs.run.max()))
    steps = TRAIN_SIZE / 32
    np.testing.assert_allclose(own.inputs[:, 9], np.log2(factors))
    np.testing.assert_allclose(own.passed, 0.1 * factors * steps / found.scale.time)
    np.testing.assert_allclose(own.inputs[-1, 3], ENDED / EPOCHS)


@pytest.mark.usefixtures("fitted_briefly")
def test_fidelity_and_agreement(library, dynamics: Dynamics) -> None:
    fidelity = measure_fidelity(library, make_branches(library), make_task())
    assert fidelity.whole < fidelity.constant
    assert fidelity.rank > 0.8
    assert fidelity.one_step["validation_loss"] < fidelity.persistence["validation_loss"]
    assert 0.6 <= fidelity.coverage <= 1.0
    specs = {
        f"s{size}-lr{lr}": PolicySpec(name="x", kind="fixed", parameters={"batch_size": size, "lr": lr})
        for size in SIZES
        for lr in RATES
    }
    real = {
        name: [records([(spec.parameters["batch_size"], spec.parameters["lr"])] * EPOCHS, 77)[-1]["validation_loss"]]
        for name, spec in specs.items()
    }
    agreement = policy_agreement(dynamics, real, specs, runs=2)
    assert agreement.rank > 0.9
    assert agreement.real_runs == (1,) * 9


@pytest.mark.usefixtures("fitted_briefly")
def test_loading_by_name_says_what_is_missing(tmp_path) -> None:
    folder = make_folder(tmp_path / "whole")
    assert load_dynamics(folder) is load_dynamics(str(folder))
    with pytest.raises(LibraryError, match="autobatch beacons branch"):
        load_dynamics(make_folder(tmp_path / "without", branches=False))


def test_a_run_that_its_policy_stops_stays_where_it_is(dynamics, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PolicySpec(name="one", kind="fixed", parameters={"batch_size": 8, "lr": 0.1})
    whole = play_policy(dynamics, spec, range(3))
    decide = FixedPolicy.decide
    monkeypatch.setattr(FixedPolicy, "decide", lambda own, seen: replace(decide(own, seen), stop=seen.epoch >= 2))
    stopped = play_policy(dynamics, spec, range(3))
    np.testing.assert_allclose(stopped.cost, whole.cost * 2 / dynamics.epochs)
    assert (stopped.score != whole.score).all()


def test_a_rate_that_its_policy_steers_falls_as_it_says(dynamics, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PolicySpec(name="one", kind="fixed", parameters={"batch_size": 8, "lr": 0.1})
    decide, played = FixedPolicy.decide, []
    for factors in (dynamics.scale.factors, np.full(EPOCHS, 0.5), np.full(EPOCHS, 1.0)):
        monkeypatch.setattr(
            FixedPolicy, "decide", lambda own, seen, say=factors: replace(decide(own, seen), factor=say[seen.epoch])
        )
        played.append(play_policy(dynamics, spec, range(3)).score)
    monkeypatch.undo()
    np.testing.assert_array_equal(played[0], play_policy(dynamics, spec, range(3)).score)
    assert (played[1] != played[2]).all()
