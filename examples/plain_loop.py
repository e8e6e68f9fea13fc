"""An ordinary PyTorch loop with autobatch in it: six lines are new or changed, marked `# autobatch`.

python examples/plain_loop.py
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
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows every decision with its reason
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y))
    train_data, val_data = torch.utils.data.random_split(data, [1400, len(data) - 1400])
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    controller = autobatch.AutoBatchController(  # autobatch
        model, optimizer, policy="s32-to-128", batch_sizes=(32, 64, 128), dataset_size=len(train_data), epochs=10
    )
    train_loader = DataLoader(train_data, batch_sampler=controller.batch_sampler, num_workers=1)  # autobatch
    val_loader = DataLoader(val_data, batch_size=512)

    for epoch in range(10):
        for images, labels in train_loader:
            with controller.step() as step:  # autobatch
                loss = F.cross_entropy(model(images), labels)
                step.backward(loss)  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()

        with torch.no_grad():
            wrong = sum((model(images).argmax(1) != labels).sum().item() for images, labels in val_loader)
        controller.end_epoch(val_error=wrong / len(val_data))  # autobatch
        print(
            f"epoch {epoch + 1}: batch size {controller.batch_size}, {controller.steps} steps, "
            f"error {100 * wrong / len(val_data):.1f} %, C̄ {controller.c_bar:.1f}, L {controller.l_cum:.2f}"
        )


if __name__ == "__main__":
    main()
