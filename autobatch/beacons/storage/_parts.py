"""Parts: what recorders write, one file a training, and the one file in which they are gathered.

An env directory holds ``NAME.parquet`` (gathered) and ``NAME/*.parquet`` (one training each, written by any number of
recorders side by side). A part replaces what the gathered file has of the same training, so a compaction that is killed
between its two acts, renaming the new file and removing the parts, loses nothing and counts nothing twice.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from autobatch._artefacts import holds
from autobatch._errors import BusyError, LibraryError
from autobatch._files import alone_in, naming_output, write_whole
from autobatch._remote import Place, Remote, files_in, place_of
from autobatch.beacons._beacon import BeaconKey
from autobatch.beacons._costs import CostTable
from autobatch.beacons._info import LibraryInfo, merged_info

Item = TypeVar("Item")


@dataclass(frozen=True)
class Parts(Generic[Item]):
    """How recordings of one kind are stored.

    Attributes:
        name: of the gathered file and of the folder of parts.
        encode: returns recordings as the bytes of a Parquet file.
        decode: reads one; raises LibraryError, or FileNotFoundError where there is none.
        key: returns the training that a recording is of; a part holds one training.
        course: returns what else tells a recording from others of its training.
        nothing: what to say where there is no recording; ``{env}`` stands for what ``--env`` takes.
        twice: what to say where two parts have one training; ``{name}`` stands for it, ``{other}`` for the other part.
    """

    name: str
    encode: Callable[[Sequence[Item], LibraryInfo], bytes]
    decode: Callable[[Place], tuple[tuple[Item, ...], LibraryInfo]]
    key: Callable[[Item], BeaconKey]
    course: Callable[[Item], Hashable]
    nothing: str
    twice: str

    def gathered(self, env_dir: Place) -> Place:
        """Return the file in which an env's recordings are gathered."""
        return env_dir / f"{self.name}.parquet"

    def part(self, env_dir: Place, key: BeaconKey) -> Place:
        """Return the file of one training."""
        return env_dir / self.name / f"{key.name}.parquet"

    def files(self, env_dir: Place) -> list[Place]:
        """Return the parts that an env has."""
        return files_in(env_dir / self.name, "*.parquet")

    def save(self, file: Place, items: Sequence[Item], info: LibraryInfo) -> None:
        """Write recordings to one Parquet file, at once or not at all, whoever else writes it; its folder is made."""
        content = self.encode(items, info)
        if isinstance(file, Remote):
            file.write_bytes(content)
            return
        with naming_output(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content, shared=True)

    def save_at(self, path: str | Place, items: Sequence[Item], info: LibraryInfo) -> Place:
        """Write recordings to one Parquet file, or to that of an env directory; returns the file."""
        place = place_of(path)
        file = self.gathered(place) if place.is_dir() else place
        self.save(file, items, info)
        return file

    def keys(self, env_dir: Place) -> frozenset[BeaconKey]:
        """Return which trainings an env has; empty where nothing is recorded."""
        return frozenset(map(self.key, self.read(env_dir)[0])) if holds(env_dir, self.name) else frozenset()

    def read(self, path: Place) -> tuple[tuple[Item, ...], LibraryInfo]:
        """Read the recordings of an env directory, gathered or not, or of one Parquet file.

        Args:
            path: an env directory or a Parquet file.

        Returns:
            The recordings, ordered by training, and what they have in common.

        Raises:
            LibraryError: there is none, or a file is damaged, foreign, of another version or task.
        """
        files = self._folder(path) if path.is_dir() else self._found(path)
        found: dict[BeaconKey, list[Item]] = {}
        for _, items, _ in files:
            # A part replaces what the gathered file, which comes first, has of the same training.
            own: dict[BeaconKey, list[Item]] = {}
            for item in items:
                own.setdefault(self.key(item), []).append(item)
            found.update(own)
        if not found:
            raise LibraryError(f"{path}: {self.nothing.format(env=_option(path))}")
        info = merged_info([(str(file), info) for file, _, info in files])
        return tuple(item for key in sorted(found) for item in found[key]), info

    def add(self, file: Place, items: Sequence[Item], info: LibraryInfo) -> None:
        """Write recordings to one Parquet file beside those that it holds, if it is there, as ``joined`` has them."""
        found = self._found(file)
        info = merged_info([*((str(file), info) for _, _, info in found), ("what is added", info)])
        self.save(file, self.joined(*(before for _, before, _ in found), items), info)

    def joined(self, *several: Sequence[Item]) -> tuple[Item, ...]:
        """Return recordings from several places; of the same training and course the last one counts."""
        return tuple({(self.key(item), self.course(item)): item for items in several for item in items}.values())

    def compact(self, env_dir: Place, costs: CostTable | None = None, further: Sequence[Place] = ()) -> Place:
        """Gather all recordings of an env in one file, and remove the parts.

        Args:
            env_dir: the env's directory.
            costs: the costs that the file gets; those that are there where None.
            further: other directories or files, whose recordings are gathered too, as ``joined`` has them.

        Returns:
            The file.

        Raises:
            LibraryError: there is no recording, or a file is damaged or of another task.
            OutputError: the directory cannot be written.
            BusyError: in object storage, another process gathers at the same time.
        """
        if not holds(env_dir, self.name) and not further:
            self.read(env_dir)  # says what is missing
        # Of two processes, the slower would write a file without what the faster has gathered and removed. Object
        # storage has no locks: there the slower one sees it when it is about to write.
        with nullcontext() if isinstance(env_dir, Remote) else alone_in(env_dir):
            before = _identity(self.gathered(env_dir))
            identities = {path: _identity(path) for path in self.files(env_dir)}
            items, info = self._read_all(env_dir, further)
            if _identity(self.gathered(env_dir)) != before:
                raise BusyError(f"{env_dir}: another process has gathered here in the meantime; do it again")
            self.save(self.gathered(env_dir), items, info if costs is None else replace(info, costs=costs))
            for path, identity in identities.items():
                # A part that a recorder has replaced in the meantime is newer than the gathered file: it stays.
                if _identity(path) == identity:
                    remove_part(path)
        return self.gathered(env_dir)

    def _read_all(self, env_dir: Place, further: Sequence[Place]) -> tuple[tuple[Item, ...], LibraryInfo]:
        own = [env_dir] if holds(env_dir, self.name) or not further else []
        found = [(str(place), *self.read(place)) for place in (*own, *further)]
        info = merged_info([(place, info) for place, _, info in found])
        return self.joined(*(items for _, items, _ in found)), info

    def _folder(self, env_dir: Place) -> list[tuple[Place, tuple[Item, ...], LibraryInfo]]:
        # The parts are read first: one that vanishes before it is read has been gathered, and is then found in the
        # gathered file. In the answer that file comes first, being older.
        parts = [file for part in self.files(env_dir) for file in self._found(part)]
        sources: dict[BeaconKey, Place] = {}
        for part, items, _ in parts:
            for key in set(map(self.key, items)):
                if key in sources:
                    told = self.twice.format(name=key.name, other=sources[key])
                    raise LibraryError(f"{part}: {told}; remove one of them")
                sources[key] = part
        return self._found(self.gathered(env_dir)) + parts

    def _found(self, file: Place) -> list[tuple[Place, tuple[Item, ...], LibraryInfo]]:
        try:
            return [(file, *self.decode(file))]
        except FileNotFoundError:
            return []


def _option(path: Place) -> str:
    """Return what ``--env`` takes for an env directory: its name, or the path of a file of another name in it."""
    folder = path if path.suffix != ".parquet" else path.parent
    files = [] if isinstance(folder, Remote) else list(folder.glob("*.yaml"))
    if not files or any(file.name == "env.yaml" for file in files):
        return folder.name or "ENV"
    return str(files[0] if len(files) == 1 else folder / "TASK.yaml")


def remove_part(path: Place) -> None:
    """Remove a file that a gathered one now stands for; it need not exist."""
    if isinstance(path, Remote):
        path.unlink()
        return
    with naming_output(path, "removed after compaction"):
        path.unlink(missing_ok=True)


_TELLING = ("size", "mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "created", "generation")


def _identity(path: Place) -> tuple[object, ...] | None:
    """Return what changes when a file is replaced; None where there is no such file."""
    if isinstance(path, Remote):
        facts = path.facts()
        return None if facts is None else tuple(facts.get(key) for key in _TELLING)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
