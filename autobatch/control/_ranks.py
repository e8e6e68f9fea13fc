"""The processes that train together: who decides, and how the others hear of it."""

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from autobatch._errors import AutoBatchError
from autobatch.control._measuring import stretches


class Ranks:
    """All processes of a training, or the only one.

    Args:
        group: of ``torch.distributed``; None for the default group where it is initialised, else for one process.
        device: where tensors lie that the group's backend exchanges.
    """

    def __init__(self, group: Any = None, device: torch.device | None = None) -> None:
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        self.group = group
        self.size: int = 1 if group is None else dist.get_world_size(group)
        self.rank: int = 0 if group is None else dist.get_rank(group)
        nccl = group is not None and "nccl" in str(dist.get_backend(group))
        self._device = device if nccl and device is not None else torch.device("cpu")
        self._first = 0 if group is None else dist.get_global_rank(group, 0)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that decides, logs and reports."""
        return self.rank == 0

    def share(self, examples: int) -> tuple[int, int]:
        """Return which examples of a global batch are this process's; shares are equal, give or take one.

        Args:
            examples: examples of the global batch, at least one a process.

        Returns:
            (start, stop) within the batch.
        """
        return stretches(examples, self.size)[self.rank] if self.size > 1 else (0, examples)

    def agreed(self, value: Any) -> Any:
        """Return the first process's value on all of them.

        Args:
            value: JSON-able; only the first process's counts.

        Returns:
            That value; on every process as JSON gives it back.

        Raises:
            AutoBatchError: a process has died or does not answer.
        """
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.leads else b""
        length = torch.tensor([len(text)], device=self._device)
        with _naming_loss(self.rank):
            dist.broadcast(length, self._first, group=self.group)
            data = torch.zeros(int(length), dtype=torch.uint8, device=self._device)
            if self.leads:
                data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(data, self._first, group=self.group)
        return json.loads(bytes(data.tolist()))

    def most(self, level: int) -> int:
        """Return the largest of all processes' numbers.

        Args:
            level: this process's.

        Returns:
            The largest.

        Raises:
            AutoBatchError: a process has died or does not answer.
        """
        if self.size == 1:
            return level
        levels = torch.tensor([level], device=self._device)
        with _naming_loss(self.rank):
            dist.all_reduce(levels, dist.ReduceOp.MAX, group=self.group)
        return int(levels.item())

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place.

        Args:
            tensors: the same shapes and types on every process.

        Raises:
            AutoBatchError: a process has died or does not answer.
        """
        for flat, own in _flattened(tensors):
            with _naming_loss(self.rank):
                dist.all_reduce(flat, group=self.group)
            _spread(flat, own)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's tensors, in place.

        Args:
            tensors: the same shapes and types on every process.

        Raises:
            AutoBatchError: a process has died or does not answer.
        """
        for flat, own in _flattened(tensors):
            with _naming_loss(self.rank):
                dist.broadcast(flat, self._first, group=self.group)
            _spread(flat, own)


class _naming_loss:  # noqa: N801 - a context manager that reads like a function
    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RuntimeError):
            raise AutoBatchError(
                f"rank {self._rank}: the other ranks did not answer; one of them has probably died, its own message "
                f"says why ({str(error).splitlines()[0]})"
            ) from error


def _flattened(tensors: Sequence[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return [(torch.cat([tensor.reshape(-1) for tensor in own]), own) for own in by_kind.values()]


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, values in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))
