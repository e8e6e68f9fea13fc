"""What the callback refuses: Trainers and arguments that the controller cannot go with."""

import inspect
from collections.abc import Mapping
from typing import Any

from autobatch._errors import ConfigError
from autobatch.control import AutoBatchController, BatchPlan, Measuring
from autobatch.control._controller import ARGUMENTS
from autobatch.control.settings import refuse_moved

_OURS = {
    "model": "Trainer.fit gets it",
    "optimizer": "configure_optimizers returns it",
    "batch_size": "the train DataLoader has it",
    "processes": "Trainer(strategy=..., accelerator=...) says it",
}
_SUPPORTED_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that nobody knows, those that Lightning decides, and what its backward pass cannot do."""
    for name in arguments:
        if name in _OURS:
            raise ConfigError(f"AutoBatchCallback: '{name}' is not given here: {_OURS[name]}")
    refuse_moved(arguments, ARGUMENTS - _OURS.keys(), "AutoBatchCallback")
    measuring, plan = Measuring.of(arguments.get("measuring")), arguments.get("plan") or BatchPlan()
    if measuring.grad_scaler is not None:
        raise ConfigError("AutoBatchCallback: 'grad_scaler' is not given here: Trainer(precision=...) makes it")
    if plan.splits or plan.accumulation > 1:
        raise ConfigError(
            "AutoBatchCallback: how batches are split is not given here: Trainer(accumulate_grad_batches=...) says it"
        )
    if measuring.bn == "exact":
        raise ConfigError("AutoBatchCallback: bn='exact' needs a backward pass of its own, and here Lightning runs it")


def check_trainer(trainer: Any, module: Any, epochs: int | None, *, advising: bool) -> None:
    """Refuse a Trainer whose training of ``epochs``, where that was said, the controller cannot rule."""
    if len(trainer.optimizers) != 1:
        raise ConfigError(
            f"AutoBatchCallback: expected one optimizer from configure_optimizers, got {len(trainer.optimizers)}"
        )
    if type(trainer.strategy).__name__ not in _SUPPORTED_STRATEGIES:
        raise ConfigError(
            f"AutoBatchCallback: Trainer(strategy=...) is a {type(trainer.strategy).__name__}; supported: "
            + ", ".join(_SUPPORTED_STRATEGIES)
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ConfigError("AutoBatchCallback: training_step must take a batch, not dataloader_iter")
    if any(type(each).__name__ == "GradientAccumulationScheduler" for each in trainer.callbacks):
        raise ConfigError(
            "AutoBatchCallback does not go with GradientAccumulationScheduler; use accumulate_grad_batches"
        )
    limited = isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches != 1.0
    if (limited or trainer.overfit_batches) and not (trainer.fast_dev_run or advising):
        raise ConfigError(
            "AutoBatchCallback: limit_train_batches and overfit_batches cut an epoch short, and the controller's "
            "epochs see every example; give the loader a smaller dataset (torch.utils.data.Subset)"
        )
    if epochs is not None:
        if trainer.max_epochs > epochs:
            raise ConfigError(
                f"AutoBatchCallback: epochs={epochs}, but Trainer(max_epochs={trainer.max_epochs}) is more"
            )
    elif trainer.max_epochs == -1 or (trainer.max_steps != -1 and not trainer.fast_dev_run):
        raise ConfigError(
            "AutoBatchCallback: epochs=... is needed where the Trainer has max_steps or no max_epochs: policies go "
            "by the progress in the whole training"
        )


def check_given(controller: AutoBatchController, accumulation: int, scaler: Any) -> None:
    """Refuse a controller that was made for another accumulation or gradient scaler than the Trainer's."""
    if controller.plan.accumulation != accumulation:
        raise ConfigError(
            f"AutoBatchCallback: the controller's plan has accumulation={controller.plan.accumulation}, and the "
            f"Trainer has accumulate_grad_batches={accumulation}"
        )
    if scaler is not None:
        raise ConfigError(
            "AutoBatchCallback: with Trainer(precision='16-mixed') the controller needs the Trainer's scaler, and "
            "one that is given does not have it; use precision='bf16-mixed'"
        )
