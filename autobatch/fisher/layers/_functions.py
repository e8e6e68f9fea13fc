"""Torch functions as a mode sees them: their names, what they change, and composite ones opened up."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket

# Functions that change their first argument in place and give nothing back.
ASSIGNING = frozenset({"__setitem__"})
# Properties of a tensor that are tensors made of it; all others, such as its shape, tell nothing.
PROPERTIES = frozenset({"T", "H", "mT", "mH", "real", "imag", "data"})
_OPERATORS = (OpOverload, OpOverloadPacket)
# Functions of which the name is remembered.
_FUNCTIONS = 1024
# Arguments that are, and hold, no tensors.
_PLAIN = frozenset({type(None), bool, int, float, str})

# How deep tensors are looked for in what a model is called with: batches of graphs are objects within objects.
_DEPTH = 5


def is_composite(func: Callable[..., Any]) -> bool:
    """Whether a function is written in Python out of other torch functions, such as multi-head attention."""
    return isinstance(func, types.FunctionType) and func.__module__ == "torch.nn.functional"


@functools.lru_cache(maxsize=_FUNCTIONS)
def changes_in_place(name: str) -> bool:
    """Whether a function writes over its first argument: mul_, __imul__, __setitem__."""
    if name == "requires_grad_":
        return False
    return name in ASSIGNING or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def tensors_of(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dictionaries, in order: those of a call, or of any sequence."""
    found: list[Tensor] = []
    for values in (args, kwargs.values() if kwargs else ()):
        for value in values:
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (tuple, list)):
                found += tensors_of(value)
            elif type(value) not in _PLAIN and isinstance(value, Mapping):
                found += tensors_of((), value)
    return found


def given_to_model(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors that a model is called with, in order, those in data classes and other objects too."""
    seen: set[int] = set()

    def within(value: Any, depth: int = 0) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
            return
        if depth > _DEPTH or id(value) in seen or isinstance(value, (type, nn.Module)):
            return
        seen.add(id(value))
        parts: Iterable[Any]
        if isinstance(value, Mapping):
            parts = value.values()
        elif isinstance(value, (tuple, list)):
            parts = value
        elif dataclasses.is_dataclass(value):
            parts = [getattr(value, each.name, None) for each in dataclasses.fields(value)]
        else:
            parts = getattr(value, "__dict__", {}).values()
        for part in parts:
            yield from within(part, depth + 1)

    return [*within(tuple(args)), *within(dict(kwargs))]


@functools.cache
def opened(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a composite function that runs its body although a mode watches, so that the mode sees its parts."""
    assert isinstance(func, types.FunctionType)
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    scope = func.__globals__ | dict.fromkeys(checks, lambda *_: False)
    result = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    result.__kwdefaults__ = func.__kwdefaults__
    return result


@contextlib.contextmanager
def without_hooks(tensors: list[Tensor]) -> Iterator[None]:
    """Hold back hooks that anybody has put on leaf tensors."""
    held = [(hooks, dict(hooks)) for tensor in tensors if (hooks := tensor._backward_hooks)]
    for hooks, _ in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in held:
            hooks.update(before)


@functools.lru_cache(maxsize=_FUNCTIONS)
def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a torch function; of an operator of another library the whole of it.

    One that is called as a function of torch need not do what that does.
    """
    if isinstance(func, _OPERATORS):
        return func.__name__ if func.__module__ == "torch._ops.aten" else f"torch.ops.{func}"
    name: str = getattr(func, "__name__", str(func))
    if isinstance(func, types.FunctionType) and func.__module__.partition(".")[0] != "torch":
        return f"{func.__module__}.{name}"
    # A property such as Tensor.T arrives as the getter of its descriptor.
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name
