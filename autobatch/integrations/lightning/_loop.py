"""What Lightning's loops take for granted about a train loader, put right for one whose batches change in number.

Lightning asks for the loader once and keeps the number of its batches; a callback has no public way to change either.
So this module, and no other, touches private attributes of the Trainer's loops. Nothing is imported from Lightning, and
both of its packages, ``lightning`` and ``pytorch_lightning``, are served.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from autobatch._errors import ConfigError
from autobatch.control import AutoBatchController, derive_seed
from autobatch.integrations._schedules import ScheduleByExamples, counts_no_steps


class PlannedBatches(Sampler[list[int]]):
    """The controller's batches as Lightning counts them: in epochs of its own, some of which go on with an earlier one.

    Where gradients accumulate, a batch is here what Lightning calls one: a part of the controller's.

    Args:
        controller: the controller.

    Attributes:
        trained: batches of Lightning's running epoch that are trained.
        generator: gives a loader the seed of its workers. From the global generator a training that goes on within an
            epoch would draw once more than one that was not cut.
    """

    def __init__(self, controller: AutoBatchController) -> None:
        self._controller = controller
        self._iterated = 0  # of these, how many were handed out in the running iteration
        self.trained = 0
        self.generator = torch.Generator()

    @property
    def left(self) -> int:
        """Batches of the controller's running epoch, or else of its next one, that are not trained yet."""
        return 0 if self._controller.finished else len(self._controller.batch_sampler) - self._iterated

    def __iter__(self) -> Iterator[list[int]]:
        # The loader draws after this call.
        self.generator.manual_seed(derive_seed(self._controller.seed, "workers", self._controller.epoch))
        return self._iterate(self._controller.batch_sampler)

    def out_of(self, stream: Iterable[Any]) -> Iterator[Any]:
        """Return the batches made of a stream of any sizes."""
        return self._iterate(self._controller.rebatch(stream))

    def __len__(self) -> int:
        return max(1, self.trained + self.left)

    def done(self) -> None:
        """Take down that a batch is trained."""
        self.trained += 1
        self._iterated += 1

    def end_epoch(self, *, theirs: bool) -> None:
        """Take down that Lightning's epoch has ended, and ``theirs``: whether the controller's with it."""
        self.trained = 0
        if theirs:
            self._iterated = 0

    def _iterate(self, batches: Iterable[Any]) -> Iterator[Any]:
        if self.left:
            self._iterated = 0
            yield from batches


