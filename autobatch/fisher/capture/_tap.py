"""Calls whose weights get the sum of their per-sample gradients as their gradient, in one ordinary backward pass.

The weights enter the call without a graph, so that the library forms no gradient for them; a node behind the output
gives them theirs. Hooks, wrappers and buffers of gradients see nothing unusual.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autobatch.fisher.layers._calls import saved_elsewhere

_TENSOR = object()


class Tap:
    """One call of a torch function, from which its weights' gradients are taken.

    Args:
        function: the torch function.
        args: its positional arguments; tensors among them are no deeper inside.
        kwargs: its keyword arguments.
        weights: of the tensors, those that get their gradient here, by id.

    Attributes:
        node: the call's own node in the graph, None where it has none.
        take: gives the weights' gradients, by id, from the output's gradient; None where they could not be formed.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], weights: set[int]
    ) -> None:
        self._function = function
        self._args = [_TENSOR if isinstance(value, Tensor) else value for value in args]
        self._kwargs = {name: _TENSOR if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        self._tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self._ids = [id(tensor) for tensor in self._tensors]
        self._own = [key in weights for key in self._ids]
        device = self._tensors[0].device.type
        self._autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self._shape = torch.Size()
        self.node: Any = None
        self.take: Callable[[Tensor], dict[int, Tensor] | None] = lambda _: None

    def run(self) -> Tensor:
        """Call the function, and return its output with a node that gives the weights their gradients."""
        tensors, self._tensors = self._tensors, []
        output = self._called([
            tensor.detach() if weight else tensor for tensor, weight in zip(tensors, self._own, strict=True)
        ])
        self.node = output.grad_fn
        self._shape = output.shape
        base = output._base
        if base is None:
            return _Tapped.apply(self, output, *tensors)  # type: ignore[no-any-return]
        # The node belongs on what an in-place operation on a view leaves in the graph.
        whole = base if base.is_contiguous() and output.is_contiguous() and base.numel() == output.numel() else None
        tapped: Tensor = _Tapped.apply(self, output.clone() if whole is None else whole, *tensors)
        return tapped.view(self._shape)

    def _called(self, tensors: Sequence[Tensor]) -> Tensor:
        given = iter(tensors)
        args = [next(given) if value is _TENSOR else value for value in self._args]
        kwargs = {name: next(given) if value is _TENSOR else value for name, value in self._kwargs.items()}
        output: Tensor = self._function(*args, **kwargs)
        return output

    def again(self, tensors: Sequence[Tensor], gradient: Tensor, *, create_graph: bool = False) -> list[Tensor | None]:
        """Return the library's own gradients of the tensors that require one, from calling the function again."""
        # What the call may change, such as running statistics, it changes in a copy.
        given = [t if t.requires_grad or not t.is_floating_point() else t.clone() for t in tensors]
        wanted = [tensor for tensor in given if tensor.requires_grad]
        device, dtype, enabled = self._autocast
        with torch.enable_grad(), torch.autocast(device, dtype, enabled, cache_enabled=False):
            output = self._called(given)
        gradient = gradient.reshape(output.shape).to(output.dtype)
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=create_graph, allow_unused=True))
        return [next(found) if tensor.requires_grad else None for tensor in given]

    def backward(self, tensors: Callable[[], list[Tensor]], gradient: Tensor) -> list[Tensor | None]:
        """Return the gradients of output and tensors, with which the function was called, from the output's."""
        if torch.is_grad_enabled():  # create_graph=True: what the weights get must lead on to all that it came from
            self.take(gradient)
            given = [t.view_as(t) if t.requires_grad else t for t in tensors()]  # without the hooks that are on them
            return [None, *self.again(given, gradient, create_graph=True)]
        found = self.take(gradient.reshape(self._shape))
        if found is not None:
            return [gradient, *(found.pop(key, None) for key in self._ids)]  # once, where one is scale and shift
        given = [tensor.detach().requires_grad_(own) for tensor, own in zip(tensors(), self._own, strict=True)]
        return [gradient, *self.again(given, gradient)]


class _Tapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tap: Tap, output: Tensor, *tensors: Tensor) -> Tensor:
        ctx.tap = tap
        ctx.mark_dirty(output)
        # Only what autograd itself would guard against changes; a call changes its own running statistics.
        ctx.plain = [None if tensor.requires_grad else tensor for tensor in tensors]
        ctx.save_for_backward(*(tensor for tensor in tensors if tensor.requires_grad))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        def tensors() -> list[Tensor]:
            saved = iter(ctx.saved_tensors)
            return [next(saved) if tensor is None else tensor for tensor in ctx.plain]

        return None, *ctx.tap.backward(tensors, gradient)


def tappable(tensors: Sequence[Tensor]) -> bool:
    """Whether a call with these tensors can be tapped now."""
    return (
        not saved_elsewhere()  # a checkpoint counts what a call saves, and calls it again
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and all(type(tensor) in _PLAIN and not tensor.is_complex() for tensor in tensors)
    )


_PLAIN = {Tensor, nn.Parameter}
