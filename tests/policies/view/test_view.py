"""The flat view: bounds, masks, and that its entries are what they are called."""

import json
import math
from dataclasses import asdict, fields, replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.beacons import BeaconLibrary
from autobatch.policies import ENTRIES, SCHEMA, Observation, ObservationBatch, ObservationView, Trail
from tests.beacons.synthetic import BATCH_SIZES, LEARNING_RATES, make_beacon, make_costs, make_info, make_library
from tests.policies.cases import LAW, NAN, make_observation, make_task, through_json

NAMES = ObservationView.names
MASKS = ("started", "scored", "placed", "moving", "has beacons", "has costs")
ANY = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1e-320, 1e300, math.inf, -math.inf, NAN]),
)


@pytest.fixture(scope="module")
def library() -> BeaconLibrary:
    return make_library(seeds=(0, 1))


@pytest.fixture(scope="module")
def view(library: BeaconLibrary) -> ObservationView:
    return ObservationView(make_task(), library)


def entries(view: ObservationView, *observations: Observation) -> dict[str, float]:
    """The entries of the last of some observations, by name."""
    trail = None
    for observation in observations:
        trail = view.follow(trail, observation)
    assert trail is not None
    flat = view.array(observations[-1], trail)
    assert flat.shape == (view.size,)
    assert flat.dtype == np.float32
    return dict(zip(NAMES, flat.tolist(), strict=True))


def batch_of(view: ObservationView, pairs: list[tuple[Observation, Trail]]) -> ObservationBatch:
    """The observations of some single trainings side by side."""
    rows = []
    for observation, trail in pairs:
        before = trail.previous
        row = {
            key: float(value) for key, value in asdict(observation).items() if key not in {"steps", "gradients", "fits"}
        }
        row |= {"c_before": NAN, "l_before": NAN, "score_before": NAN, "spent": trail.spent}
        if before is not None:
            score = getattr(before, view.task.score)
            row |= {"c_before": before.c_bar, "l_before": before.l_cum, "score_before": score}
        rows.append(row)
    return ObservationBatch(**{own.name: np.array([row[own.name] for row in rows]) for own in fields(ObservationBatch)})


def journey(course: list[tuple[int, float]], **changes) -> list[Observation]:
    """What a training by the law shows after each epoch, and before the first."""
    seen = [make_observation()]
    for epoch, ((size, lr), place) in enumerate(zip(course, LAW.journey(course), strict=True), start=1):
        loss = 2.0 / epoch
        figures = {"train_loss": 0.8 * loss, "validation_loss": loss, "validation_error": min(0.9, loss / 2)}
        figures |= {"batch_size": size, "lr": lr, "c_bar": place.c_bar, "l_cum": place.l_cum, "steps": int(place.steps)}
        seen.append(make_observation(epoch, **figures | changes))
    return seen


COURSE = [(32, 0.1)] * 4 + [(128, 0.2)] * 5 + [(16, 0.05)] * 6 + [(512, 0.4)] * 5

RECORD = {
    "progress": 0.1,
    "epochs left": 0.3181,
    "milestones passed": 0.5,
    "next milestone": 0.2,
    "batch rung": -0.6667,
    "rate rung": -0.5,
    "quality": 0.4447,
    "against the best": 0.1793,
    "score slope": -0.0828,
    "generalisation gap": 0.0969,
    "validation error": 0.0909,
    "C slope": -0.0513,
    "L slope": 0.0206,
    "cost so far": -0.7413,
    "cost to come": -0.2913,
    "cost one rung up": -0.8809,
    "cost one rung down": 0.9366,
    "training set": 0.43,
    "largest batch": -0.0753,
    "ladder length": 0.4375,
    "region C": -0.026,
    "region L": -0.1307,
    "promised quality": 0.9156,
    "beacon 1 C": 0.0346,
    "beacon 1 L": -0.0452,
    "beacon 1 batch": 0.1667,
    "beacon 1 rate": 0.25,
    "beacon 1 quality": 0.957,
    "beacon 2 C": 0.076,
    "beacon 2 L": 0.028,
    "beacon 2 batch": 0.1667,
    "beacon 2 quality": 0.9004,
    "beacon 3 C": -0.1144,
    "beacon 3 L": 0.0648,
    "beacon 3 batch": 0.3333,
    "beacon 3 rate": 0.25,
    "beacon 3 quality": 0.873,
    "started": 1.0,
    "scored": 1.0,
    "placed": 1.0,
    "moving": 1.0,
    "has beacons": 1.0,
    "has costs": 1.0,
}


