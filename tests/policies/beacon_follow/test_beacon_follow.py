import itertools
import math
import re

import numpy as np
import pytest

from autobatch._errors import CheckpointError, ConfigError
from autobatch.beacons import Beacon, BeaconLibrary
from autobatch.policies import BeaconFollowParameters, BeaconFollowPolicy, Scout, SteerParameters, SteerPolicy
from tests.beacons.synthetic import make_costs, make_library
from tests.policies.cases import LAW, make_observation, make_task, simulate, through_json


@pytest.fixture(scope="module")
def library():
    return make_library()


def follow(library, task=None, **parameters) -> BeaconFollowPolicy:
    policy = BeaconFollowPolicy(BeaconFollowParameters(**parameters))
    policy.reset(task or make_task(), library)
    return policy


def fixed_losses() -> dict[tuple[int, float], float]:
    """Final loss of every fixed configuration by the law itself, without noise."""
    task = make_task()
    ends = {
        (size, lr): LAW.journey([(size, lr)] * LAW.epochs)[-1]
        for size in task.batch_sizes
        for lr in task.learning_rates
    }
    return {configuration: LAW.loss(end.c_bar, end.l_cum) for configuration, end in ends.items()}


def fixed_seconds(batch_size: int) -> float:
    return make_costs().training_seconds(batch_size, LAW.epochs * LAW.steps_per_epoch(batch_size), LAW.epochs)


def test_ends_as_well_as_the_best_fixed_configuration_in_less_time(library):
    losses = fixed_losses()
    best = min(losses, key=losses.get)
    journey = simulate(follow(library))
    assert journey.final_loss <= losses[best] * 1.1
    assert journey.seconds < 0.8 * fixed_seconds(best[0])


def test_is_faster_than_every_fixed_configuration_that_ends_as_well(library):
    journey = simulate(follow(library))
    as_good = [size for (size, _), loss in fixed_losses().items() if loss <= journey.final_loss]
    assert journey.seconds < min(fixed_seconds(size) for size in as_good)


@pytest.mark.parametrize("seed", range(3))
def test_noise_in_the_position_does_not_make_it_flap(library, seed):
    journey = simulate(follow(library), noise=0.3, seed=seed)
    sizes = [size for size, _ in journey.stages]
    turns = np.diff(np.sign([step for step in np.diff(np.log2(sizes)) if step]))
    assert np.count_nonzero(turns) <= 2
    assert journey.final_loss <= min(fixed_losses().values()) * 1.25


def test_a_choice_is_kept_for_the_cooldown(library):
    stages = simulate(follow(library, cooldown=4), noise=0.3).stages
    changes = [epoch for epoch in range(1, LAW.epochs) if stages[epoch] != stages[epoch - 1]]
    assert changes
    assert np.diff([0, *changes, LAW.epochs]).min() >= 4


def test_one_change_goes_as_far_as_the_rungs_allow(library):
    sizes = np.array([size for size, _ in simulate(follow(library, max_rungs=1)).stages])
    assert np.abs(np.diff(np.log2(sizes))).max() == 1


def test_the_first_decision_is_what_the_beacons_themselves_say(library):
    decision = follow(library).decide(make_observation(0))
    losses = fixed_losses()
    assert losses[decision.batch_size, decision.lr] <= min(losses.values()) * 1.15
    own = next(c for c in decision.alternatives if (c.batch_size, c.lr) == (decision.batch_size, decision.lr))
    end = LAW.journey([(own.batch_size, own.lr)] * LAW.epochs)[-1]
    # The recorded seeds scatter by 3 %.
    assert own.c_bar == pytest.approx(end.c_bar, rel=0.1)
    assert own.l_cum == pytest.approx(end.l_cum, rel=0.1)
    assert own.seconds == pytest.approx(1.1 * fixed_seconds(own.batch_size))
    assert decision.target == (own.c_bar, own.l_cum)


def test_every_candidate_is_recorded(library):
    task = make_task()
    decision = follow(library, task).decide(make_observation(0))
    assert {(c.batch_size, c.lr) for c in decision.alternatives} == {
        (size, lr) for size in task.batch_sizes for lr in task.learning_rates
    }


def test_one_seed_and_library_make_the_same_decisions(library):
    assert simulate(follow(library), noise=0.3).decisions == simulate(follow(library), noise=0.3).decisions


@pytest.mark.parametrize("restart", [1, 7, 13])
def test_a_restart_in_mid_run_changes_nothing(library, restart):
    policy = follow(library)

    def restarted(epoch: int) -> BeaconFollowPolicy | None:
        if epoch != restart:
            return None
        fresh = follow(library)
        fresh.load_state_dict(through_json(policy.state_dict()))
        return fresh

    through = simulate(policy, noise=0.3, before_epoch=restarted)
    assert through.decisions == simulate(follow(library), noise=0.3).decisions


