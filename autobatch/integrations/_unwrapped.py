"""What Accelerate makes of models' optimizers and schedulers, taken apart again."""

from typing import Any

from torch.optim import Optimizer


def unwrapped_optimizer(optimizer: Any) -> Any:
    """Return the optimizer, whose steps can be hooked, within the one that ``Accelerator.prepare`` has made of it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def unwrapped_scheduler(scheduler: Any) -> Any:
    """Return the scheduler within the one that ``Accelerator.prepare`` has made of it."""
    return getattr(scheduler, "scheduler", scheduler) if hasattr(scheduler, "step_with_optimizer") else scheduler


def unsupported_kind(accelerator: Any) -> str | None:
    """Return what an accelerator distributes a training with where a controller cannot take part, else None."""
    kind = str(accelerator.distributed_type.name)
    if kind == "FSDP":
        version = getattr(accelerator.state.fsdp_plugin, "fsdp_version", 1)
        return "FSDP (version 1)" if version == 1 else None
    return kind if kind in {"DEEPSPEED", "MEGATRON_LM", "XLA"} else None
