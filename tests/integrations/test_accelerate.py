"""``AcceleratedController``: a loop with Accelerate, on one process and on two; the Trainer on two as well."""

import contextlib
import json
import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

accelerate = pytest.importorskip("accelerate")

from accelerate import Accelerator  # noqa: E402
from accelerate.utils import set_seed  # noqa: E402

from autobatch import AutoBatchController, AutoBatchError, ConfigError, integrations  # noqa: E402
from autobatch.control import BatchPlan, MeasureAtInterval, permutation  # noqa: E402
from autobatch.integrations import AcceleratedController, ScheduleByExamples  # noqa: E402
from autobatch.policies import Decision, Observation  # noqa: E402
from autobatch.policies._parameters import Stateless  # noqa: E402
from tests.control.loops import Returns  # noqa: E402
from tests.processes import FORKED  # noqa: E402

SIZE, EPOCHS, SIZES = 50, 3, (8, 24, 16)
RUNS = ("accelerate", "accelerate accumulated", "trainer", "trainer accumulated", "trainer split")


class Sizes(Stateless):
    """A policy that follows a list of batch sizes."""

    needs_library = False

    def reset(self, task: object, library: object) -> None:
        pass

    def decide(self, observation: Observation) -> Decision:
        return Decision(SIZES[min(observation.epoch, 2)], None, "as listed")


class Stopping(Sizes):
    """A policy that ends the training after two periods."""

    def decide(self, observation: Observation) -> Decision:
        return replace(super().decide(observation), stop=observation.epoch >= 2)


def settings(**more: Any) -> dict[str, Any]:
    return {"policy": Sizes(), "batch_sizes": (8, 16, 24), "measuring": MeasureAtInterval(2), "seed": 5, **more}


def parts(dropout: float = 0.0) -> tuple[TensorDataset, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    inputs = torch.randn(SIZE, 6)
    data = TensorDataset(torch.arange(SIZE), inputs, inputs[:, :3].argmax(1))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    return data, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Loop:
    """A training loop with Accelerate."""

    def __init__(self, *, accumulation: int = 1, dropout: float = 0.0, epochs: int = EPOCHS, **more: Any) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
        data, model, optimizer = parts(dropout)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 30)
        loader = DataLoader(data, batch_size=8, shuffle=True)
        self.model, self.optimizer, loader, schedule = self.accelerator.prepare(model, optimizer, loader, schedule)
        self.controller = AcceleratedController(
            self.accelerator, self.model, self.optimizer, loader, epochs=epochs, **settings(**more)
        )
        self.loader, self.schedule = self.controller.loader, self.controller.schedule(schedule, 30)
        self.seen: list[int] = []
        self.rates: list[float] = []

    def steps(self) -> Iterator[int]:
        while not self.controller.finished:
            for indices, x, y in self.loader:
                self.seen += indices.tolist()
                self.rates.append(self.optimizer.param_groups[0]["lr"])
                with self.accelerator.accumulate(self.model):
                    with self.controller.step() as step:
                        step.backward(F.cross_entropy(self.model(x), y))
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    yield self.controller.steps
            self.controller.end_epoch()

    def result(self) -> dict[str, Any]:
        for _ in self.steps():
            pass
        return {
            "weights": flat(self.model).tolist(),
            "seen": self.seen,
            "steps": self.controller.steps,
            "c_bar": self.controller.c_bar,
        }


