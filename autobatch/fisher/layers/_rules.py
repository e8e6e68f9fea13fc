"""Rules by *function*: how each use of a parameter turns an output gradient into per-sample gradients.

Rules go by function and not by module, so a parameter is seen wherever it is used: in its own module, in another one,
or in a plain matrix product such as a tied head ``h @ embedding.weight.T``. Which function has which rule stands in
``autobatch.fisher._registry``; one that has none is measured by ``autobatch.fisher.layers._generic``.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._products import einsum_terms
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import DenseJacobian, EmbeddingJacobian, OuterJacobian
from autobatch.fisher.layers._calls import (
    Call,
    Contribution,
    KeptInput,
    NoRuleError,
    Rule,
    arguments,
    dense,
    precise,
    saved_elsewhere,
)
from autobatch.fisher.layers._channels import channel_sums, normalised_products
from autobatch.fisher.layers._convolution import ConvolutionJacobian
from autobatch.fisher.layers._unfold import Geometry

_Maker = Callable[[Tensor], Jacobian]
"""Makes the per-sample gradients of a weight from the gradient of a call's output."""


def _kept_before(call: Call, x: Tensor, features: int) -> KeptInput:
    """Keep an input whose samples lie before its last dimensions; for any other there is no fast rule."""
    try:
        kept = KeptInput(call, x)
    except MeasureError:
        raise NoRuleError from None
    if kept.layout.dim >= kept.ndim - features:
        raise NoRuleError
    return kept


def linear(call: Call) -> list[Contribution]:
    return _product(call, arguments(call, "input weight bias"), out_first=True)


def matmul(call: Call) -> list[Contribution]:
    given = arguments(call, "input other")
    left, right = given["input"], next(given[name] for name in ("other", "mat2", "vec") if given.get(name) is not None)
    if call.name == "__rmatmul__":
        left, right = right, left
    if call.weight(left) is not None:
        return _left_product(call, left, right)
    return _product(call, {"input": left, "weight": right, "bias": None}, out_first=False)


def addmm(call: Call) -> list[Contribution]:
    given = arguments(call, "input mat1 mat2")
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1 or call.weight(given["mat1"]) is not None:
        raise NoRuleError
    given = {"input": given["mat1"], "weight": given["mat2"], "bias": given["input"]}
    return _product(call, given, out_first=False)


def _product(call: Call, given: Mapping[str, Any], out_first: bool) -> list[Contribution]:
    # The input times a matrix, which lies as (out, in) when out_first and not transposed.
    kept = _kept_before(call, given["input"], features=1)
    used, added = call.weight(given["weight"]), call.weight(given["bias"])
    if (used and used.tensor.ndim != 2) or (added and added.tensor.shape != call.outputs[0].shape[-1:]):
        raise NoRuleError
    out_first = out_first != (used is not None and used.transposed)
    return _weight_and_bias(call, given, _product_weight(kept, out_first), _summed_bias(kept))


def _product_weight(kept: KeptInput, out_first: bool, by_sample: Callable[[Tensor], Tensor] | None = None) -> _Maker:
    by_sample = by_sample or kept.by_sample

    def jacobian(gradient: Tensor) -> Jacobian:
        x, g = precise(by_sample(kept()), by_sample(gradient))
        return OuterJacobian(g, x) if out_first else OuterJacobian(x, g, turned=True)

    return jacobian


def _left_product(call: Call, weight: Any, x: Tensor) -> list[Contribution]:
    # A matrix times x of shape (..., in, n): each of the n columns is a position.
    used = call.weight(weight)
    kept = _kept_before(call, x, features=0)
    if used is None or used.tensor.ndim != 2 or x.ndim < 2 or call.weight(x) is not None:
        raise NoRuleError
    last = {x.ndim - 1: x.ndim - 2}.get(kept.layout.dim, kept.layout.dim)
    if kept.layout.dim == x.ndim - 2:
        raise NoRuleError
    columns = replace(kept.layout, dim=last)

    def by_sample(tensor: Tensor) -> Tensor:
        return columns.samples_first(tensor.mT, kept.batch).reshape(kept.batch, -1, tensor.shape[-2])

    return [Contribution(used, _product_weight(kept, not used.transposed, by_sample))]


def _summed_bias(kept: KeptInput) -> _Maker:
    def jacobian(gradient: Tensor) -> Jacobian:
        rows = precise(kept.by_sample(gradient))[0]
        # The same memory as the weight's output gradient: its Gram matrix need not be made twice.
        return DenseJacobian(rows[:, 0] if rows.shape[1] == 1 else rows.sum(1))

    return jacobian


def bilinear(call: Call) -> list[Contribution]:
    given = arguments(call, "input1 input2 weight bias")
    first, second = (_kept_before(call, given[name], features=1) for name in ("input1", "input2"))

    def weight(gradient: Tensor) -> Jacobian:
        one, two, g = precise(first.by_sample(first()), second.by_sample(second()), first.by_sample(gradient))
        return OuterJacobian(g, (one.unsqueeze(-1) * two.unsqueeze(-2)).flatten(2))

    return _weight_and_bias(call, given, weight, _summed_bias(first))


