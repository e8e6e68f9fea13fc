"""Parameters that meet the batch element by element: scales, shifts, temperatures, position tables, masks."""

from typing import Any

import torch
from torch import Tensor

from autobatch.fisher._calls import Call, Contribution, KeptTensor, NoRuleError, Weight, dense, precise
from autobatch.fisher._jacobians import Jacobian
from autobatch.fisher._layout import BatchLayout

ELEMENTWISE = frozenset(
    {
        *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "pow", "float_power"),
        *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__div__"),
        *("__rdiv__", "__pow__", "__rpow__", "add_", "sub_", "mul_", "div_", "__iadd__", "__isub__", "__imul__"),
        *("__itruediv__", "__idiv__", "maximum", "minimum", "where", "lerp", "addcmul", "addcdiv", "prelu"),
        *("logaddexp", "xlogy", "hypot", "atan2", "copysign", "fmax", "fmin"),
    }
)


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
        call: the call; raises :class:`NoRuleError` where an argument does not broadcast against the output.

    Returns:
        One contribution for each weight among the arguments.
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
        jacobian = _Expanded(call, function, kept, places, used, shape, ones, layout)
        contributions.append(Contribution(used, jacobian))
    return contributions


class _Expanded:
    """The gradient for a weight that was expanded to the output's shape, summed over what each sample shares."""

    def __init__(
        self,
        call: Call,
        function: Any,
        kept: list[Any],
        places: list[int],
        weight: Weight,
        shape: tuple[int, ...],
        ones: tuple[int, ...],
        layout: BatchLayout,
    ) -> None:
        self._function = function
        self._kwargs = dict(call.kwargs)
        self._batch = call.batch
        self._kept = kept
        self._places = places
        self._weight = weight
        self._shape = shape
        self._ones = ones
        self._layout = layout

    def __call__(self, gradient: Tensor) -> Jacobian:
        (gradient,) = precise(gradient)
        args = [argument() if isinstance(argument, KeptTensor) else argument for argument in self._kept]
        with torch.enable_grad():
            full = self._weight.tensor.detach().to(gradient.dtype).reshape(self._ones).expand(self._shape)
            full.requires_grad_()
            for place in self._places:
                args[place] = full
            output = self._function(*args, **self._kwargs)
        (each,) = torch.autograd.grad(output, full, gradient.to(output.dtype))
        return dense(self._by_sample(each))

    def _by_sample(self, each: Tensor) -> Tensor:
        """Return (B, *weight's shape) from the gradient of every element of the output."""
        dim, batch = self._layout.dim, self._batch
        rows = self._layout.samples_first(each, batch)
        if self._ones[dim] == 1:
            rows = rows.flatten(dim + 1, dim + 2).sum(dim + 1, keepdim=True)
            return rows.sum_to_size(batch, *self._ones).reshape(batch, *self._weight.tensor.shape)
        # Each sample has elements of its own: it gives nothing to those of the others.
        own = each.new_zeros(batch, *self._shape)
        for sample in range(batch):
            self._layout.samples_first(own[sample], batch)[sample].copy_(rows[sample])
        return own.sum_to_size(batch, *self._ones).reshape(batch, *self._weight.tensor.shape)
