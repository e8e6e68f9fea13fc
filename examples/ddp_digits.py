"""A loop under DistributedDataParallel; lines that autobatch adds or changes are marked `# autobatch`.

torchrun --nproc-per-node 2 examples/ddp_digits.py
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from autobatch import AutoBatchController  # autobatch


def main() -> None:
    """Train a small network on the handwritten digits that come with scikit-learn."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    data, val_x, val_y = TensorDataset(x[:1400], y[:1400]), x[1400:], y[1400:]
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sizes = (32, 64, 128)  # autobatch: of both processes together

    controller = AutoBatchController(  # autobatch
        model, optimizer, policy="s32-to-128", batch_sizes=sizes, rates="sqrt", dataset_size=len(data), epochs=6
    )
    loader = DataLoader(data, batch_sampler=controller.batch_sampler)  # autobatch: in place of a DistributedSampler
    for epoch in range(6):
        for images, labels in loader:
            with controller.step() as step:  # autobatch
                loss = F.cross_entropy(model(images), labels)
                step.backward(loss)  # autobatch: in place of loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        with torch.no_grad():
            error = (model.module(val_x).argmax(1) != val_y).float().mean().item()
        decision = controller.end_epoch(val_error=error)  # autobatch: rank 0's figures count, and it decides
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1}: error {100 * error:.1f} %, C̄ {controller.c_bar:.1f}, L {controller.l_cum:.2f}")
            if decision is not None and decision.changed:
                print(f"  next: batch size {decision.batch_size}, rate {decision.lr:.3g}: {decision.reason}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
