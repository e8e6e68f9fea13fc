"""Where in the autograd graph a hook meets the gradient of a call's output, whatever is done to the output afterwards.

A call may return a view of what it has made: a linear layer multiplies a matrix of all positions and views the product
as (B, T, C). An in-place operation on a view (``ReLU(inplace=True)``, ``y += h``) gives the view another node, and the
old one, with a hook on it, leaves the graph. The node of the view's *base* stays in it, so the hook belongs there.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def anchor(output: Tensor, arguments: Iterable[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return a tensor to hook, which stays in the graph, and what makes the gradient of a call's output of its.

    A base that the call has made itself has no other use than its outputs. A base that a call changes in place through
    a view gets a node in which the view's gradient and all later ones meet. Any other base, such as a table of which
    the call returned a part, has uses of its own, whose gradients are none of the output's: there it is the output.
    """
    base = output._base
    if base is None or _kind(output) != _kind(base):
        return output, lambda gradient: gradient
    arguments = list(arguments)
    changed = any(output is argument for argument in arguments)
    if not changed and any(base is argument or base is argument._base for argument in arguments):
        return output, lambda gradient: gradient
    return base, _part(output, base)


def _kind(tensor: Tensor) -> tuple[object, ...]:
    """Return what a view has otherwise than its base where its numbers are others, such as real parts, conjugates."""
    return tensor.dtype, tensor.is_conj(), tensor.is_neg()


def _part(view: Tensor, base: Tensor) -> Callable[[Tensor], Tensor]:
    # Numbers only: a reference to either would keep an activation.
    shape, strides = view.shape, view.stride()
    offset = view.storage_offset() - base.storage_offset()
    base_strides = base.stride()

    def part(gradient: Tensor) -> Tensor:
        if gradient.stride() != base_strides:
            # An expanded gradient, such as a mean's, or one of another memory order.
            laid_out = torch.empty_strided(gradient.shape, base_strides, dtype=gradient.dtype, device=gradient.device)
            gradient = laid_out.copy_(gradient)
        return gradient.as_strided(shape, strides, gradient.storage_offset() + offset)

    return part
