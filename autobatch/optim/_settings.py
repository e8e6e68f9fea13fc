"""Settings of an optimizer, held to their ranges."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from autobatch._errors import ConfigError
from autobatch._ranges import check_number, check_whole


def check_between(value: Any, what: str, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
    """Refuse a number outside a range.

    Args:
        value: the number.
        what: its name.
        low: the least that it may be.
        high: the most.
        above: whether it must be above ``low``.
        below: whether it must be below ``high``.

    Raises:
        ConfigError: it is no number, not finite, or outside.
    """
    number = check_number(value, what)
    inside = (low < number if above else low <= number) and (number < high if below else number <= high)
    if not (math.isfinite(number) and inside):
        upper = f"{')' if below else ']'}" if math.isfinite(high) else ")"
        bounds = f"{'(' if above else '['}{low:g}, {high:g}{upper}"
        raise ConfigError(f"{what}: expected a number in {bounds}, got {value!r}")


def check_schedule(group: Mapping[str, Any]) -> None:
    """Refuse a schedule in which inversions do not fall on updates.

    Args:
        group: has ``update_every`` and ``invert_every``, in steps.

    Raises:
        ConfigError: one is no whole number from 1, or the second is no multiple of the first.
    """
    update = check_whole(group["update_every"], "update_every")
    invert = check_whole(group["invert_every"], "invert_every")
    if invert % update:
        raise ConfigError(f"invert_every: expected a multiple of update_every={update}, got {invert}")


def check_shaped(model: nn.Module, what: str) -> None:
    """Refuse a network with lazy layers that have seen no batch.

    Args:
        model: the network.
        what: its name.

    Raises:
        ConfigError: a parameter has no shape.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(f"{what}: {name!r} of a lazy layer has no shape yet: call the model once on a batch")
