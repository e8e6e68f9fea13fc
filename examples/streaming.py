"""A stream that is read once: decisions within the one epoch, batches re-cut out of whatever the stream gives.

    python examples/streaming.py

The lines that autobatch adds are marked `# autobatch`.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import autobatch  # autobatch

EXAMPLES = 16_000


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples of a noisy linear law, one after another."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(20, generator=generator)
        for _ in range(EXAMPLES):
            x = torch.randn(20, generator=generator)
            yield x, (x @ weight + torch.randn((), generator=generator)).unsqueeze(0)


def main() -> None:
    """Train a small network on one pass over the stream."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(Stream(), batch_size=100)

    controller = autobatch.AutoBatchController(  # autobatch
        model,
        optimizer,
        policy="s32-to-256",
        batch_sizes=(32, 64, 128, 256),
        dataset_size=EXAMPLES,
        epochs=1,
        plan=autobatch.BatchPlan(decide_every=0.05),  # a decision every 5 % of the stream
        rates="sqrt",  # what a larger batch does to the rate
    )
    total = 0.0
    for x, y in controller.rebatch(loader):  # autobatch
        with controller.step() as step:  # autobatch
            loss = F.mse_loss(model(x), y)
            step.backward(loss)  # autobatch
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item() * len(x)
    controller.end_epoch(train_loss=total / EXAMPLES)  # autobatch
    print(f"{controller.steps} steps over {EXAMPLES} examples, mean loss {total / EXAMPLES:.3f}")


if __name__ == "__main__":
    main()
