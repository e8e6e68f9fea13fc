"""Where the batch lies in a tensor: followed from the model's input through every torch function of the forward pass.

A per-sample gradient is only right if the rows of a layer's input are the samples' rows. Shapes cannot tell: a position
table of shape (T, C) looks like a batch when T equals B. So the batch dimension is *followed*: it starts as dimension 0
of the model's input, and every function moves it, keeps it or loses it.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._grouping import PACKED, PICKING, SCATTERING, Grouping, picked, scattered, unpacked
from autobatch.fisher.following._keeping import (
    COUPLING,
    ELEMENT_BY_ELEMENT,
    FIRST_ONLY,
    FRESH,
    ITEM_LOSSES,
    KEEPING,
    LINEAR,
    ROW_LOSSES,
    VECTOR_LOSSES,
)
from autobatch.fisher.following._places import PLACES, WHOLE, Move, indexed, keeps_samples


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
        """Note whether the dimension is the batch.

        Args:
            confirmed: whether it is.

        Raises:
            MeasureError: where another use has shown the opposite.
        """
        if self.confirmed not in {None, confirmed}:
            raise MeasureError(
                f"{self.where}: its result is used once as a value of each sample and once as one that all samples"
                " share: give each sample its own rows, such as positions of shape (B, T), or freeze the parameter"
            )
        self.confirmed = confirmed


def stand(claims: Iterable[Claim]) -> bool:
    """Whether no claim was found to be wrong."""
    return all(claim.confirmed is not False for claim in claims)


@dataclass(frozen=True)
class BatchLayout:
    """Dimension ``dim`` is (outer, B, inner) in row-major order: the batch alone, or merged with other dimensions.

    Attributes:
        dim: the dimension, counted from the left.
        outer: how many times the batch is repeated in it; 1 where it is batch-major.
        grouping: the sample of each of its places, where that is neither.
        claims: what this rests on, where the tensor does not descend from the batch itself.
    """

    dim: int
    outer: int = 1
    claims: tuple[Claim, ...] = ()
    grouping: Grouping | None = None

    @property
    def open_claims(self) -> tuple[Claim, ...]:
        """The claims that nothing has settled yet."""
        return tuple(claim for claim in self.claims if claim.confirmed is None)

    @property
    def refuted(self) -> bool:
        """Whether a claim that this rests on was wrong."""
        return not stand(self.claims)

    def samples_first(self, tensor: Tensor, batch: int) -> Tensor:
        """Return a tensor of this layout with its samples in front.

        Args:
            tensor: of any shape whose dimension ``dim`` is (outer, B, inner).
            batch: B.

        Returns:
            (B, the dimensions before ``dim``, outer, inner, the dimensions after it); a view where one exists. With a
            grouping, zeros fill up the samples that have fewer places than others.
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


