"""How little a measured step can cost: multiply-adds, from the shapes that a network really uses.

Plain is what PyTorch's own counter sees of forward and backward. On top of it come, for every parameter of P elements,

- the rows of J, which cost what the weight gradient costs, unless they replace it (the weight gradient is their sum),
- their Gram product, P B² / 2,

or, where that is less, the Gram matrices of inputs and output gradients over all pairs of T positions,
T² B² / 2 x (rows + width), which need no J and hold the bias's Gram matrix already. Element-wise work and memory
traffic are left out on both sides, and a multiply-add counts the same in every product, so this is a floor "at equal
efficiency".
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fisher.models import Case

_PRODUCTS = {F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm}


@dataclass
class _Parameter:
    elements: int
    products: list[tuple[int, int, int]] = field(default_factory=list)  # (positions, rows, width) of each use
    others: int = 0  # multiply-adds of rows of J in every other use
    bias: "_Parameter | None" = None  # of the same product


class _Uses(TorchFunctionMode):
    """Notes how each parameter is used in a forward pass."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()
        self._batch = batch
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        self.parameters = {name: _Parameter(size) for name, size in sizes.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _PRODUCTS or func is torch.conv2d:
            channels = output.shape[1 if func is torch.conv2d else -1]
            bias = args[2] if len(args) > 2 else None
            self._product(args[1], output.numel() // channels // self._batch, bias)
        elif func in {F.batch_norm, F.layer_norm} and (parameter := self._parameter((kwargs or {}).get("weight"))):
            parameter.others += output.numel()
        return output

    def _product(self, weight: Tensor, positions: int, bias: Any) -> None:
        if parameter := self._parameter(weight):
            rows = weight.shape[0]
            parameter.products.append((positions, rows, weight.numel() // rows))
            parameter.bias = self._parameter(bias)

    def _parameter(self, tensor: Any) -> _Parameter | None:
        if not isinstance(tensor, Tensor):
            return None
        name = self._names.get(id(tensor)) or self._names.get(id(tensor._base))
        return self.parameters[name] if name else None


@dataclass(frozen=True)
class Floor:
    """Multiply-adds of a step.

    Attributes:
        plain: forward and backward.
        beside: what F adds where the weight gradient is computed as well.
        reused: what F adds where J replaces the weight gradient.
        pairwise: parameters by route, share of elements that need no J.
    """

    plain: float
    beside: float
    reused: float
    pairwise: float

    @property
    def ratios(self) -> tuple[float, float]:
        """Return both measured steps over the plain one: weight gradient reused, and computed beside J."""
        return 1 + self.reused / self.plain, 1 + self.beside / self.plain


def floor(case: Case, size: int) -> Floor:
    """Count a case's multiply-adds; nothing is computed."""
    model = case.build().to("meta")
    inputs, targets = (tensor.to("meta") for tensor in case.batch(size))
    uses = _Uses(model, size)
    with FlopCounterMode(display=False) as counter:
        with uses:
            output = model(inputs)
        case.loss(output, targets).backward()
    total: dict[str, float] = defaultdict(float)
    free: list[_Parameter] = []
    for parameter in uses.parameters.values():
        total["elements"] += parameter.elements
        rows_cost = parameter.others + sum(size * t * rows * width for t, rows, width in parameter.products)
        gram = parameter.elements * size**2 / 2
        beside, reused, pairwise = rows_cost + gram, gram, False
        # A parameter that is used once may do without J.
        if len(parameter.products) == 1 and not parameter.others:
            ((t, rows, width),) = parameter.products
            pairs = t**2 * size**2 / 2 * (rows + width)
            pairwise = pairs < reused
            beside, reused = min(beside, pairs), min(reused, pairs)
            if pairwise and parameter.bias is not None:
                free.append(parameter.bias)
        if any(parameter is other for other in free):
            continue
        total["beside"] += beside
        total["reused"] += reused
        total["pairwise"] += pairwise * parameter.elements
    return Floor(
        plain=counter.get_total_flops() / 2,
        beside=total["beside"],
        reused=total["reused"],
        pairwise=total["pairwise"] / total["elements"],
    )
