"""A training cut after any step and gone on with by new objects equals the one that was never cut, bit for bit."""

import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

from autobatch._errors import AutoBatchError
from autobatch.beacons import CostTable
from autobatch.control import BatchPlan, LearningRateRule, MeasureAtInterval, MeasureWithinBudget, NeverMeasure, Rates
from tests.control.loops import Chunks, Toy, json_copy, weights

SIZE, EPOCHS, LADDER = 30, 3, (3, 4, 8)
COSTS = CostTable("a machine", dict.fromkeys(LADDER, 1.0), dict.fromkeys(LADDER, 0.5), 0.0)


class Stopped(Exception):
    """What ends a training."""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 2))


def plain_network() -> nn.Module:  # for parts of a single example
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 2))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "tensor": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01)),
}
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "none": lambda optimizer: None,
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 7, 0.5),
    "cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=200),
    "warm-up": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10)),
}
RULES = (
    "none",
    "adascale",
    LearningRateRule("linear", ramp=17, momentum="rescale"),
    LearningRateRule("adascale", ramp=40, momentum="reset"),
    LearningRateRule("power", power=0.7, reference_batch_size=4, ramp=9),
)
MEASURING = (
    NeverMeasure,
    lambda: MeasureAtInterval(2),
    lambda: MeasureAtInterval(3, floor=2),
    lambda: MeasureWithinBudget(0.3, COSTS),
)
PLANS = (
    None,
    None,
    BatchPlan(micro_batch=3),
    BatchPlan(micro_batch="auto", memory_limit=1000),
    BatchPlan(bn_batch=3),
    BatchPlan(accumulation=2),
)


class Training(Toy):
    """One process's share of a training."""

    def __init__(self, seed: int, feed: str | None = None) -> None:
        rng = random.Random(seed)
        plan = rng.choice(PLANS)
        self.ladder = (4, 6, 8) if plan is not None else LADDER
        script = [rng.choice(self.ladder) for _ in range(12)]
        schedule = rng.choice(list(SCHEDULERS))
        optimizer = rng.choice(list(OPTIMIZERS))
        self.feed = feed or rng.choice(("batches", "loader", "stream"))
        measuring = rng.choice(MEASURING)
        if plan is not None and measuring is MEASURING[3]:
            measuring = MEASURING[1]
        super().__init__(
            script,
            size=SIZE,
            epochs=EPOCHS,
            make=network if plan is None or plan.splits else plain_network,
            optimize=OPTIMIZERS["sgd" if schedule == "cycle" and optimizer == "tensor" else optimizer],
            batch_sizes=self.ladder,
            plan=replace(plan or BatchPlan(), decide_every=rng.choice((None, 0.5, 10))),
            rates=Rates(rule=rng.choice(RULES)),
            measuring=measuring(),
        )
        self.scheduler = SCHEDULERS[schedule](self.optimizer)
        self.every_batch = plan is not None and plan.splits
        self.count = 0

    def save(self) -> bytes:
        file = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "controller": json_copy(self.controller.state_dict()),
            "random": torch.get_rng_state(),
            "steps": self.steps,
            "records": self.records,
            "count": self.count,
        }
        torch.save(state, file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=False)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.controller.load_state_dict(state["controller"])
        self.steps, self.records, self.count = state["steps"], state["records"], state["count"]
        torch.set_rng_state(state["random"])

    def batches(self) -> Any:
        if self.feed == "stream":
            return self.controller.rebatch(Chunks(self.data, self.controller.epoch))
        if self.feed == "batches":
            return (self.data_at(indices) for indices in self.controller.batches())
        options = {"num_workers": 2, "prefetch_factor": 2} if self.feed == "workers" else {}
        # Without a generator of its own, a loader draws from torch's at each iteration.
        return self.loader(generator=torch.Generator(), **options)

    def data_at(self, indices: torch.Tensor) -> Any:
        return indices, self.data.x[indices], self.data.y[indices]

    def passed(self, batch: Any) -> None:
        """Do one batch's forward and backward passes."""
        if self.every_batch:
            for _, x, y in self.controller.micro_batches(batch):
                with self.controller.step() as step:
                    step.backward(F.cross_entropy(self.model(x), y))
        else:
            _, x, y = batch
            with self.controller.step() as step:
                if self.fails_at is not None and self.count == self.fails_at:
                    raise Stopped
                step.backward(F.cross_entropy(self.model(x), y))

    def run(self, stop_after: int | None = None, fails_at: int | None = None) -> bytes | None:
        """Train to the end, or to a step after which the state is returned."""
        self.fails_at = fails_at
        parts = self.controller.plan.accumulation
        while not self.controller.finished:
            for number, batch in enumerate(self.batches()):
                place = self.controller.examples
                if parts > 1 and number % parts == 0:
                    begun = self.controller.state_dict()["course"]
                self.note()
                try:
                    self.passed(batch)
                except Stopped:
                    return self.save()
                if (number + 1) % parts:
                    # Between two parts, the state is that of the step's start: the whole batch is trained again.
                    course = self.controller.state_dict()["course"]
                    assert (course["trained"], course["waiting"][0]) == (begun["trained"], begun["waiting"][0])
                    continue
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.scheduler is not None:
                    self.scheduler.step()
                self.steps.append((place, batch[0].tolist(), float(self.rates[-1])))
                self.count += 1
                if self.count == stop_after:
                    return self.save()
            self.controller.end_epoch(val_loss=1.0 / (1 + self.controller.epoch))
            self.note()
        return None

    def result(self) -> dict[str, Any]:
        controller = self.controller
        state = controller.state_dict()
        for key in ("seconds", "measuring_seconds"):
            state.pop(key)
        return {
            "steps": self.steps,
            "records": [record.to_dict() for record in self.records],
            "figures": (controller.c_bar, controller.l_cum, controller.samples, controller.steps, controller.examples),
            "optimizer": self.optimizer.state_dict()["param_groups"],
            "state": state,
        }