# What does not change unnoticed --------------------------------------------------------------------------------------


def test_another_view_is_another_schema() -> None:
    """Where this fails, networks that were learned before no longer fit: raise SCHEMA and write both down anew."""
    digest = sha256(json.dumps(ENTRIES).encode()).hexdigest()[:16]
    assert (SCHEMA, len(ENTRIES), digest) == (1, 44, "8025ef6790ed6f6d")
    assert ObservationView.size == len(set(NAMES)) == len(ENTRIES)
    assert NAMES[-len(MASKS) :] == MASKS


def test_a_view_on_record(view: ObservationView) -> None:
    """The same figures give the same entries as when SCHEMA was raised last."""
    seen = entries(view, *journey(COURSE)[:12])
    assert {name: seen[name] for name in NAMES if seen[name]} == pytest.approx(RECORD, abs=2e-4)


# Bounds --------------------------------------------------------------------------------------------------------------


def variants(library: BeaconLibrary) -> list[ObservationView]:
    """Views of all kinds: without beacons, without costs, by error, of the shortest ladders, of few beacons."""
    short = make_task(batch_sizes=(16,), learning_rates=(0.1,), milestones=(), costs=None)
    few = BeaconLibrary((make_beacon(32, 0.1, 0), make_beacon(64, 0.1, 0)), make_info())
    return [
        ObservationView(make_task(), library),
        ObservationView(
            make_task(score="validation_error"), BeaconLibrary(library.beacons, make_info(score="validation_error"))
        ),
        ObservationView(make_task(costs=None), None),
        ObservationView(short, few),
        ObservationView(short, None),
    ]


@pytest.fixture(scope="module")
def every(library: BeaconLibrary) -> list[ObservationView]:
    return variants(library)


@settings(max_examples=120)
@given(values=st.lists(ANY, min_size=13, max_size=13))
def test_whatever_comes_the_view_is_bounded(every: list[ObservationView], values: list[float]) -> None:
    names = [own.name for own in fields(ObservationBatch)]
    batch = ObservationBatch(**{name: np.array([value]) for name, value in zip(names, values, strict=True)})
    for view in every:
        flat = view.arrays(batch)[0]
        assert np.isfinite(flat).all()
        assert np.abs(flat).max() <= 1.0
        assert set(flat[-len(MASKS) :].tolist()) <= {0.0, 1.0}


def test_random_observations_are_bounded_and_alone_as_in_company(every: list[ObservationView]) -> None:
    generator = np.random.default_rng(0)

    def draw(epoch: int) -> Observation:
        size, lr = generator.choice([0, 1, 8, 20, 512, 10**9]), generator.choice([NAN, 0.0, 0.03, 0.4, 1e9])
        figures = {}
        for name in ("c_bar", "l_cum", "train_loss", "validation_loss", "validation_error"):
            figures[name] = float(generator.choice([NAN, math.inf, 0.0, *10.0 ** generator.uniform(-9, 9, 5)]))
        return make_observation(epoch, batch_size=int(size), lr=float(lr), **figures)

    for view in every:
        pairs = []
        for _ in range(60):
            trail = None
            for epoch in range(int(generator.integers(1, 5))):
                observation = draw(epoch)
                trail = view.follow(trail, observation)
            pairs.append((observation, trail))
        alone = np.stack([view.array(*pair) for pair in pairs])
        assert np.isfinite(alone).all()
        assert np.abs(alone).max() <= 1.0
        assert np.array_equal(view.arrays(batch_of(view, pairs)), alone)


# Masks ---------------------------------------------------------------------------------------------------------------


def test_masks_say_what_is_known(view: ObservationView) -> None:
    seen = journey(COURSE)

    def masks(*observations: Observation, of: ObservationView = view) -> str:
        flat = entries(of, *observations)
        return "".join(str(int(flat[name])) for name in MASKS)

    assert masks(seen[0]) == "000011"
    assert masks(*seen[:2]) == "111011"
    assert masks(*seen[:3]) == "111111"
    assert masks(*seen[:2], of=ObservationView(make_task(costs=None), None)) == "111000"
    unmeasured = [replace(own, c_bar=NAN, l_cum=0.0) for own in seen[:3]]
    assert masks(*unmeasured) == "110111"
    assert masks(*seen[:2], replace(seen[2], validation_loss=math.inf)) == "101111"


