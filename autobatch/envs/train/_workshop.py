"""Where torch works: reproducibly, and after a fork on a thread of its own."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from autobatch._errors import ConfigError
from autobatch.training._engine import reproducible

Result = TypeVar("Result")

_own_thread: ThreadPoolExecutor | None = None


def carry_out(device: torch.device, threads: int, work: Callable[[], Result]) -> Result:
    """Do some work with torch, see ``reproducible``.

    Vector environments fork their processes. Where the parent has used several CPU threads before, a forked process
    waits for ever for threads that were not forked with it. GNU OpenMP keeps them by calling thread; on a new thread it
    starts new ones.

    Args:
        device: the device that the work is done on.
        threads: CPU threads.
        work: what to do.

    Returns:
        What it returns.

    Raises:
        ConfigError: the device is a GPU that a forked process cannot use.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ConfigError(
            "device: a forked process cannot use a GPU that its parent has used; have processes started anew, such as "
            "by gymnasium.make_vec(..., vector_kwargs={'context': 'spawn'})"
        )

    def inside() -> Result:
        with reproducible(device, threads):
            return work()

    return inside() if _own_thread is None else _own_thread.submit(inside).result()


def _after_fork() -> None:
    global _own_thread  # noqa: PLW0603  (a fork is a fact about the process)
    _own_thread = ThreadPoolExecutor(1, "autobatch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
