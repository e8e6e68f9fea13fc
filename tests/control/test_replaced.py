"""A model whose parameters are replaced in mid-training: it is measured and steered as one that always had them."""

import pytest
import torch
from torch import Tensor, nn

from autobatch import AutoBatchController, AutoBatchError, ConfigError, MeasureAtInterval
from tests.fisher.zoo_reference import gram_of_samples

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Growing(nn.Module):
    """A sum of members, of which there are more and more."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Linear(3, 1).double()])

    def forward(self, x: Tensor) -> Tensor:
        return sum((member(x).sin() for member in self.members), torch.zeros(()))


Pair = tuple[Growing, torch.optim.Optimizer]


def swapped(model: Growing, optimizer: torch.optim.Optimizer) -> Pair:
    """Both are others."""
    wider = Growing()
    wider.members.append(nn.Linear(3, 1).double())
    return wider, torch.optim.SGD(wider.parameters(), lr=0.1, momentum=0.9)


def renewed(model: Growing, optimizer: torch.optim.Optimizer) -> Pair:
    """The same model has other parts, and the same optimizer gets them."""
    model.members = nn.ModuleList([nn.Linear(3, 1).double() for _ in range(2)])
    optimizer.param_groups[0]["params"] = list(model.parameters())
    optimizer.state.clear()
    return model, optimizer


def added(model: Growing, optimizer: torch.optim.Optimizer) -> Pair:
    model.members.append(nn.Linear(3, 1).double())
    optimizer.add_param_group({"params": model.members[-1].parameters(), "lr": 0.02})
    return model, optimizer


def frozen(model: Growing, optimizer: torch.optim.Optimizer) -> Pair:
    model.members[0].weight.requires_grad_(False)
    return model, optimizer


def controlled(model: nn.Module, optimizer: torch.optim.Optimizer) -> AutoBatchController:
    return AutoBatchController(
        model, optimizer, policy="s8-to-16", batch_sizes=(8, 16), dataset_size=len(X), epochs=5, rates="linear",
        measuring=MeasureAtInterval(1),
    )  # fmt: skip


def test_every_step_is_that_of_the_parameters_it_has(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Growing()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = controlled(model, optimizer)
    changes = iter((swapped, renewed, added, frozen))
    for _ in controller.each_epoch():
        traces = []
        for indices in controller.batches():
            x = X[indices]

            def loss(samples: slice, x: Tensor = x, model: nn.Module = model) -> Tensor:
                return model(x[samples]).square().sum()

            traces.append(gram_of_samples(model, len(x), loss).trace())
            before = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
            with controller.step() as step:
                step.backward(loss(slice(None)) / len(x))
            factor = controller.lr_effective / 0.1
            optimizer.state.clear()  # a step without momentum tells the rate
            optimizer.step()
            rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            for parameter, old in before:
                assert torch.allclose(old - parameter, factor * rates[id(parameter)] * parameter.grad, rtol=1e-9)
            optimizer.zero_grad()
        if change := next(changes, None):
            old_optimizer = optimizer
            model, optimizer = change(model, optimizer)
            if optimizer is not old_optimizer:
                controller.replace(model, optimizer)
        controller.end_epoch()
        measured = torch.tensor([sample.trace for sample in controller.measurements], dtype=torch.float64)
        assert torch.allclose(measured, torch.stack(traces), rtol=1e-9)
    assert controller.batch_size == 16
    assert controller.steps == 3 * 6 + 2 * 3
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_an_optimizer_that_was_replaced_is_let_go_of() -> None:
    model = Growing()
    first, second = (torch.optim.SGD(model.parameters(), lr=rate) for rate in (0.1, 0.3))
    plain = vars(torch.optim.SGD(model.parameters(), lr=0.1)).get("step")
    controller = controlled(model, first)
    assert vars(first).get("step") is not plain
    controller.replace(model, second)
    assert vars(first).get("step") is plain
    assert controller.lr == 0.1  # the reference stays
    assert controller.lr_effective == pytest.approx(0.3)
    controller.replace(model, second)
    assert vars(second).get("step") is not plain
    controller.close()
    assert vars(second).get("step") is plain


def test_what_cannot_take_the_place() -> None:
    model = Growing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(AutoBatchError, match="no model yet"):
        AutoBatchController(policy="s8", batch_sizes=(8,), dataset_size=len(X), epochs=1).replace(model, optimizer)
    controller = controlled(model, optimizer)
    with pytest.raises(ConfigError, match="model: expected Module, got 3"):
        controller.replace(3, optimizer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"optimizer: expected a torch\.optim\.Optimizer"):
        controller.replace(model, 3)  # type: ignore[arg-type]
    next(controller.batches())
    with controller.step(), pytest.raises(AutoBatchError, match=r"replace\(\) was called inside of a step"):
        controller.replace(model, optimizer)
