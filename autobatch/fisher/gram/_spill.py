"""Exact Gram matrix of a batch in several passes or on several processes: J is kept, in memory or in a file."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import BinaryIO

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.gram._exchange import ExchangedGram
from autobatch.fisher.gram._gram import GramAccumulator, Jacobian, summed_blocks
from autobatch.fisher.gram._jacobians import OuterJacobian
from autobatch.fisher.gram._sink import GramSink


@dataclass(frozen=True)
class _Piece:
    """A (columns, samples) matrix of the store: columns come first, so a range of them is one sequential read."""

    columns: int
    samples: int
    dtype: torch.dtype
    kept: Tensor | None
    offset: int


@dataclass(frozen=True)
class _Part:
    """One parameter's rows of one micro-batch: J, or the two factors of a J of one position."""

    first: int
    pieces: tuple[_Piece, ...]

    @property
    def columns(self) -> int:
        return prod(piece.columns for piece in self.pieces)


@dataclass(eq=False)
class SpilledGram(GramSink):
    """Keeps the per-sample gradients of several micro-batches and multiplies them at the end: F of the whole batch.

    F of a batch is not the sum of its micro-batches' F: samples of different micro-batches have inner products too. So
    J is kept, B * P * itemsize bytes for B samples and P parameters, less where J is a product of two factors at one
    position. What does not fit into half of ``max_memory`` goes to a temporary file without a name
    (``tempfile.TemporaryFile``, in ``TMPDIR``), which is gone after any exit. Both lie on the host: on a GPU each
    block of J is copied there, which waits for the device, and back for the product.

    Of several processes each keeps its own samples'. While the step runs, nothing is sent: a process that breaks the
    step off leaves no other one waiting, as it would with ``ExchangedGram``, which is used in ``result``.
    """

    def __post_init__(self) -> None:
        self._exchanged: ExchangedGram | None = None
        self._store = _Store(self.max_memory // 2)
        self._parameters: dict[str, list[_Part]] = {}
        self._before = 0

    def begin(self, batch_size: int) -> None:
        """Begin a micro-batch of so many samples.

        Raises:
            MeasureError: where the temporary directory has no room for what the last micro-batch's samples took.
        """
        self._store.begin(batch_size / self.batch_size if self.batch_size else 0.0)
        self._before += self.batch_size
        self.batch_size = batch_size

    def add(self, name: str, uses: list[Jacobian]) -> None:
        """Keep J of all uses of a parameter in this micro-batch; fails as ``begin`` does."""
        super().add(name, uses)
        use = uses[0]
        factors = use.factors() if len(uses) == 1 and isinstance(use, OuterJacobian) else ()
        pieces: tuple[_Piece, ...]
        if factors and factors[0].shape[1] == 1 and use.rows + use.width < use.rows * use.width:
            pieces = tuple(self._store.put(factor.shape[2], iter([factor[:, 0]])) for factor in factors)
        else:
            # Three copies of a block at a time: made, summed over uses, and transposed.
            columns = self.max_memory // 2 // (3 * 8 * self.batch_size)
            pieces = (self._store.put(use.rows * use.width, summed_blocks(uses, columns)),)
        self._parameters.setdefault(name, []).append(_Part(self._before, pieces))

    def result(self) -> Tensor:
        """Return F of all micro-batches, (B, B) float64, samples in the order in which they came; J is freed."""
        batch = self._before + self.batch_size
        if self.group is not None:
            return self._exchange(batch)
        gram = GramAccumulator(batch, self.device, self.max_memory // 4)
        products = torch.zeros(batch, batch, dtype=torch.float64, device=self.device)
        for name in list(self._parameters):
            parts = self._parameters.pop(name)
            if all(len(part.pieces) == 2 for part in parts):
                # J Jᵀ of an outer product is the elementwise product of its factors' Gram matrices.
                factors = [[_Part(part.first, (part.pieces[i],)) for part in parts] for i in (0, 1)]
                left, right = (GramAccumulator(batch, self.device, self.max_memory // 4) for _ in factors)
                self._stream(factors[0], left)
                self._stream(factors[1], right)
                products += left.result() * right.result()
            else:
                self._stream(parts, gram)
        self._store.close()
        return gram.result() + products

    def told(self) -> list[tuple[str, int]]:
        return [(name, self._parameters[name][0].columns) for name in sorted(self._parameters)]

    def _exchange(self, batch: int) -> Tensor:
        exchanged = ExchangedGram(self.device, self.max_memory // 2, group=self.group, mean=self.mean)
        exchanged.begin(batch)
        for name in sorted(self._parameters):
            for block in self._blocks(self._parameters.pop(name), batch, exchanged.block_columns):
                exchanged.add_block(block.to(self.device))
        self._store.close()
        self._exchanged = exchanged
        return exchanged.result()

    def local(self) -> Tensor | None:
        return None if self._exchanged is None else self._exchanged.local()

    def _stream(self, parts: list[_Part], gram: GramAccumulator) -> None:
        size = max(1, self.max_memory // 8 // (8 * gram.batch_size))
        for block in self._blocks(parts, gram.batch_size, size):
            gram.add(block.to(self.device))

    def _blocks(self, parts: list[_Part], batch: int, size: int) -> Iterator[Tensor]:
        # All samples of a range of columns at a time.
        columns = parts[0].columns
        dtype = max((part.pieces[0].dtype for part in parts), key=lambda dtype: dtype.itemsize)
        for lo in range(0, columns, size):
            hi = min(lo + size, columns)
            block = torch.zeros(batch, hi - lo, dtype=dtype)
            for part in parts:
                block[part.first : part.first + part.pieces[0].samples] = self._read(part, lo, hi).T
            yield block

    def _read(self, part: _Part, lo: int, hi: int) -> Tensor:
        if len(part.pieces) == 1:
            return self._store.get(part.pieces[0], lo, hi)
        # Factors, where another micro-batch has J: some rows of the parameter, cut to size.
        left, right = part.pieces
        width = right.columns
        first = lo // width
        rows = self._store.get(left, first, -(-hi // width)).unsqueeze(1) * self._store.get(right, 0, width)
        return rows.flatten(0, 1)[lo - first * width : hi - first * width]


class _Store:
    """Matrices on the host, in memory up to a limit and in a temporary file beyond it."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._file: BinaryIO | None = None
        self._end = 0
        self._added = 0

    def begin(self, growth: float) -> None:
        """Check the room for ``growth`` times what was added since the last call."""
        self._need(int(self._added * growth) - self._room)
        self._added = 0

    def put(self, columns: int, blocks: Iterator[Tensor]) -> _Piece:
        """Store a matrix, given in blocks of consecutive columns, (samples, n) each."""
        first = next(blocks)
        samples, dtype = len(first), first.dtype
        size = columns * samples * dtype.itemsize
        self._added += size
        piece = _Piece(columns, samples, dtype, None, self._end)
        if size <= self._room:
            self._room -= size
            piece = _Piece(columns, samples, dtype, torch.empty(columns, samples, dtype=dtype), 0)
        else:
            self._need(size)
            self._end += size
        done = 0
        for block in chain([first], blocks):
            if piece.kept is None:
                self._write(block.T.contiguous().cpu())
            else:
                piece.kept[done : done + block.shape[1]] = block.T
            done += block.shape[1]
        return piece

    def get(self, piece: _Piece, lo: int, hi: int) -> Tensor:
        """Return columns ``lo`` to ``hi``, (hi - lo, samples)."""
        if piece.kept is not None:
            return piece.kept[lo:hi]
        assert self._file is not None
        values = torch.empty(hi - lo, piece.samples, dtype=piece.dtype)
        self._file.seek(piece.offset + lo * piece.samples * piece.dtype.itemsize)
        count = self._file.readinto(_bytes(values))  # type: ignore[attr-defined]
        assert count == values.nbytes
        return values

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            self._file.close()

    def _need(self, size: int) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if size > free:
            raise MeasureError(f"{_no_room(size)}, where {free} are free")

    def _write(self, values: Tensor) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.write(_bytes(values))
        except OSError as error:
            raise MeasureError(f"{_no_room(values.nbytes)}: {error}") from error


def _no_room(size: int) -> str:
    return (
        "the per-sample gradients of a batch in several micro-batches take B * P * itemsize bytes, of which this"
        f" micro-batch needs {size} in the temporary directory {tempfile.gettempdir()} (environment variable TMPDIR)"
    )


def _bytes(values: Tensor) -> memoryview:
    return values.view(-1).view(torch.uint8).numpy().data
