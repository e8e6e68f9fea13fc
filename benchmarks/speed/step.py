"""What the controller adds to a step that is not measured.

    python benchmarks/speed/step.py

Microseconds of processor time on one thread, with a model too small to matter: ``controller.step()`` and cutting the
batch, beside iterating a plain batch sampler; and the hooks that multiply the learning rate in ``optimizer.step()``.
The two of a pair take turns; medians over rounds.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler

import autobatch
from autobatch.control import NeverMeasure

STEPS, ROUNDS, BATCH = 5_000, 9, 32


def main() -> None:
    """Print the two figures."""
    torch.set_num_threads(1)
    model = nn.Linear(2, 2)
    data = range(STEPS * BATCH)

    def controller(optimizer: torch.optim.Optimizer) -> autobatch.AutoBatchController:
        return autobatch.AutoBatchController(
            model,
            optimizer,
            policy="s32-lr0.2",
            batch_sizes=(BATCH,),
            dataset_size=len(data),
            epochs=1,
            measuring=NeverMeasure(),
        )

    def controlled() -> None:
        own = controller(torch.optim.SGD(model.parameters(), lr=0.1))
        for _ in own.batch_sampler:
            with own.step():
                pass

    def plain() -> None:
        for _ in BatchSampler(RandomSampler(data), BATCH, drop_last=False):
            pass

    model(torch.ones(1, 2)).sum().backward()
    free, held = (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for _ in range(2))
    kept = controller(held)
    report("controller.step() and its batch, less a plain batch sampler", controlled, plain)
    report("optimizer.step() with the controller's hooks, less without", repeated(held.step), repeated(free.step))
    kept.close()


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls another as often as an epoch has steps."""

    def run() -> None:
        for _ in range(STEPS):
            call()

    return run


def report(what: str, one: Callable[[], None], other: Callable[[], None]) -> None:
    """Print the median difference of a pair."""
    differences = []
    for _ in range(ROUNDS):
        start = time.process_time()
        one()
        middle = time.process_time()
        other()
        differences.append((middle - start) - (time.process_time() - middle))
    print(f"{what}: {1e6 * statistics.median(differences) / STEPS:.1f} microseconds a step")


if __name__ == "__main__":
    main()
