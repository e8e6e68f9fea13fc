"""The controller in several processes; what they do is in ranks_work."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autobatch.control._ranks import _buckets, _device_of, _flattened, _spread
from tests.processes import FORKED

from . import ranks_work as work

LIMIT = 120.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all bodies in one start of three processes; return where they leave their tracebacks."""
    directory = tmp_path_factory.mktemp("ranks")
    processes = [FORKED.Process(target=work.process, args=(rank, str(directory))) for rank in range(3)]
    for process in processes:
        process.start()
    end = time.monotonic() + LIMIT
    while any(process.is_alive() for process in processes):
        crashed = any(process.exitcode not in {None, 0, *work.CODES} for process in processes)
        if crashed or time.monotonic() > end:
            (directory / "late").touch()
            for process in processes:
                process.kill()
        time.sleep(0.1)
    (directory / "codes").write_text(" ".join(str(process.exitcode) for process in processes))
    return directory


@pytest.mark.parametrize(
    ("served", "model", "expected"),
    [
        (["cpu"], "cuda:1", "cpu"),
        (["cuda", "cpu"], "cuda:1", "cpu"),  # a backend for each
        (["cuda"], "cuda:1", "cuda:1"),  # NCCL alone takes nothing from the host
        (["cuda"], "cpu", "cuda"),
        ([], "cpu", "cpu"),
    ],
)
def test_small_messages_lie_where_the_backend_takes_them(served: list[str], model: str, expected: str) -> None:
    group = SimpleNamespace(_device_types=[torch.device(own) for own in served])
    assert _device_of(group, torch.device(model)) == torch.device(expected)


def test_gradients_are_sent_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.control._ranks._BUCKET_BYTES", 20)
    tensors = [
        torch.full((2, size), size, dtype=dtype) for dtype in (torch.float32, torch.int64) for size in (1, 1, 2, 4)
    ]
    assert [[tensor.shape[1] for tensor in bucket] for bucket in _buckets(tensors)] == [
        [1, 1],
        [2],
        [4],
        [1],
        [1],
        [2],
        [4],
    ]
    flat = _flattened(tensors[:4])
    _spread(flat + 1, tensors[:4])
    assert [int(tensor[1, 0]) for tensor in tensors] == [2, 2, 3, 5, 1, 1, 2, 4]


@pytest.mark.parametrize("name", [*work.BODIES, work.OUTSIDE])
def test_in_processes(name: str, directory: Path) -> None:
    tracebacks = [file.read_text() for file in sorted(directory.glob(f"{name}.[0-9]"))]
    assert not tracebacks, "\n".join(tracebacks)


def test_all_have_come_to_their_end(directory: Path) -> None:
    assert not (directory / "late").exists()
    assert sorted(file.name for file in directory.glob("passed.*")) == ["passed.0", "passed.1", "passed.2"]


def test_a_rank_that_dies_ends_the_others(directory: Path) -> None:
    assert "one of them has probably died" in (directory / work.LONE).read_text()
    assert (directory / "codes").read_text() == "{} {} 0".format(*work.CODES)
