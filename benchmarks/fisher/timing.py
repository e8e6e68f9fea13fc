"""How long a call takes."""

import time
from collections.abc import Callable, Iterable

import torch


def settle(device: str | torch.device) -> None:
    """Wait until a device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: str | torch.device = "cpu", repeats: int = 1) -> float:
    """Return the seconds of a call, a mean over repeats, until the device has done it.

    They are one thread's own where there is one thread: others on the machine then matter less.
    """
    own = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own else time.perf_counter
    settle(device)
    start = clock()
    for _ in range(repeats):
        run()
    settle(device)
    return (clock() - start) / repeats


def in_turn(names: Iterable[str], turn: int) -> list[str]:
    """Return names in their order, each turn from another one on."""
    order = list(names)
    first = turn % len(order)
    return order[first:] + order[:first]
