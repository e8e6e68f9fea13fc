"""YAML files into pydantic models, with errors that name file, line, key and expectation.

Scalars follow the YAML 1.2 core schema, so ``1e-4`` is a number and ``no`` is text. Whatever could execute code,
recurse or blow up (tags, anchors and aliases, deep nesting, huge files) is refused. The tree is built from parser
events, so nothing here recurses on what a file says.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autobatch._errors import ConfigError, near_names

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[str | int, ...]

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Those of libyaml, twenty times as fast, where PyYAML has it."""

_MAX_BYTES: Final = 1_000_000
_MAX_DEPTH: Final = 32
_MAX_ERRORS: Final = 10

_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_HUGE: Final = frozenset({2**31, 2**63})
"""Limits of integers that are not told unless they are what was passed."""

_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,400}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def dump_yaml(content: Any) -> str:
    """Return plain values as YAML, keys in their order."""
    text: str = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text


def load_yaml(path: str | Path, model: type[ModelT], overrides: Sequence[str] = ()) -> ModelT:
    """Load a YAML file into a pydantic model, strictly.

    Args:
        path: the file.
        model: the pydantic model of its content.
        overrides: assignments such as ``"task.epochs=1"`` on top of the file, as of ``--set``.

    Returns:
        The validated model.

    Raises:
        ConfigError: the file cannot be read, is not plain YAML, or does not fit the model; the message has a line
            ``file:line: key 'a.b': expected ..., got ...`` for each error.
    """
    document = _parse(_read(Path(path)), str(path))
    for assignment in overrides:
        _assign(document, assignment, "--set")
    return _validate(document, model)


def validate(mapping: Mapping[str, Any], model: type[ModelT], source: str) -> ModelT:
    """Validate plain values that did not come from one file, as strictly as ``load_yaml``.

    Args:
        mapping: JSON-able values.
        model: the pydantic model.
        source: where the values come from, for the messages (``"--set"``).

    Returns:
        The validated model.

    Raises:
        ConfigError: the values do not fit the model.
    """
    return _validate(_Document(dict(mapping), source), model)


def apply_overrides(mapping: Mapping[str, Any], assignments: Iterable[str], source: str = "--set") -> dict[str, Any]:
    """Put assignments such as ``"task.epochs=1"`` on top of plain values.

    Args:
        mapping: JSON-able values; left as they are.
        assignments: each a dotted key, ``=`` and a YAML value (``1e-4``, ``true``, ``[8, 16]``).
        source: where the assignments come from, for the messages.

    Returns:
        New values; whether their keys are known shows in ``validate``.

    Raises:
        ConfigError: an assignment has no ``=``, no key or no valid value, or goes through a value that is no mapping.
    """
    document = _Document(json.loads(json.dumps(dict(mapping))), source)
    for assignment in assignments:
        _assign(document, assignment, source)
    values: dict[str, Any] = document.values
    return values


