"""A Trainer's training as a loop that scouts and beacons can be made of."""

import copy
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from transformers import DefaultFlowCallback, Trainer, TrainerControl, TrainerState, set_seed
from transformers.trainer_callback import CallbackHandler

from autobatch._errors import ConfigError
from autobatch.control import AutoBatchController
from autobatch.integrations._arguments import with_accumulation
from autobatch.integrations._generators import generators_kept
from autobatch.integrations.transformers._callback import AutoBatchTrainerCallback, Figure
from autobatch.integrations.transformers._trainer import SteeredTrainer


def transformers_loop(
    trainer: Trainer, *, validation_loss: Figure = "eval_loss", validation_error: Figure | None = None
) -> Callable[[AutoBatchController], Any]:
    """Make a loop of a Trainer's training, for ``autobatch.scout`` and ``autobatch.record_beacons``.

        report = autobatch.scout(transformers_loop(trainer))
        trainer.add_callback(AutoBatchTrainerCallback(trainer, policy="beacon-follow", scouts=report))
        trainer.train()

    The Trainer stays as it is: each training is one of a copy, with copies of model, optimizer and scheduler as they
    are now, which reports to nobody, saves no checkpoint and has none of the callbacks that were added. Generators are
    brought back to where they were.

    Args:
        trainer: the Trainer, before ``train`` and without an ``AutoBatchTrainerCallback``.
        validation_loss: the metric that is the validation loss, or a function of all metrics.
        validation_error: likewise the validation error; by default ``eval_error``, or 1 - ``eval_accuracy``.

    Returns:
        The loop; it returns the trained copy of the Trainer.

    Raises:
        ConfigError: the Trainer has an ``AutoBatchTrainerCallback`` already.
    """
    if isinstance(trainer, SteeredTrainer):
        raise ConfigError(
            "transformers_loop: the trainer has an AutoBatchTrainerCallback already; scout before adding it"
        )
    begins = copy.deepcopy((trainer.model, trainer.optimizer, trainer.lr_scheduler))

    def train(controller: AutoBatchController) -> Any:
        controller.plan = with_accumulation(controller.plan, trainer.args.gradient_accumulation_steps)
        with TemporaryDirectory() as folder, generators_kept():
            set_seed(controller.seed)
            mine = _copied(trainer, begins, folder)
            mine.add_callback(
                AutoBatchTrainerCallback(
                    mine, controller=controller, validation_loss=validation_loss, validation_error=validation_error
                )
            )
            mine.train()
        return mine

    train.__name__ = train.__qualname__ = type(trainer.model).__name__
    return train


def _copied(trainer: Trainer, begins: tuple[Any, Any, Any], folder: str) -> Trainer:
    """Return a trainer like one that has not trained yet, of its own model, which tells and keeps nothing."""
    mine = copy.copy(trainer)
    mine.model, mine.optimizer, mine.lr_scheduler = copy.deepcopy(begins)
    mine.model_wrapped = mine.model
    mine.args = replace(
        trainer.args,
        output_dir=folder,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        load_best_model_at_end=False,
    )
    mine.state, mine.control = TrainerState(), TrainerControl()
    handler: Any = CallbackHandler
    mine.callback_handler = handler(
        [DefaultFlowCallback()], mine.model, mine.processing_class, mine.optimizer, mine.lr_scheduler
    )
    mine.create_accelerator_and_postprocess()
    return mine
