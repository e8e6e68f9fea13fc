"""Rules by *module*, for other people's layers: what ``register_gram_rule`` adds."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import Contribution, Weight, dense, together

GramRule = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]


def module_contributions(
    module: nn.Module, rule: GramRule, inputs: tuple[Any, ...], output: Any, *, weights: list[Weight], batch: int
) -> list[Contribution]:
    """Return what one call of a module with a rule of its own owes to each of its weights.

    Raises:
        MeasureError: where the output is not one tensor with the batch in front.
    """
    kind = type(module).__name__
    if not isinstance(output, Tensor) or output.ndim == 0 or output.shape[0] != batch:
        raise MeasureError(f"the gram rule of {kind} needs one output tensor with the batch (B = {batch}) in front")
    found = {id(weight.tensor): weight for weight in weights}
    named = {name: found[id(own)] for name, own in module.named_parameters() if id(own) in found}
    kept = tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)

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