@dataclass
class _Document:
    """Plain values, and for each location the place (``file:line``) that a message about it names."""

    values: Any
    source: str
    places: dict[Location, str] = field(default_factory=dict)

    def place(self, location: Location) -> str:
        """Return the place of a location, or of the nearest location around it that has one."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        return self.source


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: expected a YAML file of at most {_MAX_BYTES} bytes, got more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected UTF-8 text, got byte 0x{content[error.start]:02x}") from None


def _parse(text: str, source: str) -> _Document:
    troubles = (yaml.YAMLError, ValueError, OverflowError, IndexError)  # the scanner's own, on odd escapes
    document: _Document | None = None
    with suppress(*troubles):
        document = _built(text, source, _LOADER)
    try:  # libyaml says less of what is wrong
        document = document or _built(text, source, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}:{line}: not valid YAML: character {error.character!r} is not allowed") from None
    except troubles as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(document.values, dict):
        what = "nothing" if document.values is None else _shown(document.values)
        raise ConfigError(f"{document.place(())}: expected keys with values (such as 'name: ...'), got {what}")
    return document


def _built(text: str, source: str, loader: Any) -> _Document:
    document = _Document(None, source)
    builder = _Builder(document)
    for event in yaml.parse(text, Loader=loader):
        builder.take(event)
    return document


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    value: dict[str, Any] | list[Any]
    location: Location
    key: str | None = None


class _Builder:
    """Builds plain values and their places from parser events, without recursion."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the parser."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        self._refuse_what_is_not_plain(event, line)
        if isinstance(event, yaml.ScalarEvent):
            top = self._open[-1] if self._open else None
            if top and isinstance(top.value, dict) and top.key is None:
                self._name(top, event.value, line)
            else:
                self._add(_scalar(event), line)
        elif isinstance(event, yaml.CollectionStartEvent):
            value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._open.append(_Open(value, self._add(value, line)))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()

    def _refuse_what_is_not_plain(self, event: yaml.Event, line: int) -> None:
        problem = None
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            problem = "expected one document, got a second after '---'" if self._documents > 1 else None
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "anchors (&) and aliases (*) are not supported; write the value out"
        elif (tag := getattr(event, "tag", None)) is not None:
            problem = f"tags ({_shown(tag)}) are not supported; write a plain value"
        elif isinstance(event, yaml.CollectionStartEvent):
            top = self._open[-1] if self._open else None
            if len(self._open) >= _MAX_DEPTH:
                problem = f"expected at most {_MAX_DEPTH} levels of nesting, got more"
            elif top and isinstance(top.value, dict) and top.key is None:
                problem = "expected a name as key, got a list or mapping"
        if problem:
            raise ConfigError(f"{self._document.source}:{line}: {problem}")

    def _name(self, top: _Open, key: str, line: int) -> None:
        location = (*top.location, key)
        if key in top.value:
            first = self._document.places[location]
            raise ConfigError(f"{self._document.source}:{line}: key {_dotted(location)}: given twice, first at {first}")
        top.key = key
        self._document.places[location] = f"{self._document.source}:{line}"

    def _add(self, value: Any, line: int) -> Location:
        place = f"{self._document.source}:{line}"
        if not self._open:
            self._document.values = value
            self._document.places[()] = place
            return ()
        top = self._open[-1]
        if isinstance(top.value, list):
            top.value.append(value)
            location: Location = (*top.location, len(top.value) - 1)
            self._document.places[location] = place
            return location
        assert top.key is not None
        top.value[top.key] = value
        location = (*top.location, top.key)
        top.key = None
        return location


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _assign(document: _Document, assignment: str, source: str) -> None:
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{source} {assignment}: expected key=value, such as task.epochs=20")
    value = _parse(f"value: {text}", f"{source} {assignment}").values
    if set(value) != {"value"}:
        raise ConfigError(f"{source} {assignment}: expected one value after '=', got {_shown(text)}")
    target = document.values
    for depth, key in enumerate(keys[:-1], start=1):
        if target.get(key) is None:
            target[key] = {}
            document.places[tuple(keys[:depth])] = f"{source} {assignment}"
        target = target[key]
        if not isinstance(target, dict):
            raise ConfigError(
                f"{source} {assignment}: key {_dotted(tuple(keys[:depth]))}: expected a mapping, got {_shown(target)}"
            )
    target[keys[-1]] = value["value"]
    location: Location = tuple(keys)
    for inside in [place for place in document.places if place[: len(location)] == location]:
        del document.places[inside]
    document.places[location] = f"{source} {assignment}"


def _validate(document: _Document, model: type[ModelT]) -> ModelT:
    try:
        # Strict JSON mode takes a list for a tuple and an integer for a float, and nothing else for anything else.
        return model.model_validate_json(json.dumps(document.values), strict=True)
    except ValidationError as error:
        schema = model.model_json_schema()
        # A default that depends on another key says nothing where that key is wrong.
        own = [each for each in error.errors(include_url=False) if each["type"] != "default_factory_not_called"]
        sentences = _sentences(document, schema, own)
        more = [f"{document.source}: and {len(sentences) - _MAX_ERRORS} more"] if len(sentences) > _MAX_ERRORS else []
        raise ConfigError("\n".join(sentences[:_MAX_ERRORS] + more)) from None
    except (TypeError, ValueError, RecursionError) as error:  # not JSON-able
        raise ConfigError(f"{document.source}: expected plain values: {error}") from None