class _SharedOut(DistributedSampler[int]):
    """Tells Lightning that a loader's batches are shared out among the ranks already, and gives the order as one."""

    def __init__(self, batches: PlannedBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[int]:
        return (index for batch in self._batches for index in batch)

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the controller knows its epoch."""


class Rebatched:
    """A stream's batches joined and cut to the controller's sizes; of no known length."""

    def __init__(self, loader: DataLoader[Any], batches: PlannedBatches) -> None:
        self.dataset = loader.dataset
        self._loader = loader
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self._batches.out_of(self._loader)


def is_stream(loader: DataLoader[Any]) -> bool:
    """Return whether a loader reads an iterable dataset."""
    return isinstance(loader.dataset, IterableDataset)


def check_loader(loader: Any, *, replaced: bool) -> None:
    """Refuse what is no loader, and, where its batches are replaced, one whose own choice of examples would be lost."""
    if not isinstance(loader, DataLoader):
        raise ConfigError(
            "AutoBatchCallback: expected train_dataloader() to return one torch.utils.data.DataLoader, got "
            f"{type(loader).__name__}"
        )
    if not replaced and own_batch_size(loader) is None:
        raise ConfigError("AutoBatchCallback: advise=True needs a train DataLoader with a batch size")
    if not replaced or is_stream(loader):
        return
    what = None
    if hasattr(loader, "load_state_dict"):
        what = f"a {type(loader).__name__} keeps its own place in the data"
    elif loader.batch_sampler is None:
        what = "batch_size=None leaves the batches to the dataset"
    elif type(loader.batch_sampler) is not BatchSampler:
        what = f"its batch_sampler is a {type(loader.batch_sampler).__name__}"
    elif type(loader.sampler) not in {RandomSampler, SequentialSampler, DistributedSampler}:
        what = f"its sampler is a {type(loader.sampler).__name__}"
    elif isinstance(loader.sampler, RandomSampler) and (
        loader.sampler.replacement or loader.sampler.num_samples != len(loader.dataset)  # type: ignore[arg-type]
    ):
        what = "its RandomSampler draws with replacement, or another number of examples than the dataset has"
    if what is not None:
        raise ConfigError(
            f"AutoBatchCallback: the train DataLoader cannot be given the controller's batches: {what}, which would be "
            "lost. The controller draws every example once an epoch, in random order; use a DataLoader with "
            "batch_size=... and shuffle=True, or the callback with advise=True, which leaves the loader alone"
        )


def own_batch_size(loader: DataLoader[Any]) -> int | None:
    """Return the batch size that a loader has of itself; None where it does not say."""
    size = loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) else None


def is_in_order(loader: DataLoader[Any]) -> bool:
    """Return whether a loader goes through its map-style dataset in order."""
    return isinstance(loader.sampler, SequentialSampler) or getattr(loader.sampler, "shuffle", True) is False


def with_batches(loader: DataLoader[Any], batches: PlannedBatches) -> DataLoader[Any]:
    """Return a loader that is the user's in everything but its batches, and its generator where it has none.

    Args:
        loader: the user's, of any subclass; it is left as it is.
        batches: its batches from now on.

    Returns:
        A copy; the dataset, the collate function and all else are the same objects.
    """
    planned = copy.copy(loader)
    # A loader refuses to have these set, so that nobody changes them while it is iterated; the copy is not yet.
    planned.__dict__.update(
        batch_sampler=batches,
        sampler=_SharedOut(batches),
        batch_size=None,
        drop_last=False,
        generator=loader.generator if loader.generator is not None else batches.generator,
        _iterator=None,
    )
    return planned


def divert_loader(trainer: Any, through: Callable[[Any], Any]) -> None:
    """Have the Trainer, before its fit loop runs, take the train loader through a function whenever it asks for it."""
    restore_loader(trainer)
    loop = trainer.fit_loop
    source = loop._data_source
    source.dataloader = lambda: through(type(source).dataloader(source))
    if loop._combined_loader is not None:  # asked for already, for trainer.estimated_stepping_batches
        if loop._data_fetcher is not None:
            loop._data_fetcher.teardown()
        loop._combined_loader = None


def restore_loader(trainer: Any) -> None:
    """Undo ``divert_loader``."""
    vars(trainer.fit_loop._data_source).pop("dataloader", None)


def steps_of_loader(trainer: Any, loader: DataLoader[Any], size: int) -> int:
    """Return the steps of an epoch on each rank by a loader's own batches; 0 where it has no batch size."""
    batch_size = own_batch_size(loader)
    if batch_size is None:
        return 0
    ranks, parts = int(trainer.world_size), int(trainer.accumulate_grad_batches)
    share = math.ceil(size / ranks)
    batches = share // batch_size if loader.drop_last else math.ceil(share / batch_size)
    return math.ceil(batches / parts)


def move_schedules(trainer: Any, controller: AutoBatchController, steps: int) -> None:
    """Have the schedules that count steps of the loader's own batches move by the examples trained.

    Args:
        trainer: the Trainer.
        controller: the controller.
        steps: such steps of the whole training; 0 where that is not known, and nothing is done then.
    """
    controller.schedules_by_examples = bool(steps)
    for config in trainer.lr_scheduler_configs if steps else ():
        if config.interval == "step" and not config.reduce_on_plateau and not counts_no_steps(config.scheduler):
            place = partial(_place, controller, steps / config.frequency)
            config.scheduler = ScheduleByExamples(config.scheduler, place)


def _place(controller: AutoBatchController, steps: float) -> float:
    return controller.progress * steps


def divert_backward(module: Any, through: Callable[[Tensor, Callable[[Tensor], Any]], None]) -> None:
    """Have a module's backward passes run through a function of the loss and what would have been called with it."""
    restore_backward(module)
    own = module.backward

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        through(loss, lambda scaled: own(scaled, *args, **kwargs))

    backward.own = vars(module).get("backward")  # type: ignore[attr-defined]
    module.backward = backward


def restore_backward(module: Any) -> None:
    """Undo ``divert_backward``."""
    ours = vars(module).get("backward")
    if hasattr(ours, "own"):
        del module.backward
        if ours.own is not None:
            module.backward = ours.own


def trained_batches(trainer: Any) -> int:
    """Return the batches of the running epoch that are trained, by Lightning's account.

    Where gradients of a step had been accumulated in part when a checkpoint was saved, they are lost, and its batches
    are taken out of the account.

    Args:
        trainer: the Trainer, its progress restored, before its fit loop runs.

    Returns:
        Batches.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    lost = progress.processed % trainer.accumulate_grad_batches
    for count in ("ready", "started", "processed", "completed"):
        setattr(progress, count, getattr(progress, count) - lost)
    return int(progress.processed)


def in_last_batch(trainer: Any) -> bool:
    """Return whether the batch in training, or trained last, is the last of its epoch."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def epoch_is_over(trainer: Any) -> bool:
    """Return whether the epoch that was trained last is over, by Lightning's account."""
    progress = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed == progress.ready)


