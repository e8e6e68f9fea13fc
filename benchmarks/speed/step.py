"""What the controller adds to a step that is not measured.

    python benchmarks/speed/step.py

Microseconds of processor time on one thread, with a model too small to matter: ``controller.step()`` and cutting the
batch, beside iterating a plain batch sampler; and the hooks that multiply the learning rate in ``optimizer.step()``.
Then all of it within training steps of a small perceptron, whose own code has displaced the controller's from the
processor's caches, in microseconds and as a share of the plain step. The two of a pair take turns; medians over rounds.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import BatchSampler, RandomSampler

import autobatch
from autobatch.control import NeverMeasure

STEPS, ROUNDS, BATCH = 5_000, 9, 32


def main() -> None:
    """Print the three figures."""
    torch.set_num_threads(1)
    model = nn.Linear(2, 2)
    data = range(STEPS * BATCH)

    def controller(optimizer: torch.optim.Optimizer, of: nn.Module = model) -> autobatch.AutoBatchController:
        return autobatch.AutoBatchController(
            of,
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
    network = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1))
    inputs, targets = torch.randn(len(data), 12), torch.randn(len(data), 1)

    def step(
        optimizer: torch.optim.Optimizer, chosen: torch.Tensor, backward: Callable[[torch.Tensor], object]
    ) -> None:
        backward(functional.mse_loss(network(inputs[chosen]), targets[chosen]))
        optimizer.step()
        optimizer.zero_grad()

    def trained() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        own = controller(optimizer, network)
        for chosen in own.batches():
            with own.step() as part:
                step(optimizer, chosen, part.backward)

    def trained_plainly() -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for chosen in torch.randperm(len(data)).split(BATCH):
            step(optimizer, chosen, torch.Tensor.backward)

    report("a training step of a perceptron with the controller, less without", trained, trained_plainly)


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls another as often as an epoch has steps."""

    def run() -> None:
        for _ in range(STEPS):
            call()

    return run


def report(what: str, one: Callable[[], None], other: Callable[[], None]) -> None:
    """Print the median difference of a pair, and its share of the other."""
    differences, others = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        one()
        middle = time.process_time()
        other()
        others.append(time.process_time() - middle)
        differences.append((middle - start) - others[-1])
    more, there = (1e6 * statistics.median(found) / STEPS for found in (differences, others))
    print(f"{what}: {more:.1f} microseconds a step, {100 * more / there:.0f} % of {there:.0f}")


if __name__ == "__main__":
    main()