def test_a_configuration_that_ends_better_than_its_place_tells_is_known_for_it(library):
    better, scatter = (32, 0.2), np.random.default_rng(0)
    effects = {own: 0.1 * scatter.standard_normal() for own in library.configurations} | {better: -0.4}
    beacons = []
    for own in library.beacons:
        rows = {**own.rows, "validation_loss": own.rows["validation_loss"] * np.exp(effects[own.batch_size, own.lr])}
        beacons.append(Beacon(*own.key, rows, own.test_error, own.test_loss))
    own_library = BeaconLibrary(tuple(beacons), library.info)
    recorded = np.mean([own.final("validation_loss") for own in own_library.beacons_at(*better)])
    policy = follow(own_library)
    start = policy.decide(make_observation(0))
    assert (start.batch_size, start.lr) == better
    assert predicted_of(start, better) == pytest.approx(recorded, rel=0.1)
    # Half of the training is over at another one: that one's effect stays, and this one's has half the time left.
    halfway = make_observation(LAW.epochs // 2, batch_size=64, lr=0.2, c_bar=150.0, l_cum=10.0, steps=160)
    elsewhere = follow(own_library)
    elsewhere.decide(halfway)
    assert elsewhere.state_dict()["shares"] == [[64, 0.2, 0.5]]
    whole = follow(own_library)
    whole._shares = {better: 0.5}
    ratio = predicted_of(elsewhere.decide(halfway), better) / predicted_of(whole.decide(halfway), better)
    assert math.exp(0.05) < ratio < math.exp(0.3)


def predicted_of(decision, configuration) -> float:
    return next(one.score for one in decision.alternatives if (one.batch_size, one.lr) == configuration)


def test_in_unknown_territory_it_says_so_and_stays(library):
    policy = follow(library)
    policy.decide(make_observation(0))
    decision = policy.decide(make_observation(10, batch_size=64, lr=0.2, c_bar=1e9, l_cum=1e7, steps=160))
    assert (decision.batch_size, decision.lr) == (64, 0.2)
    assert "the landscape has no beacons" in decision.reason
    assert "stay with s64 at lr 0.2" in decision.reason


@pytest.mark.parametrize("position", [{"c_bar": float("nan")}, {"l_cum": 0.0}, {"c_bar": float("nan"), "l_cum": 0.0}])
def test_without_a_measurement_it_stays(library, position):
    decision = follow(library).decide(make_observation(3, batch_size=128, lr=0.05, **position))
    assert (decision.batch_size, decision.lr) == (128, 0.05)
    assert "not been measured" in decision.reason


def test_after_the_last_epoch_it_stays(library):
    decision = follow(library).decide(make_observation(LAW.epochs, batch_size=128, lr=0.05))
    assert (decision.batch_size, decision.lr) == (128, 0.05)


def test_a_run_that_strayed_is_told_that_it_left_the_corridor_and_led_back(library):
    policy = follow(library)
    place = LAW.journey([(512, 0.4)] * 6)[-1]
    decision = policy.decide(
        make_observation(6, batch_size=512, lr=0.4, c_bar=place.c_bar, l_cum=place.l_cum, steps=int(place.steps))
    )
    assert decision.reason.startswith("you have left the corridor: s512 at lr 0.4 would end at final validation loss")
    assert decision.batch_size == 256 or decision.lr == 0.2


def test_reasons_have_the_figures_they_speak_of(library):
    decisions = simulate(follow(library)).decisions
    assert re.fullmatch(
        r"start with s\d+ at lr [\d.]+: predicted final validation loss 0\.\d+ ± 0\.\d+.*; "
        r"the remaining 20 epochs take [\d.]+ s",
        decisions[0].reason,
    )
    changed = [new for old, new in itertools.pairwise(decisions) if new.batch_size != old.batch_size]
    moves = [decision.reason for decision in changed]
    assert moves
    for reason in moves:
        assert re.match(
            r"s\d+( at lr [\d.]+)? -> s\d+ at lr [\d.]+: predicted final validation loss 0\.\d+ ± 0\.\d+.*, and "
            r"the remaining \d+ epochs? takes? [\d.]+ s instead of [\d.]+ s$",
            reason,
        ), reason


def test_without_a_cost_table_optimizer_steps_rank_and_the_reason_says_so(library):
    decision = follow(library, make_task(costs=None)).decide(make_observation(0))
    assert "optimizer steps (no cost table: steps rank)" in decision.reason
    assert all(np.isnan(candidate.seconds) for candidate in decision.alternatives)
    assert decision.batch_size == follow(library).decide(make_observation(0)).batch_size


def test_a_configuration_that_diverged_is_no_candidate():
    library = make_library(diverged=[(512, 0.4, 1)])
    decision = follow(library).decide(make_observation(0))
    assert (512, 0.4) not in {(c.batch_size, c.lr) for c in decision.alternatives}
    assert len(decision.alternatives) == 34


def test_it_keeps_to_the_ladder_of_the_task(library):
    task = make_task(batch_sizes=(16, 32), learning_rates=(0.1, 0.2))
    journey = simulate(follow(library, task))
    assert {size for size, _ in journey.stages} <= {16, 32}
    assert {lr for _, lr in journey.stages} <= {0.1, 0.2}


def test_a_wider_tolerance_is_never_slower(library):
    seconds = [simulate(follow(library, tolerance=tolerance)).seconds for tolerance in (0.0, 0.05, 0.2)]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("landscape", ["nearest", "gaussian-process"])
def test_both_landscapes_lead_to_a_good_end(library, landscape):
    journey = simulate(follow(library, landscape=landscape))
    assert journey.final_loss <= min(fixed_losses().values()) * 1.15


def without_beacons(task=None) -> BeaconFollowPolicy:
    policy = BeaconFollowPolicy(BeaconFollowParameters(without_beacons={"scouts": 2, "decay": 0.5}))
    policy.reset(task or make_task(), None)
    return policy


def test_without_a_library_it_steers_as_its_parameters_for_that_say():
    steer = SteerPolicy(SteerParameters(scouts=2, decay=0.5))
    steer.reset(make_task(steered=True), None)
    policy = without_beacons(make_task(steered=True))
    assert policy.scouts() == steer.scouts()
    assert len(policy.scouts().configurations) == 2
    scouts = [
        Scout(*one, (loss,), (loss,)) for one, loss in zip(policy.scouts().configurations, (0.5, 0.4), strict=True)
    ]
    assert policy.take(scouts) == steer.take(scouts)
    for epoch in range(LAW.epochs + 1):
        assert policy.decide(make_observation(epoch)) == steer.decide(make_observation(epoch))


def test_with_a_library_it_asks_for_no_scouts(library):
    policy = follow(library)
    assert policy.scouts().configurations == ()
    with pytest.raises(RuntimeError, match="asked for no scouts"):
        policy.take([])


def test_beacons_of_another_length_are_begun_from_in_a_sentence():
    library = make_library(task={"epochs": 40})
    policy, best = without_beacons(make_task(epochs=2, learning_rates=(0.0125, 0.8))), library.best_fixed()
    policy.begin_from(library)
    told = policy.decide(make_observation(0)).reason
    assert re.match(
        rf"s{best.batch_size} at lr [0-9.]+: s{best.batch_size} at lr {best.lr:g} was the best of "
        rf"{len(library.beacons)} beacons of this task, which trained 40 epochs, "
        "and a training of 2 epochs wants a (higher|lower) rate",
        told,
    )


def test_reset_with_a_library_forgets_that_there_was_none(library):
    policy = without_beacons()
    policy.reset(make_task(), library)
    assert policy.scouts().configurations == ()
    assert policy.decide(make_observation(0)) == follow(library).decide(make_observation(0))


def test_a_run_goes_on_only_as_it_began_with_beacons_or_without(library):
    with pytest.raises(CheckpointError, match="began this run without beacons of the task, and now they are there"):
        follow(library).load_state_dict(through_json(without_beacons().state_dict()))
    with pytest.raises(CheckpointError, match="began this run with beacons of the task, and now they are missing"):
        without_beacons().load_state_dict(through_json(follow(library).state_dict()))


def test_a_state_of_before_there_were_scouts_is_one_with_beacons(library):
    state = follow(library).state_dict()
    del state["steer"]
    follow(library).load_state_dict(state)
    with pytest.raises(CheckpointError, match="now they are missing"):
        without_beacons().load_state_dict(state)


def test_beacons_for_other_configurations_are_an_error(library):
    with pytest.raises(ConfigError, match=r"no finished beacon at any batch size of 48.*record them"):
        follow(library, make_task(batch_sizes=(48,)))


def test_a_cost_table_for_another_ladder_is_an_error(library):
    with pytest.raises(ConfigError, match="--calibrate"):
        follow(library, make_task(costs=make_costs((8, 16))))


def trained_beside(library, factor: float, *, epochs: int = 6) -> list[str]:
    """Return the reasons of a run that trains to ``factor`` times what its beacons trained to; it never moves."""
    policy = follow(library, min_gain=0.99)
    begun = policy.decide(make_observation(0))
    used = (begun.batch_size, begun.lr)
    reasons = []
    for epoch in range(1, epochs + 1):
        if epoch == 3:
            state = through_json(policy.state_dict())
            policy = follow(library, min_gain=0.99)
            policy.load_state_dict(state)
        curves = [beacon.rows["train_loss"] for beacon in library.beacons_at(*used)]
        loss = factor * math.exp(np.mean([math.log(curve[epoch - 1]) for curve in curves]))
        decision = policy.decide(make_observation(epoch, batch_size=used[0], lr=used[1], train_loss=loss))
        assert (decision.batch_size, decision.lr) == used
        reasons.append(decision.reason)
    return reasons


@pytest.mark.parametrize(("factor", "told"), [(6.0, "6.0 times above"), (0.1, "10.0 times below")])
def test_beacons_of_another_training_are_followed_no_longer(library, factor, told):
    reasons = trained_beside(library, factor)
    assert [told in reason and "of another training" in reason for reason in reasons] == [False] * 2 + [True] * 4


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_beacons_that_scatter_are_followed_on(library, factor):
    assert not any("of another training" in reason for reason in trained_beside(library, factor))


def test_losses_that_are_not_known_say_nothing_of_the_beacons(library):
    assert not any("of another training" in reason for reason in trained_beside(library, math.nan))