def test_a_decision_that_stops_ends_the_loop() -> None:
    loop = Loop(policy=Stopping())
    epochs = []
    for epoch in loop.controller.each_epoch():
        epochs.append(epoch)
        for _, x, y in loop.loader:
            with loop.controller.step() as step:
                step.backward(F.cross_entropy(loop.model(x), y))
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        loop.controller.end_epoch()
    assert epochs == [0, 1]
    assert loop.controller.examples == 2 * SIZE
    assert loop.controller.stopped_because == "as listed"
    with pytest.raises(AutoBatchError, match=r"finished after 2 of 3 epochs \(as listed\)"):
        next(iter(loop.loader))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained_by_trainer(folder: str, accumulation: int, processes: int, plan: BatchPlan | None) -> dict[str, Any]:
    """With one or two labels an example, and a loss divided by all the labels of a batch."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from autobatch.integrations import AutoBatchTrainerCallback

    class Model(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, labels: Tensor, indices: Tensor, **items: Any) -> dict[str, Tensor]:
            seen.extend(indices.tolist())
            logits = self.inner(x)
            total = F.cross_entropy(logits.repeat_interleave(2, 0), labels.flatten(), reduction="sum")
            return {"loss": total / items["num_items_in_batch"], "logits": logits}

    seen: list[int] = []
    data, model, optimizer = parts()
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8 // processes // accumulation,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
        ddp_find_unused_parameters=False,
    )
    trainer: Any = Trainer(
        Model(model),
        arguments,
        train_dataset=[
            {"indices": index, "x": x, "labels": torch.stack([y, y if index % 3 else torch.tensor(-100)])}
            for index, x, y in data
        ],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 21)),
    )
    trainer.remove_callback(PrinterCallback)
    callback = AutoBatchTrainerCallback(trainer, **settings(plan=plan))
    trainer.add_callback(callback)
    trainer.train()
    controller: Any = callback.controller
    return {"weights": flat(model).tolist(), "seen": seen, "steps": controller.steps, "c_bar": controller.c_bar}


def run(name: str, folder: str) -> dict[str, Any]:
    accumulation = 2 if "accumulated" in name else 1
    if name.startswith("accelerate"):
        return Loop(accumulation=accumulation).result()
    plan = BatchPlan(micro_batch=3) if "split" in name else None
    return trained_by_trainer(folder, accumulation, int(os.environ.get("WORLD_SIZE", "1")), plan)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_as_a_plain_loop(accumulation: int) -> None:
    loop = Loop(accumulation=accumulation)
    found = loop.result()
    assert found["seen"] == [index for epoch in range(EPOCHS) for index in permutation(SIZE, 5, epoch).tolist()]
    assert found["steps"] == 6 + 2 + 3
    data, model, optimizer = parts()
    controller = AutoBatchController(model, optimizer, dataset_size=SIZE, epochs=EPOCHS, **settings())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1 - controller.progress)
    _, x, y = data.tensors
    while not controller.finished:
        for indices in controller.batches():
            with controller.step() as step:
                step.backward(F.cross_entropy(model(x[indices]), y[indices]))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        controller.end_epoch()
    torch.testing.assert_close(flat(loop.model), flat(model), rtol=1e-5, atol=1e-6)
    assert loop.controller.c_bar == pytest.approx(controller.c_bar, rel=1e-3)


@pytest.mark.parametrize("cut", [1, 6, 7, 10])
def test_resumed_from_the_accelerators_checkpoint_bit_for_bit(tmp_path: Path, cut: int) -> None:
    """The accelerator saves and loads the controller, the loader goes on by itself, and dropout is as it would be."""
    set_seed(3)
    whole = Loop(dropout=0.5)
    for _ in whole.steps():
        pass
    set_seed(3)
    first = Loop(dropout=0.5)
    first.accelerator.register_for_checkpointing(first.controller)
    for steps in first.steps():
        if steps == cut:
            first.accelerator.save_state(str(tmp_path))
            break
    second = Loop(dropout=0.5)
    second.accelerator.register_for_checkpointing(second.controller)
    second.accelerator.load_state(str(tmp_path))
    if second.controller.steps == 6:  # the first epoch's end is to come
        second.controller.end_epoch()
    for _ in second.steps():
        pass
    assert torch.equal(flat(second.model), flat(whole.model))
    assert first.seen + second.seen == whole.seen
    assert second.rates == whole.rates[-len(second.rates) :]
    assert (second.controller.c_bar, second.controller.l_cum) == (whole.controller.c_bar, whole.controller.l_cum)


@pytest.mark.parametrize("cut", [7, 10, 13])
def test_goes_back_to_its_best_weights_also_from_a_checkpoint(tmp_path: Path, cut: int) -> None:
    def loop() -> Loop:
        made = Loop(policy=Returns([8]), batch_sizes=(8,), epochs=5)
        made.accelerator.register_for_checkpointing(made.controller)
        return made

    whole = loop()
    for steps in whole.steps():
        if steps == cut:
            whole.accelerator.save_state(str(tmp_path))
    resumed = loop()
    resumed.accelerator.load_state(str(tmp_path))
    for _ in resumed.steps():
        pass
    assert isinstance(whole.controller._settings.policy, Returns)
    assert whole.controller._settings.policy.asked > 9  # it has gone back
    assert torch.equal(flat(resumed.model), flat(whole.model))


def test_schedules_of_any_kind() -> None:
    def rates(schedule: Any, places: list[float]) -> list[float]:
        left = iter(places)
        by_examples = ScheduleByExamples(schedule, lambda: next(left))
        found = []
        for _ in places:
            schedule.optimizer.step()
            by_examples.step()
            found.append(by_examples.get_last_lr()[0])
        return found

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    lambdas = torch.optim.lr_scheduler.LambdaLR(optimizer(), lambda step: step / 10)
    assert rates(lambdas, [0.5, 2, 4.25]) == pytest.approx([0.05, 0.2, 0.425])
    assert lambdas.state_dict()["last_epoch"] == 4.25
    steps = torch.optim.lr_scheduler.StepLR(optimizer(), 2, 0.1)
    assert rates(steps, [0.5, 2 - 1e-9, 3.9, 4.1]) == pytest.approx([1.0, 0.1, 0.1, 0.01])
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer(), 1.0, total_steps=10)
    assert rates(cycle, [3.0, 10.0])[0] == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ConfigError, match="ReduceLROnPlateau counts no steps"):
        ScheduleByExamples(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer()), lambda: 0.0)


def test_what_cannot_be_used() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(ConfigError, match="accumulates 2 batches"):
        Loop(accumulation=2, plan=BatchPlan(micro_batch=4))
    _, model, optimizer = parts()
    with pytest.raises(ConfigError, match="rebatch"):
        AcceleratedController(Accelerator(cpu=True), model, optimizer, DataLoader(Stream()), epochs=1, **settings())
    loop = Loop()
    _, x, y = next(iter(loop.loader))
    with pytest.raises(AutoBatchError, match="alone takes the accelerator's place"), loop.controller.step() as step:
        step.backward(F.cross_entropy(loop.model(x), y), using=loop.accelerator.backward)


def rank(number: str, folder: str) -> None:
    """Be one of two processes."""
    os.environ.update(RANK=number, LOCAL_RANK=number)
    try:
        results = {name: run(name, folder) for name in RUNS}
    except BaseException:
        Path(folder, f"{number}.txt").write_text(traceback.format_exc())
        raise
    Path(folder, f"{number}.json").write_text(json.dumps(results))


def ranks(folder: str) -> None:
    """Fork both processes, once the Trainer is imported: it takes seconds."""
    from transformers import Trainer  # noqa: F401

    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=rank, args=(number, folder), daemon=True) for number in "01"]
    for process in both:
        process.start()
    for process in both:
        process.join()


def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trains its shares, both have the same weights, and they are those that one process ends with."""
    pytest.importorskip("transformers")
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with monkeypatch.context() as patch:
        for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
            patch.setenv(name, value)
        process = FORKED.Process(target=ranks, args=(str(tmp_path),))
        process.start()
        process.join(120)
    process.kill()
    assert [path.read_text() for path in sorted(tmp_path.glob("?.txt"))] == []
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for name in RUNS:
        alone = run(name, str(tmp_path))
        assert first[name]["weights"] == second[name]["weights"]
        assert first[name]["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-6)
        assert first[name]["steps"] == alone["steps"]
        assert len(first[name]["seen"]) + len(second[name]["seen"]) == EPOCHS * SIZE
        for epoch in range(EPOCHS):
            shares = [ranks[name]["seen"][epoch * SIZE // 2 :][: SIZE // 2] for ranks in (first, second)]
            assert sorted(shares[0] + shares[1]) == list(range(SIZE))
        assert first[name]["c_bar"] == pytest.approx(alone["c_bar"], rel=1e-2)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "autobatch.integrations._accelerate")
    with pytest.raises(ConfigError, match=r"autobatch\[hf\]"):
        _ = integrations.AcceleratedController


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        runpy.run_path(
            str(Path(__file__).resolve().parents[2] / "examples" / "accelerate_digits.py"), run_name="__main__"
        )
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("epoch 8: 269 steps, error ")
    assert float(last.partition("error ")[2].split()[0]) < 8
    assert not list(tmp_path.iterdir())
