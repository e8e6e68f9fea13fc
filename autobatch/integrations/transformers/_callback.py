"""The controller in the loop of Transformers' ``Trainer``."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from autobatch._errors import CheckpointError, ConfigError
from autobatch._files import write_whole
from autobatch.control import AutoBatchController, Measuring, derive_seed
from autobatch.control._controller import ARGUMENTS
from autobatch.control.settings import finds_sizes, refuse_moved
from autobatch.integrations._arguments import with_accumulation, with_reference
from autobatch.integrations._loaders import SeededBatches, loader_like
from autobatch.integrations._schedules import ScheduleByExamples, counts_no_steps
from autobatch.integrations._unwrapped import unwrapped_optimizer
from autobatch.integrations.transformers._trainer import SteeredTrainer, check_trainer
from autobatch.policies import Policy
from autobatch.tracking import as_metrics, as_texts, main_figures

try:
    from transformers import ProgressCallback, Trainer, TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise ConfigError(
        f"AutoBatchTrainerCallback needs transformers and accelerate, which cannot be imported ({error}); install them "
        "with: pip install 'autobatch[hf]'"
    ) from error

_OWN = {"model", "optimizer", "dataset_size", "epochs", "grad_scaler", "batch_size", "processes"}
"""Arguments of the controller that follow from the Trainer."""

KEPT = "autobatch_kept.pt"
"""File in a checkpoint's folder: the weights that the training may go back to."""

Figure = str | Callable[[Mapping[str, float]], float | None]
"""A metric's name, or what makes the figure of all metrics."""


