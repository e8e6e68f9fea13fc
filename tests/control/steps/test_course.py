"""The way through the data by itself, over thousands of random configurations."""

import json
import random
from itertools import pairwise

import pytest

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch.control import batch_bounds
from autobatch.control.measuring._measuring import stretches
from autobatch.control.steps._course import Course, Cut
from autobatch.control.steps._plan import BatchPlan, MicroBatches

CONFIGURATIONS = 3000


class Walk:
    """A training on a course with random sizes, prefetching, faults and restarts; checks every step of the way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.size = self.random.choice((1, 2, 3, self.random.randint(4, 60), self.random.randint(60, 400)))
        self.epochs = self.random.randint(1, 3)
        self.periods = min(self.size, self.random.choice((1, 1, 2, 3, self.random.randint(1, 9))))
        self.ladder = sorted({self.random.randint(1, self.size) for _ in range(self.random.randint(1, 4))})
        self.ahead = self.random.choice((0, 0, 1, 2, 5, 12))
        self.ends = [stop for _, stop in stretches(self.size, self.periods)]
        self.rewinds = self.random.choice((0.0, 0.02, 0.2))
        self.faults = self.random.choice((0.0, 0.0, 0.02, 0.2))
        self.course = Course(self.size, self.epochs, self.periods)
        self.batch_size = self.random.choice(self.ladder)
        self.decisions = [(0, self.batch_size)]  # the example that each holds from, and its batch size
        self.trained: list[tuple[int, Cut]] = []
        self.passed: list[tuple[int, Cut]] = []
        self.saved = (self.course.state_dict(), 0, 0, 1)

    def decide(self) -> None:
        if self.random.random() < 0.7:
            self.batch_size = self.random.choice(self.ladder)
        self.decisions.append((self.course.next_example, self.batch_size))

    def save(self) -> None:
        state = json.loads(json.dumps(self.course.state_dict()))
        self.saved = (state, len(self.trained), len(self.passed), len(self.decisions))

    def restart(self) -> None:
        state, trained, passed, decisions = self.saved
        del self.trained[trained:], self.passed[passed:], self.decisions[decisions:]
        self.batch_size = self.decisions[-1][1]
        self.course = Course(self.size, self.epochs, self.periods)
        self.course.load_state_dict(state)
        assert self.course.state_dict() == state

    def hand_out(self) -> Cut | None:
        return self.course.hand_out(self.batch_size, len(self.decisions) - 1)

    def epoch(self) -> None:
        """Train the epoch to its end, whatever happens on the way."""
        while not (self.course.running and self.course.epoch_trained):
            self.iterate()

    def iterate(self) -> None:
        """One loader's iteration: it fetches ahead, is broken off, or goes on after a step that raised."""
        course = self.course
        course.begin()
        epoch, length, resized = course.epoch, course.steps(self.batch_size), False
        handed, periods = list(course.waiting), course.finished_periods
        assert all(first.stop == second.start for first, second in pairwise(handed))
        entered = 0
        while True:
            course.go_on()
            if course.finished_periods > periods and not course.epoch_trained:
                periods = course.finished_periods
                before = self.batch_size
                self.decide()
                resized |= before != self.batch_size
            while len(handed) <= entered + self.ahead and (cut := self.hand_out()) is not None:
                handed.append(cut)
            if not resized:
                assert course.steps(self.batch_size) == length
            if entered == len(handed):
                return
            cut = course.enter()
            assert cut == handed[entered]
            entered += 1
            assert course.state_dict()["waiting"][0] == [cut.start, cut.stop, cut.batch_size, cut.decision]
            if self.random.random() < self.faults:
                course.fail()
                choice = self.random.randrange(3)
                if choice == 0:  # trained again in another iteration
                    return
                if choice == 1:  # the loop asks for the next batch
                    self.passed.append((epoch, cut))
                    if entered == len(handed) and course.next_example == (epoch + 1) * self.size:
                        course.go_on()
                    continue
                if not course.queued or course.next_example < (epoch + 1) * self.size:  # trained again at once
                    assert course.enter() == cut
                else:
                    self.passed.append((epoch, cut))
                    continue
            course.done()
            self.trained.append((epoch, cut))
            assert course.examples == epoch * self.size + cut.stop
            assert course.period_left == next((end - cut.stop for end in self.ends if end > cut.stop), 0)
            if self.random.random() < 0.1:
                self.save()
            if self.random.random() < self.rewinds:
                if self.random.random() < 0.5:
                    self.restart()
                return

    def run(self) -> None:
        while self.course.epoch < self.epochs:
            self.epoch()
            self.course.end()
            with pytest.raises(AutoBatchError, match="without an epoch"):
                self.course.end()
            if self.course.epoch < self.epochs:
                self.decide()
            assert self.course.steps(self.batch_size) == Course(self.size, 1, self.periods).steps(self.batch_size)
            if self.random.random() < 0.5:
                self.save()
        self.check()

    def check(self) -> None:
        seen = sorted([(epoch, cut.start, cut.stop) for epoch, cut in self.trained + self.passed])
        place = 0
        for epoch, start, stop in seen:  # every example exactly once, in order
            assert epoch * self.size + start == place
            place = epoch * self.size + stop
            assert not any(start < end < stop for end in self.ends)
        assert place == self.epochs * self.size
        for epoch, cut in self.trained + self.passed:  # each decision from its example on, and not before
            place = epoch * self.size + cut.start
            number = max(index for index, (example, _) in enumerate(self.decisions) if example <= place)
            assert (cut.decision, cut.batch_size) == (number, self.decisions[number][1])
            end = next(end for end in self.ends if end > cut.start)
            assert cut.stop == end or cut.full
            assert cut.examples < 2 * cut.batch_size
            begins = max([example for example, _ in self.decisions if example <= place], default=0)
            stretch = max(begins - epoch * self.size, max([0, *(e for e in self.ends if e <= cut.start)]))
            bounds = [(stretch + a, stretch + b) for a, b in batch_bounds(end - stretch, cut.batch_size)]
            assert (cut.start, cut.stop) in bounds


