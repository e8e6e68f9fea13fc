"""A model whose parameters are replaced in mid-training: it is measured and steered as one that always had them."""

import torch
from torch import Tensor, nn

from autobatch import AutoBatchController, MeasureAtInterval
from tests.fisher.zoo_reference import gram_of_samples

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Growing(nn.Module):
    """A sum of members, of which there are more and more."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Linear(3, 1).double()])

    def forward(self, x: Tensor) -> Tensor:
        return sum((member(x).sin() for member in self.members), torch.zeros(()))


def replaced(model: Growing, optimizer: torch.optim.Optimizer) -> None:
    model.members = nn.ModuleList([nn.Linear(3, 1).double() for _ in range(2)])
    optimizer.param_groups[0]["params"] = list(model.parameters())
    optimizer.state.clear()


def added(model: Growing, optimizer: torch.optim.Optimizer) -> None:
    model.members.append(nn.Linear(3, 1).double())
    optimizer.add_param_group({"params": model.members[-1].parameters(), "lr": 0.02})


def frozen(model: Growing, optimizer: torch.optim.Optimizer) -> None:
    model.members[0].weight.requires_grad_(False)


def test_every_step_is_that_of_the_parameters_it_has() -> None:
    torch.manual_seed(0)
    model = Growing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = AutoBatchController(
        model, optimizer, policy="s8-to-16", batch_sizes=(8, 16), dataset_size=len(X), epochs=4, rates="linear",
        measuring=MeasureAtInterval(1),
    )  # fmt: skip
    changes = iter((replaced, added, frozen))
    for _ in controller.each_epoch():
        traces = []
        for indices in controller.batches():
            x = X[indices]

            def loss(samples: slice, x: Tensor = x) -> Tensor:
                return model(x[samples]).square().sum()

            traces.append(gram_of_samples(model, len(x), loss).trace())
            before = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
            with controller.step() as step:
                step.backward(loss(slice(None)) / len(x))
            factor = controller.lr_effective / 0.1
            optimizer.state.clear()  # a step without momentum tells the rate
            optimizer.step()
            for group in optimizer.param_groups:
                for parameter, old in before:
                    if any(parameter is own for own in group["params"]):
                        assert torch.allclose(old - parameter, factor * group["lr"] * parameter.grad, rtol=1e-9)
            optimizer.zero_grad()
        next(changes, lambda *_: None)(model, optimizer)
        controller.end_epoch()
        measured = torch.tensor([sample.trace for sample in controller.measurements], dtype=torch.float64)
        assert torch.allclose(measured, torch.stack(traces), rtol=1e-9)
    assert controller.batch_size == 16
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]
