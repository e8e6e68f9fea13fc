"""Loops that count iterations and know no epochs, and loops with several optimizers."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import AutoBatchController, BatchPlan, NeverMeasure
from tests.control.loops import Chunks, Data, Scripted, Toy, json_copy

ITERATIONS, BATCH = 60, 4


class Loop:
    """Draws each batch at random, and has its learning rate fall by the share of its iterations that is done."""

    def __init__(self, script: list[Any], **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        settings = {"examples": ITERATIONS * BATCH, "batch_sizes": (4, 8, 16), "measuring": NeverMeasure(), **settings}
        self.controller = AutoBatchController(self.model, self.optimizer, policy=Scripted(script), **settings)
        self.sizes: list[int] = []
        self.left: list[int] = []
        self.rates: list[float] = []

    def train(self, most: int = 10**9) -> None:
        for size in self.controller.sizes():
            left, done = self.controller.steps_left, self.controller.steps
            self.optimizer.param_groups[0]["lr"] = 0.1 * left / (done + left)
            self.left.append(left)
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            x, y = torch.randn(size, 3), torch.randint(2, (size,))
            with self.controller.step() as step:
                step.backward(F.cross_entropy(self.model(x), y))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.sizes.append(size)
            if len(self.sizes) == most:
                return
        self.controller.end_epoch(val_loss=1.0)


def test_at_one_size_it_is_the_loop_as_it_was() -> None:
    loop = Loop([4])
    loop.train()
    assert loop.sizes == [BATCH] * ITERATIONS
    assert loop.left == list(range(ITERATIONS, 0, -1))
    assert loop.controller.finished
    assert (loop.controller.steps, loop.controller.steps_left) == (ITERATIONS, 0)


def test_larger_batches_take_fewer_steps_and_the_schedule_is_told_how_many_remain() -> None:
    loop = Loop([*[4] * 5, *[8] * 10, 16], plan=BatchPlan(decide_every=16))
    loop.train()
    assert sum(loop.sizes) == ITERATIONS * BATCH
    assert sorted(set(loop.sizes)) >= [4, 8]
    assert loop.controller.steps == len(loop.sizes) < ITERATIONS
    assert loop.left[-1] == 1
    assert all(after < before for before, after in zip(loop.left, loop.left[1:], strict=False))
    assert loop.rates[0] == 0.1
    assert all(after < before for before, after in zip(loop.rates, loop.rates[1:], strict=False))


def test_it_goes_on_where_it_was_left() -> None:
    plan = BatchPlan(decide_every=120)
    whole, part = Loop([4, 8], plan=plan), Loop([4, 8], plan=plan)
    whole.train()
    part.train(17)
    again = Loop([4, 8], plan=plan)
    again.controller.load_state_dict(json_copy(part.controller.state_dict()))
    assert again.controller.steps_left == whole.left[17]
    again.train()
    assert part.sizes + again.sizes == whole.sizes
    assert again.controller.finished


def test_decisions_are_as_many_as_largest_batches_leave_room_for() -> None:
    for examples, periods in ((960, 6), (16_000, 20), (20, 1)):
        assert Loop([4], examples=examples).controller.task.epochs == periods
    plan = BatchPlan(decide_every=120)
    assert Loop([4], plan=plan).controller.task.epochs == 2


def test_sizes_of_a_data_sets_epochs() -> None:
    toy = Toy([8], size=26, epochs=2)
    for _ in range(2):
        for size in toy.controller.sizes():
            toy.step((torch.arange(size), torch.randn(size, 3), torch.zeros(size, dtype=torch.long)))
        toy.controller.end_epoch()
    assert toy.sizes() == [8, 8, 10] * 2
    assert toy.controller.finished
    with pytest.raises(AutoBatchError, match="finished after 2 of 2 epochs"):
        toy.controller.sizes()
    with pytest.raises(AutoBatchError, match=r"a batch of sizes\(\) was not trained"):
        list(Toy([8]).controller.sizes())


def test_steps_left_of_epochs() -> None:
    toy = Toy([8], size=26, epochs=3)
    left = [toy.controller.steps_left]
    for batch in toy.loader():
        toy.step(batch)
        left.append(toy.controller.steps_left)
    assert left == [9, 8, 7, 6]
    toy.controller.end_epoch()
    assert toy.controller.steps_left == 6


def test_a_stream_of_so_many_examples() -> None:
    loop = Loop([8], examples=26)
    for _, x, y in loop.controller.rebatch(Chunks(Data(26), 1)):
        with loop.controller.step() as step:
            step.backward(F.cross_entropy(loop.model(x), y))
        loop.optimizer.step()
    loop.controller.end_epoch()
    assert loop.controller.finished


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave out dataset_size and epochs"):
        Loop([4], dataset_size=100)
    with pytest.raises(ConfigError, match=r"examples: expected a whole number of at least 1, got 2\.5"):
        Loop([4], examples=2.5)
    with pytest.raises(ConfigError, match="or examples where the loop has no epochs"):
        Loop([4], examples=None)
    loop = Loop([4])
    for use in (lambda: loop.controller.batches(), lambda: loop.controller.batch_sampler):
        with pytest.raises(AutoBatchError, match=r"draw batches of controller\.sizes\(\)"):
            use()
    unattached = AutoBatchController(policy="s4", batch_sizes=(4, 8))
    assert unattached.attach(loop.model, loop.optimizer, examples=100).steps_left == math.ceil(100 / 4)


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_optimizers_are_refused_with_a_way_out(kind: Any) -> None:
    model = nn.Linear(3, 2)
    optimizers = kind(torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters())
    with pytest.raises(ConfigError, match=r"a controller steers one, got a .* of 2: put their parameter groups into"):
        AutoBatchController(model, optimizers, policy="s4", batch_sizes=(4, 8), dataset_size=26, epochs=1)
