"""Where the batch lies in a tensor: followed from the model's input through every torch function of the forward pass.

A per-sample gradient is only right if the rows of a layer's input are the samples' rows. Shapes cannot tell: a position
table of shape (T, C) looks like a batch when T equals B. So the batch dimension is *followed*: it starts as dimension 0
of the model's input, and every function moves it, keeps it or loses it.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._grouping import Grouping


class Claim:
    """A use of a parameter on a tensor that does not descend from the batch, such as an initial state of zeros (B, H).

    Its dimension 0 is taken for the batch until the result meets a tensor that does descend from it: there the two
    dimensions must line up under broadcasting. If they do, each sample has rows of its own. If not, the result is one
    value that all samples share, and what counts is where they meet it.

    Attributes:
        where: parameter and function, for error messages.
        confirmed: whether the dimension was found to be the batch; None while nobody knows.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.confirmed: bool | None = None

    def settle(self, confirmed: bool) -> None:
        """Note whether the dimension is the batch; raise MeasureError where another use has shown the opposite."""
        if self.confirmed not in {None, confirmed}:
            raise MeasureError(
                f"{self.where}: its result is used once as a value of each sample and once as one that all samples"
                " share: give each sample its own rows, such as positions of shape (B, T), or freeze the parameter"
            )
        self.confirmed = confirmed


def stand(claims: tuple[Claim, ...]) -> bool:
    """Whether no claim was found to be wrong."""
    return not claims or all(claim.confirmed is not False for claim in claims)


@dataclass(frozen=True)
class BatchLayout:
    """Dimension ``dim`` is (outer, B, inner) in row-major order: the batch alone, or merged with other dimensions."""

    dim: int  # the dimension, counted from the left
    outer: int = 1  # how many times the batch is repeated in it; 1 where it is batch-major
    claims: tuple[Claim, ...] = ()  # what this rests on, where the tensor does not descend from the batch itself
    grouping: Grouping | None = None  # the sample of each of its places, where that is neither

    @property
    def open_claims(self) -> tuple[Claim, ...]:
        """The claims that nothing has settled yet."""
        return tuple(claim for claim in self.claims if claim.confirmed is None) if self.claims else ()

    @property
    def refuted(self) -> bool:
        """Whether a claim that this rests on was wrong."""
        return not stand(self.claims)

    def samples_first(self, tensor: Tensor, batch: int) -> Tensor:
        """Return (B, the dimensions before ``dim``, outer, inner, the dimensions after it), a view where one exists.

        With a grouping, zeros fill up the samples that have fewer places than others.
        """
        if self.grouping is not None:
            return self.grouping.samples_first(tensor, self.dim)
        shape = tensor.shape
        inner = shape[self.dim] // (self.outer * batch)
        split = (*shape[: self.dim], self.outer, batch, inner, *shape[self.dim + 1 :])
        return tensor.reshape(split).movedim(self.dim + 1, 0)

    def only(self, tensor: Tensor, sample: int, batch: int) -> Tensor:
        """Return a tensor of this layout with zeros for all other samples."""
        if self.grouping is not None:
            return self.grouping.only(tensor, self.dim, sample)
        own = torch.zeros_like(tensor)
        self.samples_first(own, batch)[sample].copy_(self.samples_first(tensor, batch)[sample])
        return own

    def grouped(self, tensor: Tensor, batch: int) -> Grouping:
        """Return the sample of each place of dimension ``dim`` of a tensor."""
        if self.grouping is not None:
            return self.grouping
        inner = tensor.shape[self.dim] // (self.outer * batch)
        return Grouping.regular(batch, self.outer, inner, tensor.device)

    def labels(self, tensor: Tensor, batch: int) -> Tensor:
        """Return the sample of each element of a tensor."""
        index = self.grouped(tensor, batch).index
        return index.view(*[1] * self.dim, -1, *[1] * (tensor.ndim - self.dim - 1)).expand(tensor.shape)

    def agrees(self, labels: Tensor, tensor: Tensor, batch: int) -> bool:
        """Whether a tensor has these samples of elements, negative ones being anybody's."""
        return bool(((labels < 0) | (labels == self.labels(tensor, batch))).all())


def layout_along(dim: int, samples: Tensor, batch: int) -> BatchLayout:
    """Return the layout of a dimension with these samples, (n,) int64, in its places; without a grouping if regular."""
    repeats, rest = divmod(len(samples), batch)
    if repeats and not rest:
        for outer in (1, repeats):
            if torch.equal(samples, Grouping.regular(batch, outer, repeats // outer, samples.device).index):
                return BatchLayout(dim, outer)
    return BatchLayout(dim, grouping=Grouping(samples, batch))


@dataclass(frozen=True)
class LostBatch:
    """The tensor descends from the batch, but no one dimension has its samples in order."""

    claims: ClassVar[tuple[Claim, ...]] = ()
    open_claims: ClassVar[tuple[Claim, ...]] = ()
    refuted: ClassVar[bool] = False

    function: str  # name of the function after which the batch could not be followed
    # Whether it is one value of all samples together, such as a mean, so that no place in it is a sample's.
    whole: bool = False
    additive: bool = False  # whether it is a sum over samples of values of one sample each
    counts: bool = False  # whether it says how many there are of something, such as of the items of a mask
    joined: bool = False  # whether parameters were added to that sum, of which each sample has an equal part


Layout = BatchLayout | LostBatch
IN_FRONT = BatchLayout(0)
JOINED = LostBatch("a sum over samples and parameters", whole=True, additive=True, joined=True)


class Layouts:
    """The layouts of tensors, as long as these live, and of what was computed of them after that."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}
        self._results: dict[tuple[Any, int], tuple[torch.Size, Layout]] = {}

    def __setitem__(self, tensor: Tensor, layout: Layout) -> None:
        self._found[id(tensor)] = (weakref.ref(tensor), layout)
        if (node := tensor.grad_fn) is not None:
            self._results[node, tensor.output_nr] = (tensor.shape, layout)

    def get(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor, or None."""
        found = self._found.get(id(tensor))
        # Another tensor may have come to lie where one has died.
        return found[1] if found is not None and found[0]() is tensor else None

    def result(self, node: Any, number: int) -> tuple[torch.Size, Layout] | None:
        """Return shape and layout of a result of a node of the graph, or None."""
        return self._results.get((node, number))

    def sharing(self, changed: Tensor) -> Iterator[Tensor]:
        """Yield the other tensors of which a part is the memory of a tensor."""
        storage = changed.untyped_storage()._cdata
        for reference, _ in list(self._found.values()):
            tensor = reference()
            if tensor is None or tensor is changed or tensor.layout is not torch.strided:
                continue
            if tensor.untyped_storage()._cdata == storage:
                yield tensor
