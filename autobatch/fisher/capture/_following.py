"""Where the samples lie in the tensors of one pass: followed from the model's input through every call."""

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import CheckpointFunction

from autobatch._errors import MeasureError
from autobatch.fisher._registry import hands_on, is_unknown
from autobatch.fisher.capture._notes import Notes
from autobatch.fisher.capture._weights import Weights
from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._indexing import assigned, fitting
from autobatch.fisher.following._layout import IN_FRONT, BatchLayout, Claim, Layout, Layouts, LostBatch
from autobatch.fisher.following._memory import Memory
from autobatch.fisher.following._move import aligned_right
from autobatch.fisher.following._through import Through, keeps_front
from autobatch.fisher.layers._calls import Call
from autobatch.fisher.layers._functions import ASSIGNING, changes_in_place

_NOBODY = Grouping(torch.zeros(0, dtype=torch.int64), 0)
_OF_ONE = Grouping(torch.zeros(0, dtype=torch.int64), 1)
_OVERWRITTEN = LostBatch("a change in place of memory that it shares")
Found = list[tuple[Tensor, Layout]]
"""Tensors of a call that descend from the batch, with where it lies in them."""


class Following:
    """Follows the samples of one pass; of B = ``batch``, 0 before the model was called.

    Attributes:
        claimed: whether some layout rests on a claim.
        reentrant: whether a block was checkpointed such that nothing in it is seen.
    """

    def __init__(self, notes: Notes, weights: Weights, bn: str) -> None:
        self._notes = notes
        self._weights = weights
        self._wanted_bn = bn
        self.batch = 0
        self.reentrant = False
        self.end_pass()

    def end_pass(self) -> None:
        """Forget all tensors."""
        self.claimed = False
        self._grouping = _NOBODY
        self._layouts = Layouts()
        self._outside: dict[int, weakref.ref[Tensor]] = {}
        self._written: dict[int, Memory] = {}
        self._inside: dict[int, weakref.ref[Tensor]] = {}
        self._counts: dict[int, weakref.ref[Tensor]] = {}  # whole numbers in floating point, such as masks

    def begin(self, tensors: list[Tensor], layouts: dict[int, BatchLayout], grouping: Grouping, *, again: bool) -> None:
        """Take the tensors that the model is called with, where the batch lies in them, and the sample of each row.

        Where it is called again in a pass, with what it made of the batch before, that is followed on as it has come.
        """
        self._grouping = grouping
        for tensor in tensors:
            if again and tensor.requires_grad and self.standing(tensor) is not None:
                continue
            if (layout := layouts.get(id(tensor))) is not None:
                self.put(tensor, layout)
            else:
                self.leave_out(tensor)

    def put(self, tensor: Tensor, layout: Layout) -> None:
        """Note where the batch lies in a tensor."""
        self._layouts[tensor] = layout

    def leave_out(self, tensor: Tensor) -> None:
        """Note that a tensor does not descend from the batch."""
        self._outside[id(tensor)] = weakref.ref(tensor)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor was seen to descend from the batch."""
        return self._layouts.get(tensor) is not None

    # -- what lies where --------------------------------------------------------------------------------------------

    def standing(self, tensor: Tensor, changed: bool = False) -> Layout | None:
        """Return the layout of a tensor, unless it is unknown or rests on a refuted claim.

        One that the call has ``changed`` in place is as unknown as it was before.
        """
        layout = self._layouts.get(tensor)
        inside = self._inside.get(id(tensor)) if self._inside else None
        if layout is not None and inside is not None and isinstance(tensor.grad_fn, BackwardCFunction):
            del self._inside[id(tensor)]
            if inside() is tensor:  # and not another that has come to lie where one has died
                layout = None  # seen in the body of a custom function, whose backward pass may do something else
        if layout is None and not changed and self.batch and tensor not in self._weights:
            layout = self._unseen(tensor)
        return None if layout is None or (self.claimed and layout.refuted) else layout

    def _unseen(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor that no function was seen to return; None where it is none of the batch's."""
        written = bool(self._written) and tensor.layout is torch.strided
        memory = self._written.get(tensor.untyped_storage()._cdata) if written else None
        outside = self._outside.get(id(tensor))
        if memory is None and outside is not None and outside() is tensor:
            return None
        layout: Layout | None = None
        if memory is not None:
            samples = memory.samples(tensor)
            if samples is not None and not bool((samples >= 0).any()):
                return None
            layout = (None if samples is None else fitting(samples, self._grouping)) or _OVERWRITTEN
        elif isinstance(tensor.grad_fn, BackwardCFunction):
            layout = self._through_custom_function(tensor, tensor.grad_fn)
        elif tensor.grad_fn is not None:
            layout = LostBatch(
                f"{tensor.grad_fn.name()}, which was not seen (torch.vmap, extensions and scripts hide functions;"
                " PYTORCH_JIT=0 runs scripts as they are written),"
            )
        if layout is not None:
            self._layouts[tensor] = layout
        return layout

    def _through_custom_function(self, tensor: Tensor, node: Any) -> Layout | None:
        """Return the layout of what a custom autograd function returned, which runs unseen."""
        kind = _kind(node)
        parents = [parent for parent, _ in node.next_functions]
        if weights := self._weights.behind(parents):
            self._weights.make(tensor, weights)  # such as a straight-through estimator
            return None
        name = f"{_path(kind)}.apply"
        self.reentrant |= kind is CheckpointFunction
        if not hands_on(kind):
            return LostBatch(name)
        found = self._behind(node)
        for _, known in found:
            if isinstance(known, LostBatch) and not known.whole:
                return known
        alike = {known for shape, known in found if shape == tensor.shape}
        if len(alike) == 1:
            return alike.pop()
        front = not alike and all(known == IN_FRONT or isinstance(known, LostBatch) for _, known in found)
        return IN_FRONT if front and tensor.ndim and tensor.shape[0] == self.batch else LostBatch(name)

    def _behind(self, node: Any) -> list[tuple[torch.Size, Layout]]:
        """Return shape and layout of what a custom function was given, where it is known to carry the batch."""
        found: list[tuple[torch.Size, Layout]] = []
        for parent, number in node.next_functions:
            if (result := self._layouts.result(parent, number)) is not None:
                found.append(result)
            elif isinstance(parent, BackwardCFunction):  # whose result nothing was seen to take
                kind = _kind(parent)
                lost = (torch.Size(), LostBatch(f"{_path(kind)}.apply"))
                found += self._behind(parent) if hands_on(kind) else [lost]
        return found

    def layout(self, tensor: Tensor, role: str) -> BatchLayout:
        """Return where the batch lies in an input or output of a call, its ``role``; it may rest on a claim.

        Raises:
            MeasureError: where it does not carry the batch, or its samples could not be followed.
        """
        layout = self.standing(tensor)
        if self.batch == 1 and tensor.ndim:
            # Rows that there are none of, such as those of an expert that got no tokens, are its too.
            return BatchLayout(0, tensor.shape[0]) if len(tensor) else BatchLayout(0, grouping=_OF_ONE)
        if isinstance(layout, BatchLayout):
            return layout
        custom, through = "" if layout is None else layout.function, ""
        if layout is not None:
            through = f"through {custom}{'' if ' ' in custom else '()'} "
        where = f"samples could not be followed {through}to {role} of shape {tuple(tensor.shape)}"
        if layout is not None and layout.additive:
            raise MeasureError(
                f"{where}, a sum over them such as a mean loss: use the parameter on each sample's own before they are"
                " summed (reduction='none'), or freeze it with requires_grad_(False) to leave it out of F"
            )
        others = custom.startswith("torch.ops.") or custom.endswith(".apply")
        custom = custom.removesuffix(".apply")
        declared = f"; if {custom} leaves them in place, say so with register_keeping({custom})" if others else ""
        if layout is not None and is_unknown(custom):
            declared = f"; if {custom}() leaves them in place, say so with register_keeping(that function)"
        raise MeasureError(
            f"{where}: keep the samples (B = {self.batch}) in one dimension, in order{declared}; say what a sample is"
            " with samples=...; or freeze the parameter with requires_grad_(False) to leave it out of F"
        )

    def need_front(self, tensor: Tensor, kind: str) -> None:
        """Raise MeasureError where an input of a module with a gram rule carries samples elsewhere than in front."""
        layout = self.standing(tensor)
        if isinstance(layout, LostBatch) and not layout.whole:
            layout = self.layout(tensor, f"the input of {kind}")
        if isinstance(layout, BatchLayout) and (layout.dim, layout.outer, layout.grouping) != (0, 1, None):
            raise MeasureError(
                f"the gram rule of {kind} needs the samples in order in dimension 0, where those of its input of"
                f" shape {tuple(tensor.shape)} are not"
            )

    def need_order(self, outputs: list[Tensor]) -> None:
        """Raise MeasureError where an output has the samples in another order than the input, or not all."""
        # Beside one that has them all, there may be those of single samples, such as a list with each image's features.
        layouts = [self._layouts.get(tensor) for tensor in outputs]
        complete = any(isinstance(layout, BatchLayout) and layout.grouping is None for layout in layouts)
        for tensor, layout in zip(outputs, layouts, strict=True):
            if not isinstance(layout, BatchLayout) or layout.grouping is None:
                continue
            rows = layout.grouping.index
            steps = rows.diff(prepend=rows.new_tensor([-1]), append=rows.new_tensor([self.batch]))
            alone = complete and layout.grouping.sole is not None
            if not alone and bool(((steps < 0) | (steps > 1)).any()):
                raise MeasureError(
                    f"the samples of the model's output of shape {tuple(tensor.shape)} lie in another order than those"
                    " of its input, or some are left out, so which target is whose cannot be told: put them in order,"
                    " or say samples=1, with which each row counts for the sample that it was made of"
                )

    # -- calls ------------------------------------------------------------------------------------------------------

    def stays(self, call: Call, output: Any) -> bool:
        """Note the layout of a function's output in the most frequent case: nothing moves."""
        tensors = call.tensors
        if self.claimed or not call.known.stays or not isinstance(output, Tensor):
            return False
        for apart in (self._inside, self._counts):
            if apart and any(id(tensor) in apart for tensor in tensors):
                return False
        if output.is_floating_point() is not tensors[0].is_floating_point():
            return False
        first = self._layouts.get(tensors[0])
        if not isinstance(first, BatchLayout) or output.shape != tensors[0].shape:
            return False
        for tensor in tensors[1:]:
            if self._layouts.get(tensor) is not first or tensor.ndim != output.ndim:
                return False
        self._layouts[output] = first
        return True

    def follow(self, call: Call) -> Found:
        """Follow samples through a call; return what of it carries the batch for certain or by claims that stand."""
        changed = call.changed
        pairs = [(tensor, self.standing(tensor, tensor is changed)) for tensor in call.heeded]
        found = [(tensor, layout) for tensor, layout in pairs if layout is not None]
        if found and self.claimed:
            Through(call, found).settle()
            found = [(tensor, layout) for tensor, layout in found if not layout.refuted]
        if call.used and all(_is_constant(tensor, layout) for tensor, layout in found):
            return []
        if found:
            self._move(call, found)
            if self.claimed:
                found = [(tensor, layout) for tensor, layout in found if not layout.refuted]
            if call.name == "batch_norm":
                self._note_batch_norm(call)
        return found

    def watch(self, call: Call) -> None:
        """Follow the samples through a call without grad mode."""
        pairs = [(tensor, self._layouts.get(tensor)) for tensor in call.heeded]
        if found := [(tensor, layout) for tensor, layout in pairs if layout is not None and not layout.claims]:
            if call.name == "batch_norm" and _in_training(call):
                self._notes.bn = "rows"
            self._move(call, found)
            self._inside.update((id(tensor), weakref.ref(tensor)) for tensor in call.outputs)

    def _move(self, call: Call, found: Found) -> None:
        """Note where the batch lies in the outputs."""
        if call.name in ASSIGNING:
            before = self._layouts.get(call.args[0])
            self._move_into(*call.args)
            self._spread(call.args[0], before)
            return
        (source, first), *others = found
        alone = first is IN_FRONT and not others and bool(call.args and call.outputs) and source is call.args[0]
        counting = self._counting(call, found)
        if alone and not counting and call.changed is None and keeps_front(call, source):
            self._layouts[call.outputs[0]] = IN_FRONT
            return
        through, claims = Through(call, found), only_claims(found)
        for index, output in enumerate(call.outputs):
            before = self._layouts.get(output)
            layout, coupled = through.into(index, self._grouping)
            if isinstance(layout, LostBatch) and claims:
                # Nothing will settle them: the weight's rows are then shared by all samples, which is right anyway.
                for claim in claims:
                    claim.settle(confirmed=False)
                return
            if counting and isinstance(layout, LostBatch):
                layout = replace(layout, counts=True)
            elif counting:
                self._counts[id(output)] = weakref.ref(output)
            if layout is not None:
                self._layouts[output] = layout
                if coupled:
                    self._notes.bn = "rows"
                if changes_in_place(call.name) or call.kwargs.get("out") is not None:
                    self._spread(output, before)

    def _counting(self, call: Call, found: Found) -> bool:
        """Whether what a call returns are numbers in floating point that come of whole ones alone."""
        known, output = call.known, call.outputs[0] if call.outputs else None
        if output is None or output.requires_grad or not output.is_floating_point():
            return False
        if not (known.additive or known.layout is aligned_right):
            return False

        def counts(tensor: Tensor, layout: Layout) -> bool:
            if not tensor.is_floating_point() or (isinstance(layout, LostBatch) and layout.counts):
                return True
            seen = self._counts.get(id(tensor))
            return seen is not None and seen() is tensor

        return all(counts(tensor, layout) for tensor, layout in found)

    def _spread(self, changed: Tensor, before: Layout | None) -> None:
        """Note what a change in place means for other tensors of the same memory: whose values lie in it now."""
        after = self._layouts.get(changed)
        if after is None or after == before or changed.layout is not torch.strided:
            return
        storage = changed.untyped_storage()
        memory = self._written.setdefault(storage._cdata, Memory(storage))
        memory.write(changed, after if isinstance(after, BatchLayout) else None, self.batch)
        for other in self._layouts.sharing(changed):
            layout, written = self._layouts.get(other), memory.samples(other)
            known = layout if isinstance(layout, BatchLayout) and not layout.claims else None
            if written is None or known is None or not known.agrees(written, other, self.batch):
                self._layouts[other] = _OVERWRITTEN

    def _move_into(self, base: Tensor, index: Any, value: Any) -> None:
        """Note where the batch lies after ``base[index] = value``."""
        if not isinstance(value, Tensor):
            return
        before, layout = self.standing(base, changed=True), self.standing(value)
        if layout is not None and _is_constant(value, layout):
            layout = None
        if not value.numel():  # nothing is written, such as the rows of a mask that is nowhere true
            if before is None:
                self.leave_out(base)
            return
        if not isinstance(before, LostBatch) and (before, layout) != (None, None):
            taken = assigned(base, index, value, before=before, layout=layout, samples=self._grouping)
            cause = layout.function if isinstance(layout, LostBatch) and not layout.whole else "__setitem__"
            self._layouts[base] = taken or LostBatch(cause)
        if isinstance(layout, LostBatch) and base.is_floating_point():
            self._notes.bn = "rows"

    def _note_batch_norm(self, call: Call) -> None:
        training = _in_training(call)
        if training and self._wanted_bn == "eval":
            raise MeasureError('bn="eval" was asked for, but a BatchNorm layer runs in train mode: call model.eval()')
        if training or self._notes.bn == "none":
            self._notes.bn = "rows" if training else "eval"