def test_what_a_mask_hides_is_zero(view: ObservationView) -> None:
    first = entries(view, make_observation())
    about = {
        "quality",
        "against the best",
        "score slope",
        "generalisation gap",
        "validation error",
        "C slope",
        "L slope",
    }
    about |= {name for name in NAMES if name.startswith(("region", "promised", "beacon "))}
    assert {name for name in about if first[name]} == set()
    bare = entries(ObservationView(make_task(costs=None), None), *journey(COURSE)[:9])
    hidden = {name for name in NAMES if name.startswith(("region", "promised", "beacon ", "cost"))}
    hidden |= {"quality", "against the best", "has beacons", "has costs"}
    assert {name for name in NAMES if not bare[name]} >= hidden
    assert bare["score slope"] != 0.0
    assert bare["C slope"] != 0.0


# What the entries mean -----------------------------------------------------------------------------------------------


def test_a_beacon_at_its_own_place_is_its_own_nearest(view: ObservationView, library: BeaconLibrary) -> None:
    task = make_task()
    for size, lr, progress in ((32, 0.1, 0.5), (8, 0.4, 0.9), (512, 0.025, 1.0)):
        place = library.at(size, lr, progress)
        epoch = round(progress * task.epochs)
        here = make_observation(epoch, batch_size=size, lr=lr, c_bar=place.c_bar, l_cum=place.l_cum)
        seen = entries(view, here)
        assert [seen[f"beacon 1 {name}"] for name in ("C", "L", "batch", "rate")] == pytest.approx([0.0] * 4, abs=1e-6)
        finals = [own.final("validation_loss") for own in library.beacons_at(size, lr)]
        guessing, best = math.log(math.log(10)), math.log(library.best_fixed().mean["validation_loss"])
        own = float(np.mean([(guessing - math.log(final)) / (guessing - best) for final in finals]))
        assert seen["beacon 1 quality"] == pytest.approx(np.clip(own, -1.0, 1.0), abs=1e-5)


def test_ways_to_beacons_are_in_spans_at_equal_progress(view: ObservationView, library: BeaconLibrary) -> None:
    progress, here_c, here_l = 0.3, 90.0, 3.0
    places = {
        key: np.log10([library.at(*key, progress).c_bar, library.at(*key, progress).l_cum])
        for key in library.by_configuration
    }
    spans = np.ptp(list(places.values()), axis=0)
    ways = {key: (np.log10([here_c, here_l]) - place) / spans for key, place in places.items()}
    ranked = sorted(ways, key=lambda key: float(np.hypot(*ways[key])))
    seen = entries(view, make_observation(6, batch_size=64, lr=0.2, c_bar=here_c, l_cum=here_l))
    for rank, (size, lr) in enumerate(ranked[:3], start=1):
        expected = [
            *ways[size, lr],
            (BATCH_SIZES.index(size) - BATCH_SIZES.index(64)) / (len(BATCH_SIZES) - 1),
            (LEARNING_RATES.index(lr) - LEARNING_RATES.index(0.2)) / (len(LEARNING_RATES) - 1),
        ]
        told = [seen[f"beacon {rank} {name}"] for name in ("C", "L", "batch", "rate")]
        assert told == pytest.approx(expected, abs=1e-5)
    finals = {
        key: np.mean(view._tracks.quality([own.final("validation_loss") for own in group]))
        for key, group in library.by_configuration.items()
    }
    good = [key for key in ways if finals[key] >= max(finals.values()) - 0.03]
    nearest = min(good, key=lambda key: float(np.hypot(*ways[key])))
    assert [seen["region C"], seen["region L"]] == pytest.approx(np.clip(ways[nearest], -1, 1), abs=1e-5)
    weights = {key: 1.0 / np.hypot(*ways[key]) + 1.0 for key in ranked[:5]}
    promised = sum(weights[key] * finals[key] for key in weights) / sum(weights.values())
    assert seen["promised quality"] == pytest.approx(promised, abs=1e-5)


