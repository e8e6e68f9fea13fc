"""What the beacons of one library have in common: the task they were recorded for, and how."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autobatch._errors import ConfigError, LibraryError
from autobatch.beacons._columns import FORMAT_VERSION
from autobatch.beacons._costs import CostTable

SCORES = ("validation_loss", "validation_error")
"""The figures that may rank runs; lower is better."""

_VERSION_KEY = "autobatch:format"
_PREFIX = "autobatch:"


@dataclass(frozen=True)
class LibraryInfo:
    """What a library says of all its beacons.

    Attributes:
        task: fingerprint payload, JSON-able and nested: what makes beacons comparable.
        task_name: the task's name, for people.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``.
        bn: meaning of a sample's gradient through BatchNorm, such as ``"rows"``.
        sampling_interval: optimizer steps between two measured ones.
        versions: version of autobatch, torch and whatever else shaped the figures, by name.
        commands: the commands that recorded the beacons.
        costs: seconds by batch size, where they were timed.
    """

    task: Mapping[str, Any]
    task_name: str
    score: str
    bn: str
    sampling_interval: int
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    costs: CostTable | None = None

    def __post_init__(self) -> None:
        """Check the fields and bring the task into the form that JSON gives back."""
        if self.score not in SCORES:
            raise LibraryError(f"'score' must be one of {', '.join(SCORES)}, got {self.score!r}")
        if self.sampling_interval < 1:
            raise LibraryError(f"'sampling_interval' must be at least 1 step, got {self.sampling_interval}")
        object.__setattr__(self, "task", as_stored(self.task))

    def to_metadata(self) -> dict[str, str]:
        """Return the file metadata; ``from_metadata`` reads it back."""
        metadata = {
            "format": str(FORMAT_VERSION),
            "task": json.dumps(self.task, sort_keys=True),
            "task_name": self.task_name,
            "score": self.score,
            "bn": self.bn,
            "sampling_interval": str(self.sampling_interval),
            "versions": json.dumps(dict(self.versions), sort_keys=True),
            "commands": json.dumps(list(self.commands)),
        }
        if self.costs is not None:
            metadata["costs"] = json.dumps(self.costs.to_dict())
        return {_PREFIX + key: value for key, value in metadata.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "LibraryInfo":
        """Read back what ``to_metadata`` wrote.

        Args:
            metadata: the file metadata.

        Returns:
            The library's common facts.

        Raises:
            LibraryError: the file is no beacon library, of another version, or its metadata is damaged.
        """
        _check_version(metadata)
        costs = _parsed(metadata, "costs", dict) if _PREFIX + "costs" in metadata else None
        try:
            return cls(
                task=_parsed(metadata, "task", dict),
                task_name=_text(metadata, "task_name"),
                score=_text(metadata, "score"),
                bn=_text(metadata, "bn"),
                sampling_interval=int(_text(metadata, "sampling_interval")),
                versions={str(name): str(value) for name, value in _parsed(metadata, "versions", dict).items()},
                commands=tuple(str(command) for command in _parsed(metadata, "commands", list)),
                costs=CostTable.from_dict(costs) if costs is not None else None,
            )
        except (ValueError, OverflowError, ConfigError) as error:
            raise LibraryError(f"the file metadata is damaged: {error}") from None


def merged_info(infos: Iterable[tuple[str, LibraryInfo]]) -> LibraryInfo:
    """Return the common facts of several files of one library.

    Versions and commands of all files are kept; of cost tables the last one counts.

    Args:
        infos: (file, facts) of each, oldest first; at least one.

    Returns:
        The merged facts.

    Raises:
        LibraryError: the files were recorded for different tasks, scores, BN meanings or sampling intervals.
    """
    (first_file, merged), *others = infos
    for file, info in others:
        if differing := told_differences(_identity(merged), _identity(info), "is {} and {}"):
            raise LibraryError(f"{first_file} and {file} do not belong to one library: {differing}")
        merged = replace(
            merged,
            versions=_joined_versions(merged.versions, info.versions),
            commands=tuple(dict.fromkeys((*merged.commands, *info.commands))),
            costs=info.costs or merged.costs,
        )
    return merged


def as_stored(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint in the form that JSON gives back, such as lists for tuples; a LibraryError without one."""
    try:
        stored: dict[str, Any] = json.loads(json.dumps(dict(mapping)))
    except (TypeError, ValueError) as error:
        raise LibraryError(f"the task's fingerprint must be JSON-able: {error}") from None
    return stored


def told_differences(before: Mapping[str, Any], now: Mapping[str, Any], how: str = "was {} and is {}") -> str:
    """Return where two nested mappings differ in words, empty where they do not; ``how`` takes both values."""
    return "; ".join(f"'{key}' {how.format(*values)}" for key, *values in differing_keys(before, now))


def differing_keys(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (dotted key, my value, theirs) where two nested mappings differ; a missing one reads ``"absent"``."""
    absent = object()
    flat_mine, flat_theirs = dict(_flat(mine)), dict(_flat(theirs))
    differing = []
    for key in sorted(flat_mine.keys() | flat_theirs.keys()):
        pair = flat_mine.get(key, absent), flat_theirs.get(key, absent)
        if pair[0] != pair[1]:
            shown = ["absent" if value is absent else _shortened(value) for value in pair]
            differing.append((key, shown[0], shown[1]))
    return differing


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _identity(info: LibraryInfo) -> dict[str, Any]:
    return {
        "task": info.task,
        "score": info.score,
        "bn": info.bn,
        "sampling_interval": info.sampling_interval,
    }


def _joined_versions(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    # Keep every version that took part, such as "2.8.0, 2.9.1".
    joined = dict(mine)
    for name, version in theirs.items():
        parts = joined[name].split(", ") if name in joined else []
        joined[name] = ", ".join(dict.fromkeys((*parts, *version.split(", "))))
    return joined


def _check_version(metadata: Mapping[str, str]) -> None:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise LibraryError("this Parquet file is no beacon library (its metadata has no 'autobatch:format')")
    if version != str(FORMAT_VERSION):
        raise LibraryError(
            f"the library has format version {version!r} and this autobatch reads version {FORMAT_VERSION}; "
            "record it again, or use the autobatch that wrote it (named in its metadata 'autobatch:versions')"
        )


def _text(metadata: Mapping[str, str], key: str) -> str:
    try:
        return metadata[_PREFIX + key]
    except KeyError:
        raise LibraryError(f"the file metadata has no '{_PREFIX}{key}'") from None


def _parsed(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    try:
        value = json.loads(_text(metadata, key))
    except (ValueError, RecursionError) as error:
        raise LibraryError(f"the file metadata '{_PREFIX}{key}' is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise LibraryError(f"the file metadata '{_PREFIX}{key}' must be a JSON {kind.__name__}")
    return value
