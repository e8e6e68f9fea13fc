"""Parameters that meet the batch element by element: scales, shifts, temperatures, position tables, masks."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import (
    Call,
    Contribution,
    KeptTensor,
    NoRuleError,
    Rule,
    Weight,
    arguments,
    dense,
    precise,
)


def by_element(again: Callable[..., Tensor] | None = None, *, channels: bool = False) -> Rule:
    """Return the rule of a function that broadcasts its arguments and works element by element.

    Args:
        again: what is run again in the backward pass, of a function that works in place: one that does not.
        channels: whether weights of shape (C,) belong to dimension 1 of the output.
    """

    def rule(call: Call) -> list[Contribution]:
        output, args, kwargs = call.outputs[0], list(call.args), dict(call.kwargs)
        shape, function = tuple(output.shape), again or call.function
        if call.was.tensor is not None:
            if call.weight(call.args[0]) is not None:
                raise NoRuleError
            args[0] = call.was.tensor
        # A sum's gradient does not depend on its terms.
        keep = (lambda _: output.new_zeros(())) if call.known.additive == "term" else KeptTensor
        kept = [keep(argument) if isinstance(argument, Tensor) else argument for argument in args]

        def repeat(places: list[int], weight: Tensor) -> Tensor:
            """Return the function's output with another tensor in the places of a weight."""
            given = [argument() if isinstance(argument, KeptTensor) else argument for argument in kept]
            for place in places:
                given[place] = weight
            result: Tensor = function(*given, **kwargs)
            return result

        contributions = []
        for used in call.weights():
            places = [place for place, argument in enumerate(args) if argument is used.tensor]
            ones = _ones(used, shape, channels=channels)
            if not places or len(call.outputs) != 1:
                raise NoRuleError
            contributions.append(Contribution(used, _expanded(call, used.tensor, ones, shape, partial(repeat, places))))
        return contributions

    return rule


def expanded(call: Call) -> list[Contribution]:
    """Return the rule of a parameter that is repeated for each sample: class tokens, initial states."""
    used, output = call.weight(call.args[0]), call.outputs[0]
    if used is None or not output.numel():
        raise NoRuleError
    ones = _ones(used, tuple(output.shape))
    if ones[0] != 1:
        raise NoRuleError
    return [Contribution(used, _expanded(call, used.tensor, ones, tuple(output.shape), lambda whole: whole))]


def attention_bias(call: Call) -> list[Contribution]:
    """Return the rule of a bias of attention, such as a table of relative positions, as ``attn_mask``."""
    given = arguments(call, "query key value attn_mask dropout_p is_causal scale", dropout_p=0.0)
    kept = [KeptTensor(given.pop(name)) for name in ("query", "key", "value")]
    bias, used, query = given["attn_mask"], call.weight(given["attn_mask"]), kept[0]()
    state = call.was.random_state if given["dropout_p"] else None
    again = query.device.type == "cpu" and query.dtype in {torch.float32, torch.float64}  # what is dropped, is again
    if used is None or len(call.used) > 1 or (state is not None and not again):
        raise NoRuleError
    options = {name: value for name, value in given.items() if name != "attn_mask" and value is not None}
    shape = (*call.outputs[0].shape[:-1], kept[1]().shape[-2])

    def repeat(whole: Tensor) -> Tensor:
        query, key, value, mask = precise(*(tensor() for tensor in kept), whole)
        with torch.random.fork_rng(devices=[], enabled=state is not None):
            if state is not None:
                torch.set_rng_state(state)
            return F.scaled_dot_product_attention(query, key, value, mask, **options)

    return [Contribution(used, _expanded(call, bias, _ones(used, shape), shape, repeat))]


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Return what ``torch.prelu`` does, of a weight of any shape that broadcasts."""
    return torch.where(x > 0, x, weight * x)


def _ones(used: Weight, shape: tuple[int, ...], *, channels: bool = False) -> tuple[int, ...]:
    """Return the shape of a weight with ones where it broadcasts; raise NoRuleError where it does not."""
    small = tuple(used.tensor.shape) + (1,) * (len(shape) - 2 if channels else 0)
    ones = (1,) * (len(shape) - len(small)) + small
    if used.transposed or len(ones) != len(shape) or any(a not in {1, b} for a, b in zip(ones, shape, strict=True)):
        raise NoRuleError
    return ones


def _expanded(
    call: Call, weight: Tensor, ones: tuple[int, ...], shape: tuple[int, ...], repeat: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Jacobian]:
    """Return what makes the rows of a weight that was expanded to a shape, by running the function again.

    Samples lie in that shape as they do in the output.
    """
    layout, batch = call.output_layout(0), call.batch
    dim = layout.dim

    def jacobian(gradient: Tensor) -> Jacobian:
        (gradient,) = precise(gradient)
        with torch.enable_grad():
            full = weight.detach().to(gradient.dtype).reshape(ones).expand(shape)
            output = repeat(full.requires_grad_())
        (each,) = torch.autograd.grad(output, full, gradient.to(output.dtype))
        if ones[dim] == 1:  # what each sample shares is summed
            rows = layout.samples_first(each, batch).flatten(dim + 1, dim + 2).sum(dim + 1, keepdim=True)
        else:  # each sample has elements of its own: it gives nothing to those of the others
            rows = torch.stack([layout.only(each, sample, batch) for sample in range(batch)])
        return dense(rows.sum_to_size(batch, *ones).reshape(batch, *weight.shape))

    return jacobian
