"""The callback in trainings of the real Lightning, whose modules and data know nothing of it."""

import math
import runpy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from autobatch import scout
from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch.control import AutoBatchController, BatchPlan, MeasureAtInterval, Measuring, NeverMeasure, Processes
from autobatch.policies import Decision, Observation, TaskInfo
from autobatch.policies._parameters import Stateless
from tests.control.loops import Returns, inside_steps
from tests.integrations.first_use import without_lightning
from tests.processes import FORKED

pl = pytest.importorskip("lightning.pytorch", reason="needs Lightning: pip install 'autobatch[lightning]'")

from lightning.pytorch.callbacks import (  # noqa: E402
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from autobatch.integrations import AutoBatchCallback, lightning_loop  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SIZE = 52
LADDER = (4, 8, 16)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available on your system but is not used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Scripted(Stateless):
    """A policy that follows a list of batch sizes, one a decision, and remembers what it saw."""

    needs_library = False

    def __init__(self, *sizes: int, lr: float | None = None) -> None:
        self.sizes = sizes
        self.lr = lr
        self.seen: list[Observation] = []

    def reset(self, task: TaskInfo, library: object) -> None:
        self.task = task

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        size = self.sizes[min(observation.epoch, len(self.sizes) - 1)]
        return Decision(size, self.lr, reason=f"s{size} in period {observation.epoch}")


class Stopping(Scripted):
    """A policy that ends the training after two periods."""

    def decide(self, observation: Observation) -> Decision:
        return replace(super().decide(observation), stop=observation.epoch >= 2)


class Numbered(Dataset[Any]):
    """Examples that tell which one they are."""

    def __init__(self, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, 5, generator=generator)
        self.y = (self.x[:, 0] > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index], index


class Stream(IterableDataset[Any]):
    """The same examples one after the other."""

    def __iter__(self) -> Any:
        data = Numbered()
        return (data[index] for index in range(SIZE))


class Module(pl.LightningModule):
    """A module as people write them; it calls its layers, not itself, and notes what it was given."""

    def __init__(self, scheduler: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
        self.scheduler = scheduler
        self.seen: dict[int, list[list[int]]] = {}
        self.validated: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, index = batch
        self.seen.setdefault(self.current_epoch, []).append(index.tolist())
        return F.cross_entropy(self.layers(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y, _ = batch
        logits = self.layers(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_error", (logits.argmax(1) != y).float().mean())
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(self, optimizer)])

    def sizes(self) -> list[list[int]]:
        return [[len(batch) for batch in batches] for batches in self.seen.values()]

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters()])


def train_loader(**arguments: Any) -> DataLoader[Any]:
    return DataLoader(Numbered(), **{"batch_size": 4, "shuffle": True, **arguments})


def val_loader() -> DataLoader[Any]:
    return DataLoader(Numbered(20), batch_size=10)


def callback(*sizes: int, **arguments: Any) -> AutoBatchCallback:
    settings = {"batch_sizes": LADDER, "measuring": MeasureAtInterval(3), "policy": Scripted(*sizes), **arguments}
    return AutoBatchCallback(**settings)


def trainer(*callbacks: Any, **arguments: Any) -> Any:
    settings = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **arguments})


def fit(
    controlled: Any, module: Module | None = None, *callbacks: Any, ckpt_path: Any = None, **arguments: Any
) -> Module:
    module = module or Module()
    loader = arguments.pop("loader", None)
    loader = train_loader() if loader is None else loader
    validation = arguments.pop("validation", val_loader())
    run = trainer(controlled, *callbacks, **arguments)
    run.fit(module, loader, validation, ckpt_path=ckpt_path)
    return module


def each_once(module: Module, size: int = SIZE) -> bool:
    return all(sorted(chain.from_iterable(batches)) == list(range(size)) for batches in module.seen.values())


