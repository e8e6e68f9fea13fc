"""Pruning to a target rate while the network trains, with gates that are learned, while the controller steers.

    python examples/pruning.py

Qi et al. (EURASIP J. Adv. Signal Process. 2021:31) train a redundant network into a compact one of a stated compression
rate in one training from end to end. Shown: a learned gate for each channel, open or shut by a straight-through step,
a penalty that draws the share of parameters left to the target, and the compact network that is cut out in the end; how
the paper finds its channels is not copied.

The lines that autobatch adds are marked `# autobatch`.
"""

import logging
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autobatch  # autobatch

TARGET, PULL, EPOCHS = 0.2, 3.0, 12


class Gate(nn.Module):
    """Lets each channel through or not; learns by the slope of a sigmoid where it steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(0.5 + 0.1 * torch.randn(channels))

    def passes(self) -> Tensor:
        """Return which channels are open: the best one always, so that a network is left."""
        return (self.scores > 0) | (self.scores == self.scores.max())

    def open(self) -> Tensor:
        soft = self.scores.sigmoid()
        return self.passes().to(soft) + soft - soft.detach()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.open()[:, None, None]


class Pruned(nn.Module):
    """Two convolutions with gates behind them, and a linear layer."""

    def __init__(self, first: int = 16, second: int = 32) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, first, 3, padding=1), nn.Conv2d(first, second, 3, padding=1)])
        self.gates = nn.ModuleList([Gate(first), Gate(second)])
        self.head = nn.Linear(second * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv, gate in zip(self.convs, self.gates, strict=True):
            x = F.max_pool2d(gate(F.relu(conv(x))), 2)
        return self.head(x.flatten(1))

    def kept(self) -> Tensor:
        """Return the share of weights and biases that are left when shut channels are cut out."""
        first, second = (gate.open().sum() for gate in self.gates)
        left = first * 10 + second * (9 * first + 1) + 10 * (4 * second + 1)
        return left / sum(p.numel() for part in (self.convs, self.head) for p in part.parameters())

    @torch.no_grad()
    def compact(self) -> nn.Sequential:
        """Return a plain network of the open channels alone."""
        first, second = (gate.passes() for gate in self.gates)
        plain = Pruned(int(first.sum()), int(second.sum()))
        plain.convs[0].weight.copy_(self.convs[0].weight[first])
        plain.convs[0].bias.copy_(self.convs[0].bias[first])
        plain.convs[1].weight.copy_(self.convs[1].weight[second][:, first])
        plain.convs[1].bias.copy_(self.convs[1].bias[second])
        plain.head.weight.copy_(self.head.weight.unflatten(1, (-1, 4))[:, second].flatten(1))
        plain.head.bias.copy_(self.head.bias)
        pool = nn.MaxPool2d(2)
        return nn.Sequential(plain.convs[0], nn.ReLU(), pool, plain.convs[1], nn.ReLU(), pool, nn.Flatten(), plain.head)


def loss_of(model: Pruned, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels) + PULL * F.relu(model.kept() - TARGET)


def main() -> Pruned:
    """Train and prune, and cut the compact network out."""
    if not (0 < TARGET <= 1 and PULL >= 0):
        raise SystemExit(f"TARGET: expected a share in (0, 1], PULL: 0 or more; got {TARGET} and {PULL}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    x = x.float().unflatten(1, (1, 8, 8)) / 16
    train, x_test, y_test = TensorDataset(x[:1400], y[:1400]), x[1400:], y[1400:]
    model = Pruned()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    controller = autobatch.AutoBatchController(  # autobatch
        model, optimizer, policy="s32-to-128", batch_sizes=(32, 64, 128), dataset_size=len(train), epochs=EPOCHS
    )
    loader = DataLoader(train, batch_sampler=controller.batch_sampler)  # autobatch
    for epoch in controller.each_epoch():  # autobatch
        for images, labels in loader:
            with controller.step() as step:  # autobatch
                loss = loss_of(model, images, labels)
                step.backward(loss)  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            wrong, kept = (model(x_test).argmax(1) != y_test).float().mean().item(), model.kept().item()
        controller.end_epoch(val_error=wrong)  # autobatch
        print(f"epoch {epoch + 1}: error {100 * wrong:.1f} %, {100 * kept:.1f} % left; C̄ {controller.c_bar:.1f}")
    if kept > 1.5 * TARGET:
        print(f"{100 * kept:.1f} % are left, not {100 * TARGET:.1f}: it takes more epochs, or a larger TARGET")
    compact = model.compact()
    wrong = (compact(x_test).argmax(1) != y_test).float().mean().item()
    print(f"compact: {compact[0].out_channels} and {compact[3].out_channels} channels, error {100 * wrong:.1f} %")
    return model


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()
