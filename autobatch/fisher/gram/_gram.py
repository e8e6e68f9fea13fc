"""The streaming Gram matrix: one (B, B) float64 accumulator, fed block by block."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from autobatch.fisher.gram._native import native

# Bytes that blocks of J and whatever is needed to make them may take, F itself not counted.
MAX_MEMORY = 64 << 20
# Blocks of fewer columns than this are gathered in a buffer first: a narrow product is bound by memory traffic on F.
_NARROW_COLUMNS = 512
_BUFFER_COLUMNS = 1024
# From so many samples on products of float32 gradients may be in float32: of J, where a block has so many columns (or
# elements, of many samples); of pairs, where the parameter has so many elements. See GramAccumulator.
SINGLE_SAMPLES = 32
_SINGLE_BLOCK_COLUMNS = 2048
_SINGLE_BLOCK_ELEMENTS = 1 << 18
_SINGLE_PAIRS = 128
_SINGLE_PARAMETER = 1 << 16
# Columns of J, and features of pairs, that one product adds up before it is added to others in float64.
_SINGLE_COLUMNS = 1024
_DOUBLE_COLUMNS = 768
_SINGLE_FEATURES = 256
# Squared distance of two samples' gradients, relative to their squared norms, that round-off of float32 may hide; of
# gradients of unlike size, that of their directions.
_ALIKE = 1e-5
# Bytes of several products that are made together: on a CPU what its cache holds.
_CACHE = 4 << 20
_ACCELERATOR_CACHE = 32 << 20
# Rows of F that one product fills at least.
_TILE = 64
_ACCELERATOR_TILE = 512
# Rows of F that are summed up at a time.
_SUMMED_ROWS = 512
# Samples up to which the halves of a product of pairs are kept for a bias.
_KEPT_SAMPLES = 1024
# Bytes of an element of J and of what is added to it.
_SEVERAL_BYTES = 16
# Samples below which products of pairs are made in one piece, though half of it is not needed.
_ONE_TILE = 128


class GramAccumulator:
    """Sums J_block J_blockᵀ over blocks of J's columns into F, in float64, upper triangle only.

    Products are in float64, where they cost a fifth to a third of a training step on a CPU, except the large ones of
    float32 gradients. Those are in float32 over 1024 columns of J, or 256 features of a pairwise product, at a time,
    and each is added up in float64. Their round-off is relative to the norms of the two rows that meet, not to
    lambda_max, so small eigenvalues that come from small rows keep their digits: on MLPs and ResNets at the beginning,
    in the middle and at the end of training (condition numbers 26 to 6e4, B = 128) every singular value above 1e-4 of
    the largest was right to 2e-6 relative, and F to 5e-8 of lambda_max. Only large rows that nearly depend on each
    other show more of it: where each sample had a twin that differed by a hundredth, a condition number of 345.49 came
    out as 345.46. Samples that are more alike, such as one that occurs twice, have an eigenvalue that is smaller than
    that round-off: the first product in float32 tells, and it and all later ones are then made in float64. (Rows that
    are equal bit by bit have equal entries anyway where a product adds up in one order everywhere, which not every
    processor's does at the edges of a matrix.) Smaller products, little work, stay in float64: a
    layer that carries much of the trace in few columns has no other columns for its round-off to average against, and a
    small model may have fewer parameters than samples, where only float64 tells 0 from not 0. Subtracting a mean row
    first makes matters worse by three digits, for small rows then take their round-off from large ones.

    Args:
        batch_size: B.
        device: where the gradients live.
        max_memory: bytes for blocks of J and for what is needed to make them, F itself not counted.
    """

    def __init__(self, batch_size: int, device: torch.device, max_memory: int = MAX_MEMORY) -> None:
        self.batch_size = batch_size
        self.max_memory = max_memory
        self._upper = torch.zeros(batch_size, batch_size, dtype=torch.float64, device=device)
        cpu = device.type == "cpu"
        self._tile = _TILE if cpu else _ACCELERATOR_TILE
        self._cache = min(max_memory // 8, _CACHE if cpu else _ACCELERATOR_CACHE)
        self._columns = max(1, min(_BUFFER_COLUMNS, max_memory // 16 // (8 * batch_size)))
        self._buffer: Tensor | None = None
        self._filled = 0
        self._gathered: Tensor | None = None
        self._kept: list[tuple[Tensor, list[Tensor]]] = []
        # Whether two samples are so much alike that products must be in float64; None until each has a gradient.
        self._alike: bool | None = None

    def chunks(self, rows: int, width: int, itemsize: int) -> Iterator[slice]:
        """Return even parts of rows of ``width`` elements; of each a block of J takes a quarter of the memory."""
        return spans(0, rows, even(rows, self.max_memory // 4 // max(1, itemsize * self.batch_size * width)))

    def add(self, block: Tensor) -> None:
        """Add the Gram matrix of one block, (B, ...) per-sample gradients of some parameter elements."""
        columns = block.reshape(self.batch_size, -1)
        for factor, tiles in self._kept:
            if _same(columns, factor):
                lo = 0
                for products in tiles:
                    self._upper[lo : lo + len(products), lo:] += products
                    lo += len(products)
                return
        if columns.shape[1] < _NARROW_COLUMNS:
            self._gather(columns)
            return
        wide = columns.shape[1] >= _SINGLE_BLOCK_COLUMNS or columns.numel() >= _SINGLE_BLOCK_ELEMENTS
        single = wide and columns.dtype == torch.float32 and self.batch_size >= SINGLE_SAMPLES
        self._add_product(lambda single: self._multiply(columns, single=single), single)

    def _add_product(self, add: Callable[[bool], None], single: bool) -> None:
        """Add a product, in float32 where it may be and no samples are too much alike for that."""
        if single and self._alike is None:
            before = self._upper.clone()
            add(True)
            self._alike = self._samples_are_alike()
            if not self._alike:
                return
            self._upper = before
        add(single and not self._alike)

    def _samples_are_alike(self) -> bool | None:
        """Whether two samples are so close in F so far that float32 cannot say how close; None where it is early."""
        squares = self._upper.diagonal()
        found = torch.zeros((), dtype=torch.bool, device=squares.device)
        for lo, hi in self._tiles():
            both = squares[lo:hi, None] * squares[lo:]
            near = self._upper[lo:hi, lo:].square() > (1.0 - 2.0 * _ALIKE) * both
            found |= near.triu_(1).any()
        if bool(found):
            return True
        return False if bool((squares > 0.0).all()) else None

    def sums(self) -> Tensor:
        """Return 1ᵀF1 and the trace of F so far, (2,) float64, without waiting for the device."""
        sums = self._sums_of_upper()
        return sums if self._gathered is None else sums + self._gathered

    def _sums_of_upper(self) -> Tensor:
        if self.batch_size <= _SUMMED_ROWS:
            return torch.mv(_counts(self.batch_size, self._upper.device), self._upper.view(-1))
        sums = torch.zeros(2, dtype=torch.float64, device=self._upper.device)
        for lo in range(0, self.batch_size, _SUMMED_ROWS):
            hi = min(lo + _SUMMED_ROWS, self.batch_size)
            sums += torch.mv(_counts(hi - lo, self._upper.device), self._upper[lo:hi, lo:hi].reshape(-1))
            sums[0] += 2.0 * self._upper[lo:hi, hi:].sum()
        return sums

    def _gather(self, columns: Tensor) -> None:
        double = columns.to(torch.float64)
        total, flat = double.sum(0), double.reshape(-1)
        sums = torch.stack([torch.dot(total, total), torch.dot(flat, flat)])
        self._gathered = sums if self._gathered is None else self._gathered + sums
        if self._buffer is None:
            self._buffer = double.new_empty(self.batch_size, self._columns)
        done, width = 0, columns.shape[1]
        while done < width:
            taken = min(width - done, self._columns - self._filled)
            self._buffer[:, self._filled : self._filled + taken] = columns[:, done : done + taken]
            self._filled += taken
            done += taken
            if self._filled == self._columns:
                self._multiply_gathered()

    def _multiply_gathered(self) -> None:
        if self._filled and self._buffer is not None and self._gathered is not None:
            before = self._sums_of_upper()
            self._multiply(self._buffer[:, : self._filled], single=False)
            self._gathered = self._gathered - (self._sums_of_upper() - before)
        self._filled = 0

    def _multiply(self, columns: Tensor, *, single: bool) -> None:
        width = columns.shape[1]
        kernels = native(columns) if columns.stride(1) == 1 else None
        if kernels is not None:
            kernels.add_gram(columns, self._upper, single=single)
            return
        most = _SINGLE_COLUMNS if single else max(1, min(_DOUBLE_COLUMNS, self._cache // (8 * self.batch_size)))
        count = -(-width // most)
        size = width // count
        each = self.batch_size * (12 * self._tile if single else 8 * (self._tile + size))
        together = max(1, self._cache // each)
        for first in range(0, count, together):
            slices = columns[:, first * size : min(first + together, count) * size]
            self._multiply_slices(slices.view(self.batch_size, -1, size).transpose(0, 1), single=single)
        if count * size < width:
            self._multiply_slices(columns[:, count * size :].unsqueeze(0), single=False)

    def _multiply_slices(self, slices: Tensor, *, single: bool) -> None:
        # One product for each slice of columns: a CPU's threads share them.
        if not single:
            slices = slices.to(torch.float64, memory_format=torch.contiguous_format)
        for lo, hi in self._tiles():
            products = torch.bmm(slices[:, lo:hi], slices[:, lo:].mT)
            self._upper[lo:hi, lo:] += products.sum(0, dtype=torch.float64)

    def _tiles(self, bytes_per_row: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the rows (lo, hi) of F that one product fills; it fills the columns from lo on."""
        batch = self.batch_size
        room = max(1, self.max_memory // 8 // (bytes_per_row or 8 * batch))
        # All of nearly one size, and no small one at the end.
        size = -(-batch // max(1, batch // max(self._tile, batch // 8), -(-batch // room)))
        for lo in range(0, batch, size):
            yield lo, min(lo + size, batch)

    def add_products(self, left: Tensor, right: Tensor) -> None:
        """Add the Gram matrix of J = leftᵀ right without forming J: sum over T positions of (L Lᵀ) * (R Rᵀ).

        The factors are (B, T, R) and (B, T, W).
        """
        if left.shape[1] == 1:
            left, right = left[:, 0], right[:, 0]
            single = left.dtype == right.dtype == torch.float32 and self.batch_size >= _SINGLE_PAIRS
            single = single and left.shape[1] * right.shape[1] >= _SINGLE_PARAMETER
            self._add_product(lambda single: self._multiply_pairs(left, right, single=single), single)
            return
        batch, positions = left.shape[:2]
        left, right = left.reshape(batch * positions, -1), right.reshape(batch * positions, -1)
        left, right = self._double(left, right)
        for lo, hi in self._tiles(8 * positions * positions * batch):
            here, onward = slice(lo * positions, hi * positions), slice(lo * positions, None)
            products = self._inner(left, here, onward)
            products *= self._inner(right, here, onward)
            # In two steps: a sum over two separate dimensions at once is six times slower.
            products = products.view(hi - lo, positions, -1).sum(1).view(hi - lo, batch - lo, positions).sum(2)
            self._upper[lo:hi, lo:] += products

    def _multiply_pairs(self, left: Tensor, right: Tensor, *, single: bool) -> None:
        # One position: its J is left ⊗ right. The output gradient is J of the layer's bias too, which comes next: its
        # Gram matrix is one half of this product.
        self._kept = []
        lefts: list[Tensor] = []
        rights: list[Tensor] = []
        kernels = native(left, right) if self.batch_size <= _KEPT_SAMPLES else None
        if kernels is not None and left.stride(1) == right.stride(1) == 1:
            for factor, products in ((left, lefts), (right, rights)):
                products.append(torch.zeros_like(self._upper))
                kernels.add_gram(factor, products[0], single=single)
            self._upper.addcmul_(lefts[0], rights[0])
            self._kept = [(left, lefts), (right, rights)]
            return
        one, other = (left, right) if single else self._double(left, right)
        # One product for all rows where calls cost more than multiplications.
        tiles = [(0, self.batch_size)] if self.batch_size < _ONE_TILE else list(self._tiles())
        for lo, hi in tiles:
            here, onward = slice(lo, hi), slice(lo, None)
            lefts.append(self._inner(one, here, onward, single=single))
            rights.append(self._inner(other, here, onward, single=single))
            self._upper[here, onward].addcmul_(lefts[-1], rights[-1])
            if self.batch_size > _KEPT_SAMPLES:
                lefts.clear()
                rights.clear()
        if lefts:
            self._kept = [(left, lefts), (right, rights)]

    def _double(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return two factors in float64 if there is room; else each is converted part by part."""
        if (left.numel() + right.numel()) * 8 > self.max_memory // 4:
            return left, right
        return left.to(torch.float64), right.to(torch.float64)

    def _inner(self, factor: Tensor, here: slice, onward: slice, *, single: bool = False) -> Tensor:
        """Return the inner products of some rows with others, in float64, or added up from ``single`` precision."""
        if factor.dtype == torch.float64:
            return factor[here] @ factor[onward].T
        total = factor.new_zeros(here.stop - here.start, len(factor) - here.start, dtype=torch.float64)
        most, width = _SINGLE_FEATURES if single else self.max_memory // 8 // (8 * len(factor)), factor.shape[1]
        for part in spans(0, width, even(width, most)):
            one, other = factor[here, part], factor[onward, part]
            if not single:
                one, other = one.to(torch.float64), other.to(torch.float64)
            total += one @ other.T
        return total

    def result(self) -> Tensor:
        """Return F so far, (B, B) float64, exactly symmetric."""
        self._multiply_gathered()
        return self._upper.triu() + self._upper.triu(1).T


@lru_cache(maxsize=16)
def _counts(size: int, device: torch.device) -> Tensor:
    """Return how often each entry of a square's upper triangle counts in the sum over the square, and in its trace."""
    whole = torch.full((size, size), 2.0, dtype=torch.float64, device=device).triu_(1).fill_diagonal_(1.0)
    return torch.stack([whole, torch.eye(size, dtype=torch.float64, device=device)]).view(2, -1)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, read the same way."""
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def even(number: int, most: int) -> int:
    """Return the size of nearly equal parts of at most ``most``, or of 1."""
    return max(1, -(-number // max(1, -(-number // max(1, most)))))


def spans(start: int, stop: int, size: int) -> Iterator[slice]:
    """Yield the slices of a size from start to stop; the last may be smaller."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


class Jacobian:
    """Per-sample gradients of one use of a parameter of shape (rows, ...), with ``width`` elements in each row."""

    rows: int
    width: int
    terms = 0  # of which a library's own sum adds one to the next in single precision; 0 where it adds them in blocks

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width): the per-sample gradients of rows lo to hi, in the parameter's own order."""
        raise NotImplementedError

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix, by whatever exact route is cheapest, and fill a ``gradient`` as ``total`` does.

        Valid if no other use shares J.
        """
        if gradient is not None:
            self.total(gradient)
        self._multiply(gram)

    def _multiply(self, gram: GramAccumulator) -> None:
        add_blocks([self], gram)

    def total(self, gradient: Tensor) -> None:
        """Fill ``gradient``, contiguous and of the parameter's number of elements, with the sum of J over samples."""
        raise NotImplementedError


Taker = Callable[[str, list[Jacobian]], None]
"""Takes all uses of one parameter in a pass, by the parameter's name."""


def summed(uses: list[Jacobian], part: slice) -> Tensor:
    """Return (B, n * width): n rows of a parameter's J, which is the sum over its uses."""
    block = uses[0].block(part.start, part.stop)
    for use in uses[1:]:
        block = block + use.block(part.start, part.stop)
    return block


def summed_blocks(uses: list[Jacobian], columns: int) -> Iterator[Tensor]:
    """Yield (B, n) of J of a parameter's uses, summed: blocks of so many columns, or of one row where that has more."""
    for part in spans(0, uses[0].rows, max(1, columns // uses[0].width)):
        yield summed(uses, part)


def add_blocks(uses: list[Jacobian], gram: GramAccumulator) -> None:
    """Add the Gram matrix of a parameter whose J is the sum over several uses."""
    for part in gram.chunks(uses[0].rows, uses[0].width, _SEVERAL_BYTES):
        gram.add(summed(uses, part))
