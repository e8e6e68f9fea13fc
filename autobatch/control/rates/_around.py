"""What comes between an optimizer's step and all that others have hung on it."""

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch.optim import Optimizer


class Stepped(Protocol):
    """What wants to know of an optimizer's steps."""

    def enter(self) -> None:
        """Take notice that ``optimizer.step()`` was called; nothing has run yet."""

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take notice that the step begins, all other hooks before it being done; what a pre-hook may return."""

    def end(self) -> None:
        """Take notice that the step is done, before any other hook after it."""

    def leave(self) -> None:
        """Take notice that ``optimizer.step()`` is left, whatever was raised."""

    def mend(self, state: Mapping[str, Any]) -> None:
        """Have a state dict of the optimizer as it would be between two steps."""


class AroundSteps:
    """Tells of an optimizer's steps from the innermost place: no other hook runs between their beginning and end.

    Neither keeps the other: the optimizer goes on as ever where what is told is gone.

    Args:
        optimizer: any optimizer that takes hooks.
        stepped: what is told.
    """

    def __init__(self, optimizer: Optimizer, stepped: Stepped) -> None:
        self._stepped: Callable[[], Stepped | None] = weakref.ref(stepped)
        self._optimizer = weakref.ref(optimizer)
        self._before = optimizer.register_step_pre_hook(self._begin)
        self._after = optimizer.register_step_post_hook(self._end)
        self._stated = optimizer.register_state_dict_post_hook(self._mend)
        self._theirs = vars(optimizer).get("step")
        optimizer.step = self._step = self._wrapped(optimizer)  # type: ignore[method-assign]

    def undo(self) -> None:
        """Tell of nothing any more."""
        self._stepped = lambda: None
        for hook in (self._before, self._after, self._stated):
            hook.remove()
        optimizer = self._optimizer()
        if optimizer is not None and vars(optimizer).get("step") is self._step:
            if self._theirs is None:
                del optimizer.step
            else:
                optimizer.step = self._theirs  # type: ignore[method-assign]

    def _wrapped(self, optimizer: Optimizer) -> Callable[..., Any]:
        inner = optimizer.step
        if getattr(inner, "__self__", None) is optimizer:  # bound again at each call, or the optimizer keeps itself
            unbound = inner.__func__  # type: ignore[attr-defined]
        else:

            def unbound(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
                return inner(*args, **kwargs)

        @functools.wraps(inner)
        def of(own: Optimizer, *args: Any, **kwargs: Any) -> Any:
            stepped = self._stepped()
            if stepped is None:
                return unbound(own, *args, **kwargs)
            before: Any = own._optimizer_step_pre_hooks
            after: Any = own._optimizer_step_post_hooks
            before.move_to_end(self._before.id)
            after.move_to_end(self._after.id, last=False)
            stepped.enter()
            try:
                return unbound(own, *args, **kwargs)
            finally:
                stepped.leave()

        @functools.wraps(inner)
        def step(*args: Any, **kwargs: Any) -> Any:
            return of(self._optimizer(), *args, **kwargs)  # type: ignore[arg-type]

        step.__func__ = of  # type: ignore[attr-defined]  # schedulers wrap that of a bound method
        return step

    def _begin(self, _: Optimizer, args: Any, kwargs: Any) -> Any:
        return None if (stepped := self._stepped()) is None else stepped.begin(args, kwargs)

    def _end(self, *_: Any) -> None:
        if (stepped := self._stepped()) is not None:
            stepped.end()

    def _mend(self, _: Optimizer, state: dict[str, Any]) -> None:
        if (stepped := self._stepped()) is not None:
            stepped.mend(state)
