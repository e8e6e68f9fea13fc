"""What a ``Trainer`` of Transformers must be for its batch size to change, and what it becomes."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from autobatch._errors import ConfigError
from autobatch.integrations._unwrapped import unsupported_kind


class Steering(Protocol):
    """What a ``SteeredTrainer`` asks of its callback, an ``AutoBatchTrainerCallback``."""

    def begin_training(self, lengths: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give the epochs as many steps as they may need."""
        ...

    def loader(self, theirs: DataLoader[Any]) -> DataLoader[Any]:
        """Return a loader like the Trainer's, with the controller's batches."""
        ...

    def schedule(self, scheduler: Any, steps: int) -> Any:
        """Return a scheduler that goes by the examples trained."""
        ...

    def training_step(self, train: Callable[..., Tensor], model: Any, inputs: Any, items: Any) -> Tensor:
        """Train on a batch, or on one of the parts that the Trainer accumulates."""
        ...

    def resuming(self, folder: str) -> None:
        """Know which checkpoint a training goes on from."""
        ...

    def labelled(self, logs: dict[str, float]) -> dict[str, float]:
        """Return the Trainer's training logs with the batch size and the rate of the last step."""
        ...


class SteeredTrainer:
    """What a trainer is besides its own class once it has an ``AutoBatchTrainerCallback``."""

    _autobatch: Steering

    def get_train_dataloader(self) -> Any:
        return self._autobatch.loader(super().get_train_dataloader())  # type: ignore[misc]

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        return self._autobatch.begin_training(super().set_initial_training_values(*args, **kwargs))  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        theirs = super().create_scheduler(num_training_steps, *args, **kwargs)  # type: ignore[misc]
        self.lr_scheduler = self._autobatch.schedule(theirs, num_training_steps)
        return self.lr_scheduler

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        if not batches:
            self.control.should_epoch_stop = True  # type: ignore[attr-defined]
        return batches, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        return self._autobatch.training_step(super().training_step, model, inputs, num_items_in_batch)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(self._autobatch.labelled(logs), *args, **kwargs)  # type: ignore[misc]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        self._autobatch.resuming(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _load_callback_state(self) -> None:
        # It would make a new callback out of the checkpoint; this one restores itself.
        stored = self.state.stateful_callbacks  # type: ignore[attr-defined]
        own = stored.pop(type(self._autobatch).__name__, None)
        super()._load_callback_state()  # type: ignore[misc]
        if own is not None:
            stored[type(self._autobatch).__name__] = own


def check_trainer(trainer: Any, *, advises: bool) -> None:
    """Refuse what a training with changing batch sizes cannot have; one that is only advised keeps its own."""
    args, accelerator = trainer.args, trainer.accelerator
    if isinstance(trainer.train_dataset, IterableDataset) or not hasattr(trainer.train_dataset, "__len__"):
        raise ConfigError(
            "AutoBatchTrainerCallback: train_dataset: expected a dataset with a length and an index; for streams "
            "write a loop with AutoBatchController.rebatch"
        )
    refusals = {
        "max_steps": (args.max_steps > 0, "steps differ in size: give the length as num_train_epochs"),
        "num_train_epochs": (args.num_train_epochs != round(args.num_train_epochs), "expected a whole number"),
        "auto_find_batch_size": (args.auto_find_batch_size, "use plan=BatchPlan(micro_batch='auto') instead"),
        "dataloader_drop_last": (args.dataloader_drop_last, "every epoch has every example; leave it False"),
        "train_sampling_strategy": (
            args.train_sampling_strategy != "random",
            "the controller orders the examples at random; leave it 'random'",
        ),
        "enable_jit_checkpoint": (
            args.enable_jit_checkpoint,
            "it may save between a backward pass and its step; use save_strategy='steps'",
        ),
    }
    for name, (refused, why) in refusals.items():
        if refused and not advises:
            raise ConfigError(f"AutoBatchTrainerCallback: TrainingArguments.{name}={getattr(args, name)!r}: {why}")
    kind = "DataParallel" if args.n_gpu > 1 else unsupported_kind(accelerator)
    if kind is not None:
        raise ConfigError(f"AutoBatchTrainerCallback: {kind} is not supported; use DistributedDataParallel (torchrun)")
    if trainer.get_sp_size() * trainer.get_cp_size() * trainer.get_tp_size() > 1:
        raise ConfigError("AutoBatchTrainerCallback: tensor, context and sequence parallelism are not supported")