def mark_resumable(trainer: Any, resumable: bool) -> None:
    """Have the train loader look as if it kept its place in the data by itself; else Lightning warns.

    Args:
        trainer: the Trainer.
        resumable: whether it shall look so. Not while a checkpoint may be saved, which would ask it for its state.
    """
    for loader in trainer.fit_loop._combined_loader.flattened:
        for name in ("state_dict", "load_state_dict"):
            if resumable:
                vars(loader)[name] = dict
            else:
                vars(loader).pop(name, None)


def finish_epoch_on_resume(trainer: Any) -> None:
    """Have a run that was saved right after the last batch of an epoch go on with that epoch's validation and end.

    Lightning itself would pass over both, and begin the next epoch.

    Args:
        trainer: the Trainer, its progress restored, before its fit loop runs.
    """
    loop = trainer.fit_loop.epoch_loop
    progress, validation = loop.batch_progress, loop.val_loop.batch_progress
    if progress.is_last_batch and progress.current.completed < progress.current.processed:
        progress.increment_completed()
        # As if validation had been about to begin.
        validation.current.reset()
        validation.total.ready = validation.total.started = validation.total.completed + 1


def set_epoch_length(trainer: Any, length: int, *, running: bool) -> None:
    """Tell the Trainer how many batches an epoch has.

    Args:
        trainer: the Trainer.
        length: all batches of the epoch, those trained included.
        running: whether it is the running epoch, one of whose batches is about to be trained; else the next one.
    """
    loop = trainer.fit_loop
    fetcher, progress = loop._data_fetcher, loop.epoch_loop.batch_progress
    loop.max_batches = length
    loop._combined_loader.limits = [length]
    fetcher.length = length
    if isinstance(trainer.val_check_interval, float) and getattr(trainer, "_val_check_time_interval", None) is None:
        trainer.val_check_batch = max(1, int(length * trainer.val_check_interval))
    if running:
        fetcher.done = progress.is_last_batch = fetcher.fetched >= length
        bar: Any = getattr(trainer.progress_bar_callback, "_train_progress_bar", None)
        if hasattr(bar, "total"):
            bar.total = length
