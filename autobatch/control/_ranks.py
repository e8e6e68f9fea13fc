"""The processes that train together: who decides, and how the others hear of it."""

import atexit
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from autobatch._errors import AutoBatchError

_BUCKET_BYTES = 32 * 1024**2
_SIDE_GROUPS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
# A group that outlives the interpreter takes the process down with it: its threads hold tensors (pytorch#179291).
atexit.register(_SIDE_GROUPS.clear)


class Ranks:
    """All processes of a training, or the only one.

    Every method but ``share`` and ``passed`` is a collective of several processes: all of them call the same
    ones in the same order.

    Args:
        group: of ``torch.distributed``; None for the default group where it is initialised, else for one process.
        device: where the model lies, for backends that exchange nothing but what lies on an accelerator.
    """

    def __init__(self, group: Any = None, device: torch.device | None = None) -> None:
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        self.group = group
        self.size: int = 1 if group is None else dist.get_world_size(group)
        self.rank: int = 0 if group is None else dist.get_rank(group)
        self._device = torch.device("cpu") if self.size == 1 else _device_of(group, device)
        self._first = 0 if group is None else dist.get_global_rank(group, 0)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that decides, logs and reports."""
        return self.rank == 0

    @property
    def side_group(self) -> Any:
        """A group of the same processes and with the same timeout, whose messages never meet those of a wrapper.

        Where the processes are not all there are, it is their group itself: to make another one, the others would have
        to take part, or could make none of their own afterwards.
        """
        if self.group not in _SIDE_GROUPS:
            members = dist.get_process_group_ranks(self.group)
            if len(members) < dist.get_world_size():
                return self.group
            options = getattr(self.group._get_backend(self._device), "options", None)
            _SIDE_GROUPS[self.group] = dist.new_group(members, timeout=getattr(options, "_timeout", None))
        return _SIDE_GROUPS[self.group]

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """Return which examples of a global batch are this process's; shares are equal, give or take one.

        What the processes get in all is equal too, give or take one, wherever batches start and stop.

        Args:
            start: the batch's first example.
            stop: the example after its last.

        Returns:
            (start, stop) of the share; empty where the batch has fewer examples than there are processes.
        """
        if self.size == 1:
            return start, stop
        before = sum(self._dealt(stop, rank) - self._dealt(start, rank) for rank in range(self.rank))
        own = self._dealt(stop, self.rank) - self._dealt(start, self.rank)
        return start + before, start + before + own

    def passed(self, examples: int) -> int:
        """Return how many of an epoch's first examples are this process's."""
        return self._dealt(examples, self.rank)

    def _dealt(self, examples: int, rank: int) -> int:
        return (examples + rank) // self.size

    def agreed(self, value: Any) -> Any:
        """Return the first process's value on all of them.

        Args:
            value: JSON-able; only the first process's counts.

        Returns:
            That value; as JSON gives it back where there are several processes.

        Raises:
            AutoBatchError: a process has died or does not answer.
        """
        if self.size == 1:
            return value
        text = json.dumps(value, default=lambda number: number.item()).encode() if self.leads else b""
        length = torch.tensor([len(text)], device=self._device)
        with self._answering():
            dist.broadcast(length, self._first, group=self.group)
            data = torch.zeros(int(length), dtype=torch.uint8, device=self._device)
            if self.leads:
                data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(data, self._first, group=self.group)
        return json.loads(bytes(data.tolist()))

    def first_makes(self, make: Callable[[], Any]) -> Any:
        """Return what the first process makes on all of them; where it fails, all of them fail.

        Args:
            make: makes a JSON-able value; called on the first process only.

        Returns:
            The value; as JSON gives it back where there are several processes.

        Raises:
            AutoBatchError: it failed, on the processes that only hear of that; or a process has died.
            Exception: it failed, on the first process.
        """
        if self.size == 1:
            return make()
        value, error = None, None
        if self.leads:
            try:
                value = make()
            except Exception as failure:
                error = failure
        told = self.agreed({"value": value, "error": None if error is None else f"{type(error).__name__}: {error}"})
        if error is not None:
            raise error
        if told["error"] is not None:
            raise AutoBatchError(f"rank {self._first}, which decides, has failed: {told['error']}")
        return told["value"]

    def most(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of all processes' numbers, place by place; as many on all."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(list(numbers), dtype=torch.int64, device=self._device)
        with self._answering():
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return [int(number) for number in tensor.tolist()]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors, of the same shapes and types on every process, in place."""

        def exchange(flat: Tensor) -> None:
            dist.all_reduce(flat, group=self.group)
            flat.div_(self.size)

        self._in_buckets(tensors, exchange)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's tensors, of the same shapes and types, in place."""
        self._in_buckets(tensors, lambda flat: dist.broadcast(flat, self._first, group=self.group))

    def _in_buckets(self, tensors: Sequence[Tensor], exchange: Callable[[Tensor], Any]) -> None:
        for bucket in _buckets(tensors):
            flat = _flattened(bucket)
            with self._answering():
                exchange(flat)
            _spread(flat, bucket)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise AutoBatchError(
                f"rank {self.rank}: the other ranks did not answer; one of them has probably died, its own message "
                f"says why ({str(error).splitlines()[0]})"
            ) from error


def _device_of(group: Any, device: torch.device | None) -> torch.device:
    """Return where a group's backend takes small messages from: the host if it can, else an accelerator."""
    served = [own.type for own in getattr(group, "_device_types", ())]
    if "cpu" in served or not served:
        return torch.device("cpu")
    return device if device is not None and device.type in served else torch.device(served[0])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors of one kind, so that few messages are sent and a copy of few of them is held at a time."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for own in by_kind.values():
        bucket: list[Tensor] = []
        held = 0
        for tensor in own:
            if bucket and held + tensor.nbytes > _BUCKET_BYTES:
                yield bucket
                bucket, held = [], 0
            bucket.append(tensor)
            held += tensor.nbytes
        yield bucket


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, values in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))