def _weight_and_bias(call: Call, given: Mapping[str, Any], weight: _Maker, bias: _Maker) -> list[Contribution]:
    makers = {"weight": weight, "bias": bias}
    return [Contribution(used, maker) for name, maker in makers.items() if (used := call.weight(given[name]))]


def convolution(spatial: int, *, transposed: bool = False) -> Rule:
    order = "input weight bias stride padding "
    order += "output_padding groups dilation" if transposed else "dilation groups"

    def rule(call: Call) -> list[Contribution]:
        given = arguments(call, order)
        kept = _kept_before(call, given["input"], features=spatial + 1)
        if kept.ndim != spatial + 2:
            raise NoRuleError
        if (used := call.weight(given["weight"])) and used.transposed:
            raise NoRuleError
        geometry = _geometry(tuple(given["weight"].shape[2:]), given)
        groups = given["groups"] or 1

        def weight(gradient: Tensor) -> Jacobian:
            x, g = precise(kept.rows(kept()), kept.rows(gradient))
            # A transposed convolution is the gradient of a convolution: its output plays the input there.
            wide, narrow = (g, x) if transposed else (x, g)
            return ConvolutionJacobian(
                wide, narrow, batch=kept.batch, geometry=geometry, groups=groups, turned=transposed
            )

        return _weight_and_bias(call, given, weight, _channel_shift(kept))

    return rule


def _geometry(kernel: tuple[int, ...], given: Mapping[str, Any]) -> Geometry:
    spatial = len(kernel)

    def each(name: str, default: int) -> tuple[int, ...]:
        value = given[name] if given[name] is not None else default
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * spatial if len(values) == 1 else values

    dilation = each("dilation", 1)
    mode = given["padding"]
    padding: tuple[tuple[int, int], ...]
    if mode == "same":
        # As torch does: where the total is odd, the extra element lies on the right.
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    elif mode == "valid":
        padding = ((0, 0),) * spatial
    else:
        padding = tuple((p, p) for p in each("padding", 0))
    return Geometry(kernel, each("stride", 1), padding, dilation)


def _channel_shift(kept: KeptInput) -> _Maker:
    """Return what makes the rows of a shift that is added to channels (dimension 1) of (B * r, C, ...)."""
    return lambda gradient: DenseJacobian(channel_sums(precise(kept.rows(gradient))[0], kept.batch))


def batch_norm(call: Call) -> list[Contribution]:
    tensors = ["running_mean running_var", "weight bias"]
    first, then = tensors if call.function is F.batch_norm else tensors[::-1]
    given = arguments(call, f"input {first} {then} training momentum eps", eps=1e-5)
    return _normalised_batch(call, given, batch_statistics=bool(given["training"]))


def _normalised_batch(call: Call, given: Mapping[str, Any], *, batch_statistics: bool) -> list[Contribution]:
    kept, eps = KeptInput(call, given["input"]), given["eps"]
    statistics = None if batch_statistics else (given["running_mean"].clone(), given["running_var"].clone())
    node = None if saved_elsewhere() else call.node

    def scale(x: Tensor, g: Tensor) -> Tensor:
        if statistics is not None:
            mean, rstd = statistics[0], (statistics[1] + eps).rsqrt()
        elif node is not None and type(node).__name__ == "NativeBatchNormBackward0":  # which keeps the mean and 1 / std
            mean, rstd = node._saved_result1, node._saved_result2
        else:
            whole = precise(kept())[0]
            variance, mean = torch.var_mean(whole, [dim for dim in range(whole.ndim) if dim != 1], correction=0)
            rstd = (variance + eps).rsqrt()
        # From the input, never from (output - bias) / weight: a weight may be zero.
        return normalised_products(x, g, mean.to(x.dtype), rstd.to(x.dtype), kept.batch)

    return _affine_channels(call, given, kept, scale)


def group_norm(call: Call) -> list[Contribution]:
    given = arguments(call, "input num_groups weight bias eps", eps=1e-5)
    return _normalised_channels(call, given, given["num_groups"])


def instance_norm(call: Call) -> list[Contribution]:
    given = arguments(call, "input running_mean running_var weight bias use_input_stats momentum eps", eps=1e-5)
    if given["use_input_stats"] is False:
        return _normalised_batch(call, given, batch_statistics=False)
    return _normalised_channels(call, given, given["input"].shape[1])


def _normalised_channels(call: Call, given: Mapping[str, Any], num_groups: int) -> list[Contribution]:
    kept, eps = KeptInput(call, given["input"]), given["eps"]
    return _affine_channels(
        call, given, kept, lambda x, g: channel_sums(F.group_norm(x, num_groups, eps=eps) * g, kept.batch)
    )


