"""How an epoch of examples is cut into batches.

Example ``i`` of epoch ``e`` (both from 0) is entry ``i`` of a permutation that follows from (seed, e) alone, so a
change of batch size or a restart neither loses nor repeats an example. Every epoch sees every example exactly once.
Where the batch size does not divide the epoch, the last batch has between half and one and a half times the batch
size: a remainder of at least half a batch is a batch of its own, a smaller one joins the batch before it. Thus no step
follows the gradient (or the BatchNorm statistics) of a handful of examples, and no example is dropped. Where the model
has BatchNorm, which has no statistics of one example, a remainder that would leave a part with one joins as well.
"""

import torch
from torch import Tensor

from autobatch._steps import steps_per_epoch
from autobatch.control.batches._seeds import derive_generator


def full_steps_per_epoch(dataset_size: int, batch_size: int, least: int = 1) -> int:
    """Return how many of an epoch's first steps are worth measuring: those of exactly ``batch_size`` examples.

    Args:
        dataset_size: examples in one epoch.
        batch_size: global batch size.
        least: examples that a last batch has at least, as far as others do.

    Returns:
        Steps; 1 where the whole epoch is one batch.
    """
    steps = steps_per_epoch(dataset_size, batch_size, least)
    return steps if steps == 1 or steps * batch_size == dataset_size else steps - 1


def batch_bounds(dataset_size: int, batch_size: int) -> list[tuple[int, int]]:
    """Return where each batch of an epoch starts and stops in the epoch's permutation.

    Args:
        dataset_size: examples in one epoch.
        batch_size: global batch size.

    Returns:
        (start, stop) of each step; together they cover [0, dataset_size).
    """
    starts = [step * batch_size for step in range(steps_per_epoch(dataset_size, batch_size))]
    return list(zip(starts, [*starts[1:], dataset_size], strict=True))


def permutation(dataset_size: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which epoch ``epoch`` sees the examples.

    Args:
        dataset_size: examples in one epoch.
        seed: the run's seed.
        epoch: finished epochs.

    Returns:
        int64 indices, shape (dataset_size,), on the CPU.
    """
    return torch.randperm(dataset_size, generator=derive_generator(seed, "permutation", epoch))
