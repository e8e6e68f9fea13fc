"""An ensemble that grows out of one network in mid-training, while the controller steers.

    python examples/growing_ensemble.py

HatchEnsemble (Xia et al., Complex & Intelligent Systems 7, 2021) trains one SeedNet, widens it into several HatchNets
by transformations that keep its function, adds noise so that they part, and trains them on as an ensemble, whose
uncertainty is better than one network's at a fraction of a deep ensemble's time. Shown: the widening (Net2Net's: units
are copied, and what they give shared out), members of different widths, and that the controller measures and steers
through the change, in which every parameter is replaced.

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

EPOCHS, HATCHING, SEED_WIDTH, WIDTHS = 12, 6, 24, (40, 56, 72)


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def widened(seed: nn.Sequential, width: int, noise: float) -> nn.Sequential:
    """Copy units drawn at random until there are `width`, and share each one's outgoing weights among its copies."""
    before = seed[0].out_features
    source = torch.cat([torch.arange(before), torch.randint(before, (width - before,))])
    hatched = network(width)
    with torch.no_grad():
        hatched[0].weight.copy_(seed[0].weight[source])
        hatched[0].bias.copy_(seed[0].bias[source])
        hatched[2].weight.copy_((seed[2].weight / source.bincount())[:, source])
        hatched[2].bias.copy_(seed[2].bias)
        for parameter in hatched.parameters():
            parameter.add_(noise * parameter.std(correction=0) * torch.randn_like(parameter))
    return hatched


class Ensemble(nn.Module):
    """One network, and then several; gives each member's logits, (B, members, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([network(SEED_WIDTH)])

    def hatch(self, widths: tuple[int, ...], noise: float = 0.1) -> None:
        (seed,) = self.members
        self.members = nn.ModuleList([widened(seed, width, noise) for width in widths])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members], dim=1)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Each member learns alone: the sum of their losses, as a mean over the examples."""
    labels = labels[:, None].expand(-1, logits.shape[1])
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1).mean()


@torch.no_grad()
def figures(model: Ensemble, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Return the ensemble's error and negative log-likelihood, and the mean of its members' likelihoods."""
    logits = model(x)
    mean = logits.softmax(dim=2).mean(dim=1)
    apart = loss_of(logits, y).item() / logits.shape[1]
    return (mean.argmax(dim=1) != y).float().mean().item(), F.nll_loss(mean.log(), y).item(), apart


def main() -> Ensemble:
    """Train the seed, hatch it, and train the ensemble on."""
    if not (0 <= HATCHING < EPOCHS and WIDTHS and min(WIDTHS) >= SEED_WIDTH):
        raise SystemExit(
            f"HATCHING, WIDTHS: expected 0 to below {EPOCHS=}, from {SEED_WIDTH=}; got {HATCHING} and {WIDTHS}"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    x = x.float() / 16
    train, x_test, y_test = TensorDataset(x[:1400], y[:1400]), x[1400:], y[1400:]
    model = Ensemble()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    controller = autobatch.AutoBatchController(  # autobatch
        model, optimizer, policy="noise-scale", batch_sizes=(16, 32, 64, 128), dataset_size=len(train), epochs=EPOCHS
    )
    loader = DataLoader(train, batch_sampler=controller.batch_sampler)  # autobatch
    for epoch in controller.each_epoch():  # autobatch
        if epoch == HATCHING:
            model.hatch(WIDTHS)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            controller.replace(model, optimizer)  # autobatch
        for images, labels in loader:
            with controller.step() as step:  # autobatch
                loss = loss_of(model(images + 0.3 * torch.randn_like(images)), labels)
                step.backward(loss)  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        error, likelihood, apart = figures(model, x_test, y_test)
        controller.end_epoch(val_loss=likelihood, val_error=error)  # autobatch
        print(
            f"epoch {epoch + 1}: {len(model.members)} member(s), error {100 * error:.1f} %, negative log-likelihood "
            f"{likelihood:.3f} (a member's {apart:.3f}); C̄ {controller.c_bar:.1f}"
        )
    return model


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()