def layout_along(dim: int, samples: Tensor, batch: int) -> BatchLayout:
    """Return the layout of a dimension of which the sample at each place is known.

    Args:
        dim: the dimension.
        samples: (n,) int64.
        batch: B.

    Returns:
        The layout, without a grouping where the samples lie regularly.
    """
    repeats, rest = divmod(len(samples), batch)
    if not rest:
        for outer in (1, repeats):
            if torch.equal(samples, Grouping.regular(batch, outer, repeats // outer, samples.device).index):
                return BatchLayout(dim, outer)
    return BatchLayout(dim, grouping=Grouping(samples, batch))


@dataclass(frozen=True)
class LostBatch:
    """The tensor descends from the batch, but no one dimension has its samples in order.

    Attributes:
        function: name of the function after which the batch could not be followed.
        whole: whether it is one value of all samples together, such as a mean, so that no place in it is a sample's.
        additive: whether it is a sum over samples of values of one sample each.
        joined: whether parameters were added to that sum, of which each sample has an equal part.
    """

    function: str
    whole: bool = False
    additive: bool = False
    joined: bool = False


Layout = BatchLayout | LostBatch
IN_FRONT = BatchLayout(0)
JOINED = LostBatch("a sum over samples and parameters", whole=True, additive=True, joined=True)


class Layouts:
    """The layouts of tensors, as long as these live."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}

    def __setitem__(self, tensor: Tensor, layout: Layout) -> None:
        self._found[id(tensor)] = (weakref.ref(tensor), layout)

    def get(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor, or None."""
        found = self._found.get(id(tensor))
        # Another tensor may have come to lie where one has died.
        return found[1] if found is not None and found[0]() is tensor else None

    def items(self) -> Iterator[tuple[Tensor, Layout]]:
        """Yield the tensors that live, with their layouts."""
        for reference, layout in self._found.values():
            if (tensor := reference()) is not None:
                yield tensor, layout

    def sharing(self, changed: Tensor) -> Iterator[Tensor]:
        """Yield the other tensors of which a part is the memory of a tensor."""
        storage = changed.untyped_storage()._cdata
        for reference, _ in list(self._found.values()):
            tensor = reference()
            if tensor is not None and tensor is not changed and _storage_of(tensor) == storage:
                yield tensor


def _storage_of(tensor: Tensor) -> int | None:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None


@dataclass(frozen=True)
class _Carrier:
    """One argument that descends from the batch, at one place among the arguments."""

    slot: int
    inner: int
    tensor: Tensor
    layout: Layout


# Places of arguments that are given by name.
_SLOTS = {
    "input": 0, "self": 0, "query": 0, "condition": 0, "other": 1, "key": 1, "weight": 1, "vec": 1, "x2": 1, "index": 1,
    "target": 1, "value": 2, "bias": 2,
}  # fmt: skip
_SLOTS_OF = {
    "mm": {"mat2": 1},
    "bmm": {"mat2": 1},
    "addmm": {"mat1": 1, "mat2": 2},
    "baddbmm": {"batch1": 1, "batch2": 2},
    "gather": {"index": 2},
    "index_select": {"index": 2},
    "scatter": {"index": 2, "src": 3},
    "scatter_add": {"index": 2, "src": 3},
    "index_add": {"index": 2, "source": 3},
    "take_along_dim": {"indices": 1},
}
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input"}


class _Moves:
    """One call, seen from the arguments that carry the batch."""

    def __init__(
        self, function: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]
    ) -> None:
        self.name = name
        self._rule = keeps_samples if function in KEEPING else PLACES.get(name)
        kwargs = {_NUMPY_NAMES.get(key, key): value for key, value in kwargs.items()}
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        self.args, self.kwargs, self.tensors = args, kwargs, tensors

    def carriers(self, layout_of: Mapping[int, Layout]) -> list[_Carrier]:
        """Return every argument that has a layout, at each of its places."""
        named = _SLOTS | _SLOTS_OF.get(self.name, {})
        slots = [*enumerate(self.args), *((named.get(key, -1), value) for key, value in self.kwargs.items())]
        found = []
        for slot, value in slots:
            if self.name == "copy_" and slot == 0:  # what it held is gone
                continue
            for inner, item in _flat(value):
                if isinstance(item, Tensor) and (layout := layout_of.get(id(item))) is not None:
                    found.append(_Carrier(slot, inner, item, layout))
        return found

    def place(
        self, carrier: _Carrier, output: Tensor, index: int, batch: int, followed: Sequence[Tensor]
    ) -> BatchLayout | Literal["whole"] | None:
        """Return how an argument's samples lie in an output, ``WHOLE``, or None."""
        rule = self._rule
        layout = carrier.layout
        if rule is None or not isinstance(layout, BatchLayout):
            return None
        source = carrier.tensor
        place = rule(
            Move(
                self.name, self.args, self.kwargs, source, carrier.slot, carrier.inner, layout.dim, layout.outer,
                output, index, batch, followed, self.tensors,
            )
        )  # fmt: skip
        if isinstance(place, int):
            if not 0 <= place < output.ndim or output.shape[place] != source.shape[layout.dim]:
                return None
            return BatchLayout(place, layout.outer, (), layout.grouping)
        if isinstance(place, tuple):
            dim, outer = place
            fits = dim < output.ndim and output.shape[dim] % (outer * batch) == 0
            return BatchLayout(dim, outer) if fits and layout.grouping is None else None
        return "whole" if place == WHOLE else None

    def regrouped(
        self, found: Sequence[_Carrier], function: Any, output: Tensor, index: int, samples: Grouping
    ) -> BatchLayout | None:
        """Follow samples that lie by an index through a function that picks or scatters elements; None elsewhere."""
        batch = samples.batch
        layouts = {id(each.tensor): each.layout for each in found}

        def labels(tensor: Tensor) -> Tensor | None:
            layout = layouts.get(id(tensor))
            if not isinstance(layout, BatchLayout):
                return None
            return layout.grouped(tensor, batch).labels(tensor.shape, layout.dim)

        if self.name in PICKING and any(each.slot == 0 for each in found):
            place = picked(function, self.args, self.kwargs, labels, index)
            return None if place is None else layout_along(*place, batch)
        if self.name in PACKED and len(found) == 1 and found[0].slot == 0:
            data = found[0].layout
            if isinstance(data, BatchLayout) and data.dim == 0:
                place = unpacked(self.name, self.args, data.grouped(self.args[0], batch).index, index)
                return None if place is None else layout_along(*place, batch)
        if self.name in SCATTERING and len(self.args) > 3:
            base, dim, rows, source = self.args[:4]
            layout = layouts.get(id(source))
            dim %= max(1, base.ndim)
            if not isinstance(layout, BatchLayout) or layout.dim != dim:
                return None
            known = [samples.index, torch.arange(batch, device=samples.index.device)]
            own = layouts.get(id(base))
            if isinstance(own, BatchLayout):
                known = [own.grouped(base, batch).index] if own.dim == dim else []
            added = scattered(base, dim, rows, samples=layout.grouped(source, batch).index, known=known, batch=batch)
            if added is None or (isinstance(own, BatchLayout) and not (known and torch.equal(added, known[0]))):
                return None
            return layout_along(dim, added, batch)
        return None


def _flat(value: Any) -> Iterator[tuple[int, Any]]:
    """Yield (-1, value), or the items of a list with their positions."""
    if isinstance(value, (tuple, list)):
        for position, item in enumerate(value):
            if isinstance(item, (tuple, list)):
                yield from ((position, inner) for _, inner in _flat(item))
            else:
                yield position, item
    else:
        yield -1, value


def settle_claims(
    function: Any,
    name: str,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    carriers: Sequence[tuple[Tensor, Layout]],
    tensors: Sequence[Tensor],
    outputs: Sequence[Tensor],
    batch: int,
) -> None:
    """Confirm or refute open claims where their tensors meet what descends from the batch for certain.

    A claim is confirmed only where the function puts its rows at the very place of the samples; anything else refutes
    it, which is right for every function: the weight is then one that all samples share.

    Args:
        function: the function.
        name: its name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        carriers: the arguments whose layout is known, with it.
        tensors: all tensor arguments.
        outputs: what was returned.
        batch: B.
    """
    moves = _Moves(function, name, args, kwargs, tensors)
    found = moves.carriers({id(tensor): layout for tensor, layout in carriers})
    certain = [each for each in found if not _open(each.layout)]
    claiming = [each for each in found if _open(each.layout)]
    if not certain or not claiming:
        return
    followed = [each.tensor for each in found]

    def places(group: list[_Carrier]) -> set[Any]:
        return {moves.place(each, outputs[0], 0, batch, followed) for each in group} if outputs else {None}

    expected = places(certain)
    for each in claiming:
        agreed = None not in expected and WHOLE not in expected and places([each]) == expected
        assert isinstance(each.layout, BatchLayout)
        for claim in each.layout.open_claims:
            claim.settle(agreed)


def _open(layout: Layout) -> bool:
    return isinstance(layout, BatchLayout) and bool(layout.open_claims)


def propagate(
    function: Any,
    name: str,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    carriers: Sequence[tuple[Tensor, Layout]],
    tensors: Sequence[Tensor],
    output: Tensor,
    index: int,
    batch: int,
    samples: Grouping | None = None,
) -> tuple[Layout | None, bool]:
    """Follow the batch through one call, after ``settle_claims``.

    What is lost stays lost: a result is only known where every argument that descends from the batch puts its samples
    at the same place, or is one value of the whole batch.

    Args:
        function: the function.
        name: its name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        carriers: the arguments whose layout is known and stands, with it (at least one).
        tensors: all tensor arguments.
        output: a tensor that it returned.
        index: which of the returned tensors that is.
        batch: B.
        samples: which sample each row of the model's input belongs to, where that was said by an index.

    Raises:
        MeasureError: where what parameters were added to is no loss.

    Returns:
        The output's layout, None where it takes only its dtype, device, shape or the like from a tensor with the batch;
        and whether samples may act on each other in it.
    """
    if name in FRESH:
        return None, False
    moves = _Moves(function, name, args, kwargs, tensors)
    found = moves.carriers({id(tensor): layout for tensor, layout in carriers})
    if name in FIRST_ONLY:
        found = [each for each in found if each.slot == 0]
    if name == "broadcast_tensors":  # each argument gives the result in its own place
        found = [each for each in found if index == (each.slot if each.inner < 0 else each.inner)]
    if samples is not None and (name in PICKING or name in PACKED):
        # Where an index comes from does not matter: its values are known.
        found = [each for each in found if each.slot == 0] or found
    if samples is not None and name in SCATTERING:
        found = [each for each in found if each.slot != 2] or found
    if not found:
        return None, False
    lost = [each.layout for each in found if isinstance(each.layout, LostBatch)]
    if scattered := [layout for layout in lost if not layout.whole]:
        return LostBatch(scattered[0].function), output.requires_grad
    aligned = [each for each in found if isinstance(each.layout, BatchLayout)]
    if not aligned:
        kept, joined = _stays_additive(name, found), any(layout.joined for layout in lost)
        return LostBatch(lost[0].function, True, kept, joined), output.requires_grad and not kept
    if any(layout.joined for layout in lost):
        raise MeasureError(
            f"a parameter was added to a sum over samples, which meets single samples again in {name}(): it is no term"
            " of the loss, and has no rows"
        )
    place = _agreed(moves, aligned, function, output, index=index, batch=batch, samples=samples)
    if isinstance(place, BatchLayout):
        return _resting_on(aligned, place), (bool(lost) or name in COUPLING) and output.is_floating_point()
    additive = place == WHOLE and not lost and (name in _SUMS or name in _LOSSES)
    return LostBatch(name, whole=place == WHOLE, additive=additive), output.requires_grad and not additive


def _agreed(
    moves: _Moves,
    aligned: Sequence[_Carrier],
    function: Any,
    output: Tensor,
    *,
    index: int,
    batch: int,
    samples: Grouping | None,
) -> BatchLayout | Literal["whole"] | None:
    """Return the place at which all arguments' samples lie in an output, if there is one."""
    followed = [each.tensor for each in aligned]
    places: set[Any] = {moves.place(each, output, index, batch, followed) for each in aligned}
    if samples is not None and len(places) > 1:
        places = {_with_grouping(each, output, batch) for each in places}
    (place, *others) = places
    if samples is not None and (place is None or others):
        return moves.regrouped(aligned, function, output, index, samples)
    return None if others else place


def _resting_on(aligned: Sequence[_Carrier], place: BatchLayout) -> BatchLayout:
    """Return a layout with the claims that it rests on."""
    claims = {claim for each in aligned if isinstance(each.layout, BatchLayout) for claim in each.layout.open_claims}
    if claims and all(_open(each.layout) for each in aligned):
        return replace(place, claims=tuple(claims))
    # One object for the usual layout, so that layouts are quickly seen to be the same.
    return IN_FRONT if place == IN_FRONT else place


def _with_grouping(place: Any, output: Tensor, batch: int) -> Any:
    if not isinstance(place, BatchLayout):
        return place
    return BatchLayout(place.dim, 1, (), place.grouped(output, batch))


_SUMS = frozenset({"sum", "mean", "nansum"})
_LOSSES = ITEM_LOSSES | ROW_LOSSES | VECTOR_LOSSES
_QUOTIENTS = frozenset({"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"})
_PRODUCTS = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}) | _QUOTIENTS


