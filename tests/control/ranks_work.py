"""What the processes of tests/control/test_ranks.py do: each body is called on every rank of a group."""

import datetime
import json
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import (
    AutoBatchController,
    BatchPlan,
    LearningRateRule,
    MeasureAtInterval,
    Measuring,
    NeverMeasure,
    Processes,
    Rates,
)
from autobatch.control._ranks import Ranks
from autobatch.control.run import load_epochs, load_summary
from autobatch.policies import Decision, Observation
from autobatch.policies._parameters import Stateless

SIZE = 85  # leaves a ragged last batch at every size
TIMEOUT = datetime.timedelta(seconds=20)
Group = Any
Body = Callable[[Group, Group], None]
_LADDER = (8, 16, 32)


class Scripted(Stateless):
    """Follows a list of batch sizes; may only be asked on the rank that decides."""

    needs_library = False

    def __init__(self, *sizes: int, leads: bool = True, lr: float | None = 0.1) -> None:
        self.sizes, self.leads, self.lr = sizes, leads, lr
        self.seen: list[Observation] = []

    def reset(self, task: object, library: object) -> None:
        pass

    def decide(self, observation: Observation) -> Decision:
        assert self.leads, "a rank that does not decide was asked"
        self.seen.append(observation)
        size = self.sizes[min(observation.epoch, len(self.sizes) - 1)]
        return Decision(size, self.lr, reason="as written")


class Returning(Scripted):
    """Has training go back after the third epoch to the weights after the first."""

    best_period: int | None = None
    back_to: int | None = None
    gone = False

    def decide(self, observation: Observation) -> Decision:
        self.best_period = 1 if observation.epoch else None
        self.back_to = 1 if observation.epoch == 3 and not self.gone else None
        return super().decide(observation)

    def gone_back(self) -> None:
        self.gone = True


class Net(nn.Module):
    """A small net whose forward pass may be made to fail."""

    def __init__(self, *, norm: bool = False, unused: bool = False) -> None:
        super().__init__()
        middle = [nn.BatchNorm1d(7), nn.Dropout(0.2)] if norm else []
        self.layers = nn.Sequential(nn.Linear(5, 7), *middle, nn.Tanh(), nn.Linear(7, 3))
        self.unused = nn.Linear(2, 2) if unused else None
        self.fault: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(self.layers(x))


@dataclass
class Setting:
    """How a training goes; what a test does not say is plain."""

    sizes: Sequence[int] = (16, 32, 8)
    epochs: int = 2
    plan: BatchPlan = field(default_factory=BatchPlan)
    measure: str = "global"
    measured: bool = False
    sketched: bool = False
    momentum: float = 0.0
    weight_decay: float = 0.0
    scheduled: bool = False
    clip: float | None = None
    summed: bool = False
    norm: bool = False
    unused: bool = False
    ahead: int | None = None
    workers: int = 0
    decide_every: float | None = None
    lr: float | None = 0.1
    ddp: dict[str, Any] = field(default_factory=dict)
    controller: dict[str, Any] = field(default_factory=dict)
    policy: type[Scripted] = Scripted


