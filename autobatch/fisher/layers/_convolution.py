"""Per-sample gradients of a convolution's weight."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from math import prod

import torch
from torch import Tensor

from autobatch.fisher.gram._gram import MAX_MEMORY, GramAccumulator, Jacobian, even, spans
from autobatch.fisher.gram._jacobians import products_are_cheaper
from autobatch.fisher.gram._native import native
from autobatch.fisher.layers._autotune import Route, Shape, routes
from autobatch.fisher.layers._unfold import Geometry, Unfolder, padded

# Bytes that are unfolded at a time: on a CPU what a core's cache holds, for J is made faster then than in one piece.
_CACHE = 2 << 20
_ACCELERATOR_CACHE = 16 << 20

# Fills (shifts, b, out, columns) with J of the b samples in a slice of rows.
_Make = Callable[[slice, Tensor], None]


@dataclass(eq=False)
class ConvolutionJacobian(Jacobian):
    """A convolution's weight (out, in / groups, *kernel), in one to three spatial dimensions.

    Of one sample r consecutive rows go together. There may be fewer positions than the input has room for.
    """

    x: Tensor  # (B * r, in, *spatial) unpadded input, in any memory format
    g: Tensor  # (B * r, out, *positions) output gradient
    _: KW_ONLY
    batch: int  # B
    geometry: Geometry
    groups: int
    turned: bool = False  # whether x is the output gradient and g the input, as of a transposed convolution

    def __post_init__(self) -> None:
        self._channels = self.x.shape[1] // self.groups
        self._per_group = self.g.shape[1] // self.groups
        self.rows = self.g.shape[1]
        self.width = self._channels * prod(self.geometry.kernel)
        self.terms = len(self.g) * prod(self.g.shape[2:])

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return (B, T, rows) and (B, T, width), whose outer products over the T positions are J; None with groups."""
        if self.groups > 1:
            return None
        columns, gradients = self._products()
        return gradients, columns.view(*columns.shape[:2], -1, self._channels).mT.flatten(2)

    def block(self, lo: int, hi: int) -> Tensor:
        if self.groups == 1:
            return self._form(slice(lo, hi), slice(None), 1).canonical().flatten(1)
        # Whole groups only, cut to size afterwards: a slice of rows may begin and end within a group.
        first, last = lo // self._per_group, -(-hi // self._per_group)
        rows = slice(first * self._per_group, last * self._per_group)
        whole = self._form(rows, slice(first * self._channels, last * self._channels), last - first).canonical()
        return whole[:, lo - rows.start : hi - rows.start].flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        if self._take_products(gram, gradient):
            return
        for jacobian in self._formed(gram.max_memory, gradient):
            for block in jacobian.values.flatten(2):
                gram.add(block)

    def total(self, gradient: Tensor) -> None:
        for _ in self._formed(MAX_MEMORY, gradient):
            pass

    def _formed(self, max_memory: int, gradient: Tensor | None) -> Iterator["Formed"]:
        """Yield J in pieces; fill ``gradient`` with its sum over samples."""
        target = None if gradient is None else gradient.view(self.rows, self._channels, *self.geometry.kernel)
        for rows, inputs, groups in self._pieces(max_memory * 3 // 8 // self.x.element_size()):
            jacobian = self._form(rows, inputs, groups, max_memory)
            yield jacobian
            if target is not None:
                first = inputs.start % self._channels
                part = target[rows, first : first + (inputs.stop - inputs.start) // groups]
                part.copy_(jacobian.total())

    def _take_products(self, gram: GramAccumulator, gradient: Tensor | None) -> bool:
        """Add the Gram matrix by products of pairs of samples if that is cheaper, and say whether it was done."""
        rows, positions = len(self.x), tuple(self.g.shape[2:])
        each = rows // self.batch * prod(positions)
        room = gram.max_memory // 4 // self.x.element_size()
        if self.groups > 1 or self.batch * each * (self.rows + self.width) > room:
            return False
        if not products_are_cheaper(self.batch, each, self.rows, self.width, summed=gradient is not None):
            return False
        columns, rows_of_g = self._products()
        gram.add_products(rows_of_g, columns)
        if gradient is not None:
            total = (rows_of_g.flatten(0, 1).T @ columns.flatten(0, 1)).view(self.rows, *self.geometry.kernel, -1)
            gradient.view(self.rows, -1, *self.geometry.kernel).copy_(total.movedim(-1, 1))
        return True

    def _products(self) -> tuple[Tensor, Tensor]:
        """Return the unfolded input, (B, T, width) with the channels last, and the output gradient, (B, T, rows)."""
        rows, positions = len(self.x), tuple(self.g.shape[2:])
        unfold = Unfolder(self.x, positions, self.geometry, 1, shifted=False, channels_last=True, rows=rows)
        columns = unfold(slice(0, rows)).view(self.batch, -1, self.width)
        return columns, self.g.flatten(2).mT.reshape(self.batch, -1, self.rows)

    def _form(self, rows: slice, inputs: slice, groups: int, max_memory: int = MAX_MEMORY) -> "Formed":
        return form(self.x[:, inputs], self.g[:, rows], self.batch, self.geometry, groups, max_memory=max_memory)

    def _pieces(self, elements: int) -> Iterator[tuple[slice, slice, int]]:
        """Yield output channels, input channels and number of groups of parts whose J has so many elements at most.

        So has the unfolded input of one sample.
        """
        kernel = prod(self.geometry.kernel)
        unfolded = len(self.x) // self.batch * kernel * prod(self.g.shape[2:])
        per_input = max(self.batch * kernel * self._per_group, unfolded)
        together = even(self.groups, elements // (per_input * self._channels))
        if together > 1:
            for part in spans(0, self.groups, together):
                rows, channels = (slice(part.start * n, part.stop * n) for n in (self._per_group, self._channels))
                yield rows, channels, part.stop - part.start
            return
        # Slices of input channels rather than of output channels: then nothing is unfolded twice.
        inputs = even(self._channels, elements // per_input)
        outputs = even(self._per_group, elements // (self.batch * kernel * inputs))
        for group in range(self.groups):
            for rows in spans(group * self._per_group, (group + 1) * self._per_group, outputs):
                for channels in spans(group * self._channels, (group + 1) * self._channels, inputs):
                    yield rows, channels, 1


@dataclass(frozen=True)
class Formed:
    """J in the order of elements that was cheapest to make."""

    values: Tensor  # (shifts, B, out, columns); natively (1, B, columns, out)
    kernel: tuple[int, ...]  # size of the kernel
    route: Route  # how it was made, which says what the shifts and the columns are

    def canonical(self) -> Tensor:
        """Return (B, out, in / groups, *kernel)."""
        return self._ordered(self.values)

    def total(self) -> Tensor:
        """Return the sum over samples, (out, in / groups, *kernel)."""
        return self._ordered(self.values.sum(1))

    def _ordered(self, values: Tensor) -> Tensor:
        # From (shifts, ..., columns). All dimensions are named, then put in the weight's order.
        lead = values.shape[1:-1]
        if self.route.kind == "native":
            return values[0].view(*lead[:-1], *self.kernel, -1, values.shape[-1]).movedim((-1, -2), (-4, -3))
        shifted = self.route.kind == "shifted"
        folded = self.kernel[1:] if shifted else self.kernel
        columns = (*folded, -1) if self.route.channels_last else (-1, *folded)
        values = values.view(values.shape[0], *lead, *columns)
        if self.route.channels_last:
            values = values.movedim(-1, 1 + len(lead))
        return values.movedim(0, 1 + len(lead)) if shifted else values[0]


def form(
    x: Tensor,
    g: Tensor,
    batch: int,
    geometry: Geometry,
    groups: int,
    *,
    max_memory: int = MAX_MEMORY,
    route: Route | None = None,
) -> Formed:
    """Return J of a convolution's weight.

    Args:
        x: (B * r, in, *spatial) unpadded input.
        g: (B * r, out, *positions) output gradient.
        batch: B.
        geometry: the convolution's.
        groups: number of groups.
        max_memory: bytes, of which the unfolded input takes an eighth at most unless one sample needs more.
        route: how to make it; None for the best that is known.
    """
    if route is None and (values := _native(x, g, batch, geometry, groups)) is not None:
        return Formed(values.view(1, batch, -1, g.shape[1]), geometry.kernel, Route("native"))
    shape = Shape.of(x, g, batch, geometry, groups)
    repeats = len(x) // batch
    if route is None:
        rows = shape.samples * repeats

        def run(candidate: Route) -> Formed:
            return form(x[:rows], g[:rows], shape.samples, geometry, groups, max_memory=max_memory, route=candidate)

        route = routes.of(shape, run)
    cache = _CACHE if x.device.type == "cpu" else _ACCELERATOR_CACHE
    size = even(batch, min(cache, max_memory // 8) // shape.sample_bytes(route))
    shifts = geometry.kernel[0] if route.kind == "shifted" else 1
    width = x.shape[1] // groups * prod(geometry.kernel)
    values = x.new_empty(shifts, batch, g.shape[1], width // shifts)
    if route.kind == "grouped":
        make = _grouped(x, g, geometry, groups)
    else:
        make = _multiplied(x, g, geometry, groups, route=route, rows=size * repeats)
    for some in spans(0, batch, size):
        make(slice(some.start * repeats, some.stop * repeats), values[:, some])
    return Formed(values, geometry.kernel, route)


def _native(x: Tensor, g: Tensor, batch: int, geometry: Geometry, groups: int) -> Tensor | None:
    """Return J (B, *kernel, in, out) made natively; None where it cannot be."""
    plain = len(geometry.kernel) == 2 and geometry.dilation == (1, 1) and groups == 1 and len(x) == batch
    kernels = native(x, g) if plain else None
    if kernels is None:
        return None
    (high, across), (down, right), ((above, _), (before, _)) = geometry.kernel, geometry.stride, geometry.padding
    return kernels.convolved(x, g, (high, across), (down, right), (above, before))


def _multiplied(x: Tensor, g: Tensor, geometry: Geometry, groups: int, *, route: Route, rows: int) -> _Make:
    """Return what fills J of some samples: unfold, then a matrix product for each row of input, group and shift."""
    unfold = Unfolder(
        x,
        tuple(g.shape[2:]),
        geometry,
        groups,
        shifted=route.kind == "shifted",
        channels_last=route.channels_last,
        rows=rows,
    )
    g = g.flatten(2)

    def make(rows: slice, out: Tensor) -> None:
        columns = unfold(rows)
        left = g[rows]
        if groups > 1:
            left = left.reshape(len(columns), -1, left.shape[2])
        for shift, target in enumerate(out):
            right = unfold.matrix(columns, shift)
            if rows.stop - rows.start == len(target):
                torch.bmm(left, right, out=target.view(len(left), left.shape[1], -1))
            else:
                torch.sum(torch.bmm(left, right).view(len(target), -1, *target.shape[1:]), 1, out=target)

    return make


def _grouped(x: Tensor, g: Tensor, geometry: Geometry, groups: int) -> _Make:
    """Return what fills J of some samples: one convolution, where each sample has groups of its own."""
    positions = tuple(g.shape[2:])
    # A convolution pads evenly, and takes all positions that the input has room for.
    plain = all(before == after for before, after in geometry.padding) and all(
        (size + 2 * before - apart * (extent - 1) - 1) // step + 1 == count
        for size, count, extent, step, (before, _), apart in zip(
            x.shape[2:], positions, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )
    padding = [before if plain else 0 for before, _ in geometry.padding]

    def make(rows: slice, out: Tensor) -> None:
        some = x[rows] if plain else padded(x[rows], positions, geometry)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            g[rows].reshape(1, -1, *positions),
            some.reshape(1, -1, *some.shape[2:]),
            x.new_empty(1).expand(len(some) * g.shape[1], x.shape[1] // groups, *geometry.kernel),
            None,
            geometry.stride,
            padding,
            geometry.dilation,
            False,
            [0] * len(positions),
            len(some) * groups,
            [False, True, False],
        )[1]
        if len(some) == out.shape[1]:
            out.copy_(gradient.view(out.shape))
        else:
            torch.sum(gradient.view(out.shape[1], -1, *out.shape[2:]), 1, out=out[0])

    return make