def _in_training(call: Call) -> bool:
    """Return whether a call of ``F.batch_norm`` goes by the batch's own statistics."""
    return bool(call.kwargs.get("training", call.args[5] if len(call.args) > 5 else False))


def _kind(node: Any) -> type:
    """Return the custom autograd function that a node of the graph is of."""
    kind: type = getattr(type(node), "_forward_cls", type(node))
    return kind


def _path(kind: type) -> str:
    """Return a class as a program can name it: with its module, unless that is the program itself or a function."""
    inside = kind.__module__ == "__main__" or "<locals>" in kind.__qualname__
    return kind.__name__ if inside else f"{kind.__module__}.{kind.__qualname__}"


def _is_constant(tensor: Tensor, layout: Layout) -> bool:
    """Whether a tensor holds whole numbers of all samples together, such as which experts got any tokens."""
    return isinstance(layout, LostBatch) and layout.whole and not (tensor.is_floating_point() or tensor.is_complex())


def only_claims(found: Found) -> tuple[Claim, ...]:
    """Return the open claims that layouts rest on, if all of them do."""
    layouts = [layout for _, layout in found if layout.open_claims]
    if len(layouts) < len(found):
        return ()
    return tuple(dict.fromkeys(claim for layout in layouts for claim in layout.open_claims))