def _stays_additive(name: str, found: Sequence[_Carrier]) -> bool:
    """Whether a function of sums over samples is one again."""
    changing = [each for each in found if each.tensor.requires_grad]
    additive = all(isinstance(each.layout, LostBatch) and each.layout.additive for each in changing)
    if name not in LINEAR or not additive:
        return False
    return name not in _PRODUCTS or (len(changing) < 2 and not (name in _QUOTIENTS and changing and changing[0].slot))


def written_into(base: Tensor, index: Any, value: Tensor, layout: BatchLayout, batch: int) -> BatchLayout | None:
    """Return the layout that a fresh tensor takes when a part of it is overwritten: ``base[index] = value``.

    Args:
        base: the tensor.
        index: where it is overwritten.
        value: what is written.
        layout: the layout of the value.
        batch: B.

    Returns:
        The layout of ``base``, or None where its samples cannot be told.
    """
    target = base.detach()[index]
    if target.ndim < value.ndim:
        return None
    expected = layout.dim + target.ndim - value.ndim
    for dim, size in enumerate(base.shape):
        if (
            size == value.shape[layout.dim]
            and _indexed(base, index, replace(layout, dim=dim), target, batch) == expected
        ):
            return replace(layout, dim=dim)
    return None


def overwritten_in(
    base: Tensor, index: Any, value: Tensor, *, layout: BatchLayout, value_layout: Layout | None, batch: int
) -> bool:
    """Whether samples stay in place where a part of a tensor that carries the batch is overwritten.

    Args:
        base: the tensor.
        index: where it is overwritten.
        value: what is written.
        layout: the layout of the tensor.
        value_layout: that of the value, if it has one.
        batch: B.

    Returns:
        True where the value is the same for all samples or lies as they do.
    """
    if value_layout is None or (isinstance(value_layout, LostBatch) and value_layout.whole):
        return True
    target = base.detach()[index]
    place = _indexed(base, index, layout, target, batch)
    return (
        isinstance(value_layout, BatchLayout)
        and place == value_layout.dim + target.ndim - value.ndim
        and (value_layout.outer, value_layout.grouping) == (layout.outer, layout.grouping)
    )


def _indexed(base: Tensor, index: Any, layout: BatchLayout, target: Tensor, batch: int) -> int | None:
    return indexed(Move("__getitem__", (base, index), {}, base, 0, -1, layout.dim, layout.outer, target, 0, batch))


def layer_keeps(name: str, x: Tensor, output: Tensor) -> bool:
    """Whether a function is one of the most frequent layers, which keep a batch in front in front: a short cut.

    Args:
        name: its name.
        x: its input, with the batch in front.
        output: its output.

    Returns:
        False also where nothing is known.
    """
    dimensions = _LAYERS.get(name, 0)
    whole = x.ndim == dimensions or (dimensions == 2 and x.ndim > 1)
    return whole and output.ndim == x.ndim and output.shape[0] == x.shape[0]


# Dimensions of a layer's input: exactly so many, or at least two.
_LAYERS = {"conv1d": 3, "conv2d": 4, "conv3d": 5, "batch_norm": 2, "linear": 2}
# Functions that cannot move samples where all arguments have the same layout and as many dimensions as the output.
STAYING = ELEMENT_BY_ELEMENT - FIRST_ONLY
