"""Exact Gram matrix of a batch that several processes share: J is kept on each, and exchanged after the step."""

import zlib
from math import prod
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.gram._exchange import ExchangedGram, gathered
from autobatch.fisher.gram._spill import SpilledGram

_FINE, _NO_MEMORY, _FAILED = 0, 1, 2


class SharedSpilledGram(SpilledGram):
    """Keeps this process's per-sample gradients of one or several passes; exchanges them when all processes say so.

    While the step runs, nothing is sent: a process that breaks the step off leaves no other one waiting, as it would
    with ``ExchangedGram``. What that does, ``exchange`` does at the end.

    Args:
        group: the processes.
        max_memory: bytes for J and for what is needed to make, send and multiply it.
        device: where the gradients live, and F.
        mean: whether each process's loss is a mean over its own samples.
    """

    def __init__(self, group: Any, max_memory: int, device: torch.device, *, mean: bool) -> None:
        super().__init__(max_memory, device)
        self._group = group
        self._mean = mean
        self._exchanged: ExchangedGram | None = None

    def exchange(self, problem: Exception | None) -> Tensor:
        """Bring together what the processes have kept; every one of the group must call it.

        Args:
            problem: what was wrong with the step on this process.

        Returns:
            F of all processes' samples, scaled to the summed loss.

        Raises:
            MeasureError: something was wrong on another process, so that nothing is exchanged; or they did not use the
                same parameters.
            OutOfMemoryError: memory ran out on another process.
            Exception: ``problem``.
        """
        names = sorted(self._parameters)
        sizes = [prod(piece.columns for piece in self._parameters[name][0].pieces) for name in names]
        seen = zlib.crc32(repr(list(zip(names, sizes, strict=True))).encode())
        agree(problem, seen, self._device, self._group)
        batch = self._before + self._batch
        exchanged = ExchangedGram(self._group, self._device, self._max_memory // 2, mean=self._mean)
        exchanged.begin(batch)
        for name in names:
            for block in self._blocks(self._parameters.pop(name), batch, exchanged.block_columns):
                exchanged.add_block(block.to(self._device))
        self._store.close()
        self._exchanged = exchanged
        return exchanged.result()

    def local(self) -> Tensor:
        """Return the block of this process's samples, not scaled, after ``exchange``."""
        assert self._exchanged is not None
        return self._exchanged.local()


def agree(problem: Exception | None, seen: int, device: torch.device, group: Any) -> None:
    """Go on only where all processes measured the same step; every one of the group must call it.

    Args:
        problem: what was wrong with the step on this process.
        seen: checksum of what must be the same on all.
        device: where the gradients live.
        group: the processes.

    Raises:
        MeasureError: something was wrong on another process, or they did not use the same parameters.
        OutOfMemoryError: memory ran out on another process.
        Exception: ``problem``.
    """
    about = gathered(torch.tensor([[_code(problem), seen]], device=device), [1] * group.size(), group)
    codes, seens = about[:, 0].tolist(), about[:, 1].tolist()
    if problem is not None:
        raise problem
    if max(codes) != _FINE:
        rank = codes.index(max(codes))
        if codes[rank] == _NO_MEMORY:
            raise torch.OutOfMemoryError(f"process {rank} of the group ran out of memory in measuring")
        raise MeasureError(f"process {rank} of the group could not measure its part of the step")
    if len(set(seens)) > 1:
        raise MeasureError(
            "the processes did not use the same parameters in this step, so their per-sample gradients could not"
            " be brought together: measure each process by itself (process_group=None)"
        )


def _code(problem: Exception | None) -> int:
    if problem is None:
        return _FINE
    memory = any(isinstance(error, torch.OutOfMemoryError | MemoryError) for error in (problem, problem.__cause__))
    return _NO_MEMORY if memory else _FAILED