def test_every_example_exactly_once_whatever_happens() -> None:
    passed = restarted = 0
    for seed in range(CONFIGURATIONS):
        walk = Walk(seed)
        walk.run()
        passed += bool(walk.passed)
        restarted += bool(walk.rewinds)
    assert passed > 100
    assert restarted > 1000


def test_without_prefetching_an_epoch_is_cut_as_batch_bounds_says() -> None:
    rng = random.Random(0)
    for _ in range(500):
        size = rng.randint(1, 300)
        periods = rng.randint(1, min(size, 6))
        batch_size = rng.randint(1, size)
        course = Course(size, 1, periods)
        course.begin()
        cuts = []
        while (cut := course.hand_out(batch_size, 0)) is not None:
            cuts.append((cut.start, cut.stop))
            assert course.enter() == cut
            course.done()
        expected = [
            (start + a, start + b)
            for start, stop in stretches(size, periods)
            for a, b in batch_bounds(stop - start, batch_size)
        ]
        assert cuts == expected
        assert course.steps(batch_size) == len(expected)


def test_a_remainder_below_the_least_joins_the_batch_before() -> None:
    for size in range(1, 60):
        for batch_size in range(1, size + 1):
            for least in (1, 2, 4):
                course = Course(size, 1, 1, least)
                course.begin()
                cuts: list[Cut] = []
                while (cut := course.hand_out(batch_size, 0)) is not None:
                    cuts.append(cut)
                assert [cut.start for cut in cuts] == [0, *(cut.stop for cut in cuts[:-1])]
                assert cuts[-1].stop == size
                assert all(cut.examples == batch_size for cut in cuts[:-1])
                last = cuts[-1].examples
                assert last < 2 * batch_size
                if len(cuts) > 1:
                    assert last >= min(least, batch_size)
                if last > batch_size:  # what has joined would have been too small
                    assert last - batch_size < max(min(least, batch_size), batch_size / 2)
                assert course.steps(batch_size) == len(cuts)
                full = sum(cut.full for cut in cuts)
                assert course.period_steps(batch_size) == (len(cuts), full if len(cuts) > 1 else 1)


