"""Lightning: a callback that lets the controller choose the batches of a training whose modules know nothing of it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch.control import AutoBatchController, Measuring, Step, TaskFacts
from autobatch.integrations._arguments import with_accumulation, with_reference
from autobatch.integrations._generators import generator_states, set_generator_states
from autobatch.integrations.lightning._checks import check_arguments, check_given, check_trainer
from autobatch.integrations.lightning._loop import (
    PlannedBatches,
    Rebatched,
    check_loader,
    divert_backward,
    divert_loader,
    epoch_is_over,
    finish_epoch_on_resume,
    in_last_batch,
    is_in_order,
    is_stream,
    mark_resumable,
    move_schedules,
    own_batch_size,
    restore_backward,
    restore_loader,
    set_epoch_length,
    steps_of_loader,
    trained_batches,
    with_batches,
)
from autobatch.integrations.lightning._telling import LIGHTNING, Said, TrainerLog
from autobatch.policies import Policy

_Callback: Any = LIGHTNING.Callback
_STATE = {"controller", "figures", "generators"}


class AutoBatchCallback(_Callback):  # type: ignore[misc]
    """Chooses batch size and learning rate while a ``Trainer`` trains; module and data module stay as they are.

        callback = AutoBatchCallback(policy="s32-to-128", batch_sizes=(32, 64, 128), monitor_loss="val_loss")
        trainer = Trainer(max_epochs=20, callbacks=[callback])
        trainer.fit(module, datamodule=data)

    The train ``DataLoader`` keeps its dataset, collate function and workers and gets the controller's batches. The rate
    of the optimizer, and its schedulers, are taken to be those for the loader's own batch size: with a rule such as
    ``rates="linear"`` that is the reference. Decisions go to the Trainer's loggers as ``autobatch/...`` and to the
    console; the controller's state is in every checkpoint, and ``Trainer.fit(ckpt_path=...)`` goes on from it.

    Args:
        policy: a policy, or the name or YAML file of one.
        batch_sizes: the ladder of global batch sizes that the policy chooses from, ascending; by default that of
            ``scouts``.
        controller: in place of all that, a controller that is not attached yet, such as ``autobatch.scout`` and
            ``autobatch.record_beacons`` give; it serves one fit. Its loggers are its own.
        monitor_loss: name under which the module logs the mean validation loss; None where it does not.
        monitor_error: name under which the module logs the share of validation examples classified wrongly; None where
            it does not.
        monitor_train_loss: name under which the module logs the mean training loss of an epoch; None where it does not.
        epochs: length of the whole training; by default the Trainer's ``max_epochs``.
        advise: whether the controller only says what it would have done.
        log_all: whether the Trainer's loggers get every figure of a record, not only batch size, applied rate, C̄, L and
            the examples seen.
        arguments: keyword arguments of ``AutoBatchController``, such as ``library``, ``rates``, ``plan`` (for
            ``decide_every``), ``measuring`` or ``seed``. An iterable dataset needs ``dataset_size``.

    Raises:
        ConfigError: an argument is not known, or is one that the Trainer decides.
    """

    def __init__(
        self,
        *,
        policy: Policy | str | None = None,
        batch_sizes: Sequence[int] | None = None,
        controller: AutoBatchController | None = None,
        monitor_loss: str | None = "val_loss",
        monitor_error: str | None = None,
        monitor_train_loss: str | None = None,
        epochs: int | None = None,
        advise: bool = False,
        log_all: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__()
        check_arguments(arguments)
        if (policy is None) == (controller is None):
            raise ConfigError("AutoBatchCallback: give it either policy=..., or controller=...")
        if controller is not None and (arguments or batch_sizes is not None):
            given = sorted({*arguments, *(("batch_sizes",) if batch_sizes is not None else ())})
            raise ConfigError(f"AutoBatchCallback: {', '.join(given)} and controller: give one of the two")
        self._given = controller
        self._arguments = {**arguments, "policy": policy, "batch_sizes": batch_sizes}
        self._monitors = {"val_loss": monitor_loss, "val_error": monitor_error}
        self._monitor_train_loss = monitor_train_loss
        self._epochs = epochs
        self._dataset_size: int | None = arguments.get("dataset_size")
        self._advising = advise
        self._log_all = log_all
        self._entered = False
        self._controller: AutoBatchController | None = None
        self._attached = False
        self._restored: dict[str, Any] | None = None
        self._generators: dict[str, Any] | None = None
        self._reset()

    @property
    def controller(self) -> AutoBatchController:
        """The controller of the fit that is running, or else of the last one.

        Raises:
            AutoBatchError: nothing was fitted yet.
        """
        if self._controller is None:
            raise AutoBatchError("AutoBatchCallback has no controller before Trainer.fit")
        return self._controller

    # Hooks -----------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check what the Trainer was given, and stand between it and the train loader."""
        check_trainer(trainer, pl_module, self._epochs, advising=self._advising)
        self._reset()
        self._controller, self._attached, self._generators = None, False, None
        self._log = TrainerLog(trainer, everything=self._log_all)
        divert_loader(trainer, lambda loader: self._prepared(trainer, pl_module, loader))
        divert_backward(pl_module, lambda loss, run: self._backward(trainer, loss, run))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on where a checkpoint was saved, within an epoch too."""
        if self._generators is not None and trainer.world_size == 1 and not self._advising:
            set_generator_states(self._generators, pl_module.device)
        if self._batches.trained and not self._advising:
            mark_resumable(trainer, True)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Enter the step: forward and backward pass come next.

        A decision within the epoch was taken when this batch was fetched, or just now.

        Args:
            trainer: the Trainer.
            pl_module: the module.
            batch: the batch, on the device.
            batch_idx: its number in the epoch.
        """
        if not self._advising:
            mark_resumable(trainer, False)
        self._enter(batch)
        if self._said.announce(self.controller.decision):
            self._tell_length(trainer, running=True)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Leave the step: the gradients are there and the optimizer comes next."""
        self._leave()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch."""
        if not self._entered:  # a batch of None, which Lightning passes over
            self._enter(None)
        self._leave()  # where the training step had no backward pass
        self._entered = False
        self._batches.done()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Take down the validation figures of the epoch."""
        if trainer.sanity_checking or not self._attached or trainer.state.fn != "fit":
            return
        for figure, name in self._monitors.items():
            if name is not None:
                self._figures[figure] = self._said.metric(trainer, name)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the controller's epoch where all its examples are trained."""
        if self._advising and self._batches.trained % trainer.accumulate_grad_batches:
            self._enter(None)  # a last step of fewer parts, which Lightning has taken; the controller leaves it out
        self._leave(AutoBatchError("the batch was skipped"))
        self._entered = False
        trained = self._epoch_is_trained(trainer)
        self._batches.end_epoch(theirs=trained)
        if trained:
            if self._monitor_train_loss is not None:
                self._figures["train_loss"] = self._said.metric(trainer, self._monitor_train_loss)
            self._end_epoch()
        self._said.announce(self.controller.decision)
        self._tell_length(trainer, running=False)
        if self.controller.finished and trainer.current_epoch + 1 != trainer.max_epochs:
            because = self.controller.stopped_because
            self._said.say(because if because is not None else f"all {self.controller.epochs} epochs are trained")
            trainer.should_stop = True

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the step that raised, and the Trainer as it was."""
        self._leave(exception)
        self._entered = False
        self._let_go(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the Trainer as it was."""
        self._let_go(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps.

        Lightning keeps no generators. Their states serve a training of one process; of several, only the first saves.

        Returns:
            The controller's state, the figures of the running epoch, the generators' states and the weights that the
            training may go back to, of values that ``torch.load(weights_only=True)`` reads; nothing where nothing is
            trained.
        """
        if not self._attached:
            return self._restored or {}
        return {
            "controller": self.controller.state_dict(),
            "figures": dict(self._figures),
            "generators": generator_states(self._device),
            "kept": self.controller.kept,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until the train loader is there."""
        self._restored = state_dict

    # Inside ----------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._entered = False
        self._step: ExitStack | None = None
        self._inside: Step | None = None
        self._figures: dict[str, float | None] = {}
        self._said = Said(advising=self._advising)

    def _prepared(self, trainer: Any, pl_module: Any, loader: Any) -> Any:
        """Return the loader to train with in place of the user's."""
        check_loader(loader, replaced=not self._advising)
        size = self._size(loader)
        if not self._attached:
            self._attach(trainer, pl_module, loader, size)
        elif size != self._examples:
            raise ConfigError(
                f"AutoBatchCallback: the reloaded train DataLoader has {size} examples, the training began with "
                f"{self._examples}"
            )
        if self._advising:
            return loader
        return Rebatched(loader, self._batches) if is_stream(loader) else with_batches(loader, self._batches)

    def _size(self, loader: Any) -> int:
        if is_stream(loader):
            if self._dataset_size is None:
                raise ConfigError(
                    "AutoBatchCallback: an iterable dataset needs dataset_size=..., its examples an epoch"
                )
            return self._dataset_size
        size = len(loader.sampler if self._advising else loader.dataset)
        if self._dataset_size not in {None, size}:
            raise ConfigError(
                f"AutoBatchCallback: dataset_size={self._dataset_size}, but the dataset has {size} examples"
            )
        return size

    def _attach(self, trainer: Any, pl_module: Any, loader: Any, size: int) -> None:
        """Make the controller, and take up the state of a checkpoint."""
        restored, self._restored = self._restored, None
        if restored is not None and restored.keys() - {"kept"} != _STATE:  # older ones keep no weights
            raise CheckpointError(
                f"AutoBatchCallback: the checkpoint's state is damaged: expected {sorted(_STATE)}, got {list(restored)}"
            )
        epochs = self._epochs if self._epochs is not None else trainer.max_epochs
        if trainer.current_epoch and restored is None:
            epochs = max(1, epochs - trainer.current_epoch)
            self._said.warn(
                "the Trainer goes on with a training that the controller was not part of; it begins anew, with "
                f"{epochs} epochs to train"
            )
        parts = trainer.accumulate_grad_batches * trainer.world_size
        own = own_batch_size(loader)
        reference = None if own is None else own * parts
        task = self._arguments.get("task") or TaskFacts()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        arguments = {
            **self._arguments,
            "plan": with_accumulation(self._arguments.get("plan"), trainer.accumulate_grad_batches),
            "rates": with_reference(self._arguments.get("rates"), reference),
            "measuring": replace(Measuring.of(self._arguments.get("measuring")), grad_scaler=scaler),
            "task": replace(task, name=task.name or type(pl_module).__name__),
        }
        if self._advising:
            arguments["advise"] = reference
        elif not is_stream(loader) and is_in_order(loader):
            self._said.warn(
                "the train DataLoader has shuffle=False, and the controller draws every epoch in another random order; "
                "say shuffle=True to agree"
            )
        arguments["loggers"] = (self._log, *arguments.get("loggers", ()))
        if self._given is not None:
            check_given(self._given, trainer.accumulate_grad_batches, scaler)
        self._controller = self._given or AutoBatchController(**arguments)
        self._module = _Batchwise(pl_module)
        self._controller.attach(self._module, trainer.optimizers[0], dataset_size=size, epochs=epochs)
        self._batches = PlannedBatches(self._controller)
        if not self._advising and trainer.lightning_module.automatic_optimization:
            move_schedules(trainer, self._controller, epochs * steps_of_loader(trainer, loader, size))
        if restored is not None:
            self._controller.load_state_dict(restored["controller"])
            if "kept" in restored:
                self._controller.kept = restored["kept"]
            self._figures, self._generators = dict(restored["figures"]), restored["generators"]
            begun = self._controller.examples > self._controller.epoch * size
            if begun and epoch_is_over(trainer):  # saved by a callback that came before this one
                self._end_epoch()
            elif begun:
                self._batches.trained = trained_batches(trainer)
                finish_epoch_on_resume(trainer)
        self._attached, self._examples, self._device = True, size, pl_module.device
        self._said.announce(self.controller.decision)

    def _enter(self, batch: Any) -> None:
        self._step = ExitStack()
        self._inside = self._step.enter_context(self.controller.step())
        self._entered = True
        self._module(*_tensors(batch))

    def _leave(self, error: BaseException | None = None) -> None:
        step, self._step, self._inside = self._step, None, None
        if step is not None:
            step.__exit__(type(error) if error is not None else None, error, None)

    def _backward(self, trainer: Any, loss: Tensor, run: Callable[[Tensor], Any]) -> None:
        """Run a backward pass, with the loss scaled to the share of the batch that its examples are."""
        if self._inside is None:
            run(loss)
        elif self._advising:
            self._inside.backward(loss, lambda _: run(loss))
        else:
            parts = trainer.accumulate_grad_batches  # by which Lightning has divided, as if all were of one size
            self._inside.backward(loss * parts if parts > 1 else loss, run)

    def _let_go(self, trainer: Any, pl_module: Any) -> None:
        restore_loader(trainer)
        restore_backward(pl_module)
        if self._attached:
            self.controller.close()

    def _end_epoch(self) -> None:
        figures: dict[str, Any]
        figures, self._figures = dict(self._figures), {}
        self.controller.end_epoch(**figures)

    def _epoch_is_trained(self, trainer: Any) -> bool:
        if self._advising:
            return in_last_batch(trainer)
        return self.controller.examples == (self.controller.epoch + 1) * self._examples

    def _tell_length(self, trainer: Any, *, running: bool) -> None:
        if self._advising or trainer.fast_dev_run or not math.isfinite(trainer.num_training_batches):
            return
        if self.controller.finished:
            return
        length, every = len(self._batches), trainer.val_check_interval
        set_epoch_length(trainer, length, running=running)
        counted = isinstance(every, int) and trainer.check_val_every_n_epoch is not None and trainer.enable_validation
        if counted and length < every:
            self._said.warn(
                f"epochs of fewer than {every} batches have no validation with Trainer(val_check_interval={every}); "
                "say a share of the epoch, such as 1.0, or check_val_every_n_epoch=None"
            )


class _Batchwise(nn.Module):
    """A module as measuring sees it: called once a step, with the batch, whatever its training step calls of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> None:
        """Take the batch."""


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)
