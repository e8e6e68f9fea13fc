"""Writing files so that kill -9 or a full disk loses nothing that was there before."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autobatch._errors import BusyError, OutputError


@contextmanager
def naming_output(path: Path, what: str = "written") -> Iterator[None]:
    """Turn an operating-system error into an OutputError that says that ``path`` could not be ``what``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be {what}: {error.strerror or error}") from None


def seen_in(folder: Path, pattern: str) -> list[Path]:
    """Return what lies in a folder, but nothing hidden: whose name, or folder's, begins with a dot or an underscore.

    File systems and archivers put such files beside ours (``._NAME`` beside each ``NAME``, ``.DS_Store``).

    Args:
        folder: the folder; it need not exist.
        pattern: as ``Path.glob`` takes it.

    Returns:
        The paths, by name.
    """
    found = folder.glob(pattern)
    return sorted(path for path in found if not any(part[0] in "._" for part in path.relative_to(folder).parts))


def write_whole(path: Path, content: bytes, *, shared: bool = False) -> None:
    """Replace a file, in a folder that exists, at once or not at all; an OutputError leaves the older one.

    Args:
        path: the file.
        content: what it holds from here on.
        shared: whether other processes may write it at the same time, and other machines read it: it is on the disk
            before it is there.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    with naming_output(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                if shared:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_whole(path: Path, content: bytes) -> None:
    """Append to a file, made where it is missing: all of it or, where the disk is full, nothing."""
    with naming_output(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            written = file.write(content)
        except BaseException:
            file.truncate(size)
            raise
        if written != len(content):
            file.truncate(size)
            raise OSError(errno.ENOSPC, "the disk is full")


_A_LOOK = 0.05
"""Seconds that ``somebody_in`` may stand in the way, and more."""


def somebody_in(folder: Path) -> bool:
    """Say whether a process works in a folder, by ``alone_in``; False where that cannot be seen."""
    try:
        with alone_in(folder, busy="somebody"):
            return False
    except BusyError:
        return True
    except OutputError:
        return False


@contextmanager
def place_of_work(folder: Path, busy: str) -> Iterator[None]:
    """Make a folder and keep other processes out of it; where nothing was kept, a new one goes again.

    Args:
        folder: the folder.
        busy: what to say where another process works in it.

    Yields:
        Nothing.

    Raises:
        OutputError: it cannot be made or opened.
        BusyError: another process works in it.
    """
    fresh = not folder.exists()
    with naming_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, busy=busy):
        try:
            yield
        except BaseException:
            if fresh:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()
            raise


@contextmanager
def alone_in(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Let one process at a time work in a folder; the lock ends with the process, however it ends.

    Args:
        folder: the folder; it exists.
        busy: what to say where another process works in it; None waits until it has left.

    Yields:
        Nothing, once no other process works in the folder.

    Raises:
        OutputError: it cannot be opened.
        BusyError: another process works in it, and ``busy`` is given.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; there, working in one folder twice at once is up to the user.
        yield
        return
    with naming_output(folder, "opened"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            time.sleep(_A_LOOK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"{folder}: {busy}") from None
        yield
    finally:
        os.close(descriptor)
