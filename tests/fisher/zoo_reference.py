"""References for whole models: one sample, or one layer and one sample, at a time, always from the same state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autobatch.fisher import FisherProbe

from .reference import trainable

Step = Callable[[slice], Tensor]  # the forward pass of some samples of a batch, and the sum of their losses


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Take back what forward passes do to buffers: running statistics, power iterations."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def _gradients(model: nn.Module, step: Step, samples: slice) -> list[Tensor | None]:
    model.zero_grad()
    with _state_kept(model):
        step(samples).backward()
    return [parameter.grad for parameter in trainable(model)]


def gram_of_samples(model: nn.Module, batch: int, step: Step) -> Tensor:
    """F from one forward and backward pass for each sample; for models whose samples are independent."""
    rows = []
    for i in range(batch):
        with _state_kept(model):
            gradients = torch.autograd.grad(step(slice(i, i + 1)), trainable(model), allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(trainable(model), gradients, strict=True)])
    return sum((_products(torch.stack(uses)) for uses in zip(*rows, strict=True)), torch.zeros(batch, batch).double())


def gram_of_rows(model: nn.Module, batch: int, step: Step) -> Tensor:
    """F by the "rows" definition, for models that mix samples and use each parameter in its own layer only.

    Row b of J is, for each layer, the vector-Jacobian product of that layer's function of the whole batch with its
    output gradient, masked to the rows of sample b.
    """
    calls: list[tuple[nn.Module, list[Tensor], Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((module, [tensor.detach().clone() for tensor in inputs], output))
        return output.clone()  # in-place operations that follow must not touch what is recorded

    layers = [module for module in model.modules() if any(p.requires_grad for p in module.parameters(recurse=False))]
    handles = [module.register_forward_hook(hook) for module in layers]
    jacobian: dict[nn.Parameter, Tensor] = {}
    with _state_kept(model):
        total = step(slice(None))
        gradients = torch.autograd.grad(total, [output for _, _, output in calls])
        for handle in handles:
            handle.remove()
        for (module, inputs, _), gradient in zip(calls, gradients, strict=True):
            parameters = [p for p in module.parameters(recurse=False) if p.requires_grad]
            output = module.forward(*inputs)
            for i in range(batch):
                masked = torch.zeros_like(gradient).view(batch, -1, *gradient.shape[1:])
                masked[i] = gradient.view_as(masked)[i]
                products = torch.autograd.grad(output, parameters, masked.view_as(gradient), retain_graph=True)
                for parameter, product in zip(parameters, products, strict=True):
                    rows = jacobian.setdefault(parameter, product.new_zeros(batch, *product.shape))
                    rows[i] += product
    return sum((_products(rows) for rows in jacobian.values()), torch.zeros(batch, batch).double())


def _products(rows: Tensor) -> Tensor:
    rows = rows.reshape(len(rows), -1)
    return rows @ rows.T


def gram_of_probe(model: nn.Module, step: Step, bn: str = "rows") -> Tensor:
    """F as the package measures it; asserts that the step's gradients are those of the same step unmeasured."""
    plain = _gradients(model, step, slice(None))
    model.zero_grad()
    probe = FisherProbe(model, loss_reduction="sum", bn=bn)
    with _state_kept(model), probe:
        step(slice(None)).backward()
    for parameter, gradient in zip(trainable(model), plain, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    return probe.gram()


def error_of(gram: Tensor, expected: Tensor) -> float:
    """The largest difference between two Gram matrices, relative to the largest entry."""
    return float((gram - expected).abs().max() / expected.abs().max())