def assert_same(whole: Training, parts: Training) -> None:
    assert torch.equal(weights(whole.model), weights(parts.model))
    first, second = whole.result(), parts.result()
    assert first.keys() == second.keys()
    for key in first:
        assert repr(first[key]) == repr(second[key]), key


def uncut(seed: int, feed: str | None = None) -> Training:
    torch.manual_seed(seed)
    whole = Training(seed, feed)
    torch.manual_seed(seed)
    assert whole.run() is None
    return whole


def resumed(seed: int, cuts: list[int], feed: str | None = None, fails_at: int | None = None) -> Training:
    training = Training(seed, feed)
    torch.manual_seed(seed)
    for cut in cuts:
        saved = training.run(None if fails_at is not None else cut, fails_at)
        assert saved is not None
        torch.manual_seed(999)
        training = Training(seed, feed)
        training.load(saved)
    assert training.run() is None
    return training


@pytest.mark.parametrize("seed", range(45))
def test_cut_anywhere(seed: int) -> None:
    whole = uncut(seed)
    rng = random.Random(seed + 1000)
    assert_same(whole, resumed(seed, sorted(rng.sample(range(1, whole.count + 1), rng.randint(1, 3)))))


@pytest.mark.parametrize("seed", [1, 2])
def test_cut_after_every_single_step(seed: int) -> None:
    whole = uncut(seed)
    assert_same(whole, resumed(seed, list(range(1, whole.count + 1))))


@pytest.mark.parametrize("seed", [0, 4])
def test_cut_while_workers_have_fetched_ahead(seed: int) -> None:
    whole = uncut(seed, "workers")
    assert_same(whole, resumed(seed, [random.Random(seed).randint(1, whole.count - 2)], "workers"))


@pytest.mark.parametrize("seed", range(200, 210))
def test_rewound_in_the_same_objects(seed: int) -> None:
    whole = uncut(seed)
    rng = random.Random(seed)
    training = Training(seed)
    torch.manual_seed(seed)
    first, second = sorted(rng.sample(range(1, whole.count + 1), 2))
    saved = training.run(first)
    assert saved is not None
    training.run(second)
    training.load(saved)
    assert training.run() is None
    assert_same(whole, training)


@pytest.mark.parametrize("feeds", [("workers", "loader"), ("batches", "workers"), ("stream", "batches")])
def test_another_way_of_feeding_after_a_restart_keeps_the_place_in_the_data(feeds: tuple[str, str]) -> None:
    first = Training(3, feeds[0])
    saved = first.run(4)
    assert saved is not None
    second = Training(3, feeds[1])
    second.load(saved)
    assert second.run() is None
    if "stream" not in feeds:
        second.check_examples()
    assert second.controller.examples == SIZE * EPOCHS


