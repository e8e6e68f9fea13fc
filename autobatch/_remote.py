"""Folders in object storage: any URL that fsspec knows, with what reading and merging recordings needs of a path."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from autobatch._errors import AutoBatchError, ConfigError, LibraryError, OutputError, first_line, near_names
from autobatch._files import seen_in


@dataclass(frozen=True)
class Remote:
    """A file or folder in object storage.

    A file is written at once or not at all where the storage does so, as S3, Google and Azure do.

    Attributes:
        url: such as ``s3://bucket/envs/leaves``.
    """

    url: str

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """What the last part ends with, from its last dot on."""
        return self._path.suffix

    @property
    def parent(self) -> "Remote":
        """The folder that it lies in."""
        return Remote(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Say whether it is there."""
        return self.facts() is not None

    def is_dir(self) -> bool:
        """Say whether it is a folder; one is there for as long as something lies in it."""
        facts = self.facts()
        return facts is not None and facts.get("type") == "directory"

    def seen(self, pattern: str) -> list["Remote"]:
        """Return what lies in the folder, by name, but nothing hidden: as ``seen_in`` does of other folders."""
        with self._naming("read", LibraryError):
            self._system.invalidate_cache()
            try:
                paths = self._system.ls(self._key, detail=False)
            except FileNotFoundError:
                return []
        names = sorted({PurePosixPath(path).name for path in paths})
        return [self / name for name in names if fnmatch(name, pattern) and name[0] not in "._"]

    def read_bytes(self) -> bytes:
        """Return its content; FileNotFoundError where it is not there."""
        with self._naming("read", LibraryError):
            return bytes(self._system.cat_file(self._key))

    def write_bytes(self, content: bytes) -> None:
        """Write it, in place of an older one; folders are made where the storage has any, but no bucket."""
        with self._naming("written", OutputError):
            try:
                self._system.pipe_file(self._key, content)
            except FileNotFoundError:
                first = self._key[: self._key.find("/", 1)]
                if not self._system.exists(first):
                    raise OutputError(f"{self.url}: cannot be written: there is no {first}") from None
                self._system.makedirs(self.parent._key, exist_ok=True)
                self._system.pipe_file(self._key, content)

    def unlink(self) -> None:
        """Remove it; it need not exist."""
        with self._naming("removed", OutputError), suppress(FileNotFoundError):
            self._system.rm_file(self._key)

    def facts(self) -> dict[str, Any] | None:
        """Return what the storage says of it, the size among it; None where it is not there."""
        with self._naming("read", LibraryError):
            self._system.invalidate_cache()
            try:
                return dict(self._system.info(self._key))
            except FileNotFoundError:
                return None

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec.core

        protocol = self.url.partition("://")[0]
        try:
            system, key = fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # in its words, such as "Install s3fs to access S3"
            raise ConfigError(f"{self.url}: {error}") from None
        except ValueError as error:
            if protocol in fsspec.available_protocols():
                raise ConfigError(f"{self.url}: {error}") from None
            near = near_names(protocol, fsspec.available_protocols())
            raise ConfigError(f"{self.url}: no storage is known as '{protocol}'; {near}") from None
        except Exception as error:
            raise ConfigError(f"{self.url}: cannot be reached: {first_line(error)}") from None
        return system, str(key)

    @property
    def _system(self) -> Any:
        return self._opened[0]

    @property
    def _key(self) -> str:
        return self._opened[1]

    @contextmanager
    def _naming(self, what: str, kind: type[AutoBatchError]) -> Iterator[None]:
        """Name the URL in what goes wrong: storages answer with many kinds of exception."""
        try:
            yield
        except (FileNotFoundError, AutoBatchError):
            raise
        except Exception as error:
            raise kind(f"{self.url}: cannot be {what}: {first_line(error)}") from None


Place = Path | Remote
"""Where recordings lie."""


def is_url(text: object) -> bool:
    """Say whether something is the URL of a place, and no path."""
    return "://" in str(text)


def place_of(text: str | Path | Remote) -> Place:
    """Return the place that a path or a URL names; ``file://`` is a path."""
    url = str(text)
    if not is_url(url):
        return Path(url)
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return Remote(url.rstrip("/"))


def files_in(folder: Place, pattern: str) -> list[Place]:
    """Return what lies in a folder, which need not exist, by name and but for what is hidden."""
    return [*(folder.seen(pattern) if isinstance(folder, Remote) else seen_in(folder, pattern))]
