"""One table of rules by *function*: how each use of a parameter turns an output gradient into per-sample gradients.

Rules go by function and not by module, so a parameter is seen wherever it is used: in its own module, in another one,
or in a plain matrix product such as a tied head ``h @ embedding.weight.T``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher._jacobians import (
    ConvolutionJacobian,
    DenseJacobian,
    EmbeddingJacobian,
    Jacobian,
    OuterJacobian,
)
from autobatch.fisher._layout import BatchLayout

SUPPORTED = (
    "Linear, Conv1d, Conv2d, BatchNorm1d, BatchNorm2d, LayerNorm, GroupNorm, Embedding, and plain matrix products"
    " x @ weight, x @ weight.T, addmm"
)


@dataclass(frozen=True)
class Source:
    """A trainable parameter as it entered a call.

    Attributes:
        parameter: the parameter.
        name: its dotted name in the model.
        transposed: whether the tensor in the call is the parameter's transpose.
    """

    parameter: Tensor
    name: str
    transposed: bool = False


@dataclass(frozen=True)
class Contribution:
    """What one call owes to one parameter.

    Attributes:
        source: the parameter.
        jacobian: makes the per-sample gradients from the gradient of the call's output.
    """

    source: Source
    jacobian: Callable[[Tensor], Jacobian]


class Call(Protocol):
    """One call of a torch function during the forward pass, as a rule sees it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor
    batch: int

    def source(self, tensor: Any) -> Source | None:
        """Return the trainable parameter that a tensor is (or is the transpose of)."""
        ...

    def layout(self, tensor: Tensor) -> BatchLayout:
        """Return where the batch lies in an input, or raise MeasureError."""
        ...


Rule = Callable[[Call], list[Contribution]]


