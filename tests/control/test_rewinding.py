"""Going back in a loop of one's own: where only its own examples are learnt, it goes on from the weights it had."""

import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autobatch import CheckpointError, ConfigError
from autobatch.control import AutoBatchController, BatchPlan, NeverMeasure, Rates
from autobatch.policies import SteerParameters, SteerPolicy

EXAMPLES, EPOCHS = 24, 30
FALLS, RISES = (1.0, 0.8, 0.7, 0.6, 0.5, 0.51), (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
LOSSES = FALLS + RISES + RISES
BEST = 5
"""The middle one of the three epochs whose mean is the lowest: 0.6, 0.5, 0.51, from the fourth to the sixth."""


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.01)


class Loop:
    """A loop of a user's own, on noise, whose validation losses are told in advance."""

    def __init__(
        self, *, optimize: Any = adamw, losses: Sequence[float] = LOSSES, average: bool = False, **arguments: Any
    ) -> None:
        torch.manual_seed(0)
        self.x, self.y = torch.randn(EXAMPLES, 3), torch.randint(2, (EXAMPLES,))
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        self.optimizer: Optimizer = optimize(self.model)
        self.losses = losses
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if average else None
        settings = {"policy": "steer", "rates": "steered", "batch_sizes": (4, 8), "measuring": NeverMeasure()}
        self.controller = AutoBatchController(
            self.model, self.optimizer, dataset_size=EXAMPLES, epochs=EPOCHS, **settings | arguments
        )
        if self.average is not None:
            self.controller.keep_along(self.average)
        self.ends: dict[int, list[Tensor]] = {}
        """What there was after each epoch, before its end was told."""

    def everything(self) -> list[Tensor]:
        state = self.optimizer.state_dict()["state"]
        own = [*self.model.state_dict().values(), *(value for one in state.values() for value in one.values())]
        if self.average is not None:
            own += self.average.state_dict().values()
        return [value.clone() for value in own if isinstance(value, Tensor)]

    def step(self, indices: Tensor) -> None:
        with self.controller.step() as step:
            step.backward(F.cross_entropy(self.model(self.x[indices]), self.y[indices]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def train(self, epochs: int = EPOCHS) -> "Loop":
        for epoch in self.controller.each_epoch():
            for indices in self.controller.batches():
                self.step(indices)
            self.ends[epoch + 1] = self.everything()
            self.controller.end_epoch(val_loss=self.losses[epoch])
            if epoch + 1 == epochs:
                break
        return self

    def save(self) -> bytes:
        content = io.BytesIO()
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**parts, "controller": self.controller.state_dict(), "kept": self.controller.kept}, content)
        return content.getvalue()

    def load(self, content: bytes, *, kept: bool = True) -> "Loop":
        saved = torch.load(io.BytesIO(content), weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.controller.load_state_dict(saved["controller"])
        if kept:
            self.controller.kept = saved["kept"]
        return self


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def momentum(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def lbfgs(model: nn.Module) -> Optimizer:
    return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=1)


@pytest.mark.parametrize("optimize", [adamw, momentum])
def test_the_last_epoch_begins_with_the_best_weights(optimize: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loop = Loop(optimize=optimize)
    began: dict[int, list[Tensor]] = {}
    for epoch in loop.controller.each_epoch():
        began[epoch] = loop.everything()
        loop.train(epochs=epoch + 1)
    last = loop.controller.epoch - 1
    assert BEST + 4 <= last < 20  # it would end after 21
    assert same(began[last], loop.ends[BEST])
    assert not same(loop.ends[last], loop.ends[BEST])
    assert all(same(began[epoch], loop.ends[epoch]) for epoch in range(1, last))
    assert caplog.text.count(f"goes on from its weights after epoch {BEST}") == 1  # the decision is told once
    assert f"the last one from the weights after epoch {BEST}" in str(loop.controller.stopped_because)


def rising_late(end: int) -> list[float]:
    """Return losses that fall until six epochs before the end, and rise within their scatter from then on."""
    return [1.0 + 0.02 * abs(end - 6 - epoch) + 0.03 * (-1) ** epoch for epoch in range(1, EPOCHS + 1)]


@pytest.mark.parametrize(("length", "end"), [(0.7, 21), (1.0, 30)])
def test_the_planned_last_epoch_begins_with_better_weights(length: float, end: int) -> None:
    policy = SteerPolicy(SteerParameters(length=length))
    loop = Loop(policy=policy, losses=rising_late(end))
    for epoch in loop.controller.each_epoch():
        began = loop.everything()
        loop.train(epochs=epoch + 1)
    (back,) = [epoch for epoch in range(1, end) if same(began, loop.ends[epoch])]
    assert abs(back - (end - 6)) <= 1
    assert loop.controller.epoch == end
    told = loop.controller.stopped_because
    assert told is None if length == 1.0 else f"the last one from the weights after epoch {back}" in str(told)
    for cut in (end - 3, end - 2, end - 1):
        once = Loop(policy=SteerPolicy(policy.parameters), losses=rising_late(end)).train(epochs=cut)
        again = Loop(policy=SteerPolicy(policy.parameters), losses=rising_late(end)).load(once.save()).train()
        assert same(again.everything(), loop.everything())


@pytest.mark.parametrize("unknown", [range(0, EPOCHS, 2), [8], [7, 8]], ids=["every second", "one", "two"])
def test_where_not_every_epoch_is_validated_it_goes_back_as_well(
    unknown: Sequence[int], caplog: pytest.LogCaptureFixture
) -> None:
    """By hand: the mean of three is lowest as epoch 12 ends (every second) or 10, and a copy is an epoch old."""
    losses = [1.0 + 0.05 * abs(epoch - 9) + 0.001 * (-1) ** (epoch // 2) for epoch in range(1, EPOCHS + 1)]
    losses = [math.nan if epoch in unknown else loss for epoch, loss in enumerate(losses)]
    loop = Loop(losses=losses)
    with caplog.at_level(logging.INFO, "autobatch"):
        for epoch in loop.controller.each_epoch():
            began = loop.everything()
            loop.train(epochs=epoch + 1)
    (back,) = [epoch for epoch in range(1, loop.controller.epoch) if same(began, loop.ends[epoch])]
    assert 8 <= back <= 11
    assert f"the last one from the weights after epoch {back}" in str(loop.controller.stopped_because)
    assert "not at hand" not in caplog.text
    assert f"goes on from its weights after epoch {back}" in caplog.text


def test_going_back_is_told_where_nothing_else_changes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "autobatch"):
        Loop(losses=rising_late(21), batch_sizes=(4,)).train()
    told = "validation loss has got worse since epoch 14, and training goes on from its weights after epoch 14"
    assert told in caplog.text


def test_a_cut_at_any_epoch_changes_nothing() -> None:
    whole = Loop().train()
    for epoch in range(2, whole.controller.epoch):
        resumed = Loop().load(Loop().train(epochs=epoch).save()).train()
        assert same(resumed.everything(), whole.everything())
        assert resumed.controller.stopped_because == whole.controller.stopped_because


def test_a_cut_within_an_epoch_changes_nothing() -> None:
    whole = Loop().train()
    for epoch in (BEST - 1, BEST, BEST + 1, whole.controller.epoch - 2):
        cut = Loop().train(epochs=epoch)
        cut.step(next(cut.controller.batches()))
        resumed = Loop().load(cut.save()).train()
        assert same(resumed.everything(), whole.everything())


def test_weights_that_were_not_saved_are_not_gone_back_to(caplog: pytest.LogCaptureFixture) -> None:
    resumed = Loop().load(Loop().train(epochs=BEST + 2).save(), kept=False).train()
    assert caplog.text.count("controller.kept has to be given back") == 1
    assert "weights after epoch" not in str(resumed.controller.stopped_because)
    assert resumed.controller.epoch < 20


def test_an_average_goes_back_too() -> None:
    loop = Loop(average=True)
    seen = []
    for epoch in loop.controller.each_epoch():
        seen.append(loop.everything())
        loop.train(epochs=epoch + 1)
    assert same(seen[-1], loop.ends[BEST])
    with pytest.raises(ConfigError, match="state_dict and load_state_dict, got 3"):
        loop.controller.keep_along(3)  # type: ignore[arg-type]


def test_each_tensor_stays_the_object_that_it_is_and_rates_their_owners() -> None:
    loop = Loop(optimize=momentum)
    before = [id(parameter) for parameter in loop.model.parameters()]
    loop.train(epochs=BEST + 1)
    loop.optimizer.param_groups[0]["lr"] = 0.05  # somebody's scheduler
    loop.train()
    assert [id(parameter) for parameter in loop.model.parameters()] == before
    assert loop.optimizer.param_groups[0]["lr"] == 0.05


def test_lists_of_tensors_in_an_optimizer_go_back() -> None:
    def trained(epochs: int) -> Loop:
        loop = Loop(optimize=lbfgs)
        for epoch in loop.controller.each_epoch():
            if epoch == epochs:
                return loop
            for indices in loop.controller.batches():

                def closure(indices: Tensor = indices, loop: Loop = loop) -> Tensor:
                    loop.optimizer.zero_grad()
                    with loop.controller.step() as step:
                        loss = F.cross_entropy(loop.model(loop.x[indices]), loop.y[indices])
                        step.backward(loss)
                    return loss

                loop.optimizer.step(closure)
            loop.ends[epoch + 1] = loop.everything()
            loop.directions = [  # type: ignore[attr-defined]
                one.clone() for one in loop.optimizer.state[next(loop.model.parameters())]["old_dirs"]
            ]
            loop.controller.end_epoch(val_loss=loop.losses[epoch])
        return loop

    epochs = trained(EPOCHS).controller.epoch
    gone, best = trained(epochs - 1), trained(BEST)
    assert same(gone.everything(), best.everything())
    state = gone.optimizer.state[next(gone.model.parameters())]
    assert same(state["old_dirs"], best.directions)  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [{"rates": "sqrt"}, {"advise": 4}, {"policy": "s4-to-8"}])
def test_a_loop_that_keeps_its_say_keeps_nothing(arguments: dict[str, Any]) -> None:
    loop = Loop(**arguments)
    if "advise" in arguments:
        for epoch in range(EPOCHS):
            for indices in torch.arange(EXAMPLES).split(4):
                loop.step(indices)
            loop.ends[epoch + 1] = before = loop.everything()
            loop.controller.end_epoch(val_loss=loop.losses[epoch])
            assert same(loop.everything(), before)
    else:
        loop.train()
    assert loop.controller.epoch == EPOCHS
    assert loop.controller.kept == {"best": None, "last": None}


def test_nothing_is_kept_without_validation_or_patience() -> None:
    loop = Loop()
    for _ in range(6):
        for indices in loop.controller.batches():
            loop.step(indices)
        loop.controller.end_epoch()
    assert loop.controller.kept == {"best": None, "last": None}


def test_another_model_has_nothing_to_go_back_to() -> None:
    loop = Loop().train(epochs=BEST + 1)
    assert loop.controller.kept["best"] is not None
    loop.controller.replace(loop.model, momentum(loop.model))
    assert loop.controller.kept == {"best": None, "last": None}


def test_weights_of_fewer_parameters_are_not_gone_back_to(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop().train(epochs=BEST + 2)
    loop.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    loop.train()
    assert caplog.text.count("or of other parameters than those of now") == 1
    assert "weights after epoch" not in str(loop.controller.stopped_because)
    assert loop.controller.epoch < 20


@pytest.mark.parametrize("damaged", [{}, {"best": 3, "last": None}, {"best": None, "last": {"period": 1}}, None])
def test_other_things_than_weights_are_refused(damaged: Any) -> None:
    with pytest.raises(CheckpointError, match=r"expected what controller\.kept was"):
        Loop().controller.kept = damaged


def test_decisions_within_an_epoch_see_its_figures_once() -> None:
    falling = [1.0, 0.9, 0.8, 0.7, 0.75, *([0.7 - 0.01 * epoch for epoch in range(25)])]
    loop = Loop(losses=falling, plan=BatchPlan(decide_every=0.25), batch_sizes=(4,), rates=Rates(steered=True)).train()
    assert loop.controller.epoch == round(0.7 * EPOCHS)  # one epoch that was worse is no reason to end


def test_a_figure_that_is_never_a_number_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    Loop(losses=[math.nan] * EPOCHS).train()
    assert caplog.text.count("val_loss is nan; the training goes on") == 1