def test_plain_cuts_are_those_of_any_loader() -> None:
    for size in range(1, 40):
        for batch_size in range(1, size + 1):
            course = Course(size, 1, min(size, 3))
            course.begin()
            assert course.steps(batch_size, plain=True) == -(-size // batch_size)
            stops = []
            while (cut := course.hand_out(batch_size, 0, plain=True)) is not None:
                stops.append(cut.stop)
                course.enter()
                course.done()
            assert stops == [*range(batch_size, size, batch_size), size]


def test_a_stream_that_ends_early_ends_the_epoch() -> None:
    rng = random.Random(0)
    for _ in range(500):
        size, batch_size, ahead = rng.randint(1, 80), rng.randint(1, 20), rng.randint(1, 4)
        there = rng.randint(0, size - 1)
        course = Course(size, 2, rng.randint(1, min(size, 3)))
        course.begin()
        waiting, trained, open_ = [], 0, True
        while True:
            while open_ and len(waiting) < ahead and (cut := course.hand_out(batch_size, 0)) is not None:
                if cut.stop > there:
                    course.shorten(cut.start, there - cut.start)
                    open_ = False
                    if there == cut.start:
                        break
                waiting.append(cut.start)
            if not waiting:
                break
            assert course.enter().start == waiting.pop(0)
            course.done()
            trained = min(there, course.examples)
        assert trained == there
        assert course.epoch_trained
        course.end()
        assert (course.epoch, course.examples) == (1, size)


def test_a_batch_that_failed_last_is_passed_over_at_the_epochs_end() -> None:
    course = Course(10, 1)
    course.begin()
    for _ in range(2):
        course.hand_out(5, 0)
    course.enter()
    course.done()
    with pytest.raises(AutoBatchError, match="middle of an epoch: 5 of 10"):
        course.end()
    course.enter()
    course.fail()
    assert course.state_dict()["waiting"] == [[5, 10, 5, 0]]
    course.end()
    assert course.epoch == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": 3},
        {"epoch": -1},
        {"trained": 11},
        {"trained": 3},
        {"running": False},
        {"waiting": [[2, 4, 2, 0], [5, 6, 2, 0]]},
        {"waiting": [[2, 2, 2, 0]]},
        {"waiting": [[2, 11, 2, 0]]},
        {"waiting": [[2, 4, 0, 0]]},
    ],
)
def test_damaged_states_are_refused(damage: dict[str, object]) -> None:
    course = Course(10, 2)
    state = {"epoch": 1, "running": True, "trained": 2, "waiting": [[2, 4, 2, 0]]}
    course.load_state_dict(state)
    with pytest.raises(CheckpointError, match="damaged"):
        course.load_state_dict({**state, **damage})
    assert course.state_dict() == state


def test_the_largest_micro_batch_is_found_in_few_failures_and_none_is_repeated() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        limit = rng.randint(1, rng.choice((4, 40, 3000)))
        shares = [rng.randint(1, limit * rng.choice((2, 10, 60))) for _ in range(rng.choice((1, 1, 3)))]
        micro = MicroBatches(BatchPlan(micro_batch=rng.choice(("auto", "auto", rng.randint(1, 2000)))))
        failed: list[int] = []
        for step in range(40):
            share = shares[step % len(shares)]
            micro.begin()
            while True:
                sizes = micro.sizes(share)
                assert sum(sizes) == share
                assert max(sizes) - min(sizes) <= 1
                assert max(sizes) < min(failed, default=10**9)
                if max(sizes) <= limit:
                    micro.fitted(max(sizes))
                    break
                failed.append(max(sizes))
                micro.failed(max(sizes))
            if rng.random() < 0.1:
                state = json.loads(json.dumps(micro.state_dict()))
                micro.load_state_dict(state)
        assert len(failed) <= 2 * max(shares).bit_length() + 2
        for share in shares:  # in the end no fewer parts would do
            micro.begin()
            cap = min(limit, micro._cap)
            assert len(micro.sizes(share)) == -(-share // int(min(cap, share)))


def test_what_fitted_once_may_fail_later() -> None:
    micro = MicroBatches(BatchPlan(micro_batch="auto"))
    micro.begin()
    micro.fitted(64)
    micro.failed(64)
    assert max(micro.sizes(64)) == 32
    micro.fitted(32)
    micro.begin()
    assert 32 <= max(micro.sizes(64)) < 64


def test_no_micro_batch_is_smaller_than_the_least() -> None:
    for share in range(2, 60):
        micro = MicroBatches(BatchPlan(micro_batch="auto"), least=2)
        size, seen = share, []
        while size >= 4:  # a smaller one cannot always be tried
            micro.failed(size)
            sizes = micro.sizes(share)
            assert min(sizes) >= 2
            assert max(sizes) < size
            size = max(sizes)
            seen.append(size)
    assert MicroBatches(BatchPlan(micro_batch=2), least=2).sizes(9) == [2, 2, 2, 3]


@pytest.mark.parametrize("name", ["micro_batch", "bn_batch"])
def test_parts_of_one_example_are_refused_where_there_is_batch_norm(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=1: the model has BatchNorm, which has no statistics of a single"):
        MicroBatches(BatchPlan(**{name: 1}), least=2)
