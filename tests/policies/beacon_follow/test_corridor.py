import math

import pytest

from autobatch.policies import Candidate
from autobatch.policies.beacon_follow._corridor import CorridorRule, Outcome, Weighed, best_of, choose

RULE = CorridorRule(tolerance=0.05, min_gain=0.05, max_rungs=1)
NOTHING_PROMISED = -math.inf


def weighed(batch_size: int, score: float, cost: float, lr: float = 0.1, known: bool = True) -> Weighed:
    candidate = Candidate(batch_size, lr, 100.0, 10.0, score, 0.0, cost, known)
    return Weighed(candidate, upper=score, cost=cost)


def ladder(**scores: float) -> list[Weighed]:
    """Candidates ``s16=score, ...`` whose cost halves from rung to rung."""
    sizes = [int(name.removeprefix("s")) for name in scores]
    return [weighed(size, score, 160 / size) for size, score in zip(sizes, scores.values(), strict=True)]


def outcome(candidates, current, rule=RULE, promised=NOTHING_PROMISED) -> tuple[Outcome, int | None]:
    choice = choose(candidates, current, promised, rule)
    return choice.outcome, choice.chosen and choice.chosen.candidate.batch_size


def test_starts_with_the_fastest_within_the_tolerance_of_the_best():
    assert outcome(ladder(s16=1.00, s32=1.02, s64=1.04, s128=1.06), None) == (Outcome.START, 64)


def test_starts_with_the_best_where_the_fastest_saves_next_to_nothing():
    assert outcome([weighed(16, 1.0, 10.0), weighed(32, 1.04, 9.6)], None) == (Outcome.START, 16)
    assert outcome([weighed(16, 1.0, 10.0), weighed(32, 1.04, 9.4)], None) == (Outcome.START, 32)


def test_goes_one_rung_towards_the_fastest():
    assert outcome(ladder(s16=1.00, s32=1.02, s64=1.04, s128=1.06), (16, 0.1)) == (Outcome.FASTER, 32)


def test_goes_as_many_rungs_as_the_rule_allows():
    rule = CorridorRule(tolerance=0.05, min_gain=0.05, max_rungs=2)
    assert outcome(ladder(s16=1.00, s32=1.02, s64=1.04, s128=1.06), (16, 0.1), rule) == (Outcome.FASTER, 64)


def test_stays_for_a_gain_that_is_too_small():
    candidates = [weighed(16, 1.0, 10.0), weighed(32, 1.0, 9.6)]
    assert outcome(candidates, (16, 0.1)) == (Outcome.STAY, 16)
    candidates = [weighed(16, 1.0, 10.0), weighed(32, 1.0, 9.4)]
    assert outcome(candidates, (16, 0.1)) == (Outcome.FASTER, 32)


@pytest.mark.parametrize(("score", "expected"), [(1.04, Outcome.STAY), (1.09, Outcome.STAY), (1.11, Outcome.LEFT)])
def test_leaves_only_at_twice_the_tolerance(score, expected):
    assert outcome(ladder(s16=1.0, s32=score), (32, 0.1))[0] is expected


def test_from_outside_it_goes_towards_the_corridor_even_where_that_is_slower():
    assert outcome(ladder(s16=1.00, s32=1.30, s64=1.60), (64, 0.1)) == (Outcome.LEFT, 32)


def test_outside_with_nothing_better_within_reach_it_stays_and_says_so():
    assert outcome(ladder(s16=1.0, s32=1.9, s64=1.6), (64, 0.1)) == (Outcome.LEFT, 64)


def test_the_corridor_does_not_widen_with_what_has_been_given_away():
    candidates = ladder(s16=0.95, s32=1.04)
    assert outcome(candidates, (16, 0.1), promised=1.0) == (Outcome.FASTER, 32)
    assert outcome(candidates, (16, 0.1)) == (Outcome.STAY, 16)


def test_a_promise_out_of_reach_is_measured_from_the_best_within_reach():
    assert outcome(ladder(s16=1.20, s32=1.22), (16, 0.1), promised=1.0) == (Outcome.FASTER, 32)


def test_unknown_candidates_are_never_chosen():
    known, unknown = weighed(16, 1.0, 10.0), weighed(32, 0.5, 5.0, known=False)
    broken = weighed(8, math.nan, 1.0)
    assert outcome([broken, known, unknown], None) == (Outcome.START, 16)
    assert outcome([broken, known, unknown], (16, 0.1)) == (Outcome.STAY, 16)


@pytest.mark.parametrize("current", [None, (16, 0.1), (32, 0.1)])
def test_where_nothing_is_known_nothing_is_chosen(current):
    candidates = [weighed(16, 1.0, 10.0, known=False), weighed(32, 0.5, 5.0, known=False)]
    assert outcome(candidates, current) == (Outcome.UNKNOWN, None)


def test_where_the_present_choice_leads_into_the_unknown_nothing_is_chosen():
    candidates = [weighed(16, 1.0, 10.0), weighed(32, 0.5, 5.0, known=False)]
    assert outcome(candidates, (32, 0.1)) == (Outcome.UNKNOWN, None)


def test_ties_in_cost_go_to_the_better_score_then_to_the_lower_rate():
    candidates = [weighed(64, 1.02, 5.0, lr=0.4), weighed(64, 1.01, 5.0, lr=0.2), weighed(64, 1.01, 5.0, lr=0.1)]
    for order in (candidates, candidates[::-1]):
        choice = choose(order, None, NOTHING_PROMISED, RULE)
        assert choice.chosen.candidate.lr == 0.1
        assert best_of(order).candidate.lr == 0.1


def test_a_configuration_that_is_no_candidate_may_go_anywhere():
    assert outcome(ladder(s16=1.0, s64=1.02, s256=1.04), (24, 0.1)) == (Outcome.START, 256)
