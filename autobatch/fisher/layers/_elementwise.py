"""Parameters that meet the batch element by element: scales, shifts, temperatures, position tables, masks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._layout import BatchLayout
from autobatch.fisher.gram._jacobians import Jacobian
from autobatch.fisher.layers._calls import Call, Contribution, KeptTensor, NoRuleError, Weight, dense, precise

ELEMENTWISE = frozenset({
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "pow", "float_power"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__"),
    *("__div__", "__rdiv__", "__pow__", "__rpow__", "add_", "sub_", "mul_", "div_", "__iadd__", "__isub__", "__imul__"),
    *("__itruediv__", "__idiv__", "maximum", "minimum", "where", "lerp", "addcmul", "addcdiv", "prelu"),
    *("logaddexp", "xlogy", "hypot", "atan2", "copysign", "fmax", "fmin"),
})


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


# What is run again in the backward pass, where that is not the function itself.
_ELSEWHERE = {
    "prelu": _prelu,
    **dict.fromkeys(("add_", "__iadd__"), torch.add),
    **dict.fromkeys(("sub_", "__isub__"), torch.sub),
    **dict.fromkeys(("mul_", "__imul__"), torch.mul),
    **dict.fromkeys(("div_", "__itruediv__", "__idiv__"), torch.div),
}
_SUMS = frozenset({"add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__"}) | {
    *("add_", "sub_", "__iadd__", "__isub__")
}


def elementwise(call: Call) -> list[Contribution]:
    """Return the contributions of a function that broadcasts its arguments and works element by element.

    Args:
        call: the call.

    Returns:
        One contribution for each weight among the arguments.

    Raises:
        NoRuleError: where an argument does not broadcast against the output.
    """
    output = call.outputs[0]
    layout = call.output_layout(0)
    shape = tuple(output.shape)
    name = getattr(call.function, "__name__", "")
    function = _ELSEWHERE.get(name, call.function)
    args: list[Any] = list(call.args)
    if call.before is not None:
        if call.weight(call.args[0]) is not None:
            raise NoRuleError
        args[0] = call.before
    # A sum's gradient does not depend on its terms.
    nothing = output.new_zeros(())
    kept: list[Any] = [
        argument if not isinstance(argument, Tensor) else nothing if name in _SUMS else KeptTensor(argument)
        for argument in args
    ]
    contributions = []
    for used in call.weights():
        places = [place for place, argument in enumerate(args) if argument is used.tensor]
        small = tuple(used.tensor.shape)
        if name == "prelu":
            small = (*small, *(1,) * (len(shape) - 2))
        ones = (1,) * (len(shape) - len(small)) + small
        broadcast = len(ones) == len(shape) and all(a in {1, b} for a, b in zip(ones, shape, strict=True))
        if used.transposed or not places or not broadcast or len(call.outputs) != 1:
            raise NoRuleError
        repeat = partial(_run, function, kept, dict(call.kwargs), places)
        contributions.append(Contribution(used, _Expanded(repeat, used, shape, ones, layout, call.batch)))
    return contributions


def _run(function: Any, kept: list[Any], kwargs: dict[str, Any], places: list[int], weight: Tensor) -> Tensor:
    """Return the function's output with another tensor in the places of a weight."""
    args = [argument() if isinstance(argument, KeptTensor) else argument for argument in kept]
    for place in places:
        args[place] = weight
    output: Tensor = function(*args, **kwargs)
    return output


@dataclass(frozen=True, eq=False)
class _Expanded:
    """The gradient for a weight that was expanded to the output's shape, summed over what each sample shares."""

    repeat: Callable[[Tensor], Tensor]
    weight: Weight
    shape: tuple[int, ...]
    ones: tuple[int, ...]
    layout: BatchLayout
    batch: int

    def __call__(self, gradient: Tensor) -> Jacobian:
        (gradient,) = precise(gradient)
        with torch.enable_grad():
            full = self.weight.tensor.detach().to(gradient.dtype).reshape(self.ones).expand(self.shape)
            output = self.repeat(full.requires_grad_())
        (each,) = torch.autograd.grad(output, full, gradient.to(output.dtype))
        return dense(self._by_sample(each))

    def _by_sample(self, each: Tensor) -> Tensor:
        """Return (B, *weight's shape) from the gradient of every element of the output."""
        dim, batch = self.layout.dim, self.batch
        if self.ones[dim] == 1:
            rows = self.layout.samples_first(each, batch)
            rows = rows.flatten(dim + 1, dim + 2).sum(dim + 1, keepdim=True)
            return rows.sum_to_size(batch, *self.ones).reshape(batch, *self.weight.tensor.shape)
        # Each sample has elements of its own: it gives nothing to those of the others.
        own = torch.stack([self.layout.only(each, sample, batch) for sample in range(batch)])
        return own.sum_to_size(batch, *self.ones).reshape(batch, *self.weight.tensor.shape)