class _Input:
    """An input kept for the backward pass, with a guard against being changed in place meanwhile."""

    def __init__(self, call: Call, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self._version = tensor._version
        self.layout = call.layout(tensor)
        self.batch = call.batch

    def __call__(self) -> Tensor:
        if self._tensor._version != self._version:
            raise MeasureError(
                "the input of this call was changed in place after the call, so its per-sample gradients are gone:"
                " use the out-of-place form there"
            )
        return self._tensor

    def by_sample(self, tensor: Tensor) -> Tensor:
        """Return (..., n) as (B, T, n), where T counts every other dimension."""
        return tensor.movedim(self.layout.dim, 0).reshape(self.batch, -1, tensor.shape[-1])

    def need_batch_first(self, dimensions: int | None = None) -> None:
        if dimensions is not None and self._tensor.ndim != dimensions:
            raise MeasureError(f"expected an input of {dimensions} dimensions, got shape {tuple(self._tensor.shape)}")
        if self.layout.dim != 0:
            raise MeasureError(
                f"expected the batch in dimension 0 of the input, it is in dimension {self.layout.dim}"
                f" of shape {tuple(self._tensor.shape)}"
            )

    def need_batch_before(self, features: int) -> None:
        if self.layout.dim >= self._tensor.ndim - features:
            raise MeasureError(
                f"the batch lies in a feature dimension of the input (dimension {self.layout.dim} of shape"
                f" {tuple(self._tensor.shape)})"
            )


def _arguments(call: Call, names: str) -> dict[str, Any]:
    """Return the arguments of a call by name, positional and keyword ones; absent ones are None."""
    order = names.split()
    return dict.fromkeys(order) | dict(zip(order, call.args, strict=False)) | dict(call.kwargs)


def _precise(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in one dtype of at least float32, for autocast mixes them."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _linear(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input weight bias")
    return _product(call, arguments["input"], arguments["weight"], arguments["bias"], out_first=True)


def _matmul(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input other")
    other = arguments["other"] if arguments["other"] is not None else arguments.get("mat2")
    return _product(call, arguments["input"], other, None, out_first=False)


def _addmm(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input mat1 mat2")
    if arguments.get("beta", 1) != 1 or arguments.get("alpha", 1) != 1:
        raise MeasureError("addmm with beta or alpha other than 1 is not supported")
    return _product(call, arguments["mat1"], arguments["mat2"], arguments["input"], out_first=False)


def _product(call: Call, x: Tensor, weight: Any, bias: Any, out_first: bool) -> list[Contribution]:
    # x times a matrix parameter, which lies as (out, in) when out_first and not transposed.
    contributions = []
    kept: _Input | None = None
    if source := call.source(weight):
        if source.parameter.ndim != 2:
            raise MeasureError(f"expected a matrix, got a parameter of shape {tuple(source.parameter.shape)}")
        out_first = out_first != source.transposed
        kept = _Input(call, x)
        kept.need_batch_before(features=1)
        contributions.append(Contribution(source, _product_weight(kept, out_first)))
    if source := call.source(bias):
        kept = kept or _Input(call, x)
        kept.need_batch_before(features=1)
        if source.parameter.ndim != 1:
            raise MeasureError(f"expected a bias of one dimension, got shape {tuple(source.parameter.shape)}")
        contributions.append(Contribution(source, _summed_bias(kept)))
    return contributions


def _product_weight(kept: _Input, out_first: bool) -> Callable[[Tensor], Jacobian]:
    def jacobian(gradient: Tensor) -> Jacobian:
        x, g = _precise(kept.by_sample(kept()), kept.by_sample(gradient))
        return OuterJacobian(g, x) if out_first else OuterJacobian(x, g)

    return jacobian


def _summed_bias(kept: _Input) -> Callable[[Tensor], Jacobian]:
    def jacobian(gradient: Tensor) -> Jacobian:
        return DenseJacobian(_precise(kept.by_sample(gradient))[0].sum(1))

    return jacobian


def _convolution(spatial: int) -> Rule:
    def rule(call: Call) -> list[Contribution]:
        arguments = _arguments(call, "input weight bias stride padding dilation groups")
        contributions = []
        kept = None
        if source := call.source(arguments["weight"]):
            if source.transposed:
                raise MeasureError("a transposed weight cannot be measured in a convolution")
            kept = _Input(call, arguments["input"])
            kept.need_batch_first(dimensions=spatial + 2)
            geometry = _Geometry.of(tuple(source.parameter.shape[2:]), arguments)
            contributions.append(Contribution(source, _convolution_weight(kept, geometry)))
        if source := call.source(arguments["bias"]):
            kept = kept or _Input(call, arguments["input"])
            kept.need_batch_first(dimensions=spatial + 2)
            contributions.append(Contribution(source, _channel_sums(call.batch)))
        return contributions

    return rule


@dataclass(frozen=True)
class _Geometry:
    """A convolution as a 2-d one; ``padding`` is in the order that F.pad takes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, kernel: tuple[int, ...], arguments: Mapping[str, Any]) -> "_Geometry":
        spatial = len(kernel)

        def pairs(name: str, default: int) -> tuple[int, ...]:
            value = arguments[name] if arguments[name] is not None else default
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * spatial if len(values) == 1 else values

        dilation = pairs("dilation", 1)
        mode = arguments["padding"]
        if mode == "same":
            # As torch does: where the total is odd, the extra element lies on the right.
            totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            sides = [(total // 2, total - total // 2) for total in totals]
        elif mode == "valid":
            sides = [(0, 0)] * spatial
        else:
            sides = [(p, p) for p in pairs("padding", 0)]
        groups = arguments["groups"] or 1
        stride = pairs("stride", 1)
        if spatial == 1:
            return cls((1, kernel[0]), (1, stride[0]), (*sides[0], 0, 0), (1, dilation[0]), groups)
        return cls(
            (kernel[0], kernel[1]),
            (stride[0], stride[1]),
            (*sides[1], *sides[0]),
            (dilation[0], dilation[1]),
            groups,
        )


def _convolution_weight(kept: _Input, geometry: _Geometry) -> Callable[[Tensor], Jacobian]:
    def jacobian(gradient: Tensor) -> Jacobian:
        x, g = _precise(kept(), gradient)
        if x.ndim == 3:
            x, g = x.unsqueeze(2), g.unsqueeze(2)
        if any(geometry.padding):
            x = F.pad(x, geometry.padding)
        return ConvolutionJacobian(
            x,
            g,
            batch=kept.batch,
            kernel=geometry.kernel,
            stride=geometry.stride,
            dilation=geometry.dilation,
            groups=geometry.groups,
        )

    return jacobian


def _channel_sums(batch: int) -> Callable[[Tensor], Jacobian]:
    """Return a rule for channel biases: sums of (B * r, C, ...) by sample and channel."""

    def jacobian(gradient: Tensor) -> Jacobian:
        return DenseJacobian(_by_channel(_precise(gradient)[0], batch))

    return jacobian


def _by_channel(values: Tensor, batch: int) -> Tensor:
    """Return the sums of (B * r, C, ...) as (B, C)."""
    return values.reshape(len(values), values.shape[1], -1).sum(2).view(batch, -1, values.shape[1]).sum(1)


def _batch_norm(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input running_mean running_var weight bias training momentum eps")
    eps = 1e-5 if arguments["eps"] is None else arguments["eps"]
    running = None
    if not arguments["training"]:
        running = arguments["running_mean"].clone(), arguments["running_var"].clone()

    def normalised(x: Tensor) -> Tensor:
        # From the input, never from (output - bias) / weight: a weight may be zero.
        if running is None:
            return F.batch_norm(x, None, None, training=True, eps=eps)
        mean, variance = (statistic.to(x.dtype) for statistic in running)
        return F.batch_norm(x, mean, variance, training=False, eps=eps)

    return _channel_affine(call, arguments, normalised)


def _group_norm(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input num_groups weight bias eps")
    eps = 1e-5 if arguments["eps"] is None else arguments["eps"]
    num_groups = arguments["num_groups"]

    def normalised(x: Tensor) -> Tensor:
        return F.group_norm(x, num_groups, eps=eps)

    return _channel_affine(call, arguments, normalised)


def _channel_affine(
    call: Call, arguments: Mapping[str, Any], normalised: Callable[[Tensor], Tensor]
) -> list[Contribution]:
    """Return scale and shift of channels (dimension 1) after a normalisation."""
    kept = _Input(call, arguments["input"])
    kept.need_batch_first()

    def scale(gradient: Tensor) -> Jacobian:
        x, g = _precise(kept(), gradient)
        return DenseJacobian(_by_channel(normalised(x) * g, kept.batch))

    contributions = []
    if source := call.source(arguments["weight"]):
        contributions.append(Contribution(source, scale))
    if source := call.source(arguments["bias"]):
        contributions.append(Contribution(source, _channel_sums(call.batch)))
    return contributions


def _layer_norm(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input normalized_shape weight bias eps")
    shape = tuple(arguments["normalized_shape"])
    eps = 1e-5 if arguments["eps"] is None else arguments["eps"]
    kept = _Input(call, arguments["input"])
    kept.need_batch_before(features=len(shape))

    def by_sample(values: Tensor) -> Tensor:
        return values.movedim(kept.layout.dim, 0).reshape(kept.batch, -1, *shape).sum(1)

    def scale(gradient: Tensor) -> Jacobian:
        x, g = _precise(kept(), gradient)
        return DenseJacobian(by_sample(F.layer_norm(x, shape, eps=eps) * g))

    def shift(gradient: Tensor) -> Jacobian:
        return DenseJacobian(by_sample(_precise(gradient)[0]))

    contributions = []
    if source := call.source(arguments["weight"]):
        contributions.append(Contribution(source, scale))
    if source := call.source(arguments["bias"]):
        contributions.append(Contribution(source, shift))
    return contributions


def _embedding(call: Call) -> list[Contribution]:
    arguments = _arguments(call, "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse")
    source = call.source(arguments["weight"])
    if source is None or source.transposed:
        raise MeasureError("a transposed weight cannot be measured in an embedding")
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if arguments[option]:
            raise MeasureError(
                f"an embedding with {option}={arguments[option]!r} has no plain per-sample gradients: leave it off"
            )
    kept = _Input(call, arguments["input"])
    rows = source.parameter.shape[0]
    padding = arguments["padding_idx"]
    if padding is not None and padding < 0:
        padding += rows

    def jacobian(gradient: Tensor) -> Jacobian:
        indices = kept().movedim(kept.layout.dim, 0).reshape(kept.batch, -1)
        g = _precise(gradient)[0].movedim(kept.layout.dim, 0).reshape(*indices.shape, -1)
        if padding is not None:
            g = g.masked_fill((indices == padding).unsqueeze(-1), 0.0)
        return EmbeddingJacobian(indices, g, rows)

    return [Contribution(source, jacobian)]


RULES: dict[Any, Rule] = (
    {
        F.linear: _linear,
        torch.conv1d: _convolution(1),
        torch.conv2d: _convolution(2),
        F.batch_norm: _batch_norm,
        F.layer_norm: _layer_norm,
        F.group_norm: _group_norm,
        F.embedding: _embedding,
    }
    | dict.fromkeys((torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__), _matmul)
    | dict.fromkeys((torch.addmm, torch.Tensor.addmm), _addmm)
)
