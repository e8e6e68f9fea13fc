"""What the processes of a group tell each other around a measured step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from autobatch._errors import MeasureError

_FINE, _NO_MEMORY, _FAILED = 0, 1, 2
# The name since torch 2.14, which warns of the older one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def gathered(rows: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Return everyone's rows, (sum of sizes, n), of each rank's (b, n); on the way they are padded to the longest's."""
    longest = max(sizes)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    received = rows.new_empty(len(sizes), longest, rows.shape[1])
    _all_gather(received.flatten(0, 1), padded, group=group)
    return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])


def agree(problem: Exception | None, seen: int, device: torch.device, group: Any) -> None:
    """Go on only where all processes of a group measured the same step; every one of them must call it.

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
