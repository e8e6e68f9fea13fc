"""Advice without interference: the loop and its loader stay as they are, and the controller says what it would do.

    python examples/advise.py

The lines that autobatch adds are marked `# autobatch`.
"""

import logging

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autobatch  # autobatch


def main() -> None:
    """Train a small network on the handwritten digits that come with scikit-learn."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y))
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    controller = autobatch.AutoBatchController(  # autobatch
        model,
        optimizer,
        policy="s32-to-128",
        batch_sizes=(32, 64, 128),
        dataset_size=len(data),
        epochs=5,
        advise=32,  # what the loader uses: nothing is changed
    )
    for epoch in range(5):
        for images, labels in loader:
            with controller.step():  # autobatch
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch()  # autobatch
        print(f"epoch {epoch + 1}: C̄ {controller.c_bar:.1f}, L {controller.l_cum:.2f}")


if __name__ == "__main__":
    main()
