"""Records as JSON holds them, and back: a number that is not finite is null there, and NaN again here."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin

Epochs = int | float
"""Finished epochs: a whole number, or one with a part of an epoch where decisions are taken within epochs."""


class Plain:
    """What a dataclass of plain values, of tuples and of others like it, has where files keep it."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary of plain values; ``from_dict`` reads it back."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read back what ``to_dict`` wrote, and JSON held; a field with a default may be missing, as in older files.

        Args:
            state: the fields by name. A figure that is null becomes NaN.

        Returns:
            The record.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the state is damaged.
        """
        return cls(**{
            field.name: read_back(field.type, state[field.name])
            for field in fields(cls)  # type: ignore[arg-type]
            if field.name in state or (field.default is MISSING and field.default_factory is MISSING)
        })


def read_back(kind: Any, value: Any) -> Any:
    """Return a value of a type as JSON had it; types that are not met below come as they are."""
    if kind is float:
        return math.nan if value is None else float(value)
    if kind is int or (kind == Epochs and float(value).is_integer()):
        return int(value)
    if isinstance(kind, type) and is_dataclass(kind) and issubclass(kind, Plain):
        return kind.from_dict(value)
    parts = get_args(kind)
    if get_origin(kind) is UnionType and kind != Epochs:
        return None if value is None else read_back(next(part for part in parts if part is not NoneType), value)
    if get_origin(kind) is tuple:
        kinds = [parts[0]] * len(value) if parts[1:] == (...,) else parts
        return tuple(read_back(part, one) for part, one in zip(kinds, value, strict=True))
    return value


def plain(value: Any) -> Any:
    """Return a value as strict JSON can hold it: a number that is not finite becomes None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON; a number that is not finite becomes null."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=indent)
