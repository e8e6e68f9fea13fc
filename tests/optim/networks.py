"""Small networks, and the plain float64 computations that the optimizers are held against."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def perceptron(inputs: int = 4, hidden: int = 3, outputs: int = 2, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Linear(inputs, hidden, bias=bias), nn.Tanh(), nn.Linear(hidden, outputs, bias=bias)
    return nn.Sequential(*layers).double()


class Turned(nn.Module):
    """A linear layer whose weight lies (in, out), as wide as it is high."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.weight = nn.Parameter(torch.randn(width, width, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(width, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight + self.bias

    def upright(self) -> nn.Linear:
        """The same function, by a weight (out, in)."""
        linear = nn.Linear(*self.weight.shape).double()
        linear.load_state_dict({"weight": self.weight.T, "bias": self.bias})
        return linear


class Mirrored(nn.Module):
    """A decoder that is its encoder turned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        self.last = nn.Linear(4, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(F.linear(F.linear(inputs, self.weight).tanh(), self.weight.T))


class Twice(nn.Module):
    """A layer that is used twice, with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.last = nn.Linear(4, 4).double(), nn.Linear(4, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(self.first(inputs).tanh()))


def convolutional() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2)
    ).double()


def examples(count: int, *shape: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (count,), generator=generator)


def sample_gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradients of each sample's own loss, (N, *shape) for every parameter."""
    parameters = list(model.parameters())
    rows = []
    for one, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(one[None]), label[None])
        rows.append(torch.autograd.grad(loss, parameters))
    return [torch.stack(own) for own in zip(*rows, strict=True)]


def output_jacobian(model: nn.Module, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """J of the outputs for every parameter, rows ordered by output and then sample; and the outputs."""
    parameters = list(model.parameters())
    outputs = model(inputs).flatten(1)
    rows = [
        torch.autograd.grad(outputs[sample, output], parameters, retain_graph=True)
        for output in range(outputs.shape[1])
        for sample in range(len(outputs))
    ]
    return [torch.stack(own).flatten(1) for own in zip(*rows, strict=True)], outputs.detach()
