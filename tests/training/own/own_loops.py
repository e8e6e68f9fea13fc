"""Loops that somebody else might have written, in a module of their own so that processes find them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autobatch import AutoBatchController

EXAMPLES, EPOCHS = 64, 3
FIGURES = ("val_loss", "val_error")


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(EXAMPLES, 6, generator=generator)
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0).long()


def train(
    controller: Any,
    figures: tuple[str, ...] = FIGURES,
    hidden: int = 4,
    weight_decay: float = 0.0,
    epochs: int = EPOCHS,
    at_end: Callable[[nn.Module, dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train; ``at_end`` may change model and figures before an epoch is ended."""
    torch.manual_seed(controller.seed)
    model = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=weight_decay)
    x, y = data()
    controller.attach(model, optimizer, dataset_size=len(x), epochs=epochs)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=controller.batch_sampler)
    while not controller.finished:
        for inputs, targets in loader:
            with controller.step() as step:
                step.backward(F.cross_entropy(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
        shown = validate(model, figures)
        if at_end is not None:
            at_end(model, shown)
        controller.end_epoch(**shown)
    held_out = validate(model, FIGURES)
    return {"model": model, "test_loss": held_out["val_loss"], "test_error": held_out["val_error"]}


def validate(model: nn.Module, figures: tuple[str, ...]) -> dict[str, float]:
    x, y = data(seed=1)
    with torch.no_grad():
        logits = model(x)
    known = {
        "val_loss": F.cross_entropy(logits, y).item(),
        "val_error": (logits.argmax(1) != y).float().mean().item(),
    }
    return {name: known[name] for name in figures}


def only_error(controller: AutoBatchController) -> None:
    train(controller, figures=("val_error",))


def accident(controller: AutoBatchController) -> None:
    if controller.seed == 1:
        raise ValueError("an accident")
    train(controller)


def explode(model: nn.Module, figures: dict[str, float]) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    figures["val_loss"] = math.nan
