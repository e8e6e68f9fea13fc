"""Which scout ends early, and which goes on."""

import math

import pytest

from autobatch.policies.steer import Scout, ScoutReport, TrainedScout, hopeless
from autobatch.policies.steer._scouts import ScoutChoice, choose_scout, final_loss
from tests.policies.cases import NAN


def scout(*losses: float, scores: tuple[float, ...] | None = None, lr: float = 0.1, ended: str | None = None) -> Scout:
    return Scout(32, lr, losses, losses if scores is None else scores, ended)


# Which ends early ----------------------------------------------------------------------------------------------------


def test_clearly_worse_at_the_same_place_is_hopeless() -> None:
    others = [scout(2.0, 1.0), scout(1.8, 1.2)]
    assert hopeless(scout(2.7), others) is None
    assert (
        hopeless(scout(2.71), others)
        == "its loss of 2.71 after 1 epoch is more than 1.5 times the best scout's then, 1.8"
    )
    assert hopeless(scout(2.0, 1.6), others) == (
        "its loss of 1.6 after 2 epochs is more than 1.5 times the best scout's then, 1"
    )


def test_nobody_is_hopeless_beside_nobody() -> None:
    assert hopeless(scout(100.0), []) is None
    assert hopeless(scout(100.0, 100.0), [scout(1.0)]) is None  # the other has not come that far


def test_a_scout_that_diverged_later_is_no_measure() -> None:
    assert hopeless(scout(2.0), [scout(0.1, NAN, ended="diverged")]) is None


@pytest.mark.parametrize("unknown", [NAN, math.inf])
def test_others_without_a_loss_are_no_measure(unknown: float) -> None:
    assert hopeless(scout(2.0), [scout(unknown), scout(1.0)]) is not None
    assert hopeless(scout(2.0), [scout(unknown)]) is None


def test_a_scout_whose_loss_is_not_known_is_not_ended() -> None:
    assert hopeless(scout(NAN), [scout(1.0)]) is None


def test_losses_below_zero_are_not_compared_by_a_ratio() -> None:
    assert hopeless(scout(-1.0), [scout(-1.1)]) is None


def test_where_the_loop_knows_no_training_loss_the_score_says_who_is_hopeless() -> None:
    assert hopeless(scout(NAN, scores=(0.4,)), [scout(NAN, scores=(0.2,))]) is not None
    assert hopeless(scout(NAN, scores=(0.3,)), [scout(NAN, scores=(0.2,))]) is None


# Which goes on -------------------------------------------------------------------------------------------------------


def test_the_least_training_loss_goes_on() -> None:
    scouts = [
        scout(2.0, 1.0, scores=(2.0, 0.5), lr=0.1),
        scout(3.0, 0.9, scores=(3.0, 0.6), lr=0.2),
        scout(1.0, lr=0.4, ended="hopeless"),
    ]
    assert choose_scout(scouts) == ScoutChoice(
        1,
        "s32 at lr 0.2: the best of 3 scouts after 2 epochs by training loss, training loss 0.9 and validation 0.6; "
        "next s32 at lr 0.1, training loss 1 and validation 0.5, 10 % apart",
        pytest.approx(0.1),
    )


def test_which_loss_decides_is_said_where_the_other_points_elsewhere() -> None:
    agreeing = choose_scout([scout(1.0, scores=(0.5,), lr=0.1), scout(0.9, scores=(0.4,), lr=0.2)])
    assert "after 1 epoch, training loss 0.9 and validation 0.4; " in agreeing.reason
    elsewhere = choose_scout([scout(1.0, scores=(0.4,), lr=0.1), scout(0.9, scores=(0.5,), lr=0.2)])
    assert "after 1 epoch by training loss, training loss 0.9 and validation 0.5; " in elsewhere.reason


def test_a_scout_that_did_not_fit_into_memory_says_nothing_of_its_rate() -> None:
    unfit = Scout(32, 0.2, (), (), "did not fit into memory")
    assert math.isnan(final_loss(unfit))
    assert choose_scout([unfit, scout(1.0, lr=0.1)]).scout == 1


def test_equal_scouts_the_first_goes_on() -> None:
    assert choose_scout([scout(1.0, lr=0.1), scout(1.0, lr=0.2)]).scout == 0


def test_without_training_losses_the_score_decides_and_nothing_unknown_is_told() -> None:
    scouts = [scout(NAN, scores=(0.4,)), scout(NAN, scores=(0.3,))]
    choice = choose_scout(scouts)
    assert choice.scout == 1
    assert "training loss" not in choice.reason
    assert "validation 0.3" in choice.reason
    without_scores = choose_scout([scout(0.4, scores=(NAN,)), scout(0.5, scores=(NAN,))])
    assert without_scores.scout == 0
    assert "nan" not in without_scores.reason


def test_a_scout_without_a_sound_loss_cannot_win() -> None:
    for loss in (NAN, math.inf):
        assert choose_scout([scout(loss), scout(5.0)]).scout == 1


def test_without_any_figure_the_first_that_came_to_its_end_goes_on() -> None:
    choice = choose_scout([scout(NAN, ended="diverged"), scout(NAN, lr=0.2), scout(NAN, lr=0.4)])
    assert choice == ScoutChoice(1, "s32 at lr 0.2: no loss of any scout is known, so the first goes on")


def test_where_all_have_ended_none_goes_on_and_the_reason_says_why() -> None:
    choice = choose_scout([scout(NAN, lr=0.1, ended="diverged: a"), scout(9.0, lr=0.2, ended="diverged: b")])
    assert choice == ScoutChoice(
        None,
        "no scout came to its end: s32 at lr 0.1 diverged: a; s32 at lr 0.2 diverged: b; "
        "give lower learning rates to choose from",
    )


@pytest.mark.parametrize(
    ("losses", "scout", "told"),
    [
        (
            {(32, 0.1): 1.0, (32, 0.2): 0.8},
            1,
            "its loss is 20 % lower than the next scout's; of 50 scoutings of small tasks",
        ),
        (
            {(32, 0.1): 1.0, (32, 0.2): 0.8, (16, 0.2): 0.79},
            1,
            "its loss is 20 % lower than that of the next scout of its size; of 50 scoutings of small tasks",
        ),
        (
            {(32, 0.1): 1.0, (32, 0.2): 0.8, (16, 0.2): 0.6},
            2,
            "but how often half the batch stays ahead to the end was not counted",
        ),
    ],
)
def test_how_sure_the_choice_is_among_scouts_of_two_sizes(
    losses: dict[tuple[int, float], float], scout: int, told: str
) -> None:
    trained = tuple(TrainedScout(Scout(*own, (loss,), (loss,)), 60, 1920, 1.0, 1.0) for own, loss in losses.items())
    best = trained[scout].scout
    choice = ScoutChoice(scout, "", 0.2)
    report = ScoutReport(choice, best.batch_size, best.lr, trained, {}, 0.0, (16, 32), (0.1, 0.2), 0, 20, 1000)
    assert told in str(report)
    assert told in report.advice()
