"""Recordings in object storage: read, merged and written by URL as in a folder, and clear words where that fails."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from autobatch._artefacts import find_library
from autobatch._errors import BusyError, ConfigError, LibraryError, OutputError, UnknownNameError
from autobatch._remote import Remote, place_of
from autobatch.beacons import BeaconLibrary, compact
from autobatch.beacons.storage import BEACONS, Branches, compact_branches, holds_branches, write_branches
from tests.beacons.storage.test_branches import make_branch, make_journey
from tests.beacons.storage.test_storage import assert_same_beacons
from tests.beacons.synthetic import make_beacon, make_info, make_library

URL = "memory://bucket/envs/leaves"


@pytest.fixture
def storage() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def names(storage: MemoryFileSystem) -> list[str]:
    return sorted(path.removeprefix("/bucket/envs/leaves/") for path in storage.find("/bucket"))


def test_parts_of_several_recorders_are_read_and_merged_by_url(storage: MemoryFileSystem) -> None:
    beacons = [make_beacon(size, 0.1, seed) for size in (8, 16) for seed in (0, 1)]
    for beacon in beacons[:3]:
        BEACONS.save(BEACONS.part(Remote(URL), beacon.key), [beacon], make_info())
    storage.pipe_file("/bucket/envs/leaves/beacons/._b8.parquet", b"hidden")
    assert_same_beacons(BeaconLibrary.load(URL).beacons, beacons[:3])
    assert find_library(URL) == Remote(URL)
    # Another cluster has put all of its own into one file.
    BeaconLibrary((beacons[3],), make_info()).save(f"{URL}/beacons/cluster-b.parquet")
    assert str(compact(URL)) == f"{URL}/beacons.parquet"
    assert names(storage) == ["beacons.parquet", "beacons/._b8.parquet"]
    assert_same_beacons(BeaconLibrary.load(f"{URL}/").beacons, beacons)
    assert_same_beacons(BeaconLibrary.load(f"{URL}/beacons.parquet").beacons, beacons)


@pytest.fixture
def _s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that speaks as S3 does, with an empty bucket; s3fs and moto's server are not installed everywhere."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.mark.usefixtures("_s3")
@pytest.mark.filterwarnings("default")  # of the server, which is not ours
def test_s3_as_a_server_speaks_it() -> None:
    url, beacons = "s3://bucket/leaves", [make_beacon(8, 0.1, seed) for seed in (0, 1, 2)]
    for beacon in beacons[:2]:
        BEACONS.save(BEACONS.part(Remote(url), beacon.key), [beacon], make_info())
    assert find_library(url) == Remote(url)
    compact(url)
    BeaconLibrary(tuple(beacons[2:]), make_info()).save(f"{url}/beacons/cluster-b.parquet")
    assert_same_beacons(BeaconLibrary.load(url).beacons, beacons)
    compact(url)
    assert [place.name for place in Remote(url).seen("*")] == ["beacons.parquet"]
    assert_same_beacons(BeaconLibrary.load(url).beacons, beacons)
    with pytest.raises(UnknownNameError, match="s3://bucket/none: holds no beacons"):
        find_library("s3://bucket/none")
    with pytest.raises(OutputError, match=r"s3://elsewhere/b\.parquet: cannot be written: there is no elsewhere"):
        place_of("s3://elsewhere/b.parquet").write_bytes(b"")


@pytest.mark.usefixtures("storage")
def test_branch_runs_too(tmp_path: Path) -> None:
    branch, journey = make_branch(), make_journey()
    for one in (branch, journey):
        write_branches(Remote(URL), one.origin, [one], make_info())
    assert holds_branches(URL)
    compact_branches(URL)
    assert [one.name for one in Branches.load(URL).journeys] == [branch.name, journey.name]
    Branches((make_branch(at=4),), make_info()).save(tmp_path)
    compact_branches(URL, [tmp_path])
    assert [int(one.rows["epoch"][0]) for one in Branches.load(URL).journeys] == [2, 4, 1]


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    library = make_library(batch_sizes=(8,))
    assert library.save(f"file://{tmp_path}/beacons.parquet") == tmp_path / "beacons.parquet"
    assert_same_beacons(BeaconLibrary.load(f"file://{tmp_path}").beacons, library.beacons)


def test_of_two_that_gather_at_once_the_slower_writes_nothing(
    storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    beacons = [make_beacon(8, 0.1, seed) for seed in (0, 1)]
    BEACONS.save(BEACONS.part(Remote(URL), beacons[0].key), beacons[:1], make_info())
    read = type(BEACONS).read

    def slow(parts: Any, place: Any) -> Any:
        found = read(parts, place)
        monkeypatch.undo()
        BEACONS.save(BEACONS.part(Remote(URL), beacons[1].key), beacons[1:], make_info())
        compact(URL)
        return found

    monkeypatch.setattr(type(BEACONS), "read", slow)
    with pytest.raises(BusyError, match="another process has gathered here in the meantime; do it again"):
        compact(URL)
    assert_same_beacons(BeaconLibrary.load(URL).beacons, beacons)
    assert names(storage) == ["beacons.parquet"]


class Nowhere(MemoryFileSystem):
    """Answers nothing."""

    protocol = "nowhere"

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("Could not connect to the endpoint\nwith a second line")

    info = ls = cat_file = pipe_file = _refuse


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memoy://bucket/leaves", ConfigError, "no storage is known as 'memoy'; did you mean 'memory'"),
        ("s3://bucket/leaves", ConfigError, "s3://bucket/leaves.*: Install s3fs to access S3"),
        ("nowhere://bucket/leaves", LibraryError, "nowhere://.*: cannot be read: Could not connect to the endpoint$"),
        (URL, UnknownNameError, "holds no beacons: expected beacons.parquet or beacons/"),
    ],
)
def test_what_cannot_be_reached_is_said(
    url: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("nowhere", Nowhere, clobber=True)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # where the test above has used it
    with pytest.raises(error, match=message):
        find_library(url)


def test_what_cannot_be_written_is_said() -> None:
    fsspec.register_implementation("nowhere", Nowhere, clobber=True)
    with pytest.raises(OutputError, match=r"nowhere://bucket/b\.parquet: cannot be written: Could not connect"):
        place_of("nowhere://bucket/b.parquet").write_bytes(b"")


def test_a_bucket_that_is_not_there_is_not_made(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(storage, "pipe_file", missing)
    monkeypatch.setattr(storage, "makedirs", lambda *_, **__: pytest.fail("made a bucket"))
    with pytest.raises(OutputError, match=r"memory://bukket/b\.parquet: cannot be written: there is no /bukket"):
        place_of("memory://bukket/b.parquet").write_bytes(b"")


def test_a_library_of_nothing_says_what_is_missing() -> None:
    with pytest.raises(LibraryError, match="memory://bucket/none: no beacons are recorded here"):
        BeaconLibrary.load("memory://bucket/none")
