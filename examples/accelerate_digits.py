"""A loop with Accelerate as any; the lines marked `# autobatch` are new or changed.

python examples/accelerate_digits.py
accelerate launch --cpu --num_processes 2 examples/accelerate_digits.py
"""

import logging

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from autobatch.integrations import AcceleratedController  # autobatch

EPOCHS = 8


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows every decision with its reason
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y))
    train, val = random_split(data, [1500, 297])
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = EPOCHS * 1500 // 32
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (steps + 1))
    model, optimizer, train_loader, val_loader, scheduler = accelerator.prepare(
        model, optimizer, DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=99), scheduler
    )
    controller = AcceleratedController(  # autobatch
        accelerator, model, optimizer, train_loader, policy="s32-to-128", batch_sizes=(32, 64, 128), epochs=EPOCHS
    )
    train_loader, scheduler = controller.loader, controller.schedule(scheduler, steps)  # autobatch

    for epoch in range(EPOCHS):
        for images, labels in train_loader:
            with accelerator.accumulate(model):
                with controller.step() as step:  # autobatch
                    step.backward(F.cross_entropy(model(images), labels))  # autobatch: was accelerator.backward(...)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        with torch.no_grad():
            wrong = [accelerator.gather_for_metrics(model(x).argmax(1) != y) for x, y in val_loader]
        error = float(torch.cat(wrong).float().mean())
        controller.end_epoch(val_error=error)  # autobatch
        accelerator.print(f"epoch {epoch + 1}: {controller.steps} steps, error {100 * error:.1f} %")


if __name__ == "__main__":
    main()