def test_entries_of_the_training_itself(view: ObservationView, library: BeaconLibrary) -> None:
    seen = journey(COURSE)
    flat, now, before = entries(view, *seen[:13]), seen[12], seen[11]
    costs = make_costs()
    epoch_of = {size: costs.training_seconds(size, LAW.steps_per_epoch(size), 1) for size in BATCH_SIZES}
    best = library.best_fixed()
    whole = LAW.epochs * epoch_of[best.batch_size]
    spent = sum(epoch_of[size] for size, _ in COURSE[:12])
    best_then = np.mean([own.rows["validation_loss"][11] for own in library.beacons_at(best.batch_size, best.lr)])
    quality = math.log(math.log(10) / now.validation_loss) / math.log(math.log(10) / best.mean["validation_loss"])
    expected = {
        "progress": 2 * 12 / 20 - 1,
        "epochs left": math.log10(8) / 3,
        "milestones passed": 0.5,
        "next milestone": 0.75 - 0.6,
        "batch rung": 2 * 1 / 6 - 1,
        "rate rung": 2 * 1 / 4 - 1,
        "quality": quality / 1.5,
        "against the best": math.log10(now.validation_loss / best_then),
        "score slope": math.log10(now.validation_loss / before.validation_loss) / 0.5,
        "generalisation gap": math.log10(1 / 0.8),
        "validation error": now.validation_error,
        "C slope": math.log10(now.c_bar / before.c_bar),
        "L slope": math.log10(now.l_cum / before.l_cum) / 0.5,
        "cost so far": spent / whole - 1,
        "cost to come": (spent + 8 * epoch_of[16]) / whole - 1,
        "cost one rung up": math.log2(epoch_of[32] / epoch_of[16]),
        "cost one rung down": math.log2(epoch_of[8] / epoch_of[16]),
        "training set": math.log10(1024) / 7,
        "largest batch": math.log10(512 / 1024) / 4,
        "ladder length": 7 / 16,
    }
    clipped = {name: float(np.clip(value, -1.0, 1.0)) for name, value in expected.items()}
    assert {name: flat[name] for name in expected} == pytest.approx(clipped, abs=1e-6)
    ends = entries(view, make_observation(3, batch_size=512)), entries(view, make_observation(3, batch_size=8))
    assert ends[0]["cost one rung up"] == ends[1]["cost one rung down"] == 0.0


def test_an_error_of_zero_is_the_best_there_is(every: list[ObservationView]) -> None:
    view = every[1]
    seen = entries(view, make_observation(3, validation_error=0.2), make_observation(4, validation_error=0.0))
    assert (seen["against the best"], seen["score slope"], seen["scored"]) == (-1.0, -1.0, 1.0)
    still = entries(view, make_observation(3, validation_error=0.0), make_observation(4, validation_error=0.0))
    assert still["score slope"] == 0.0


# The trail -----------------------------------------------------------------------------------------------------------


def test_asked_twice_in_an_epoch_nothing_is_counted_twice(view: ObservationView) -> None:
    seen = journey(COURSE)
    trail = again = None
    for observation in seen[:8]:
        trail = view.follow(trail, observation)
        again = view.follow(view.follow(again, replace(observation, c_bar=1.0)), observation)
    assert (again.spent, again.last, again.previous.epoch) == (trail.spent, trail.last, trail.previous.epoch)
    assert view.follow(trail, seen[7]) == trail


def test_a_trail_goes_through_json(view: ObservationView) -> None:
    seen = journey(COURSE)
    trail = None
    for observation in [*seen[:2], replace(seen[2], c_bar=NAN), *seen[3:6]]:
        trail = view.follow(trail, observation)
        back = Trail.from_dict(through_json(trail.to_dict()))
        assert repr(back) == repr(trail), "NaN equals nothing, but reads the same"
        assert np.array_equal(view.array(observation, back), view.array(observation, trail))
    trail = view.follow(trail, replace(seen[6], train_loss=math.inf, validation_loss=math.inf))
    back = Trail.from_dict(through_json(trail.to_dict()))
    one, other = (view.array(seen[7], view.follow(own, seen[7])) for own in (trail, back))
    assert np.array_equal(one, other), "what is not finite is not known to the view"


def test_a_trail_that_begins_in_the_middle_takes_the_past_as_it_is(view: ObservationView) -> None:
    here = make_observation(6, batch_size=64)
    costs = make_costs()
    assert view.follow(None, here).spent == pytest.approx(costs.training_seconds(64, 6 * 16, 6))
    nowhere = ObservationView(make_task(costs=None), None)
    assert nowhere.follow(None, here).spent == pytest.approx(6 / 20)
