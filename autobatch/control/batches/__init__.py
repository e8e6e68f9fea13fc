"""The order of the examples and how an epoch is cut into batches.

In come a seed, a number of examples and a batch size; out go the indices of every batch, the same on every rank. Open
``_batches.py`` first.
"""

from autobatch.control.batches._batches import batch_bounds, full_steps_per_epoch, permutation
from autobatch.control.batches._nested import examples_in, part_of
from autobatch.control.batches._sampler import PlannedBatchSampler, rebatched
from autobatch.control.batches._seeds import derive_generator, derive_seed

__all__ = [
    "PlannedBatchSampler",
    "batch_bounds",
    "derive_generator",
    "derive_seed",
    "examples_in",
    "full_steps_per_epoch",
    "part_of",
    "permutation",
    "rebatched",
]
