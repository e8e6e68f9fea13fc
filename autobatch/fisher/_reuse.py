"""A backward pass that takes weights' gradients from J, which holds them already, instead of computing them twice."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from autobatch._errors import MeasureError
from autobatch.fisher._capture import Capture


def refuse_reuse(model: nn.Module, *, exact: bool, streaming: bool) -> None:
    """Raise where gradients may not be taken from J.

    Args:
        model: the model as the user has it, with its wrappers.
        exact: whether a column of J goes through the batch statistics.
        streaming: whether J is made and used at once.

    Raises:
        MeasureError: with the reason.
    """
    reason = ""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        reason = "it bypasses the hooks by which DistributedDataParallel averages gradients"
    elif any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        reason = "it bypasses the hooks by which FSDP reduces gradients"
    elif exact:
        reason = 'J of bn="exact" comes from backward passes of its own'
    elif not streaming:
        reason = "J is kept until the end with micro_batches or process_group"
    if reason:
        raise MeasureError(f"reuse_weight_gradient=True cannot be used here: {reason}")


def backward_with_reuse(capture: Capture, loss: Tensor) -> None:
    """Run the backward pass without the weight gradients that J gives.

    Args:
        capture: of the step, after the forward pass.
        loss: a scalar.

    Raises:
        MeasureError: where somebody else's hooks wait for a gradient, or a gradient could not be formed on the way.
    """
    with torch._C.DisableTorchFunction():
        _backward(capture, loss)


def _backward(capture: Capture, loss: Tensor) -> None:
    reached, leaves = _graph_of(loss)
    chosen, frontier = capture.reuse(reached)
    if not chosen:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    for parameter in chosen:
        _refuse_hooks(parameter, own=1)
    skipped = {id(parameter) for parameter in chosen}
    leaves = [leaf for leaf in leaves if id(leaf) not in skipped]
    for leaf in leaves:
        _refuse_hooks(leaf, own=len(leaf._backward_hooks or ()))
    gradients = torch.autograd.grad(loss, [*leaves, *frontier], allow_unused=True)
    if capture.problem is not None:
        raise MeasureError(f"reuse_weight_gradient=True, and a gradient could not be formed: {capture.problem}")
    for leaf, gradient in zip(leaves, gradients, strict=False):
        if gradient is not None:
            if leaf.grad is None:
                leaf.grad = gradient
            else:
                leaf.grad += gradient  # in place: somebody may hold it, as a part of a flat buffer


def _refuse_hooks(leaf: Tensor, own: int) -> None:
    after: Any = getattr(leaf, "_post_accumulate_grad_hooks", None)
    if len(leaf._backward_hooks or ()) > own or after:
        raise MeasureError(
            "reuse_weight_gradient=True would bypass a hook on the gradient of a tensor of shape"
            f" {tuple(leaf.shape)}: use loss.backward(), or remove the hook"
        )


def _graph_of(loss: Tensor) -> tuple[set[Node], list[Tensor]]:
    """Return the nodes of the autograd graph that a loss has behind it, and the leaf tensors that it depends on."""
    nodes: set[Node] = set()
    leaves = []
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        if not node.next_functions:
            leaves.append(node.variable)  # type: ignore[attr-defined]
        waiting += [parent for parent, _ in node.next_functions]
    return nodes, leaves
