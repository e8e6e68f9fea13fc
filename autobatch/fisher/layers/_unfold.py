"""The input of a convolution laid out for matrix products, in one to three spatial dimensions."""

from dataclasses import KW_ONLY, dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """What a convolution does in space: one entry for each spatial dimension."""

    kernel: tuple[int, ...]  # size of the kernel
    stride: tuple[int, ...]  # its step
    padding: tuple[tuple[int, int], ...]  # (before, after)
    dilation: tuple[int, ...]  # distance between the kernel's elements

    def reach(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """Return the extent of padded input that the kernel touches at so many positions."""
        return tuple(
            (count - 1) * step + (size - 1) * apart + 1
            for count, step, size, apart in zip(positions, self.stride, self.kernel, self.dilation, strict=True)
        )


@dataclass(eq=False)
class Unfolder:
    """Unfolds some rows of the input at a time, into a buffer that is used again.

    With ``shifted`` only the dimensions after the first spatial one are unfolded: the copy is smaller by the kernel's
    size in the first, and each element of the kernel there has its matrix as a view, shifted by whole rows. Where the
    stride skips rows, rows are sorted by their remainder, so that what one shift needs still lies together.
    """

    x: Tensor  # (n, in, *spatial) unpadded input
    positions: tuple[int, ...]  # where the kernel is put, in each spatial dimension
    geometry: Geometry  # the convolution's
    groups: int  # number of groups
    _: KW_ONLY
    shifted: bool  # whether to leave the first spatial dimension folded
    # Whether the columns of a matrix end with the channels, which is fast where the input's memory does; else the
    # matrices are made transposed.
    channels_last: bool
    rows: int  # largest number of rows that are asked for at a time

    def __post_init__(self) -> None:
        geometry, extent = self.geometry, list(self.geometry.reach(self.positions))
        if self.shifted:
            self._height = self.positions[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] // geometry.stride[0]
            extent[0] = self._height * geometry.stride[0]
        inside = all(size >= needed for size, needed in zip(self.x.shape[2:], extent, strict=True))
        self._padded = None
        if not inside or any(before for before, _ in geometry.padding):
            self._padded = _zeros(self.x, self.rows, extent, self.channels_last)
        self._buffer: Tensor | None = None

    def __call__(self, rows: slice) -> Tensor:
        """Return (n * groups, P, columns), or (n * groups, columns, P) unless channels come last."""
        x = self.x[rows]
        if self._padded is not None:
            x = _fill(self._padded[: len(x)], x, self.geometry.padding)
        size, stride = zip(*self._dimensions(x), strict=True)
        view = x.as_strided(size, stride)
        if not view.is_contiguous():
            if self._buffer is None:
                self._buffer = x.new_empty(self.rows, *size[1:])
            view = self._buffer[: len(x)].copy_(view)
        end = len(x) * self.groups
        return view.view(end, prod(self._places), -1) if self.channels_last else view.view(end, -1, prod(self._places))

    def matrix(self, columns: Tensor, shift: int) -> Tensor:
        """Return (n * groups, T, columns / shifts): what belongs to one element of the kernel's first dimension."""
        positions = slice(None)
        if self.shifted:
            offset = shift * self.geometry.dilation[0]
            step = self.geometry.stride[0]
            start = (offset % step * self._height + offset // step) * prod(self.positions[1:])
            positions = slice(start, start + prod(self.positions))
        return columns[:, positions] if self.channels_last else columns[:, :, positions].mT

    @property
    def _places(self) -> tuple[int, ...]:
        if not self.shifted:
            return self.positions
        return (self.geometry.stride[0], self._height, *self.positions[1:])

    def _dimensions(self, x: Tensor) -> list[tuple[int, int]]:
        """Return (size, stride) of each dimension of the unfolded input."""
        geometry = self.geometry
        steps = x.stride()[2:]
        channels = x.shape[1] // self.groups
        places = [(n, s * step) for n, s, step in zip(self.positions, geometry.stride, steps, strict=True)]
        kernel = [(n, d * step) for n, d, step in zip(geometry.kernel, geometry.dilation, steps, strict=True)]
        if self.shifted:
            places[:1] = [(geometry.stride[0], steps[0]), (self._height, geometry.stride[0] * steps[0])]
            del kernel[0]
        samples = [(len(x), x.stride(0)), (self.groups, channels * x.stride(1))]
        inner = [(channels, x.stride(1))]
        return samples + (places + kernel + inner if self.channels_last else inner + kernel + places)


def padded(x: Tensor, positions: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Return a padded copy of the input, no larger than the kernel reaches."""
    return _fill(_zeros(x, len(x), list(geometry.reach(positions)), channels_last=False), x, geometry.padding)


def _zeros(x: Tensor, rows: int, extent: list[int], channels_last: bool) -> Tensor:
    """Return zeros of shape (rows, channels, *extent), in one memory format or the other."""
    if channels_last:
        return x.new_zeros(rows, *extent, x.shape[1]).movedim(-1, 1)
    return x.new_zeros(rows, x.shape[1], *extent)


def _fill(whole: Tensor, x: Tensor, padding: tuple[tuple[int, int], ...]) -> Tensor:
    """Copy the input to its place within zeros."""
    inner = whole
    for dim, (before, _) in enumerate(padding, start=2):
        size = max(0, min(x.shape[dim], whole.shape[dim] - before))
        x, inner = x.narrow(dim, 0, size), inner.narrow(dim, min(before, whole.shape[dim]), size)
    inner.copy_(x)
    return whole