def _affine_channels(
    call: Call, given: Mapping[str, Any], kept: KeptInput, scale: Callable[[Tensor, Tensor], Tensor]
) -> list[Contribution]:
    """Return scale and shift of the channels after a normalisation, from what makes the scale's of input and output."""
    if kept.layout.dim != 0:
        raise MeasureError(
            f"expected the batch in dimension 0 of the input, it is in dimension {kept.layout.dim}"
            f" of shape {kept.shape}"
        )
    return _weight_and_bias(
        call,
        given,
        lambda gradient: DenseJacobian(scale(*precise(kept.rows(kept()), kept.rows(gradient)))),
        _channel_shift(kept),
    )


def layer_norm(call: Call) -> list[Contribution]:
    given = arguments(call, "input normalized_shape weight bias eps", eps=1e-5)
    shape = tuple(given["normalized_shape"])
    return _affine_features(call, given, shape, lambda x: F.layer_norm(x, shape, eps=given["eps"]))


def rms_norm(call: Call) -> list[Contribution]:
    given = arguments(call, "input normalized_shape weight eps")
    shape = tuple(given["normalized_shape"])
    return _affine_features(call, given | {"bias": None}, shape, lambda x: F.rms_norm(x, shape, eps=given["eps"]))


def _affine_features(
    call: Call, given: Mapping[str, Any], shape: tuple[int, ...], normalised: Callable[[Tensor], Tensor]
) -> list[Contribution]:
    """Return scale and shift of the last dimensions after a normalisation over them."""
    kept = _kept_before(call, given["input"], features=len(shape))

    def by_sample(values: Tensor) -> Tensor:
        return kept.layout.samples_first(values, kept.batch).reshape(kept.batch, -1, *shape).sum(1)

    def scale(gradient: Tensor) -> Jacobian:
        x, g = precise(kept(), gradient)
        return DenseJacobian(by_sample(normalised(x) * g))

    return _weight_and_bias(call, given, scale, lambda gradient: DenseJacobian(by_sample(precise(gradient)[0])))


def embedding(call: Call) -> list[Contribution]:
    given = arguments(call, "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse")
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if given[option]:
            raise MeasureError(
                f"an embedding with {option}={given[option]!r} has no plain per-sample gradients: leave it off"
            )
    padding = given["padding_idx"]
    if padding is not None and padding < 0:
        padding += len(given["weight"])
    return _looked_up(call, given["weight"], given["input"], padding)


def table_lookup(call: Call) -> list[Contribution]:
    # table[indices] with a single tensor of indices.
    table, indices = call.args
    if not isinstance(indices, Tensor) or indices.dtype is not torch.int64:
        raise NoRuleError
    return _looked_up(call, table, indices, None)


def index_select(call: Call) -> list[Contribution]:
    given = arguments(call, "input dim index")
    if given["dim"] not in {0, -given["input"].ndim}:
        raise NoRuleError
    return _looked_up(call, given["input"], given["index"], None)


def _looked_up(call: Call, table: Tensor, indices: Tensor, padding: int | None) -> list[Contribution]:
    used = call.weight(table)
    if used is None or used.transposed or used.tensor.ndim != 2 or call.weight(indices) is not None:
        raise NoRuleError
    kept = KeptInput(call, indices)
    rows = len(table)

    def jacobian(gradient: Tensor) -> Jacobian:
        index = kept.by_sample(kept().unsqueeze(-1)).squeeze(-1) % rows
        g = precise(kept.by_sample(gradient))[0]
        if padding is not None:
            g = g.masked_fill((index == padding).unsqueeze(-1), 0.0)
        return EmbeddingJacobian(index, g, rows)

    return [Contribution(used, jacobian)]


def einsum(call: Call) -> list[Contribution]:
    """Return the rule of a two-operand einsum: J_b is the einsum of the gradient and the other operand, batch kept."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    letters = einsum_terms(equation, operands)
    if letters is None or len(operands) != 2:
        raise NoRuleError
    terms, right = letters
    place = next(i for i, operand in enumerate(operands) if call.weight(operand) is not None)
    used = call.weight(operands[place])
    if used is None or call.weight(operands[1 - place]) is not None or used.transposed:
        raise NoRuleError
    kept = KeptInput(call, operands[1 - place])
    weight, other = terms[place], terms[1 - place]
    if any(len(set(term)) != len(term) for term in (weight, other, right)):
        raise NoRuleError
    plain = dict(zip(sorted(set(weight + other + right)), string.ascii_letters, strict=False))
    weight, other, right = ("".join(plain[letter] for letter in term) for term in (weight, other, right))
    batch = other[kept.layout.dim]
    alone = kept.shape[kept.layout.dim] == kept.batch and kept.layout.grouping is None
    if not alone or batch in weight or batch not in right or not set(weight) <= set(other) | set(right):
        raise NoRuleError

    def jacobian(gradient: Tensor) -> Jacobian:
        x, g = precise(kept(), gradient)
        return dense(torch.einsum(f"{right},{other}->{batch}{weight}", g, x))

    return [Contribution(used, jacobian)]