class Lengths(Callback):
    """Notes what Lightning says of each epoch's length."""

    def __init__(self) -> None:
        self.at_start: list[Any] = []
        self.at_end: list[Any] = []
        self.last: Any = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.at_start.append(trainer.num_training_batches)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.last = (trainer.is_last_batch, batch_idx + 1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.at_end.append(self.last)


class Bar(TQDMProgressBar):
    """A progress bar whose totals are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[tuple[int, int]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.totals.append((self.train_progress_bar.n, self.train_progress_bar.total))


def plain_loop(*sizes: int, epochs: int = 3, **arguments: Any) -> tuple[torch.Tensor, AutoBatchController]:
    """The same training as a loop of one's own."""
    module, data = Module(), Numbered()
    optimizer = module.configure_optimizers()
    settings = {"batch_sizes": LADDER, "measuring": MeasureAtInterval(3), **arguments}
    controller = AutoBatchController(
        module.layers, optimizer, policy=Scripted(*sizes), dataset_size=SIZE, epochs=epochs, **settings
    )
    loader = DataLoader(data, batch_sampler=controller.batch_sampler)
    for _ in range(epochs):
        for x, y, _ in loader:
            with controller.step():
                F.cross_entropy(module.layers(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch()
    return module.weights(), controller


# The batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_sees_every_example_once_in_the_decided_sizes(workers: int) -> None:
    lengths, bar = Lengths(), Bar()
    loader = train_loader(num_workers=workers, persistent_workers=workers > 0)
    module = fit(callback(4, 16, 8), None, lengths, bar, loader=loader, enable_progress_bar=True)
    assert each_once(module)
    assert module.sizes() == [[4] * 13, [16, 16, 20], [8] * 6 + [4]]
    assert lengths.at_start == [13, 3, 7]
    assert lengths.at_end == [(True, 13), (True, 3), (True, 7)]
    assert bar.totals == [(13, 13), (3, 3), (7, 7)]
    assert module.trainer.global_step == 23
    assert module.validated[2:] == [13, 13, 16, 16, 23, 23]  # two batches each, after two of the sanity check


def test_the_training_is_that_of_a_loop_with_the_controller() -> None:
    ours = callback(4, 16, 8, rates="linear")
    module = fit(ours)
    weights, controller = plain_loop(4, 16, 8, rates="linear")
    assert torch.equal(module.weights(), weights)
    assert (ours.controller.c_bar, ours.controller.l_cum) == (controller.c_bar, controller.l_cum)
    assert ours.controller.samples == controller.samples > 3
    assert ours.controller.finished


def test_the_loaders_own_batch_size_is_the_reference_of_the_rate() -> None:
    ours = callback(16, rates="linear")
    fit(ours, loader=train_loader(batch_size=8))
    assert ours.controller.lr == pytest.approx(0.2)


def test_everything_else_of_the_loader_is_kept() -> None:
    def collate(items: list[Any]) -> Any:
        return torch.utils.data.default_collate(items)

    class Own(DataLoader[Any]):
        mark = "own"

    generator = torch.Generator().manual_seed(3)
    loader = Own(Numbered(), batch_size=4, shuffle=True, collate_fn=collate, drop_last=True, generator=generator)
    before = dict(vars(loader))
    module = fit(callback(16), loader=loader)
    used = module.trainer.train_dataloader
    assert type(used) is Own
    assert (used.dataset, used.collate_fn, used.generator) == (loader.dataset, collate, generator)
    assert vars(loader) == before
    assert each_once(module)
    assert "dataloader" not in vars(module.trainer.fit_loop._data_source)


def test_a_loader_in_order_is_said_to_be_shuffled() -> None:
    with pytest.warns(UserWarning, match="shuffle=False"):
        module = fit(callback(8), loader=train_loader(shuffle=False))
    assert each_once(module)
    assert module.seen[0] != module.seen[1]


class Odd(BatchSampler):
    """A batch sampler of one's own."""


class Placed(DataLoader[Any]):
    """A loader that keeps its own place in the data."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": WeightedRandomSampler([1.0] * SIZE, SIZE), "shuffle": False}, "WeightedRandomSampler"),
        ({"sampler": RandomSampler(range(SIZE), replacement=True), "shuffle": False}, "with replacement"),
        ({"batch_sampler": Odd(SequentialSampler(range(SIZE)), 4, False)}, "Odd"),
        ({"batch_size": None, "shuffle": False}, "batch_size=None"),
        ({"kind": Placed}, "a Placed keeps its own place"),
    ],
)
def test_a_choice_of_examples_that_would_be_lost_is_an_error(arguments: dict[str, Any], message: str) -> None:
    settings = {"batch_size": 4, "shuffle": True, **arguments} if "batch_sampler" not in arguments else arguments
    kind = settings.pop("kind", DataLoader)
    with pytest.raises(ConfigError, match=message):
        fit(callback(8), loader=kind(Numbered(), **settings))


def test_several_loaders_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"one torch\.utils\.data\.DataLoader, got dict"):
        fit(callback(8), loader={"a": train_loader(), "b": train_loader()})


def test_a_stream_is_cut_to_the_decided_sizes() -> None:
    module = fit(callback(4, 16, 8, dataset_size=SIZE), loader=DataLoader(Stream(), batch_size=7))
    assert each_once(module)
    assert module.sizes() == [[4] * 13, [16, 16, 20], [8] * 6 + [4]]
    with pytest.raises(ConfigError, match="dataset_size"):
        fit(callback(4), loader=DataLoader(Stream(), batch_size=7))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sizes", [(4, 16, 4, 8), (16, 4, 16), (4, 4, 16, 16, 4)])
def test_decisions_within_an_epoch(sizes: tuple[int, ...], workers: int) -> None:
    lengths, bar = Lengths(), Bar()
    ours = callback(*sizes, plan=BatchPlan(decide_every=0.25))
    loader = train_loader(num_workers=workers)
    module = fit(ours, None, lengths, bar, loader=loader, max_epochs=2, enable_progress_bar=True)
    assert each_once(module)
    assert all(last for last, _ in lengths.at_end)
    assert [count for _, count in lengths.at_end] == [len(batches) for batches in module.seen.values()]
    assert bar.totals == [(count, count) for _, count in lengths.at_end]
    assert len(module.validated) == 2 + 2 * 2
    assert len(ours._arguments["policy"].seen) == 8


def test_a_reloaded_loader_is_replaced_again() -> None:
    class Data(pl.LightningDataModule):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.left = list(sizes)

        def train_dataloader(self) -> Any:
            return DataLoader(Numbered(self.left.pop(0)), batch_size=4, shuffle=True)

    module, data = Module(), Data(SIZE, SIZE, SIZE)
    trainer(callback(4, 16, 8), reload_dataloaders_every_n_epochs=1).fit(module, datamodule=data)
    assert data.left == []
    assert module.sizes() == [[4] * 13, [16, 16, 20], [8] * 6 + [4]]
    with pytest.raises(ConfigError, match="has 30 examples"):
        trainer(callback(4, 16, 8), reload_dataloaders_every_n_epochs=1).fit(Module(), datamodule=Data(SIZE, 30))


def test_a_loader_that_was_asked_for_early_is_replaced_and_its_schedule_moved() -> None:
    def scheduler(module: Any, optimizer: Any) -> Any:
        steps = module.trainer.estimated_stepping_batches
        assert steps == 39
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, cycle_momentum=False)
        return {"scheduler": schedule, "interval": "step"}

    module = fit(callback(16), Module(scheduler))
    assert module.sizes() == [[16, 16, 20]] * 3
    assert module.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 39
    assert module.trainer.optimizers[0].param_groups[0]["lr"] < 1e-3


# The steps -----------------------------------------------------------------------------------------------------------


class Manual(Module):
    """The same module, which runs its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()


def test_manual_optimization_trains_the_same() -> None:
    module = fit(callback(4, 16, 8), Manual())
    assert module.trainer.global_step == 23
    assert torch.equal(module.weights(), fit(callback(4, 16, 8)).weights())


def test_accumulated_batches_make_one_step_of_the_decided_size() -> None:
    ours, lengths = callback(8, 16, 8, measuring=NeverMeasure()), Lengths()
    module = fit(ours, None, lengths, accumulate_grad_batches=2)
    assert each_once(module)
    assert module.sizes() == [[4] * 12 + [2, 2], [8] * 4 + [10, 10], [4] * 12 + [2, 2]]
    assert lengths.at_end == [(True, 14), (True, 6), (True, 14)]
    assert module.trainer.global_step == ours.controller.steps == 17
    weights, _ = plain_loop(8, 16, 8, measuring=NeverMeasure())
    torch.testing.assert_close(module.weights(), weights)


def test_accumulated_batches_are_measured_as_one() -> None:
    ours = callback(16, batch_sizes=(8, 16))
    fit(ours, accumulate_grad_batches=4)
    _, controller = plain_loop(16, batch_sizes=(8, 16))
    assert ours.controller.samples == controller.samples
    assert ours.controller.c_bar == pytest.approx(controller.c_bar)


def test_gradients_are_clipped() -> None:
    class Watching(Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms: list[float] = []

        def on_before_zero_grad(self, optimizer: Any) -> None:
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            self.norms += [float(torch.nn.utils.get_total_norm(grads))] if grads else []

    ours = callback(4, 16, 8)
    module = fit(ours, Watching(), gradient_clip_val=0.05)
    assert max(module.norms) <= 0.05 * 1.001
    assert ours.controller.samples > 3


def test_mixed_precision_is_measured() -> None:
    ours = callback(4, 16, 8)
    fit(ours, precision="bf16-mixed")
    assert math.isfinite(ours.controller.c_bar)


def test_a_step_without_a_loss_counts_as_trained() -> None:
    class Picky(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else loss

    ours = callback(4, 16, 8)
    with pytest.warns(UserWarning, match="returned `None`"):
        module = fit(ours, Picky())
    assert each_once(module)
    assert ours.controller.finished


def test_an_epoch_that_is_left_early_goes_on_in_the_next() -> None:
    class Leaving(Module):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if self.current_epoch == 0 and batch_idx == 5 else None

    ours = callback(4, 16, epochs=2)
    module = fit(ours, Leaving(), max_epochs=3 - 1)
    assert [len(batches) for batches in module.seen.values()] == [5, 8]
    assert sorted(chain.from_iterable(module.seen[0] + module.seen[1])) == list(range(SIZE))


def test_the_optimizer_keeps_the_rates_of_its_scheduler() -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.inside: list[float] = []
            self.before: list[float] = []
            self.outside: list[float] = []

        def on_train_start(self, trainer: Any, *_: Any) -> None:
            (optimizer,) = trainer.optimizers
            inside_steps(optimizer, lambda: self.inside.append(optimizer.param_groups[0]["lr"]))

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.before.append(optimizer.param_groups[0]["lr"])

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.outside.append(trainer.optimizers[0].param_groups[0]["lr"])

    def scheduler(module: Any, optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)

    rates = Rates()
    fit(callback(4, 16, 8, rates="linear"), Module(scheduler), rates)
    assert rates.outside == pytest.approx([0.1] * 15 + [0.01] * 8)
    assert rates.before == pytest.approx([0.1] * 16 + [0.01] * 7)
    assert rates.inside == pytest.approx([0.1] * 13 + [0.4] * 3 + [0.02] * 7)


# The figures ---------------------------------------------------------------------------------------------------------


def losses(ours: AutoBatchCallback) -> list[float]:
    return [observation.validation_loss for observation in ours._arguments["policy"].seen]


def test_validation_figures_reach_the_policy() -> None:
    class Figures(Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                self.losses.append(float(trainer.callback_metrics["val_loss"]))

    ours, figures = callback(4, 16, 8, monitor_error="val_error"), Figures()
    fit(ours, None, figures)
    assert losses(ours)[1:] == figures.losses[:2]
    assert math.isnan(losses(ours)[0])
    assert all(0 <= seen.validation_error <= 1 for seen in ours._arguments["policy"].seen[1:])


def test_an_epoch_without_validation_has_no_figures() -> None:
    ours = callback(4, 16, 8)
    fit(ours, max_epochs=4, check_val_every_n_epoch=2)
    assert [math.isnan(loss) for loss in losses(ours)] == [True, True, False, True]
    ours = callback(4, 16, 8)
    fit(ours, validation=None)
    assert all(math.isnan(loss) for loss in losses(ours))


def test_validation_within_the_epoch_follows_its_length() -> None:
    module = fit(callback(4, 16, 8), val_check_interval=0.5, num_sanity_val_steps=0)
    assert module.validated[::2] == [6, 12, 14, 15, 16, 19, 22]


def test_an_epoch_that_gets_too_short_for_validation_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="fewer than 5 batches have no validation"):
        module = fit(callback(4, 16, 16), val_check_interval=5, num_sanity_val_steps=0)
    assert module.validated[::2] == [5, 10]


def test_a_figure_that_is_not_logged_is_warned_of_once() -> None:
    ours = callback(4, 16, 8, monitor_loss="valid_loss")
    with pytest.warns(UserWarning, match="no 'valid_loss'.* did you mean 'val_loss'") as caught:
        fit(ours)
    assert sum("valid_loss" in str(warning.message) for warning in caught) == 1
    assert all(math.isnan(loss) for loss in losses(ours))


def test_the_training_loss_reaches_the_policy() -> None:
    class Logging(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

    ours = callback(4, 16, 8, monitor_train_loss="train_loss")
    fit(ours, Logging())
    assert all(0 < seen.train_loss < 2 for seen in ours._arguments["policy"].seen[1:])


def test_decisions_go_to_the_trainers_loggers_and_the_console(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(callback(4, 16, 8), logger=CSVLogger(tmp_path))
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    decided = [row for row in rows if row["autobatch/batch_size"]]
    assert [float(row["autobatch/batch_size"]) for row in decided][:3] == [4.0, 16.0, 8.0]
    assert [int(row["step"]) for row in decided][:3] == [0, 13, 16]
    assert [float(row["autobatch/examples"]) for row in decided][:3] == [0.0, SIZE, 2 * SIZE]
    main = {f"autobatch/{name}" for name in ("batch_size", "lr_effective", "c_bar", "l_cum", "examples")}
    assert {name for name in names if name.startswith("autobatch/")} <= main
    said = [record.message for record in caplog.records if "autobatch" in record.message]
    assert said == [
        "autobatch: from example 0: batch size 4, applied rate 0.1: s4 in period 0",
        f"autobatch: from example {SIZE}: batch size 16, applied rate 0.1: s16 in period 1",
        f"autobatch: from example {2 * SIZE}: batch size 8, applied rate 0.1: s8 in period 2",
    ]
    caplog.clear()
    with caplog.at_level("INFO"):  # as after logging.basicConfig: the controller's own log is seen
        fit(callback(4, 16, 8))
    said = [record.message for record in caplog.records]
    assert sum("s16 in period 1" in line for line in said) == 1
    fit(callback(4, 16, 8, log_all=True), logger=CSVLogger(tmp_path / "all"))
    everything = (tmp_path / "all/lightning_logs/version_0/metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"autobatch/progress", "autobatch/lr", "autobatch/seconds"} <= set(everything)


# Checkpoints ---------------------------------------------------------------------------------------------------------


class SaveAt(Callback):
    """Saves in one of Lightning's hooks, in one epoch and after one batch of it."""

    def __init__(self, path: Path, hook: str, epoch: int, batch: int | None = None) -> None:
        self.path, self.epoch, self.batch = path, epoch, batch
        setattr(self, hook, self._save)

    def _save(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        batch = arguments[-1] if arguments else None
        if trainer.current_epoch == self.epoch and self.batch == batch and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


PLACES = {
    "epoch end": ("on_train_epoch_end", 1, None),
    "validation end": ("on_validation_end", 1, None),
    "middle": ("on_train_batch_end", 1, 2),
    "first batch": ("on_train_batch_end", 0, 0),
    "last batch": ("on_train_batch_end", 1, 5),
    "end of all": ("on_train_epoch_end", 3, None),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("before", [False, True], ids=["saved after us", "saved before us"])
def test_a_resumed_run_equals_the_uninterrupted_one(place: str, before: bool, tmp_path: Path) -> None:
    def ours() -> AutoBatchCallback:
        return callback(16, 8, 16, 4, rates="sqrt", monitor_error="val_error")

    saver, whole = SaveAt(tmp_path / "at.ckpt", *PLACES[place]), ours()
    uncut = Module()
    order = [saver, whole] if before else [whole, saver]
    trainer(*order, max_epochs=4).fit(uncut, train_loader(), val_loader())
    again, lengths = ours(), Lengths()
    resumed = fit(again, None, lengths, max_epochs=4, ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())
    assert resumed.trainer.global_step == uncut.trainer.global_step
    assert resumed.trainer.current_epoch == uncut.trainer.current_epoch
    for key in ("c_bar", "l_cum", "samples", "steps", "decision"):
        assert repr(getattr(again.controller, key)) == repr(getattr(whole.controller, key))
    for epoch, batches in resumed.seen.items():
        assert batches == uncut.seen[epoch][-len(batches) :]


@pytest.mark.parametrize("epochs", [5, 4])
@pytest.mark.parametrize("place", ["epoch end", "validation end", "middle"])
def test_goes_back_to_its_best_weights_also_from_a_checkpoint(place: str, epochs: int, tmp_path: Path) -> None:
    class Begins(Callback):
        def __init__(self) -> None:
            self.weights: dict[int, Any] = {}
            self.ends: dict[int, Any] = {}

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.weights[trainer.current_epoch] = pl_module.weights()

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.ends[trainer.current_epoch] = pl_module.weights()

    def ours() -> AutoBatchCallback:
        return AutoBatchCallback(policy=Returns([8]), batch_sizes=(8, 16), measuring=NeverMeasure())

    begins = Begins()
    uncut = fit(ours(), None, SaveAt(tmp_path / "at.ckpt", *PLACES[place]), begins, max_epochs=epochs)
    assert torch.equal(begins.weights[3], begins.ends[0])
    assert not torch.equal(begins.ends[2], begins.ends[0])
    resumed = fit(ours(), max_epochs=epochs, ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())


def test_model_checkpoint_of_every_kind_can_be_resumed(tmp_path: Path) -> None:
    whole = callback(16, 8, 16, 4)
    kinds = [
        {"every_n_train_steps": 3},
        {"every_n_epochs": 1},
        {"monitor": "val_loss", "save_on_train_epoch_end": False},
    ]
    savers = [
        ModelCheckpoint(tmp_path / str(number), "{step}", save_top_k=-1, **kind) for number, kind in enumerate(kinds)
    ]
    uncut = fit(whole, None, *savers, max_epochs=4)
    paths = sorted(tmp_path.glob("*/*.ckpt"))
    assert len(paths) > 10
    for path in paths:
        resumed = fit(callback(16, 8, 16, 4), max_epochs=4, ckpt_path=path)
        assert torch.equal(resumed.weights(), uncut.weights()), path
        assert resumed.trainer.global_step == uncut.trainer.global_step, path


@pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model")
@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
def test_a_run_that_raised_can_be_resumed(tmp_path: Path) -> None:
    class Failing(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1 and batch_idx == 3:
                raise ValueError("lightning struck")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="struck"):
        fit(callback(16, 8, 16), Failing(), OnExceptionCheckpoint(tmp_path))
    resumed = fit(callback(16, 8, 16), ckpt_path=tmp_path / "on_exception.ckpt")
    assert torch.equal(resumed.weights(), fit(callback(16, 8, 16)).weights())


def test_a_resumed_run_with_workers_and_decisions_within_the_epoch(tmp_path: Path) -> None:
    def run(*more: Any, ckpt_path: Any = None) -> Module:
        ours = callback(4, 16, 4, 8, 8, 16, 4, plan=BatchPlan(decide_every=0.3))
        return fit(ours, None, *more, loader=train_loader(num_workers=2), ckpt_path=ckpt_path)

    uncut = run(SaveAt(tmp_path / "at.ckpt", "on_train_batch_end", 1, 4))
    resumed = run(ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())


@pytest.mark.parametrize("batch", [3, 2], ids=["after a step", "between two parts"])
def test_a_resumed_run_with_accumulation(batch: int, tmp_path: Path) -> None:
    def run(*more: Any, ckpt_path: Any = None) -> Module:
        return fit(callback(8, 16, 8), None, *more, accumulate_grad_batches=2, ckpt_path=ckpt_path)

    uncut = run(SaveAt(tmp_path / "at.ckpt", "on_train_batch_end", 1, batch))
    resumed = run(ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())
    assert resumed.trainer.global_step == uncut.trainer.global_step


@pytest.mark.parametrize("place", ["validation end", "middle"])
def test_a_resumed_stream(place: str, tmp_path: Path) -> None:
    def run(*more: Any, ckpt_path: Any = None) -> Module:
        ours = callback(16, 8, 16, dataset_size=SIZE)
        return fit(ours, None, *more, loader=DataLoader(Stream(), batch_size=7), ckpt_path=ckpt_path)

    uncut = run(SaveAt(tmp_path / "at.ckpt", *PLACES[place]))
    resumed = run(ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())
    assert resumed.trainer.global_step == uncut.trainer.global_step


def test_a_run_with_max_steps_can_be_resumed(tmp_path: Path) -> None:
    def run(*more: Any, ckpt_path: Any = None) -> Module:
        return fit(callback(4, 16, 8, epochs=3), None, *more, max_epochs=-1, max_steps=20, ckpt_path=ckpt_path)

    uncut = run(SaveAt(tmp_path / "at.ckpt", "on_train_batch_end", 1, 1))
    assert uncut.trainer.global_step == 20
    resumed = run(ckpt_path=tmp_path / "at.ckpt")
    assert resumed.trainer.global_step == 20
    assert torch.equal(resumed.weights(), uncut.weights())


def test_a_checkpoint_of_another_training_is_an_error(tmp_path: Path) -> None:
    fit(callback(4, 16), None, SaveAt(tmp_path / "at.ckpt", "on_train_epoch_end", 0))
    with pytest.raises(CheckpointError, match="batch_sizes"):
        fit(callback(4, 16, batch_sizes=(4, 16)), ckpt_path=tmp_path / "at.ckpt")


def test_a_checkpoint_without_a_controller_begins_anew(tmp_path: Path) -> None:
    run = trainer()
    run.fit(Module(), train_loader(), val_loader())
    run.save_checkpoint(tmp_path / "at.ckpt")
    ours = callback(4, 16)
    with pytest.warns(UserWarning, match="begins anew, with 2 epochs"):
        fit(ours, max_epochs=5, ckpt_path=tmp_path / "at.ckpt")
    assert (ours.controller.epoch, ours.controller.epochs) == (2, 2)


@pytest.mark.parametrize("place", ["epoch end", "middle"])
def test_a_resumed_run_with_dropout(place: str, tmp_path: Path) -> None:
    class Dropping(Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers.insert(2, nn.Dropout(0.3))

    torch.manual_seed(5)
    uncut = fit(callback(16, 8, 16), Dropping(), SaveAt(tmp_path / "at.ckpt", *PLACES[place]))
    torch.manual_seed(6)
    resumed = fit(callback(16, 8, 16), Dropping(), ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(resumed.weights(), uncut.weights())


@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log.*sync_dist=True")
def test_two_processes_train_the_same_and_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from lightning.pytorch.strategies import DDPStrategy

    class Telling(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            controller = trainer.callbacks[0].controller
            told = {"seen": pl_module.seen, "weights": pl_module.weights(), "c_bar": controller.c_bar}
            torch.save(told, tmp_path / f"{trainer.global_rank}.pt")

    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=60))
    saver = SaveAt(tmp_path / "at.ckpt", "on_train_batch_end", 1, 0)
    loader = train_loader(batch_size=2)
    arguments = {"rates": "linear"}
    fit(callback(4, 16, 8, **arguments), None, Telling(), saver, loader=loader, strategy=strategy, devices=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(ours["weights"], theirs["weights"])
    shares = {
        epoch: [a + b for a, b in zip(ours["seen"][epoch], theirs["seen"][epoch], strict=True)] for epoch in range(3)
    }
    assert [[len(batch) for batch in batches] for batches in shares.values()] == [
        [4] * 13,
        [16, 16, 20],
        [8] * 6 + [4],
    ]
    assert all(sorted(chain.from_iterable(batches)) == list(range(SIZE)) for batches in shares.values())
    weights, controller = plain_loop(4, 16, 8, **arguments)
    torch.testing.assert_close(ours["weights"], weights)
    assert ours["c_bar"] == theirs["c_bar"] == pytest.approx(controller.c_bar, rel=1e-3)
    alone = fit(callback(4, 16, 8, **arguments), loader=loader, ckpt_path=tmp_path / "at.ckpt")
    assert alone.sizes() == [[16, 20], [8] * 6 + [4]]
    torch.testing.assert_close(alone.weights(), weights)


# The trainer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "own"), [(1, 8), (2, 16)])
def test_advice_changes_nothing(parts: int, own: int, caplog: pytest.LogCaptureFixture) -> None:
    def weights(*callbacks: Any) -> torch.Tensor:
        module = Module()
        torch.manual_seed(1)
        run = trainer(*callbacks, accumulate_grad_batches=parts)
        run.fit(module, train_loader(batch_size=8), val_loader())
        return module.weights()

    ours = callback(4, 16, 8, advise=True, rates="linear")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        assert torch.equal(weights(ours), weights())
    assert ours.controller.samples >= 3
    assert [seen.batch_size for seen in ours._arguments["policy"].seen] == [0, own, own]
    assert sum("autobatch (advice)" in record.message for record in caplog.records) == 3


def test_a_training_that_stops_early() -> None:
    ours = callback(4, 16, 8)
    stopping = EarlyStopping("val_loss", patience=1, mode="max", min_delta=10)
    module = fit(ours, None, stopping, max_epochs=6)
    assert module.trainer.current_epoch == ours.controller.epoch == 2
    ours = callback(4, 16, 8, epochs=3)
    module = fit(ours, max_epochs=-1, max_steps=15)
    assert module.trainer.global_step == 15
    assert (ours.controller.epoch, ours.controller.steps) == (1, 15)


def test_a_training_without_an_end_of_its_own_stops_after_the_controllers_epochs() -> None:
    ours = callback(4, 16, 8, epochs=3)
    module = fit(ours, max_epochs=-1)
    assert module.trainer.global_step == 23
    assert ours.controller.finished


def test_a_decision_that_stops_ends_the_fit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    ours = callback(policy=Stopping(4, 16))
    module = fit(ours, max_epochs=6)
    assert module.sizes() == [[4] * 13, [16, 16, 20]]
    assert module.validated == [0, 0, 13, 13, 16, 16]  # with Lightning's sanity check
    assert ours.controller.stopped_because == "s16 in period 2"
    assert "autobatch: s16 in period 2" in caplog.text
    within = callback(policy=Stopping(4), plan=BatchPlan(decide_every=13))
    assert fit(within, max_epochs=6).sizes() == [[4, 4, 5] * 2]
    assert within.controller.steps == 6
    advised = callback(policy=Stopping(4), advise=True)
    assert fit(advised, max_epochs=4).trainer.current_epoch == 4


def test_scouts_of_a_fit(tmp_path: Path) -> None:
    """Each scout is a fit of its own; the training starts from the best."""

    def train(controller: AutoBatchController) -> Module:
        return fit(AutoBatchCallback(controller=controller), max_epochs=12)

    report = scout(train, batch_sizes=LADDER, learning_rates=(0.001, 0.01, 0.1), out=tmp_path, rates="steered")
    assert [one.examples for one in report.trained] == [SIZE] * 3
    assert all(math.isfinite(one.scout.train_losses[0]) for one in report.trained)
    assert report.winner is min(report.trained, key=lambda one: one.scout.train_losses[0])
    ours = AutoBatchCallback(policy="beacon-follow", scouts=report, rates="steered")
    module = fit(ours, max_epochs=12)
    assert module.trainer.current_epoch == ours.controller.epoch == 12  # labels are random: no time to spare
    assert (len(module.seen[0][0]), ours.controller.lr) == (report.batch_size, report.lr)


def test_scouts_of_a_trainer_and_its_module_in_one_call(tmp_path: Path) -> None:
    """Copies are trained; Trainer, module and generators are as if nothing had been, and the fit goes on."""
    module, mine = Module(), trainer(max_epochs=12)
    begins = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    grid = {"batch_sizes": LADDER, "learning_rates": (0.001, 0.01, 0.1), "out": tmp_path, "rates": "steered"}
    report = scout(lightning_loop(mine, module, train_loader(), val_loader()), **grid)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in begins.items())
    assert [one.examples for one in report.trained] == [SIZE] * 3
    assert (mine.current_epoch, mine.global_step, mine.state.fn) == (0, 0, None)
    ours = AutoBatchCallback(policy="beacon-follow", scouts=report, rates="steered")
    mine.callbacks.append(ours)
    mine.fit(module, train_loader(), val_loader())
    assert (mine.current_epoch, ours.controller.lr) == (12, report.lr)
    again = scout(lightning_loop(trainer(max_epochs=12), Module(), train_loader(), val_loader()), **grid)
    assert again.trained == report.trained  # nothing is trained twice


def test_a_controller_or_what_makes_one() -> None:
    controller = AutoBatchController(policy="s4-to-16", batch_sizes=LADDER)
    for arguments in ({}, {"policy": "s4-to-16", "controller": controller}):
        with pytest.raises(ConfigError, match=r"either policy=\.\.\., or controller="):
            AutoBatchCallback(**arguments)
    with pytest.raises(ConfigError, match="seed and controller: give one"):
        AutoBatchCallback(controller=controller, seed=3)
    with pytest.raises(ConfigError, match="accumulation=1, and the Trainer has accumulate_grad_batches=2"):
        fit(AutoBatchCallback(controller=controller), accumulate_grad_batches=2)


def test_a_dry_run_runs() -> None:
    ours = callback(4, 16, 8)
    module = fit(ours, fast_dev_run=2)
    assert module.sizes() == [[4, 4]]


def test_a_second_fit_begins_anew() -> None:
    ours = callback(4, 16, 8)
    first = fit(ours)
    assert torch.equal(fit(ours).weights(), first.weights())


def test_the_other_package_of_lightning_is_served() -> None:
    other = pytest.importorskip("pytorch_lightning")

    class Other(other.LightningModule):
        __init__ = Module.__init__
        training_step = Module.training_step
        validation_step = Module.validation_step
        configure_optimizers = Module.configure_optimizers

    Other.__init__ = lambda self: (
        other.LightningModule.__init__(self),
        vars(self).update(seen={}, validated=[]),
        None,
    )[2]
    module = Other()
    torch.manual_seed(0)
    module.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    module.scheduler = None
    run = other.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback(4, 16, 8)],
    )
    run.fit(module, train_loader(), val_loader())
    assert torch.equal(Module.weights(module), fit(callback(4, 16, 8)).weights())


class Two(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.layers[0].parameters(), lr=0.1),
            torch.optim.SGD(self.layers[2].parameters(), lr=0.1),
        ]


class Fetching(Module):
    def training_step(self, dataloader_iter: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"module": Two()}, "one optimizer from configure_optimizers, got 2"),
        ({"module": Fetching()}, "dataloader_iter"),
        ({"limit_train_batches": 3}, "limit_train_batches"),
        ({"limit_train_batches": 1}, "limit_train_batches"),
        ({"limit_train_batches": 0.5}, "limit_train_batches"),
        ({"overfit_batches": 2}, "overfit_batches"),
        ({"max_epochs": -1}, r"epochs=\.\.\. is needed"),
        ({"max_steps": 10}, r"epochs=\.\.\. is needed"),
        ({"more": GradientAccumulationScheduler({0: 2})}, "GradientAccumulationScheduler"),
        ({"ours": callback(4, epochs=2)}, r"epochs=2, but Trainer\(max_epochs=3\)"),
        ({"ours": callback(4, dataset_size=7)}, "dataset_size=7, but the dataset has 52"),
        ({"accumulate_grad_batches": 4}, "multiples of 4"),
    ],
)
def test_what_cannot_be_controlled_is_an_error(settings: dict[str, Any], message: str) -> None:
    more = [settings.pop("more")] if "more" in settings else []
    with pytest.raises(ConfigError, match=message):
        fit(settings.pop("ours", None) or callback(4), settings.pop("module", None), *more, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"polcy": "s4"}, "no argument is called 'polcy'; did you mean 'policy'"),
        ({"optimizer": None}, "'optimizer' is not given here: configure_optimizers"),
        ({"plan": BatchPlan(micro_batch=4)}, "accumulate_grad_batches"),
        ({"plan": BatchPlan(accumulation=2)}, "accumulate_grad_batches"),
        ({"measuring": Measuring(grad_scaler=GradScaler("cpu"))}, "precision"),
        ({"processes": Processes()}, "strategy"),
        ({"lr_rule": "linear"}, r"'lr_rule' is now rates=Rates\(rule="),
        ({"batch_size": 4}, "the train DataLoader has it"),
        ({"measuring": Measuring(bn="exact")}, "backward pass of its own"),
    ],
)
def test_arguments_that_are_not_known_here(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoBatchCallback(policy="s4", batch_sizes=LADDER, **arguments)


def test_there_is_no_controller_before_a_fit() -> None:
    with pytest.raises(AutoBatchError, match=r"before Trainer\.fit"):
        _ = callback(4).controller


# The package ---------------------------------------------------------------------------------------------------------


def test_lightning_is_imported_on_first_use_only() -> None:
    process = FORKED.Process(target=without_lightning)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_example_trains(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    with torch.random.fork_rng(), caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        runpy.run_path(str(ROOT / "examples/lightning_digits.py"), run_name="__main__")
    assert "241 steps" in capsys.readouterr().out
    assert sum("autobatch: from example" in record.message for record in caplog.records) == 4
    assert not list(tmp_path.iterdir())
