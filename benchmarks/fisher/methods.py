"""Every way to a step's Gram matrix that the benchmark compares: ours, and each library as its documentation says.

A method is prepared once for a network and returns a step: ``step(inputs, targets)`` runs forward and backward, leaves
the gradient of the mean loss in ``.grad`` and returns F (B, B), of the summed loss. Methods that deliver per-sample
gradients J multiply J Jᵀ parameter by parameter, in the network's dtype, and drop each J at once.
"""

import importlib.metadata
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fisher.models import Case

Step = Callable[[Tensor, Tensor], Tensor]
Method = Callable[[Case, nn.Module], Step]


class SkippedError(Exception):
    """This method has nothing to measure here."""


def plain_step(case: Case, model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """Forward and backward, the yardstick of every ratio."""

    def step(inputs: Tensor, targets: Tensor) -> None:
        model.zero_grad(set_to_none=True)
        case.loss(model(inputs), targets).backward()

    return step


def ours(case: Case, model: nn.Module, gradients: str = "library") -> Step:
    """``FisherProbe`` beside an ordinary backward pass, or one that takes the weight gradient from J (``"rows"``)."""
    from autobatch.fisher import FisherProbe

    probe = FisherProbe(model, gradients=gradients)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        with probe:
            case.loss(model(inputs), targets).backward()
        return probe.gram()

    return step


def torchjd(case: Case, model: nn.Module) -> Step:
    """``autogram.Engine``, then a backward pass of the losses, as in its documentation.

    It refuses BatchNorm with ``batch_dim=0`` and says to set it to None then.
    """
    from torchjd.autogram import Engine

    engine = Engine(model, batch_dim=None if has_batch_norm(model) else 0)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        losses = case.losses(model(inputs), targets)
        gram = engine.compute_gramian(losses)
        losses.backward(torch.full_like(losses, 1 / len(losses)))
        return gram

    return step


def backpack(case: Case, model: nn.Module) -> Step:
    """``BatchGrad``, then J Jᵀ."""
    from backpack import backpack as extension
    from backpack import extend
    from backpack.extensions import BatchGrad

    model = extend(model)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = case.loss(model(inputs), targets)
        with extension(BatchGrad()):
            loss.backward()
        return _gram(_taken(model, "grad_batch")) * len(inputs) ** 2

    return step


def opacus_by_hand(case: Case, model: nn.Module) -> Step:
    """The same for BatchNorm, which it refuses: ``strict=False`` and a grad sampler of one's own."""
    if not has_batch_norm(model):
        raise SkippedError("the same as opacus without BatchNorm")
    from opacus.grad_sample import register_grad_sampler

    @register_grad_sampler([nn.BatchNorm2d, _RunningBatchNorm])
    def sampler(layer: nn.BatchNorm2d, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        statistics = (None, None) if type(layer) is nn.BatchNorm2d else (layer.running_mean, layer.running_var)
        normalised = F.batch_norm(activations[0], *statistics, training=statistics[0] is None, eps=layer.eps)
        return {layer.weight: (normalised * backprops).sum((2, 3)), layer.bias: backprops.sum((2, 3))}

    if not case.train:
        # It sees only modules in train mode.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _RunningBatchNorm
        model.train()
    return opacus(case, model, strict=False)


class _RunningBatchNorm(nn.BatchNorm2d):
    """BatchNorm with running statistics, whatever its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def opacus(case: Case, model: nn.Module, *, strict: bool = True) -> Step:
    """``GradSampleModule`` as it comes, then J Jᵀ."""
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model, strict=strict)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        wrapped.zero_grad(set_to_none=True)
        case.loss(wrapped(inputs), targets).backward()
        return _gram(_taken(model, "grad_sample"))

    return step


def torch_func(case: Case, model: nn.Module) -> Step:
    """``vmap(grad(...))`` of PyTorch's tutorial, then J Jᵀ; the gradient is the mean of J's rows."""
    from torch.func import functional_call, grad, vmap

    buffers = dict(model.named_buffers())

    def sample_loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        output = functional_call(model, (parameters, buffers), (inputs.unsqueeze(0),))
        return case.losses(output, targets.unsqueeze(0))[0]

    per_sample = vmap(grad(sample_loss), in_dims=(None, 0, 0))

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        parameters = dict(model.named_parameters())
        jacobian = per_sample({name: value.detach() for name, value in parameters.items()}, inputs, targets)
        for name, parameter in parameters.items():
            parameter.grad = jacobian[name].mean(0)
        return _gram(jacobian.pop(name) for name in parameters)

    return step


def asdl(case: Case, model: nn.Module, operation: str) -> Step:
    """ASDL's Gram matrix: by per-sample gradients layer by layer, or as a product of those of inputs and gradients."""
    import asdl as library

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        # As its own empirical_natural_gradient does it.
        model.kernel = next(model.parameters()).new_zeros(len(inputs), len(inputs))
        with library.extend(model, getattr(library, operation)):
            case.loss(model(inputs), targets).backward()
        return model.kernel * len(inputs) ** 2

    return step


def nngeometry(case: Case, model: nn.Module) -> Step:
    """``GramMatrix`` of the losses, which leaves no gradient, after an ordinary forward and backward pass."""
    from nngeometry.gram import GramMatrix

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        return case.losses(model(inputs), targets).unsqueeze(1)

    plain = plain_step(case, model)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain(inputs, targets)
        return GramMatrix(model, (inputs, targets), function=losses).to_torch()[0, :, 0, :]

    return step


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a network's samples meet in train mode."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _taken(model: nn.Module, attribute: str) -> Iterable[Tensor]:
    """Yield a library's per-sample gradients, taking each away from its parameter."""
    for name, parameter in model.named_parameters():
        rows = getattr(parameter, attribute, None)
        if rows is None:
            raise RuntimeError(f"no {attribute} for {name}")
        if attribute == "grad_sample":
            parameter.grad_sample = None
        else:
            delattr(parameter, attribute)
        yield rows


def _gram(blocks: Iterable[Tensor]) -> Tensor:
    gram = None
    for block in blocks:
        rows = block.detach().flatten(1)
        gram = rows @ rows.T if gram is None else gram.addmm_(rows, rows.T)
    assert gram is not None
    return gram


# The package on PyPI that a method needs, None for our own and PyTorch's.
METHODS: dict[str, tuple[Method, str | None]] = {
    "ours": (ours, None),
    "ours-rows": (partial(ours, gradients="rows"), None),
    "torchjd": (torchjd, "torchjd"),
    "backpack": (backpack, "backpack-for-pytorch"),
    "opacus": (opacus, "opacus"),
    "opacus-by-hand": (opacus_by_hand, "opacus"),
    "torch.func": (torch_func, None),
    "asdl-direct": (partial(asdl, operation="OP_GRAM_DIRECT"), "asdfghjkl"),
    "asdl-hadamard": (partial(asdl, operation="OP_GRAM_HADAMARD"), "asdfghjkl"),
    "nngeometry": (nngeometry, "nngeometry"),
}


def version(method: str) -> str:
    """Return the version of a method's package; empty where that is this repository or is not installed."""
    package = METHODS[method][1] or ("torch" if method == "torch.func" else None)
    try:
        return importlib.metadata.version(package) if package else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def exact_jacobian(case: Case, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The definition: row b is the gradient of sample b's loss, by B backward passes. (B, P)."""
    if case.train and has_batch_norm(model):
        losses = list(case.losses(model(inputs), targets))
    else:
        pairs = zip(inputs.split(1), targets.split(1), strict=True)
        losses = [case.losses(model(x), y)[0] for x, y in pairs]
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def rows_jacobian(case: Case, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The paper's rows under BatchNorm in train mode: layer by layer, output-gradient row times input row. (B, P)."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    handles = [
        module.register_forward_hook(lambda module, given, output: seen.update({module: (given[0], output)}))
        for module in model.modules()
        if list(module.parameters(recurse=False))
    ]
    total = case.losses(model(inputs), targets).sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(total, [output for _, output in seen.values()])
    rows: dict[int, Tensor] = {}
    for (module, (kept, _)), gradient in zip(seen.items(), gradients, strict=True):
        given = kept.detach()
        if isinstance(module, nn.BatchNorm2d):
            normalised = F.batch_norm(given, None, None, training=True, eps=module.eps)
            rows[id(module.weight)] = (normalised * gradient).sum((2, 3))
            rows[id(module.bias)] = gradient.sum((2, 3))
            continue
        parameters = list(module.parameters(recurse=False))
        parts = [
            torch.autograd.grad(module(given[b : b + 1]), parameters, gradient[b : b + 1]) for b in range(len(inputs))
        ]
        for parameter, values in zip(parameters, zip(*parts, strict=True), strict=True):
            rows[id(parameter)] = torch.stack(values)
    return torch.cat([rows[id(parameter)].flatten(1) for parameter in model.parameters()], 1)
