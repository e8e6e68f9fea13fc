"""Dense references that share nothing with the package: one sample at a time, or one layer and one sample at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gram_one_sample_at_a_time(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """F from B separate forward and backward passes, each with one sample; for models whose samples are independent."""
    parameters = trainable(model)
    rows = []
    for i in range(len(x)):
        gradients = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), parameters, allow_unused=True)
        rows.append(
            torch.cat([
                (torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients, strict=True)
            ])
        )
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((module, inputs[0].detach().clone(), output))
        return output.clone()  # in-place operations that follow must not touch what is recorded

    leaves = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d)]
    handles = [module.register_forward_hook(hook) for module in leaves]
    yield calls
    for handle in handles:
        handle.remove()


def gram_one_layer_at_a_time(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """F by the "rows" definition: each layer's output-gradient row times its input row, from one batch gradient."""
    with _recorded(model) as calls:
        total = loss(model(x), y)
    gradients = torch.autograd.grad(total, [output for _, _, output in calls])
    gram = torch.zeros(len(x), len(x), dtype=x.dtype)
    for (module, inputs, _), gradient in zip(calls, gradients, strict=True):
        rows = torch.stack([torch.cat(_row(module, inputs, gradient, i)) for i in range(len(x))])
        gram += rows @ rows.T
    return gram


def _row(module: nn.Module, x: Tensor, g: Tensor, i: int) -> list[Tensor]:
    if isinstance(module, nn.Linear):
        parts = [torch.outer(g[i], x[i]).flatten()]
        if module.bias is not None:
            parts.append(g[i])
        return parts
    if isinstance(module, nn.Conv2d):
        weight = torch.nn.grad.conv2d_weight(
            x[i : i + 1], module.weight.shape, g[i : i + 1], module.stride, module.padding, module.dilation, 1
        )
        parts = [weight.flatten()]
        if module.bias is not None:
            parts.append(g[i].sum((1, 2)))
        return parts
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    scale = torch.zeros(x.shape[1], dtype=x.dtype)
    shift = torch.zeros(x.shape[1], dtype=x.dtype)
    for channel in range(x.shape[1]):
        values = x[:, channel]
        deviation = ((values - values.mean()) ** 2).mean() + module.eps
        scale[channel] = (g[i, channel] * (x[i, channel] - values.mean()) / deviation.sqrt()).sum()
        shift[channel] = g[i, channel].sum()
    return [scale, shift]
