"""How many steps an epoch has: what its cost and its batches go by alike."""

from autobatch._plain import Epochs


def steps_per_epoch(dataset_size: int, batch_size: int, least: int = 1) -> int:
    """Return the optimizer steps of one epoch: dataset_size / batch_size, rounded half up, at least one.

    Args:
        dataset_size: examples in one epoch.
        batch_size: global batch size.
        least: examples that a last batch has at least, as far as others do.

    Returns:
        Steps.
    """
    steps = max(1, (2 * dataset_size + batch_size) // (2 * batch_size))
    joins = steps > 1 and dataset_size - (steps - 1) * batch_size < min(least, batch_size)
    return steps - joins


def epochs_of(periods: int, an_epoch: int) -> Epochs:
    """Return decision periods as epochs.

    Args:
        periods: decision periods.
        an_epoch: how many an epoch has.

    Returns:
        A whole number of epochs where it is one.
    """
    whole, part = divmod(periods, an_epoch)
    return whole + part / an_epoch if part else whole
