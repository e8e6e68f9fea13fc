"""What hands the controller's batches to a loader, or makes them of a stream."""

from collections.abc import Callable, Iterable, Iterator
from pickle import PicklingError
from typing import Any, Never, SupportsIndex

from torch.utils.data import Sampler

from autobatch.control.batches._nested import examples_in, joined, part_of


class PlannedBatchSampler(Sampler[list[int]]):
    """A batch sampler whose batches a controller cuts while a loader iterates.

    Args:
        parts: starts an iteration over (start, stop) in the epoch's order.
        count: says how many an iteration has, if the batch size stays as it is.
        order: gives the epoch's order of examples.
    """

    def __init__(
        self, parts: Callable[[], Iterator[tuple[int, int]]], count: Callable[[], int], order: Callable[[], list[int]]
    ) -> None:
        self._parts = parts
        self._count = count
        self._order = order

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        """Refuse to be pickled or copied: what is cut belongs to one training."""
        raise PicklingError("a controller's batch sampler cannot be pickled or copied; make the loader anew from it")

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start, stop in self._parts():
            yield order[start:stop]

    def __len__(self) -> int:
        return self._count()


def rebatched(
    source: Iterable[Any],
    parts: Iterator[tuple[int, int]],
    skip: int,
    *,
    shorten: Callable[[int, int], None],
    longer: Callable[[], None],
    ahead: Callable[[int], int],
) -> Iterator[Any]:
    """Make batches of given sizes out of batches of any.

    Args:
        source: batches of any size.
        parts: (start, stop) of each batch to make.
        skip: examples at the start of the source that are passed over.
        shorten: called with the start of the last batch, and how many examples it has, when the source ends too early.
        longer: called at the end where the source has more, which the next time it is gone through come again.
        ahead: says how many examples there have to be after the one that a batch ends with; where the source has some,
            but fewer, they join the batch.

    Yields:
        The batches.
    """
    own = iter(source)
    held: list[Any] = []
    count, served = 0, False
    for start, stop in parts:
        wanted, more = stop - start, ahead(stop)
        while count < wanted + more + skip and (batch := next(own, None)) is not None:
            size = examples_in(batch)
            if size <= skip:
                skip -= size
                continue
            held.append(part_of(batch, skip, size) if skip else batch)
            count, skip = count + size - skip, 0
        if count < wanted or 0 < count - wanted < more:
            shorten(start, count)
            wanted = count
        if not wanted:
            return
        batch, served = joined(held), True
        yield batch if count == wanted else part_of(batch, 0, wanted)
        held, count = ([part_of(batch, wanted, count)], count - wanted) if count > wanted else ([], 0)
    if served and own is not source and (count or any(map(examples_in, own))):
        longer()
