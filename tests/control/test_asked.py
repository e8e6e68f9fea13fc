"""Measured steps that a policy asks for: in which periods, how many, and what they are paid from."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from autobatch.beacons import CostTable
from autobatch.control import (
    AutoBatchController,
    MeasureAtInterval,
    MeasureWithinBudget,
    MeasuringPlan,
    NeverMeasure,
    Rates,
)
from autobatch.control.measuring._period import BY_SAMPLE
from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.policies.steer._noise import FOLLOWED, WANTED

EXAMPLES, EPOCHS = 320, 12
"""Steered trainings of 8 of 12 epochs, whose rate falls from the third on; with batches of 32 an epoch has 10 steps."""


def close_to_a_line(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(EXAMPLES, 4, generator=generator)
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 5.0


class Loop:
    """A line that is fitted with batches of 32 at first: all gradients point one way, unless noise hides them."""

    def __init__(
        self, plan: MeasuringPlan, model: nn.Module | None = None, *, noise: float = 0.0, **arguments: Any
    ) -> None:
        torch.manual_seed(0)
        self.x, self.y = close_to_a_line()
        self.y = self.y + noise * torch.randn(self.y.shape, generator=torch.Generator().manual_seed(1))
        self.model = model or nn.Linear(4, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.policy = SteerPolicy(SteerParameters())
        facts = {"batch_sizes": (8, 16, 32, 64), "dataset_size": EXAMPLES, "epochs": EPOCHS}
        self.controller = AutoBatchController(
            self.model,
            self.optimizer,
            policy=self.policy,
            rates=Rates(steered=True, learning_rates=(0.01,)),
            measuring=plan,
            **facts | arguments,
        )
        self.sizes: list[int] = []
        self.samples: list[int] = []
        self._before = 0

    def epoch(self, stop_after: int | None = None) -> None:
        self.sizes.append(self.controller.batch_size)
        for number, indices in enumerate(self.controller.batches()):
            if number == stop_after:
                return
            with self.controller.step() as step:
                step.backward((self.model(self.x[indices]) - self.y[indices]).square().mean())
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.controller.end_epoch(val_loss=1.0 / (1 + self.controller.epoch))
        self.samples.append(self.controller.samples - self._before)
        self._before = self.controller.samples

    def train(self) -> "Loop":
        while not self.controller.finished:
            self.epoch()
        return self


def costs(measuring: float) -> CostTable:
    sizes = (8, 16, 32, 64)
    return CostTable("test", dict.fromkeys(sizes, 0.01), dict.fromkeys(sizes, measuring), 0.0)


def test_a_batch_larger_than_the_noise_scale_gets_smaller_before_the_rate_falls() -> None:
    loop = Loop(MeasureAtInterval(50)).train()
    assert loop.sizes == [32, 32] + [8] * (EPOCHS - 2)
    assert loop.samples == [1, WANTED] + [FOLLOWED] * (EPOCHS - 2)


def test_a_plan_that_measures_more_goes_on_doing_so() -> None:
    loop = Loop(MeasureAtInterval(1))
    for _ in range(3):
        loop.epoch()
    assert loop.samples == [10, 10, 40]


def test_where_nothing_is_measured_nothing_is_asked_for() -> None:
    for plan in (NeverMeasure(), MeasureWithinBudget(0.0)):
        loop = Loop(plan).train()
        assert loop.samples == [0] * 8
        assert min(loop.sizes) == 32


def test_what_is_asked_for_comes_whatever_the_budget_and_later_periods_pay_for_it() -> None:
    dear = Loop(MeasureWithinBudget(0.02, costs(0.01)), noise=100.0).train()  # the budget is less than one sample
    assert set(dear.sizes[:4]) == {32}  # noise hides the gradients, and nothing more is asked for
    assert dear.samples[:2] == [1, WANTED]
    assert sum(dear.samples[2:]) == 0
    cheap = Loop(MeasureWithinBudget(0.1, costs(0.01)), noise=100.0, batch_sizes=(8, 16)).train()
    plan = MeasureWithinBudget(0.1, costs(0.01), floor=1)
    assert cheap.samples[1] == WANTED
    assert sum(cheap.samples) * 0.01 <= plan.budget * 0.01 * sum(EXAMPLES / size for size in cheap.sizes)


def test_while_batches_are_small_four_steps_a_period_come_whatever_the_budget_and_no_more() -> None:
    loop = Loop(MeasureWithinBudget(0.02, costs(0.01))).train()
    assert loop.sizes[2:] == [8] * (EPOCHS - 2)
    assert loop.samples == [1, WANTED] + [FOLLOWED] * (EPOCHS - 2)


def test_a_clock_does_not_decide_which_steps_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    for seconds in (1e-6, 10.0):
        loop = Loop(MeasureWithinBudget(0.02))
        timed = lambda self, measuring, seconds=seconds: (0.01, seconds)  # noqa: E731
        monkeypatch.setattr("autobatch.control.measuring._timing.EpochTimer.seconds", timed)
        loop.train()
        steps.append((loop.samples[:2], loop.sizes))
    assert steps[0] == steps[1]
    assert steps[0][0] == [2, WANTED]


class Summed(nn.Module):
    """A line by way of a function that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.centres = nn.Parameter(torch.rand(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, self.centres).sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore")
def test_of_steps_that_take_a_backward_pass_for_each_sample_fewer_are_asked_for() -> None:
    loop = Loop(MeasureAtInterval(50), Summed())
    loop.epoch()
    state = json.loads(json.dumps(loop.controller.state_dict()))
    loop.epoch()
    assert loop.samples == [1, BY_SAMPLE]
    resumed = Loop(MeasureAtInterval(50), Summed())
    resumed.controller.load_state_dict(state)
    resumed._before = resumed.controller.samples
    resumed.epoch()
    assert resumed.samples == [BY_SAMPLE]


def test_of_a_recurrent_layer_as_many_are_asked_for_as_of_others() -> None:
    class Recurrent(Summed):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x[:, None])[0].sum((1, 2))[:, None]

    loop = Loop(MeasureAtInterval(50), Recurrent())
    loop.epoch()
    loop.epoch()
    assert loop.samples == [1, WANTED]


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_it_goes_on_in_the_middle_of_an_asked_period(cut: int) -> None:
    whole = Loop(MeasureAtInterval(50)).train()
    begun = Loop(MeasureAtInterval(50))
    begun.epoch()
    begun.epoch(stop_after=cut)
    resumed = Loop(MeasureAtInterval(50))
    for part in ("model", "optimizer"):
        getattr(resumed, part).load_state_dict(getattr(begun, part).state_dict())
    resumed.controller.load_state_dict(json.loads(json.dumps(begun.controller.state_dict())))
    resumed.train()
    assert resumed.sizes == whole.sizes[1:]
    assert torch.equal(resumed.model.weight, whole.model.weight)
    ended = [(one.controller.c_bar, one.controller.l_cum) for one in (resumed, whole)]
    assert ended[0] == ended[1]
    assert resumed.controller.samples == whole.controller.samples


def test_a_loop_that_is_only_advised_is_not_slowed_down_for_it() -> None:
    loop = Loop(MeasureAtInterval(50), advise=32)
    for _ in range(4):
        for indices in torch.randperm(EXAMPLES).split(32):
            with loop.controller.step() as step:
                step.backward((loop.model(loop.x[indices]) - loop.y[indices]).square().mean())
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        loop.controller.end_epoch(val_loss=1.0)
    assert loop.controller.samples == 4
