"""Before anything else: one thread a worker, for two workers with two threads each slow one another down many times."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import multiprocessing
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import FORKED

# The same examples each time, however slow the machine is.
settings.register_profile(
    "autobatch", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("autobatch")

_CONTEXT_OF_WORKERS = "autobatch.cells._local._SPAWN"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage neither while tests are collected, which takes half as long again, nor in what that has made."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_is_no_garbage() -> None:
    """Look for garbage only in what a file's tests make, not in all that has been imported before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _workers_are_forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_CONTEXT_OF_WORKERS, FORKED)
        yield


@pytest.fixture
def spawned_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers as they are outside of tests: each process is an interpreter of its own."""
    monkeypatch.setattr(_CONTEXT_OF_WORKERS, multiprocessing.get_context("spawn"))


@pytest.fixture
def unpainted() -> Iterator[pytest.MonkeyPatch]:
    """Pictures are composed and not painted, which takes half a second each; their files hold a word."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", say_so)
        yield patch


@pytest.fixture
def painted(unpainted: pytest.MonkeyPatch) -> None:
    """Pictures are painted, in a file of tests where the others' are not."""
    unpainted.undo()


def say_so(_: object, place: Any, **__: object) -> None:
    """Take the place of what paints a picture."""
    if isinstance(place, str | os.PathLike):
        Path(place).write_bytes(b"unpainted")
    else:
        place.write(b"unpainted")
