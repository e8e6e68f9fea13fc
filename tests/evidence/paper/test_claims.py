"""The paper's claims on planted data: each comes out as planted, also where it must not be seen."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from autobatch.beacons import Beacon, BeaconLibrary
from autobatch.evidence import Claim, claims_json, claims_markdown, paper_claims
from autobatch.evidence.paper._claims import ON_BEACONS, judged, perceptron, sampling_claims
from autobatch.evidence.paper._evidence import Evidence
from autobatch.evidence.paper._grid import both_ends, early_prediction, good_together, signatures, stable_positions
from autobatch.evidence.paper._statistics import (
    above_zero,
    compactness,
    correlation_p,
    identify,
    rank_correlation,
    share_explained,
    welch,
)
from autobatch.report.paper._data import finals, fixed_name
from tests.beacons.synthetic import Law, make_library
from tests.evidence.paper.paper_data import comparison, sizes_of

TRENDS = ("C̄ and the batch size", "L and the batch size", "C̄ and the rate", "L and the rate")
PLANTED = ("unique signatures", *TRENDS, "functional relations", "stable positions", "the good lie together")


@dataclass(frozen=True)
class Upside(Law):
    """C̄ falls with the batch size and the rate."""

    def c_rate(self, batch_size: int, lr: float, progress: float) -> float:
        return 6000.0 * batch_size**-0.5 * lr**-0.5


@dataclass(frozen=True)
class Blind(Law):
    """The final loss has nothing to do with the position."""

    def loss(self, c_bar: float, l_cum: float) -> float:
        return float(np.exp(np.random.default_rng(int(1e6 * c_bar)).standard_normal() - 2.0))


@dataclass(frozen=True)
class Everywhere(Law):
    """All configurations run the same way."""

    def c_rate(self, batch_size: int, lr: float, progress: float) -> float:
        return 100.0

    def l_rate(self, batch_size: int, lr: float, progress: float) -> float:
        return 1e-3 * batch_size


def on_grid(library: BeaconLibrary) -> dict[str, Claim]:
    """All claims on a grid but the early prediction, which takes longer than the rest together."""
    evidence = Evidence(library)
    return {stated.name: judged(stated, evidence) for stated in ON_BEACONS if stated.test is not early_prediction}


@pytest.fixture(scope="module")
def library() -> BeaconLibrary:
    return make_library()


@pytest.fixture(scope="module")
def planted(library) -> dict[str, Claim]:
    return on_grid(library)


@pytest.fixture(scope="module")
def upside() -> dict[str, Claim]:
    return on_grid(make_library(law=Upside(), noise=0.3, diverged=[(8, 0.4, 1), (16, 0.4, 0)]))


def test_planted_relations_are_seen(planted):
    for name in PLANTED:
        assert planted[name].verdict == "seen", planted[name]
    assert planted["unique signatures"].figures["accuracy"] > 0.95
    # C̄ goes as B^0.8 r^0.3; L as steps times B^-0.3 r^0.9, and steps as 1 / B.
    for name, exponent in (("C̄ and the batch size", 0.8), ("L and the batch size", -1.3)):
        assert planted[name].figures["exponent"] == pytest.approx(exponent, abs=0.02)
    for name, exponent in (("C̄ and the rate", 0.3), ("L and the rate", 0.9)):
        assert planted[name].figures["exponent"] == pytest.approx(exponent, abs=0.02)


def test_relations_that_are_not_there_are_not_seen(upside):
    for name in ("C̄ and the batch size", "C̄ and the rate"):
        assert upside[name].verdict == "not seen"
        assert "the opposite of the claim" in upside[name].sentence
        assert "Left out: 2 that diverged" in upside[name].sentence
    assert upside["L and the batch size"].verdict == "seen"
    assert upside["unique signatures"].figures["runs"] == 3 * 33
    same = Evidence(make_library(law=Everywhere(), noise=0.1))
    assert signatures(same).verdict == "not seen"
    assert signatures(same).figures["accuracy"] < 0.2
    assert judged(ON_BEACONS[4], same).verdict == "not seen"


def test_functional_relations(planted, upside):
    figures = planted["functional relations"].figures
    assert figures["c_bar_by_size"] > 0.8
    assert figures["c_bar_by_size"] + figures["c_bar_by_rate"] == pytest.approx(1.0, abs=0.05)  # two power laws
    assert upside["functional relations"].figures["c_bar_by_size"] < 0.7


def test_early_positions_and_what_they_predict():
    small = {"batch_sizes": (8, 32, 128, 512), "lrs": (0.025, 0.1, 0.4)}
    library, blind = make_library(**small), make_library(law=Blind(), **small)
    assert early_prediction(Evidence(library)).verdict == "seen"
    assert stable_positions(Evidence(blind)).verdict == "seen"  # the positions are the same
    assert early_prediction(Evidence(blind)).verdict == "not seen"


def test_the_good_do_not_lie_together_where_the_loss_is_blind():
    library = make_library(law=Blind())
    assert good_together(Evidence(library)).verdict == "not seen"


def test_two_bad_ends(library):
    def bent(beacon: Beacon) -> Beacon:
        """Training loss rises to one end, the gap to the other."""
        lean = np.log10(beacon.final("l_cum") / beacon.final("c_bar"))
        rows = dict(beacon.rows)
        rows["train_loss"] = 0.1 * 10 ** np.maximum(lean, -0.6) * np.ones_like(rows["train_loss"])
        rows["validation_loss"] = rows["train_loss"] * (1.2 + np.maximum(-0.6 - lean, 0.0))
        error = 0.01 + 0.02 * abs(lean + 0.6)
        return replace(beacon, rows=rows, test_error=error)

    leaning = BeaconLibrary(tuple(bent(beacon) for beacon in library.beacons), library.info)
    ends = both_ends(Evidence(leaning))
    assert ends.verdict == "seen", ends
    assert both_ends(Evidence(library)).verdict != "seen"  # there the gap is the same everywhere


def test_runs_near_guessing_are_told_apart(library):
    def spoilt(beacon: Beacon, error: float) -> Beacon:
        if beacon.lr < 0.4 or beacon.batch_size > 16:
            return beacon
        rows = {name: values.copy() for name, values in beacon.rows.items()}
        rows["validation_error"][-1] = error
        rows["c_bar"] *= 1000.0
        return replace(beacon, rows=rows)

    hard = BeaconLibrary(tuple(spoilt(beacon, 0.6) for beacon in library.beacons), library.info)
    assert finals(hard).learnt.all()  # of ten classes a guesser has nine in ten wrong
    spoiled = BeaconLibrary(tuple(spoilt(beacon, 0.9) for beacon in library.beacons), library.info)
    claim = on_grid(spoiled)["C̄ and the batch size"]
    assert finals(spoiled).learnt.sum() == 33
    assert "without the 2 configurations that ended near guessing" in claim.sentence
    assert claim.verdict == "partly"
    assert claim.figures["learnt_mean"] > 0.99 > claim.figures["mean"]


def test_dynamic_sampling_as_planted(library):
    errors = {"s32-lr0.1": 0.05, "s16-to-256": 0.05, "s256-to-16": 0.07, "s16-to-256-ms": 0.05}
    claims = {claim.name: claim for claim in sampling_claims(Evidence(library, *comparison(errors)))}
    travels = claims["dynamic sampling travels"]
    assert travels.verdict == "seen"
    assert abs(travels.figures["s16-to-256_c_bar_at_5"]) < 0.1  # it begins where the beacons of 16 do
    assert travels.figures["s16-to-256_c_bar_at_100"] > 0.2
    assert claims["small to large"].verdict == "seen"
    assert claims["small to large"].figures["s16-to-256_p"] < 0.01
    # The whole sequence runs before the decay with -MS, so that large batches come earlier, where the rate is high.
    assert claims["-MS limits L"].verdict == "seen"
    assert claims["-MS limits L"].figures["s16-to-256-ms_l_ratio"] < 0.9
    table = claims["time and accuracy"]
    law, costs = Law(), library.costs
    seconds = [
        sum(costs.training_seconds(size, law.steps_per_epoch(size), epochs=1) for size in sizes_of(name, law))
        for name in ("s16-to-256", "s32-lr0.1")
    ]
    assert table.figures["plain_time"] == pytest.approx(seconds[0] / seconds[1])
    assert "s16-to-256" in table.sentence


def test_dynamic_sampling_where_it_must_not_be_seen(library):
    errors = {"s256-lr0.1": 0.03, "s16-to-256": 0.09, "s256-to-16": 0.05, "s16-to-256-ms": 0.09}
    stays = {name: [16] * 20 for name in ("s16-to-256", "s16-to-256-ms")} | {"s256-to-16": [256] * 20}
    claims = {claim.name: claim for claim in sampling_claims(Evidence(library, *comparison(errors, sizes=stays)))}
    assert claims["dynamic sampling travels"].verdict == "not seen"
    assert claims["small to large"].verdict == "not seen"
    assert claims["-MS limits L"].verdict == "not seen"
    chosen = {name: error for name, error in errors.items() if name != "s256-to-16"}
    table = sampling_claims(Evidence(library, *comparison(chosen, sizes=stays)))[-1]
    assert table.verdict == "not seen"
    assert table.figures["plain_time"] > 1.0


def test_runs_that_ended_early_are_left_out_and_told(library):
    runs, _ = comparison({"s32-lr0.1": 0.05, "s16-to-256": 0.05, "s256-to-16": 0.07})
    ended = runs.column("stopped_because").to_pylist()
    ended[0] = ended[4] = ended[5] = ended[6] = "diverged"
    runs = runs.set_column(runs.column_names.index("stopped_because"), "stopped_because", [ended])
    claims = {claim.name: claim for claim in sampling_claims(Evidence(library, runs, None))}
    assert "s16-to-256 4.88 % (1 seed)" in claims["small to large"].sentence
    assert claims["small to large"].verdict == "partly"  # one seed proves nothing
    assert claims["small to large"].sentence.endswith("Left out: 4 runs that ended early")
    assert "s256-to-16" in claims["time and accuracy"].sentence
    assert "s16-to-256" not in claims["time and accuracy"].sentence


def test_what_cannot_be_tested_says_why(library):
    tiny = make_library(batch_sizes=(8, 16), lrs=(0.1,))
    claims = paper_claims(tiny, None, None)
    assert {claim.verdict for claim in claims} == {"not tested"}
    reasons = {claim.name: claim.sentence for claim in claims if claim.verdict == "not tested"}
    assert reasons["small to large"] == "no comparison of policies on this task"
    assert reasons["a perceptron shows the same"] == "the network of this task is no perceptron"
    runs, epochs = comparison({"s32-lr0.1": 0.05, "s16-to-256": 0.05}, positions=False)
    some = {claim.name: claim for claim in sampling_claims(Evidence(library, runs, epochs))}
    assert some["dynamic sampling travels"].verdict == "not tested"
    assert "needs two runs of dynamic sampling, measured" in some["dynamic sampling travels"].sentence
    assert some["time and accuracy"].verdict != "not tested"
    gone = make_library(batch_sizes=(8,), lrs=(0.1,), diverged=[(8, 0.1, seed) for seed in (0, 1, 2)])
    assert {claim.verdict for claim in paper_claims(gone, None, None)} == {"not tested"}


def test_perceptron(library, planted):
    task = dict(library.task) | {"model": {"name": "mlp", "arguments": {"hidden": [500, 500]}}}
    mlp = BeaconLibrary(library.beacons, replace(library.info, task=task))
    claim = perceptron(mlp, list(planted.values()))
    assert claim.verdict == "seen"
    assert "L and the rate: seen" in claim.sentence


def test_tables_and_json():
    claim = Claim("a|b", "4.1", "says", "p = 0.1", "seen", "saw", {"x": float("nan"), "y": 0.5})
    text = claims_markdown([claim])
    assert text.splitlines()[-1] == "| **a\\|b**: says | 4.1; p = 0.1 | saw | seen |"
    assert json.loads(claims_json([claim]))[0]["figures"] == {"x": None, "y": 0.5}


def test_statistics_against_known_answers():
    generator = np.random.default_rng(0)
    noise = [generator.standard_normal((3, 2)) for _ in range(20)]
    found = identify(noise)
    assert found.correct / found.runs < 0.25
    assert found.apart / found.pairs < 0.15
    apart = identify([own + 50.0 * index for index, own in enumerate(noise)])
    assert (apart.correct, apart.apart) == (60, 190)
    assert identify([np.zeros((1, 2))] * 9).runs == 0

    points = generator.random((30, 2))
    near = np.argsort(np.linalg.norm(points - points[0], axis=1))[:5]
    ratio, p = compactness(points, near)
    assert ratio < 0.5
    assert p < 0.01
    far = np.argsort(np.linalg.norm(points - 0.5, axis=1))[-5:]
    assert compactness(points, far)[1] > 0.5

    ours, theirs = generator.normal(0.0, 1.0, 5), generator.normal(1.0, 2.0, 4)
    assert welch(ours, theirs) == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert np.isnan(welch([1.0], [2.0, 3.0]))
    assert above_zero([1.0, 1.1, 0.9]) < 0.01 < 0.5 < above_zero([-1.0, -1.1, 0.2])
    xs, ys = generator.random(12), generator.random(12)
    expected = stats.spearmanr(xs, ys, alternative="greater")
    assert rank_correlation(xs, ys) == pytest.approx(expected.statistic)
    assert correlation_p(rank_correlation(xs, ys), 12) == pytest.approx(expected.pvalue)
    assert np.isnan(rank_correlation([1, 2, 3], [1, 1, 1]))
    values = np.array([0.0, 2.0, 10.0, 12.0])
    assert share_explained(values, ["a", "a", "b", "b"]) == pytest.approx(100.0 / 104.0)


@pytest.mark.parametrize(
    ("name", "fixed"), [("s32", True), ("s32-lr0.05", True), ("s32-to-128", False), ("beacon-follow", False)]
)
def test_names_of_fixed_policies(name, fixed):
    assert fixed_name(name) is fixed
