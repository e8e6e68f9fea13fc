"""The directory of a run that was not told one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from autobatch._files import naming_output

if TYPE_CHECKING:
    from autobatch.training import RunConfig

_LONGEST = 100


@contextmanager
def reserved(config: "RunConfig", changes: Mapping[str, Sequence[str]]) -> Iterator[Path]:
    """Reserve a directory in ``runs/`` for a new run: no other run gets it, whenever it begins.

    Its name tells task, policy, what was changed of them, and the seed.

    Args:
        config: the run.
        changes: what was changed, as ``KEY=VALUE``, by option.

    Yields:
        The directory, empty; where the body leaves nothing in it, it goes again.

    Raises:
        OutputError: it cannot be made.
    """
    name = "-".join([config.task.name, config.policy.name, *_told(changes), f"s{config.seed}"])
    places = (Path("runs", name if number == 1 else f"{name}-{number}") for number in count(1))
    place = next(place for place in places if _made(place))
    try:
        yield place
    finally:
        for folder in (place, Path("runs")):
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def _made(place: Path) -> bool:
    with naming_output(place, "made"):
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            return False
    return True


def _told(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return words for what was changed: the last part of each key, and its value."""
    words = []
    for change in (one for some in changes.values() for one in some):
        key, _, value = change.partition("=")
        words.append(re.sub(r"[^\w.+-]", "", key.rpartition(".")[2] + value))
    return ["-".join(words)[:_LONGEST]] if words else []
