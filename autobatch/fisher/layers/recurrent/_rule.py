"""Recurrent layers and cells: rows from the gradients of the gates in every step, of all samples at once.

A weight is multiplied with an input or a state in every step of a sequence, so its rows are those of a linear layer
with as many positions: the gates' gradients times what the weight met there. ``_unrolled`` makes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._layout import BatchLayout
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import Call, Contribution, NoRuleError, Weight, arguments, together
from autobatch.fisher.layers.recurrent._sequences import Sequences
from autobatch.fisher.layers.recurrent._through_time import Direction
from autobatch.fisher.layers.recurrent._unrolled import Key, Unrolled

_WEIGHTS = [field.name for field in fields(Direction)]
_LAYER = "input hx params has_biases num_layers dropout train bidirectional batch_first"
_PACKED = "input batch_sizes hx params has_biases num_layers dropout train bidirectional"


def layers(call: Call) -> list[Contribution]:
    """Return the rule of ``gru``, ``lstm``, ``rnn_tanh`` and ``rnn_relu``, over packed sequences too."""
    if call.kwargs or len(call.args) != len(_LAYER.split()):
        raise NoRuleError
    given = arguments(call, _LAYER if isinstance(call.args[3], bool) else _PACKED)
    sequences = Sequences(given.get("batch_sizes"))
    states, directions = _several(given["hx"]), 2 if given["bidirectional"] else 1
    projected = len(states) > 1 and states[0].shape[-1] != states[1].shape[-1]
    names = [name for name in _WEIGHTS if name[0] == "w" or given["has_biases"]][: None if projected else -1]
    starts = range(0, len(given["params"]), len(names))
    params = [dict(zip(names, given["params"][start : start + len(names)], strict=False)) for start in starts]
    if len(given["params"]) != given["num_layers"] * directions * len(names):
        raise NoRuleError
    if any(_leads_to(one, other) for one in call.outputs for other in call.outputs):
        raise NoRuleError

    def steps_first(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1) if given.get("batch_first") else tensor

    unrolled = Unrolled(
        call.name,
        sequences,
        x=steps_first(given["input"]),
        states=states,
        params=params,
        output=steps_first(call.outputs[0]),
        directions=directions,
        layout=_layout(call, 0 if given.get("batch_first") else 1, 1, sequences),
        batch=call.batch,
    )
    unrolled.run_lower_layers(given["dropout"] if given["train"] else 0.0, call.was.random_state)

    def back(index: int, gradient: Tensor) -> Mapping[Key, Jacobian]:
        if index == 0:
            return unrolled.back("states", steps_first(gradient), used)
        return unrolled.back("last" if index == 1 else "last_cell", gradient, used)

    used = _used(call, params) | _used(call, [{"first": state} for state in states])
    return _owed(call, used, back)


def cells(call: Call) -> list[Contribution]:
    """Return the rule of one step: ``gru_cell``, ``lstm_cell``, ``rnn_tanh_cell`` and ``rnn_relu_cell``."""
    given = arguments(call, "input hx w_ih w_hh b_ih b_hh")
    states, sequences = _several(given["hx"]), Sequences()
    params = [{name: given[name] for name in _WEIGHTS if given.get(name) is not None}]
    unrolled = Unrolled(
        call.name.removesuffix("_cell"),
        sequences,
        x=given["input"].unsqueeze(0),
        states=[state.unsqueeze(0) for state in states],
        params=params,
        output=call.outputs[0].unsqueeze(0),
        directions=1,
        layout=_layout(call, 0, 0, sequences),
        batch=call.batch,
    )
    inside = len(call.outputs) > 1 and _leads_to(call.outputs[0], call.outputs[1])
    of_state: list[Tensor] = []

    def back(index: int, gradient: Tensor) -> Mapping[Key, Jacobian]:
        if index == 0:
            of_state.append(gradient)
            return unrolled.back("states", gradient.unsqueeze(0), used)
        through = of_state[0] if inside and of_state else None
        return unrolled.back("last_cell", gradient.unsqueeze(0), used, through=through)

    used = _used(call, params)
    return _owed(call, used, back)


def _several(states: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [states] if isinstance(states, Tensor) else list(states)


def _layout(call: Call, dim: int, dim_of_last: int, sequences: Sequences) -> BatchLayout | None:
    """Return where samples lie in (T, N, ...), from where they lie in the outputs; None where there is one alone.

    Sequences are dimension ``dim`` of the first output, where they are not packed, and ``dim_of_last`` of the others.

    Raises:
        NoRuleError: where they lie elsewhere, or otherwise in one output than in another.
    """
    if call.batch == 1:
        return None
    whole, *last = [call.output_layout(index) for index in range(len(call.outputs))]
    if any(layout.claims for layout in (whole, *last)):
        raise NoRuleError
    if sequences.there is None:
        if any(layout != replace(whole, dim=dim_of_last) for layout in last) or whole.dim != dim:
            raise NoRuleError
        return replace(whole, dim=1)
    if any(layout != replace(last[0], dim=1) for layout in last):
        raise NoRuleError
    of_rows, of_sequences = (
        layout.grouped(call.outputs[i], call.batch).index for i, layout in enumerate((whole, last[0]))
    )
    each = of_sequences.expand(*sequences.there.shape)[sequences.there.to(of_sequences.device)]
    if whole.dim != 0 or not torch.equal(of_rows, each):
        raise NoRuleError
    return last[0]


def _used(call: Call, params: Sequence[Mapping[str, Tensor]]) -> dict[Key, Weight]:
    """Return the weights among tensors, by their places and names."""
    tensors = {(place, name): tensor for place, own in enumerate(params) for name, tensor in own.items()}
    used = {key: weight for key, tensor in tensors.items() if (weight := call.weight(tensor)) is not None}
    if any(weight.transposed for weight in used.values()):
        raise NoRuleError
    return used


def _owed(
    call: Call, used: Mapping[Key, Weight], back: Callable[[int, Tensor], Mapping[Key, Jacobian]]
) -> list[Contribution]:
    """Return what each output owes to each weight."""
    indices = [index for index, output in enumerate(call.outputs) if output.requires_grad]
    return [each for index in indices for each in together(used, partial(back, index), index)]


def _leads_to(output: Tensor, other: Tensor) -> bool:
    """Return whether one result of a call was made of another, whose gradient then has a part that came through it."""
    target: Any = other.grad_fn
    waiting: list[Any] = [output.grad_fn]
    seen: set[Any] = set(waiting)
    while waiting and output.requires_grad and other.requires_grad:
        for parent, number in waiting.pop().next_functions:
            if parent is target and number == other.output_nr:
                return True
            # Nodes are numbered as they are made: none before the other's leads to that.
            if parent is not None and parent not in seen and parent._sequence_nr() > target._sequence_nr():
                seen.add(parent)
                waiting.append(parent)
    return False
