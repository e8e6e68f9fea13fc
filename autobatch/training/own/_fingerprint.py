"""What a loop is made of, as a fingerprint, by which scouts of a loop that has changed since are told."""

import functools
import hashlib
import inspect
import sysconfig
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

_NOT_THE_USERS = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_DATA = (Tensor, np.ndarray, TensorDataset, Subset)

VALUES = 65_536
"""Values of an array that are looked at, evenly spread, where it has more."""


def code_fingerprint(train: Any) -> str:
    """Return a fingerprint of a loop's code, and of the user's own functions and classes that it calls.

    Args:
        train: the loop: a function, a method, a ``partial`` or an object that can be called.

    Returns:
        Hexadecimal; the same in every process. Tensors, arrays and datasets of them that the loop reads by name are in
        it, of large ones ``VALUES`` values; other data, libraries and what a configuration file says are not.
    """
    told = "\n".join(_parts(train, set()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, tuple):
        for part in value:
            yield from _parts(part, seen)
    elif id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, FunctionType):
            yield from _function(value, seen)
        elif isinstance(value, type):
            yield from _class(value, seen)
        elif isinstance(value, _DATA):
            yield from _data(value, seen)
        else:
            yield from _object(value, seen)


def _object(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, functools.partial):
        held: Iterable[Any] = (value.func, value.args, tuple(sorted(value.keywords.items())))
    elif isinstance(value, MethodType):
        held = (value.__func__, value.__self__)
    else:  # of what can change while it trains, such as a list or a model's weights, what it is and not what is in it
        held = (type(value),)
        if isinstance(value, nn.Module):
            yield " ".join(f"{name} {getattr(own, 'shape', '')}" for name, own in value.named_parameters())
    for part in held:
        yield from _parts(part, seen)


def _data(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield what data are; of what is trained, or is no plain tensor, that it is one."""
    if isinstance(value, TensorDataset):
        yield from _parts(value.tensors, seen)
    elif isinstance(value, Subset):
        yield from _parts(value.dataset, seen)
        yield from _parts(np.asarray(value.indices), seen)
    elif isinstance(value, np.ndarray):
        yield f"array {value.shape} {value.dtype}"
        yield "" if value.dtype.hasobject else _digest(value.reshape(-1)[:: 1 + value.size // VALUES])
    else:
        yield f"{type(value).__name__} {value.dtype} {value.layout}"
        plain = type(value) is Tensor and value.layout == torch.strided and not value.is_nested
        if plain and not value.requires_grad and not value.is_meta and not value.is_quantized:
            yield f"{tuple(value.shape)}"
            some = value.detach().reshape(-1)[:: 1 + value.numel() // VALUES].resolve_conj().resolve_neg()
            yield _digest(some.cpu().contiguous().view(torch.uint8).numpy())


def _digest(values: "np.ndarray[Any, Any]") -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    for cell in function.__closure__ or ():
        try:
            yield from _parts(cell.cell_contents, seen)
        except ValueError:  # not bound yet
            continue
    if not _is_the_users(function):
        yield f"{function.__module__}.{function.__name__}"
        return
    yield from _code(function.__code__)
    yield from _parts(function.__defaults__, seen)
    yield from _parts(tuple(sorted((function.__kwdefaults__ or {}).items())), seen)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        named = function.__globals__[name]
        if isinstance(named, (FunctionType, type, *_PLAIN, *_DATA)):
            yield name
            yield from _parts(named, seen)


def _class(cls: type, seen: set[int]) -> Iterator[str]:
    yield f"{cls.__module__}.{cls.__qualname__}"
    if not _is_the_users(cls):
        return
    for name, own in sorted(vars(cls).items()):
        if isinstance(own, FunctionType):
            yield name
            yield from _parts(own, seen)
    for base in cls.__bases__:
        yield from _parts(base, seen)


def _code(code: CodeType) -> Iterator[str]:
    """Yield what code does; not where in the file it stands."""
    yield code.co_code.hex()
    yield " ".join((*code.co_names, *code.co_varnames, *code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(constant, key=repr)) if isinstance(constant, frozenset) else repr(constant)


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _is_the_users(value: Any) -> bool:
    """Return whether code is neither Python's, nor a package's that was installed, nor this one's."""
    if str(value.__module__).partition(".")[0] == "autobatch":
        return False
    try:
        place = inspect.getfile(value)
    except (OSError, TypeError):  # typed into an interpreter, or a class of C
        return not isinstance(value, type) or value.__module__ == "__main__"
    return not place.startswith(_NOT_THE_USERS)
