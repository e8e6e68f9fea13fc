"""The exceptions that autobatch raises on purpose, and the near-name helper their messages use.

Every message names what was wrong (file, key or argument), what was expected and, where a name was mistyped, the
names that come near it. The command line prints the message alone and exits with code 2.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class AutoBatchError(Exception):
    """Base class of every error that autobatch raises on purpose."""


class ConfigError(AutoBatchError):
    """A YAML file, an override or an argument holds something that autobatch cannot use."""


class UnknownNameError(AutoBatchError):
    """A name (of an env, policy, dataset, model, ...) is not known."""


class DataError(AutoBatchError):
    """A dataset is missing, damaged or of another shape than expected."""


class LibraryError(AutoBatchError):
    """A beacon library is missing, damaged, of another version, or recorded for another task."""


class CheckpointError(AutoBatchError):
    """A run directory or checkpoint is missing, damaged, of another version, or of another configuration."""


class MeasureError(AutoBatchError):
    """The Fisher spectrum of a step cannot be measured as asked."""


class OutputError(AutoBatchError):
    """An output directory cannot be written, or holds something that must not be overwritten."""


class BusyError(OutputError):
    """Another process works in a directory that only one may work in at a time."""


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, the nearest first."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def first_line(error: Exception) -> str:
    """Return the first line of what an error of another library says, or what kind it is where it says nothing."""
    return (str(error).splitlines() or [""])[0][:300] or type(error).__name__


def near_names(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'a' or 'b'?"`` where known names come near, else ``"known: a, b, c"``."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(candidate) for candidate in near) + "?"
    return "known: " + (", ".join(names) if names else "none")
