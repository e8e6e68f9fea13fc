"""Through one call: where the samples of its arguments lie in what it returns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._grouping import (
    PACKED,
    PICKING,
    SCATTERING,
    Grouping,
    picked,
    scattered,
    unpacked,
)
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
from autobatch.fisher.following._layout import IN_FRONT, BatchLayout, Layout, LostBatch, layout_along
from autobatch.fisher.following._move import WHOLE, Move, TorchCall, keeps_samples
from autobatch.fisher.following._places import PLACES


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


class Through:
    """One call, seen from the arguments that carry the batch.

    Args:
        call: the call.
        layouts: the arguments whose layout is known, with it.
    """

    def __init__(self, call: TorchCall, layouts: Sequence[tuple[Tensor, Layout]]) -> None:
        self._call = call
        self._rule = keeps_samples if call.function in KEEPING else PLACES.get(call.name)
        args, kwargs = call.args, {_NUMPY_NAMES.get(key, key): value for key, value in call.kwargs.items()}
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        self._args, self._kwargs = args, kwargs
        self._carriers = self._all_carriers({id(tensor): layout for tensor, layout in layouts})

    def _all_carriers(self, layout_of: Mapping[int, Layout]) -> list[_Carrier]:
        """Return every argument that has a layout, at each of its places."""
        named = _SLOTS | _SLOTS_OF.get(self._call.name, {})
        slots = [*enumerate(self._args), *((named.get(key, -1), value) for key, value in self._kwargs.items())]
        found = []
        for slot, value in slots:
            if self._call.name == "copy_" and slot == 0:  # what it held is gone
                continue
            for inner, item in _flat(value):
                if isinstance(item, Tensor) and (layout := layout_of.get(id(item))) is not None:
                    found.append(_Carrier(slot, inner, item, layout))
        return found

    def settle(self) -> None:
        """Confirm or refute open claims where their tensors meet what descends from the batch for certain.

        A claim is confirmed only where the function puts its rows at the very place of the samples; anything else
        refutes it, which is right for every function: the weight is then one that all samples share.
        """
        certain = [each for each in self._carriers if not _open(each.layout)]
        claiming = [each for each in self._carriers if _open(each.layout)]
        if not certain or not claiming:
            return
        outputs, followed = self._call.outputs, [each.tensor for each in self._carriers]

        def places(group: list[_Carrier]) -> set[Any]:
            return {self._place(each, outputs[0], 0, followed) for each in group} if outputs else {None}

        expected = places(certain)
        for each in claiming:
            agreed = None not in expected and WHOLE not in expected and places([each]) == expected
            assert isinstance(each.layout, BatchLayout)
            for claim in each.layout.open_claims:
                claim.settle(agreed)

    def into(self, index: int, samples: Grouping) -> tuple[Layout | None, bool]:
        """Follow the batch into one of the tensors that were returned, after ``settle``.

        What is lost stays lost: a result is only known where every argument that descends from the batch puts its
        samples at the same place, or is one value of the whole batch.

        Args:
            index: which of the returned tensors.
            samples: which sample each row of the model's input belongs to.

        Returns:
            Its layout, None where it takes only its dtype, device, shape or the like from a tensor with the batch; and
            whether samples may act on each other in it.

        Raises:
            MeasureError: where what parameters were added to is no loss.
        """
        name, output = self._call.name, self._call.outputs[index]
        if name in FRESH:
            return None, False
        found = self._carriers
        if name in FIRST_ONLY:
            found = [each for each in found if each.slot == 0]
        if name == "broadcast_tensors":  # each argument gives the result in its own place
            found = [each for each in found if index == (each.slot if each.inner < 0 else each.inner)]
        if name in PICKING or name in PACKED:
            # Where an index comes from does not matter: its values are known.
            found = [each for each in found if each.slot == 0] or found
        if name in SCATTERING:
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
                f"a parameter was added to a sum over samples, which meets single samples again in {name}(): it is no"
                " term of the loss, and has no rows"
            )
        place = self._agreed(aligned, output, index, samples)
        if isinstance(place, BatchLayout):
            return _resting_on(aligned, place), (bool(lost) or name in COUPLING) and output.is_floating_point()
        additive = place == WHOLE and not lost and (name in _SUMS or name in _LOSSES)
        return LostBatch(name, whole=place == WHOLE, additive=additive), output.requires_grad and not additive

    def _agreed(
        self, aligned: Sequence[_Carrier], output: Tensor, index: int, samples: Grouping
    ) -> BatchLayout | Literal["whole"] | None:
        """Return the place at which all arguments' samples lie in an output, if there is one."""
        followed = [each.tensor for each in aligned]
        places: set[Any] = {self._place(each, output, index, followed) for each in aligned}
        if len(places) > 1:
            places = {_with_grouping(each, output, self._call.batch) for each in places}
        (place, *others) = places
        if place is None or others or self._call.name == "bincount":
            claimed = any(_open(each.layout) for each in aligned)  # one that a rule does not confirm is refuted
            regrouped = None if claimed else self._regrouped(aligned, index, samples)
            place = regrouped or (None if others else place)
        return _of_one_sample(aligned, place, output)

    def _place(
        self, carrier: _Carrier, output: Tensor, index: int, followed: Sequence[Tensor]
    ) -> BatchLayout | Literal["whole"] | None:
        """Return how an argument's samples lie in an output, ``WHOLE``, or None."""
        layout, source, batch = carrier.layout, carrier.tensor, self._call.batch
        if self._rule is None or not isinstance(layout, BatchLayout):
            return None
        place = self._rule(
            Move(
                self._call.name, self._args, self._kwargs, source, carrier.slot, carrier.inner, layout.dim,
                layout.outer, output, index, batch, followed, self._call.tensors,
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

    def _regrouped(self, found: Sequence[_Carrier], index: int, samples: Grouping) -> BatchLayout | None:
        """Follow samples that lie by an index through a function that picks or scatters elements; None elsewhere."""
        name, layouts = self._call.name, {id(each.tensor): each.layout for each in found}

        def grouping(tensor: Tensor, dim: int) -> Tensor | None:
            layout = layouts.get(id(tensor))
            here = isinstance(layout, BatchLayout) and layout.dim == dim
            return layout.grouped(tensor, samples.batch).index if here else None  # type: ignore[union-attr]

        def labels(tensor: Tensor) -> Tensor | None:
            layout = layouts.get(id(tensor))
            if not isinstance(layout, BatchLayout):
                return None
            return layout.grouped(tensor, samples.batch).labels(tensor.shape, layout.dim)

        place = None
        if name in PICKING and any(each.slot == 0 for each in found):
            place = picked(self._call.function, self._args, self._kwargs, labels, index)
        elif name in _CHOOSING and len(found) == 1:
            place = self._where_true(labels)
        elif name in PACKED and len(found) == 1 and (rows := grouping(self._args[0], 0)) is not None:
            place = unpacked(name, self._args, rows, index)
        elif name in SCATTERING and len(self._args) > 3:
            place = self._scattered(grouping, layouts, samples)
        elif name == "bincount":
            place = self._counted(grouping, samples)
        elif name == "embedding_bag" and len(self._args) > 2 and not index:
            place = self._bagged(grouping, samples)
        return None if place is None else layout_along(*place, samples.batch)

    def _where_true(self, labels: Callable[[Tensor], Tensor | None]) -> tuple[int, Tensor] | None:
        """Follow samples through the places where a mask is true, or what lies there in a tensor of nobody's."""
        mask, alone = self._args[-1], len(self._args) == 1 + (self._call.name == "__getitem__")
        if not alone or not isinstance(mask, Tensor) or (found := labels(mask)) is None:
            return None
        return (0, found[mask != 0]) if mask.dtype is torch.bool or self._call.name == "nonzero" else None

    def _scattered(
        self, grouping: Callable[[Tensor, int], Tensor | None], layouts: Mapping[int, Layout], samples: Grouping
    ) -> tuple[int, Tensor] | None:
        """Follow samples through ``base.index_add(dim, rows, source)`` and the like."""
        base, dim, rows, source = self._args[:4]
        dim %= max(1, base.ndim)
        own, of_source = layouts.get(id(base)), grouping(source, dim)
        if of_source is None:
            return None
        known = samples.likely(base.shape[dim])
        if own is not None:
            before = grouping(base, dim)
            known = [] if before is None else [before]
        found = scattered(base, dim, rows, samples=of_source, known=known, batch=samples.batch)
        stays = own is None or (known and found is not None and torch.equal(found, known[0]))
        return (dim, found) if found is not None and stays else None

    def _counted(
        self, grouping: Callable[[Tensor, int], Tensor | None], samples: Grouping
    ) -> tuple[int, Tensor] | None:
        """Follow samples through ``bincount(index)`` of rows that count for a sample, such as the nodes of graphs."""
        index, counts = self._args[0], self._call.outputs[0]
        of_rows = grouping(index, 0)
        if of_rows is None or len(index) <= samples.batch:
            return None
        known = samples.likely(len(counts))
        found = scattered(counts, 0, index, samples=of_rows, known=known, batch=samples.batch)
        return None if found is None else (0, found)

    def _bagged(self, grouping: Callable[[Tensor, int], Tensor | None], samples: Grouping) -> tuple[int, Tensor] | None:
        """Follow samples through ``embedding_bag(table, indices, offsets)``, whose bags are of one sample each."""
        indices, offsets, bags = *self._args[1:3], self._call.outputs[0]
        of_words = grouping(indices, 0) if indices.ndim == 1 else None
        if of_words is None:
            return None
        rows = torch.arange(len(indices), device=offsets.device)
        rows = torch.searchsorted(offsets[: len(bags)].contiguous(), rows, right=True) - 1
        known = samples.likely(len(bags))
        found = scattered(bags, 0, rows, samples=of_words, known=known, batch=samples.batch)
        return None if found is None else (0, found)


def _of_one_sample(
    aligned: Sequence[_Carrier], place: BatchLayout | Literal["whole"] | None, output: Tensor
) -> BatchLayout | Literal["whole"] | None:
    """Return how samples lie in an output; what was made of one sample's rows alone is that sample's, however made."""
    groupings = [each.layout.grouping for each in aligned if isinstance(each.layout, BatchLayout)]
    first = groupings[0]
    if first is None or (isinstance(place, BatchLayout) and place.grouping is not first) or place == WHOLE:
        return place
    if first.sole is None or any(other is None or other.sole != first.sole for other in groupings):
        return place
    if not output.ndim:
        return "whole"
    return BatchLayout(0, grouping=Grouping(first.index[:1].expand(len(output)), first.batch))


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


def _open(layout: Layout) -> bool:
    return isinstance(layout, BatchLayout) and bool(layout.open_claims)


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


_CHOOSING = frozenset({"__getitem__", "where", "nonzero"})
_SUMS = frozenset({"sum", "mean", "nansum"})
_LOSSES = ITEM_LOSSES | ROW_LOSSES | VECTOR_LOSSES | {"ctc_loss"}
_QUOTIENTS = frozenset({"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"})
_PRODUCTS = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}) | _QUOTIENTS


def _stays_additive(name: str, found: Sequence[_Carrier]) -> bool:
    """Whether a function of sums over samples is one again."""
    changing = [each for each in found if each.tensor.requires_grad]
    additive = all(isinstance(each.layout, LostBatch) and each.layout.additive for each in changing)
    if name not in LINEAR or not additive:
        return False
    return name not in _PRODUCTS or (len(changing) < 2 and not (name in _QUOTIENTS and changing and changing[0].slot))


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
