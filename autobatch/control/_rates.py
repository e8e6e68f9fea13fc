"""Learning rates are computed from fixed references, never multiplied in place."""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from autobatch._errors import ConfigError

Schedule = Callable[[float], float]
"""Maps progress in [0, 1] to a positive factor on the base learning rate."""


def constant_schedule(progress: float) -> float:
    """Return 1.0 at any progress.

    Args:
        progress: examples seen / examples of the whole training, in [0, 1].

    Returns:
        The factor.
    """
    return 1.0


def rate_proportions(optimizer: Optimizer) -> list[float]:
    """Return each parameter group's learning rate over that of the first group.

    Args:
        optimizer: an optimizer as the user made it.

    Returns:
        One proportion a group, the first 1.0.

    Raises:
        ConfigError: a learning rate is not positive and finite.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for index, rate in enumerate(rates):
        check_rate(rate, f"learning rate of the optimizer's parameter group {index}")
    return [rate / rates[0] for rate in rates]


def set_rates(optimizer: Optimizer, lr: float, proportions: Sequence[float]) -> None:
    """Set every parameter group's learning rate to ``lr`` times its proportion.

    Args:
        optimizer: the optimizer.
        lr: learning rate of the first group.
        proportions: one proportion a group.
    """
    for group, proportion in zip(optimizer.param_groups, proportions, strict=True):
        group["lr"] = lr * proportion


def check_rate(rate: float, what: str) -> None:
    """Refuse a learning rate that cannot be trained with.

    Args:
        rate: the learning rate.
        what: what it is, for the message.

    Raises:
        ConfigError: the rate is zero, negative, infinite or NaN.
    """
    if not (math.isfinite(rate) and rate > 0.0):
        raise ConfigError(f"{what}: expected a positive finite number, got {rate}")
