"""Rules by *module*, for other people's layers: what ``register_gram_rule`` adds."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import DenseJacobian
from autobatch.fisher.layers._calls import Contribution, Weight

GramRule = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]


def module_contributions(
    module: nn.Module, rule: GramRule, inputs: tuple[Any, ...], output: Any, *, weights: list[Weight], batch: int
) -> list[Contribution]:
    """Return what one call of a module with a rule of its own owes to its parameters.

    Args:
        module: the module.
        rule: of its kind, as ``register_gram_rule`` takes it.
        inputs: its positional inputs.
        output: what it returned.
        weights: its trainable parameters.
        batch: B.

    Returns:
        One contribution for each.

    Raises:
        MeasureError: where the output is not one tensor with the batch in front.
    """
    kind = type(module).__name__
    if not isinstance(output, Tensor) or output.ndim == 0 or output.shape[0] != batch:
        raise MeasureError(f"the gram rule of {kind} needs one output tensor with the batch (B = {batch}) in front")
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    kept = tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)
    values: dict[str, Tensor] = {}

    def contribution(weight: Weight) -> Contribution:
        name = names[id(weight.roots[0].tensor)]
        shape = (batch, *weight.roots[0].tensor.shape)

        def jacobian(gradient: Tensor) -> Jacobian:
            if not values:
                values.update(rule(module, kept, gradient))
            if name not in values:
                raise MeasureError(f"the gram rule of {kind} gave nothing for parameter {name!r}, only {list(values)}")
            if tuple(values[name].shape) != shape:
                raise MeasureError(
                    f"the gram rule of {kind} gave {tuple(values[name].shape)} for parameter {name!r}, expected {shape}"
                )
            return DenseJacobian(values[name].reshape(batch, shape[1] if len(shape) > 1 else 1, -1))

        return Contribution(weight, jacobian)

    return [contribution(weight) for weight in weights]
