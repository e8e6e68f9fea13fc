"""Rules by *module*, for other people's layers: what ``register_gram_rule`` adds."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher.gram._jacobians import DenseJacobian, Jacobian
from autobatch.fisher.layers._calls import Contribution, Weight

GramRule = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]
MODULE_RULES: dict[type[nn.Module], GramRule] = {}


def register_gram_rule(module_type: type[nn.Module], rule: GramRule) -> None:
    """Say how the parameters of a kind of module get their per-sample gradients.

    It is needed only for what a probe cannot see: parameters used by a custom ``torch.autograd.Function``, an extension
    or a scripted module. All else is measured without. The module must be called once a pass, take the batch as
    dimension 0, and return one tensor with the batch as dimension 0. A later rule for the same type replaces the
    earlier one; subclasses need their own:

        def scale(module, inputs, output_gradient):
            (x,) = inputs                                # (B, C)
            return {"weight": x * output_gradient}       # (B, C) for a weight of shape (C,)

        autobatch.register_gram_rule(MyScale, scale)

    Args:
        module_type: the class, matched exactly.
        rule: called in the backward pass with the module, its positional inputs (detached) and the gradient of its
            output; returns for every trainable parameter, by its name in the module, the gradients of each sample,
            of shape (B, *parameter's shape), such that their sum is the parameter's gradient.

    Raises:
        MeasureError: where the type is not a module class.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise MeasureError(f"register_gram_rule: expected a subclass of torch.nn.Module, got {module_type!r}")
    MODULE_RULES[module_type] = rule


def module_contributions(
    module: nn.Module, inputs: tuple[Any, ...], output: Any, weights: list[Weight], batch: int
) -> list[Contribution]:
    """Return what one call of a module with a rule of its own owes to its parameters.

    Args:
        module: the module.
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
                values.update(MODULE_RULES[type(module)](module, kept, gradient))
            if name not in values:
                raise MeasureError(f"the gram rule of {kind} gave nothing for parameter {name!r}, only {list(values)}")
            if tuple(values[name].shape) != shape:
                raise MeasureError(
                    f"the gram rule of {kind} gave {tuple(values[name].shape)} for parameter {name!r}, expected {shape}"
                )
            return DenseJacobian(values[name].reshape(batch, shape[1] if len(shape) > 1 else 1, -1))

        return Contribution(weight, jacobian)

    return [contribution(weight) for weight in weights]
