"""Hooks that users put on tensors: whether one mixes samples on the way back."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autobatch.fisher._registry import known
from autobatch.fisher.capture._following import Following
from autobatch.fisher.capture._notes import Guarded, Notes
from autobatch.fisher.following._layout import BatchLayout
from autobatch.fisher.layers._calls import Call
from autobatch.fisher.layers._functions import name_of, tensors_of

Hook = Callable[[Tensor], Tensor | None]


class _Hearing(TorchFunctionMode):
    def __init__(self, notes: Notes, following: Following) -> None:
        super().__init__()
        self._notes, self._following = notes, following

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        with Guarded(self._notes, "a hook on a tensor could not be followed"):
            follow, given = self._following, tensors_of(args, kwargs)
            made = tensors_of((output,))
            follow.watch(Call(func, known(func), name_of(func), args, kwargs, given, made, follow.batch, follow.layout))
        return output


def hearing(notes: Notes, following: Following, tensor: Tensor, hook: Hook) -> Hook:
    """Return a hook that does what a user's does, and notes where samples then act on each other in its gradients."""
    layout = following.standing(tensor) if following.batch else None
    if not isinstance(layout, BatchLayout) or layout.claims:
        return hook

    def heard(gradient: Tensor) -> Tensor | None:
        before = notes.bn
        following.put(gradient, layout)
        with _Hearing(notes, following):
            result = hook(gradient)
        with torch._C.DisableTorchFunction():
            found = None if result is None else following.standing(result)
        if result is None:  # it looks, and changes nothing
            notes.bn = before
        elif found is not None and found != layout:
            notes.bn = "rows"
        return result

    return heard
