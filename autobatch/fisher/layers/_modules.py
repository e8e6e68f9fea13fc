"""Rules by *module*, for other people's layers: what ``register_gram_rule`` adds."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import Call, Contribution, dense, together

GramRule = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]


def module_contributions(call: Call, module: nn.Module, rule: GramRule) -> list[Contribution]:
    """Return what one call of a module with a rule of its own owes to each of its weights.

    Raises:
        MeasureError: where the output is not one tensor with the batch in front.
    """
    kind, batch, output = type(module).__name__, call.batch, call.outputs[0]
    if not isinstance(output, Tensor) or output.ndim == 0 or output.shape[0] != batch:
        raise MeasureError(f"the gram rule of {kind} needs one output tensor with the batch (B = {batch}) in front")
    named = {name: weight for name, own in module.named_parameters() if (weight := call.weight(own)) is not None}
    kept = tuple(value.detach() if isinstance(value, Tensor) else value for value in call.args)

    def made(gradient: Tensor) -> dict[str, Jacobian]:
        values, rows = rule(module, kept, gradient), dict[str, Jacobian]()
        for name, weight in named.items():
            if name not in values:
                raise MeasureError(f"the gram rule of {kind} gave nothing for parameter {name!r}, only {list(values)}")
            shape = (batch, *weight.tensor.shape)
            if tuple(values[name].shape) != shape:
                raise MeasureError(
                    f"the gram rule of {kind} gave {tuple(values[name].shape)} for parameter {name!r}, expected {shape}"
                )
            rows[name] = dense(values[name])
        return rows

    return together(named, made)
