"""What goes wrong in other people's loops, each with an outcome of its own."""

import gc
import logging
import math
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import (
    BatchPlan,
    LearningRateRule,
    MeasureAtInterval,
    MeasureWithinBudget,
    Measuring,
    NeverMeasure,
    Rates,
)
from autobatch.fisher.gram._sink import StreamingGram
from autobatch.fisher.gram._spill import SpilledGram
from tests.control.loops import RATE, Scripted, Toy, inside_steps, json_copy, weights


class Broken(Exception):
    """What a step raises."""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 2)).double()


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


class Mixing(nn.Module):
    """A layer in which samples mix, so that a parameter has no gradient for each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.weight * x.mean(dim=0))[:, :2]


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)


# Losses and figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_sample(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([8], measuring=MeasureAtInterval(1))
    caplog.set_level(logging.WARNING)
    toy.epoch()
    before = toy.controller.samples
    kept = weights(toy.model)
    for indices, x, y in toy.loader():
        with toy.controller.step() as step:
            step.backward(toy.loss(x, y) * bad)
        toy.optimizer.zero_grad()  # as loops do that look at the loss
        assert len(indices)
    toy.controller.end_epoch(train_loss=bad)
    assert "no finite gradients" in caplog.text
    assert f"train_loss is {bad}" in caplog.text
    assert toy.controller.samples == before
    assert math.isfinite(toy.controller.c_bar)
    assert torch.equal(weights(toy.model), kept)
    toy.epoch()
    assert toy.controller.samples == 2 * before


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_validation_figures_that_are_missing_or_not_finite(bad: float | None, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([8, 4])
    toy.epoch(val_loss=bad, val_error=bad)
    assert ("val_loss is" in caplog.text) == (bad is not None)
    assert toy.controller.batch_size == 4
    seen = toy.policy.seen[-1].validation_loss
    assert seen == bad or (math.isnan(seen) and (bad is None or math.isnan(bad)))
    state = json_copy(toy.controller.state_dict())
    other = Toy([8, 4])
    other.controller.load_state_dict(state)
    for one in (toy, other):
        one.epoch(val_loss=0.5)
    assert other.policy.seen[-1].validation_loss == 0.5


# Steps that raise ----------------------------------------------------------------------------------------------------


def failing(toy: Toy, batch: Any, where: str) -> None:
    _, x, y = batch
    with toy.controller.step() as step:
        if where == "before":
            raise Broken
        if where == "forward":
            with_hook(toy.model, raising(Broken), lambda: toy.model(x))
        loss = toy.loss(x, y)
        if where == "backward":
            loss.register_hook(raising(Broken))
        step.backward(loss)
        raise Broken


def raising(error: type[BaseException]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        raise error("out of memory" if error is torch.OutOfMemoryError else "broken")

    return hook


def with_hook(model: nn.Module, hook: Callable[..., None], body: Callable[[], Any]) -> None:
    handle = model.register_forward_hook(hook)
    try:
        body()
    finally:
        handle.remove()


WHERE = ["before", "forward", "backward", "after"]


@pytest.mark.parametrize(("error", "told"), [(torch.OutOfMemoryError, True), (Broken, False)])
def test_a_batch_that_does_not_fit_says_what_helps(error: type[Exception], told: bool) -> None:
    toy = Toy([8])
    batch = next(iter(toy.loader()))
    with pytest.raises(error) as raised, toy.controller.step():
        with_hook(toy.model, raising(error), lambda: toy.model(batch[1]))
    notes = "".join(getattr(raised.value, "__notes__", []))
    assert ("a batch of 8 examples. BatchPlan(micro_batch='auto') trains" in notes) == told


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_step_that_raised_is_passed_over_where_the_loop_goes_on(
    where: str, at: int, measured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Toy([4, 8], measuring=MeasureAtInterval(1) if measured else NeverMeasure(), plan=BatchPlan(decide_every=13))
    for epoch in range(2):
        for count, batch in enumerate(toy.loader()):
            toy.note()
            if epoch == 0 and count == at:
                with pytest.raises(Broken):
                    failing(toy, batch, where)
                toy.optimizer.zero_grad()
                toy.steps.append((toy.controller.examples, batch[0].tolist(), toy.controller.lr_effective))
            else:
                toy.step(batch)
        toy.controller.end_epoch()
        toy.note()
    assert caplog.text.count("the loop went on after a step that raised") == 1
    toy.check()
    assert toy.controller.steps == len(toy.steps) - 1
    assert toy.controller.examples == 2 * 26


@pytest.mark.parametrize("where", WHERE)
def test_a_step_that_raised_is_trained_again_by_a_restart(where: str) -> None:
    toy = Toy([4, 8], measuring=MeasureAtInterval(1))
    batches = iter(toy.loader())
    for _ in range(2):
        toy.step(next(batches))
    failed = next(batches)
    with pytest.raises(Broken):
        failing(toy, failed, where)
    state = json_copy(toy.controller.state_dict())
    other = Toy([4, 8], measuring=MeasureAtInterval(1))
    other.controller.load_state_dict(state)
    assert next(iter(other.loader()))[0].tolist() == failed[0].tolist()
    for one in (toy, other):  # in the same process too, where the loop begins again
        one.model.zero_grad()
        for batch in one.loader():
            one.step(batch)
        one.controller.end_epoch()
    assert toy.steps[2:] == other.steps
    toy.check()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_may_be_tried_again_at_once(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([4, 8], size=60, measuring=MeasureAtInterval(2), epochs=1)
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    for count, batch in enumerate(toy.loader(**options)):
        toy.note()
        if count in {0, 3}:
            with pytest.raises(Broken):
                failing(toy, batch, "forward")
        toy.step(batch)
    toy.controller.end_epoch()
    toy.check()
    assert "went on" not in caplog.text


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_that_raised_takes_its_whole_batch_with_it(part: int, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([4], size=24, epochs=1, batch_sizes=(4, 8), plan=BatchPlan(accumulation=2))
    seen = []
    for count, (indices, x, y) in enumerate(toy.loader()):
        try:
            with toy.controller.step() as step:
                if count == 4 + part:
                    raise Broken
                step.backward(toy.loss(x, y))
        except Broken:
            pass
        seen += indices.tolist()
        if count % 2:
            toy.optimizer.step()
            toy.optimizer.zero_grad()
    toy.controller.end_epoch()
    assert sorted(seen) == list(range(24))
    assert toy.controller.steps == 6  # the loop has taken one with what it had
    assert caplog.text.count("examples 8 to 12 of epoch 1 are not trained") == 1


def test_leaving_a_loop_between_two_parts_begins_the_batch_again() -> None:
    toy = Toy(
        [4], size=24, epochs=1, batch_sizes=(4, 8), plan=BatchPlan(accumulation=2), measuring=MeasureAtInterval(1)
    )
    for stop in (3, 100):
        seen = []
        for count, (indices, x, y) in enumerate(toy.loader()):
            seen += indices.tolist()
            with toy.controller.step() as step:
                step.backward(toy.loss(x, y))
            if count == stop - 1:
                break
            if count % 2:
                toy.optimizer.step()
        if stop == 3:
            again = seen[4:]
            toy.optimizer.zero_grad()
    assert seen[: len(again)] == again
    assert len(seen) == 20
    toy.controller.end_epoch()
    assert (toy.controller.steps, len(toy.controller.measurements)) == (6, 6)


def test_errors_at_random_steps_keep_account_of_every_example() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        toy = Toy(
            [rng.choice((2, 4, 8)) for _ in range(9)],
            size=rng.randint(16, 50),
            epochs=2,
            plan=BatchPlan(decide_every=0.5),
        )
        trained, passed = [], []
        while not toy.controller.finished:
            done = False
            while not done:
                done = True
                for indices in toy.controller.batch_sampler:
                    outcome = rng.choice(("train",) * 6 + ("skip", "begin again"))
                    try:
                        with toy.controller.step():
                            if outcome != "train":
                                raise Broken
                        trained += indices
                    except Broken:
                        if outcome == "begin again":
                            done = False
                            break
                        passed += indices
            toy.controller.end_epoch()
        assert sorted(trained + passed) == sorted(list(range(len(toy.data))) * 2)


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_in_a_loop_that_is_timed(seed: int) -> None:
    rng = random.Random(seed)
    plan = rng.choice((None, BatchPlan(micro_batch="auto"), BatchPlan(micro_batch=3)))
    script = [rng.choice((2, 4, 8)) for _ in range(20)]
    toy = Toy(
        script,
        size=40,
        epochs=3,
        measuring=MeasureWithinBudget(1.0),
        plan=replace(plan or BatchPlan(), decide_every=rng.choice((None, 0.3))),
    )
    Memory(toy.model, calls=tuple(rng.sample(range(60), 12)), where=rng.choice(("forward", "backward")))
    trained, passed = [], []
    state = toy.controller.state_dict()
    kept = (state, 0, 0)
    while not toy.controller.finished:
        whole = True
        for batch in toy.loader():
            outcome = rng.choice(("train",) * 8 + ("skip", "begin again", "rewind"))
            try:
                for _, x, y in toy.controller.micro_batches(batch) if plan else [batch]:
                    with toy.controller.step() as step:
                        if outcome != "train":
                            raise Broken
                        step.backward(toy.loss(x, y))
                trained += batch[0].tolist()
                if rng.random() < 0.3:
                    kept = (json_copy(toy.controller.state_dict()), len(trained), len(passed))
            except (Broken, torch.OutOfMemoryError, AutoBatchError):  # the last where a single example does not fit
                if outcome in {"train", "skip"}:
                    passed += batch[0].tolist()
                else:
                    whole = False
                    break
            toy.optimizer.zero_grad()
        if not whole and outcome == "rewind":
            state, train, skip = kept
            toy.controller.load_state_dict(state)
            del trained[train:], passed[skip:]
        elif whole:
            toy.controller.end_epoch()
    assert sorted(trained + passed) == sorted(list(range(40)) * 3)


# Loaders that return something else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 5])
def test_micro_batches_refuse_a_batch_of_another_size_at_once(count: int) -> None:
    toy = Toy([4])
    indices, x, y = next(iter(toy.loader()))
    wrong = (torch.cat([indices] * 2)[:count], torch.cat([x] * 2)[:count], torch.cat([y] * 2)[:count])
    with pytest.raises(AutoBatchError, match=rf"batch of {count} examples where 4 were asked for \(examples 0 to 4"):
        next(toy.controller.micro_batches(wrong))
    toy.controller.state_dict()
    with pytest.raises(AutoBatchError, match="no tensor"):
        next(toy.controller.micro_batches("nothing"))
    toy.epoch()
    toy.check()


@pytest.mark.parametrize("count", [3, 5])
def test_a_measured_step_refuses_a_batch_of_another_size(count: int) -> None:
    toy = Toy([4], measuring=MeasureAtInterval(3))
    for number, (_, x, y) in enumerate(toy.loader()):
        size = count if number == 3 else 4
        x, y = torch.cat([x] * 2)[:size], torch.cat([y] * 2)[:size]
        with toy.controller.step() as step:
            step.backward(toy.loss(x, y))
        toy.optimizer.step()
        toy.optimizer.zero_grad()
    with pytest.raises(AutoBatchError, match=f"step 4 was to train 4 examples, and the model was called with {count}"):
        toy.controller.end_epoch()


# Memory --------------------------------------------------------------------------------------------------------------


class Memory:
    """Runs out at chosen calls of the model, or where a call has too many rows."""

    def __init__(self, model: nn.Module, rows: int | None = None, calls: tuple[int, ...] = (), where: str = "forward"):
        self.rows, self.calls, self.where = rows, calls, where
        self.count = self.raised = 0
        model.register_forward_hook(self.forward)

    def forward(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.count += 1
        if (self.rows is not None and len(inputs[0]) > self.rows) or self.count - 1 in self.calls:
            self.raised += 1
            if self.where == "forward":
                raise torch.OutOfMemoryError("out of memory")
            output.register_hook(raising(torch.OutOfMemoryError))


def train_split(toy: Toy) -> None:
    for batch in toy.loader():
        for _, x, y in toy.controller.micro_batches(batch):
            with toy.controller.step() as step:
                step.backward(F.cross_entropy(toy.model(x.double()), y))
        toy.optimizer.step()
        toy.optimizer.zero_grad()
    toy.controller.end_epoch()


def split_toy(plan: BatchPlan | None, make: Callable[[], nn.Module] = smooth, **more: Any) -> Toy:
    torch.manual_seed(3)
    return Toy([8], plan=plan, make=make, optimize=plain_sgd, batch_sizes=(4, 8, 16), **more)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("measuring", [NeverMeasure(), MeasureAtInterval(2)])
@pytest.mark.parametrize("plan", [BatchPlan(micro_batch="auto"), BatchPlan(micro_batch=6)])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_split_batch_is_the_same_batch(where: str, measuring: Any, plan: BatchPlan, rows: int) -> None:
    whole, split = split_toy(None), split_toy(plan, measuring=measuring)
    memory = Memory(split.model, rows=rows, where=where)
    for _ in range(3):
        train_split(whole)
        train_split(split)
    assert (memory.raised == 0) == (rows == 5 and plan.micro_batch == 6)
    assert memory.raised <= 6
    torch.testing.assert_close(weights(split.model), weights(whole.model), rtol=1e-12, atol=1e-14)
    assert split.controller.examples == whole.controller.examples


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_gradients_buffers_and_masks_are_those_of_a_batch_that_never_failed(where: str) -> None:
    whole = split_toy(BatchPlan(micro_batch=4), make=network)
    split = split_toy(BatchPlan(micro_batch="auto"), make=network)
    Memory(split.model, rows=4, where=where)
    for _ in range(3):  # one after the other, from the same generator
        for toy, seed in ((whole, 11), (split, 11)):
            torch.manual_seed(seed)
            train_split(toy)
    assert torch.equal(weights(split.model), weights(whole.model))
    assert int(split.model[1].num_batches_tracked) == int(whole.model[1].num_batches_tracked)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("calls", [(0,), (1,), (0, 2)])
def test_memory_that_runs_out_in_a_measured_step_costs_only_the_sample(where: str, calls: tuple[int, ...]) -> None:
    """The batch is repeated whole, with the same dropout masks and BatchNorm counts."""
    whole = split_toy(BatchPlan(micro_batch="auto"), make=network)
    split = split_toy(BatchPlan(micro_batch="auto"), make=network, measuring=MeasureAtInterval(1))
    memory = Memory(split.model, calls=calls, where=where)
    for toy in (whole, split):
        torch.manual_seed(5)
        train_split(toy)
    assert memory.raised == len(calls)
    assert torch.equal(weights(split.model), weights(whole.model))
    assert split.controller.samples == 2 - len(calls)  # the last batch, of another size, is never measured
    assert split.controller.decision.micro_batch == 8


@pytest.mark.parametrize("plan", [None, BatchPlan(micro_batch="auto"), BatchPlan(micro_batch=4), BatchPlan(bn_batch=4)])
@pytest.mark.parametrize("place", ["gram", "finish", "eigenvalues"])
def test_memory_that_runs_out_in_measuring_itself_never_ends_the_training(
    plan: BatchPlan | None, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, toy = split_toy(plan), split_toy(plan, measuring=MeasureAtInterval(1))
    train_split(whole)
    for sink in (StreamingGram, SpilledGram):
        if place != "eigenvalues":
            monkeypatch.setattr(sink, "add" if place == "gram" else "result", raising(torch.OutOfMemoryError))
    if place == "eigenvalues":
        monkeypatch.setattr(torch.linalg, "eigvalsh", raising(torch.OutOfMemoryError))
    train_split(toy)
    assert torch.equal(weights(toy.model), weights(whole.model))
    assert toy.controller.samples == 0
    assert caplog.text.count("is not measured") == 2
    monkeypatch.undo()
    train_split(toy)
    assert toy.controller.samples == 2


@pytest.mark.parametrize("options", [{"bn": "exact"}, {"reuse_weight_gradient": True}])
@pytest.mark.parametrize("plan", [None, BatchPlan(micro_batch="auto"), BatchPlan(micro_batch=4)])
def test_memory_that_runs_out_in_other_ways_of_measuring(
    plan: BatchPlan | None, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = split_toy(plan, measuring=Measuring(NeverMeasure(), **options))
    toy = split_toy(plan, measuring=Measuring(MeasureAtInterval(1), **options))
    train_split(whole)
    for sink in (StreamingGram, SpilledGram):
        monkeypatch.setattr(sink, "add", raising(torch.OutOfMemoryError))
    train_split(toy)
    assert torch.equal(weights(toy.model), weights(whole.model))
    assert toy.controller.samples == 0


def test_without_a_plan_memory_is_the_loops_own_affair() -> None:
    toy = split_toy(None, measuring=MeasureAtInterval(1))
    Memory(toy.model, calls=(1,))
    with pytest.raises(torch.OutOfMemoryError):
        train_split(toy)
    toy.model.zero_grad()
    train_split(toy)  # from the batch that failed
    assert toy.controller.examples == 26
    assert toy.controller.steps == 3


@pytest.mark.parametrize("plan", [BatchPlan(micro_batch="auto"), BatchPlan(micro_batch="auto", memory_limit=10)])
def test_a_single_example_that_does_not_fit_is_an_error(plan: BatchPlan) -> None:
    toy = split_toy(plan)
    if plan.memory_limit is None:
        Memory(toy.model, rows=0)
    with pytest.raises(AutoBatchError, match="single example"):
        train_split(toy)
    assert toy.controller.state_dict()["course"]["trained"] == 0


def test_a_byte_limit_stands_in_for_memory_on_a_cpu() -> None:
    whole, split = split_toy(None), split_toy(BatchPlan(micro_batch="auto", memory_limit=300))
    for toy in (whole, split):
        train_split(toy)
    assert split.controller.decision.micro_batch in range(2, 8)
    torch.testing.assert_close(weights(split.model), weights(whole.model), rtol=1e-12, atol=1e-14)
    state = json_copy(split.controller.state_dict())
    again = split_toy(BatchPlan(micro_batch="auto", memory_limit=300))
    again.controller.load_state_dict(state)
    rows: list[int] = []
    for toy in (split, again):
        toy.model.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
        train_split(toy)
        assert max(rows) == split.controller.decision.micro_batch  # what does not fit is not tried again


class Saving(torch.autograd.Function):
    """Saves a tensor for its backward pass, which has no room for more than four examples."""

    saved: ClassVar[list[Any]] = []

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros(len(x))
        Saving.saved.append(weakref.ref(kept))
        ctx.save_for_backward(kept)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (kept,) = ctx.saved_tensors
        if len(kept) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return gradient


@pytest.mark.parametrize("measuring", [NeverMeasure(), MeasureAtInterval(1)])
def test_what_a_pass_has_saved_goes_before_the_batch_is_tried_again(measuring: Any) -> None:
    toy = split_toy(BatchPlan(micro_batch="auto"), measuring=measuring)
    Saving.saved.clear()
    alive = []
    for _, x, y in toy.controller.micro_batches(next(iter(toy.loader()))):
        with toy.controller.step() as step:
            alive.append(sum(reference() is not None for reference in Saving.saved))
            logits = Saving.apply(toy.model(x.double()))  # the name holds the graph until the next pass
            step.backward(F.cross_entropy(logits, y))
    assert alive == [0] * (3 if isinstance(measuring, NeverMeasure) else 4)


def test_a_sample_that_had_no_room_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[Any] = []

    def add(*_: Any) -> None:
        block = torch.zeros(3)
        blocks.append(weakref.ref(block))
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(StreamingGram, "add", add)
    toy = Toy([8], measuring=MeasureAtInterval(50))
    toy.step(next(iter(toy.loader())))
    assert blocks
    assert all(reference() is None for reference in blocks)


def test_other_errors_in_micro_batches_are_not_taken_for_memory() -> None:
    toy = split_toy(BatchPlan(micro_batch=3))
    batches = iter(toy.loader())
    batch = next(batches)
    for _ in toy.controller.micro_batches(batch):
        with pytest.raises(Broken), toy.controller.step():
            raise Broken
        break
    gc.collect()
    toy.controller.state_dict()
    train_split(toy)
    assert toy.controller.examples == 26


def test_a_loop_over_micro_batches_may_be_left() -> None:
    toy = split_toy(BatchPlan(micro_batch=4), measuring=MeasureAtInterval(1))
    batch = next(iter(toy.loader()))

    def left(after: int) -> None:
        for count, (_, x, y) in enumerate(toy.controller.micro_batches(batch)):
            with toy.controller.step() as step:
                step.backward(F.cross_entropy(toy.model(x.double()), y))
            if count == after:
                break

    left(0)  # half of it: the batch is trained again
    assert toy.controller.steps == 0
    toy.optimizer.zero_grad()
    assert next(iter(toy.loader()))[0].tolist() == batch[0].tolist()
    left(1)  # after its last part: it is trained
    toy.optimizer.step()
    assert toy.controller.steps == 1
    train_split(toy)
    assert (toy.controller.steps, toy.controller.samples) == (3, 2)


def test_a_plan_of_measuring_that_raises_does_no_harm() -> None:
    class Raising(NeverMeasure):
        def choose(self, *arguments: Any, **more: Any) -> tuple[int, ...]:
            raise Broken

    toy = Toy([4, 8], measuring=Raising())
    for _ in range(2):
        batch = next(iter(toy.loader()))
        with pytest.raises(Broken):
            toy.step(batch)
        assert toy.controller.state_dict()["course"]["waiting"] == [[0, 4, 4, 0]]
    toy.controller._training.period._plan = NeverMeasure()
    toy.epoch()
    toy.check()


# Ends of epochs ------------------------------------------------------------------------------------------------------


def test_an_epoch_that_is_ended_twice_never_or_too_early() -> None:
    toy = Toy([8])
    toy.epoch()
    with pytest.raises(AutoBatchError, match="without an epoch"):
        toy.controller.end_epoch()
    for batch in toy.loader():
        toy.step(batch)
        if toy.controller.examples < 52:
            with pytest.raises(AutoBatchError, match="in the middle of an epoch"):
                toy.controller.end_epoch()
    with pytest.raises(AutoBatchError, match="trained to its end"):
        next(iter(toy.loader()))
    with pytest.raises(AutoBatchError, match="trained to its end"):
        next(toy.controller.rebatch([]))
    toy.controller.end_epoch()
    toy.epoch()
    assert toy.controller.finished
    with pytest.raises(AutoBatchError, match="finished after 3 of 3"):
        next(iter(toy.loader()))
    with pytest.raises(AutoBatchError, match="without an epoch"):
        toy.controller.end_epoch()


def test_decisions_closer_than_a_batch_are_refused() -> None:
    with pytest.raises(AutoBatchError, match="3 examples between two are too few for batches of 8"):
        Toy([8], plan=BatchPlan(decide_every=3))


# Models and optimizers that change -----------------------------------------------------------------------------------


def test_a_layer_that_is_replaced_in_mid_run_is_measured() -> None:
    toy = Toy(
        [8], make=lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), measuring=MeasureAtInterval(1)
    )
    toy.epoch()
    first = toy.controller.measurements[0]
    toy.model[2] = nn.Linear(4, 2, bias=False)
    toy.optimizer.add_param_group({"params": list(toy.model[2].parameters()), "lr": 4 * RATE})
    toy.epoch()
    assert len(toy.controller.measurements) == 2
    assert all(sample.usable for sample in toy.controller.measurements)
    assert first.trace != toy.controller.measurements[0].trace
    kept = {name: value.clone() for name, value in toy.model.state_dict().items()}
    toy.model.load_state_dict(kept)
    toy.epoch()
    assert toy.controller.samples == 6


def test_a_new_group_has_its_rate_in_proportion() -> None:
    toy = Toy([(8, 0.3)])
    toy.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 3 * RATE})
    inside_steps(toy.optimizer, lambda: toy.rates.extend(group["lr"] for group in toy.optimizer.param_groups))
    toy.epoch()
    assert toy.rates[:3] == pytest.approx([0.3, 0.6, 0.9])
    assert [group["lr"] for group in toy.optimizer.param_groups] == [RATE, 2 * RATE, 3 * RATE]


def test_a_measured_parameter_outside_of_the_optimizer_changes_nothing() -> None:
    toy = Toy([8], make=lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), measuring=MeasureAtInterval(1))
    toy.model[1] = nn.Linear(4, 2)  # forgotten in the optimizer: torch says nothing either
    toy.epoch()
    assert toy.controller.samples == 2


def test_a_model_that_cannot_be_measured_any_more_trains_on(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([8], make=lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), measuring=MeasureAtInterval(1))
    toy.epoch()
    toy.model[1] = Mixing()
    measured = toy.controller.samples
    toy.epoch()
    assert toy.controller.samples == measured
    assert caplog.text.count("'1.weight'") == 1


def test_an_optimizers_step_that_raises_leaves_the_rates_as_they_were() -> None:
    toy = Toy([(8, 0.3)], measuring=NeverMeasure())
    group = toy.optimizer.param_groups[0]
    batches = iter(toy.loader())
    toy.step(next(batches))
    handle = toy.optimizer.register_step_pre_hook(raising(Broken))
    with pytest.raises(Broken):
        toy.step(next(batches))
    handle.remove()
    assert toy.controller.lr_effective == 0.3
    assert group["lr"] == RATE
    with pytest.raises(Broken):
        toy.optimizer.step(raising(Broken))
    assert group["lr"] == RATE
    with pytest.raises(Broken):
        toy.optimizer.step(closure=raising(Broken))
    assert group["lr"] == RATE
    toy.optimizer.zero_grad()
    toy.step(next(batches))
    assert toy.steps[-1][2] == 0.3
    assert group["lr"] == RATE


def test_a_wrapper_that_takes_no_hooks_is_a_clear_error() -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    with pytest.raises(ConfigError, match="Wrapper takes no step hooks"):
        Toy([8], optimize=lambda model: Wrapper(plain_sgd(model)))  # type: ignore[arg-type,return-value]


def test_of_two_controllers_on_an_optimizer_the_second_has_it() -> None:
    first = Toy([(8, 0.3)])
    second = Toy([(8, 0.2)], optimize=lambda model: first.optimizer)
    first.optimizer.step()
    assert second.rates[-1] == 0.2
    second.controller.close()
    first.optimizer.step()
    assert second.rates[-1] == RATE


def test_with_its_controller_gone_an_optimizer_is_as_it_was() -> None:
    toy = Toy([(8, 0.3)], measuring=MeasureAtInterval(1))
    toy.epoch()
    optimizer, rates = toy.optimizer, toy.rates
    assert rates[-1] == 0.3
    seen: list[float] = []
    inside_steps(optimizer, lambda: seen.append(optimizer.param_groups[0]["lr"]))  # the toy's own holds the toy
    del toy
    gc.collect()
    optimizer.step()
    assert seen == [RATE]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_closures_get_the_rate_of_their_batch(make: Any) -> None:
    closed, plain = (Toy([2, 8, 4], optimize=lambda m: make(m.parameters(), lr=RATE), rates="linear") for _ in range(2))
    plain.epoch()
    plain.epoch()
    for _ in range(2):
        for _, x, y in closed.loader():

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> Any:
                closed.optimizer.zero_grad()
                with closed.controller.step() as step:
                    loss = closed.loss(x, y)
                    step.backward(loss)
                return loss

            closed.optimizer.step(closure)
        closed.controller.end_epoch()
    assert torch.equal(weights(closed.model), weights(plain.model))


def test_a_closure_that_is_called_again_counts_once() -> None:
    toy = Toy([8], optimize=lambda m: torch.optim.LBFGS(m.parameters(), lr=RATE), measuring=MeasureAtInterval(1))
    plain = Toy([8], optimize=lambda m: torch.optim.LBFGS(m.parameters(), lr=RATE))
    calls = 0
    for one in (toy, plain):
        for _, x, y in one.loader():

            def closure(one: Toy = one, x: torch.Tensor = x, y: torch.Tensor = y) -> Any:
                nonlocal calls
                calls += 1
                one.optimizer.zero_grad()
                if one is plain:
                    (loss := one.loss(x, y)).backward()
                    return loss
                with one.controller.step() as step:
                    loss = one.loss(x, y)
                    step.backward(loss)
                return loss

            if one is plain:
                with one.controller.step():
                    pass
            one.optimizer.step(closure)
        one.controller.end_epoch()
    assert calls > 12
    assert (toy.controller.steps, toy.controller.samples) == (3, 2)
    assert torch.equal(weights(toy.model), weights(plain.model))


def test_a_scaler_that_skips_steps_does_no_harm() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    toy = Toy([(8, 0.3)], measuring=Measuring(steps=MeasureAtInterval(1), grad_scaler=scaler), epochs=2)
    group = toy.optimizer.param_groups[0]
    for _ in range(2):
        for count, (_, x, y) in enumerate(toy.loader()):
            with toy.controller.step() as step:
                step.backward(scaler.scale(toy.loss(x, y) * (math.inf if count == 1 else 1.0)))
            scaler.step(toy.optimizer)
            scaler.update()
            toy.optimizer.zero_grad()
            assert group["lr"] == RATE
        toy.controller.end_epoch()
    assert toy.rates == [0.3] * 4
    assert toy.controller.samples == 2
    assert bool(weights(toy.model).isfinite().all())


# Schedulers ----------------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=60),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20),
    "warm-up from 0": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 8)),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 5),
    "multiplicative": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.97),
    "one after the other": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        milestones=[4],
    ),
}


def groups_with(rate: Any, kind: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        first, second = model.parameters()
        own = rate.clone() if isinstance(rate, torch.Tensor) else rate
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return kind([{"params": [first]}, {"params": [second], "lr": 3 * rate}], lr=own, **options)

    return make


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [(name, tensor) for name in SCHEDULERS for tensor in (False, True) if (name, tensor) != ("plateau", True)],
)
def test_the_scheduler_owns_the_schedule_and_the_controller_a_factor(name: str, tensor: bool, before: bool) -> None:
    kind = torch.optim.Adam if tensor else torch.optim.SGD
    make = groups_with(torch.tensor(RATE, dtype=torch.float64) if tensor else RATE, kind)
    plain = Toy([8], optimize=make, epochs=4)
    plain.controller.close()
    plain_scheduler = SCHEDULERS[name](plain.optimizer)
    schedulers: list[Any] = []

    def with_scheduler(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(model)
        if before:
            schedulers.append(SCHEDULERS[name](optimizer))
        return optimizer

    toy = Toy([2, 4, 8, 2], optimize=with_scheduler, epochs=4, rates="linear")
    scheduler = schedulers[0] if before else SCHEDULERS[name](toy.optimizer)
    applied: list[list[float]] = []
    inside_steps(toy.optimizer, lambda: applied.append([float(group["lr"]) for group in toy.optimizer.param_groups]))
    step = 0
    while not toy.controller.finished:
        for _, x, y in toy.loader():
            factor = toy.controller.batch_size / 2
            with toy.controller.step() as passing:
                passing.backward(toy.loss(x, y))
                assert toy.controller.lr_effective == pytest.approx(
                    factor * float(plain.optimizer.param_groups[0]["lr"])
                )
            toy.optimizer.step()
            owned = [float(group["lr"]) for group in plain.optimizer.param_groups]
            assert applied[-1] == pytest.approx([factor * rate for rate in owned], rel=1e-12)
            plain.optimizer.step()
            step += 1
            for one in (scheduler, plain_scheduler):
                one.step(1.0) if name == "plateau" and step % 4 == 0 else None if name == "plateau" else one.step()
            for ours, theirs in zip(toy.optimizer.param_groups, plain.optimizer.param_groups, strict=True):
                assert ours["lr"] == theirs["lr"]
                assert isinstance(ours["lr"], torch.Tensor) == tensor
        toy.controller.end_epoch()
    assert {key: value for key, value in toy.optimizer.state_dict()["param_groups"][0].items() if key != "params"} == {
        key: value for key, value in plain.optimizer.state_dict()["param_groups"][0].items() if key != "params"
    }


def test_a_ramp_is_not_cut_short_by_the_decisions_that_follow() -> None:
    toy = Toy(
        [2, 8, 8, 8, 8, 8],
        size=64,
        epochs=2,
        plan=BatchPlan(decide_every=16),
        rates=Rates(rule=LearningRateRule("linear", ramp=40)),
    )
    for _ in range(2):
        toy.epoch()
    rates = {place: rate for place, _, rate in toy.steps}
    start = 16
    for place, rate in rates.items():
        share = min(1.0, max(0.0, (place - start) / 40))
        assert rate == pytest.approx(RATE * (1.0 + 3.0 * share))
    assert rates[56] == 4 * RATE


def test_a_ramp_from_within_a_ramp_begins_where_the_rate_is() -> None:
    toy = Toy(
        [2, 8, 4, 4, 4, 4, 4],
        size=64,
        epochs=1,
        plan=BatchPlan(decide_every=16),
        rates=Rates(rule=LearningRateRule("linear", ramp=32)),
    )
    toy.epoch()
    rates = {place: rate / RATE for place, _, rate in toy.steps}
    assert [rates[place] for place in (0, 16, 24)] == pytest.approx([1.0, 1.0, 1.75])
    assert [rates[place] for place in (32, 40, 48, 60)] == pytest.approx([2.5, 2.375, 2.25, 2.5 - 0.5 * 28 / 32])


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_momentum_is_rescaled_during_the_step_only(kind: str) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return getattr(torch.optim, kind)(model.parameters(), lr=RATE, **({"momentum": 0.9} if kind == "SGD" else {}))

    toy = Toy([2, 8, 4], optimize=make, rates=Rates(rule=LearningRateRule("sqrt", momentum="rescale")))
    group, seen = toy.optimizer.param_groups[0], toy.rates
    inside_steps(toy.optimizer, lambda: seen.append(group["momentum"] if kind == "SGD" else group["betas"][0]))
    for _ in range(3):
        toy.epoch()
        assert (group["momentum"] if kind == "SGD" else group["betas"]) == (0.9 if kind == "SGD" else (0.9, 0.999))
    assert sorted({round(value, 12) for value in seen}) == sorted(round(0.9**power, 12) for power in (1, 2, 4))


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_momentum_is_reset_at_a_change_and_only_there(kind: str) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return getattr(torch.optim, kind)(model.parameters(), lr=RATE, **({"momentum": 0.9} if kind == "SGD" else {}))

    toy = Toy([8, 8, 4], optimize=make, rates=Rates(rule=LearningRateRule(momentum="reset")))
    sums: list[float] = []
    for _ in range(2):
        toy.epoch()
        key = "momentum_buffer" if kind == "SGD" else "exp_avg"
        sums.append(sum(float(state[key].abs().sum()) for state in toy.optimizer.state.values()))
    assert sums[0] > 0
    assert sums[1] == 0


def test_a_finished_generator_of_batches_holds_nothing_open() -> None:
    toy = Toy([8], measuring=MeasureAtInterval(1))
    batches: Iterator[Any] = toy.controller.batches()
    next(batches)
    del batches
    gc.collect()
    toy.epoch()
    toy.check()


def test_scripts_may_leave_everything_to_the_rule() -> None:
    toy = Toy(Scripted([4, (8, 0.2), 4]), rates="linear")
    rates = [toy.controller.lr]
    for _ in range(2):
        toy.epoch()
        rates.append(toy.controller.lr)
    assert rates == [RATE, 0.2, RATE]  # a policy that sets the rate itself switches the rule off
