"""What a policy asks for, brought within what can be done."""

from collections.abc import Sequence

from autobatch._errors import ConfigError
from autobatch.policies._rungs import nearest_rung as nearest


def check_ladder(batch_sizes: Sequence[int], dataset_size: int) -> None:
    """Refuse a ladder that the training set cannot be trained with.

    Args:
        batch_sizes: the ladder.
        dataset_size: examples in one epoch.

    Raises:
        ConfigError: the ladder is empty, not ascending, or reaches beyond the training set.
    """
    if not batch_sizes or list(batch_sizes) != sorted(set(batch_sizes)) or batch_sizes[0] < 1:
        raise ConfigError(f"batch_sizes: expected ascending positive integers, got {list(batch_sizes)}")
    if batch_sizes[-1] > dataset_size:
        raise ConfigError(
            f"batch_sizes: the ladder reaches {batch_sizes[-1]}, but the training set has only {dataset_size} examples"
        )


def nearest_rung(batch_size: int, batch_sizes: Sequence[int]) -> int:
    """Return the rung with the smallest ratio to the size asked for; the smaller of two that are equally near."""
    if batch_size < 1:
        raise ConfigError(f"the policy asked for batch size {batch_size}; expected one of {list(batch_sizes)}")
    return nearest(batch_size, batch_sizes)