class Run:
    """One training on the ranks of a group, or on one of them alone where the group has one rank."""

    def __init__(self, group: Group, setting: Setting, wrap: Callable[[nn.Module], nn.Module] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SIZE, 5, generator=generator, dtype=torch.float64)
        self.y = torch.randint(3, (SIZE,), generator=generator)
        torch.manual_seed(1)
        self.net = Net(norm=setting.norm, unused=setting.unused).double()
        self.group, self.setting = group, setting
        if wrap is not None:
            self.model = wrap(self.net)
        elif group.size() > 1:
            self.model = DistributedDataParallel(self.net, process_group=group, **setting.ddp)
        else:
            self.model = self.net
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=setting.momentum, weight_decay=setting.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, 0.7) if setting.scheduled else None
        self.policy = setting.policy(*setting.sizes, leads=group.rank() == 0, lr=setting.lr)
        self.controller = AutoBatchController(
            self.model,
            self.optimizer,
            policy=self.policy,
            **{
                "dataset_size": SIZE,
                "epochs": setting.epochs,
                "batch_sizes": _LADDER,
                "plan": replace(setting.plan, decide_every=setting.decide_every),
                "processes": Processes(group, setting.measure),
                "measuring": Measuring(
                    MeasureAtInterval(1) if setting.measured else NeverMeasure(),
                    loss_reduction="sum" if setting.summed else "mean",
                    measure="sketched" if setting.sketched else "exact",
                    sketch_rows=128,
                ),
                **setting.controller,
            },
        )
        self.indices: list[list[int]] = []
        self.gradients: list[list[Tensor]] = []
        self.parts: list[int] = []
        self.before_step: Callable[[int], None] = lambda step: None

    def loader(self) -> Iterable[Any]:
        if self.setting.workers:
            data = TensorDataset(self.x, self.y, torch.arange(SIZE))
            return DataLoader(data, batch_sampler=self.controller.batch_sampler, num_workers=self.setting.workers)
        batches = (
            self.controller.batches()
            if self.setting.ahead is None
            else fetched_ahead(self.controller.batch_sampler, self.setting.ahead)
        )
        return ((self.x[i], self.y[i], torch.as_tensor(i)) for i in batches)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x), y, reduction="sum" if self.setting.summed else "mean")

    def train(self, epochs: int | None = None, stop_after: int = 10**9) -> "Run":
        """Train so many epochs, or all; or so many steps, the epoch left open."""
        for _ in range(epochs if epochs is not None else self.setting.epochs - self.controller.epoch):
            part = 0
            for x, y, indices in self.loader():
                self.indices.append(indices.tolist())
                if part == 0:
                    self.before_step(self.controller.steps)
                if self.setting.plan.splits:
                    for own_x, own_y in self.controller.micro_batches((x, y)):
                        with self.controller.step() as step:
                            self.parts.append(len(own_x))
                            step.backward(self.loss(own_x, own_y))
                else:
                    with self.controller.step() as step:
                        step.backward(self.loss(x, y))
                part = (part + 1) % self.setting.plan.accumulation
                if part == 0:
                    self.update()
                    if self.controller.steps == stop_after:
                        return self
            rank = self.group.rank()
            self.controller.end_epoch(val_loss=1.0 + rank, val_error=0.25 + rank, train_loss=3.0 + rank)
        return self

    def update(self) -> None:
        if self.setting.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.setting.clip)
        self.gradients.append([whole(p.grad).clone() for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()

    @property
    def weights(self) -> Tensor:
        return torch.cat([whole(p.detach()).flatten() for p in self.model.parameters()])

    @property
    def position(self) -> Tensor:
        return torch.tensor([self.controller.c_bar, self.controller.l_cum])


def fetched_ahead(sampler: Iterable[list[int]], count: int) -> Iterator[list[int]]:
    """Hand out batches as a loader with workers does, which asks for so many before they are needed."""
    batches, waiting = iter(sampler), deque[list[int]]()
    while True:
        waiting += islice(batches, count + 1 - len(waiting))
        if not waiting:
            return
        yield waiting.popleft()


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, group: Group) -> list[Any]:
    values = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values


def assert_close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    difference = float((a - b).abs().max() / b.abs().max())
    assert difference < tolerance, difference


def assert_same_training(one: Run, other: Run, tolerance: float = 1e-12) -> None:
    assert len(one.gradients) == len(other.gradients) > 0
    for step, (mine, theirs) in enumerate(zip(one.gradients, other.gradients, strict=True)):
        assert len(mine) == len(theirs), step
        for a, b in zip(mine, theirs, strict=True):
            assert_close(a, b, tolerance)
    assert_close(one.weights, other.weights, 1e-10)


def assert_same_on_all(value: Any, group: Group) -> None:
    values = gathered(value, group)
    assert all(repr(other) == repr(values[0]) for other in values), values


def same_state(run: Run) -> str:
    """Return what must be the same on all ranks of a run's state."""
    state = run.controller.state_dict()
    return json.dumps({key: value for key, value in state.items() if key not in {"policy", "seconds"}})


# -- data and decisions ------------------------------------------------------------------------------------------------


def covers(group: Group, solo: Group, *, setting: Setting, other: Setting | None = None) -> None:
    """Each epoch's examples come once, on one rank, in batches whose sizes change."""
    run = Run(group, other if other is not None and group.rank() == 1 else setting)
    accumulation, epochs = setting.plan.accumulation, []
    steps: list[list[int]] = []
    for _ in range(setting.epochs):
        done = len(run.indices)
        run.train(1)
        own = run.indices[done:]
        everyone = gathered(own, group)
        assert len({len(batches) for batches in everyone}) == 1
        epochs.append(sorted(i for batches in everyone for batch in batches for i in batch))
        batches = [[i for rank in everyone for i in rank[number]] for number in range(len(own))]
        steps += [[*chain(*batches[n : n + accumulation])] for n in range(0, len(batches), accumulation)]
    assert all(epoch == list(range(SIZE)) for epoch in epochs)
    assert len(set(map(len, steps))) >= 3
    assert len(steps) == run.controller.steps
    assert_same_on_all(run.controller.decision, group)
    assert_same_on_all(same_state(run), group)
    if other is None and setting.ahead is None:
        single = Run(solo, replace(setting, plan=BatchPlan())).train()
        assert [sorted(step) for step in single.indices] == [sorted(step) for step in steps]


def streams(group: Group, solo: Group) -> None:
    """Each rank's stream gives its examples once an epoch, also where an epoch is gone on with."""
    own = [*range(SIZE // 2)] if group.rank() == 0 else [*range(SIZE // 2, SIZE)]
    run = Run(group, Setting(decide_every=0.2))
    source = [torch.tensor(own[start : start + 9]) for start in range(0, len(own), 9)]
    for epoch in range(2):
        seen: list[int] = []
        for most in (4, 10**9):  # left once in mid-epoch
            for number, indices in enumerate(run.controller.rebatch(source)):
                if number == most:
                    break
                seen += indices.tolist()
                with run.controller.step() as step:
                    step.backward(run.loss(run.x[indices], run.y[indices]))
        assert seen == own, epoch
        run.controller.end_epoch()
    shares = [Ranks(group).share(start, start + size) for start in range(7) for size in range(2, 9)]
    assert {stop - start - size // 2 for (start, stop), size in zip(shares, [*range(2, 9)] * 7, strict=True)} <= {0, 1}


def first_decides(group: Group, solo: Group) -> None:
    """Only the first rank's policy is asked, with its figures; its decisions hold everywhere."""
    run = Run(group, Setting(epochs=3, decide_every=0.5)).train()
    if group.rank() == 0:
        assert len(run.policy.seen) == 6
        assert [o.validation_loss for o in run.policy.seen if o.epoch >= 2] == [1.0] * 4
        assert run.policy.seen[-1].train_loss == 3.0
    else:
        assert not run.policy.seen
    record = run.controller.decision
    assert (record.validation_loss, record.validation_error, record.ranks) == (1.0, 0.25, group.size())
    assert_same_on_all(record, group)
    stopped = Run(group, Setting())
    for indices in stopped.controller.batches():
        with stopped.controller.step() as step:
            step.backward(stopped.loss(stopped.x[indices], stopped.y[indices]))
    stopped.controller.end_epoch(stop=group.rank() == 0)
    assert stopped.controller.finished


def failing_policy(group: Group, solo: Group) -> None:
    """What the first rank's policy raises is an error on all of them."""
    with pytest.raises(
        ConfigError if group.rank() == 0 else AutoBatchError,
        match="asked for" if group.rank() == 0 else "rank 0, which decides, has failed: ConfigError: .*asked for",
    ):
        Run(group, Setting(lr=-1.0))


def other_arguments(group: Group, solo: Group) -> None:
    """Ranks that are told different things hear of it."""
    with pytest.raises(ConfigError, match="'?seed'?: 1 here, 0 on the first" if group.rank() else "differ; give all"):
        Run(group, Setting(controller={"seed": group.rank()}))
    for differing in ({"measure": ("global", "local")[group.rank()]}, {"sketched": bool(group.rank())}):
        with pytest.raises(ConfigError, match="measure" if group.rank() else "differ"):
            Run(group, Setting(**differing))
    run = Run(group, Setting())
    if group.rank() == 0:
        state = run.controller.state_dict()  # on one rank alone: no collective
        state["course"].update(running=True, trained=16, waiting=[])
        run.controller.load_state_dict(state)
    with pytest.raises(AutoBatchError, match="different places"):
        run.controller._training.periods.first_free()


def run_directory(group: Group, solo: Group) -> None:
    """The first rank alone writes it; a run that is there is refused on all of them."""
    made = tempfile.mkdtemp() if group.rank() == 0 else ""
    out = Path(gathered(made, group)[0]) / "run"
    run = Run(group, Setting(controller={"out": out})).train()
    run.controller.close()
    dist.barrier(group)
    assert load_summary(out).optimizer_steps == run.controller.steps
    assert [row.batch_size for row in load_epochs(out)] == [16, 32]
    with pytest.raises(AutoBatchError, match="holds a run already"):
        Run(group, Setting(controller={"out": out})).train()
    dist.barrier(group)
    if group.rank() == 0:
        shutil.rmtree(made)


def sizes_that_do_not_divide(group: Group, solo: Group) -> None:
    with pytest.raises(ConfigError, match=r"2 ranks x 1 accumulated parts need multiples of 2, from 4 on .*got \[3\]"):
        Run(group, Setting(controller={"batch_sizes": (3, 8)}))
    with pytest.raises(ConfigError, match="1 processes, the controller with 2: give both the same group"):
        Run(group, Setting(), wrap=lambda net: DistributedDataParallel(net, process_group=solo))


# -- gradients ---------------------------------------------------------------------------------------------------------


def same_gradients(group: Group, solo: Group, *, setting: Setting) -> None:
    """Every step's gradients, and the weights in the end, are those of one process with the whole batches."""
    run = Run(group, setting).train()
    assert_same_on_all(run.weights.tolist(), group)
    single = Run(solo, replace(setting, plan=BatchPlan())).train()
    assert_same_training(run, single)
    assert_same_on_all(same_state(run), group)
    if isinstance(setting.plan.micro_batch, int):
        assert max(run.parts) <= setting.plan.micro_batch
    if setting.plan.bn_batch:
        assert max(run.parts) <= 2
        assert_same_on_all(len(run.parts), group)


def no_parameter_is_touched_without_a_gradient(group: Group, solo: Group) -> None:
    """With weight decay, a gradient of zeros would change what no rank uses."""
    options = {"find_unused_parameters": True}
    setting = Setting(unused=True, weight_decay=0.1, momentum=0.9, plan=BatchPlan(micro_batch=3), ddp=options)
    run, single = Run(group, setting).train(), Run(solo, replace(setting, plan=BatchPlan())).train()
    assert_same_training(run, single)
    assert torch.equal(run.net.unused.weight, Run(solo, setting).net.unused.weight)


def batch_norm(group: Group, solo: Group) -> None:
    """DistributedDataParallel spreads the first rank's statistics; put off, that comes out the same."""
    setting = Setting(norm=True)
    plain, guarded = (Run(group, replace(setting, plan=plan)).train() for plan in (BatchPlan(), BatchPlan("auto")))
    assert_close(guarded.weights, plain.weights, 1e-12)
    assert_same_on_all([buffer.tolist() for buffer in guarded.net.buffers()], group)
    if group.rank() == 0:
        for mine, theirs in zip(guarded.net.buffers(), plain.net.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)


# -- measuring ---------------------------------------------------------------------------------------------------------


def measures(group: Group, solo: Group, *, setting: Setting) -> None:
    """C̄ and L of the whole batch are those of one process."""
    run = Run(group, replace(setting, measured=True)).train()
    single = Run(solo, replace(setting, measured=True, plan=BatchPlan(), controller={**setting.controller})).train()
    assert run.controller.samples == single.controller.samples >= 4
    assert_close(run.position, single.position, 1e-9)
    assert_same_training(run, single)
    assert [m.batch_size for m in run.controller.measurements] == [m.batch_size for m in single.controller.measurements]
    assert_same_on_all(same_state(run), group)


def measures_share(group: Group, solo: Group, *, plan: BatchPlan) -> None:
    """With measure='local' the first rank's share is measured, and all know of it."""
    setting = Setting(measured=True, measure="local", plan=plan)
    run = Run(group, setting).train()
    assert run.controller.samples >= 4
    assert {m.batch_size for m in run.controller.measurements} == {run.controller.batch_size // 2}
    assert torch.isfinite(run.position).all()
    assert_same_on_all(same_state(run), group)
    unmeasured = Run(group, replace(setting, measured=False)).train()
    assert_close(run.weights, unmeasured.weights, 1e-12)
    # The first measured batch's share alone, on one process.
    first = next(Run(solo, setting).controller.batches())[: setting.sizes[0] // 2]
    again = Run(solo, replace(setting, measured=True, epochs=1, plan=BatchPlan()))
    fresh = Run(group, replace(setting, epochs=1))
    fresh.train()
    if group.rank() == 0:
        from autobatch.fisher import FisherProbe

        with FisherProbe(again.net) as probe:
            F.cross_entropy(again.net(again.x[first]), again.y[first]).backward()
        assert fresh.controller.measurements[0].trace == pytest.approx(probe.spectrum().trace, rel=1e-9)


def timed(group: Group, solo: Group) -> None:
    """Without a plan for measuring the loop is timed; the first rank's clock counts."""
    run = Run(
        group, Setting(controller={"measuring": None, "rates": Rates(rule=LearningRateRule("adascale"))}, lr=None)
    )
    run.train()
    assert run.controller.samples >= 2
    assert_same_on_all(same_state(run), group)


# -- out of memory -----------------------------------------------------------------------------------------------------


class Faults:
    """Runs out of memory on one rank at chosen steps, once each."""

    def __init__(self, run: Run, chosen: dict[int, tuple[str, int]], most: int = 10**9) -> None:
        self.run, self.chosen, self.most = run, chosen, most
        self.step, self.fired = -1, 0
        run.net.fault = self.fault
        run.before_step = self.begin

    def begin(self, step: int) -> None:
        self.step = step
        self.kind, self.left = self.chosen.get(step, ("", -1))

    def fault(self, out: Tensor) -> Tensor:
        if self.run.group.rank() != 1:
            return out
        if len(out) > self.most:
            self.fired += 1
            raise torch.OutOfMemoryError("simulated: too large")
        self.left -= 1
        if self.left == -1 and self.kind == "forward":
            self.fired += 1
            raise torch.OutOfMemoryError("simulated in the forward pass")
        if self.left == -1 and self.kind == "backward":
            self.fired += 1
            out.register_hook(self.fail)
        return out

    @staticmethod
    def fail(gradient: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: simulated in the backward pass")


def replays(group: Group, solo: Group, *, plan: BatchPlan, measured: bool, measure: str = "global") -> None:
    """Memory that runs out on one rank costs a repetition on all, and changes nothing else."""
    setting = Setting(epochs=3, sizes=(32, 16, 32), plan=plan, momentum=0.9, measured=measured, measure=measure)
    chance = random.Random(5)
    steps = chance.sample(range(11), 3)
    chosen = {
        step: (kind, chance.randrange(2)) for step, kind in zip(steps, ("backward", "forward", "backward"), strict=True)
    }
    run = Run(group, setting)
    faults = Faults(run, chosen, most=9)
    run.train()
    assert gathered(faults.fired, group)[1] >= 3
    assert_same_on_all(run.weights.tolist(), group)
    assert_same_on_all([json.loads(same_state(run))["micro_batches"], run.controller.decision], group)
    assert_same_training(run, Run(solo, replace(setting, plan=BatchPlan(), measured=False)).train())
    assert run.controller.samples >= 3 * measured


def replays_at_the_same_size(group: Group, solo: Group) -> None:
    """A measured batch is repeated unmeasured, with the same random numbers and BatchNorm's statistics."""
    runs = []
    for faulty in (False, True):
        run = Run(group, Setting(norm=True, measured=True, plan=BatchPlan("auto")))
        faults = Faults(run, {0: ("backward", 0), 3: ("forward", 0)} if faulty else {})
        torch.manual_seed(2)
        run.train()
        runs.append(run)
    assert gathered(faults.fired, group) == [0, 2]
    assert torch.equal(runs[0].weights, runs[1].weights)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].net.buffers(), runs[1].net.buffers(), strict=True))
    assert runs[0].controller.samples > runs[1].controller.samples


def nothing_fits(group: Group, solo: Group) -> None:
    run = Run(group, Setting(plan=BatchPlan("auto")))
    Faults(run, {}, most=0)
    with pytest.raises(AutoBatchError, match="a single example"):
        run.train()


def fails_in_measuring(group: Group, solo: Group, *, plan: BatchPlan) -> None:
    """Memory that runs out on one rank while it measures leaves the step unmeasured on all."""
    setting = Setting(measured=True, plan=plan)
    run = Run(group, setting)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("simulated in measuring")

    if group.rank() == 1:
        with mock.patch("autobatch.fisher.gram._spill.SpilledGram.add", fail):
            run.train(1)
    else:
        run.train(1)
    assert run.controller.samples == 0
    run.train()
    assert run.controller.samples > 0
    assert_same_training(run, Run(solo, replace(setting, measured=False, plan=BatchPlan())).train())


# -- resume ------------------------------------------------------------------------------------------------------------


def resumes(group: Group, solo: Group, *, first: int, ahead: int | None) -> None:
    """A state of so many ranks goes on in the middle of an epoch with another number of them."""
    setting = Setting(epochs=3, ahead=ahead, momentum=0.9, measured=True, decide_every=0.4)
    groups = {1: solo, 2: group}
    whole_run = Run(solo, replace(setting, ahead=None)).train()
    before = Run(groups[first], setting).train(stop_after=7)
    assert before.controller.examples % SIZE > 0
    told: list[Any] = [
        json.dumps(before.controller.state_dict()) if group.rank() == 0 else None,  # one rank alone
    ]
    dist.broadcast_object_list(told, 0, group=group)
    after = Run(groups[3 - first], setting)
    after.net.load_state_dict(before.net.state_dict())
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.controller.load_state_dict(json.loads(told[0]))
    assert repr(after.controller.decision) == repr(before.controller.decision)
    after.train()
    everyone: list[int] = []
    for run, ranks in ((before, first), (after, 3 - first)):
        for indices in gathered(run.indices, group) if ranks == 2 else [run.indices]:
            everyone += chain(*indices)
    assert sorted(everyone) == sorted([*range(SIZE)] * 3)
    assert after.controller.steps == before.controller.steps + len(after.gradients)
    if ahead is None:  # a decision waits for nothing that was fetched ahead
        assert_close(after.weights, whole_run.weights, 1e-10)
        assert_close(after.position, whole_run.position, 1e-9)
        assert after.controller.steps == whole_run.controller.steps
    assert after.controller.finished
    assert after.controller.examples == 3 * SIZE
    dist.barrier(group=group)


# -- FSDP2 -------------------------------------------------------------------------------------------------------------


def sharded(group: Group, net: nn.Module) -> nn.Module:
    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in net.layers:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def fully_sharded(group: Group, solo: Group, *, measure: str, plan: BatchPlan) -> None:
    setting = Setting(measured=True, measure=measure, momentum=0.9, plan=plan)
    run = Run(group, setting, wrap=partial(sharded, group)).train()
    parallel = Run(group, replace(setting, plan=BatchPlan())).train()
    assert_same_training(run, parallel)
    assert run.controller.samples == parallel.controller.samples > 0
    if not plan.splits:
        assert_close(run.position, parallel.position, 1e-9)
    assert_same_on_all(same_state(run), group)


def goes_back(group: Group, solo: Group, *, wrap: Any = None) -> None:
    """All ranks stand where they stood, each with what it holds, and go on together."""
    setting = Setting(policy=Returning, epochs=4, momentum=0.9)
    run = Run(group, setting, wrap=partial(wrap, group) if wrap is not None else None)

    def held() -> Tensor:
        momenta = [whole(own["momentum_buffer"]).flatten() for own in run.optimizer.state.values()]
        return torch.cat([run.weights, *momenta]).clone()

    first = run.train(1) and held()
    run.train(1)
    second = held()
    with torch.no_grad():  # a validation, after which FSDP2 holds gathered parameters
        run.model(run.x)
    run.train(1)
    assert torch.equal(held(), first)
    assert not torch.equal(second, first)
    run.train()
    assert not torch.equal(held(), first)
    assert_same_on_all(held().tolist(), group)
    again = Run(group, setting, wrap=partial(wrap, group) if wrap is not None else None)
    assert_same_training(run, again.train())


def fully_sharded_is_not_guarded(group: Group, solo: Group) -> None:
    with pytest.raises(ConfigError, match=r"micro_batch does not go with FSDP: .*bn_batch or accumulation"):
        Run(group, Setting(plan=BatchPlan("auto")), wrap=partial(sharded, group))


# -- other groups ------------------------------------------------------------------------------------------------------


def unsuitable_wrappers(group: Group, solo: Group) -> None:
    guarded = Setting(plan=BatchPlan("auto"))
    with pytest.raises(ConfigError, match="static_graph"):
        Run(group, replace(guarded, ddp={"static_graph": True}))
    with pytest.raises(ConfigError, match="SyncBatchNorm"):
        Run(group, replace(guarded, norm=True), wrap=nn.SyncBatchNorm.convert_sync_batchnorm)
    run = Run(group, guarded)
    next(run.controller.batches())
    with pytest.raises(AutoBatchError, match=r"for part in controller.micro_batches\(batch\)"):
        run.controller.step()


def compiled(group: Group, solo: Group) -> None:
    """A wrapper inside of a compiled model is found."""
    setting = Setting(plan=BatchPlan(micro_batch=3))
    run = Run(
        group,
        setting,
        wrap=lambda net: torch.compile(DistributedDataParallel(net, process_group=group), backend="eager"),
    ).train()
    assert_same_training(run, Run(solo, replace(setting, plan=BatchPlan())).train())


def side_groups(group: Group, solo: Group) -> None:
    """The group that measuring uses has the timeout of the one it was given."""
    ranks = Ranks(group)
    assert ranks.side_group is ranks.side_group
    assert ranks.side_group is not group
    assert ranks.side_group._get_backend(torch.device("cpu")).options._timeout == TIMEOUT


OFTEN = 0.3
BODIES: dict[str, Body] = {
    "covers": partial(covers, setting=Setting(epochs=3)),
    "covers-decides-often": partial(covers, setting=Setting(epochs=2, decide_every=OFTEN)),
    "covers-ahead": partial(covers, setting=Setting(ahead=3, decide_every=OFTEN)),
    "covers-far-ahead": partial(covers, setting=Setting(ahead=30, decide_every=OFTEN)),
    "covers-otherwise-ahead": partial(
        covers,
        setting=Setting(ahead=0, decide_every=OFTEN),
        other=Setting(ahead=4, decide_every=OFTEN),
    ),
    "covers-otherwise-ahead-first": partial(
        covers,
        setting=Setting(ahead=5, decide_every=0.2),
        other=Setting(ahead=1, decide_every=0.2),
    ),
    "covers-workers": partial(
        covers,
        setting=Setting(epochs=1, workers=1, decide_every=OFTEN),
        other=Setting(epochs=1, decide_every=OFTEN),
    ),
    "covers-accumulation": partial(
        covers, setting=Setting(epochs=2, plan=BatchPlan(accumulation=2), decide_every=OFTEN)
    ),
    "streams": streams,
    "first-decides": first_decides,
    "failing-policy": failing_policy,
    "other-arguments": other_arguments,
    "sizes-that-do-not-divide": sizes_that_do_not_divide,
    "gradients": partial(same_gradients, setting=Setting()),
    "gradients-momentum": partial(same_gradients, setting=Setting(momentum=0.9, weight_decay=0.01)),
    "gradients-scheduled": partial(same_gradients, setting=Setting(momentum=0.9, scheduled=True)),
    "gradients-summed": partial(same_gradients, setting=Setting(summed=True)),
    "gradients-static-graph": partial(same_gradients, setting=Setting(ddp={"static_graph": True})),
    "gradients-guarded": partial(same_gradients, setting=Setting(plan=BatchPlan(micro_batch=3), momentum=0.9)),
    "gradients-guarded-ragged": partial(
        same_gradients,
        setting=Setting(plan=BatchPlan("auto"), sizes=(16,)),
    ),
    "gradients-guarded-clipped": partial(same_gradients, setting=Setting(plan=BatchPlan(micro_batch=3), clip=0.05)),
    "gradients-guarded-summed": partial(same_gradients, setting=Setting(plan=BatchPlan(micro_batch=3), summed=True)),
    "gradients-guarded-bucket-view": partial(
        same_gradients,
        setting=Setting(plan=BatchPlan(micro_batch=3), momentum=0.9, ddp={"gradient_as_bucket_view": True}),
    ),
    "gradients-bn-batch": partial(same_gradients, setting=Setting(plan=BatchPlan(bn_batch=2), momentum=0.9)),
    "gradients-accumulation": partial(same_gradients, setting=Setting(plan=BatchPlan(accumulation=2), momentum=0.9)),
    "gradients-accumulation-static-graph": partial(
        same_gradients, setting=Setting(plan=BatchPlan(accumulation=2), ddp={"static_graph": True})
    ),
    "unused": no_parameter_is_touched_without_a_gradient,
    "batch-norm": batch_norm,
    "measures": partial(measures, setting=Setting()),
    "measures-often": partial(measures, setting=Setting(decide_every=0.5, controller={"rates": "adascale"}, lr=None)),
    "measures-summed": partial(measures, setting=Setting(summed=True)),
    "measures-accumulation": partial(measures, setting=Setting(plan=BatchPlan(accumulation=2))),
    "measures-guarded": partial(measures, setting=Setting(plan=BatchPlan(micro_batch=3))),
    "measures-guarded-whole": partial(measures, setting=Setting(plan=BatchPlan("auto"), summed=True)),
    "measures-bn-batch": partial(measures, setting=Setting(plan=BatchPlan(bn_batch=2))),
    "measures-sketched": partial(measures, setting=Setting(sketched=True)),
    "measures-sketched-guarded": partial(measures, setting=Setting(sketched=True, plan=BatchPlan(micro_batch=3))),
    "measures-share": partial(measures_share, plan=BatchPlan()),
    "measures-share-guarded": partial(measures_share, plan=BatchPlan(micro_batch=3)),
    "timed": timed,
    "replays-auto": partial(replays, plan=BatchPlan("auto"), measured=False),
    "replays-number": partial(replays, plan=BatchPlan(micro_batch=6), measured=False),
    "replays-measured": partial(replays, plan=BatchPlan("auto"), measured=True),
    "replays-measured-share": partial(replays, plan=BatchPlan("auto"), measured=True, measure="local"),
    "replays-at-the-same-size": replays_at_the_same_size,
    "nothing-fits": nothing_fits,
    "fails-in-measuring-guarded": partial(fails_in_measuring, plan=BatchPlan("auto")),
    "fails-in-measuring-accumulation": partial(fails_in_measuring, plan=BatchPlan(accumulation=2)),
    "resumes-2-to-1": partial(resumes, first=2, ahead=None),
    "resumes-1-to-2": partial(resumes, first=1, ahead=None),
    "resumes-2-to-1-ahead": partial(resumes, first=2, ahead=2),
    "resumes-1-to-2-ahead": partial(resumes, first=1, ahead=2),
    "fsdp": partial(fully_sharded, measure="global", plan=BatchPlan()),
    "fsdp-share": partial(fully_sharded, measure="local", plan=BatchPlan()),
    "fsdp-accumulation": partial(fully_sharded, measure="global", plan=BatchPlan(accumulation=2)),
    "fsdp-bn-batch": partial(fully_sharded, measure="global", plan=BatchPlan(bn_batch=3)),
    "goes-back": goes_back,
    "fsdp-goes-back": partial(goes_back, wrap=sharded),
    "fsdp-guarded": fully_sharded_is_not_guarded,
    "unsuitable-wrappers": unsuitable_wrappers,
    "compiled": compiled,
    "side-groups": side_groups,
    "run-directory": run_directory,
}
LONE = "a-rank-dies"
CODES = (3, 17)  # the one that is left, and the one that dies
OUTSIDE = "subgroup"


def process(rank: int, directory: str, only: Sequence[str] = ()) -> None:
    """Be one of two processes for all bodies, and then of three."""
    torch.set_num_threads(1)

    def begin(world: int) -> None:
        file = f"file://{directory}/init{world}"
        dist.init_process_group("gloo", file, rank=rank, world_size=world, timeout=TIMEOUT)

    def run(name: str, body: Body, group: Group, solo: Group) -> None:
        try:
            body(group, solo)
        except BaseException:
            Path(directory, f"{name}.{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")

    if rank < 2:
        begin(2)
        solos = [dist.new_group([own], timeout=TIMEOUT) for own in range(2)]
        for name, body in BODIES.items():
            if not only or name in only:
                run(name, body, dist.group.WORLD, solos[rank])
                dist.barrier()
        dist.destroy_process_group()
    # The third has waited for this.
    file = Path(directory, "begun")
    file.touch() if rank == 0 else None
    while not file.exists():
        time.sleep(0.1)
    begin(3)
    solos = [dist.new_group([own], timeout=TIMEOUT) for own in range(3)]
    members = [dist.new_group(ranks, timeout=TIMEOUT) for ranks in ([0, 1], [1, 2])]
    if rank:
        run(OUTSIDE, subgroup, members[1], solos[rank])
    Path(directory, f"passed.{rank}").touch()
    dist.barrier()
    if rank < 2:
        dies(members[0], directory)
    dist.destroy_process_group()


def subgroup(group: Group, solo: Group) -> None:
    """Ranks 1 and 2 train, rank 0 knows nothing of it."""
    setting = Setting(measured=True, plan=BatchPlan(accumulation=2))
    run = Run(group, setting).train()
    assert_same_on_all(same_state(run), group)
    assert_same_training(run, Run(solo, replace(setting, plan=BatchPlan())).train())


def dies(group: Group, directory: str) -> None:
    """Rank 1 is gone in the middle of a training: rank 0 ends with an error that names what happened."""
    run = Run(group, Setting(plan=BatchPlan("auto")))
    if group.rank() == 1:
        run.before_step = lambda step: os._exit(CODES[1]) if step == 4 else None
    try:
        run.train()
    except AutoBatchError as error:
        Path(directory, LONE).write_text(str(error))
        os._exit(CODES[0])
