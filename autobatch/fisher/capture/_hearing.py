"""Hooks that users put on tensors and modules: whether one mixes samples on the way back."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all

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
        self._lies: dict[nn.Module, dict[str, Layouts]] = {}
        self._known: list[tuple[dict[int, Any], tuple[int, ...]]] = []
        self.listening = False

    def on_tensor(self, tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
        """Return a hook of a tensor that does what a user's does."""
        layout = self._following.standing(tensor) if self._following.batch else None
        if not isinstance(layout, BatchLayout) or layout.claims:
            return hook
        return lambda gradient: self._run(lambda: hook(gradient), [(gradient, layout)], [layout])

    def on_modules(self, modules: Iterable[nn.Module]) -> list[Any]:
        """Return handles that put modules' backward hooks back, in whose place something does the same.

        A hook on all modules is heard in those that are given; in others, as in a loss's, and where it is of the
        deprecated kind, it is taken to mix samples if it changes anything.
        """
        handles: list[Any] = []
        for everywhere in (of_all._global_backward_hooks, of_all._global_backward_pre_hooks):
            self._known.append((everywhere, tuple(everywhere)))
        on_all = of_all._global_backward_hooks or of_all._global_backward_pre_hooks
        if on_all:
            full = self._half if of_all._global_is_full_backward_hook is False else self._full
            handles += [_Replaced(of_all._global_backward_hooks, full)]
            handles += [_Replaced(of_all._global_backward_pre_hooks, self._ahead)]
        for module in modules:
            hooks, ahead = module._backward_hooks, module._backward_pre_hooks
            self._known += [(hooks, tuple(hooks)), (ahead, tuple(ahead))]
            if on_all or hooks or ahead:
                full = self._half if module._is_full_backward_hook is False else self._full
                handles += [
                    module.register_forward_pre_hook(lambda own, args: self._noted(own, "inputs", args)),
                    module.register_forward_hook(lambda own, _, output: self._noted(own, "outputs", output)),
                    _Replaced(hooks, full),
                    _Replaced(ahead, self._ahead),
                ]
        return handles

    def note_late_ones(self) -> None:
        """Take backward hooks that modules were given since for such that mix samples, as they were not heard."""
        if any(key not in known for hooks, known in self._known for key in hooks):
            self._notes.bn = "rows"

    def _noted(self, module: nn.Module, what: str, tensors: Any) -> None:
        """Note where samples lie in what a module is given, or returns."""
        if torch.is_grad_enabled() and self._following.batch:
            with Guarded(self._notes, "a module with hooks could not be followed"), torch._C.DisableTorchFunction():
                each = tensors if isinstance(tensors, tuple) else (tensors,)
                found = [self._following.standing(one) if isinstance(one, Tensor) else None for one in each]
                lies = self._lies.setdefault(module, {})
                # Where calls differ, nobody can tell which of them a gradient comes from.
                lies[what] = found if lies.get(what, found) == found else []

    def _full(self, hook: Callable[..., Any], own: nn.Module, inputs: Any, outputs: Any) -> Any:
        lies = self._lies.get(own)
        if lies is None:
            return self._half(hook, own, inputs, outputs)
        expected = lies.get("inputs", ())
        pairs = [*zip(inputs, expected, strict=False), *zip(outputs, lies.get("outputs", ()), strict=False)]
        return self._run(lambda: hook(own, inputs, outputs), pairs, expected)

    def _ahead(self, hook: Callable[..., Any], own: nn.Module, outputs: Any) -> Any:
        lies = self._lies.get(own)
        if lies is None:
            return self._half(hook, own, outputs)
        expected = lies.get("outputs", ())
        return self._run(lambda: hook(own, outputs), zip(outputs, expected, strict=False), expected)

    def _half(self, hook: Callable[..., Any], *given: Any) -> Any:
        """Run a hook of which it is not known how what it is given lies."""
        tensors = [each for group in given if isinstance(group, tuple) for each in group if isinstance(each, Tensor)]
        versions = [each._version for each in tensors]
        result = hook(*given)
        if result is not None or versions != [each._version for each in tensors]:
            self._notes.bn = "rows"
        return result

    def _run(self, hook: Callable[[], Any], given: Iterable[tuple[Any, Layout | None]], expected: Layouts) -> Any:
        """Run a hook on gradients, of which it is known how they lie; what it returns for them must lie so too."""
        given = list(given)
        before, listening = self._notes.bn, self.listening
        versions = [gradient._version for gradient, _ in given if isinstance(gradient, Tensor)]
        for gradient, layout in given:
            if isinstance(gradient, Tensor) and isinstance(layout, BatchLayout) and not layout.claims:
                self._following.put(gradient, layout)
        self.listening = True
        try:
            with self._mode:
                result = hook()
        finally:
            self.listening = listening
        if versions != [gradient._version for gradient, _ in given if isinstance(gradient, Tensor)]:
            self._notes.bn = "rows"  # what it has changed in place is not followed
        elif result is None:  # it looks, and changes nothing
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
