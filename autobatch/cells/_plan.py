"""What is to be trained: cells, and the plan that put them in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from autobatch._errors import CheckpointError, ConfigError
from autobatch.beacons._info import differing_keys

FORMAT = 1

MORE_FROM = "more_from"
"""Key of ``Plan.work`` for the name of whoever puts further cells in once these are done, and beats until then."""


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        name: what people read and files are called.
        effort: what it should take, in seconds or, without a cost table, in another unit.
        what: what tells it from the others of its plan, JSON-able.
    """

    name: str
    effort: float
    what: Mapping[str, Any] = field(default_factory=dict)


class CellEnd(NamedTuple):
    """How a cell ended.

    Attributes:
        stopped_because: ``"finished"``, or why it ended early, in words.
        device: kind of device that it trained on; empty where that is not told.
    """

    stopped_because: str
    device: str = ""


@dataclass(frozen=True)
class Plan:
    """Cells that were put in together.

    Attributes:
        kind: who knows how to train them, such as ``"beacons"``.
        fingerprint: what cells of one folder must agree on (task, data, code), JSON-able.
        work: what else a worker needs to know to train them, JSON-able.
        cells: the cells.
    """

    kind: str
    fingerprint: Mapping[str, Any]
    work: Mapping[str, Any]
    cells: tuple[Cell, ...]

    def encoded(self) -> bytes:
        """Return the plan as the content of a file; equal plans have equal files."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, allow_nan=False) + "\n").encode()

    @cached_property
    def file(self) -> str:
        """Name of its file, by its content."""
        return f"{hashlib.sha256(self.encoded()).hexdigest()[:16]}.json"

    def check(self, kind: str, fingerprint: Mapping[str, Any], where: Path) -> None:
        """Refuse cells of another kind, task, data or code.

        Args:
            kind: the kind that is asked for.
            fingerprint: what the cells must agree on.
            where: where this plan is kept.

        Raises:
            ConfigError: they do not; the message says in what.
        """
        here, mine = {"kind": self.kind, **self.fingerprint}, {"kind": kind, **fingerprint}
        for key, theirs, ours in differing_keys(here, mine):
            raise ConfigError(
                f"{where}: holds unfinished cells whose '{key}' is {theirs}, here it is {ours}; finish them with what "
                "they were put in by, or remove that folder and what is half trained beside it"
            )

    @classmethod
    def decoded(cls, content: bytes) -> "Plan":
        """Read back what ``encoded`` wrote.

        Args:
            content: the file's content.

        Returns:
            The plan.

        Raises:
            CheckpointError: it is damaged or of another format.
        """
        try:
            record = json.loads(content)
            if record["format"] != FORMAT:
                raise CheckpointError(f"expected cells of format {FORMAT}, got {record['format']!r}")
            cells = tuple(Cell(str(one["name"]), float(one["effort"]), dict(one["what"])) for one in record["cells"])
            return cls(str(record["kind"]), dict(record["fingerprint"]), dict(record["work"]), cells)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"damaged: {error!r}") from None
