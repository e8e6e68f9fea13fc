"""Schema 2: everything relative to the training itself, nothing of a library."""

import math

import numpy as np
import pytest

from autobatch.policies import Scout
from autobatch.policies.general import ENTRIES, CourseView, Seen
from tests.policies.cases import make_task
from tests.policies.general.test_course import action, begun

NAMES = [name for name, _ in ENTRIES]


def seen(course, guessing: float = math.log(2.3), scale: float = 1.0) -> Seen:
    """A training whose losses fall by a tenth an epoch."""
    own = Seen.nothing(1, 40, guessing + math.log(scale))
    done = int(course.epoch[0])
    own.train[0, 1 : done + 1] = math.log(2.0 * scale) - 0.1 * np.arange(done)
    own.score[0, 1 : done + 1] = math.log(2.1 * scale) - 0.08 * np.arange(done)
    return own


def shown(course, own, what: Seen) -> dict[str, float]:
    (flat,) = CourseView(1000, adaptive=False).arrays(course, own, what)
    assert flat.dtype == np.float32
    assert np.abs(flat).max() <= 1.0
    return dict(zip(NAMES, flat.tolist(), strict=True))


def at(epoch: int):
    course, own = begun(make_task(epochs=40))
    course.epoch += epoch
    return course, own


def test_before_the_first_epoch_nothing_is_made_up() -> None:
    course, own = at(0)
    entries = shown(course, own, seen(course))
    known = {"progress", "epochs left", "length", "to the rule's fall", "to the end", "room above", "room below"}
    known |= {"cost so far", "cost one rung up", "cost one rung down", "cost at the top", "training set"}
    known |= {"steps of an epoch", "guessing"}
    assert {name for name, value in entries.items() if value} == known


def test_losses_count_relative_to_guessing_and_to_themselves() -> None:
    course, own = at(10)
    here, elsewhere = shown(course, own, seen(course)), shown(course, own, seen(course, scale=1.5))
    assert {name for name in NAMES if here[name] != pytest.approx(elsewhere[name], abs=1e-6)} == {"guessing"}
    assert here["slope"] == pytest.approx(-0.1 / 0.5)
    assert here["validated lately"] == pytest.approx(-0.08 / 0.25)
    assert [here[name] for name in ("above its best", "since its best", "scatter")] == pytest.approx(
        [0.0] * 3, abs=1e-6
    )
    assert here["scored"] == here["moving"] == 1.0


def test_a_loss_that_rises_again_is_seen() -> None:
    course, own = at(10)
    figures = seen(course)
    figures.score[0, 10] += 0.4
    entries = shown(course, own, figures)
    assert entries["above its best"] == pytest.approx((0.4 - 0.08) / 0.5)
    assert entries["since its best"] == pytest.approx(1 / 40)
    assert entries["scatter"] > 0.1


def test_moves_count_from_the_start() -> None:
    course, own = at(3)
    course.advance(action(size=3, rate=0), own)
    entries = shown(course, own, seen(course))
    assert entries["size"] == pytest.approx(1 / 4)
    assert entries["rate"] == pytest.approx(-1 / 4)
    assert entries["noise"] == pytest.approx(-2 / 8)


def test_the_rule_is_part_of_the_view() -> None:
    course, own = at(7)
    assert shown(course, own, seen(course))["rule's fall"] == 1.0
    course.advance(action(fall=1), own)
    entries = shown(course, own, seen(course))
    assert entries["rule's fall"] == 0.0
    assert entries["falls"] == 1.0


def test_scouts_are_told_by_what_they_came_to() -> None:
    course, own = at(2)
    figures = seen(course)
    scouts = [
        Scout(32, 0.1, (2.0, 1.0), (2.0, 1.1)),
        Scout(32, 0.2, (1.9, 0.8), (2.0, 0.9)),
        Scout(32, 0.4, (9.0,), (9.0,), "diverged"),
    ]
    figures.told_by(0, scouts, 1)
    entries = shown(course, own, figures)
    assert entries["scouted"] == 1.0
    assert entries["scouts' margin"] == pytest.approx(0.2)
    assert entries["scouts' edge"] == 0.0
    assert entries["scouts' loss"] == pytest.approx(math.log(0.8 / 2.3) / 4.0)
    nothing = seen(course)
    nothing.told_by(0, scouts, None)
    assert shown(course, own, nothing)["scouted"] == 0.0