def _sentences(document: _Document, schema: dict[str, Any], details: list[ErrorDetails]) -> list[str]:
    found = [(detail, *_follow(schema, detail)) for detail in details]
    locations = [location for _, location, _, _ in found]
    sentences: dict[str, None] = {}
    for detail, location, node, parent in found:
        deeper = any(other[: len(location)] == location and len(other) > len(location) for other in locations)
        if not deeper:  # of a union's members, only those that got furthest into the value have something to say
            key = f"key {_dotted(location)}: " if location else ""
            sentences[f"{document.place(location)}: {key}{_problem(schema, detail, node, parent)}"] = None
    return list(sentences)


def _problem(schema: dict[str, Any], detail: ErrorDetails, node: dict[str, Any], parent: dict[str, Any]) -> str:
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key; {near_names(str(detail['loc'][-1]), parent.get('properties', {}))}"
        case "missing":
            return f"missing; expected {_expected(schema, node)}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "json_invalid":
            return f"expected plain values: {detail['ctx']['error']}"
    near = f"; {near_names(given, node['enum'])}" if "enum" in node and isinstance(given, str) else ""
    limit = detail.get("ctx", {}).get("lt")
    huge = f" below {limit:,}" if limit in _HUGE else ""
    return f"expected {_expected(schema, node)}{huge}, got {_shown(given)}{near}"


def _follow(schema: dict[str, Any], detail: ErrorDetails) -> tuple[Location, dict[str, Any], dict[str, Any]]:
    """Follow pydantic's location of an error through a JSON schema.

    Args:
        schema: the schema of the whole model.
        detail: the error; its location mixes keys and names of union members.

    Returns:
        The location without the names of union members, the schema found there, and the schema around it.
    """
    location: list[str | int] = []
    node, parent = _resolve(schema, schema), schema
    for part in detail["loc"]:
        further = node.get("additionalProperties")
        if isinstance(part, int):
            step = node.get("items", {})
        elif part in node.get("properties", {}):
            step = node["properties"][part]
        elif isinstance(further, dict):
            step = further
        elif detail["type"] == "extra_forbidden" and part == detail["loc"][-1]:
            step = {}
        else:
            continue
        location.append(part)
        node, parent = _resolve(schema, step), node
    return tuple(location), node, parent


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    # A reference stands for its target, an optional value for what it is when given.
    if "anyOf" in node:
        given = [member for member in node["anyOf"] if member.get("type") != "null"]
        mappings = [member for member in given if "$ref" in member]
        node = given[0] if len(given) == 1 else mappings[0] if mappings else {"anyOf": given}
    if "$ref" in node:
        return dict(schema["$defs"][node["$ref"].rpartition("/")[2]])
    return node


def _expected(schema: dict[str, Any], node: dict[str, Any]) -> str:
    node = _resolve(schema, node)
    kind = node.get("type")
    if "anyOf" in node:
        return " or ".join(_expected(schema, member) for member in node["anyOf"])
    if "enum" in node or "const" in node:
        return "one of " + ", ".join(repr(value) for value in node.get("enum", [node.get("const")]))
    if kind in {"integer", "number"}:
        return _expected_number(node)
    if kind == "array":
        a_list = "a non-empty list" if node.get("minItems") else "a list"
        return f"{a_list}, each item {_expected(schema, node['items'])}" if "items" in node else a_list
    words = {"string": "text", "boolean": "true or false", "object": "a mapping of keys to values"}
    return words.get(kind or "", "another value") + (f" that matches {node['pattern']}" if "pattern" in node else "")


def _expected_number(node: dict[str, Any]) -> str:
    noun = "integer" if node["type"] == "integer" else "number"
    lowest, above = node.get("minimum"), node.get("exclusiveMinimum")
    highest, below = node.get("maximum"), node.get("exclusiveMaximum")
    if (below is None and highest is None) or below in _HUGE:
        if above == 0:
            return f"a positive {noun}"
        if lowest == 0:
            return f"a {noun} of at least 0" if noun == "number" else "an integer of at least 0"
        return "an integer" if noun == "integer" else "a finite number"
    start = f"({above}" if above is not None else f"[{lowest}" if lowest is not None else "(-inf"
    end = f"{below})" if below is not None else f"{highest}]"
    return f"{'an' if noun == 'integer' else 'a'} {noun} in {start}, {end}"


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return repr(text.removeprefix("."))


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
