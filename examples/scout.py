"""Nothing recorded, a loop of one's own: scouts choose where to start, and the best of them goes on.

python examples/scout.py
"""

import logging
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autobatch  # autobatch

DIGITS, LABELS = load_digits(return_X_y=True)
X, Y = torch.tensor(DIGITS, dtype=torch.float32) / 16, torch.tensor(LABELS)
TRAIN = TensorDataset(X[:1400], Y[:1400])


def train(controller, state=None):
    """Train a small network; go on from a state where there is one."""
    torch.manual_seed(controller.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller.attach(model, optimizer, dataset_size=len(TRAIN), epochs=20)  # autobatch
    parts = {"model": model, "optimizer": optimizer, "controller": controller}
    for name, part in parts.items() if state else ():
        part.load_state_dict(state[name])
    loader = DataLoader(TRAIN, batch_sampler=controller.batch_sampler)  # autobatch
    for _ in controller.each_epoch():  # autobatch
        for images, labels in loader:
            with controller.step() as step:  # autobatch
                loss = F.cross_entropy(model(images), labels)
                step.backward(loss)  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            wrong = (model(X[1400:]).argmax(1) != Y[1400:]).float().mean().item()
        controller.end_epoch(val_error=wrong)  # autobatch
    return {"error": wrong, "state": {name: part.state_dict() for name, part in parts.items()}}


def main() -> None:
    """Scout, then train."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows every decision with its reason
    with tempfile.TemporaryDirectory() as folder:  # a folder that stays lets a scouting that was cut go on
        report = autobatch.scout(train, out=folder, rates="steered")  # autobatch
    print(report)
    controller = autobatch.AutoBatchController(policy="beacon-follow", scouts=report, rates="steered")  # autobatch
    trained = train(controller, report.state)
    print(f"{controller.epoch} of 20 epochs: error {100 * trained['error']:.1f} %; {controller.stopped_because}")


if __name__ == "__main__":
    main()
