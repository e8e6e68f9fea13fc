"""A fit as a loop that scouts and beacons can be made of."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autobatch.control import AutoBatchController
from autobatch.integrations._arguments import with_accumulation
from autobatch.integrations._generators import generators_kept
from autobatch.integrations.lightning._callback import AutoBatchCallback
from autobatch.integrations.lightning._telling import LIGHTNING


def lightning_loop(
    trainer: Any,
    module: Any,
    *fit: Any,
    monitor_loss: str | None = "val_loss",
    monitor_error: str | None = None,
    **data: Any,
) -> Callable[[AutoBatchController], Any]:
    """Make a loop of a fit, for ``autobatch.scout`` and ``autobatch.record_beacons``, as ``Tuner.lr_find`` takes one.

        report = autobatch.scout(lightning_loop(trainer, module, datamodule=data))
        trainer.callbacks.append(AutoBatchCallback(policy="beacon-follow", scouts=report, rates="steered"))
        trainer.fit(module, datamodule=data)

    Trainer and module stay as they are: each training is a fit of copies, which begin with the weights that the module
    has now, log nothing, show no progress, save no checkpoint and have no ``EarlyStopping``. Generators are brought
    back to where they were.

    Args:
        trainer: the Trainer, which has not fitted yet and has no ``AutoBatchCallback`` yet.
        module: the module.
        fit: the train and the validation loader, as ``Trainer.fit`` takes them.
        monitor_loss: name under which the module logs the mean validation loss; None where it does not.
        monitor_error: name under which it logs the share of validation examples classified wrongly; None where it does
            not.
        data: ``datamodule`` or the loaders, as ``Trainer.fit`` takes them.

    Returns:
        The loop; it returns the fitted copy of the module.
    """
    unfitted = copy.deepcopy(trainer)
    unfitted.loggers = []
    unfitted.callbacks = [own for own in unfitted.callbacks if not isinstance(own, _silenced())]
    begins = copy.deepcopy(module)

    def train(controller: AutoBatchController) -> Any:
        mine, model = copy.deepcopy(unfitted), copy.deepcopy(begins)
        controller.plan = with_accumulation(controller.plan, mine.accumulate_grad_batches)
        mine.callbacks.append(
            AutoBatchCallback(controller=controller, monitor_loss=monitor_loss, monitor_error=monitor_error)
        )
        with generators_kept():
            random.seed(controller.seed)
            np.random.seed(controller.seed)
            torch.manual_seed(controller.seed)
            mine.fit(model, *fit, **data)
        return model

    train.__name__ = train.__qualname__ = type(module).__name__
    return train


def _silenced() -> tuple[type, ...]:
    """Return the callbacks that a scout does without: what saves or shows, or ends a training by a rule of its own."""
    callbacks = LIGHTNING.callbacks
    return (callbacks.Checkpoint, callbacks.ProgressBar, callbacks.ModelSummary, callbacks.EarlyStopping)
