"""F of a batch in several micro-batches, kept in memory and in a temporary file, against J J^T in float64."""

import gc
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autobatch._errors import MeasureError
from autobatch.fisher.gram import _spill
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import DenseJacobian, EmbeddingJacobian, OuterJacobian
from autobatch.fisher.gram._spill import SpilledGram
from autobatch.fisher.layers._convolution import ConvolutionJacobian
from autobatch.fisher.layers._unfold import Geometry

CPU = torch.device("cpu")
IN_MEMORY, IN_FILE = 1 << 24, 1 << 10
SIZES = (3, 5, 1, 4)


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def dense(batch: int, dtype: torch.dtype) -> Jacobian:
    return DenseJacobian(numbers(batch, 7, 2, dtype=dtype))


def outer(batch: int, dtype: torch.dtype, positions: int = 1) -> Jacobian:
    return OuterJacobian(numbers(batch, positions, 6, dtype=dtype), numbers(batch, positions, 9, dtype=dtype))


def sequence(batch: int, dtype: torch.dtype) -> Jacobian:
    return outer(batch, dtype, positions=3)


def narrow(batch: int, dtype: torch.dtype) -> Jacobian:
    return OuterJacobian(numbers(batch, 1, 1, dtype=dtype), numbers(batch, 1, 5, dtype=dtype))


def convolution(batch: int, dtype: torch.dtype) -> Jacobian:
    return ConvolutionJacobian(
        numbers(batch, 3, 6, 6, dtype=dtype),
        numbers(batch, 4, 6, 6, dtype=dtype),
        batch=batch,
        geometry=Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        groups=1,
    )


def embedding(batch: int, dtype: torch.dtype) -> Jacobian:
    return EmbeddingJacobian(torch.randint(0, 11, (batch, 4)), numbers(batch, 4, 5, dtype=dtype), 11)


KINDS = (dense, outer, sequence, narrow, convolution, embedding)


def rows(uses: list[Jacobian]) -> Tensor:
    return sum((use.block(0, use.rows).double() for use in uses), torch.zeros(()))


def relative(gram: Tensor, expected: Tensor) -> float:
    return float((gram - expected).abs().max() / expected.abs().max())


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The temporary files that were made."""
    made: list[object] = []
    make = tempfile.TemporaryFile

    def recorded() -> object:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(_spill.tempfile, "TemporaryFile", recorded)
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("max_memory", [IN_MEMORY, 1 << 13, IN_FILE])
@pytest.mark.parametrize("sizes", [SIZES, (1,) * 6, (7,)])
def test_all_kinds_of_jacobians(
    dtype: torch.dtype, max_memory: int, sizes: tuple[int, ...], files: list[object]
) -> None:
    gram = SpilledGram(CPU, max_memory)
    jacobian: list[Tensor] = []
    for size in sizes:
        gram.begin(size)
        uses = [kind(size, dtype) for kind in KINDS]
        for name, use in enumerate(uses):
            gram.add(str(name), [use])
        jacobian.append(torch.cat([rows([use]) for use in uses], 1))
    stacked = torch.cat(jacobian)
    result = gram.result()
    assert result.dtype == torch.float64
    assert torch.equal(result, result.T)
    assert relative(result, stacked @ stacked.T) < (1e-13 if dtype == torch.float64 else 1e-6)
    assert bool(files) == (max_memory < IN_MEMORY)


@pytest.mark.parametrize("max_memory", [IN_MEMORY, IN_FILE])
def test_several_uses_are_summed_and_absent_ones_are_zero(max_memory: int) -> None:
    # A conditional model: the parameter is used once (as factors), not at all, twice (as J), and once as a table.
    per_batch: list[list[Jacobian]] = [
        [outer(3, torch.float64)],
        [],
        [outer(4, torch.float64), sequence(4, torch.float64)],
        [EmbeddingJacobian(torch.randint(0, 6, (2, 3)), numbers(2, 3, 9), 6)],
    ]
    gram = SpilledGram(CPU, max_memory)
    jacobian = []
    for size, uses in zip((3, 2, 4, 2), per_batch, strict=True):
        gram.begin(size)
        if uses:
            gram.add("weight", uses)
        jacobian.append(rows(uses) if uses else torch.zeros(size, 54, dtype=torch.float64))
    stacked = torch.cat(jacobian)
    assert relative(gram.result(), stacked @ stacked.T) < 1e-13


def test_nothing_kept_is_zero() -> None:
    gram = SpilledGram(CPU, IN_MEMORY)
    gram.begin(2)
    gram.begin(3)
    assert torch.equal(gram.result(), torch.zeros(5, 5, dtype=torch.float64))


def test_the_file_has_no_name_and_goes_after_the_result(directory: Path, files: list[object]) -> None:
    gram = SpilledGram(CPU, IN_FILE)
    gram.begin(8)
    gram.add("weight", [sequence(8, torch.float64)])
    assert len(files) == 1
    assert not files[0].closed
    assert list(directory.iterdir()) == []
    gram.result()
    assert files[0].closed


def test_the_file_goes_without_a_result(directory: Path, files: list[object]) -> None:
    gram = SpilledGram(CPU, IN_FILE)
    gram.begin(8)
    gram.add("weight", [sequence(8, torch.float64)])
    del gram
    gc.collect()
    assert files[0].closed


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def test_no_room_is_said_before_writing(monkeypatch: pytest.MonkeyPatch, files: list[object]) -> None:
    gram = SpilledGram(CPU, IN_FILE)
    gram.begin(8)
    free(monkeypatch, 8 * 54 * 8 - 1)
    with pytest.raises(MeasureError, match=r"needs 3456 in the temporary directory .*TMPDIR.* 3455 are free"):
        gram.add("weight", [sequence(8, torch.float64)])
    assert files == []


def test_no_room_is_said_when_a_micro_batch_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = SpilledGram(CPU, IN_FILE)
    gram.begin(8)
    gram.add("weight", [sequence(8, torch.float64)])
    free(monkeypatch, 2000)
    with pytest.raises(MeasureError, match="2000 are free"):
        gram.begin(8)


def test_a_full_disk_is_a_measure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(_spill.tempfile, "TemporaryFile", Full)
    gram = SpilledGram(CPU, IN_FILE)
    gram.begin(8)
    with pytest.raises(MeasureError, match="No space left on device"):
        gram.add("weight", [sequence(8, torch.float64)])


class Allocated(TorchDispatchMode):
    """Bytes of the storages that torch functions make and that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        given = [
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        ]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage._cdata not in self._alive and storage._cdata not in given:
                self._alive.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


def peak(run: Callable[[], object]) -> int:
    """Bytes that torch held at most during a call, above what it held before."""
    with Allocated() as allocated:
        run()
    assert allocated.most > 10000
    return allocated.most


@pytest.mark.parametrize("max_memory", [1 << 18, 1 << 20, 1 << 22])
def test_memory_is_capped(max_memory: int) -> None:
    # J of each parameter has 64 x 6400 numbers: 3.3 MB.
    batches = [[OuterJacobian(numbers(16, 2, 64), numbers(16, 2, 100)) for _ in range(3)] for _ in range(4)]

    def run() -> None:
        gram = SpilledGram(CPU, max_memory)
        for uses in batches:
            gram.begin(16)
            for name, use in enumerate(uses):
                gram.add(str(name), [use])
        gram.result()

    assert peak(run) < max_memory
