"""A seeded random projection of per-sample gradients to k rows: F ~ (SJ)ᵀ(SJ), without J being kept or sent.

S is a CountSketch (Charikar, Chen and Farach-Colton 2002; Clarkson and Woodruff, STOC 2013): each column of a parameter
is multiplied by a random sign and added to one of k places. The columns of a stretch of at most k go to neighbouring
places, from a random first one on, so that columns of one stretch never meet and those of two meet with probability
1/k. Signs and first places follow from the seed, the parameter's name and its shape alone.

What F's entries then are, with P(x, y) an inner product of two samples' gradients x and y and P̂ the sketched one:
E P̂ = P and Var P̂ <= (|x|² |y|² + P²) / k, so that E ‖F̂ - F‖² <= ((trace F)² + ‖F‖²) / k in Frobenius norm (Woodruff
2014, section 2.2). The same bound holds for every fixed direction of samples.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.gram._gram import Jacobian, spans, summed
from autobatch.fisher.gram._group import gathered
from autobatch.fisher.gram._sink import GramSink

LEAST_ROWS_PER_SAMPLE = 2
"""Rows of a sketch for each sample of the batch, below which its smallest eigenvalues say nothing."""

_WORD = 64
# Stretches that are added up in the gradients' own dtype before they are added to others in float64.
_ADDED = 64
# Devices on which a call costs next to nothing, and what lies in the cache much less than what does not.
_IN_SMALL_CALLS = frozenset({"cpu"})


@dataclass(eq=False)
class SketchedGram(GramSink):
    """The sink that keeps k numbers of each sample, k * B * 8 bytes, over any number of passes and parameters.

    Of several processes each sends its own samples' k numbers, once, after the step, in the gradients' dtype. The sums
    in ``passes``, which its check takes, are of each parameter's own exact F alone.
    """

    rows: int  # k
    seed: int  # of the projection; the same on all processes

    def __post_init__(self) -> None:
        self._columns = max(1, self.max_memory // 2 // (4 * 8))  # a block, its signed, its shifted copy, their sum
        self._sketches: list[Tensor] = []
        self._partial: Tensor | None = None
        self._added = 0
        self._dtype = torch.float32
        self._seen: set[str] = set()
        self.passes = []

    def begin(self, batch_size: int) -> None:
        super().begin(batch_size)
        self._settle()
        self._sketches.append(torch.zeros(batch_size, self.rows, dtype=torch.float64, device=self.device))
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.passes = [*(self.passes or ()), self._sums]

    def add(self, name: str, uses: list[Jacobian]) -> None:
        """Project one parameter, all uses of it in this pass."""
        super().add(name, uses)
        rows, width = uses[0].rows, uses[0].width
        self._seen.add(f"{name} {rows} {width}")
        stretches = _Stretches(rows, width, self.rows, f"{self.seed} {name}")
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for part in stretches.blocks(max(1, self._columns // self.batch_size)):
            block = summed(uses, part)
            sums[0] += block.sum(0).double().square().sum()
            sums[1] += torch.linalg.vector_norm(block).double().square()
            self._added += stretches.project(block, part.start, self._place(block))
        self._sums[name] = (torch.zeros_like(sums), sums)

    def _place(self, block: Tensor) -> Tensor:
        """Return where a block is added up: in its own dtype, as few numbers as lose nothing that counts."""
        if self._added > _ADDED or self._partial is None or self._partial.dtype != block.dtype:
            self._settle()
            self._partial = block.new_zeros(len(block), self.rows)
            self._dtype = torch.promote_types(self._dtype, block.dtype)
        return self._partial

    def _settle(self) -> None:
        if self._partial is not None:
            self._sketches[-1] += self._partial
        self._partial, self._added = None, 0

    def told(self) -> tuple[object, ...]:
        return sorted(self._seen), self.rows, self.seed, str(self._dtype)

    def result(self) -> Tensor:
        """Return F, (B, B) float64, of the samples in the order in which they came; of all processes' in rank order.

        Raises:
            MeasureError: the batch is too large for the rows.
        """
        self._settle()
        sketch, self._sketches = torch.cat(self._sketches), []
        if self.group is not None:
            sizes = torch.tensor([[len(sketch)]], device=self.device)
            sizes = gathered(sizes, [1] * self.group.size(), self.group)
            scaled = sketch * len(sketch) if self.mean else sketch
            sketch = gathered(scaled.to(self._dtype), sizes.flatten().tolist(), self.group).to(torch.float64)
        least = LEAST_ROWS_PER_SAMPLE * len(sketch)
        if self.rows < least:
            raise MeasureError(
                f"sketch_rows={self.rows} is too small for a batch of {len(sketch)} samples: give at least {least},"
                f" {LEAST_ROWS_PER_SAMPLE} for each; 16 for each keep the condition number to some percent"
            )
        gram = sketch @ sketch.T
        return gram.triu() + gram.triu(1).T


class _Stretches:
    """Where the columns of one parameter go, and with which signs.

    A stretch is as many whole rows of the parameter as have at most k columns, or k columns of one row.
    """

    def __init__(self, rows: int, width: int, places: int, key: str) -> None:
        self._rows, self._width, self._places = rows, width, places
        self._together = max(1, places // max(1, width))
        self._pieces = max(1, -(-width // places))
        count = -(-rows // self._together) * self._pieces
        digest = hashlib.blake2b(f"{key} {rows} {width}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        self._first = torch.randint(places, (count,), generator=generator)
        words = torch.empty(-(-rows * width // _WORD), dtype=torch.int64)
        self._words = words.random_(-(2**63), None, generator=generator)

    def blocks(self, columns: int) -> Iterator[slice]:
        """Yield rows of whole stretches, of about so many columns."""
        size = self._together * max(1, columns // max(1, self._together * self._width))
        return spans(0, self._rows, size)

    def project(self, block: Tensor, lo: int, out: Tensor) -> int:
        """Add the projection of rows from ``lo`` on, (B, n * width), to (B, k); return how many stretches that are."""
        start = lo * self._width
        signs = self._signs(start, start + block.shape[1], block)
        firsts = self._first[lo // self._together * self._pieces :]
        bounds = self._bounds(block.shape[1])
        if block.device.type not in _IN_SMALL_CALLS and len(bounds) > 1:
            _add_together(block, signs, bounds, firsts, out)
            return 1
        for (begin, end), first in zip(bounds, firsts.tolist(), strict=False):
            turn = min(end, begin + self._places - first)
            out[:, first : first + turn - begin].addcmul_(block[:, begin:turn], signs[begin:turn])
            out[:, : end - turn].addcmul_(block[:, turn:end], signs[turn:end])
        return len(bounds)

    def _bounds(self, columns: int) -> list[tuple[int, int]]:
        """Return where the stretches of so many columns begin and end."""
        if self._pieces == 1:
            length = self._together * self._width
            return [(begin, min(begin + length, columns)) for begin in range(0, columns, max(1, length))]
        return [
            (begin, min(begin + self._places, row + self._width))
            for row in range(0, columns, self._width)
            for begin in range(row, row + self._width, self._places)
        ]

    def _signs(self, start: int, stop: int, like: Tensor) -> Tensor:
        words = self._words[start // _WORD : -(-stop // _WORD)].to(like.device)
        bits = (words.unsqueeze(1) >> torch.arange(_WORD, device=like.device)) & 1
        offset = start % _WORD
        return (bits.flatten()[offset : offset + stop - start] * 2 - 1).to(like.dtype)


def _add_together(block: Tensor, signs: Tensor, bounds: list[tuple[int, int]], firsts: Tensor, out: Tensor) -> None:
    """Add all stretches of a block in a few large calls, as an accelerator wants them: k columns each, and a gather."""
    places = out.shape[1]
    begins, ends = torch.tensor(bounds).T.unsqueeze(2)
    sources = (torch.arange(places) - firsts[: len(bounds), None]) % places
    inside = sources < ends - begins
    taken = torch.where(inside, begins + sources, 0).flatten().to(out.device)
    signed = signs[taken] * inside.flatten().to(out.device)
    out += (block[:, taken] * signed).view(len(block), -1, places).sum(1)
