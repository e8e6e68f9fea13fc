"""Through one call: where the samples of its arguments lie in what it returns."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._by_index import Rows, ordered, sorted_along
from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._layout import IN_FRONT, BatchLayout, Layout, LostBatch, layout_along
from autobatch.fisher.following._move import WHOLE, Additive, Move, TorchCall

Where = BatchLayout | Literal["whole"] | None
"""How samples lie in an output; None where nobody can tell."""

# Places of arguments that are given by name, of most functions.
_SLOTS = {
    "input": 0, "self": 0, "query": 0, "condition": 0, "other": 1, "key": 1, "weight": 1, "vec": 1, "x2": 1, "index": 1,
    "target": 1, "value": 2, "bias": 2,
}  # fmt: skip
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input"}


class Through:
    """One call, seen from the arguments that carry the batch.

    Args:
        call: the call.
        layouts: the arguments whose layout is known, with it.
    """

    def __init__(self, call: TorchCall, layouts: Sequence[tuple[Tensor, Layout]]) -> None:
        self._call = call
        args, kwargs = call.args, {_NUMPY_NAMES.get(key, key): value for key, value in call.kwargs.items()}
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        layout_of, known = {id(tensor): layout for tensor, layout in layouts}, call.known
        named = [(known.slots.get(key, _SLOTS.get(key, -1)), value) for key, value in kwargs.items()]
        self._moves = [
            Move(call, args, kwargs, item, layout, slot, inner)
            for slot, value in [*enumerate(args), *named]
            for inner, item in _flat(value)
            if isinstance(item, Tensor) and (layout := layout_of.get(id(item))) is not None
            if slot or known.heeds != "source"
        ]

    def settle(self) -> None:
        """Confirm or refute open claims where their tensors meet what descends from the batch for certain.

        A claim is confirmed only where the function puts its rows at the very place of the samples; anything else
        refutes it, which is right for every function: the weight is then one that all samples share.
        """
        certain = [each for each in self._moves if not each.layout.open_claims]
        if not certain or len(certain) == len(self._moves):
            return
        places = self._places(self._moves, 0) if self._call.outputs else [None] * len(self._moves)
        expected = {place for each, place in zip(self._moves, places, strict=True) if not each.layout.open_claims}
        sure = None not in expected and WHOLE not in expected
        for each, place in zip(self._moves, places, strict=True):
            for claim in each.layout.open_claims:
                claim.settle(sure and {place} == expected)

    def into(self, index: int, samples: Grouping) -> tuple[Layout | None, bool]:
        """Follow the batch into one of the tensors that were returned, after ``settle``.

        What is lost stays lost: a result is only known where every argument that descends from the batch puts its
        samples at the same place, or is one value of the whole batch.

        Returns:
            Its layout, None where it takes only its dtype, device, shape or the like from a tensor with the batch; and
            whether samples may act on each other in it.

        Raises:
            MeasureError: where what parameters were added to is no loss.
        """
        name, known, output = self._call.name, self._call.known, self._call.outputs[index]
        found = self._heeded(index)
        if not found:
            return None, False
        lost = [each.layout for each in found if isinstance(each.layout, LostBatch)]
        if scattered := [layout for layout in lost if not layout.whole]:
            return LostBatch(scattered[0].function), output.requires_grad
        aligned = [each for each in found if isinstance(each.layout, BatchLayout)]
        if not aligned:
            kept = _stays_additive(known.additive, found, requires_grad=output.requires_grad)
            joined = any(layout.joined for layout in lost)
            return LostBatch(lost[0].function, True, kept, joined), output.requires_grad and not kept
        if any(layout.joined for layout in lost):
            raise MeasureError(
                f"a parameter was added to a sum over samples, which meets single samples again in {name}(): it is no"
                " term of the loss, and has no rows"
            )
        place = self._agreed(aligned, index, samples)
        if isinstance(place, BatchLayout):
            compared = output.dtype is torch.bool and bool(lost)  # which rows are used depends on the others
            coupled = compared or ((bool(lost) or known.couples) and output.is_floating_point())
            return _resting_on(aligned, place), coupled or (known.by_index is ordered and _ranked(aligned))
        additive = place == WHOLE and not lost and self._adds_up(aligned)
        return LostBatch(name, whole=place == WHOLE, additive=additive), output.requires_grad and not additive

    def _heeded(self, index: int) -> list[Move]:
        """Return the arguments whose samples matter for an output."""
        found, heeds = self._moves, self._call.known.heeds
        if heeds in {"none", "floats"}:
            return [each for each in found if heeds == "floats" and each.source.is_floating_point()]
        if heeds == "first":
            return [each for each in found if each.slot == 0]
        if heeds == "each":
            return [each for each in found if index == (each.slot if each.inner < 0 else each.inner)]
        if heeds == "elements":
            # Where an index comes from does not matter: its values are known.
            return [each for each in found if each.slot == 0] or found
        if heeds == "rows":
            return [each for each in found if each.slot != 2] or found
        return found

    def _agreed(self, aligned: Sequence[Move], index: int, samples: Grouping) -> Where:
        """Return the place at which all arguments' samples lie in an output, if there is one."""
        output = self._call.outputs[index]
        places = set(self._places(aligned, index))
        if len(places) > 1:
            batch = self._call.batch
            places = {
                BatchLayout(each.dim, 1, (), each.grouped(output, batch)) if isinstance(each, BatchLayout) else each
                for each in places
            }
        (place, *others) = places
        if others or not isinstance(place, BatchLayout):
            claimed = any(each.layout.open_claims for each in aligned)  # one that a rule does not confirm is refuted
            rule = None if claimed else self._call.known.by_index
            found = None if rule is None else rule(Rows(aligned, samples))
            place = (None if others else place) if found is None else layout_along(*found, samples.batch)
        return _of_one_sample(aligned, place, output)

    def _places(self, moves: Sequence[Move], index: int) -> list[Where]:
        """Return where each argument's samples lie in an output."""
        followed = [each.source for each in moves]
        for each in moves:
            each.output, each.index, each.followed = self._call.outputs[index], index, followed
        return [self._place(each) for each in moves]

    def _place(self, move: Move) -> Where:
        layout, output, rule = move.layout, move.output, self._call.known.layout
        if rule is None or not isinstance(layout, BatchLayout):
            return None
        place = rule(move)
        if isinstance(place, int):
            if not 0 <= place < output.ndim or output.shape[place] != move.source.shape[layout.dim]:
                return None
            return BatchLayout(place, layout.outer, (), layout.grouping)
        if isinstance(place, tuple):
            dim, outer = place
            fits = dim < output.ndim and output.shape[dim] % (outer * self._call.batch) == 0
            return BatchLayout(dim, outer) if fits and layout.grouping is None else None
        return "whole" if place == WHOLE else None

    def _adds_up(self, aligned: Sequence[Move]) -> bool:
        """Whether a function adds up values of single samples: each of its arguments' samples meets itself alone."""
        among = self._call.known.sums
        if among is None:
            return False
        found = [(among(each), each.layout, each.source) for each in aligned if isinstance(each.layout, BatchLayout)]
        if len({(place, lies.outer, lies.grouping, tensor.shape[lies.dim]) for place, lies, tensor in found}) == 1:
            return True
        return len({(place, lies.grouped(tensor, self._call.batch)) for place, lies, tensor in found}) == 1