def test_cut_by_an_error_in_a_step() -> None:
    tried = 0
    for seed in range(100, 130):
        training = Training(seed)
        if training.every_batch or training.controller.plan.accumulation > 1:
            continue
        whole = uncut(seed)
        at = random.Random(seed).randrange(whole.count)
        assert_same(whole, resumed(seed, [at], fails_at=at))
        tried += 1
    assert tried > 10


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a state's values are."""
    if place:
        yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def damaged_toy() -> Toy:
    return Toy(
        [4, 8, 4, 8, 2],
        size=40,
        rates=Rates(rule=LearningRateRule("adascale", ramp=30)),
        measuring=MeasureAtInterval(2),
        plan=BatchPlan(micro_batch=4, decide_every=0.3),
    )


@pytest.mark.parametrize("damage", [None, "x", -1, math.nan, [], 2.5, "missing"], ids=repr)
def test_a_damaged_state_is_refused_or_does_no_harm(damage: Any) -> None:
    toy = damaged_toy()
    batches = iter(toy.loader())
    for batch in [next(batches) for _ in range(5)][:4]:
        for part in toy.controller.micro_batches(batch):
            toy.step(part)
    state = json_copy(toy.controller.state_dict())
    victim = damaged_toy()
    refused = 0
    for place in places(state):
        broken = json_copy(state)
        parent = broken
        for key in place[:-1]:
            parent = parent[key]
        if damage == "missing":
            del parent[place[-1]]
        else:
            parent[place[-1]] = damage
        try:
            victim.controller.load_state_dict(broken)
            for part in victim.controller.micro_batches(next(iter(victim.loader()))):
                victim.step(part)
        except AutoBatchError:
            refused += 1
    assert refused > 40
    victim.controller.load_state_dict(state)
    for one in (toy, victim):
        for batch in one.loader():
            for part in one.controller.micro_batches(batch):
                one.step(part)
        one.controller.end_epoch()
    assert toy.controller.examples == victim.controller.examples == 40
    assert [indices for _, indices, _ in toy.steps[-3:]] == [indices for _, indices, _ in victim.steps[-3:]]


def test_a_finished_training_is_finished_after_a_restart() -> None:
    for stop in (False, True):
        toy = Toy([4, 8], epochs=2)
        toy.epoch()
        if stop:
            toy.step(next(iter(toy.loader())))
            toy.controller.end_epoch(stop=True)
        else:
            toy.epoch()
        other = Toy([4, 8], epochs=2)
        other.controller.load_state_dict(json_copy(toy.controller.state_dict()))
        assert other.controller.finished
        assert other.controller.stopped_because == toy.controller.stopped_because
        with pytest.raises(AutoBatchError, match="finished"):
            next(iter(other.loader()))


def test_a_stop_between_two_parts_ends_measuring_too() -> None:
    toy = Toy([4], batch_sizes=(4, 8), plan=BatchPlan(accumulation=2), measuring=MeasureAtInterval(1))
    _, x, y = next(iter(toy.loader()))
    with toy.controller.step() as step:
        step.backward(toy.loss(x, y))
    assert toy.controller.end_epoch(stop=True) is None
    toy.controller.state_dict()
    assert toy.controller.samples == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy.model.modules())


def test_a_state_between_two_parts_trains_the_batch_again() -> None:
    def toy() -> Toy:
        return Toy([4], batch_sizes=(4, 8), plan=BatchPlan(accumulation=2), measuring=MeasureAtInterval(1))

    def train(toy: Toy, parts: int | None = None) -> None:
        for number, (_, x, y) in enumerate(toy.loader(), start=1):
            with toy.controller.step() as step:
                step.backward(toy.loss(x, y))
            if number == parts:
                return
            if number % 2 == 0:
                toy.optimizer.step()
                toy.optimizer.zero_grad()
        toy.controller.end_epoch()

    whole, first, second = toy(), toy(), toy()
    train(whole)
    train(first, parts=5)  # two steps, and half of the third
    assert first.controller.steps == 2
    second.model.load_state_dict(first.model.state_dict())
    second.controller.load_state_dict(json_copy(first.controller.state_dict()))
    train(second)
    assert torch.equal(weights(whole.model), weights(second.model))
    for name in ("c_bar", "l_cum", "samples", "steps"):
        assert getattr(whole.controller, name) == getattr(second.controller, name)
