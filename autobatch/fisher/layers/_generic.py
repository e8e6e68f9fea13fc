"""Functions that are run again: those that no rule covers, exact and slow, and terms of the loss that have no batch.

Where no rule covers a function, it takes one backward pass of it for each sample.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import BuiltinMethodType
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._layout import BatchLayout, Layout, LostBatch
from autobatch.fisher.gram._gram import Jacobian, spans
from autobatch.fisher.layers._calls import Call, Contribution, KeptTensor, Weight, dense, precise, together
from autobatch.fisher.layers._functions import tensors_of

_logger = logging.getLogger("autobatch")
_logged: set[tuple[str, str]] = set()
# Elements of masked output gradients that are made at a time.
_MASKED_ELEMENTS = 1 << 22


def generic(call: Call, where: str) -> list[Contribution]:
    """Return what any differentiable function owes: to each weight, for each output that has a gradient.

    The function is run again in the backward pass, and its vector-Jacobian product is taken with the output gradient of
    one sample at a time, all others' set to zero: the very definition of a column of J. ``where`` is for the log.
    """
    replay, contributions = Replay(call), []
    for index, output in enumerate(call.outputs):
        if output.requires_grad:
            rows = partial(_by_sample, replay, index, call.output_layout(index), call.batch)
            contributions += replay.owed(rows, index)
    key = (where, getattr(call.function, "__name__", str(call.function)))
    if key not in _logged:
        _logged.add(key)
        _logger.warning("%s: measured without a fast rule, by one backward pass for each sample (exact, slow)", where)
    return contributions


class Replay:
    """A call that can be run again with weights that collect gradients."""

    def __init__(self, call: Call) -> None:
        self._function = call.function
        self._random_state = call.was.random_state
        self.weights = call.weights()
        # The first argument as it was before a function that changes it in place.
        self._before = call.was.tensor
        self._first = call.weight(call.args[0]) if self._before is not None else None

        def keep(tensor: Tensor) -> Any:
            if (state := call.states.get(id(tensor))) is not None:
                return state.clone  # a copy for each run, which changes it again
            return call.weight(tensor) or KeptTensor(tensor)

        self._args = mapped(call.args if self._before is None else (None, *call.args[1:]), keep)
        self._kwargs = mapped(dict(call.kwargs), keep)
        self._graph: tuple[list[Tensor], list[Tensor]] | None = None
        self._arrived: list[tuple[Tensor, Tensor]] = []

    def run(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return (outputs, fresh weights) with a graph between them."""
        if self._graph is not None:
            return self._graph
        fresh = {id(weight): weight.tensor.detach().requires_grad_() for weight in self.weights}
        before = self._before
        if before is not None and self._first is not None:
            before = fresh[id(self._first)] = before.detach().requires_grad_()

        def restore(value: Any) -> Any:
            return fresh[id(value)] if isinstance(value, Weight) else value()

        kinds = (Weight, KeptTensor, BuiltinMethodType)
        args = mapped(self._args, restore, kinds)
        kwargs = mapped(self._kwargs, restore, kinds)
        with torch.enable_grad(), torch.random.fork_rng(devices=[], enabled=self._random_state is not None):
            if self._random_state is not None:
                torch.set_rng_state(self._random_state)
            if before is not None:
                args = (before.clone(), *args[1:])
            result = self._function(*args, **kwargs)
        self._graph = tensors_of((args[0] if result is None else result,)), list(fresh.values())
        return self._graph

    def from_outside(self, output: Tensor, gradient: Tensor) -> Tensor:
        """Return the part of an output's gradient that does not come through the call's other outputs.

        A cell state, for one, is an output of its own and goes into the hidden state beside it.
        """
        outside = gradient
        for other, other_gradient in self._arrived:
            if not other.requires_grad:
                continue
            (through,) = torch.autograd.grad(other, output, other_gradient, retain_graph=True, allow_unused=True)
            if through is not None:
                outside = outside - through
        self._arrived.append((output, outside))
        return outside

    def owed(self, rows: Callable[[Tensor], Sequence[Tensor]], output: int = 0) -> list[Contribution]:
        """Return what an output owes, from what makes rows (B, *shape) of all weights of its gradient."""

        def made(gradient: Tensor) -> dict[int, Jacobian]:
            pairs = zip(self.weights, rows(gradient), strict=True)
            found = (precise(each.mT if weight.transposed else each)[0] for weight, each in pairs)
            return {place: dense(each) for place, each in enumerate(found)}

        return together(dict(enumerate(self.weights)), made, output)


def adds_to_the_loss(call: Call, layouts: list[Layout]) -> bool:
    """Whether a call adds weights to one number that is a sum over samples, by the layouts of what has the batch."""
    if call.known.additive != "term" or call.outputs[0].numel() != 1:
        return False
    return all(isinstance(layout, LostBatch) and layout.additive for layout in layouts)


def in_equal_parts(call: Call) -> list[Contribution]:
    """Return what such a call owes to its weights: the whole gradient over B for each sample, one row in memory.

    A loss mean(l_i) + R, with a penalty R of weights alone, is the mean of l_i + R: it is measured where it is written
    so.
    """
    replay, batch = Replay(call), call.batch

    def rows(gradient: Tensor) -> list[Tensor]:
        (output, *_), fresh = replay.run()
        found = torch.autograd.grad(output, fresh, gradient.to(output.dtype) / batch)
        return [precise(row)[0].expand(batch, *row.shape) for row in found]

    return replay.owed(rows)


def _by_sample(replay: Replay, index: int, layout: BatchLayout, batch: int, gradient: Tensor) -> list[Tensor]:
    """Return the per-sample gradients that one output gives to all weights."""
    outputs, fresh = replay.run()
    output = outputs[index]
    outside = replay.from_outside(output, gradient.to(output.dtype))
    parts = []
    for some in spans(0, batch, max(1, _MASKED_ELEMENTS // outside.numel())):
        masked = torch.stack([layout.only(outside, sample, batch) for sample in range(some.start, some.stop)])
        parts.append(one_by_one(output, fresh, masked))
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def one_by_one(output: Any, inputs: list[Tensor], gradients: Tensor) -> list[Tensor]:
    """Return the vector-Jacobian products of a tensor, or an edge of the graph, with several gradients (n, *its shape).

    For each input, which it may depend on or not, they are (n, *input's shape).
    """
    found: Sequence[Tensor | None]
    if isinstance(output, Tensor) and not output.requires_grad:  # of values alone that have no derivative
        return [tensor.new_zeros(len(gradients), *tensor.shape) for tensor in inputs]
    try:
        found = torch.autograd.grad(
            output, inputs, gradients, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except (RuntimeError, NotImplementedError):
        # Not every backward function can be vectorised.
        each = [
            torch.autograd.grad(output, inputs, gradient, retain_graph=True, allow_unused=True)
            for gradient in gradients
        ]
        found = [None if values[0] is None else torch.stack(values) for values in zip(*each, strict=True)]
    return [
        tensor.new_zeros(len(gradients), *tensor.shape) if rows is None else rows
        for tensor, rows in zip(inputs, found, strict=True)
    ]


def mapped(value: Any, change: Callable[[Any], Any], kinds: type | tuple[type, ...] = Tensor) -> Any:
    """Return nested tuples, lists and dictionaries with every item of some kinds replaced by what ``change`` gives."""
    if isinstance(value, kinds):
        return change(value)
    if isinstance(value, (tuple, list)) and type(value) in {tuple, list}:
        return type(value)(mapped(item, change, kinds) for item in value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change, kinds) for key, item in value.items()}
    return value
