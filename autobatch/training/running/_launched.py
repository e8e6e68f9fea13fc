"""The processes that torchrun has started: joined for one run, and gone on with where it has started them anew."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def launched() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def begun_before(place: Path) -> bool:
    """Return whether torchrun has started the processes anew, after one has died, and there is a run to go on with.

    Args:
        place: the run directory.
    """
    from autobatch.control.run import CONFIG

    return launched() and _restarts() > 0 and (place / CONFIG).exists()


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device: str) -> Iterator[bool]:
    """Join the processes that torchrun has started, where it has.

    Args:
        device: the run's; on GPUs each process of a machine takes one.

    Yields:
        Whether this process is the first, or the only one.
    """
    if not launched():
        yield True
        return
    import torch
    import torch.distributed as dist

    gpus = not device.startswith("cpu") and torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Restarts share a store, in which those that went before have left addresses where nobody listens any more.
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    own = dist.PrefixStore(f"start {_restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", store=own, rank=rank, world_size=size)
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()