class AutoBatchTrainerCallback(TrainerCallback, ExportableState):
    """Has a controller choose the batch size, and the learning rate where asked, of a ``Trainer``'s training.

        trainer = Trainer(model, args, train_dataset=..., eval_dataset=...)
        trainer.add_callback(AutoBatchTrainerCallback(trainer, policy="beacon-follow", batch_sizes=(32, 64, 128)))
        trainer.train()

    Callbacks cannot reach what has to change: the loader, the number of steps, the forward and backward pass. So this
    one takes the trainer, and makes it an instance of a subclass of its own class that overrides those methods.

    Batch sizes are global: ``per_device_train_batch_size`` x ``gradient_accumulation_steps`` x processes is the
    *nominal* one, which the arguments' learning rate, ``warmup_steps`` and other numbers of steps go by. The training
    ends when every example was seen ``num_train_epochs`` times, in as many steps as that takes. The schedule is moved
    by examples, see ``ScheduleByExamples``; the rule of ``rates`` takes the nominal size as its reference. Gradients
    are those of the mean over the global batch, whatever the sizes of its parts.

    A checkpoint of the Trainer holds the controller's state; ``train(resume_from_checkpoint=...)`` goes on with it, in
    the middle of an epoch too.

    Args:
        trainer: the trainer, before ``train``.
        policy: a policy, or the name or YAML file of one.
        batch_sizes: the ladder of global batch sizes that the policy chooses from, ascending; by default as for
            ``AutoBatchController``.
        controller: in place of all that, a controller that is not attached yet, such as
            ``autobatch.record_beacons`` gives. Its loggers are its own.
        validation_loss: the metric that the policy sees as validation loss, or a function of all metrics.
        validation_error: likewise the validation error; by default ``eval_error``, or 1 - ``eval_accuracy``.
        advise: whether the controller only says what it would have done.
        log_all: whether the Trainer logs every figure of a record, not only batch size, applied rate, C̄, L and the
            examples seen.
        settings: any other argument of ``AutoBatchController``. ``seed`` is by default the arguments'
            ``data_seed`` or ``seed``; the plan's ``accumulation`` follows from ``gradient_accumulation_steps``.

    Raises:
        ConfigError: an argument, or one of the trainer's, cannot be used.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        policy: Policy | str | None = None,
        batch_sizes: Sequence[int] | None = None,
        controller: AutoBatchController | None = None,
        validation_loss: Figure = "eval_loss",
        validation_error: Figure | None = None,
        advise: bool = False,
        log_all: bool = False,
        **settings: Any,
    ) -> None:
        settings |= {"policy": policy} if policy is not None else {}
        settings |= {"batch_sizes": tuple(batch_sizes)} if batch_sizes is not None else {}
        _check_settings(settings, controller)
        if isinstance(trainer, SteeredTrainer):
            raise ConfigError("AutoBatchTrainerCallback: the trainer has one already")
        self._given = controller
        self._settings = settings
        self._advises = advise
        self._log_all = log_all
        check_trainer(trainer, advises=self._advises)
        self.controller: AutoBatchController | None = None
        """The controller of the training that runs or ran last."""
        self._trainer = cast(Any, trainer)
        self._validation_loss = validation_loss
        self._validation_error = validation_error if validation_error is not None else _error_of_accuracy
        self._records: list[Mapping[str, Any]] = []
        self._evaluated: dict[str, float] = {}
        self._resumed_from: Path | None = None
        self._begin()
        self._trainer._autobatch = self
        self._trainer.__class__ = type(
            type(trainer).__name__, (SteeredTrainer, type(trainer)), {"__module__": type(trainer).__module__}
        )
        if not self._advises:
            # The batch sampler goes on where the training stands; the Trainer must not skip batches on top of that.
            trainer.args.ignore_data_skip = True

    # What the Trainer's events do ------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the controller, and bring it to where the checkpoint is."""
        trainer = self._trainer
        controller = self._given or self._new_controller()
        if controller.plan.accumulation != self._accumulation:
            raise ConfigError(
                f"plan: it has accumulation={controller.plan.accumulation}, and the TrainingArguments have "
                f"gradient_accumulation_steps={self._accumulation}"
            )
        self.controller = controller.attach(
            trainer.model_wrapped,
            unwrapped_optimizer(trainer.optimizer),
            dataset_size=self._examples,
            epochs=state.num_train_epochs,
        )
        controller.schedules_by_examples = not self._advises
        stored = state.stateful_callbacks.get(type(self).__name__)
        saved = stored["attributes"]["saved"] if isinstance(stored, Mapping) else None
        if saved is not None:
            self._records.clear()
            self.controller.load_state_dict(saved["controller"])
            self._loss, self._seen = torch.tensor(saved["loss"], dtype=torch.float64), saved["seen"]
            self._evaluated = saved["evaluated"]
            self._restore_kept()
            self._resumed_at_end = self._epoch_trained
            if self._advises and self._resumed_at_end:  # the Trainer begins the next epoch
                self._end_epoch()
        elif state.global_step:
            raise CheckpointError(
                "the checkpoint holds no state of AutoBatchTrainerCallback: it was written without it"
            )
        self._expect(state, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log what was decided on the way to this step."""
        self._log()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say how many steps the training will have, before anybody asks whether this was the last."""
        self._rate = self._controller.lr_effective
        self._expect(state, state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Correct the epoch, which the Trainer counts in steps."""
        if not self._advises:
            state.epoch = self._controller.examples / self._examples
            control.should_training_stop |= self._controller.finished  # stopped by somebody

    def on_evaluate(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Take the metrics; after the epoch's end, decide."""
        metrics = event["metrics"]
        self._evaluated = {**self._evaluated, **{name: value for name, value in metrics.items() if _is_number(value)}}
        self._wanted -= 1
        if self._at_end and self._wanted <= 0:
            self._end_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide, unless an evaluation follows."""
        if self.controller is None:
            return
        ended = self.controller.finished  # within the epoch, if it has begun; the Trainer would begin another
        control.should_training_stop |= ended
        begun = self._controller.examples > self._controller.epoch * self._examples
        if not (self._epoch_trained or ((self._advises or ended) and begun)):
            return  # somebody has stopped the training
        if self._resumed_at_end and not ended and self._controller.examples < self._total:
            control.should_training_stop = False  # the Trainer takes an epoch without batches for the end of the data
        self._resumed_at_end = False
        self._at_end = True
        datasets = self._trainer.eval_dataset
        self._wanted = len(datasets) if isinstance(datasets, dict) else 1
        if not control.should_evaluate:
            self._end_epoch()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the weights that the training may go back to beside the checkpoint, which cannot hold them itself."""
        kept, folder = self._controller.kept, Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if any(kept.values()) and args.should_save and folder.is_dir() and not self._trainer.is_fsdp_enabled:
            content = io.BytesIO()
            torch.save(kept, content)
            write_whole(folder / KEPT, content.getvalue())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let go of the optimizer."""
        if self.controller is not None:
            self._log()
            self.controller.close()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint of the Trainer has to hold."""
        saved = None
        if self.controller is not None:
            saved = {
                "controller": self.controller.state_dict(),
                "loss": float(self._loss),
                "seen": self._seen,
                "evaluated": dict(self._evaluated),
            }
        return {"args": {}, "attributes": {"saved": saved}}

    # What the Trainer's methods do -----------------------------------------------------------------------------------

    def begin_training(self, lengths: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forget an earlier training, and give the epochs as many steps as they may need.

        Args:
            lengths: what ``Trainer.set_initial_training_values`` returned, at the nominal batch size.

        Returns:
            The same; an epoch has one step an example, and is ended when its batches are.
        """
        check_trainer(self._trainer, advises=self._advises)
        self._begin()
        if self._advises:
            return lengths
        epochs, _, examples, samples, batch_size, _, steps = lengths
        most = self._examples
        return epochs, most, examples, samples, batch_size, most * self._accumulation, steps

    def loader(self, theirs: DataLoader[Any]) -> DataLoader[Any]:
        """Return a loader like the Trainer's, with the controller's batches.

        Args:
            theirs: the Trainer's.

        Returns:
            The loader. It draws no number from the global generator, so that a training may go on anywhere in an epoch.
        """
        if self._advises:
            return theirs
        return loader_like(theirs, SeededBatches(self._batches, self._batches_left, self._workers_seed))

    def schedule(self, scheduler: Any, steps: int) -> Any:
        """Return a scheduler that goes by the examples trained.

        Args:
            scheduler: the Trainer's, or the user's.
            steps: steps of the whole training at the nominal batch size.

        Returns:
            The scheduler; itself where it does not count steps.
        """
        if self._advises or isinstance(scheduler, ScheduleByExamples) or counts_no_steps(scheduler):
            return scheduler
        return ScheduleByExamples(
            scheduler, lambda: self.controller.examples * steps / self._total if self.controller else 0
        )

    def training_step(self, train: Callable[..., Tensor], model: Any, inputs: Any, items: Any) -> Tensor:
        """Train on a batch, or on one of the parts that the Trainer accumulates.

        Args:
            train: ``Trainer.training_step``.
            model: the model.
            inputs: the batch.
            items: labels in the whole batch, where the loss is divided by them.

        Returns:
            The loss, as the Trainer reports it.
        """
        if self.controller is None or self.controller.finished:
            return train(model, inputs, items)
        passing: Any = None
        if self._advises or not self.controller.plan.splits:
            passing = self.controller.step()
            if not hasattr(passing, "sizes"):  # a loop that is only advised goes on after its end
                return train(model, inputs, items)
            examples = passing.sizes[passing.part]
            loss = self._pass(passing, train, model, inputs, items)
        else:
            losses: list[Tensor] = []
            for part in self.controller.micro_batches(inputs):
                passing = self.controller.step()
                if passing.part == 0:  # the first, or the first again after memory ran out
                    losses.clear()
                losses.append(self._pass(passing, train, model, part, items))
            loss = torch.stack(losses).sum()
            examples = sum(passing.sizes)
        self._loss = self._loss.to(loss.device) + loss.double() * sum(passing.sizes)
        self._seen += examples
        return loss

    def resuming(self, folder: str) -> None:
        """Know which checkpoint a training goes on from.

        Args:
            folder: the checkpoint's.
        """
        self._resumed_from = Path(folder)

    def labelled(self, logs: dict[str, float]) -> dict[str, float]:
        """Return the Trainer's training logs with the batch size and the rate of the last step."""
        if self.controller is None or "loss" not in logs:
            return logs
        return {**logs, "autobatch/batch_size": self.controller.batch_size, "autobatch/lr_effective": self._rate}

    def _restore_kept(self) -> None:
        path = self._resumed_from / KEPT if self._resumed_from is not None else None
        if path is None or not path.exists():
            return
        try:
            self._controller.kept = torch.load(path, weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, CheckpointError, UnpicklingError) as error:
            raise CheckpointError(f"{path}: truncated, damaged, or no weights of autobatch") from error

    # Inside ----------------------------------------------------------------------------------------------------------

    @property
    def _controller(self) -> AutoBatchController:
        if self.controller is None:
            raise ConfigError(
                "the trainer does not know the AutoBatchTrainerCallback that was made for it: call "
                "trainer.add_callback(callback) before trainer.train()"
            )
        return self.controller

    @property
    def _examples(self) -> int:
        return len(self._trainer.train_dataset)

    @property
    def _total(self) -> int:
        return self._examples * int(self._trainer.args.num_train_epochs)

    @property
    def _accumulation(self) -> int:
        return int(self._trainer.args.gradient_accumulation_steps)

    @property
    def _epoch_trained(self) -> bool:
        return self._controller.examples == (self._controller.epoch + 1) * self._examples

    def _begin(self) -> None:
        self.controller = None
        self._loss, self._seen = torch.zeros((), dtype=torch.float64), 0
        self._evaluated = {}
        self._wanted = 0
        self._rate = math.nan
        self._at_end = self._resumed_at_end = False
        self._records.clear()

    def _batches(self) -> Iterator[list[int]]:
        if self._controller.finished or self._epoch_trained:  # resumed there: the epoch's end is to come
            return iter(())
        return iter(self._controller.batch_sampler)

    def _batches_left(self) -> int:
        if self.controller is not None:
            return len(self.controller.batch_sampler)
        steps = math.ceil(self._examples / int(self._trainer.get_total_train_batch_size(self._trainer.args)))
        return steps * self._accumulation

    def _workers_seed(self) -> int:
        return derive_seed(self._controller.seed, "workers", self._controller.epoch)

    def _new_controller(self) -> AutoBatchController:
        trainer, args = self._trainer, self._trainer.args
        nominal = trainer.get_total_train_batch_size(args)
        settings = {"seed": args.seed if args.data_seed is None else args.data_seed, **self._settings}
        settings["plan"] = with_accumulation(settings.get("plan"), self._accumulation)
        settings["rates"] = with_reference(settings.get("rates"), nominal)
        settings["measuring"] = replace(Measuring.of(settings.get("measuring")), grad_scaler=trainer.accelerator.scaler)
        settings["loggers"] = (*settings.get("loggers", ()), _Records(self._records))
        return AutoBatchController(**settings, advise=nominal if self._advises else None)

    def _expect(self, state: Any, steps: int) -> None:
        """Bring the expected number of steps up to date: it is reached when the last example is trained, not before."""
        if self._advises:
            return
        left = self._total - self._controller.examples
        state.max_steps = steps + math.ceil(left / self._controller.batch_size)
        callbacks = self._trainer.callback_handler.callbacks
        for bar in (callback.training_bar for callback in callbacks if isinstance(callback, ProgressCallback)):
            if bar is not None and bar.total != state.max_steps:
                bar.total = state.max_steps
                bar.refresh()

    def _pass(self, passing: Any, train: Callable[..., Tensor], model: Any, inputs: Any, items: Any) -> Tensor:
        """Train on a part of a batch, and return its share of the batch's loss."""
        sizes, share = passing.sizes, 1.0
        if self._advises:
            passing.weights = [1.0] * len(sizes)
        else:
            if len(sizes) * self._controller.decision.ranks > 1 and self._one_label_each(inputs):
                items = None
            if self._divided(items):
                passing.weights = [1.0] * len(sizes)
            else:
                share = sizes[passing.part] / sum(sizes)
            self._trainer.current_gradient_accumulation_steps = 1  # the controller weighs the parts, ragged ones too
        loss = torch.zeros(())
        with passing as step, self._backward_by(step):
            loss = train(model, inputs, items)
        return loss * share

    def _divided(self, items: Any) -> bool:
        """Whether what the model returns is a part's share of the loss of the whole batch, rather than a mean."""
        trainer = self._trainer
        if trainer.loss_is_scaled_for_ga is not None:
            return bool(trainer.loss_is_scaled_for_ga)
        return bool(trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None

    def _one_label_each(self, inputs: Any) -> bool:
        """Whether a mean over examples will do. It also suits models that ignore the number of items, as BERT's do."""
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        of_tokens = isinstance(labels, Tensor) and labels.ndim > 1 and not labels.is_floating_point()
        trainer = self._trainer
        return not of_tokens and trainer.compute_loss_func is None and trainer.loss_is_scaled_for_ga is None

    @contextmanager
    def _backward_by(self, step: Any) -> Iterator[None]:
        accelerator = self._trainer.accelerator
        theirs = accelerator.backward

        def backward(loss: Tensor, **options: Any) -> None:
            if options:
                step.backward(loss, using=partial(theirs, **options))
            else:
                step.backward(loss if accelerator.scaler is None else accelerator.scaler.scale(loss))

        accelerator.backward = backward
        try:
            yield
        finally:
            accelerator.backward = theirs

    def _end_epoch(self) -> None:
        self._at_end = False
        loss = float(self._loss) / self._seen if self._seen else None
        self._controller.end_epoch(
            val_loss=_figure(self._validation_loss, self._evaluated),
            val_error=_figure(self._validation_error, self._evaluated),
            train_loss=loss,
        )
        self._loss, self._seen, self._evaluated = torch.zeros((), dtype=torch.float64), 0, {}
        if not self._controller.finished:
            self._expect(self._trainer.state, self._trainer.state.global_step)
        elif self._controller.stopped_because is not None:  # by a decision, say; the Trainer has epochs left
            self._trainer.control.should_training_stop = True
        self._log()

    def _log(self) -> None:
        trainer = self._trainer
        for record in self._records:
            told = record if self._log_all else main_figures(record)
            logs: dict[str, Any] = {**as_metrics(told), **as_texts(told)}
            asked = trainer.control.should_log  # logging takes this back, and it is not ours
            trainer.log(logs)
            trainer.control.should_log = asked
        self._records.clear()


class _Records:
    """A logger that keeps records until the Trainer can log them."""

    def __init__(self, records: list[Mapping[str, Any]]) -> None:
        self._records = records

    def log(self, record: Mapping[str, Any], step: int) -> None:
        self._records.append(dict(record))

    def close(self) -> None:
        pass


def _check_settings(settings: Mapping[str, Any], controller: AutoBatchController | None) -> None:
    if controller is not None:
        if settings:
            raise ConfigError(f"AutoBatchTrainerCallback: {sorted(settings)} and controller: give one of the two")
        return
    for name in settings:
        if name in _OWN:
            raise ConfigError(f"AutoBatchTrainerCallback: {name} follows from the trainer and cannot be given")
    refuse_moved(settings, ARGUMENTS - _OWN, "AutoBatchTrainerCallback")
    if Measuring.of(settings.get("measuring")).grad_scaler is not None:
        raise ConfigError("AutoBatchTrainerCallback: grad_scaler follows from the trainer and cannot be given")
    if "policy" not in settings:
        raise ConfigError("AutoBatchTrainerCallback: policy is missing")
    if not {"batch_sizes", "scouts"} & settings.keys() and not finds_sizes(settings["policy"]):
        raise ConfigError("AutoBatchTrainerCallback: batch_sizes is missing")


def _error_of_accuracy(metrics: Mapping[str, float]) -> float | None:
    if "eval_error" in metrics:
        return metrics["eval_error"]
    return 1.0 - metrics["eval_accuracy"] if "eval_accuracy" in metrics else None


def _figure(wanted: Figure, metrics: Mapping[str, float]) -> float | None:
    return metrics.get(wanted) if isinstance(wanted, str) else wanted(metrics)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
