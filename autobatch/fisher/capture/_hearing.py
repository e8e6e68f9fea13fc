"""Hooks that users put on tensors and modules: whether one mixes samples on the way back."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autobatch.fisher.capture._following import Following
from autobatch.fisher.capture._notes import Guarded, Notes
from autobatch.fisher.following._layout import BatchLayout, Layout

Layouts = Sequence[Layout | None]


class Hearing:
    """Runs users' hooks such that the functions in them are seen.

    Args:
        mode: what sees functions, the step's own.
        notes: where it is noted that samples act on each other.
        following: knows where samples lie.

    Attributes:
        listening: whether a hook runs now.
    """

    def __init__(self, mode: AbstractContextManager[Any], notes: Notes, following: Following) -> None:
        self._mode, self._notes, self._following = mode, notes, following
        self.listening = False

    def on_tensor(self, tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
        """Return a hook of a tensor that does what a user's does."""
        layout = self._following.standing(tensor) if self._following.batch else None
        if not isinstance(layout, BatchLayout) or layout.claims:
            return hook
        return lambda gradient: self._run(lambda: hook(gradient), [(gradient, layout)], [layout])

    def on_module(self, module: nn.Module) -> list[Any]:
        """Put what does the same in the place of a module's backward hooks, until the handles are removed."""
        hooks = module._backward_hooks if module._is_full_backward_hook else {}
        if not (hooks or module._backward_pre_hooks):
            return []
        lies: dict[str, Layouts] = {}

        def noted(what: str, tensors: Any) -> None:
            if torch.is_grad_enabled() and self._following.batch:
                with Guarded(self._notes, "a module with hooks could not be followed"), torch._C.DisableTorchFunction():
                    each = tensors if isinstance(tensors, tuple) else (tensors,)
                    found = [self._following.standing(one) if isinstance(one, Tensor) else None for one in each]
                    # Where calls differ, nobody can tell which of them a gradient comes from.
                    lies[what] = found if lies.get(what, found) == found else []

        def full(hook: Callable[..., Any], own: nn.Module, inputs: Any, outputs: Any) -> Any:
            expected = lies.get("inputs", ())
            pairs = [*zip(inputs, expected, strict=False), *zip(outputs, lies.get("outputs", ()), strict=False)]
            return self._run(lambda: hook(own, inputs, outputs), pairs, expected)

        def ahead(hook: Callable[..., Any], own: nn.Module, outputs: Any) -> Any:
            expected = lies.get("outputs", ())
            return self._run(lambda: hook(own, outputs), zip(outputs, expected, strict=False), expected)

        return [
            module.register_forward_pre_hook(lambda _, args: noted("inputs", args)),
            module.register_forward_hook(lambda _, __, output: noted("outputs", output)),
            _Replaced(hooks, full),
            _Replaced(module._backward_pre_hooks, ahead),
        ]

    def _run(self, hook: Callable[[], Any], given: Iterable[tuple[Any, Layout | None]], expected: Layouts) -> Any:
        """Run a hook on gradients, of which it is known how they lie; what it returns for them must lie so too."""
        before, listening = self._notes.bn, self.listening
        for gradient, layout in given:
            if isinstance(gradient, Tensor) and isinstance(layout, BatchLayout) and not layout.claims:
                self._following.put(gradient, layout)
        self.listening = True
        try:
            with self._mode:
                result = hook()
        finally:
            self.listening = listening
        if result is None:  # it looks, and changes nothing
            self._notes.bn = before
        with torch._C.DisableTorchFunction():
            for each, layout in zip(result if isinstance(result, tuple) else (result,), expected, strict=False):
                lies = self._following.standing(each) if isinstance(each, Tensor) else None
                if lies is not None and lies != layout:
                    self._notes.bn = "rows"
        return result


class _Replaced:
    """Hooks of others in whose place something else runs, until this is removed."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], change: Callable[..., Any]) -> None:
        self._hooks, self._before = hooks, dict(hooks)
        self._own = {key: partial(change, hook) for key, hook in hooks.items()}
        hooks.update(self._own)

    def remove(self) -> None:
        """Put them back, but for those that were removed meanwhile."""
        self._hooks.update({key: self._before[key] for key, own in self._own.items() if self._hooks.get(key) is own})