def _of_one_sample(aligned: Sequence[Move], place: Where, output: Tensor) -> Where:
    """Return how samples lie in an output; what was made of one sample's rows alone is that sample's, however made."""
    groupings = [each.layout.grouping for each in aligned if isinstance(each.layout, BatchLayout)]
    first = groupings[0]
    if first is None or (isinstance(place, BatchLayout) and place.grouping is not first):
        return place
    if first.sole is None or any(other is None or other.sole != first.sole for other in groupings):
        return place
    if not output.ndim:
        return "whole"
    return BatchLayout(0, grouping=Grouping(first.index[:1].expand(len(output)), first.batch))


def _flat(value: Any) -> list[tuple[int, Any]]:
    """Return (-1, value), or the items of a list with their positions."""
    if not isinstance(value, (tuple, list)):
        return [(-1, value)]
    return [(position, inner) for position, item in enumerate(value) for _, inner in _flat(item)]


def _resting_on(aligned: Sequence[Move], place: BatchLayout) -> BatchLayout:
    """Return a layout with the claims that it rests on."""
    claims = {claim for each in aligned for claim in each.layout.open_claims}
    if claims and all(each.layout.open_claims for each in aligned):
        return replace(place, claims=tuple(claims))
    # One object for the usual layout, so that layouts are quickly seen to be the same.
    return IN_FRONT if place == IN_FRONT else place


def _stays_additive(how: Additive, found: Sequence[Move], *, requires_grad: bool) -> bool:
    """Whether a function of sums over samples is one again."""
    changing = [each for each in found if each.source.requires_grad]
    additive = all(isinstance(each.layout, LostBatch) and each.layout.additive for each in changing)
    if not how or not additive or (how == "quotient" and any(each.slot for each in changing)):
        return False
    if how not in {"product", "quotient"}:
        return True
    # Where its gradient counts it must not scale them by a statistic of the batch; a count of items is none.
    others = [each for each in found if not each.source.requires_grad and each.source.is_floating_point()]
    counts = all(isinstance(each.layout, LostBatch) and each.layout.counts for each in others)
    scaled = bool(others) if how == "product" else not counts
    return len(changing) < 2 and not (requires_grad and scaled)


def _ranked(aligned: Sequence[Move]) -> bool:
    """Whether rows of several samples are put in the order of their values; whole numbers are lengths or groups."""
    each = aligned[0]
    dim = sorted_along(each)
    if isinstance(dim, bool) or not each.source.is_floating_point() or dim % max(1, each.source.ndim) != each.dim:
        return False
    grouping = each.layout.grouping if isinstance(each.layout, BatchLayout) else None
    return each.call.batch > 1 and (grouping is None or grouping.sole is None)


def keeps_front(call: TorchCall, source: Tensor) -> bool:
    """Whether a call of one tensor with the batch, in front, keeps it there: a short cut for layers."""
    known, output = call.known, call.outputs[0]
    if not output.ndim or output.shape[0] != source.shape[0] or call.kwargs or len(call.outputs) > 1:
        return False
    if known.layout is None or known.heeds != "all" or known.couples:
        return False
    move = Move(call, call.args, call.kwargs, source, IN_FRONT, 0, -1)
    move.output, move.index, move.followed = output, 0, [source]
    return known.layout(move) == 0
