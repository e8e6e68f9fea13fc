"""Which scouts are made: rates towards where the loss falls, and a smaller batch where none has begun to learn."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autobatch.policies import SteerParameters, SteerPolicy, TaskInfo
from autobatch.policies.steer import Scout, ScoutPlan
from autobatch.policies.steer._search import (
    has_larger_batches,
    many_steps,
    nearest_size,
    plan_scouts,
    sizes_to_time,
    smaller_batch,
    start_without_scouts,
    usual_sizes,
)
from tests.policies.cases import NAN, make_costs, make_task

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


def made(task: TaskInfo, number: int, loss: Callable[[float], float], **options: float) -> list[tuple[int, float]]:
    """Carry out a plan whose scouts come to a loss that depends on the rate, NaN for one that diverges."""
    done: list[Scout] = []
    while len(done) < len((plan := plan_scouts(task, number, 0.05, done, **options)).configurations):
        assert plan.configurations[: len(done)] == tuple((one.batch_size, one.lr) for one in done)
        size, lr = plan.configurations[len(done)]
        value = loss(lr)
        done.append(Scout(size, lr, (value,), (NAN,), "diverged" if math.isnan(value) else None))
    assert plan.more == 0
    return [(one.batch_size, one.lr) for one in done]


def test_scouts_that_none_can_go_on_from_cost_two_fifths_at_most() -> None:
    def most(epochs: int, **facts: int) -> tuple[int, int]:
        plan = plan_scouts(make_task(epochs=epochs, learning_rates=RATES, **facts), 16, 0.05)
        return plan.most, plan.epochs

    assert most(20, periods=10, train_size=960) == (4, 2)  # 8 of 20 periods
    assert most(20, periods=10, train_size=1920) == (5, 1)
    assert most(6, periods=3, train_size=960) == (2, 1)
    assert most(6, train_size=960) == (3, 1)  # the one that goes on costs nothing
    plan = plan_scouts(make_task(epochs=6, periods=3, learning_rates=RATES), 3, 0.05)
    assert plan.note.startswith("2 scouts instead of 3: more would take over two fifths of the 2 epochs")


@pytest.mark.parametrize(("number", "rates"), [(3, 3), (8, 5)])
def test_half_the_batch_takes_the_place_of_rates_that_need_no_scout(number: int, rates: int) -> None:
    eight = tuple(0.001 * 2.0**place for place in range(8))
    task = make_task(epochs=40, learning_rates=eight, guessing=2.3)
    scouts = made(task, number, lambda lr: 0.1 / lr, hardly=0.65)
    assert [size for size, _ in scouts] == [32] * rates + [16]
    assert scouts[-1] == (16, eight[-1])
    assert plan_scouts(task, number, 0.05, hardly=0.65).most >= len(scouts) - (number == 3)


@pytest.mark.parametrize(
    ("sizes", "examples", "epochs", "periods"),
    [
        # By hand, from ceil(20 / epochs): 30 steps of 32 are 960 examples, of 64 they are 1,920.
        ((16, 32, 64), 100_000, 1, 20),
        ((16, 32, 64), 100_000, 3, 7),
        ((16, 32, 64), 100_000, 19, 2),
        ((16, 32, 64), 100_000, 20, 1),
        ((16, 32, 64), 5000, 3, 5),
        ((16, 32, 64), 1919, 3, 1),
        ((64, 128), 10_000, 3, 5),
        ((32, 4096), 10_000, 3, 2),  # no batch is longer than what lies between two decisions
    ],
)
def test_a_training_of_few_epochs_decides_within_them(
    sizes: tuple[int, ...], examples: int, epochs: int, periods: int
) -> None:
    assert SteerPolicy.periods_of_epoch(sizes, examples, epochs) == periods


def valley(best: float) -> Callable[[float], float]:
    return lambda lr: 1.0 + math.log(lr / best) ** 2


@pytest.mark.parametrize(
    ("epochs", "scouts", "each"),
    # By hand: each takes round(0.05 epochs), one at least; as many as leave the losers a third of the training. Below
    # six epochs an epoch is worth more than a scout.
    [(1, 0, 1), (2, 0, 1), (3, 0, 1), (5, 0, 1), (6, 3, 1), (8, 3, 1), (40, 5, 2)],
)
def test_scouts_by_the_length_of_a_task(epochs: int, scouts: int, each: int) -> None:
    plan = plan_scouts(make_task(epochs=epochs, learning_rates=RATES), 16, 0.05)
    assert (plan.most, plan.epochs) == (scouts, each)
    assert (plan.most - 1) * each <= epochs / 3


@pytest.mark.parametrize(
    ("epochs", "train_size", "each"),
    # By hand, batches of 32: 60 steps are ceil(60 * 32 / examples) epochs, a tenth of the training is the most.
    [(40, 1000, 2), (40, 960, 2), (40, 959, 3), (60, 270, 6), (60, 640, 3), (20, 1000, 2), (9, 100, 1), (10, 100, 1)],
)
def test_a_scout_takes_enough_steps_to_tell(epochs: int, train_size: int, each: int) -> None:
    plan = plan_scouts(make_task(epochs=epochs, learning_rates=RATES, train_size=train_size), 3, 0.05)
    assert plan.epochs == each
    asked = max(1, round(0.05 * epochs))
    assert (f"epochs each instead of {asked}: in fewer steps" in plan.note) == (each > asked)


@pytest.mark.parametrize(
    ("epochs", "number", "rates", "note"),
    [
        (40, 3, RATES, ""),
        (40, 0, RATES, "none were asked for; it starts with s32 at lr 0.05, the middle of 0.01, 0.02, 0.05, 0.1, 0.2"),
        (40, 1, RATES, "no scouts: one alone has nothing to be compared with, it takes two; it starts with s32 at lr"),
        (40, 5, RATES[:4], "4 scouts instead of 5: there are 4 learning rates to try"),
        (6, 5, RATES, "3 scouts instead of 5: more would take over a third of the 6 epochs"),
        (40, 3, (0.1,), "no scouts: there is one learning rate, so nothing to choose; it starts with s32 at lr 0.1"),
        (5, 3, RATES, "no scouts: 5 epochs of 32 steps are too few, and better spent on the training itself; it"),
    ],
)
def test_why_there_are_fewer_scouts_than_were_asked_for(
    epochs: int, number: int, rates: tuple[float, ...], note: str
) -> None:
    plan = plan_scouts(make_task(epochs=epochs, learning_rates=rates), number, 0.05)
    assert note in plan.note
    assert bool(note) == bool(plan.note)


@pytest.mark.parametrize(("number", "rates"), [(0, []), (1, []), (2, [0.02, 0.1])])
def test_one_scout_has_nothing_to_compare_and_two_lie_at_the_quarters(number: int, rates: list[float]) -> None:
    plan = plan_scouts(make_task(epochs=40, learning_rates=RATES), number, 0.05)
    assert plan == ScoutPlan(tuple((32, lr) for lr in rates), 2)


def test_two_of_three_even_rates_are_the_ends() -> None:
    plan = plan_scouts(make_task(epochs=40, learning_rates=(0.05, 0.1, 0.2)), 2, 0.05)
    assert [lr for _, lr in plan.configurations] == [0.05, 0.2]


def test_the_first_is_the_middle_and_the_others_depend_on_it() -> None:
    plan = plan_scouts(make_task(epochs=40, learning_rates=RATES), 3, 0.05)
    assert plan == ScoutPlan(((32, 0.05),), 2, more=2)


@pytest.mark.parametrize(
    ("number", "best", "rates"),
    [
        (3, 0.2, [0.05, 0.1, 0.2]),  # upwards as long as it helps: to the highest of the list
        (3, 0.05, [0.05, 0.1, 0.02]),  # the valley lies between
        (3, 0.01, [0.05, 0.1, 0.02]),  # three are three
        (4, 0.01, [0.05, 0.1, 0.02, 0.01]),
        (16, 0.05, [0.05, 0.1, 0.02]),  # nothing more to learn
        (16, 1.0, [0.05, 0.1, 0.2]),
    ],
)
def test_rates_go_towards_where_the_loss_falls(number: int, best: float, rates: list[float]) -> None:
    task = make_task(epochs=60, learning_rates=RATES)
    assert [lr for _, lr in made(task, number, valley(best))] == rates


def test_a_middle_that_diverges_sends_the_others_down() -> None:
    task = make_task(epochs=40, learning_rates=RATES)
    assert [lr for _, lr in made(task, 3, lambda lr: NAN if lr > 0.015 else 1.0)] == [0.05, 0.02, 0.01]
    assert [lr for _, lr in made(task, 16, lambda _: NAN)] == [0.05, 0.02, 0.01]


def test_steps_are_a_share_of_the_whole_list() -> None:
    """Three scouts reach both ends of a long list: from 0.05, the middle, by a third of its span."""
    task = make_task(epochs=40, learning_rates=tuple(0.00625 * 2**step for step in range(8)))
    assert [lr for _, lr in made(task, 3, valley(10.0))] == [0.05, 0.4, 0.8]
    assert [lr for _, lr in made(task, 3, valley(0.001))] == [0.05, 0.4, 0.0125]


def test_below_a_rate_that_diverges_comes_one_that_was_left_out() -> None:
    """The valley's floor may lie next to where training breaks down: 0.03 was the best rate of a tester's task."""
    task = make_task(epochs=40, learning_rates=(0.003, 0.01, 0.03, 0.1))
    assert [lr for _, lr in made(task, 3, lambda lr: NAN if lr > 0.05 else 0.1 / lr)] == [0.01, 0.1, 0.03]
    assert [lr for _, lr in made(task, 3, valley(0.02))] == [0.01, 0.1, 0.03]  # a single one, whatever became of 0.1
    six = make_task(epochs=60, learning_rates=tuple(0.00625 * 2**step for step in range(6)))
    assert [lr for _, lr in made(six, 4, lambda lr: NAN if lr > 0.08 else 0.1 / lr)] == [0.025, 0.1, 0.05]
    assert [lr for _, lr in made(six, 4, lambda lr: NAN if lr > 0.08 else lr)] == [0.025, 0.1, 0.05, 0.0125]
    long = make_task(epochs=60, learning_rates=tuple(0.00625 * 2**step for step in range(8)))
    assert [lr for _, lr in made(long, 3, lambda lr: NAN if lr > 0.2 else 0.1 / lr)] == [0.05, 0.4, 0.1]


def test_a_scout_that_came_to_nothing_says_nothing_of_its_rate() -> None:
    """By hand: the middle fails, so the next one up is tried; it does worse than the next one below."""
    task = make_task(epochs=40, learning_rates=(0.01, 0.1, 0.5))
    failed, sound = Scout(32, 0.1, (), ()), Scout(32, 0.5, (1.0,), (1.0,))
    assert plan_scouts(task, 3, 0.05, [failed]).configurations[1:] == ((32, 0.5),)
    assert plan_scouts(task, 3, 0.05, [failed, sound]).configurations[2:] == ((32, 0.01),)
    every = [failed, Scout(32, 0.5, (), ()), Scout(32, 0.01, (), ())]
    assert plan_scouts(task, 3, 0.05, every).configurations == ((32, 0.1), (32, 0.5), (32, 0.01))


def test_losses_that_nobody_knows_end_the_search() -> None:
    task = make_task(epochs=40, learning_rates=RATES)
    plan = plan_scouts(task, 3, 0.05, [Scout(32, 0.05, (NAN, NAN), (NAN, NAN))])
    assert plan.configurations == ((32, 0.05),)
    assert plan.more == 0


@pytest.mark.parametrize(
    ("ladder", "size"), [((8, 16), 16), ((64, 512), 64), ((16, 64), 16), ((20, 48, 100), 48), ((7,), 7)]
)
def test_a_ladder_without_32_is_scouted_at_the_rung_next_to_it(ladder: tuple[int, ...], size: int) -> None:
    task = make_task(epochs=40, batch_sizes=ladder, learning_rates=RATES)
    assert {batch_size for batch_size, _ in made(task, 3, valley(0.05))} == {size}
    assert start_without_scouts(task) == (size, 0.05)


@pytest.mark.parametrize(
    ("rates", "start"), [((0.1,), 0.1), ((0.1, 0.2), 0.1), ((0.1, 0.2, 0.4), 0.2), ((0.1, 1.0, 10.0, 11.0), 1.0)]
)
def test_without_scouts_the_middle_rate_by_its_logarithm(rates: tuple[float, ...], start: float) -> None:
    assert start_without_scouts(make_task(learning_rates=rates))[1] == start


# A smaller batch -----------------------------------------------------------------------------------------------------


def scouts_at(*losses: float, rates: tuple[float, ...] = (0.1, 0.4, 0.025)) -> list[Scout]:
    return [
        Scout(32, lr, (loss,), (NAN,), "diverged" if math.isnan(loss) else None)
        for lr, loss in zip(rates, losses, strict=False)
    ]


@pytest.mark.parametrize(
    ("losses", "lr"),
    [
        ((2.0, 2.1, 2.1), 0.05),  # a valley that is level on both sides: its floor is the best scout's rate
        ((2.0, 2.3, 2.1), 0.035),  # by hand: 2 x (0.1, 0.3) on either side, floor at 4**(-1/4) of 0.1, halved
        ((2.0, 2.1, NAN), 0.05),  # one side is not known
        ((2.1, 2.0, 2.2), 0.4),  # the best is the highest: the floor was not reached
        ((2.0, 2.0, 2.0), 0.05),
    ],
)
def test_half_the_batch_at_the_floor_of_the_valley_where_nothing_has_begun(
    losses: tuple[float, ...], lr: float
) -> None:
    task = make_task(epochs=40, learning_rates=(0.025, 0.1, 0.4), guessing=2.3, steered=True)
    assert smaller_batch(task, scouts_at(*losses), 0.8) == [(16, lr)]


def test_where_the_optimizer_scales_its_steps_the_rate_falls_by_the_root() -> None:
    task = make_task(epochs=40, guessing=2.3, steered=True, adaptive=True)
    assert smaller_batch(task, scouts_at(2.0, 2.1, 2.1), 0.8) == [(16, 0.071)]


@pytest.mark.parametrize("changed", [{"guessing": None}, {"guessing": 2.6}, {"batch_sizes": (32, 64)}])
def test_no_smaller_batch(changed: dict[str, object]) -> None:
    task = make_task(**{"epochs": 40, "guessing": 2.3, "steered": True, **changed})
    assert smaller_batch(task, scouts_at(2.0, 2.1, 2.1), 0.8) == []


@pytest.mark.parametrize(
    ("losses", "tried"),
    [
        ((1.0, 0.9, 1.2), [(16, 0.4)]),  # the loss still falls at the end of the list
        ((1.0, 0.9, NAN), [(16, 0.4)]),
        ((0.9, 1.0, 1.2), []),  # a rate between others
        ((1.0, 1.1, 0.9), []),  # the lowest
        ((-1.0, -1.1, 1.2), []),  # of losses of 0 and below a ratio says nothing
        ((NAN, 0.9), [(16, 0.4)]),
    ],
)
@pytest.mark.parametrize("guessing", [2.3, None])
def test_half_the_batch_at_the_highest_rate_where_that_is_best(
    losses: tuple[float, ...], tried: list[tuple[int, float]], guessing: float | None
) -> None:
    task = make_task(epochs=40, learning_rates=(0.025, 0.1, 0.4), guessing=guessing, steered=True)
    assert smaller_batch(task, scouts_at(*losses), 0.65) == tried


def test_a_loss_that_nobody_tells_says_nothing_of_half_the_batch() -> None:
    task = make_task(epochs=40, learning_rates=(0.025, 0.1, 0.4), steered=True)
    done = [Scout(32, lr, (NAN,), (score,)) for lr, score in ((0.1, 0.5), (0.4, 0.4))]
    assert smaller_batch(task, done, 0.65) == []


def test_no_smaller_batch_where_every_scout_diverged() -> None:
    assert smaller_batch(make_task(epochs=40, guessing=2.3, steered=True), scouts_at(NAN, NAN), 0.8) == []


@pytest.mark.parametrize(("epochs", "sizes"), [(40, [32, 32, 32, 16]), (8, [32, 32, 32])])
def test_the_smaller_batch_comes_last_and_where_the_losers_stay_below_a_third(epochs: int, sizes: list[int]) -> None:
    task = make_task(epochs=epochs, learning_rates=(0.025, 0.1, 0.4), guessing=2.3, steered=True)
    assert [size for size, _ in made(task, 3, lambda lr: 2.0 + abs(math.log(lr / 0.1)) / 10, hardly=0.8)] == sizes


@pytest.mark.parametrize(
    ("train_size", "score", "epochs", "best"),
    [
        (59 * 32, "validation_loss", 10, 0.2),  # 59 steps
        (60 * 32, "validation_loss", 10, 0.1),
        (29 * 32, "validation_loss", 20, 0.2),  # two epochs of 29
        (30 * 32, "validation_loss", 20, 0.1),
        (59 * 32, "validation_error", 10, 0.1),
    ],
)
def test_scouts_of_few_steps_are_compared_by_what_they_are_validated_with(
    train_size: int, score: str, epochs: int, best: float
) -> None:
    rates = (0.05, 0.1, 0.2)
    task = make_task(train_size=train_size, score=score, epochs=epochs, learning_rates=rates, steered=True)
    policy = SteerPolicy(SteerParameters())
    policy.reset(task, None)
    length = policy.scouts().epochs
    assert length == epochs // 10
    before = (1.0,) * (length - 1)
    lower, middle, higher = (
        Scout(32, lr, (*before, loss), (*before, validated))
        for lr, loss, validated in ((0.05, 1.0, 1.0), (0.1, 0.5, 0.9), (0.2, 0.6, 0.8))
    )
    assert ((32, 0.05) in policy.scouts([middle, higher]).configurations) == (best == 0.1)
    choice = policy.take([middle, higher, lower])
    assert policy.start == (32, best)
    assert (" by validation, " in choice.reason) == (best == 0.2)


def test_a_scout_that_was_not_validated_is_not_held_against_one_that_was() -> None:
    task = make_task(train_size=320, epochs=10, learning_rates=(0.05, 0.1, 0.2), steered=True)
    policy = SteerPolicy(SteerParameters())
    for unknown, best in ((False, 0.2), (True, 0.1)):
        policy.reset(task, None)
        lower = Scout(32, 0.05, (1.0,), (NAN if unknown else 1.0,))
        diverged = Scout(32, 0.2, (NAN,), (NAN,), "diverged")
        policy.take([Scout(32, 0.1, (0.5,), (0.9,)), Scout(32, 0.2, (0.6,), (0.4,)), lower])
        assert policy.start == (32, best)
        policy.take([Scout(32, 0.1, (0.5,), (0.9,)), diverged, lower])  # what has ended early counts for nothing
        assert policy.start == (32, 0.1)


@pytest.mark.parametrize(("train_size", "blind"), [(28 * 32, False), (60 * 32, True)])
def test_a_short_scout_has_learnt_something_where_what_it_is_validated_with_says_so(
    train_size: int, blind: bool
) -> None:
    task = make_task(train_size=train_size, epochs=10, learning_rates=(0.05, 0.1, 0.2), guessing=3.2, steered=True)
    policy = SteerPolicy(SteerParameters())
    policy.reset(task, None)
    scouts = [Scout(32, lr, (3.19,), (validated,)) for lr, validated in ((0.1, 3.0), (0.2, 2.8), (0.05, 3.1))]
    reason = policy.take(scouts).reason
    assert ("of guessing (3.2), so what is validated decides" in reason) == blind
    assert "may learn nothing" not in reason
    assert ((16, 0.2) in policy.scouts(scouts).configurations) != blind


def test_of_two_values_for_guessing_it_is_said_which_is_which() -> None:
    policy = SteerPolicy(SteerParameters())
    scouts = [Scout(32, lr, (loss,), (loss,)) for lr, loss in ((0.1, 3.19), (0.2, 3.195), (0.05, 3.199))]
    for shares, guessed in ((3.2, "guessing by the classes' shares (3.2)"), (None, "guessing (3.2)")):
        task = make_task(epochs=40, learning_rates=(0.05, 0.1, 0.2), guessing=3.2, shares_loss=shares, steered=True)
        policy.reset(task, None)
        assert f"is clearly below that of {guessed}" in policy.take(scouts).reason
    task = make_task(epochs=40, learning_rates=(0.05, 0.1, 0.2), guessing=4.42, shares_loss=4.0, steered=True)
    policy.reset(task, None)
    assert "before anything is learnt (4.42, all classes alike)" in policy.take(scouts).reason


@pytest.mark.parametrize(
    ("half", "lower", "changed", "start"),
    [
        ((0.99, 1.03), 1.1, {}, (32, 0.1)),  # trains no better, and is validated worse
        ((0.99, 1.01), 1.1, {}, (32, 0.2)),
        ((0.90, 1.03), 1.1, {}, (16, 0.2)),  # it helps
        ((0.99, 1.03), 1.3, {}, (32, 0.2)),  # the lower rate is far behind
        ((0.99, 1.03), 1.1, {"score": "validation_error"}, (32, 0.2)),
        ((0.99, NAN), 1.1, {}, (32, 0.2)),
        ((0.99, 1.03), 1.1, {"learning_rates": (0.05, 0.1, 0.15, 0.2)}, (32, 0.2)),  # another lies between
    ],
)
def test_the_highest_rate_is_too_high_where_half_the_batch_at_it_is_validated_worse(
    half: tuple[float, float], lower: float, changed: dict[str, object], start: tuple[int, float]
) -> None:
    facts = {"train_size": 2000, "epochs": 20, "learning_rates": (0.05, 0.1, 0.2), "steered": True, "guessing": 2.3}
    policy = SteerPolicy(SteerParameters())
    policy.reset(make_task(**facts | changed), None)
    scouts = [Scout(32, 0.1, (1.05,), (lower,)), Scout(32, 0.2, (1.0,), (1.0,)), Scout(16, 0.2, half[:1], half[1:])]
    choice = policy.take(scouts)
    assert policy.start == start
    told = (
        "s32 at lr 0.1: 0.2 looks better by training loss, but half the batch there is validated 3 % higher, so it is"
    )
    assert (told in choice.reason) == (start == (32, 0.1))
    assert (policy.planned_epochs == 20) == (start[0] == 16)


@pytest.mark.parametrize(
    ("examples", "sizes", "size"),
    [
        # By hand: 32 times the root of the examples over 100,000, and the rung that is nearest by its logarithm.
        (100_000, (16, 32, 64, 128, 256, 512), 32),
        (199_000, (16, 32, 64, 128, 256, 512), 32),  # 45.1, and the middle of 32 and 64 is 45.3
        (201_000, (16, 32, 64, 128, 256, 512), 64),
        (790_000, (16, 32, 64, 128, 256, 512), 64),
        (810_000, (16, 32, 64, 128, 256, 512), 128),
        (3_300_000, (16, 32, 64, 128, 256, 512), 256),
        (50_000_000, (16, 32, 64, 128, 256, 512), 256),  # larger ones were not tried
        (50_000_000, (16, 32), 32),
        (810_000, (8, 48, 512), 48),
        (810_000, (128, 256), 128),
    ],
)
def test_scouts_of_a_training_of_many_examples_take_larger_batches(
    examples: int, sizes: tuple[int, ...], size: int
) -> None:
    for epochs, periods in ((10, 1), (20, 10)):  # twenty decisions are two epochs there
        task = make_task(epochs=epochs, periods=periods, train_size=examples // epochs, batch_sizes=sizes)
        plan = plan_scouts(task, 3, 0.05)
        assert {taken for taken, _ in plan.configurations} == {size}
        assert start_without_scouts(task)[0] == size
        assert many_steps(task) == (examples > 200_000), "whatever the ladder"
        assert has_larger_batches(task) == (examples > 200_000 and size > 32)
        assert ("has steps enough" in plan.note) == many_steps(task)


@pytest.mark.parametrize("by_table", [True, False])
@pytest.mark.parametrize(("times", "size"), [(1.0, 32), (1.44, 32), (1.46, 64), (2.0, 64), (None, 64)])
def test_larger_batches_are_for_sparing_time(times: float | None, size: int, by_table: bool) -> None:
    """An example takes so many times as long with batches of 32 as with those of 64."""
    facts: dict[str, Any] = {"learning_rates": RATES, "batch_sizes": (16, 32, 64, 128), "guessing": 1.0, "epochs": 20}
    costs = make_costs(facts["batch_sizes"])
    each = {16: 2e-4, 32: 1e-4 * (times or 1.0), 64: 1e-4, 128: 1e-4}
    costs = replace(costs, step_seconds={rung: rung * seconds for rung, seconds in each.items()})
    known = {"costs": costs} if by_table else {"costs": None, "example_seconds": each}
    task = make_task(train_size=12_000, **(known if times else {"costs": None}), **facts)
    assert sizes_to_time(task) == (() if task.costs else (32, 64))
    plan = plan_scouts(task, 3, 0.05)
    assert {taken for taken, _ in plan.configurations} == {size}
    assert many_steps(task) == (size == 64)
    assert ("times as long with batches of 32 as with" in plan.note) == (size == 32)
    scouts = made(task, 3, lambda lr: 0.9 + lr / 100, hardly=0.65)
    assert [taken for taken, _ in scouts if taken < size] == ([16] if size == 32 else [])
    few = replace(task, train_size=9_000)  # 180,000 examples: batches of 32 whatever they cost
    assert "times as long" not in plan_scouts(few, 3, 0.05).note
    assert sizes_to_time(few) == ()


def test_where_steps_are_many_no_smaller_batch_is_tried() -> None:
    facts = {"epochs": 20, "learning_rates": RATES, "guessing": 1.0}
    for examples, smaller in ((8_000, [16]), (12_000, [])):
        task = make_task(train_size=examples, **facts)
        for loss in (lambda lr: 0.9 + lr / 100, lambda lr: 0.1 / lr):  # hardly begun; the highest rate best
            scouts = made(task, 3, loss, hardly=0.65)
            assert [size for size, _ in scouts if size < scouts[0][0]] == smaller


@pytest.mark.parametrize(
    ("losses", "changed", "lr", "told"),
    [
        # (training loss, validation loss) at 0.05, 0.1 and 0.2
        (((0.50, 0.6), (0.51, 0.6), (0.520, 0.6)), {}, 0.2, "its training loss, 0.52, is 4 % above the lowest, 0.5 at"),
        (((0.50, 0.6), (0.51, 0.6), (0.530, 0.6)), {}, 0.1, "its training loss, 0.51, is 2 % above the lowest, 0.5 at"),
        (((0.50, 0.6), (0.53, 0.6), (0.560, 0.6)), {}, 0.05, "the best of 3 scouts"),
        (((0.52, 0.6), (0.50, 0.6), (0.600, 0.6)), {}, 0.1, "the best of 3 scouts"),  # a lower rate is as good
        (((0.50, 0.6), (0.51, 0.6), (0.520, 0.6)), {"train_size": 9_999}, 0.05, "the best of 3 scouts"),  # few steps
        (
            ((0.50, 0.6), (0.60, 0.6), (0.520, 0.62)),
            {},
            0.2,
            "its training loss, 0.52, is 4 % above the lowest, 0.5 at",
        ),
        (((0.50, 0.6), (0.60, 0.6), (0.520, 0.64)), {}, 0.05, "the best of 3 scouts"),  # validated worse
        (((0.50, 0.6), (0.52, 0.6), (0.520, 0.67)), {}, 0.1, "its training loss, 0.52, is 4 % above"),
        (((0.50, 0.6), (0.60, 0.6), (0.520, 0.67)), {"score": "validation_error"}, 0.2, "its training loss"),
        (((0.50, NAN), (0.60, NAN), (0.520, NAN)), {}, 0.2, "its training loss"),
        (((0.52, 0.5), (0.50, 0.61), (0.510, 0.635)), {}, 0.1, "the best of 3 scouts"),  # a quarter worse than at 0.05
        (((0.54, 0.5), (0.50, 0.7), (0.510, 0.7)), {}, 0.05, "but is validated 40 % higher, so it is too high"),
        (((0.00, 0.6), (0.00, 0.6), (0.001, 0.6)), {}, 0.05, "the best of 3 scouts"),
        (((-5.0, 0.6), (-5.1, 0.6), (-5.000, 0.6)), {}, 0.1, "the best of 3 scouts"),
        (((0.50, 0.6), (NAN, NAN), (0.520, 0.6)), {}, 0.2, "its training loss, 0.52, is 4 % above"),
    ],
)
def test_where_steps_are_many_the_highest_of_rates_that_are_as_good_goes_on(
    losses: tuple[tuple[float, float], ...], changed: dict[str, object], lr: float, told: str
) -> None:
    facts = {"train_size": 10_001, "epochs": 20, "learning_rates": (0.05, 0.1, 0.2), "steered": True, "guessing": 2.3}
    policy = SteerPolicy(SteerParameters())
    policy.reset(make_task(**facts | changed), None)
    scouts = [
        Scout(64, rate, (train,), (validated,), "diverged" if math.isnan(train) else None)
        for rate, (train, validated) in zip((0.05, 0.1, 0.2), losses, strict=True)
    ]
    choice = policy.take(scouts)
    assert policy.start == (64, lr)
    assert told in choice.reason
    assert ("a higher one may do better" in choice.reason) == (lr == 0.2)


@pytest.mark.parametrize("score", ["validation_loss", "validation_error"])
def test_scouts_that_tell_an_error_are_compared_alike_by_whoever_asks(score: str) -> None:
    policy = SteerPolicy(SteerParameters())
    policy.reset(make_task(train_size=300, epochs=20, learning_rates=(0.1, 0.2), steered=True, score=score), None)
    told = [(0.1, 1.0, 0.5), (0.2, 1.1, 0.3)]  # few steps; rate, training loss, validation error
    scouts = [Scout(32, lr, (loss,), (error,), score="validation_error") for lr, loss, error in told]
    assert policy.take(scouts).scout == 0
    assert policy.start == (32, 0.1)


def test_a_validation_loss_of_another_kind_is_not_held_against_guessing() -> None:
    policy = SteerPolicy(SteerParameters())
    policy.reset(make_task(train_size=300, epochs=20, learning_rates=(0.1, 0.2), steered=True, guessing=0.6), None)
    # Losses that were divided by four, as their gradients are added up, and validated whole.
    choice = policy.take([Scout(32, 0.1, (0.54,), (2.0,)), Scout(32, 0.2, (0.4,), (1.1,))])
    assert policy.start == (32, 0.2)
    assert "guessing" not in choice.reason
    choice = policy.take([Scout(32, 0.1, (0.61,), (0.62,)), Scout(32, 0.2, (0.6,), (0.61,))])
    assert "no scout's training loss is clearly below that of guessing (0.6)" in choice.reason


@pytest.mark.parametrize(
    ("examples", "rates", "floor", "tried"),
    [
        (20_000, (0.003, 0.01, 0.03, 0.1), 0.03, [0.01, 0.03, 0.1]),
        (20_000, (0.003, 0.01, 0.03, 0.1), 0.003, [0.01, 0.03, 0.003]),
        (2_000, (0.003, 0.01, 0.03, 0.1), 0.1, [0.01, 0.1]),  # few steps: one is leapt over
        (20_000, (0.001, 0.003, 0.01, 0.03, 0.1), 0.1, [0.01, 0.03, 0.1]),
    ],
)
def test_where_steps_are_many_none_of_four_rates_is_left_out(
    examples: int, rates: tuple[float, ...], floor: float, tried: list[float]
) -> None:
    task = make_task(epochs=20, train_size=examples, learning_rates=rates)
    assert [rate for _, rate in made(task, 3, valley(floor))] == tried


AROUND = tuple(0.01 * times for times in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0))


@pytest.mark.parametrize(
    ("loss", "rates"),
    [
        (valley(0.01), [0.01, 0.03, 0.003]),
        (valley(0.03), [0.01, 0.03, 0.1]),
        (valley(10.0), [0.01, 0.03, 0.1, 0.3, 1.0]),  # up as far as five scouts go
        (valley(1e-6), [0.01, 0.03, 0.003, 0.001, 0.0003]),
        (lambda lr: NAN if lr > 0.002 else 1.0 - lr, [0.01, 0.001, 0.003, 0.0003]),  # far down to where it trains
        (lambda lr: NAN, [0.01, 0.001, 0.0001]),
        (lambda lr: 30.0 + 1000 * lr if lr > 0.002 else 1.0 - lr, [0.01, 0.001, 0.003, 0.0003]),  # far above guessing
    ],
)
def test_rates_around_the_optimizers_own_are_walked_to_where_the_loss_rises(
    loss: Callable[[float], float], rates: list[float]
) -> None:
    guessing = 2.3 if loss(1.0) > 900.0 else 0.0
    task = make_task(epochs=40, train_size=2000, learning_rates=AROUND, around=True, guessing=guessing)
    assert made(task, 3, loss) == [(32, pytest.approx(rate)) for rate in rates]
    plan = plan_scouts(task, 3, 0.05)
    assert plan.configurations == ((32, 0.01),)
    assert plan.most == 5
    assert len(made(replace(task, guessing=0.0), 4, lambda lr: 1.0 / lr)) == 4  # who says how many means that


def test_where_nothing_is_learnt_scouts_look_elsewhere_and_not_where_chance_has_it() -> None:
    def rates(loss: Callable[[float], float]) -> list[float]:
        task = make_task(epochs=40, train_size=2000, learning_rates=AROUND, around=True, guessing=2.3)
        return [rate for _, rate in made(task, 3, loss)]

    # As a convolutional network at a tenth: 2.384, 2.380 and 2.347 there, and on from 0.001.
    too_high = rates(lambda lr: 2.39 - lr / 100 if lr > 0.005 else 2.0 - lr)
    assert too_high == pytest.approx([0.01, 0.03, 0.001, 0.003])
    too_low = rates(lambda lr: 2.31 - lr / 100 if lr < 0.1 else 2.0 - lr / 100)
    assert too_low == pytest.approx([0.01, 0.03, 0.001, 0.3, 1.0])
    nowhere = rates(lambda lr: 2.31)
    assert nowhere == pytest.approx([0.01, 0.03, 0.001, 0.3, 0.0001])
    noisy = rates(lambda lr: 3.0 - 10 * lr)  # above what the first batch said, but falling
    assert noisy == pytest.approx([0.01, 0.03, 0.1, 0.3, 1.0])


def test_half_the_batch_follows_at_whichever_rate_is_best() -> None:
    task = make_task(epochs=60, train_size=2000, learning_rates=AROUND, around=True, guessing=2.3)
    up = made(task, 3, lambda lr: 0.1 / lr, hardly=0.65)
    assert up == [*((32, pytest.approx(rate)) for rate in AROUND[4:]), (16, pytest.approx(1.0))]
    floor = made(task, 3, lambda lr: 0.1 + abs(math.log(lr / 0.01)) / 10, hardly=0.65)
    assert floor == [(32, pytest.approx(rate)) for rate in (0.01, 0.03, 0.003)] + [(16, pytest.approx(0.01))]
    hardly = made(task, 3, lambda lr: 2.0 + abs(math.log(lr / 0.01)) / 10, hardly=0.65)  # the rate is reduced
    assert hardly[:3] == floor[:3]
    assert hardly[3] == (16, pytest.approx(0.005, rel=0.03))
    few = replace(task, epochs=10)  # a scout is a tenth: losers may be three
    assert made(few, 3, lambda lr: 0.1 / lr, hardly=0.65) == up[:4]


def test_where_two_scouts_have_room_the_first_has_the_optimizers_own_rate() -> None:
    task = make_task(epochs=6, periods=3, learning_rates=AROUND, around=True)
    assert made(task, 3, valley(0.01)) == [(32, pytest.approx(0.01)), (32, pytest.approx(0.03))]


@pytest.mark.parametrize(
    ("examples", "epochs", "sizes"),
    [
        # 32 sqrt(examples of all epochs / 100,000), from 32 to 256; four times that, and a quarter of the examples.
        (1000, 20, (8, 16, 32, 64, 128)),
        (300, 20, (8, 16, 32, 64)),
        (20, 20, (8,)),
        (5, 20, (5,)),
        (50_000, 8, (8, 16, 32, 64, 128, 256)),
        (50_000, 30, (8, 16, 32, 64, 128, 256, 512)),
        (1_280_000, 90, (8, 16, 32, 64, 128, 256, 512, 1024)),
    ],
)
def test_batch_sizes_that_nobody_names_suit_the_trainings_length(
    examples: int, epochs: int, sizes: tuple[int, ...]
) -> None:
    assert usual_sizes(examples, epochs) == sizes
    wanted = nearest_size(sizes, examples * epochs)
    assert wanted == nearest_size([2**power for power in range(10)], examples * epochs) or wanted == sizes[-1]
