"""What a controller can see of the training that a loop of somebody's own is, and whether beacons are of the same."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autobatch._errors import ConfigError, LibraryError
from autobatch.beacons import BeaconLibrary
from autobatch.beacons._info import as_stored, told_differences

LOOP = "loop"
"""Key of a library's task under which its beacons' loop is described; libraries of tasks with an env.yaml have none."""

# Learning rates are what a controller changes; the others choose an implementation, not an update rule.
_NO_PART_OF_THE_TASK = frozenset({"params", "lr", "foreach", "fused", "capturable", "differentiable"})


def loop_facts(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    dataset_size: int,
    epochs: int,
    decide_every: float | None = None,
    loss_reduction: str = "mean",
) -> dict[str, Any]:
    """Describe a loop as far as it can be seen before the first step.

    Args:
        model: the network in training.
        optimizer: its optimizer, before a controller has touched it.
        dataset_size: training examples.
        epochs: length of the whole training.
        decide_every: how often the controller decides, as it was given.
        loss_reduction: how the loss reduces over a batch.

    Returns:
        JSON-able facts: sizes, the number of parameters, and the optimizer's class and hyperparameters without learning
        rates. What cannot be seen (the data themselves, a schedule, an augmentation) is not among them.
    """
    return {
        "dataset_size": int(dataset_size),
        "epochs": int(epochs),
        "decide_every": decide_every,
        "loss_reduction": loss_reduction,
        "parameters": _parameter_count(model),
        "optimizer": {
            "name": type(optimizer).__name__,
            "groups": {str(index): _group(group) for index, group in enumerate(optimizer.param_groups)},
            "rate_proportions": _rate_proportions(optimizer),
        },
    }


def check_own_task(library: BeaconLibrary, facts: Mapping[str, Any]) -> None:
    """Refuse beacons that were recorded with another loop.

    Args:
        library: the beacons. A library of a task with an ``env.yaml`` says nothing of a loop and is let through.
        facts: what ``loop_facts`` says of this loop.

    Raises:
        LibraryError: the loops differ; the message names every difference with both values.
    """
    recorded = library.task.get(LOOP)
    if not isinstance(recorded, Mapping):
        return
    if differing := told_differences(recorded, as_stored(facts), "is {} in the library and {} here"):
        raise LibraryError(
            f"the beacon library '{library.task_name}' was recorded with another loop: {differing}; record beacons "
            "with this one by autobatch.record_beacons, into another folder"
        )


def check_scouts_loop(scouted: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse scouts of another loop.

    Args:
        scouted: what ``loop_facts`` said of the scouts' loop; empty where it never came to that.
        facts: what it says of this one.

    Raises:
        ConfigError: the loops differ; the message names every difference with both values.
    """
    how = "was {} there and is {} here"
    if scouted and (differing := told_differences(as_stored(scouted), as_stored(facts), how)):
        raise ConfigError(f"the scouts are of another loop: {differing}; scout this one, with another folder as 'out'")


def _parameter_count(model: nn.Module) -> int | None:
    parameters = list(model.parameters())
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        return None
    return sum(parameter.numel() for parameter in parameters)


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    shown = {}
    for key, value in sorted(group.items()):
        # Schedulers keep rates of theirs in the groups (initial_lr, max_lr).
        if key in _NO_PART_OF_THE_TASK or key.endswith("_lr"):
            continue
        plain = _plain(value)
        if plain is not None:
            shown[key] = plain
    return shown


def _rate_proportions(optimizer: Optimizer) -> list[float]:
    """Return each group's learning rate relative to the first's, before a scheduler has changed it."""
    rates = [float(group.get("initial_lr", group.get("lr", 0.0))) for group in optimizer.param_groups]
    return [float(f"{rate / rates[0]:.6g}") for rate in rates] if rates and rates[0] > 0.0 else []


def _plain(value: Any) -> Any:
    """Return a hyperparameter as JSON has it; None for one that JSON cannot hold."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        values = [_plain(part) for part in value]
        return None if None in values else values
    return None
