"""Loaders like those that somebody has made, with the controller's batches."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class SeededBatches(Sampler[list[int]]):
    """Batches for ``loader_like``, and the seed of its workers.

    A loader draws its workers' seed from the global generator, unless it has one of its own: then a training that goes
    on within an epoch draws once more than the one that was not cut, and its dropout differs from there on.

    Args:
        begin: starts an epoch, or goes on with one.
        left: batches left in the epoch.
        seed: gives the seed of the epoch's workers.
    """

    def __init__(
        self, begin: Callable[[], Iterator[list[int]]], left: Callable[[], int], seed: Callable[[], int]
    ) -> None:
        self.generator = torch.Generator()
        self._begin = begin
        self._left = left
        self._seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        self.generator.manual_seed(self._seed())  # the loader uses it after this call
        return self._begin()

    def __len__(self) -> int:
        return self._left()


def loader_like(theirs: Any, batches: SeededBatches) -> DataLoader[Any]:
    """Return a loader of the same data and arguments as a ``DataLoader`` or Accelerate's, with other batches."""
    names = ["collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn"]
    if theirs.num_workers:
        names += ["prefetch_factor", "persistent_workers", "multiprocessing_context"]
    options = {name: getattr(theirs, name) for name in names}
    return DataLoader(theirs.dataset, batch_sampler=batches, generator=batches.generator, **options)
